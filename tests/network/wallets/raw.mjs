// JSON-RPC as wallets and explorers write it, without a library: what the composer answers is what
// geth answers to the same call, errors to the letter.
import assert from "node:assert/strict";
import { concat, parseGwei, toHex } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { network, step } from "./network.mjs";

const account = privateKeyToAccount(network.key);
const own = account.address;
const to = "0x00000000000000000000000000000000000000d5";
const post = async (url, body, headers = {}) => {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  assert.equal(response.status, 200);
  return response.json();
};
const outcome = ({ result, error }) => (error ? { error } : { result });
const ask = async (url, method, params) =>
  outcome(await post(url, { jsonrpc: "2.0", id: 1, method, params }));
const ours = (method, ...params) => ask(network.http, method, params);
const theirs = (method, ...params) => ask(network.geth, method, params);
const same = async (method, ...params) => {
  const [our, their] = await Promise.all([ours(method, ...params), theirs(method, ...params)]);
  assert.deepEqual(our, their, `${method} ${JSON.stringify(params)}`);
  return our.result;
};
const receipt = async (hash) => {
  for (;;) {
    const { result, error } = await ours("eth_getTransactionReceipt", hash);
    assert.equal(error, undefined);
    if (result) return result;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};
const fees = {
  gas: 21_000n,
  maxFeePerGas: parseGwei("20"),
  maxPriorityFeePerGas: parseGwei("2"),
};
const sign = (request) =>
  account.signTransaction({ chainId: network.chainId, nonce: 0, to, ...fees, ...request });

await step("a web page may call", async () => {
  const origin = "https://app.example";
  const preflight = await fetch(network.http, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "content-type",
    },
  });
  assert.ok(preflight.ok);
  assert.match(preflight.headers.get("access-control-allow-headers"), /\*|content-type/i);
  const body = { jsonrpc: "2.0", id: 1, method: "eth_chainId" };
  const answer = await fetch(network.http, {
    method: "POST",
    headers: { "content-type": "application/json", origin },
    body: JSON.stringify(body),
  });
  assert.ok(["*", origin].includes(answer.headers.get("access-control-allow-origin")));
});

let sent;
await step("a browser wallet sends", async () => {
  // Ids are what the wallet likes, and parameters may be missing.
  for (const id of [8_392_345_091, "c0ffee", 0]) {
    const answer = await post(network.http, { id, jsonrpc: "2.0", method: "eth_chainId" });
    assert.deepEqual(answer, { id, jsonrpc: "2.0", result: toHex(network.chainId) });
  }
  assert.deepEqual(await ours("net_version"), { result: `${network.chainId}` });
  const { result: latest } = await ours("eth_getBlockByNumber", "latest", false);
  assert.ok(latest.baseFeePerGas);
  assert.ok((await ours("eth_getBalance", own, "latest")).result);
  assert.equal((await ours("eth_getCode", to, "latest")).result, "0x");
  const { result: nonce } = await ours("eth_getTransactionCount", own, "pending");
  const { result: history } = await ours("eth_feeHistory", "0x5", "latest", [10, 20, 30]);
  assert.equal(history.reward[0].length, 3);
  assert.ok((await ours("eth_gasPrice")).result);
  const call = { from: own, to, value: "0x1", gasPrice: "0x77359400" };
  assert.equal((await ours("eth_estimateGas", call)).result, "0x5208");
  const raw = await sign({ nonce: Number(nonce), value: 1n });
  const { result: hash } = await ours("eth_sendRawTransaction", raw);
  const again = await ours("eth_sendRawTransaction", raw);
  assert.ok(again.result === hash || again.error.message === "already known", again);
  assert.equal((await ours("eth_getTransactionByHash", hash)).result.hash, hash);
  sent = await receipt(hash);
  assert.equal(sent.status, "0x1");
});

await step("what an explorer reads is geth's", async () => {
  const { blockHash, blockNumber, transactionHash } = sent;
  for (const full of [true, false]) {
    await same("eth_getBlockByNumber", blockNumber, full);
    await same("eth_getBlockByHash", blockHash, full);
  }
  await same("eth_getBlockByNumber", "earliest", false);
  await same("eth_getBlockByNumber", "0xffffffff", false);
  await same("eth_getBlockReceipts", blockNumber);
  await same("eth_getBlockTransactionCountByHash", blockHash);
  await same("eth_getBlockTransactionCountByNumber", blockNumber);
  await same("eth_getTransactionByHash", transactionHash);
  await same("eth_getTransactionReceipt", transactionHash);
  await same("eth_getTransactionByBlockHashAndIndex", blockHash, "0x0");
  await same("eth_getTransactionByBlockNumberAndIndex", blockNumber, "0x0");
  await same("eth_getUncleCountByBlockNumber", blockNumber);
  await same("eth_getBalance", own, blockNumber);
  await same("eth_getBalance", own, { blockHash });
  await same("eth_getTransactionCount", own, blockNumber);
  await same("eth_getStorageAt", to, "0x0", blockNumber);
  await same("eth_getProof", own, ["0x0"], blockNumber);
  await same("eth_getLogs", { fromBlock: "0x0", toBlock: blockNumber });
  await same("eth_getLogs", { blockHash });
  await same("eth_feeHistory", "0x2", blockNumber, [50]);
  await same("eth_call", { from: own, to, data: "0x" }, blockNumber);
  await same("eth_call", { from: own, to, value: "0x1" }, blockNumber, { [own]: { balance: "0x2" } });
  await same("eth_createAccessList", { from: own, to }, blockNumber);
  await same("eth_syncing");
  await same("eth_accounts");
  await same("net_listening");
  await same("web3_sha3", "0x68656c6c6f");
});

await step("errors are geth's, to the letter", async () => {
  const init = `0x${network.contract.bytecode.slice(2)}${"0".repeat(64)}`;
  await same("eth_call", { data: "0xfe" }, "latest");
  await same("eth_estimateGas", { from: own, data: concat([init, "0x00"]), gas: "0x5208" });
  await same("eth_estimateGas", { from: to, to: own, value: "0xffffffffffffffffffff" });
  await same("eth_getBalance", "0x12", "latest");
  await same("eth_getBalance");
  await same("eth_getBalance", own, "newest");
  await same("eth_getBlockByNumber", "latest");
  await same("eth_getBlockByNumber", "0x01", false);
  await same("eth_getLogs", { fromBlock: "0x5", toBlock: "0x1" });
  await same("eth_getTransactionReceipt", "0x01");
  await same("eth_nonsense");
  await same("debug_setHead", "0x0");
});

await step("a transaction is refused in geth's words", async () => {
  const raw = await sign({});
  const refused = async (bytes) => same("eth_sendRawTransaction", bytes);
  await refused("0x");
  await refused("0x02");
  await refused("0x05c0");
  await refused(`${raw}00`);
  await refused(raw.slice(0, -2));
  assert.equal((await ours("eth_sendRawTransaction", "0xzz")).error.code, -32602);
  await refused(await sign({ chainId: 1 }));
  await refused(await sign({ gas: 20_999n }));
  await refused(await sign({ gas: 30_000n, data: `0x${"01".repeat(1_000)}` }));
  await refused(await sign({ to: undefined, gas: 53_000n, data: network.contract.bytecode }));
});
process.exit(0);
