//! What becomes of atomic bundles, told to whoever listens: each stage as it is committed, and what
//! attesters are to execute now.

use std::sync::Arc;

use counterpoint_core::{
    primitive::{Hash, Height},
    state::BundleRecord,
};
use counterpoint_machine::{ScheduledBundle, scheduled};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// Heights with changes that a slow reader may lag behind.
const MAX_LAG: usize = 256;

/// Bundles that one height took to another stage.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) height: Height,
    pub(crate) records: Vec<(Hash, BundleRecord)>,
}

/// What the height after this one may release.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduled {
    pub(crate) height: Height,
    pub(crate) bundles: Arc<Vec<ScheduledBundle>>,
}

/// Tells of bundles. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bundles {
    changed: broadcast::Sender<Arc<Changed>>,
    scheduled: watch::Sender<Scheduled>,
}

impl Bundles {
    /// Nobody listens yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            changed: broadcast::Sender::new(MAX_LAG),
            scheduled: watch::Sender::new(Scheduled::default()),
        }
    }

    /// Tells of what a committed height has changed.
    pub(crate) fn tell(&self, height: Height, records: Vec<(Hash, BundleRecord)>) {
        if !records.is_empty() {
            // Nobody may be listening.
            let _ = self.changed.send(Arc::new(Changed { height, records }));
        }
    }

    /// Every change from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<Changed>> {
        self.changed.subscribe()
    }

    /// What is scheduled, always the newest.
    pub(crate) fn scheduled(&self) -> watch::Receiver<Scheduled> {
        self.scheduled.subscribe()
    }

    /// Reads what is scheduled after each commit, beside consensus.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) async fn run(
        self,
        store: Store,
        mut commits: watch::Receiver<Height>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            commits.borrow_and_update();
            let store = store.clone();
            let newest = tokio::task::spawn_blocking(move || read(&store)).await??;
            self.scheduled.send_replace(newest);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                more = commits.changed() => if more.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// What the committed state has scheduled.
pub(crate) fn read(store: &Store) -> anyhow::Result<Scheduled> {
    let state = store.state();
    let height = state.tip()?.height;
    let bundles = scheduled(&state, height).map_err(|fault| anyhow::anyhow!("{fault}"))?;
    Ok(Scheduled {
        height,
        bundles: Arc::new(bundles),
    })
}
