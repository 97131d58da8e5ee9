use std::time::Duration;

use alloy_primitives::B256;
use serde_json::{Value, json};

use crate::{queue::QueueError, upstream::UpstreamError};

/// An error of JSON-RPC, with the codes and texts that wallets know from geth.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RpcError(Value);

impl RpcError {
    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self(json!({ "code": code, "message": message.into() }))
    }

    /// What is no JSON, or is nested too deep.
    pub(crate) fn parse() -> Self {
        Self::new(-32_700, "parse error")
    }

    pub(crate) fn invalid_request(reason: impl Into<String>) -> Self {
        Self::new(-32_600, reason)
    }

    pub(crate) fn unknown_method(method: &str) -> Self {
        Self::new(
            -32_601,
            format!("the method {method} does not exist/is not available"),
        )
    }

    /// What geth says of a subscription where nothing can be sent but answers.
    pub(crate) fn no_notifications() -> Self {
        Self::new(-32_601, "notifications not supported")
    }

    pub(crate) fn invalid_params(reason: impl std::fmt::Display) -> Self {
        Self::new(-32_602, reason.to_string())
    }

    /// What geth says of a subscription or a filter that it does not have.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(-32_000, format!("{what} not found"))
    }

    pub(crate) fn request_timeout() -> Self {
        Self::new(-32_002, "request timed out")
    }

    pub(crate) fn answer_too_large() -> Self {
        Self::new(-32_003, "response too large")
    }

    /// What geth says of a transaction that it does not take.
    pub(crate) fn transaction(reason: impl Into<String>) -> Self {
        Self::new(-32_000, reason)
    }

    /// What EIP-7966 and geth say when nothing became of a transaction in time.
    pub(crate) fn timeout(hash: B256, waited: Duration) -> Self {
        let message = format!(
            "The transaction was added to the transaction pool but wasn't processed in {waited:?}"
        );
        Self(json!({ "code": 4, "message": message, "data": hash }))
    }

    /// EIP-7966's code for a transaction that was taken in, and is in no block.
    pub(crate) fn skipped(hash: B256, reason: &str) -> Self {
        let message = format!("The transaction was ordered but not processed: {reason}");
        Self(json!({ "code": 5, "message": message, "data": hash }))
    }

    /// Something here is broken; the wallet is not at fault.
    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::new(-32_603, reason.to_string())
    }

    pub(crate) fn overloaded(reason: impl Into<String>) -> Self {
        Self::new(-32_005, reason)
    }

    /// The same with what programs read.
    pub(crate) fn with_data(mut self, data: Value) -> Self {
        if !data.is_null() {
            self.0["data"] = data;
        }
        self
    }

    /// The same of one transaction of a bundle.
    pub(crate) fn of(mut self, index: usize) -> Self {
        let message = self.0["message"].as_str().unwrap_or_default();
        self.0["message"] = format!("txs[{index}]: {message}").into();
        self
    }

    pub(crate) fn as_value(&self) -> &Value {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn into_value(self) -> Value {
        self.0
    }
}

impl From<UpstreamError> for RpcError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Rpc(error) => Self(error),
            other => Self::internal(other),
        }
    }
}

impl From<QueueError> for RpcError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full => Self::overloaded(error.to_string()),
            QueueError::TooLate
            | QueueError::Sender
            | QueueError::Parked
            | QueueError::ParkedFull
            | QueueError::Bundled => Self::transaction(error.to_string()),
            QueueError::Log(error) => Self::internal(error),
        }
    }
}
