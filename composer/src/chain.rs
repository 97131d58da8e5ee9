//! What the chain's state says, proven, as of a moment ago: the account that pays, prices, and the
//! terms of each rollup.
//!
//! Changes of a rollup have a notice of 601 heights, so what was read not long ago holds for every
//! height at which a batch signed now can be included.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use counterpoint_core::{
    fees::FeeParams,
    light::TrustedState,
    primitive::{Address, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    state::{Account, Key, PendingConfig, RollupRecord},
};
use counterpoint_service::sequencer::{Client, ClientError, proven_record};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::bundle::Share;

/// Heights that a batch stays valid; short, so that what is lost is soon sent in another one.
pub(crate) const VALID_HEIGHTS: u64 = 100;
/// Heights that pass at least between the announcement of a change and the change.
const NOTICE: u64 = 601;
/// Heights after which a rollup's record is read again.
const REFRESH: u64 = 50;
/// Heights before its exit from which a rollup takes nothing more in: what was taken in before has
/// time for two batches.
const LAST_CALL: u64 = 2 * VALID_HEIGHTS;
/// Pause between two looks.
const TICK: Duration = Duration::from_millis(250);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Without a new height for so long, another node is asked first.
const STALE: Duration = Duration::from_secs(3);
/// What a block takes before any was seen.
const INTERVAL: Duration = Duration::from_millis(200);

/// The state that a verified header leads to.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// What is trusted with that header.
    pub(crate) trusted: TrustedState,
    /// The height that left the state.
    pub(crate) height: Height,
    /// When a node proved it.
    pub(crate) seen: Instant,
    /// About how long a block takes.
    pub(crate) interval: Duration,
    /// The account that pays.
    pub(crate) account: Account,
    /// Base units per byte in the next block.
    pub(crate) base_fee: u64,
    /// The parameters of fees.
    pub(crate) fees: FeeParams,
    /// The rollups that are served.
    pub(crate) rollups: BTreeMap<RollupId, Terms>,
}

/// What holds for a rollup.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// The height that left the record.
    as_of: Height,
    config: Arc<RollupConfig>,
    pending: Option<PendingConfig>,
    /// Whether it has left.
    former: bool,
}

impl Terms {
    /// What a record says that `as_of` left.
    #[must_use]
    pub(crate) fn new(record: RollupRecord, as_of: Height, former: bool) -> Self {
        Self {
            as_of,
            config: Arc::new(record.config),
            pending: record.pending,
            former,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub(crate) fn config(&self) -> &Arc<RollupConfig> {
        &self.config
    }

    /// Whether the rollup has left, so that nothing of it is ordered any more.
    #[must_use]
    pub(crate) fn has_left(&self) -> bool {
        self.former
    }

    /// From where on it may have no leaf, if it is to leave.
    fn exit(&self) -> Option<Height> {
        let pending = self.pending.as_ref().map(|pending| &pending.config);
        let mut configs = pending.into_iter().chain([&*self.config]);
        configs.find_map(|config| match config.status {
            RollupStatus::Exiting(from) => Some(from),
            RollupStatus::Active => None,
        })
    }

    /// The part of a block that the rollup has at every height after `height`, up to `until`; nothing
    /// if it has none at one of them, or nobody can know yet.
    #[must_use]
    pub(crate) fn share(&self, height: Height, until: Height) -> Option<Share> {
        let known = self.as_of.get().saturating_add(NOTICE);
        let starts = self.config.first_height.get() > height.get().saturating_add(1);
        let leaves = self.former || self.exit().is_some_and(|from| from <= until);
        if starts || leaves || until.get() > known {
            return None;
        }
        let pending = self.pending.as_ref().filter(|next| next.from <= until);
        let share = Share::of(&self.config);
        Some(pending.map_or(share, |next| share.min(&Share::of(&next.config))))
    }

    /// The configuration in force, but for a smaller share that is announced: what is taken in now
    /// must fit then, too.
    #[must_use]
    pub(crate) fn rules(&self) -> Arc<RollupConfig> {
        let current = self.config.max_bytes_per_block;
        match &self.pending {
            Some(next) if next.config.max_bytes_per_block < current => {
                let max_bytes_per_block = next.config.max_bytes_per_block;
                Arc::new(RollupConfig {
                    max_bytes_per_block,
                    ..(*self.config).clone()
                })
            }
            _ => Arc::clone(&self.config),
        }
    }

    /// Why nothing is taken in for the rollup at a height.
    #[must_use]
    pub(crate) fn closed(&self, height: Height) -> Option<String> {
        let name = &self.config.name;
        if self.former {
            return Some(format!("rollup {name} has left the sequencer"));
        }
        let first = self.config.first_height;
        if first.get() > height.get().saturating_add(1) {
            return Some(format!("rollup {name} starts at sequencer height {first}"));
        }
        let from = self.exit()?;
        let last = height.get().saturating_add(LAST_CALL);
        (from.get() <= last).then(|| {
            format!("rollup {name} leaves the sequencer at height {from} and takes nothing more")
        })
    }
}

/// The newest view, for whoever needs one.
#[derive(Clone, Debug)]
pub(crate) struct Chain(watch::Receiver<Arc<View>>);

impl Chain {
    /// The newest view.
    #[must_use]
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for the next view.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The watcher is gone, and so is soon everything.
            std::future::pending::<()>().await;
        }
    }

