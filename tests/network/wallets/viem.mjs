// viem against the composer, as its documentation has people use it.
import assert from "node:assert/strict";
import {
  ContractFunctionExecutionError,
  ContractFunctionRevertedError,
  createPublicClient,
  createWalletClient,
  defineChain,
  encodeFunctionData,
  FeeCapTooLowError,
  http,
  InsufficientFundsError,
  IntrinsicGasTooLowError,
  keccak256,
  NonceTooLowError,
  parseEther,
  parseEventLogs,
  parseGwei,
  webSocket,
} from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { attempt, network, step } from "./network.mjs";

const chain = defineChain({
  id: network.chainId,
  name: "rollup",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [network.http], webSocket: [network.ws] } },
});
const { abi, bytecode } = network.contract;
const account = privateKeyToAccount(network.key);
const to = "0x00000000000000000000000000000000000000a1";
const options = { chain, pollingInterval: 200 };
const client = createPublicClient({ ...options, transport: http() });
const wallet = createWalletClient({ ...options, account, transport: http() });
const mined = (hash) => client.waitForTransactionReceipt({ hash });
const pendingNonce = () =>
  client.getTransactionCount({ address: account.address, blockTag: "pending" });
/** What a filter tells until it tells what is wanted: it may hear of a block a little later. */
const changes = async (filter, isWanted) => {
  const seen = [];
  while (!seen.some(isWanted)) seen.push(...(await client.getFilterChanges({ filter })));
  return seen;
};
const fees = (gwei) => ({
  gas: 21_000n,
  maxFeePerGas: parseGwei(`${gwei}`),
  maxPriorityFeePerGas: parseGwei(`${gwei / 10}`),
});
const sign = (request) =>
  account.signTransaction({ type: "eip1559", chainId: chain.id, to, value: 1n, ...request });

await step("connect", async () => {
  assert.equal(await client.getChainId(), network.chainId);
  assert.ok((await client.getBlockNumber()) > 0n);
  const latest = await client.getBlock();
  assert.equal(latest.transactions.length >= 0, true);
  const pending = await client.getBlock({ blockTag: "pending" });
  assert.ok(pending.number === null || pending.number >= latest.number);
  for (const blockTag of ["safe", "finalized", "earliest"]) await client.getBlock({ blockTag });
});

await step("balances, code, storage, proof", async () => {
  assert.ok((await client.getBalance({ address: account.address })) > parseEther("1000"));
  assert.equal(await client.getCode({ address: account.address }), undefined);
  const proof = await client.getProof({ address: account.address, storageKeys: [] });
  assert.ok(proof.balance > 0n);
});

await step("fee estimates", async () => {
  const { maxFeePerGas, maxPriorityFeePerGas } = await client.estimateFeesPerGas();
  assert.ok(maxFeePerGas > 0n && maxPriorityFeePerGas > 0n);
  assert.ok((await client.getGasPrice()) > 0n);
  const history = await client.getFeeHistory({ blockCount: 4, rewardPercentiles: [25, 75] });
  assert.ok(history.baseFeePerGas.length > 1);
  assert.equal(await client.estimateGas({ account, to, value: 1n }), 21_000n);
});

await step("send by all defaults, and wait", async () => {
  const before = await client.getBalance({ address: to });
  const hash = await wallet.sendTransaction({ to, value: parseEther("1") });
  const receipt = await mined(hash);
  assert.equal(receipt.status, "success");
  assert.equal(await client.getBalance({ address: to }), before + parseEther("1"));
  const sent = await client.getTransaction({ hash });
  assert.equal(sent.from.toLowerCase(), account.address.toLowerCase());
  assert.equal(sent.blockNumber, receipt.blockNumber);
  const confirmed = await client.waitForTransactionReceipt({ hash, confirmations: 2 });
  assert.equal(confirmed.blockHash, receipt.blockHash);
  const block = await client.getBlock({ blockHash: confirmed.blockHash });
  assert.ok(block.transactions.includes(hash));
});

await step("send legacy and with an access list", async () => {
  const gasPrice = await client.getGasPrice();
  const legacy = await wallet.sendTransaction({ to, type: "legacy", gasPrice: gasPrice * 2n });
  const accessList = [{ address: to, storageKeys: [] }];
  const listed = await wallet.sendTransaction({ to, accessList });
  for (const hash of [legacy, listed]) assert.equal((await mined(hash)).status, "success");
});

