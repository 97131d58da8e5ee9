// cast against the composer, as people use it on a command line.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { network, step } from "./network.mjs";

const program = fileURLToPath(new URL("node_modules/.bin/cast", import.meta.url));
const env = { ...process.env, ETH_RPC_URL: network.http, NO_COLOR: "1" };
const run = (...args) => spawnSync(program, args, { env, encoding: "utf8", timeout: 60_000 });
const cast = (...args) => {
  const { status, stdout, stderr } = run(...args);
  assert.equal(status, 0, `cast ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
};
const json = (...args) => JSON.parse(cast(...args, "--json"));
// It does not always say so by its exit status.
const refused = (words, ...args) => {
  const { stdout, stderr } = run(...args);
  assert.equal(stdout, "", `cast ${args.join(" ")} succeeds`);
  assert.ok(stderr.includes(words), stderr);
};
const key = ["--private-key", network.key];
const own = cast("wallet", "address", network.key);
const to = "0x00000000000000000000000000000000000000c4";

await step("connect", () => {
  assert.equal(Number(cast("chain-id")), network.chainId);
  assert.equal(Number(cast("chain-id", "--rpc-url", network.ws)), network.chainId);
  assert.match(cast("client"), /^counterpoint-composer\//);
  assert.ok(Number(cast("block-number")) > 0);
  assert.notEqual(cast("age"), "");
  assert.ok(json("block", "latest").hash);
});

await step("balances and fees", () => {
  assert.ok(Number(cast("balance", "--ether", own)) > 1_000);
  assert.ok(Number(cast("gas-price")) > 0);
  assert.ok(Number(cast("base-fee")) > 0);
  assert.equal(Number(cast("estimate", to, "--value", "1", "--from", own)), 21_000);
});

await step("send and wait", () => {
  const before = BigInt(cast("balance", to));
  const receipt = json("send", ...key, "--value", "1ether", to);
  assert.equal(Number(receipt.status), 1);
  assert.equal(BigInt(cast("balance", to)), before + 10n ** 18n);
  assert.equal(cast("tx", receipt.transactionHash, "from").toLowerCase(), own.toLowerCase());
  assert.equal(json("receipt", receipt.transactionHash).blockHash, receipt.blockHash);
});

await step("send without waiting, legacy, and what was signed before", () => {
  const nonce = Number(cast("nonce", "--block", "pending", own));
  const hash = cast("send", ...key, "--async", "--nonce", `${nonce}`, to);
  const raw = cast("mktx", ...key, "--nonce", `${nonce + 1}`, "--legacy", to);
  const published = cast("publish", "--async", raw);
  assert.equal(Number(cast("nonce", "--block", "pending", own)), nonce + 2);
  for (const sent of [hash, published]) assert.match(cast("receipt", sent, "status"), /^(1|true)/);
});

let contract;
await step("deploy, read, write", () => {
  const argument = cast("abi-encode", "constructor(uint256)", "7").slice(2);
  const deployed = json("send", ...key, "--create", network.contract.bytecode + argument);
  contract = deployed.contractAddress;
  assert.equal(cast("call", contract, "count()(uint256)"), "7");
  assert.equal(Number(json("send", ...key, contract, "add(uint256)", "5").status), 1);
  assert.equal(cast("call", contract, "count()(uint256)"), "12");
  assert.equal(Number(cast("storage", contract, "0")), 12);
  assert.ok(cast("code", contract).length > 2);
});

await step("logs", () => {
  const logs = json("logs", "--from-block", "0", "--address", contract, "Counted(address,uint256)");
  assert.deepEqual(logs.map((log) => BigInt(log.data)), [12n]);
});

await step("errors in geth's words", () => {
  refused("nothing to add", "call", contract, "add(uint256)", "0");
  refused("nothing to add", "send", ...key, contract, "add(uint256)", "0");
  const plain = ["send", ...key, "--gas-limit", "21000"];
  refused("nonce too low", ...plain, "--nonce", "0", to);
  refused("insufficient funds", ...plain, "--value", "100000000ether", to);
  refused("does not exist/is not available", "rpc", "admin_peers");
});