    /// A chain that stands still.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn fixed(view: View) -> Self {
        Self(watch::channel(Arc::new(view)).1)
    }
}

/// Reads the state again and again.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: Client,
    payer: Address,
    view: View,
    /// When the height was new.
    advanced: Instant,
}

/// Why the state is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    /// No node proves it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The chain knows no such rollup.
    #[error("no rollup {0} is registered at the sequencer: register it first")]
    Unknown(String),
}

impl Watcher {
    /// Waits until a node proves what there is to know, about `payer` and the rollups with these
    /// names.
    ///
    /// # Errors
    /// A rollup is not registered, or the chain has forked.
    pub(crate) async fn start(
        client: Client,
        trusted: &TrustedState,
        payer: Address,
        names: &BTreeSet<&str>,
    ) -> Result<Self, ChainError> {
        loop {
            match View::first(&client, trusted.clone(), payer, names).await {
                Ok(view) => {
                    return Ok(Self {
                        client,
                        payer,
                        view,
                        advanced: Instant::now(),
                    });
                }
                Err(ChainError::Client(error)) if !matches!(error, ClientError::Fork(_)) => {
                    warn!(%error, "waiting for the sequencer");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The views to come, and the loop that brings them.
    pub(crate) fn run(self) -> (Chain, impl Future<Output = eyre::Result<()>>) {
        let (sender, receiver) = watch::channel(Arc::new(self.view.clone()));
        (Chain(receiver), self.watch(sender))
    }

    async fn watch(mut self, sender: watch::Sender<Arc<View>>) -> eyre::Result<()> {
        loop {
            tokio::time::sleep(TICK).await;
            match self.look().await {
                Ok(()) => drop(sender.send_replace(Arc::new(self.view.clone()))),
                Err(fork @ ClientError::Fork(_)) => return Err(fork.into()),
                Err(error) => {
                    warn!(%error, "no news of the chain");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads what may have changed.
    async fn look(&mut self) -> Result<(), ClientError> {
        let before = self.view.height;
        let (client, view) = (&self.client, &mut self.view);
        let proven = proven_record(client, &mut view.trusted, &Key::Account(self.payer)).await?;
        view.account = proven.record.unwrap_or_default();
        (view.height, view.seen) = (proven.height, Instant::now());
        view.read_prices(client).await?;
        let due = |terms: &Terms| view.height.get() >= terms.as_of.get().saturating_add(REFRESH);
        let due: Vec<RollupId> = view
            .rollups
            .iter()
            .filter(|(_, terms)| !terms.former && due(terms))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some(terms) = read_terms(client, &mut view.trusted, id).await? {
                if terms.former {
                    info!(
                        rollup = terms.config.name,
                        "the rollup has left the sequencer"
                    );
                }
                view.rollups.insert(id, terms);
            }
        }
        let heights = view.height.get().saturating_sub(before.get());
        if let Ok(heights) = u32::try_from(heights)
            && heights > 0
        {
            let one = self.advanced.elapsed() / heights;
            view.interval = (view.interval * 3 + one) / 4;
            self.advanced = Instant::now();
        } else if self.advanced.elapsed() > STALE {
            client.failed(proven.node, &"it has brought no new height for long");
            self.advanced = Instant::now();
        }
        Ok(())
    }
}

impl View {
    async fn first(
        client: &Client,
        mut trusted: TrustedState,
        payer: Address,
        names: &BTreeSet<&str>,
    ) -> Result<Self, ChainError> {
        let mut rollups = BTreeMap::new();
        for name in names {
            let id = RollupId::from_name(name);
            let terms = read_terms(client, &mut trusted, id).await?;
            let unknown = || ChainError::Unknown((*name).to_owned());
            rollups.insert(id, terms.ok_or_else(unknown)?);
        }
        let proven = proven_record(client, &mut trusted, &Key::Account(payer)).await?;
        let mut view = Self {
            trusted,
            height: proven.height,
            seen: Instant::now(),
            interval: INTERVAL,
            account: proven.record.unwrap_or_default(),
            base_fee: 0,
            fees: FeeParams::default(),
            rollups,
        };
        view.read_prices(client).await?;
        Ok(view)
    }

    async fn read_prices(&mut self, client: &Client) -> Result<(), ClientError> {
        let base_fee = proven_record(client, &mut self.trusted, &Key::BaseFee).await?;
        self.base_fee = base_fee.record.unwrap_or(self.base_fee);
        let fees = proven_record(client, &mut self.trusted, &Key::FeeParams).await?;
        self.fees = fees.record.unwrap_or_else(|| self.fees.clone());
        Ok(())
    }

    /// A view at height 10 of one rollup, by somebody rich.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn example(config: RollupConfig) -> Self {
        let height = Height::new(10);
        let record = RollupRecord {
            config_hash: config.hash(),
            config,
            first_opening: Some(1),
            pending: None,
            deposit: counterpoint_core::primitive::Amount::ZERO,
            paid_until: Height::new(u64::MAX),
        };
        let balance = counterpoint_core::primitive::Amount::new(u128::MAX);
        let id = record.config.rollup_id;
        Self {
            trusted: TrustedState::unchecked("test-chain".parse().unwrap(), height),
            height,
            seen: Instant::now(),
            interval: INTERVAL,
            account: Account {
                balance,
                ..Account::default()
            },
            base_fee: 8,
            fees: FeeParams::default(),
            rollups: BTreeMap::from([(id, Terms::new(record, height, false))]),
        }
    }

    /// What each rollup may have of a batch that is valid up to `until`.
    #[must_use]
    pub(crate) fn shares(&self, until: Height) -> BTreeMap<RollupId, Share> {
        let share =
            |(id, terms): (&RollupId, &Terms)| Some((*id, terms.share(self.height, until)?));
        self.rollups.iter().filter_map(share).collect()
    }
}

/// A rollup's terms, even if it has left; nothing if there is no such rollup.
async fn read_terms(
    client: &Client,
    trusted: &mut TrustedState,
    id: RollupId,
) -> Result<Option<Terms>, ClientError> {
    for (key, former) in [(Key::Rollup(id), false), (Key::FormerRollup(id), true)] {
        let proven = proven_record::<RollupRecord>(client, trusted, &key).await?;
        if let Some(record) = proven.record {
            return Ok(Some(Terms::new(record, proven.height, former)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(change: impl FnOnce(&mut RollupRecord)) -> Terms {
        let config = RollupConfig::example("alpha");
        let mut record = RollupRecord {
            config_hash: config.hash(),
            config,
            first_opening: Some(1),
            pending: None,
            deposit: counterpoint_core::primitive::Amount::ZERO,
            paid_until: Height::new(u64::MAX),
        };
        change(&mut record);
        Terms::new(record, Height::new(1_000), false)
    }

    fn pending(from: u64, change: impl FnOnce(&mut RollupConfig)) -> Terms {
        record(|record| {
            let mut config = record.config.clone();
            change(&mut config);
            let from = Height::new(from);
            record.pending = Some(PendingConfig { from, config });
        })
    }

    fn share(terms: &Terms, height: u64, until: u64) -> Option<Share> {
        terms.share(Height::new(height), Height::new(until))
    }

    #[test]
    fn a_share_holds_for_every_height_of_a_batch() {
        let plain = record(|_| {});
        let full = Some(Share::of(plain.config()));
        assert_eq!(share(&plain, 1_000, 1_601), full);
        assert_eq!(
            share(&plain, 1_100, 1_602),
            None,
            "a change may be known by then"
        );
        let less = pending(1_300, |config| config.max_items_per_block = 7);
        assert_eq!(share(&less, 1_000, 1_299), full);
        let changed = share(&less, 1_000, 1_300);
        assert_ne!(changed, full);
        let more = pending(1_300, |config| config.max_items_per_block = 100_000);
        assert_eq!(share(&more, 1_000, 1_300), full, "it may apply later");
        let tight = pending(1_300, |config| config.max_bytes_per_block = 70);
        assert_eq!(tight.rules().max_bytes_per_block, 70);
        assert_eq!(more.rules(), *plain.config());
        let late = record(|record| record.config.first_height = Height::new(1_002));
        assert_eq!(
            (share(&late, 1_000, 1_100), share(&late, 1_001, 1_100)),
            (None, full)
        );
    }

    #[test]
    fn a_rollup_that_leaves_takes_nothing_that_could_come_too_late() {
        let leaving = pending(1_002, |config| {
            config.status = RollupStatus::Exiting(Height::new(1_601));
        });
        let closed = |terms: &Terms, height| terms.closed(Height::new(height));
        assert_eq!(closed(&leaving, 1_400), None);
        let reason = closed(&leaving, 1_401).unwrap();
        assert!(
            reason.contains("leaves the sequencer at height 1601"),
            "{reason}"
        );
        assert!(share(&leaving, 1_400, 1_600).is_some());
        assert!(share(&leaving, 1_400, 1_601).is_none());
        let left = Terms {
            former: true,
            ..leaving
        };
        assert!(closed(&left, 1).unwrap().contains("has left"));
        assert!(share(&left, 1_000, 1_001).is_none());
        let late = record(|record| record.config.first_height = Height::new(1_502));
        assert!(
            closed(&late, 1_500)
                .unwrap()
                .contains("starts at sequencer height 1502")
        );
        assert_eq!(closed(&late, 1_501), None);
    }
}