await step("send and wait in one call", async () => {
  const serializedTransaction = await sign({ nonce: await pendingNonce(), ...fees(20) });
  const receipt = await client.sendRawTransactionSync({ serializedTransaction });
  assert.equal(receipt.status, "success");
  assert.equal(receipt.transactionHash, keccak256(serializedTransaction));
});

await step("a pending transaction is shown, and counts", async () => {
  const nonce = await pendingNonce();
  const hash = await wallet.sendTransaction({ to, nonce, ...fees(20) });
  assert.equal((await client.getTransaction({ hash })).nonce, nonce);
  assert.equal(await pendingNonce(), nonce + 1);
  await mined(hash);
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
    const send = (serializedTransaction) => client.sendRawTransaction({ serializedTransaction });
    await send(first);
    const hash = await send(slow);
    const receipt = client.waitForTransactionReceipt({
      hash,
      replacement: { from: account.address, nonce: nonce + 1 },
    });
    const replacement = await send(fast).catch((error) => {
      assert.match(error.details, /nonce too low/);
      return undefined;
    });
    const { transactionHash } = await receipt;
    assert.equal(transactionHash, replacement ?? hash);
    return replacement !== undefined;
  });
});

await step("a gap of nonces, and its filling", async () => {
  const nonce = await pendingNonce();
  const send = async (nonce) =>
    client.sendRawTransaction({ serializedTransaction: await sign({ nonce, ...fees(20) }) });
  const later = [await send(nonce + 2), await send(nonce + 1)];
  assert.equal(await pendingNonce(), nonce);
  for (const hash of later) assert.equal((await client.getTransaction({ hash })).blockNumber, null);
  const hashes = [...later, await send(nonce)];
  for (const hash of hashes) assert.equal((await mined(hash)).status, "success");
});

await step("deploy, read, write", async () => {
  const hash = await wallet.deployContract({ abi, bytecode, args: [7n] });
  const { contractAddress: address, status } = await mined(hash);
  assert.equal(status, "success");
  const contract = { address, abi };
  assert.ok((await client.getCode({ address })).length > 2);
  assert.equal(await client.readContract({ ...contract, functionName: "count" }), 7n);
  const { request } = await client.simulateContract({
    ...contract, account, functionName: "add", args: [5n],
  });
  const receipt = await mined(await wallet.writeContract(request));
  const [counted] = parseEventLogs({ abi, logs: receipt.logs });
  assert.deepEqual(counted.args, { by: account.address, count: 12n });
  assert.equal(await client.readContract({ ...contract, functionName: "count" }), 12n);
  network.address = address;
});

await step("a revert, with its reason", async () => {
  const call = { address: network.address, abi, account, functionName: "add" };
  for (const ask of [client.simulateContract, client.estimateContractGas, wallet.writeContract]) {
    const reverted = async (amount) => {
      const error = await ask({ ...call, args: [amount] }).then(assert.fail, (error) => error);
      assert.ok(error instanceof ContractFunctionExecutionError, error);
      const cause = error.walk((cause) => cause instanceof ContractFunctionRevertedError);
      assert.ok(cause, error);
      return cause;
    };
    assert.equal((await reverted(0n)).reason, "nothing to add");
    const { errorName, args } = (await reverted(101n)).data;
    assert.deepEqual([errorName, args], ["TooMuch", [101n, 100n]]);
  }
  // With gas given nothing is estimated: it runs, and fails.
  const request = { ...call, args: [0n], gas: 100_000n };
  assert.equal((await mined(await wallet.writeContract(request))).status, "reverted");
});

await step("logs", async () => {
  const contract = { address: network.address, abi, eventName: "Counted" };
  const logs = await client.getContractEvents({ ...contract, fromBlock: "earliest" });
  assert.deepEqual(logs.map((log) => log.args.count), [12n]);
  const args = { by: to };
  assert.deepEqual(await client.getContractEvents({ ...contract, args, fromBlock: 0n }), []);
});

