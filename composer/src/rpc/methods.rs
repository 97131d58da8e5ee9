use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64};
use counterpoint_core::registry::RollupConfig;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{bundle, error::RpcError, pending};
use crate::{
    admission::Admission,
    early::Early,
    intake::Intake,
    queue::{Item, Place, Queue, Stage, can_pass},
    upstream::{Upstream, UpstreamError},
};

/// Reads that the execution client answers. Everything else is refused, whatever its name.
const PASSED_ON: [&str; 33] = [
    "eth_accounts",
    "eth_blobBaseFee",
    "eth_blockNumber",
    "eth_call",
    "eth_createAccessList",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_getHeaderByHash",
    "eth_getHeaderByNumber",
    "eth_getLogs",
    "eth_getProof",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getUncleCountByBlockHash",
    "eth_getUncleCountByBlockNumber",
    "eth_maxPriorityFeePerGas",
    "eth_newBlockFilter",
    "eth_newFilter",
    "eth_syncing",
    "eth_uninstallFilter",
    "net_listening",
    "web3_sha3",
];

/// Most calls that wait for a receipt, of one rollup.
const MAX_WAITING: usize = 4_096;
/// How long a call waits for a receipt if it does not say, and at most; as geth does.
const WAIT: Duration = Duration::from_secs(20);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Pause between two looks at what the conductor does not tell.
const LOOK: Duration = Duration::from_millis(50);

/// One rollup, as wallets see it.
#[derive(Debug)]
pub(crate) struct Rollup {
    /// Of which only what never changes is used.
    config: Arc<RollupConfig>,
    queue: Arc<Queue>,
    upstream: Upstream,
    early: Arc<Early>,
    conductor: Option<String>,
    http: reqwest::Client,
    intake: Arc<Intake>,
    waiting: Semaphore,
}

