//! What is kept, and for how long. The app forgets its part of old blocks and lets CometBFT forget
//! them too, never one that is still needed.
//!
//! # Specification
//! `docs/spec/snapshots.md`, section "Retention".

use std::{sync::Arc, time::Duration};

use counterpoint_core::{primitive::Height, slot::MAX_BACKLOG_SECS};
use counterpoint_service::to_f64;
use metrics::gauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{metric, snapshot::Snapshots, store::Store};

/// Pause between two looks. Everything is synced to disk then, which commits wait for.
const PERIOD: Duration = Duration::from_secs(10);

/// Header time of the blocks that rollups may still need: an item waits so long for its place in a
/// rollup block, and a conductor must find what came before it.
const NEEDED_SECS: u64 = 2 * MAX_BACKLOG_SECS;

/// Raises the lowest height, and removes what lies below.
#[derive(Debug)]
pub(crate) struct Retention {
    store: Store,
    snapshots: Arc<Snapshots>,
    /// How many heights are kept; all if 0.
    heights: u64,
    /// The last height with a signed header.
    header: watch::Receiver<Height>,
    /// The lowest height that CometBFT must keep; 0 for all.
    retained: watch::Sender<Height>,
}

/// What must be kept, each for a reason of its own.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// The last height that is on disk for good: after a power cut CometBFT replays what follows.
    durable: Height,
    /// The last height with a signed header, which CometBFT is asked for.
    header: Height,
    /// The oldest snapshot, from which a node that joins asks its peers for blocks; 0 as long as
    /// there is none.
    snapshot: Option<Height>,
    /// The first height that rollups may still need.
    recent: Height,
}

impl Needs {
    /// The lowest height to keep if nobody needed more than the last `heights`.
    fn lowest(&self, heights: u64) -> Height {
        let wanted = Height::new((self.durable.get() + 1).saturating_sub(heights));
        let needed = [self.durable, self.header, self.recent];
        let needed = needed.into_iter().chain(self.snapshot);
        needed.fold(wanted, Height::min)
    }
}

impl Retention {
    /// Keeps the last `heights` and what is needed; tells `retained` what CometBFT must keep.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        snapshots: Arc<Snapshots>,
        heights: u64,
        header: watch::Receiver<Height>,
        retained: watch::Sender<Height>,
    ) -> Self {
        Self {
            store,
            snapshots,
            heights,
            header,
            retained,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// The database is broken.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let this = Arc::new(self);
        loop {
            let (look, stop) = (Arc::clone(&this), shutdown.clone());
            tokio::task::spawn_blocking(move || look.look(&stop)).await??;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn look(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        if self.heights > 0 {
            let lowest = self.needs()?.lowest(self.heights);
            self.store.raise_lowest(lowest)?;
            self.retained.send_replace(self.store.lowest()?);
        }
        gauge!(metric::LOWEST_HEIGHT).set(to_f64(self.store.lowest()?.get()));
        let mut steps = 0;
        while !stop.is_cancelled() && self.store.prune()?.is_continue() {
            steps += 1;
        }
        if steps > 0 {
            info!(lowest = %self.store.lowest()?, "pruned");
        }
        Ok(())
    }

    fn needs(&self) -> anyhow::Result<Needs> {
        let durable = self.store.tip()?.height;
        self.store.sync()?;
        gauge!(metric::DURABLE_HEIGHT).set(to_f64(durable.get()));
        // Old ones hold nothing back where no new one will take their place.
        let first = || self.snapshots.oldest().unwrap_or_default();
        let snapshot = self.snapshots.are_made().then(first);
        Ok(Needs {
            durable,
            header: *self.header.borrow(),
            snapshot,
            recent: self.first_within(durable)?,
        })
    }

    /// The first height whose time is not long before that of `last`.
    fn first_within(&self, last: Height) -> anyhow::Result<Height> {
        let Some(time) = self.store.time(last)? else {
            return Ok(last);
        };
        let since = time.seconds.saturating_sub(NEEDED_SECS);
        let (mut low, mut high) = (self.store.lowest()?.get(), last.get());
        while low < high {
            let middle = low + (high - low) / 2;
            let time = self.store.time(Height::new(middle))?;
            if time.is_some_and(|time| time.seconds < since) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Height::new(low))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::testing::{Node, Template};

    #[test]
    fn what_is_needed_is_kept() {
        let needs = Needs {
            durable: Height::new(100),
            header: Height::new(99),
            snapshot: None,
            recent: Height::new(90),
        };
        let lowest = |heights, needs: Needs| needs.lowest(heights).get();
        assert_eq!(lowest(30, needs), 71);
        assert_eq!(lowest(1, needs), 90);
        assert_eq!(lowest(200, needs), 0);
        let with = |height| Some(Height::new(height));
        let (snapshot, header) = (with(40), Height::new(50));
        assert_eq!(lowest(30, Needs { snapshot, ..needs }), 40);
        assert_eq!(lowest(30, Needs { header, ..needs }), 50);
        let snapshot = with(0);
        assert_eq!(lowest(30, Needs { snapshot, ..needs }), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn old_blocks_go_here_and_at_cometbft() {
        let directory = tempdir().unwrap();
        let node = Node::start(directory.path()).await;
        let template = Template::of(&node).await;
        for height in 3..=30 {
            let block = template.block(height, height * 100);
            node.store.commit(block).unwrap();
        }
        let (header, headers) = watch::channel(Height::new(18));
        let (retained, retain) = watch::channel(Height::new(0));
        let stop = CancellationToken::new();
        let (store, snapshots) = (node.store.clone(), Arc::clone(&node.snapshots));
        let archive = Retention::new(
            store.clone(),
            Arc::clone(&snapshots),
            0,
            headers.clone(),
            retained.clone(),
        );
        let retention = Retention::new(store, snapshots, 5, headers, retained);
        let look = |expected| {
            retention.look(&stop).unwrap();
            let lowest = node.store.lowest().unwrap();
            assert_eq!((lowest.get(), retain.borrow().get()), (expected, expected));
            let kept = |height| node.store.time(Height::new(height)).unwrap().is_some();
            assert!(kept(expected) && !kept(expected - 1));
        };
        look(1); // Nodes could not join without a snapshot.
        node.snapshots.committed(Height::new(30), &node.store);
        node.make_snapshot();
        look(18); // Later headers are still to be fetched.
        header.send_replace(Height::new(30));
        look(21); // 960 s before 3,000 s lies height 20.4.
        archive.look(&stop).unwrap();
        assert_eq!(node.store.lowest().unwrap(), Height::new(21));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn cometbft_is_told_at_commit() {
        let directory = tempdir().unwrap();
        let node = Node::start(directory.path()).await;
        for (retained, expected) in [(0, 0), (0, 0), (2, 2)] {
            node.retain.send_replace(Height::new(retained));
            let proposal = node.prepare(0).await;
            node.finalize(&proposal).await.unwrap();
            assert_eq!(node.commit().await.unwrap(), expected);
        }
    }
}
