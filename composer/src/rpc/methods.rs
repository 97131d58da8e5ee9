//! One rollup, as wallets see it: what is answered here.

mod reads;
mod status;
mod sync;

use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use counterpoint_core::registry::RollupConfig;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    bundle,
    error::RpcError,
    feed::Feed,
    filters::Filters,
    limits::Payer,
    openrpc,
    table::{Here, Method},
};
use crate::{admission::Admission, early::Early, intake::Intake, queue::Queue, upstream::Upstream};

/// Most calls that wait for a receipt, of one rollup.
const MAX_WAITING: usize = 4_096;
/// Most calls that wait for the execution client, of one rollup.
const MAX_READS: usize = 1_024;

/// One rollup, as wallets see it.
#[derive(Debug)]
pub(crate) struct Rollup {
    /// Of which only what never changes is used.
    pub(super) config: Arc<RollupConfig>,
    pub(super) queue: Arc<Queue>,
    pub(super) upstream: Upstream,
    pub(super) early: Arc<Early>,
    pub(super) feed: Arc<Feed>,
    filters: Filters,
    conductor: Option<String>,
    http: reqwest::Client,
    intake: Arc<Intake>,
    waiting: Semaphore,
    reads: Semaphore,
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
            feed: Arc::new(Feed::new(upstream.clone(), Arc::clone(&early))),
            filters: Filters::default(),
            config,
            queue,
            upstream,
            early,
            conductor,
            http: reqwest::Client::new(),
            waiting: Semaphore::new(MAX_WAITING),
            reads: Semaphore::new(MAX_READS),
        }
    }

    /// Follows the execution client for subscriptions, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        Arc::clone(&self.feed).run().await;
    }

    /// What never changes of its registration.
    #[must_use]
    pub(crate) fn config(&self) -> &RollupConfig {
        &self.config
    }

    /// Its execution client.
    #[must_use]
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// When a transaction was acknowledged, in seconds since 1970, if that is remembered.
    #[must_use]
    pub(crate) fn acknowledged(&self, hash: B256) -> Option<u64> {
        let item = self.queue.get(self.config.rollup_id, hash)?;
        Some(item.time)
    }

    /// Answers a call here.
    pub(super) async fn call(
        self: &Arc<Self>,
        method: Here,
        params: Value,
        caller: Payer,
    ) -> Result<Value, RpcError> {
        match method {
            Here::Balance => self.balance(&params).await,
            Here::BlockByNumber => self.block_by_number(&params).await,
            Here::BundleStatus => self.bundle_status(argument(&params, 0)?).await,
            Here::ChainId => Ok(json!(format!("{:#x}", self.config.evm_chain_id))),
            Here::ClientVersion => Ok(json!(concat!(
                "counterpoint-composer/",
                env!("CARGO_PKG_VERSION")
            ))),
            Here::Discover => Ok(openrpc::document()),
            Here::FilterChanges => self.filters.changes(self, argument(&params, 0)?).await,
            Here::FilterLogs => self.filters.logs(self, argument(&params, 0)?).await,
            Here::NetVersion => Ok(json!(self.config.evm_chain_id.to_string())),
            Here::NewBlockFilter => self.filters.new_blocks(self, caller).await,
            Here::NewFilter => self.filters.new_logs(self, caller, params).await,
            Here::NewPendingTransactionFilter => self.filters.new_arrivals(self, caller, &params),
            Here::EarlyReceipt => self.early_receipt(&params).await,
            Here::Receipt => self.receipt(&params).await,
            Here::Send => {
                let raw: Bytes = argument(&params, 0)?;
                Ok(json!(self.intake.send(raw).await?))
            }
            Here::SendBundle => {
                let hash = self.intake.send_bundle(bundle::parse(params)?).await?;
                Ok(json!({ "bundleHash": hash }))
            }
            Here::SendAndWait => self.send_and_wait(&params).await,
            Here::Status => {
                let hash: B256 = argument(&params, 0)?;
                self.status(hash).await
            }
            Here::Transaction => self.transaction(&params).await,
            Here::TransactionCount => self.transaction_count(&params).await,
            Here::UninstallFilter => Ok(json!(self.filters.end(argument(&params, 0)?))),
        }
    }

    /// Takes the transactions of several calls in together.
    pub(super) async fn send_all(
        self: &Arc<Self>,
        calls: Vec<Result<Bytes, RpcError>>,
    ) -> Vec<Result<B256, RpcError>> {
        let raws = calls.iter().flatten().cloned().collect();
        let mut sent = self.intake.send_all(raws).await.into_iter();
        let mut next = |_| sent.next().unwrap_or(Ok(B256::ZERO));
        calls
            .into_iter()
            .map(|call| call.and_then(&mut next))
            .collect()
    }

    /// Passes a call on to the execution client, and its result back as it is.
    pub(super) async fn pass_on(
        &self,
        method: &str,
        params: &Value,
    ) -> Result<Box<RawValue>, RpcError> {
        let _seat = self.seat()?;
        Ok(self.upstream.pass_on(method, params).await?)
    }

    /// Asks the execution client for what is looked at here.
    pub(super) async fn ask(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        let _seat = self.seat()?;
        Ok(self.upstream.call(method, params).await?)
    }

    fn seat(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        let seat = self.reads.try_acquire();
        seat.map_err(|_| RpcError::overloaded("too many calls wait for the execution client"))
    }
}

/// Checks the number of a call's parameters, in the words of geth.
pub(super) fn check_params(method: &Method, params: &Value) -> Result<(), RpcError> {
    let given = match params {
        Value::Null => &[][..],
        Value::Array(given) => given,
        _ => return Err(RpcError::invalid_params("non-array args")),
    };
    let most = method.params.len();
    if given.len() > most {
        let reason = format!("too many arguments, want at most {most}");
        return Err(RpcError::invalid_params(reason));
    }
    let is_missing = |at: &usize| {
        let missing = given.get(*at).is_none_or(Value::is_null);
        missing && method.params[*at].is_required
    };
    match (0..most).find(is_missing) {
        Some(at) => {
            let reason = format!("missing value for required argument {at}");
            Err(RpcError::invalid_params(reason))
        }
        None => Ok(()),
    }
}

/// A parameter by its place; what is not there is null.
pub(super) fn argument<T: DeserializeOwned>(params: &Value, at: usize) -> Result<T, RpcError> {
    let value = params.get(at).unwrap_or(&Value::Null);
    T::deserialize(value)
        .map_err(|error| RpcError::invalid_params(format!("invalid argument {at}: {error}")))
}

fn shown(value: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(RpcError::internal)
}

#[cfg(test)]
mod tests;
