"""web3.py as services use it: its asynchronous client, many accounts at once."""

import asyncio
import json
import secrets
import sys
import time

from eth_account import Account
from web3 import AsyncHTTPProvider, AsyncWeb3

ACCOUNTS, EACH = 50, 50
FUNDER = 2

with open(f"{sys.argv[1]}/devnet.json", encoding="utf-8") as file:
    NETWORK = json.load(file)
ROLLUP = NETWORK["rollups"][0]
PAYEE = Account.create().address


def signed(account, nonce, to, value):
    transaction = {
        "chainId": ROLLUP["evm_chain_id"],
        "type": 2,
        "nonce": nonce,
        "to": to,
        "value": value,
        "gas": 21_000,
        "maxFeePerGas": 10**14,
        "maxPriorityFeePerGas": 10**9,
    }
    return account.sign_transaction(transaction).raw_transaction


async def fund(w3):
    payer = Account.from_key(NETWORK["accounts"][FUNDER]["private_key"])
    nonce = await w3.eth.get_transaction_count(payer.address, "pending")
    accounts = [Account.from_key(secrets.token_bytes(32)) for _ in range(ACCOUNTS)]
    for at, account in enumerate(accounts):
        paid = signed(payer, nonce + at, account.address, 1000 * 10**18)
        sent = await w3.eth.send_raw_transaction(paid)
    await w3.eth.wait_for_transaction_receipt(sent, timeout=60, poll_latency=0.1)
    return accounts


async def main():
    w3 = AsyncWeb3(AsyncHTTPProvider(ROLLUP["composer_rpc"]))
    accounts = await fund(w3)
    batches = [[signed(one, nonce, PAYEE, 1) for nonce in range(EACH)] for one in accounts]
    latencies = []

    async def send(raws):
        for raw in raws:
            sent = time.perf_counter()
            await w3.eth.send_raw_transaction(raw)
            latencies.append(time.perf_counter() - sent)

    start = time.perf_counter()
    await asyncio.gather(*map(send, batches))
    seconds = time.perf_counter() - start
    deadline = time.monotonic() + 300
    while (balance := await w3.eth.get_balance(PAYEE)) != len(latencies):
        assert balance < len(latencies), f"{balance} of {len(latencies)} arrived"
        assert time.monotonic() < deadline, "what was acknowledged did not all arrive"
        await asyncio.sleep(0.2)
    latencies.sort()
    result = {
        "tool": "web3.py",
        "acknowledged": len(latencies),
        "per_second": round(len(latencies) / seconds),
        "p50_ms": 1_000 * latencies[len(latencies) // 2],
        "p99_ms": 1_000 * latencies[len(latencies) * 99 // 100],
        "arrived": balance,
    }
    print(json.dumps(result))
    await w3.provider.disconnect()


asyncio.run(main())
