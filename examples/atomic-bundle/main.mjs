// @ts-check
// A transfer on one rollup and a transfer on another: both execute in one slot, or none does, ever.
//
//   node main.mjs devnet.json counterpoint
//
// The first argument describes the network, the second is the command, which proves the seal: a light
// client is nothing for an example.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient, createWalletClient, defineChain, http, parseEther, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { build, bundleId } from "./bundle.mjs";

const [devnet, counterpoint = "counterpoint"] = process.argv.slice(2);
const network = JSON.parse(readFileSync(devnet, "utf8"));
const account = privateKeyToAccount(network.accounts[0].private_key);
const to = "0x00000000000000000000000000000000000000b1";
const rollups = network.rollups.slice(0, 2);
const composer = createClient({ transport: http(rollups[0].composer_rpc) });
/** @param {string} method @param {unknown[]} params @returns {Promise<any>} */
const call = (method, ...params) => composer.request(/** @type {any} */ ({ method, params }));

// 1. Signed, and shown to nobody.
/** @type {Record<string, `0x${string}`[]>} */
const raws = {};
for (const { name, evm_chain_id: id, composer_rpc: url } of rollups) {
  const nativeCurrency = { name: "Ether", symbol: "ETH", decimals: 18 };
  const chain = defineChain({ id, name, nativeCurrency, rpcUrls: { default: { http: [url] } } });
  const wallet = createWalletClient({ account, chain, transport: http() }).extend(publicActions);
  const request = await wallet.prepareTransactionRequest({ to, value: parseEther("1") });
  raws[name] = [await wallet.signTransaction(request)];
}
const { bundle, legs } = await build(account, network.chain_id, raws);
const id = bundleId(bundle);
const advice = await call("counterpoint_simulateBundle", bundle, legs);
console.log("simulated", advice.success, advice.failure ?? "");

// 2. Hashes and auths: the composer has them sealed.
const sent = await call("counterpoint_sendBundle", bundle);
if (sent.bundleId !== id) throw new Error(`the composer took another bundle in: ${sent.bundleId}`);
console.log("sent", id);

/** How far the bundle is, once it is one of these stages, or over. @param {string[]} stages */
const reached = async (...stages) => {
  const over = ["executed", "unconfirmed", "violated", "aborted", "refused"];
  for (;;) {
    const known = await call("counterpoint_getBundle", id);
    if (stages.includes(known.stage) || over.includes(known.stage)) return known;
    await sleep(200);
  }
};

// 3. Whoever has the raw transactions before could run one alone: no word but a proof will do.
const known = await reached("sealed");
if (known.stage !== "sealed") throw new Error(`${known.stage}: ${known.reason}`);
const file = join(mkdtempSync(join(tmpdir(), "bundle-")), "bundle.json");
writeFileSync(file, JSON.stringify({ bundle, legs }), { mode: 0o600 });
execFileSync(counterpoint, ["bundle", "check", file, "--dir", dirname(devnet)], { stdio: "inherit" });

// 4. Now it is safe.
await call("counterpoint_revealBundle", id, legs);
const outcome = await reached();
console.log(JSON.stringify(outcome, null, 2));
if (outcome.stage !== "executed") process.exit(1);