await step("filters", async () => {
  const contract = { address: network.address, abi };
  const blocks = await client.createBlockFilter();
  const events = await client.createContractEventFilter({ ...contract, eventName: "Counted" });
  const hash = await wallet.writeContract({ ...contract, functionName: "add", args: [1n] });
  const { blockHash } = await mined(hash);
  await changes(blocks, (block) => block === blockHash);
  const logs = await changes(events, (log) => log.transactionHash === hash);
  assert.equal(logs.length, 1);
  assert.deepEqual(await client.getFilterChanges({ filter: events }), []);
  const pending = await client.createPendingTransactionFilter();
  const sent = await wallet.sendTransaction({ to });
  await changes(pending, (hash) => hash === sent);
  await mined(sent);
  const all = await client.createContractEventFilter({ ...contract, fromBlock: 0n });
  assert.equal((await client.getFilterLogs({ filter: all })).at(-1).transactionHash, hash);
  assert.equal(await client.uninstallFilter({ filter: events }), true);
  assert.equal(await client.uninstallFilter({ filter: blocks }), true);
});

await step("watch by polling", async () => {
  const contract = { address: network.address, abi };
  const watched = new Promise((resolve, reject) => {
    const unwatch = client.watchContractEvent({
      ...contract,
      onLogs: (logs) => (unwatch(), resolve(logs)),
      onError: reject,
    });
  });
  await new Promise((resolve) => {
    const unwatch = client.watchBlockNumber({ onBlockNumber: () => (unwatch(), resolve()) });
  });
  const hash = await wallet.writeContract({ ...contract, functionName: "add", args: [1n] });
  assert.equal((await watched)[0].transactionHash, hash);
});

await step("subscriptions", async () => {
  const live = createPublicClient({ ...options, transport: webSocket() });
  const heard = { heads: [], logs: [], pending: [] };
  const onError = (error) => assert.fail(error);
  const onLogs = (logs) => heard.logs.push(...logs);
  const unwatch = [
    live.watchBlocks({ onBlock: (block) => heard.heads.push(block.hash), onError }),
    live.watchContractEvent({ address: network.address, abi, onLogs, onError }),
    live.watchPendingTransactions({ onTransactions: (all) => heard.pending.push(...all), onError }),
  ];
  assert.equal(await live.getChainId(), network.chainId);
  // What is sent before a subscription has begun is not told.
  await attempt(async () => {
    const call = { address: network.address, abi, functionName: "add", args: [1n] };
    const hash = await wallet.writeContract(call);
    const { blockHash } = await mined(hash);
    await live.getBlock({ blockHash });
    return (
      heard.heads.includes(blockHash) &&
      heard.pending.includes(hash) &&
      heard.logs.some((log) => log.transactionHash === hash)
    );
  });
  for (const stop of unwatch) stop();
});

await step("batches", async () => {
  const batched = createPublicClient({ ...options, transport: http(undefined, { batch: true }) });
  const answers = await Promise.all([
    batched.getChainId(),
    batched.getBalance({ address: to }),
    batched.getBlockNumber(),
    batched.getTransactionCount({ address: account.address }),
  ]);
  assert.equal(answers[0], network.chainId);
  assert.ok(answers.every((answer) => answer !== undefined));
});

await step("a delegation", async () => {
  const authorization = await wallet.signAuthorization({
    contractAddress: network.address, executor: "self",
  });
  const data = encodeFunctionData({ abi, functionName: "add", args: [3n] });
  const request = { authorizationList: [authorization], to: account.address, data };
  const receipt = await mined(await wallet.sendTransaction(request));
  assert.equal(receipt.status, "success");
  assert.equal(receipt.logs[0].address, account.address.toLowerCase());
  const code = await client.getCode({ address: account.address });
  assert.equal(code, `0xef0100${network.address.slice(2).toLowerCase()}`);
});

await step("errors have their class", async () => {
  const nonce = await pendingNonce();
  const refused = async (kind, request) => {
    const error = await wallet.sendTransaction({ to, nonce, ...fees(20), ...request })
      .then(() => assert.fail(`no ${kind.name}`), (error) => error);
    assert.ok(error.walk((cause) => cause instanceof kind), `${kind.name}: ${error}`);
  };
  await refused(NonceTooLowError, { nonce: 0 });
  await refused(InsufficientFundsError, { value: parseEther("100000000") });
  await refused(IntrinsicGasTooLowError, { gas: 20_999n });
  await refused(FeeCapTooLowError, { maxFeePerGas: 1n, maxPriorityFeePerGas: 1n });
  const other = await sign({ nonce, ...fees(20), chainId: chain.id + 1 });
  await assert.rejects(
    client.sendRawTransaction({ serializedTransaction: other }),
    /invalid chain id for signer/,
  );
  await assert.rejects(client.request({ method: "admin_peers" }), { code: -32601 });
});
process.exit(0);
