//! What attesters are to execute now, told to whoever listens. What becomes of bundles is read from the
//! store.

use std::sync::Arc;

use counterpoint_core::primitive::Height;
use counterpoint_machine::{ScheduledBundle, scheduled};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// What the height after this one may release.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduled {
    pub(crate) height: Height,
    pub(crate) bundles: Arc<Vec<ScheduledBundle>>,
}

/// Tells of bundles. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bundles {
    scheduled: watch::Sender<Scheduled>,
}

impl Bundles {
    /// Nobody listens yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            scheduled: watch::Sender::new(Scheduled::default()),
        }
    }

    /// What is scheduled, always the newest; each committed height is told, unless another follows at once.
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
