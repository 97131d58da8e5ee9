// What the scripts share: a running devnet, wallets with money, transfers that are signed before.
import { readFileSync } from "node:fs";
import { createPublicClient, defineChain, http, keccak256, parseEther, toHex } from "viem";
import { privateKeyToAccount } from "viem/accounts";

const network = JSON.parse(readFileSync(`${process.argv[2]}/devnet.json`, "utf8"));
const rollup = network.rollups[0];

export const url = rollup.composer_rpc;
export const chain = defineChain({
  id: rollup.evm_chain_id,
  name: rollup.name,
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [url] } },
});
export const client = createPublicClient({
  chain,
  pollingInterval: 100,
  transport: http(url, { batch: { batchSize: 20 }, retryCount: 0 }),
});

const fees = { maxFeePerGas: 10n ** 14n, maxPriorityFeePerGas: 10n ** 9n, gas: 21_000n };

function transfer(account, nonce, to, value) {
  return account.signTransaction({ chainId: chain.id, type: "eip1559", nonce, to, value, ...fees });
}

/** New wallets with so much ether each, paid from the devnet's account with this number. */
export async function wallets(count, funder, ether = "1000") {
  const payer = privateKeyToAccount(network.accounts[funder].private_key);
  let nonce = await client.getTransactionCount({ address: payer.address, blockTag: "pending" });
  const run = Date.now();
  const made = [];
  let last;
  for (let at = 0; at < count; at += 1) {
    const wallet = privateKeyToAccount(keccak256(toHex(`load/${run}/${at}`)));
    const raw = await transfer(payer, nonce++, wallet.address, parseEther(ether));
    last = await client.sendRawTransaction({ serializedTransaction: raw });
    made.push(wallet);
  }
  await client.waitForTransactionReceipt({ hash: last, timeout: 60_000 });
  return made;
}

/** A wallet's first transfers, signed. */
export function transfers(wallet, count, to) {
  return Promise.all(Array.from({ length: count }, (_, nonce) => transfer(wallet, nonce, to, 1n)));
}

/** An address that nobody else pays. */
export const payee = keccak256(toHex(`load/payee/${Date.now()}`)).slice(0, 42);

/** Waits until all that was acknowledged has arrived, each transfer once. */
export async function arrived(acknowledged) {
  for (const deadline = Date.now() + 300_000; Date.now() < deadline; ) {
    const balance = await client.getBalance({ address: payee });
    if (balance === BigInt(acknowledged)) return;
    if (balance > BigInt(acknowledged)) throw new Error(`${balance} of ${acknowledged} arrived`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`${acknowledged} were acknowledged and did not all arrive`);
}

export function quantile(sorted, of) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * of))];
}
