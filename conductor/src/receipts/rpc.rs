//! Receipts by JSON-RPC 2.0 over HTTP, in the shape of execution clients.

use std::sync::Arc;

use alloy_primitives::B256;
use alloy_rpc_types_eth::{Log, TransactionReceipt};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BlockInfo, Event, Receipt, Receipts, Told};

/// Longest request, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Most calls of a batch.
const MAX_BATCH: usize = 100;

/// The routes of the JSON-RPC server.
pub(crate) fn routes(receipts: Arc<Receipts>) -> Router {
    Router::new()
        .route("/", post(answer_body))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(receipts)
}

async fn answer_body(State(receipts): State<Arc<Receipts>>, body: Bytes) -> Json<Value> {
    Json(answer(&receipts, &body))
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

/// Answers a call or a batch of calls.
pub(super) fn answer(receipts: &Receipts, body: &[u8]) -> Value {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return failure(&Value::Null, -32_700, "not JSON");
    };
    match body {
        Value::Array(calls) if (1..=MAX_BATCH).contains(&calls.len()) => {
            let answers = calls.into_iter().map(|call| answer_call(receipts, call));
            answers.collect()
        }
        Value::Array(_) => {
            let message = format!("a batch must have 1 to {MAX_BATCH} calls");
            failure(&Value::Null, -32_600, &message)
        }
        call => answer_call(receipts, call),
    }
}

fn answer_call(receipts: &Receipts, call: Value) -> Value {
    let Ok(Call { id, method, params }) = serde_json::from_value(call) else {
        return failure(&Value::Null, -32_600, "not a call of JSON-RPC 2.0");
    };
    let show = match method.as_str() {
        "eth_getTransactionReceipt" => receipt_or_null,
        "counterpoint_getReceipt" => outcome,
        _ => {
            let message = format!("the method {method} does not exist/is not available");
            return failure(&id, -32_601, &message);
        }
    };
    let Ok([hash]) = serde_json::from_value::<[B256; 1]>(params) else {
        return failure(&id, -32_602, "params must be one transaction hash");
    };
    let result = receipts.find(&hash).map_or(Value::Null, |told| show(&told));
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn failure(id: &Value, code: i32, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

/// What clients answer: nothing of what is in no block.
fn receipt_or_null(told: &Told) -> Value {
    match told.event.as_ref() {
        Event::Included { receipt, .. } => json!(in_block(receipt, &told.block)),
        _ => Value::Null,
    }
}

/// The receipt, or why there is none, and where the item was ordered.
fn outcome(told: &Told) -> Value {
    let (status, place, detail) = match told.event.as_ref() {
        Event::Included { place, receipt } => {
            let receipt = json!(in_block(receipt, &told.block));
            ("included", place, ("receipt", receipt))
        }
        Event::Skipped(skip) => ("skipped", &skip.place, ("reason", json!(skip.reason))),
        Event::Opened { .. } | Event::Closed { .. } => return Value::Null,
    };
    let (key, value) = detail;
    json!({
        "status": status,
        "height": place.height,
        "index": place.index,
        "blockNumber": format!("{:#x}", told.block.number),
        key: value,
    })
}

/// A receipt as clients show it; without a block hash as long as the block is not complete.
pub(super) fn in_block(receipt: &Receipt, block: &BlockInfo) -> TransactionReceipt {
    let mut log_index = receipt.first_log;
    let inner = receipt.envelope.clone().map_logs(|inner| {
        let index = log_index;
        log_index = log_index.saturating_add(1);
        Log {
            inner,
            block_hash: block.hash,
            block_number: Some(block.number),
            block_timestamp: Some(block.timestamp),
            transaction_hash: Some(receipt.hash),
            transaction_index: Some(receipt.index),
            log_index: Some(index),
            removed: false,
        }
    });
    TransactionReceipt {
        inner,
        transaction_hash: receipt.hash,
        transaction_index: Some(receipt.index),
        block_hash: block.hash,
        block_number: Some(block.number),
        gas_used: receipt.gas_used,
        effective_gas_price: receipt.effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: receipt.from,
        to: receipt.to,
        contract_address: receipt.contract,
    }
}
