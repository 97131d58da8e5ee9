-- wrk's threads send the bodies of a file once, each thread its own, and look at every answer.
-- Usage: wrk ... --script wrk.lua URL -- FILE THREADS
local threads = {}
local idle = '{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}'

-- wrk runs for as long as it is told; what counts is the time between the first and the last batch.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, us; } moment; int gettimeofday(moment *, void *);")

local function now()
  local moment = ffi.new("moment")
  ffi.C.gettimeofday(moment, nil)
  return tonumber(moment.s) * 1e6 + tonumber(moment.us)
end

local function post(body)
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
end

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  bodies, sent, answered, acknowledged, refused = {}, -1, 0, 0, 0
  local line = 0
  for body in io.lines(args[1]) do
    if line % tonumber(args[2]) == number then
      table.insert(bodies, post(body))
    end
    line = line + 1
  end
  idle = post(idle)
end

-- The very first request is made for a look only, and what is left over keeps connections busy.
function request()
  sent = sent + 1
  if sent == 1 then first = now() end
  return bodies[sent] or idle
end

function response(status, headers, body)
  if body:sub(1, 1) ~= "[" then return end
  for answer in body:gmatch('"jsonrpc":"2.0","id":%d+,"(%a+)"') do
    if answer == "result" then acknowledged = acknowledged + 1 else refused = refused + 1 end
  end
  answered = answered + 1
  last = now()
  if answered == #bodies then wrk.thread:stop() end
end

function done(summary, latency)
  local acknowledged, refused, first, last = 0, 0, math.huge, 0
  for _, thread in ipairs(threads) do
    acknowledged = acknowledged + thread:get("acknowledged")
    refused = refused + thread:get("refused")
    first = math.min(first, thread:get("first"))
    last = math.max(last, thread:get("last"))
  end
  local line = '{"acknowledged":%d,"refused":%d,"seconds":%.3f,"p50_ms":%.1f,"p99_ms":%.1f}\n'
  local millis = function(percent) return latency:percentile(percent) / 1000 end
  io.write(line:format(acknowledged, refused, (last - first) / 1e6, millis(50), millis(99)))
end
