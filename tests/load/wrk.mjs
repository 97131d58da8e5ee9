// wrk, which knows nothing of Ethereum: raw JSON-RPC batches of 20, each of a wallet of its own, as
// fast as they are answered; every answer is looked at.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { arrived, payee, transfers, url, wallets } from "./network.mjs";

const [count, batch, threads, connections] = [500, 20, 2, 50];
const bodies = [];
for (const wallet of await wallets(count, 2, "50")) {
  const raws = await transfers(wallet, batch, payee);
  const calls = raws.map((raw, id) => ({
    jsonrpc: "2.0", id, method: "eth_sendRawTransaction", params: [raw],
  }));
  bodies.push(JSON.stringify(calls));
}
const directory = mkdtempSync(join(tmpdir(), "wrk-"));
const file = join(directory, "bodies");
writeFileSync(file, bodies.join("\n"));
const script = join(import.meta.dirname, "wrk.lua");
const args = [`-t${threads}`, `-c${connections}`, "-d30s", "--timeout", "30s", "--script", script];
const run = spawnSync("wrk", [...args, url, "--", file, String(threads)], { encoding: "utf8" });
rmSync(directory, { recursive: true });
if (run.error) throw new Error(`wrk, a package of most systems, does not run: ${run.error.message}`);
if (run.status !== 0) throw new Error(`wrk failed: ${run.stderr}`);
const told = JSON.parse(run.stdout.trim().split("\n").at(-1));
await arrived(told.acknowledged);
console.log(
  JSON.stringify({
    tool: "wrk",
    acknowledged: told.acknowledged,
    refused: told.refused,
    per_second: Math.round(told.acknowledged / told.seconds),
    batch_p50_ms: told.p50_ms,
    batch_p99_ms: told.p99_ms,
    arrived: told.acknowledged,
  }),
);
