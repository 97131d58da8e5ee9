//! Where a transaction stands.

use std::time::Duration;

use alloy_primitives::B256;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Rollup;
use crate::{
    queue::{Place, Stage},
    rpc::{RpcError, pending},
};

impl Rollup {
    /// Where a transaction stands, as far as this composer knows.
    pub(crate) async fn status(&self, hash: B256) -> Result<Value, RpcError> {
        if let Some(told) = self.early.receipt(&hash) {
            return Ok(json!({
                "hash": hash, "status": "executed",
                "height": told.place.height, "index": told.place.index,
                "blockNumber": told.block_number, "success": told.receipt.status(),
            }));
        }
        let Some(item) = self.queue.get(self.config.rollup_id, hash) else {
            if self.queue.was_replaced(&hash) {
                return Ok(json!({ "hash": hash, "status": "rejected", "reason": "replaced" }));
            }
            return self.status_of_old(hash).await;
        };
        let stage = match item.stage {
            Stage::Sequenced(place) if self.is_skipped(&item) => Stage::Skipped(place),
            stage => stage,
        };
        Ok(match stage {
            Stage::Queued => pending::status(&self.queue, &item),
            Stage::Batched(nonce) => {
                json!({ "hash": hash, "status": "submitted", "batch": nonce })
            }
            Stage::Sequenced(place) => json!({
                "hash": hash, "status": "sequenced",
                "height": place.height, "index": place.index,
            }),
            Stage::Executed(place, execution) => json!({
                "hash": hash, "status": "executed",
                "height": place.height, "index": place.index,
                "blockNumber": execution.block_number, "success": execution.success,
            }),
            Stage::Rejected(why) => {
                json!({ "hash": hash, "status": "rejected", "reason": why.to_string() })
            }
            Stage::Skipped(place) => json!({
                "hash": hash, "status": "rejected",
                "height": place.height, "index": place.index,
                "reason": self.skip_reason(hash, place).await,
            }),
        })
    }

    /// What the client says of a transaction that the queue has forgotten, or never had.
    async fn status_of_old(&self, hash: B256) -> Result<Value, RpcError> {
        Ok(match self.upstream.receipt(hash).await? {
            Some(receipt) => json!({
                "hash": hash, "status": "executed",
                "blockNumber": receipt.block_number.to::<u64>(),
                "success": receipt.status.to::<u64>() == 1,
            }),
            None => json!({ "hash": hash, "status": "unknown" }),
        })
    }

    /// Where the transactions of a bundle stand, in its order.
    pub(super) async fn bundle_status(&self, bundle: B256) -> Result<Value, RpcError> {
        let Some(items) = self.queue.bundle(self.config.rollup_id, bundle) else {
            return Ok(Value::Null);
        };
        let mut transactions = Vec::new();
        for item in items {
            transactions.push(self.status(*item.tx.tx_hash()).await?);
        }
        Ok(json!({ "bundleHash": bundle, "transactions": transactions }))
    }

    /// Why the conductor skipped a transaction, if it still knows.
    pub(super) async fn skip_reason(&self, hash: B256, place: Place) -> Option<String> {
        #[derive(Deserialize)]
        struct Skip {
            reason: Option<String>,
        }
        if let Some(reason) = self.early.skip(&hash, place) {
            return Some(reason);
        }
        let known = self.queue.get(self.config.rollup_id, hash);
        let known = known.and_then(|item| item.skip).map(|skip| skip.reason);
        if let Some(reason) = known.filter(|reason| !reason.is_empty()) {
            return Some(reason);
        }
        let url = format!("{}/skips/{hash}", self.conductor.as_ref()?);
        let answer = self
            .http
            .get(url)
            .timeout(Duration::from_secs(2))
            .send()
            .await;
        answer.ok()?.json::<Skip>().await.ok()?.reason
    }
}
