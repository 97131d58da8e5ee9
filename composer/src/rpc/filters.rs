//! Filters that are polled. All of them are kept here, so that a client may come back with less than
//! it had, or be another one, and no poll misses anything.
//!
//! A filter of blocks or logs is no more than the last block that was told: what is new is asked of
//! the client when somebody wants it, and counts as told once it is here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy_primitives::{B256, U64};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex as AsyncMutex, broadcast},
    time::Instant,
};

use super::{
    RpcError,
    limits::Payer,
    log_filter::LogFilter,
    methods::{Rollup, argument},
    random_id,
};

/// How long a filter is kept that nobody asks for; as geth does.
const AGE: Duration = Duration::from_secs(300);
/// Most filters of one rollup.
const MAX_FILTERS: usize = 4_096;
/// Most of them of one caller.
const MAX_PER_CALLER: usize = 256;
/// Most blocks that a poll tells; the rest is told by the next one.
const MAX_BLOCKS: u64 = 128;
/// Blocks that are asked for at the same time.
const CONCURRENCY: usize = 8;

/// The filters of one rollup.
#[derive(Debug, Default)]
pub(crate) struct Filters(Mutex<HashMap<String, Filter>>);

#[derive(Debug)]
struct Filter {
    caller: Payer,
    ends: Instant,
    /// Held while the client is asked: of two polls at once none tells what the other does.
    kind: Arc<AsyncMutex<Kind>>,
}

#[derive(Debug)]
enum Kind {
    Arrivals {
        arrivals: broadcast::Receiver<B256>,
        full: bool,
    },
    Blocks {
        last: u64,
    },
    Logs {
        filter: LogFilter,
        last: u64,
    },
}

impl Filters {
    fn filters(&self) -> MutexGuard<'_, HashMap<String, Filter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `eth_newBlockFilter`.
    pub(super) async fn new_blocks(
        &self,
        rollup: &Rollup,
        caller: Payer,
    ) -> Result<Value, RpcError> {
        let last = head(rollup).await?;
        self.begin(caller, Kind::Blocks { last })
    }

    /// `eth_newFilter`.
    pub(super) async fn new_logs(
        &self,
        rollup: &Rollup,
        caller: Payer,
        mut params: Value,
    ) -> Result<Value, RpcError> {
        let filter = LogFilter::read(params[0].take())?;
        let last = head(rollup).await?;
        self.begin(caller, Kind::Logs { filter, last })
    }

    /// `eth_newPendingTransactionFilter`.
    pub(super) fn new_arrivals(
        &self,
        rollup: &Rollup,
        caller: Payer,
        params: &Value,
    ) -> Result<Value, RpcError> {
        let full = argument::<Option<bool>>(params, 0)?.unwrap_or_default();
        let arrivals = rollup.queue.arrivals(rollup.config.rollup_id);
        self.begin(caller, Kind::Arrivals { arrivals, full })
    }

    fn begin(&self, caller: Payer, kind: Kind) -> Result<Value, RpcError> {
        let id = random_id().map_err(RpcError::internal)?;
        let now = Instant::now();
        let mut filters = self.filters();
        filters.retain(|_, filter| filter.ends > now);
        let own = filters.values().filter(|filter| filter.caller == caller);
        if filters.len() >= MAX_FILTERS || own.count() >= MAX_PER_CALLER {
            return Err(RpcError::overloaded("too many filters"));
        }
        let filter = Filter {
            caller,
            ends: now + AGE,
            kind: Arc::new(AsyncMutex::new(kind)),
        };
        filters.insert(id.clone(), filter);
        Ok(json!(id))
    }

    /// `eth_uninstallFilter`: whether there was one.
    pub(super) fn end(&self, id: String) -> bool {
        let ended = self.filters().remove(&id);
        ended.is_some_and(|filter| filter.ends > Instant::now())
    }

    /// `eth_getFilterLogs`.
    pub(super) async fn logs(&self, rollup: &Rollup, id: String) -> Result<Value, RpcError> {
        let asked = match &*self.find(&id)?.lock().await {
            Kind::Logs { filter, .. } => filter.all(),
            Kind::Arrivals { .. } | Kind::Blocks { .. } => {
                return Err(RpcError::not_found("filter"));
            }
        };
        rollup.ask("eth_getLogs", &asked).await
    }

