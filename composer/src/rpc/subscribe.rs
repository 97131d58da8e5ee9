//! Subscriptions: each is a stream of what it tells.

use std::{pin::Pin, sync::Arc, time::Duration};

use alloy_primitives::B256;
use counterpoint_core::primitive::Hash;
use futures::{FutureExt, Stream, StreamExt, future, stream};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::wrappers::{BroadcastStream, WatchStream, errors::BroadcastStreamRecvError};

use super::{
    RpcError,
    feed::{Block, Blocks},
    log_filter::LogFilter,
    methods::{Rollup, argument},
};
use crate::atomic::{Bundles, is_over};

/// What a subscription tells, until it ends or its connection must be closed.
pub(crate) type Told = Pin<Box<dyn Stream<Item = Result<String, Broken>> + Send>>;

/// Why a subscription cannot go on: it would leave something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("reader is too slow, notifications were missed")]
    Slow,
    #[error("the logs of a block could not be read")]
    NoLogs,
    #[error("the execution client does not say what became of the transaction")]
    NoStatus,
    #[error("no sequencer node proves what became of the bundle")]
    NoBundle,
}

/// A subscription that is answered with its id, and begins with that answer.
pub(crate) struct Begun {
    /// The method of its notifications.
    pub(crate) method: &'static str,
    pub(crate) told: Told,
}

/// Longest pause between two looks at a bundle.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The method of geth's notifications.
const ETH: &str = "eth_subscription";
/// The method of ours.
const COUNTERPOINT: &str = "counterpoint_subscription";

impl Rollup {
    /// `eth_subscribe`.
    pub(crate) async fn subscribe(self: &Arc<Self>, params: &Value) -> Result<Begun, RpcError> {
        let name = params.get(0).and_then(Value::as_str).ok_or_else(|| {
            RpcError::invalid_params("expected subscription name as first argument")
        })?;
        let told = match name {
            "newHeads" => {
                too_many(params, 1)?;
                let blocks = self.feed.blocks().await?;
                let header = |block: Arc<Block>| block.header.clone();
                blocks.map(move |block| Ok(header(block?))).boxed()
            }
            "logs" => {
                too_many(params, 2)?;
                let asked = params.get(1).cloned().unwrap_or_default();
                let filter = LogFilter::read(asked)?;
                logs(self.feed.blocks().await?, filter)
            }
            "newPendingTransactions" => {
                too_many(params, 2)?;
                let full = argument::<Option<bool>>(params, 1)?.unwrap_or_default();
                self.arrivals(full)
            }
            "syncing" => {
                too_many(params, 1)?;
                WatchStream::new(self.feed.syncing())
                    .map(|told| Ok(told.to_string()))
                    .boxed()
            }
            name => {
                let reason = format!("no {name:?} subscription in eth namespace");
                return Err(RpcError::new(-32_601, reason));
            }
        };
        Ok(Begun { method: ETH, told })
    }

    /// What is taken in, in full or by its hash.
    fn arrivals(self: &Arc<Self>, full: bool) -> Told {
        let rollup = Arc::clone(self);
        let arrivals = BroadcastStream::new(self.queue.arrivals(self.config.rollup_id));
        let told = arrivals.filter_map(move |hash| {
            let told = match hash {
                Err(error) => Some(Err(error.into())),
                Ok(hash) if full => rollup.held(hash).map(Ok),
                Ok(hash) => Some(Ok(json!(hash))),
            };
            future::ready(told.map(|told| told.map(|value| value.to_string())))
        });
        told.boxed()
    }

    /// `counterpoint_subscribeStatus`: where a transaction stands now, and whenever that changes.
    /// Steps that pass faster than they can be told are left out; the last one never is.
    pub(crate) fn subscribe_status(self: &Arc<Self>, params: &Value) -> Result<Begun, RpcError> {
        let hash: B256 = argument(params, 0)?;
        let following = Following {
            rollup: Arc::clone(self),
            hash,
            queue: self.queue.follow(self.config.rollup_id, hash),
            early: self.early.follow(hash),
            last: None,
        };
        let told = stream::unfold(Some(following), |following| async {
            let mut following = following?;
            let status = match following.next().await {
                Ok(status) => status,
                Err(error) => return Some((Err(error), None)),
            };
            let is_end = matches!(status["status"].as_str(), Some("executed" | "rejected"));
            let told = status.to_string();
            following.last = Some(status);
            Some((Ok(told), (!is_end).then_some(following)))
        });
        let told = told.boxed();
        let method = COUNTERPOINT;
        Ok(Begun { method, told })
    }
}

