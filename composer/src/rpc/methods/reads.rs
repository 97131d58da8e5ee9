//! Reads that add what waits here to what the execution client has.

use alloy_primitives::{Address, B256};
use serde_json::{Value, json};

use super::{Rollup, argument, shown};
use crate::{
    queue::{Item, Stage, can_pass},
    rpc::{RpcError, pending},
};

impl Rollup {
    /// The client's receipt and nobody else's: who has it may read what the transaction has done, and
    /// libraries take no receipt without the hash of its block.
    pub(super) async fn receipt(&self, params: &Value) -> Result<Value, RpcError> {
        self.ask("eth_getTransactionReceipt", params).await
    }

    /// The client's receipt; before it has one, what the conductor has told.
    pub(super) async fn early_receipt(&self, params: &Value) -> Result<Value, RpcError> {
        let hash: B256 = argument(params, 0)?;
        let known = self.receipt(params).await;
        match self.early.receipt(&hash) {
            Some(told) if !is_known(&known) => shown(told.receipt),
            _ => known,
        }
    }

    pub(super) async fn balance(&self, params: &Value) -> Result<Value, RpcError> {
        if !pending::is_asked(params) {
            return self.ask("eth_getBalance", params).await;
        }
        let (address, rollup) = (argument(params, 0)?, self.config.rollup_id);
        pending::balance(&self.queue, &self.upstream, rollup, address).await
    }

    pub(super) async fn block_by_number(&self, params: &Value) -> Result<Value, RpcError> {
        if params.get(0) != Some(&json!("pending")) {
            return self.ask("eth_getBlockByNumber", params).await;
        }
        pending::block(&self.upstream, self.config.slot_secs.get(), params).await
    }

    pub(super) async fn transaction_count(&self, params: &Value) -> Result<Value, RpcError> {
        if !pending::is_asked(params) {
            return self.ask("eth_getTransactionCount", params).await;
        }
        let address: Address = argument(params, 0)?;
        let nonce = self.intake.pending_nonce(address).await?;
        Ok(json!(format!("{nonce:#x}")))
    }

    pub(super) async fn transaction(&self, params: &Value) -> Result<Value, RpcError> {
        let hash: B256 = argument(params, 0)?;
        let known = self.ask("eth_getTransactionByHash", params).await;
        if is_known(&known) {
            return known;
        }
        self.held(hash).map_or(known, Ok)
    }

    /// A transaction that this composer holds, without a block.
    pub(crate) fn held(&self, hash: B256) -> Option<Value> {
        let item = self.queue.get(self.config.rollup_id, hash)?;
        if self.is_skipped(&item) {
            return None;
        }
        let inner =
            alloy_consensus::transaction::Recovered::new_unchecked(item.tx.clone(), item.sender);
        let transaction = alloy_rpc_types_eth::Transaction {
            inner,
            block_hash: None,
            block_number: None,
            transaction_index: None,
            effective_gas_price: None,
            block_timestamp: None,
        };
        shown(transaction).ok()
    }

    pub(super) fn is_skipped(&self, item: &Item) -> bool {
        match item.stage {
            Stage::Skipped(_) | Stage::Rejected(_) => true,
            // One that can pass is not the end.
            Stage::Sequenced(place) => {
                let reason = self.early.skip(item.tx.tx_hash(), place);
                reason.is_some_and(|reason| !can_pass(&reason))
            }
            Stage::Queued | Stage::Batched(_) | Stage::Executed(..) => false,
        }
    }
}

/// Whether the client has what it was asked for.
fn is_known(answer: &Result<Value, RpcError>) -> bool {
    answer.as_ref().is_ok_and(|answer| !answer.is_null())
}
