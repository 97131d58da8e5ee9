//! JSON-RPC 2.0 over HTTP at `/{rollup}` and `/`.

mod bundle;
mod error;
mod methods;
mod pending;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    routing::post,
};
pub(crate) use error::RpcError;
use futures::{StreamExt, stream};
pub(crate) use methods::Rollup;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::cors::CorsLayer;

/// Longest request body, in bytes.
const MAX_BODY_BYTES: usize = 5 << 20;
/// Most calls of a batch.
const MAX_BATCH: usize = 100;
/// Calls of a batch that are answered at the same time.
const BATCH_CONCURRENCY: usize = 16;

/// All rollups that are served, by name.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) rollups: BTreeMap<String, Arc<Rollup>>,
    pub(crate) default: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

/// The routes of the JSON-RPC server.
pub(crate) fn routes(served: Arc<Served>) -> Router {
    Router::new()
        .route("/", post(at_root))
        .route("/{rollup}", post(at_rollup))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CorsLayer::permissive())
        .with_state(served)
}

async fn at_root(State(served): State<Arc<Served>>, body: Bytes) -> Json<Value> {
    let name = served.default.clone();
    Json(
        answer(
            name.as_deref().and_then(|name| served.rollups.get(name)),
            &body,
        )
        .await,
    )
}

async fn at_rollup(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Json<Value> {
    Json(answer(served.rollups.get(&name), &body).await)
}

/// Answers a call or a batch of calls.
async fn answer(rollup: Option<&Arc<Rollup>>, body: &[u8]) -> Value {
    let Some(rollup) = rollup else {
        return failure(
            Value::Null,
            RpcError::invalid_request("no rollup is served at this path"),
        );
    };
    match serde_json::from_slice(body) {
        Ok(Value::Array(calls)) if calls.is_empty() => {
            failure(Value::Null, RpcError::invalid_request("empty batch"))
        }
        Ok(Value::Array(calls)) if calls.len() > MAX_BATCH => {
            let reason = format!(
                "batch of {} calls, at most {MAX_BATCH} are answered",
                calls.len()
            );
            failure(Value::Null, RpcError::overloaded(reason))
        }
        Ok(Value::Array(calls)) => Value::Array(answer_batch(rollup, calls).await),
        Ok(call) => answer_one(rollup, call).await,
        Err(error) => failure(Value::Null, RpcError::parse(error)),
    }
}

/// Answers the calls of a batch in their order: transactions one after the other are taken in
/// together, other calls are answered at the same time.
async fn answer_batch(rollup: &Arc<Rollup>, mut calls: Vec<Value>) -> Vec<Value> {
    let is_send = |call: &Value| call["method"] == "eth_sendRawTransaction";
    let mut answers = Vec::with_capacity(calls.len());
    for run in calls.chunk_by_mut(|one, next| is_send(one) == is_send(next)) {
        if run.first().is_some_and(is_send) {
            let params = run.iter_mut().map(|call| call["params"].take()).collect();
            let sent = rollup.send_all(params).await;
            let ids = run.iter_mut().map(|call| call["id"].take());
            answers.extend(ids.zip(sent).map(|(id, sent)| shown(id, sent)));
        } else {
            let others: Vec<Value> = run.iter_mut().map(Value::take).collect();
            let others = stream::iter(others).map(|call| answer_one(rollup, call));
            let others = others.buffered(BATCH_CONCURRENCY);
            answers.extend(others.collect::<Vec<_>>().await);
        }
    }
    answers
}

async fn answer_one(rollup: &Arc<Rollup>, call: Value) -> Value {
    let Call { id, method, params } = match serde_json::from_value(call) {
        Ok(call) => call,
        Err(error) => return failure(Value::Null, RpcError::invalid_request(&error.to_string())),
    };
    shown(id, rollup.call(&method, params).await)
}

fn shown(id: Value, outcome: Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => failure(id, error),
    }
}

fn failure(id: Value, error: RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error.into_value() })
}