/// `counterpoint_subscribeBundle`: how far a bundle is now, and whenever that changes. Stages that pass
/// faster than they can be told are in `stages` of the next one.
pub(crate) fn subscribe_bundle(bundles: &Arc<Bundles>, id: Hash) -> Result<Begun, RpcError> {
    let changed = bundles.follow(id);
    let following = FollowingBundle {
        bundles: Arc::clone(bundles),
        id,
        changed: changed.ok_or_else(|| RpcError::not_found("bundle"))?,
        last: Value::Null,
    };
    let told = stream::unfold(Some(following), |following| async {
        let mut following = following?;
        let shown = match following.next().await {
            Ok(shown) => shown,
            Err(error) => return Some((Err(error), None)),
        };
        let (told, is_over) = (shown.to_string(), is_over(&shown));
        following.last = shown;
        Some((Ok(told), (!is_over).then_some(following)))
    });
    let (method, told) = (COUNTERPOINT, told.boxed());
    Ok(Begun { method, told })
}

/// One bundle that is followed.
struct FollowingBundle {
    bundles: Arc<Bundles>,
    id: Hash,
    changed: watch::Receiver<()>,
    last: Value,
}

impl FollowingBundle {
    /// What is shown next that is not what was shown last, but for the state that it was read from.
    async fn next(&mut self) -> Result<Value, Broken> {
        loop {
            self.changed.mark_unchanged();
            let shown = self.bundles.shown(self.id).await;
            let shown = shown.map_err(|_| Broken::NoBundle)?;
            if without_height(&self.last) != without_height(&shown) {
                return Ok(shown);
            }
            // One that is forgotten meanwhile is over, and nobody tells of it any more.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.changed()).await;
        }
    }
}

/// A bundle's state but for the height that it was read at.
fn without_height(shown: &Value) -> Value {
    let mut shown = shown.clone();
    if let Some(fields) = shown.as_object_mut() {
        fields.remove("asOf");
    }
    shown
}

/// One transaction that is followed.
struct Following {
    rollup: Arc<Rollup>,
    hash: B256,
    queue: watch::Receiver<()>,
    early: watch::Receiver<()>,
    last: Option<Value>,
}

impl Following {
    /// The next status that is another one than the last.
    async fn next(&mut self) -> Result<Value, Broken> {
        loop {
            self.queue.mark_unchanged();
            self.early.mark_unchanged();
            let status = self.rollup.status(self.hash).await;
            let status = status.map_err(|_| Broken::NoStatus)?;
            if self.last.as_ref() != Some(&status) {
                return Ok(status);
            }
            // A sender that is gone will never wake again; the other may.
            let woken = |changed: Result<(), _>| match changed {
                Ok(()) => future::ready(()).left_future(),
                Err(watch::error::RecvError { .. }) => future::pending().right_future(),
            };
            tokio::select! {
                () = self.queue.changed().then(woken) => {}
                () = self.early.changed().then(woken) => {}
            }
        }
    }
}

/// The logs that a filter describes, of every block.
fn logs(blocks: Blocks, filter: LogFilter) -> Told {
    let matching = move |block: Result<Arc<Block>, BroadcastStreamRecvError>| {
        let told: Vec<Result<String, Broken>> = match block {
            Err(error) => vec![Err(error.into())],
            Ok(block) => match &block.logs {
                None => vec![Err(Broken::NoLogs)],
                Some(logs) => logs
                    .iter()
                    .filter(|log| filter.matches(&log.log, block.number))
                    .map(|log| Ok(log.text.clone()))
                    .collect(),
            },
        };
        stream::iter(told)
    };
    blocks.flat_map(matching).boxed()
}

/// Refuses more parameters than a subscription takes.
fn too_many(params: &Value, most: usize) -> Result<(), RpcError> {
    if params.as_array().is_some_and(|params| params.len() > most) {
        let reason = format!("too many arguments, want at most {most}");
        return Err(RpcError::invalid_params(reason));
    }
    Ok(())
}

impl From<BroadcastStreamRecvError> for Broken {
    fn from(BroadcastStreamRecvError::Lagged(_): BroadcastStreamRecvError) -> Self {
        Self::Slow
    }
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
