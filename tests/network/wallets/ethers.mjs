// ethers against the composer, as its documentation has people use it.
import assert from "node:assert/strict";
import {
  Contract,
  ContractFactory,
  isError,
  JsonRpcProvider,
  keccak256,
  NonceManager,
  parseEther,
  parseUnits,
  Wallet,
  WebSocketProvider,
} from "ethers";
import { attempt, network, step } from "./network.mjs";

const { abi, bytecode } = network.contract;
// It calls in batches unless it is told not to.
const provider = new JsonRpcProvider(network.http, undefined, { cacheTimeout: -1 });
provider.pollingInterval = 200;
const wallet = new Wallet(network.key, provider);
const to = "0x00000000000000000000000000000000000000E2";
const pendingNonce = () => provider.getTransactionCount(wallet.address, "pending");
const fees = (gwei) => ({
  gasLimit: 21_000n,
  maxFeePerGas: parseUnits(`${gwei}`, "gwei"),
  maxPriorityFeePerGas: parseUnits(`${gwei / 10}`, "gwei"),
});
const sign = (request) =>
  wallet.signTransaction({ type: 2, chainId: network.chainId, to, value: 1n, ...request });
const refusal = async (promise, code) => {
  const error = await promise.then(() => assert.fail(`no ${code}`), (error) => error);
  assert.ok(isError(error, code), `${code}: ${error}`);
  return error;
};

await step("connect", async () => {
  assert.equal(Number((await provider.getNetwork()).chainId), network.chainId);
  assert.ok((await provider.getBlockNumber()) > 0);
  for (const tag of ["latest", "safe", "finalized", "earliest"]) {
    assert.ok(await provider.getBlock(tag), tag);
  }
  assert.ok(await provider.getBlock("pending"));
  const full = await provider.getBlock("latest", true);
  assert.equal(full.prefetchedTransactions.length, full.length);
});

await step("balances and fee data", async () => {
  assert.ok((await provider.getBalance(wallet.address)) > parseEther("1000"));
  const fees = await provider.getFeeData();
  assert.ok(fees.gasPrice > 0n && fees.maxFeePerGas > 0n && fees.maxPriorityFeePerGas > 0n);
});

await step("send by all defaults, and wait", async () => {
  const before = await provider.getBalance(to);
  const sent = await wallet.sendTransaction({ to, value: parseEther("1") });
  const receipt = await sent.wait();
  assert.equal(receipt.status, 1);
  assert.equal(await provider.getBalance(to), before + parseEther("1"));
  const mined = await provider.getTransaction(sent.hash);
  assert.equal(mined.blockHash, receipt.blockHash);
  assert.ok((await receipt.getBlock()).transactions.includes(sent.hash));
  assert.equal((await sent.wait(3)).blockHash, receipt.blockHash);
});

await step("several at once by a nonce manager", async () => {
  const manager = new NonceManager(wallet);
  const sent = [];
  for (let count = 0; count < 5; count += 1) {
    sent.push(await manager.sendTransaction({ to, value: 1n, ...fees(20) }));
  }
  const receipts = await Promise.all(sent.map((transaction) => transaction.wait()));
  assert.ok(receipts.every((receipt) => receipt.status === 1));
});

await step("a pending transaction is shown, and counts", async () => {
  const nonce = await pendingNonce();
  const sent = await wallet.sendTransaction({ to, nonce, ...fees(20) });
  assert.equal((await provider.getTransaction(sent.hash)).nonce, nonce);
  assert.equal(await pendingNonce(), nonce + 1);
  await sent.wait();
});

await step("replace", async () => {
  await attempt(async () => {
    // The first is on its way, so that the second waits and can be replaced.
    const nonce = await pendingNonce();
    const [first, slow, fast] = await Promise.all([
      sign({ nonce, ...fees(20) }),
      sign({ nonce: nonce + 1, ...fees(20) }),
      sign({ nonce: nonce + 1, ...fees(30) }),
    ]);
    await provider.broadcastTransaction(first);
    const sent = await provider.broadcastTransaction(slow);
    const waits = sent.wait().catch((error) => error);
    const replacement = await provider.broadcastTransaction(fast).catch((error) => {
      assert.ok(isError(error, "NONCE_EXPIRED"), error);
    });
    const outcome = await waits;
    if (!replacement) return assert.equal(outcome.hash, sent.hash);
    assert.ok(isError(outcome, "TRANSACTION_REPLACED"), outcome);
    assert.equal(outcome.reason, "repriced");
    assert.equal(outcome.receipt.hash, replacement.hash);
    return true;
  });
});

