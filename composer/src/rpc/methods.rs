use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use counterpoint_core::registry::RollupConfig;
use metrics::{counter, histogram};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use super::{
    error::RpcError,
    validate::{check_balance, check_fees, check_lag, check_nonce, check_replacement, decode},
};
use crate::{
    metric,
    queue::{Checked, Item, Queue, QueueError, Stage},
    upstream::Upstream,
};

/// Reads that the execution client answers. Everything else is refused, whatever its name.
const PASSED_ON: [&str; 34] = [
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
    "eth_getTransactionReceipt",
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

/// Senders whose transactions are checked at the same time; one sender's never are. As many as a
/// byte has values.
const STRIPES: usize = 256;
/// Most transactions that are being checked or written, of one rollup.
const MAX_INTAKE: usize = 4_096;

/// One rollup, as wallets see it.
#[derive(Debug)]
pub(crate) struct Rollup {
    config: RollupConfig,
    queue: Arc<Queue>,
    upstream: Upstream,
    conductor: Option<String>,
    http: reqwest::Client,
    senders: [Mutex<()>; STRIPES],
    intake: Arc<Semaphore>,
}

impl Rollup {
    pub(crate) fn new(
        config: RollupConfig,
        queue: Arc<Queue>,
        upstream: Upstream,
        conductor: Option<String>,
    ) -> Self {
        Self {
            config,
            queue,
            upstream,
            conductor,
            http: reqwest::Client::new(),
            senders: [const { Mutex::const_new(()) }; STRIPES],
            intake: Arc::new(Semaphore::new(MAX_INTAKE)),
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
                Ok(json!(self.send(raw).await?))
            }
            "eth_getTransactionCount" => self.transaction_count(params).await,
            "eth_getTransactionByHash" => self.transaction(params).await,
            "counterpoint_getTransactionStatus" => {
                let (hash,): (B256,) = parse(params)?;
                Ok(self.status(hash).await)
            }
            method if PASSED_ON.contains(&method) => {
                Ok(self.upstream.call(method, &params).await?)
            }
            method => Err(RpcError::unknown_method(method)),
        }
    }

    /// Acknowledges a transaction once it is on disk. Sent again, it is acknowledged again.
    ///
    /// It is a task of its own: a wallet that hangs up must not stop it half-way.
    async fn send(self: &Arc<Self>, raw: Bytes) -> Result<B256, RpcError> {
        let started = std::time::Instant::now();
        let seat = Arc::clone(&self.intake)
            .try_acquire_owned()
            .map_err(|_| RpcError::overloaded("the composer is overloaded, try again later"))?;
        let rollup = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _seat = seat;
            rollup.try_send(&raw).await
        });
        let sent = task
            .await
            .unwrap_or_else(|panic| Err(RpcError::internal(panic)));
        let outcome = if sent.is_ok() { "accepted" } else { "refused" };
        counter!(metric::RECEIVED, "outcome" => outcome).increment(1);
        histogram!(metric::ACKNOWLEDGE_SECONDS).record(started.elapsed());
        sent
    }

    async fn try_send(&self, raw: &[u8]) -> Result<B256, RpcError> {
        let (tx, sender) = decode(raw, &self.config)?;
        let (hash, rollup) = (*tx.tx_hash(), self.config.rollup_id);
        // The last byte of an address, whose greatest value is the last place.
        let _sender = self.senders[usize::from(sender[19])].lock().await;
        let known = self.queue.get(rollup, hash);
        if known.is_some_and(|item| !matches!(item.stage, Stage::Skipped(_))) {
            self.queue.barrier().await.map_err(RpcError::internal)?;
            return Ok(hash);
        }
        let head = self.upstream.recent_head().await?;
        check_lag(&head, &self.config)?;
        check_fees(&tx, sender, head.next_base_fee, &self.config)?;
        let account = self.upstream.account(sender).await?;
        let pending = self.queue.pending_nonce(rollup, sender, account.nonce);
        check_nonce(tx.nonce(), account.nonce, pending)?;
        let replaces = match self.queue.by_nonce(rollup, sender, tx.nonce()) {
            None => None,
            Some(Item {
                stage: Stage::Queued,
                tx: old,
                seq,
                ..
            }) => {
                check_replacement(&tx, &old)?;
                Some(seq)
            }
            Some(_) => return Err(QueueError::TooLate.into()),
        };
        let queued = self
            .queue
            .pending_cost(rollup, sender, account.nonce, replaces);
        check_balance(&tx, account.balance, queued)?;
        let checked = Checked {
            rollup,
            raw: bytes::Bytes::copy_from_slice(raw),
            tx,
            sender,
        };
        self.queue.accept(checked, replaces).await?;
        Ok(hash)
    }

    async fn transaction_count(&self, params: Value) -> Result<Value, RpcError> {
        let pending = params.get(1).and_then(Value::as_str) == Some("pending");
        if !pending {
            return Ok(self
                .upstream
                .call("eth_getTransactionCount", &params)
                .await?);
        }
        let (address, _): (Address, String) = parse(params)?;
        let account = self.upstream.account(address).await?;
        let nonce = self
            .queue
            .pending_nonce(self.config.rollup_id, address, account.nonce);
        Ok(json!(format!("{nonce:#x}")))
    }

    async fn transaction(&self, params: Value) -> Result<Value, RpcError> {
        let (hash,): (B256,) = parse(params.clone())?;
        let executed = self
            .upstream
            .call("eth_getTransactionByHash", &params)
            .await?;
        if !executed.is_null() {
            return Ok(executed);
        }
        let known = self.queue.get(self.config.rollup_id, hash);
        let pending = known.filter(|item| !matches!(item.stage, Stage::Skipped(_)));
        let Some(item) = pending else {
            return Ok(Value::Null);
        };
        let inner = alloy_consensus::transaction::Recovered::new_unchecked(item.tx, item.sender);
        let (block_hash, block_number, transaction_index, effective_gas_price) = Default::default();
        let pending = alloy_rpc_types_eth::Transaction {
            inner,
            block_hash,
            block_number,
            transaction_index,
            effective_gas_price,
            block_timestamp: None,
        };
        serde_json::to_value(pending).map_err(RpcError::internal)
    }

    /// Where a transaction stands, as far as this composer knows.
    async fn status(&self, hash: B256) -> Value {
        let Some(item) = self.queue.get(self.config.rollup_id, hash) else {
            if self.queue.was_replaced(&hash) {
                return json!({ "hash": hash, "status": "rejected", "reason": "replaced" });
            }
            return json!({ "hash": hash, "status": "unknown" });
        };
        match item.stage {
            Stage::Queued => json!({ "hash": hash, "status": "queued" }),
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
            Stage::Skipped(place) => json!({
                "hash": hash, "status": "rejected",
                "height": place.height, "index": place.index,
                "reason": self.skip_reason(hash).await,
            }),
        }
    }

    /// Why the conductor skipped a transaction, if it still knows.
    async fn skip_reason(&self, hash: B256) -> Option<String> {
        #[derive(Deserialize)]
        struct Skip {
            reason: Option<String>,
        }
        let url = format!("{}/skips/{hash}", self.conductor.as_ref()?);
        let answer = self
            .http
            .get(url)
            .timeout(std::time::Duration::from_secs(2))
            .send()
            .await;
        answer.ok()?.json::<Skip>().await.ok()?.reason
    }
}

fn parse<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(RpcError::invalid_params)
}
