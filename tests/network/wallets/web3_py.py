"""web3.py against the composer, as its documentation has people use it."""

import asyncio
import json
import sys
from contextlib import contextmanager

from web3 import AsyncWeb3, Web3, WebSocketProvider
from web3.exceptions import (
    ContractCustomError,
    ContractLogicError,
    MethodUnavailable,
    TransactionNotFound,
    Web3RPCError,
)
from web3.middleware import SignAndSendRawMiddlewareBuilder

with open(sys.argv[1], encoding="utf-8") as file:
    NETWORK = json.load(file)
TO = "0x0000000000000000000000000000000000000103"

w3 = Web3(Web3.HTTPProvider(NETWORK["http"]))
account = w3.eth.account.from_key(NETWORK["key"])
w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
w3.eth.default_account = account.address


@contextmanager
def step(what):
    """One thing that users do; it is named if it fails."""
    try:
        yield
    except BaseException:
        print(f"FAILED {what}", file=sys.stderr)
        raise
    print(f"ok {what}", flush=True)


def refused(kind, call):
    """The error that a call must end with."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"{answer} instead of {kind}")


def mined(tx_hash):
    return w3.eth.wait_for_transaction_receipt(tx_hash, poll_latency=0.1)


def pending_nonce():
    return w3.eth.get_transaction_count(account.address, "pending")


def changes(filter_, is_wanted):
    """What a filter tells until it tells what is wanted: it may hear of a block a little later."""
    seen = []
    while not any(map(is_wanted, seen)):
        seen += filter_.get_new_entries()
    return seen


def transfer(nonce, gwei, **change):
    fees = {"maxFeePerGas": gwei * 10**9, "maxPriorityFeePerGas": gwei * 10**8}
    fixed = {"to": TO, "value": 1, "gas": 21_000, "nonce": nonce, "chainId": NETWORK["chainId"]}
    return {**fixed, **fees, **change}


def send_raw(request):
    return w3.eth.send_raw_transaction(account.sign_transaction(request).raw_transaction)


with step("connect"):
    assert w3.is_connected()
    assert w3.eth.chain_id == NETWORK["chainId"] == int(w3.net.version)
    assert w3.client_version.startswith("counterpoint-composer/")
    assert w3.eth.block_number > 0
    assert w3.eth.syncing is False
    for tag in ["latest", "pending", "safe", "finalized", "earliest"]:
        w3.eth.get_block(tag, full_transactions=True)

with step("balances and fees"):
    assert w3.eth.get_balance(account.address) > w3.to_wei(1_000, "ether")
    assert w3.eth.gas_price > 0 and w3.eth.max_priority_fee > 0
    assert len(w3.eth.fee_history(4, "latest", [50])["baseFeePerGas"]) > 1

with step("send by all defaults, and wait"):
    before = w3.eth.get_balance(TO)
    sent = w3.eth.send_transaction({"to": TO, "value": w3.to_wei(1, "ether")})
    receipt = mined(sent)
    assert receipt["status"] == 1
    assert w3.eth.get_balance(TO) == before + w3.to_wei(1, "ether")
    assert w3.eth.get_transaction(sent)["blockHash"] == receipt["blockHash"]
    assert sent in w3.eth.get_block(receipt["blockHash"])["transactions"]

with step("a pending transaction is shown, and counts"):
    nonce = pending_nonce()
    sent = send_raw(transfer(nonce, 20))
    assert w3.eth.get_transaction(sent)["nonce"] == nonce
    assert pending_nonce() == nonce + 1
    mined(sent)

with step("replace"):
    for _ in range(20):
        # The first is on its way, so that the second waits and can be replaced.
        nonce = pending_nonce()
        send_raw(transfer(nonce, 20))
        slow = send_raw(transfer(nonce + 1, 20))
        try:
            cheap = refused(Web3RPCError, lambda: send_raw(transfer(nonce + 1, 21)))
            assert "underpriced" in cheap.message or "nonce too low" in cheap.message, cheap
            fast = w3.eth.replace_transaction(slow, transfer(nonce + 1, 30))
        except (Web3RPCError, ValueError) as error:
            # It was too late: the second is on its way, too, or in a block.
            assert "nonce too low" in str(error) or "mined" in str(error), error
            mined(slow)
            continue
        assert mined(fast)["status"] == 1
        refused(TransactionNotFound, lambda: w3.eth.get_transaction(slow))
        break
    else:
        raise AssertionError("not once in 20 attempts")

with step("a gap of nonces, and its filling"):
    nonce = pending_nonce()
    later = [send_raw(transfer(nonce + 2, 20)), send_raw(transfer(nonce + 1, 20))]
    assert pending_nonce() == nonce
    for sent in [*later, send_raw(transfer(nonce, 20))]:
        assert mined(sent)["status"] == 1

with step("deploy, read, write"):
    factory = w3.eth.contract(abi=NETWORK["contract"]["abi"], bytecode=NETWORK["contract"]["bytecode"])
    address = mined(factory.constructor(7).transact())["contractAddress"]
    contract = w3.eth.contract(address=address, abi=NETWORK["contract"]["abi"])
    assert contract.functions.count().call() == 7
    assert len(w3.eth.get_code(address)) > 2
    receipt = mined(contract.functions.add(5).transact())
    [counted] = contract.events.Counted().process_receipt(receipt)
    assert counted["args"] == {"by": account.address, "count": 12}
    assert contract.functions.count().call() == 12
    assert int.from_bytes(w3.eth.get_storage_at(address, 0)) == 12

with step("a revert, with its reason"):
    add = contract.functions.add
    for ask in ["call", "estimate_gas", "transact"]:
        error = refused(ContractLogicError, getattr(add(0), ask))
        assert error.message == "execution reverted: nothing to add", error.message
        error = refused(ContractCustomError, getattr(add(101), ask))
        asked, most = w3.codec.decode(["uint256", "uint256"], bytes.fromhex(error.data[10:]))
        assert (asked, most) == (101, 100), error.data
    # With gas given nothing is estimated: it runs, and fails.
    assert mined(add(0).transact({"gas": 100_000}))["status"] == 0

with step("logs and filters"):
    [log] = contract.events.Counted().get_logs(from_block=0)
    assert log["args"]["count"] == 12
    blocks, events = w3.eth.filter("latest"), contract.events.Counted().create_filter(from_block="latest")
    sent = contract.functions.add(1).transact()
    block = mined(sent)["blockHash"]
    changes(blocks, lambda told: told == block)
    [log] = changes(events, lambda log: log["transactionHash"] == sent)
    assert events.get_new_entries() == []
    assert [log["args"]["count"] for log in events.get_all_entries()][-1] == 13
    assert w3.eth.uninstall_filter(events.filter_id)


async def subscribed():
    """Hears of a block, a log and a transaction that waits."""
    async with AsyncWeb3(WebSocketProvider(NETWORK["ws"])) as live:
        assert await live.eth.chain_id == NETWORK["chainId"]
        heads = await live.eth.subscribe("newHeads")
        logs = await live.eth.subscribe("logs", {"address": address})
        pending = await live.eth.subscribe("newPendingTransactions")
        sent = contract.functions.add(1).transact()
        open_ids = {heads, logs, pending}
        async for message in live.socket.process_subscriptions():
            result = message["result"]
            if message["subscription"] == pending and result != sent:
                continue  # Somebody else's.
            if message["subscription"] == logs:
                assert result["transactionHash"] == sent
            open_ids.discard(message["subscription"])
            if not open_ids:
                break
        for subscription in [heads, logs, pending]:
            assert await live.eth.unsubscribe(subscription)
        mined(sent)


with step("subscriptions"):
    asyncio.run(subscribed())

with step("batches"):
    with w3.batch_requests() as batch:
        batch.add(w3.eth.get_balance(TO))
        batch.add(w3.eth.get_block("latest"))
        batch.add(contract.functions.count())
        balance, block, count = batch.execute()
    assert balance > 0 and block["number"] > 0 and count == 14

with step("errors have their class and geth's words"):
    nonce = pending_nonce()
    for words, request in {
        "nonce too low": transfer(0, 20),
        "insufficient funds for gas * price + value": transfer(nonce, 20, value=10**26),
        "intrinsic gas too low": transfer(nonce, 20, gas=20_999),
        "max fee per gas less than block base fee": transfer(
            nonce, 20, maxFeePerGas=1, maxPriorityFeePerGas=1
        ),
        "invalid sender: invalid chain id for signer": transfer(nonce, 20, chainId=NETWORK["chainId"] + 1),
    }.items():
        error = refused(Web3RPCError, lambda: send_raw(request))
        assert error.rpc_response["error"]["code"] == -32000, error
        assert error.rpc_response["error"]["message"].startswith(words), error
    refused(TransactionNotFound, lambda: w3.eth.get_transaction(b"\1" * 32))
    refused(TransactionNotFound, lambda: w3.eth.get_transaction_receipt(b"\1" * 32))
    refused(MethodUnavailable, w3.geth.admin.peers)