await step("an underpriced replacement", async () => {
  await attempt(async () => {
    const nonce = await pendingNonce();
    const [first, dear, cheap] = await Promise.all([
      sign({ nonce, ...fees(20) }),
      sign({ nonce: nonce + 1, ...fees(20) }),
      sign({ nonce: nonce + 1, ...fees(21) }),
    ]);
    await provider.broadcastTransaction(first);
    const sent = await provider.broadcastTransaction(dear);
    const error = await provider.broadcastTransaction(cheap).catch((error) => error);
    await sent.wait();
    if (isError(error, "NONCE_EXPIRED")) return false;
    assert.ok(isError(error, "REPLACEMENT_UNDERPRICED"), error);
    return true;
  });
});

let contract;
await step("deploy, read, write", async () => {
  contract = await new ContractFactory(abi, bytecode, wallet).deploy(7n);
  await contract.waitForDeployment();
  assert.equal(await contract.count(), 7n);
  assert.ok((await contract.getDeployedCode()).length > 2);
  const receipt = await (await contract.add(5n)).wait();
  assert.deepEqual([...receipt.logs[0].args], [wallet.address, 12n]);
  assert.equal(await contract.count(), 12n);
});

await step("a revert, with its reason", async () => {
  for (const ask of [contract.add.staticCall, contract.add.estimateGas, contract.add]) {
    assert.equal((await refusal(ask(0n), "CALL_EXCEPTION")).reason, "nothing to add");
    const { data } = await refusal(ask(101n), "CALL_EXCEPTION");
    const { name, args } = contract.interface.parseError(data);
    assert.deepEqual([name, [...args]], ["TooMuch", [101n, 100n]]);
  }
  // With gas given nothing is estimated: it runs, and fails.
  const sent = await contract.add(0n, { gasLimit: 100_000n });
  assert.equal((await refusal(sent.wait(), "CALL_EXCEPTION")).receipt.status, 0);
});

await step("logs", async () => {
  const logs = await contract.queryFilter(contract.filters.Counted());
  assert.deepEqual(logs.map((log) => log.args.count), [12n]);
  assert.deepEqual(await contract.queryFilter(contract.filters.Counted(to)), []);
});

await step("events by polling", async () => {
  const heard = new Promise((resolve) => contract.once("Counted", (...args) => resolve(args)));
  const block = new Promise((resolve) => provider.once("block", resolve));
  await block;
  const sent = await contract.add(1n);
  const [by, count, event] = await heard;
  assert.deepEqual([by, count, event.log.transactionHash], [wallet.address, 13n, sent.hash]);
});

await step("subscriptions", async () => {
  const live = new WebSocketProvider(network.ws);
  const heard = { heads: [], logs: [], pending: [] };
  await live.on("block", (number) => heard.heads.push(number));
  await live.on("pending", (hash) => heard.pending.push(hash));
  const listener = new Contract(await contract.getAddress(), abi, live);
  await listener.on("Counted", (by, count, event) => heard.logs.push(event.log.transactionHash));
  // What is sent before a subscription has begun is not told.
  await attempt(async () => {
    const { hash, blockNumber } = await (await contract.add(1n)).wait();
    await live.getBlock(blockNumber);
    return (
      heard.heads.includes(blockNumber) && heard.pending.includes(hash) && heard.logs.includes(hash)
    );
  });
  await live.destroy();
});

await step("errors have their code", async () => {
  const nonce = await pendingNonce();
  const send = (request) => wallet.sendTransaction({ to, nonce, ...fees(20), ...request });
  await refusal(send({ nonce: 0 }), "NONCE_EXPIRED");
  await refusal(send({ value: parseEther("100000000") }), "INSUFFICIENT_FUNDS");
  const poor = Wallet.createRandom(provider);
  await refusal(poor.sendTransaction({ to, value: 1n }), "INSUFFICIENT_FUNDS");
  await refusal(provider.send("admin_peers", []), "UNSUPPORTED_OPERATION");
  assert.equal(await provider.getTransaction(keccak256("0x01")), null);
  assert.equal(await provider.getTransactionReceipt(keccak256("0x01")), null);
});
process.exit(0);
