//! What "pending" means here: the execution client's own pool is empty, and what is to come is in the
//! queue.
//!
//! Counts and balances include what is queued and sequenced. Reads of the state are answered by the
//! last executed block, since nobody knows the state after transactions that have not run.

use alloy_primitives::Address;
use counterpoint_core::primitive::RollupId;
use serde_json::{Value, json};

use super::RpcError;
use crate::{
    queue::{Item, Queue, Waiting},
    upstream::{Head, Upstream},
};

/// Where a call's block is among its parameters, if the call has one that may be "pending".
fn block_at(method: &str) -> Option<usize> {
    match method {
        "eth_call"
        | "eth_estimateGas"
        | "eth_createAccessList"
        | "eth_getCode"
        | "eth_feeHistory" => Some(1),
        "eth_getStorageAt" | "eth_getProof" => Some(2),
        _ => None,
    }
}

/// What the client is asked instead.
pub(super) fn translate(method: &str, mut params: Value) -> Value {
    let block = block_at(method).and_then(|at| params.get_mut(at));
    if let Some(block) = block.filter(|block| *block == "pending") {
        *block = json!("latest");
    }
    if matches!(method, "eth_call" | "eth_estimateGas")
        && let Some(call) = params.get_mut(0).and_then(Value::as_object_mut)
    {
        // A wallet counts what is pending, and the client's state does not have it yet.
        call.remove("nonce");
    }
    params
}

/// Whether a call wants a count or a balance after what is pending.
pub(super) fn is_asked(params: &Value) -> bool {
    params.get(1).and_then(Value::as_str) == Some("pending")
}

/// What an account holds for sure once all that is pending has run: each of its transactions is taken
/// to cost the most that it can, and what others send it is not counted.
pub(super) async fn balance(
    queue: &Queue,
    upstream: &Upstream,
    rollup: RollupId,
    address: Address,
) -> Result<Value, RpcError> {
    let accounts = upstream.accounts(&[address]).await?;
    let left = accounts.first().map(|account| {
        let cost = queue.look(|state| state.pending_cost(rollup, address, account.nonce));
        account.balance.saturating_sub(cost)
    });
    Ok(json!(left))
}

/// The block after the last executed one, as far as it is known: without transactions, since a
/// rollup's block has no order before the sequencer gives it one.
pub(super) async fn block(
    upstream: &Upstream,
    slot_secs: u8,
    params: &Value,
) -> Result<Value, RpcError> {
    let full = params.get(1).cloned().unwrap_or(json!(false));
    let latest = json!(["latest", full]);
    let latest = upstream.call("eth_getBlockByNumber", &latest);
    let (head, latest) = tokio::try_join!(upstream.head(), latest)?;
    Ok(after(head, latest, slot_secs))
}

fn after(head: Head, mut latest: Value, slot_secs: u8) -> Value {
    let parent = latest["hash"].take();
    let number = head.number.saturating_add(1);
    let timestamp = head.timestamp.saturating_add(slot_secs.into());
    let block = json!({
        "number": format!("{number:#x}"),
        "timestamp": format!("{timestamp:#x}"),
        "baseFeePerGas": format!("{:#x}", head.next_base_fee),
        "parentHash": parent,
        // Geth's pending block has none of these either.
        "hash": null, "nonce": null, "miner": null,
        // Libraries take no block without it.
        "extraData": "0x",
        "gasUsed": "0x0", "size": "0x0", "transactions": [], "withdrawals": [],
        "logsBloom": format!("0x{}", "0".repeat(512)),
    });
    if let (Some(latest), Value::Object(block)) = (latest.as_object_mut(), block) {
        latest.extend(block);
        // They would be those of the block before.
        for unknown in [
            "stateRoot",
            "receiptsRoot",
            "transactionsRoot",
            "mixHash",
            "parentBeaconBlockRoot",
            "withdrawalsRoot",
            "requestsHash",
        ] {
            latest.remove(unknown);
        }
    }
    latest
}

/// The status of a transaction that waits, and what it waits for.
pub(super) fn status(queue: &Queue, item: &Item) -> Value {
    let mut status = json!({ "hash": item.tx.tx_hash(), "status": "queued" });
    if let Waiting::Nonce(missing) = queue.waiting(item) {
        status["status"] = json!("parked");
        status["missingNonce"] = json!(format!("{missing:#x}"));
    }
    if let Some(skip) = &item.skip {
        let place = skip.place;
        status["lastSkip"] = json!({
            "height": place.height, "index": place.index, "reason": skip.reason,
        });
        status["attempts"] = json!(skip.attempts);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_pending_state_is_asked_for_by_nobody() {
        for (method, params, expect) in [
            (
                "eth_call",
                json!([{ "to": "0x1", "nonce": "0x7" }, "pending"]),
                json!([{ "to": "0x1" }, "latest"]),
            ),
            ("eth_estimateGas", json!([{ "nonce": "0x7" }]), json!([{}])),
            (
                "eth_getCode",
                json!(["0x1", "pending"]),
                json!(["0x1", "latest"]),
            ),
            (
                "eth_getStorageAt",
                json!(["0x1", "0x0", "pending"]),
                json!(["0x1", "0x0", "latest"]),
            ),
            (
                "eth_feeHistory",
                json!(["0x4", "pending", []]),
                json!(["0x4", "latest", []]),
            ),
            ("eth_getCode", json!(["0x1", "0x5"]), json!(["0x1", "0x5"])),
            ("eth_getLogs", json!([{}]), json!([{}])),
            ("eth_call", json!("pending"), json!("pending")),
        ] {
            assert_eq!(translate(method, params), expect, "{method}");
        }
    }

    #[test]
    fn the_pending_block_follows_the_last_one() {
        let head = Head {
            number: 9,
            timestamp: 100,
            next_base_fee: 7,
            progress: None,
        };
        let latest = json!({
            "hash": "0xaa", "number": "0x9", "timestamp": "0x64", "gasLimit": "0x5",
            "stateRoot": "0xbb", "transactions": ["0xcc"], "baseFeePerGas": "0x8",
        });
        let block = after(head, latest, 2);
        for (key, expect) in [
            ("number", json!("0xa")),
            ("parentHash", json!("0xaa")),
            ("hash", Value::Null),
            ("timestamp", json!("0x66")),
            ("baseFeePerGas", json!("0x7")),
            ("gasLimit", json!("0x5")),
            ("transactions", json!([])),
        ] {
            assert_eq!(block[key], expect, "{key}");
        }
        assert!(block.get("stateRoot").is_none());
    }
}