impl Rollup {
    pub(crate) fn new(
        config: Arc<RollupConfig>,
        queue: Arc<Queue>,
        upstream: Upstream,
        early: Arc<Early>,
        conductor: Option<String>,
        admission: Admission,
    ) -> Self {
        let (id, shared) = (config.rollup_id, Arc::clone(&queue));
        let intake = Intake::new(id, admission, shared, upstream.clone());
        Self {
            intake: Arc::new(intake),
            config,
            queue,
            upstream,
            early,
            conductor,
            http: reqwest::Client::new(),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    /// Answers one call.
    pub(crate) async fn call(
        self: &Arc<Self>,
        method: &str,
        params: Value,
    ) -> Result<Value, RpcError> {
        match method {
            "eth_chainId" => Ok(json!(format!("{:#x}", self.config.evm_chain_id))),
            "net_version" => Ok(json!(self.config.evm_chain_id.to_string())),
            "web3_clientVersion" => Ok(json!(concat!(
                "counterpoint-composer/",
                env!("CARGO_PKG_VERSION")
            ))),
            "eth_sendRawTransaction" => {
                let (raw,): (Bytes,) = parse(params)?;
                Ok(json!(self.intake.send(raw).await?))
            }
            "eth_sendBundle" => {
                let hash = self.intake.send_bundle(bundle::parse(params)?).await?;
                Ok(json!({ "bundleHash": hash }))
            }
            "counterpoint_getBundleStatus" => {
                let (hash,): (B256,) = parse(params)?;
                self.bundle_status(hash).await
            }
            "eth_sendRawTransactionSync" => self.send_and_wait(&params).await,
            "eth_getTransactionCount" => self.transaction_count(params).await,
            "eth_getTransactionByHash" => self.transaction(params).await,
            "eth_getTransactionReceipt" => self.receipt(params).await,
            "counterpoint_getTransactionStatus" => {
                let (hash,): (B256,) = parse(params)?;
                self.status(hash).await
            }
            "eth_getBalance" if pending::is_asked(&params) => {
                let rollup = self.config.rollup_id;
                pending::balance(&self.queue, &self.upstream, rollup, params).await
            }
            "eth_getBlockByNumber" if params.get(0) == Some(&json!("pending")) => {
                let slot_secs = self.config.slot_secs.get();
                pending::block(&self.upstream, slot_secs, &params).await
            }
            method if PASSED_ON.contains(&method) => {
                let params = pending::translate(method, params);
                Ok(self.upstream.call(method, &params).await?)
            }
            method => Err(RpcError::unknown_method(method)),
        }
    }

    /// Takes the transactions of several calls in together.
    pub(crate) async fn send_all(
        self: &Arc<Self>,
        params: Vec<Value>,
    ) -> Vec<Result<Value, RpcError>> {
        let parsed: Vec<Result<(Bytes,), RpcError>> = params.into_iter().map(parse).collect();
        let raws = parsed.iter().flatten().map(|(raw,)| raw.clone()).collect();
        let mut hashes = self.intake.send_all(raws).await.into_iter();
        let mut sent = |(_,)| {
            hashes
                .next()
                .map_or(Ok(Value::Null), |sent| Ok(json!(sent?)))
        };
        parsed
            .into_iter()
            .map(|call| call.and_then(&mut sent))
            .collect()
    }

    /// EIP-7966: takes a transaction in, and answers with its receipt as soon as there is one.
    async fn send_and_wait(self: &Arc<Self>, params: &Value) -> Result<Value, RpcError> {
        let argument = |at| params.get(at).cloned().unwrap_or_default();
        let raw: Bytes = parse(argument(0))?;
        let wait = wait(argument(1));
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
                    let receipt = self.receipt(json!([hash])).await.unwrap_or_default();
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

    /// The client's receipt and nobody else's: who has it may read what the transaction has done, and
    /// libraries take no receipt without the hash of its block.
    async fn receipt(&self, params: Value) -> Result<Value, RpcError> {
        let receipt = self.upstream.call("eth_getTransactionReceipt", &params);
        Ok(receipt.await?)
    }

    async fn transaction_count(&self, params: Value) -> Result<Value, RpcError> {
        if !pending::is_asked(&params) {
            return Ok(self
                .upstream
                .call("eth_getTransactionCount", &params)
                .await?);
        }
        let (address, _): (Address, String) = parse(params)?;
        let nonce = self.intake.pending_nonce(address).await?;
        Ok(json!(format!("{nonce:#x}")))
    }

    async fn transaction(&self, params: Value) -> Result<Value, RpcError> {
        let (hash,): (B256,) = parse(params.clone())?;
        let known = self
            .upstream
            .call("eth_getTransactionByHash", &params)
            .await;
        if is_known(&known) {
            return Ok(known?);
        }
        let item = self.queue.get(self.config.rollup_id, hash);
        let Some(item) = item.filter(|item| !self.is_skipped(item)) else {
            return Ok(known?);
        };
        let inner = alloy_consensus::transaction::Recovered::new_unchecked(item.tx, item.sender);
        shown(alloy_rpc_types_eth::Transaction {
            inner,
            block_hash: None,
            block_number: None,
            transaction_index: None,
            effective_gas_price: None,
            block_timestamp: None,
        })
    }

    fn is_skipped(&self, item: &Item) -> bool {
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

    /// Where a transaction stands, as far as this composer knows.
    async fn status(&self, hash: B256) -> Result<Value, RpcError> {
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
    async fn bundle_status(&self, bundle: B256) -> Result<Value, RpcError> {
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
    async fn skip_reason(&self, hash: B256, place: Place) -> Option<String> {
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

/// How long a call wants to wait, in milliseconds, as a number or in hexadecimal; what is not a time
/// within bounds is not heard, as EIP-7966 asks.
fn wait(asked: Value) -> Duration {
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

/// Whether the client has what it was asked for.
fn is_known(answer: &Result<Value, UpstreamError>) -> bool {
    answer.as_ref().is_ok_and(|answer| !answer.is_null())
}

fn shown(value: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(RpcError::internal)
}

pub(super) fn parse<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(RpcError::invalid_params)
}

#[cfg(test)]
mod tests;
