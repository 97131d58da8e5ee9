//! What fuzzing reaches: all that is read of a body before anything is looked up.

use counterpoint_core::registry::RollupConfig;
use serde_json::{Value, value::RawValue};

use super::{
    RpcError, bundle,
    dispatch::raw_transaction,
    log_filter::LogFilter,
    message::{Message, Request, failure, refusal, success},
    methods::check_params,
    pending, table,
};
use crate::intake::{check_envelope, decode};

/// Most messages of a batch.
const LIMIT: usize = 8;

/// Reads a body that anybody may have sent, as a server of a rollup does.
///
/// # Panics
/// This is broken: an answer is no JSON, or a transaction that is taken encodes to other bytes.
pub fn read_body(body: &[u8]) {
    match Request::read(body, LIMIT) {
        Err(error) => is_json(&refusal(&error)),
        Ok(Request::One(message)) => read_message(message),
        Ok(Request::Many(batch)) => {
            assert!(batch.messages.len() <= LIMIT.min(batch.count));
            batch.messages.into_iter().for_each(read_message);
        }
    }
}

fn read_message(message: &RawValue) {
    let call = match Message::read(message) {
        Ok(call) => call,
        Err(answer) => return is_json(&answer),
    };
    let id = call.id.map_or("null", RawValue::get);
    is_json(&success(id, "null"));
    let Some(method) = table::find(&call.method) else {
        return is_json(&failure(id, &RpcError::unknown_method(&call.method)));
    };
    if let Ok(raw) = raw_transaction(method, &call) {
        let config = RollupConfig::example("fuzz");
        let taken = check_envelope(&raw, &config).and_then(|()| decode(&raw, &config));
        if let Err(error) = taken {
            is_json(&failure(id, &error));
        }
    }
    let Ok(params) = call.params() else {
        return;
    };
    let _ = check_params(method, &params);
    let _ = pending::translate(method.name, params.clone());
    let _ = bundle::parse(params.clone());
    if let Value::Array(params) = params {
        let _ = params.into_iter().next().map(LogFilter::read);
    }
}

fn is_json(answer: &str) {
    let value: Result<Value, _> = serde_json::from_str(answer);
    assert!(value.is_ok(), "{answer}");
}