    /// `eth_getFilterChanges`.
    pub(super) async fn changes(&self, rollup: &Rollup, id: String) -> Result<Value, RpcError> {
        let kind = self.find(&id)?;
        if let Some(filter) = self.filters().get_mut(&id) {
            filter.ends = Instant::now() + AGE;
        }
        match &mut *kind.lock().await {
            Kind::Arrivals { arrivals, full } => Ok(drain(rollup, arrivals, *full)),
            Kind::Blocks { last } => {
                let until = head(rollup).await?.min(last.saturating_add(MAX_BLOCKS));
                let hashes = hashes(rollup, last.saturating_add(1), until).await?;
                *last = until.max(*last);
                Ok(json!(hashes))
            }
            Kind::Logs { filter, last } => {
                let until = head(rollup).await?;
                let Some(asked) = filter.between(last.saturating_add(1), until) else {
                    *last = until.max(*last);
                    return Ok(json!([]));
                };
                let logs = rollup.ask("eth_getLogs", &asked).await?;
                *last = until.max(*last);
                Ok(logs)
            }
        }
    }

    fn find(&self, id: &str) -> Result<Arc<AsyncMutex<Kind>>, RpcError> {
        let filters = self.filters();
        let filter = filters
            .get(id)
            .filter(|filter| filter.ends > Instant::now());
        let kind = filter.map(|filter| Arc::clone(&filter.kind));
        kind.ok_or_else(|| RpcError::not_found("filter"))
    }
}

/// All arrivals that are still remembered.
fn drain(rollup: &Rollup, arrivals: &mut broadcast::Receiver<B256>, full: bool) -> Value {
    let mut told = Vec::new();
    loop {
        match arrivals.try_recv() {
            Ok(hash) if full => told.extend(rollup.held(hash)),
            Ok(hash) => told.push(json!(hash)),
            Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return Value::Array(told),
        }
    }
}

async fn head(rollup: &Rollup) -> Result<u64, RpcError> {
    let head = rollup.ask("eth_blockNumber", &json!([])).await?;
    let head: U64 = serde_json::from_value(head).map_err(RpcError::internal)?;
    Ok(head.to())
}

async fn hashes(rollup: &Rollup, first: u64, last: u64) -> Result<Vec<Value>, RpcError> {
    let hash = |number| async move {
        let asked = json!([U64::from(number), false]);
        let mut block = rollup.ask("eth_getBlockByNumber", &asked).await?;
        match block.get_mut("hash").map(Value::take) {
            Some(hash) => Ok(hash),
            None => Err(RpcError::internal("the execution client lost a block")),
        }
    };
    let hashes = stream::iter(first..=last).map(hash);
    hashes.buffered(CONCURRENCY).try_collect().await
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::rpc::{Limits, testing::Server};

    #[tokio::test]
    async fn a_filter_that_nobody_asks_for_is_forgotten() {
        let server = Server::start(Limits::default()).await;
        let (rollup, filters) = (&server.rollup, Filters::default());
        let begin = || filters.new_arrivals(rollup, Payer::Rest, &json!([]));
        pause();
        let id = begin().unwrap().as_str().unwrap().to_owned();
        for _ in 0..3 {
            advance(AGE - Duration::from_secs(1)).await;
            let told = filters.changes(rollup, id.clone()).await;
            assert_eq!(told, Ok(json!([])), "who asks keeps it");
        }
        advance(AGE).await;
        let told = filters.changes(rollup, id.clone()).await;
        assert_eq!(told, Err(RpcError::not_found("filter")));
        assert!(!filters.end(id));
    }

    #[tokio::test]
    async fn forgotten_filters_leave_room() {
        let server = Server::start(Limits::default()).await;
        let filters = Filters::default();
        let begin = || filters.new_arrivals(&server.rollup, Payer::Rest, &json!([]));
        pause();
        for _ in 0..MAX_PER_CALLER {
            begin().unwrap();
        }
        assert_eq!(begin(), Err(RpcError::overloaded("too many filters")));
        advance(AGE).await;
        assert!(begin().is_ok());
        assert_eq!(filters.filters().len(), 1);
    }
}
