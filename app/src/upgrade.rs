//! Upgrades: a node without the rules that come next stops before they do.

use counterpoint_core::{action::ScheduleUpgrade, primitive::Height};
use counterpoint_machine::{AppVersion, query};
use tokio::sync::watch;

use crate::store::{StateSnapshot, Store, Tip};

/// The next block needs rules that this software does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// They begin with the next block.
    #[error(
        "upgrade {:?}: from height {} on the chain follows the rules of app version {}, and this \
         software knows them up to {newest}: install a release that knows them, and start it on \
         the same data",
        plan.name(), plan.height(), plan.app_version()
    )]
    Planned { plan: ScheduleUpgrade, newest: u64 },
    /// They are in force: an older release was started, or took a snapshot.
    #[error(
        "the chain follows the rules of app version {version}, and this software knows them up to \
         {newest}: install a release that knows them, and start it on the same data"
    )]
    InForce { version: u64, newest: u64 },
}

/// Watches for the block that a node which follows the rules up to `newest` must not judge.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    newest: AppVersion,
    missing: watch::Sender<Option<Missing>>,
}

impl Guard {
    /// A guard, and what it tells once there is such a block.
    pub(crate) fn new(newest: AppVersion) -> (Self, watch::Receiver<Option<Missing>>) {
        let (missing, told) = watch::channel(None);
        (Self { newest, missing }, told)
    }

    /// Looks at a state that is new on disk.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn look(&self, store: &Store) -> anyhow::Result<()> {
        let tip = store.tip()?;
        if tip.initial.get() > 0 {
            self.judge(&store.state(), &tip)?;
        }
        Ok(())
    }

    /// Which rules of the next block after `tip`, whose state is `state`, this software does not
    /// know; the node ends if there are any.
    ///
    /// # Errors
    /// The state cannot be read.
    pub(crate) fn judge(
        &self,
        state: &StateSnapshot,
        tip: &Tip,
    ) -> anyhow::Result<Option<Missing>> {
        let missing = missing(state, tip, self.newest)?;
        if missing.is_some() {
            self.missing.send_replace(missing.clone());
        }
        Ok(missing)
    }

    /// Whether the next block may be judged.
    ///
    /// # Errors
    /// What the last look has found.
    pub(crate) fn check(&self) -> Result<(), Missing> {
        let missing = self.missing.borrow().clone();
        missing.map_or(Ok(()), Err)
    }
}

/// Which rules of the next block are beyond those up to `newest`.
fn missing(
    state: &StateSnapshot,
    tip: &Tip,
    newest: AppVersion,
) -> anyhow::Result<Option<Missing>> {
    let known = |number| AppVersion::from_number(number).is_some_and(|version| version <= newest);
    let (version, newest) = (query::chain(state)?.app_version, newest.number());
    if !known(version) {
        return Ok(Some(Missing::InForce { version, newest }));
    }
    let next = Height::new(tip.height.get() + 1);
    let planned = query::upgrade(state)?.map(|upgrade| upgrade.plan);
    let due = planned.filter(|plan| plan.height() <= next && !known(plan.app_version()));
    Ok(due.map(|plan| Missing::Planned { plan, newest }))
}
