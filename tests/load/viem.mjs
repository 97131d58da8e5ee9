// viem as applications use it: an account's transfers one after the other, many accounts at once,
// calls of the same moment batched by the library.
import { arrived, client, payee, quantile, transfers, wallets } from "./network.mjs";

const [accounts, each] = [100, 100];
const signed = await Promise.all(
  (await wallets(accounts, 0)).map((wallet) => transfers(wallet, each, payee)),
);
const latencies = [];
const start = performance.now();
await Promise.all(
  signed.map(async (raws) => {
    for (const serializedTransaction of raws) {
      const sent = performance.now();
      await client.sendRawTransaction({ serializedTransaction });
      latencies.push(performance.now() - sent);
    }
  }),
);
const seconds = (performance.now() - start) / 1000;
latencies.sort((a, b) => a - b);
await arrived(latencies.length);
console.log(
  JSON.stringify({
    tool: "viem",
    acknowledged: latencies.length,
    per_second: Math.round(latencies.length / seconds),
    p50_ms: quantile(latencies, 0.5),
    p99_ms: quantile(latencies, 0.99),
    arrived: latencies.length,
  }),
);
