//! `eth_sendRawTransactionSync`: one call from a raw transaction to its receipt.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{B256, Bytes, U64};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{Rollup, argument, shown};
use crate::{
    queue::{Stage, can_pass},
    rpc::RpcError,
};

/// How long a call waits for a receipt if it does not say, and at most; as geth does.
pub(super) const WAIT: Duration = Duration::from_secs(20);
pub(super) const MAX_WAIT: Duration = Duration::from_secs(60);
/// Pause between two looks at what the conductor does not tell.
const LOOK: Duration = Duration::from_millis(50);

impl Rollup {
    /// EIP-7966: takes a transaction in, and answers with its receipt as soon as there is one.
    pub(super) async fn send_and_wait(self: &Arc<Self>, params: &Value) -> Result<Value, RpcError> {
        let raw: Bytes = argument(params, 0)?;
        let wait = wait(argument(params, 1)?);
        let deadline = Instant::now() + wait;
        let _seat = self
            .waiting
            .try_acquire()
            .map_err(|_| RpcError::overloaded("too many calls wait for a receipt"))?;
        let told = self.early.watch();
        let hash = self.intake.send(raw).await?;
        let outcome = timeout_at(deadline, self.outcome(hash, told)).await;
        outcome.unwrap_or_else(|_| Err(RpcError::timeout(hash, wait)))
    }

    /// The receipt of a transaction that was taken in, or why there is none.
    async fn outcome(&self, hash: B256, mut told: watch::Receiver<()>) -> Result<Value, RpcError> {
        loop {
            told.mark_unchanged();
            if let Some(included) = self.early.receipt(&hash) {
                return shown(included.receipt);
            }
            let item = self.queue.get(self.config.rollup_id, hash);
            match item.as_ref().map(|item| item.stage) {
                Some(Stage::Skipped(place)) => {
                    let reason = self.skip_reason(hash, place).await;
                    let reason = reason.as_deref().unwrap_or("it was skipped");
                    return Err(RpcError::skipped(hash, reason));
                }
                Some(Stage::Sequenced(place)) => {
                    let reason = self.early.skip(&hash, place);
                    if let Some(reason) = reason.filter(|reason| !can_pass(reason)) {
                        return Err(RpcError::skipped(hash, &reason));
                    }
                }
                None if self.queue.was_replaced(&hash) => {
                    return Err(RpcError::skipped(hash, "replaced"));
                }
                None | Some(Stage::Executed(..)) => {
                    let receipt = self.receipt(&json!([hash])).await.unwrap_or_default();
                    if !receipt.is_null() {
                        return Ok(receipt);
                    }
                }
                Some(Stage::Rejected(why)) => {
                    return Err(RpcError::skipped(hash, &why.to_string()));
                }
                Some(Stage::Queued | Stage::Batched(_)) => {}
            }
            tokio::select! {
                _ = told.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }
}

/// How long a call wants to wait, in milliseconds, as a number or in hexadecimal; what is not a time
/// within bounds is not heard, as EIP-7966 asks.
pub(super) fn wait(asked: Value) -> Duration {
    let millis = match &asked {
        Value::Number(number) => number.as_u64(),
        _ => serde_json::from_value::<U64>(asked)
            .ok()
            .map(|asked| asked.to()),
    };
    let wait = millis.map(Duration::from_millis);
    let within = wait.filter(|wait| !wait.is_zero() && *wait <= MAX_WAIT);
    within.unwrap_or(WAIT)
}
