// autocannon, which knows nothing of Ethereum: raw JSON-RPC batches of 20, one wallet for each
// connection, as fast as they are answered; every answer is looked at.
import autocannon from "autocannon";
import { arrived, payee, transfers, url, wallets } from "./network.mjs";

const [connections, each, batch] = [50, 200, 20];
const bodies = [];
for (const wallet of await wallets(connections, 1)) {
  const raws = await transfers(wallet, each, payee);
  const calls = raws.map((raw, id) => ({
    jsonrpc: "2.0", id, method: "eth_sendRawTransaction", params: [raw],
  }));
  bodies.push(Array.from({ length: each / batch }, (_, at) => calls.slice(at * batch, (at + 1) * batch)));
}
let [acknowledged, refused, first] = [0, 0, undefined];
const onResponse = (status, body) => {
  for (const { error } of JSON.parse(body)) {
    if (error) {
      refused += 1;
      first ??= error;
    } else acknowledged += 1;
  }
};
const result = await autocannon({
  url,
  connections,
  amount: (connections * each) / batch,
  method: "POST",
  headers: { "content-type": "application/json" },
  setupClient: (connection) => {
    const requests = bodies.pop().map((calls) => ({ body: JSON.stringify(calls), onResponse }));
    connection.setRequests(requests);
  },
});
await arrived(acknowledged);
console.log(
  JSON.stringify({
    tool: "autocannon",
    acknowledged,
    refused,
    first_error: first,
    per_second: Math.round(acknowledged / result.duration),
    batch_p50_ms: result.latency.p50,
    batch_p99_ms: result.latency.p99,
    not_200: result.non2xx,
    arrived: acknowledged,
  }),
);
