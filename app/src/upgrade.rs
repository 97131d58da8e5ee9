//! Upgrades: a node without the rules that come next stops before they do.

use counterpoint_core::{action::ScheduleUpgrade, primitive::Height};
use counterpoint_machine::{AppVersion, query};

use crate::store::Store;

/// The next block needs rules that this software does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "upgrade {:?}: from height {} on the chain follows the rules of app version {}, and this \
     software knows them up to {newest}: install a release that knows them, and start it on the \
     same data",
    plan.name(), plan.height(), plan.app_version()
)]
pub(crate) struct Missing {
    plan: ScheduleUpgrade,
    newest: u64,
}

/// Whether the next block is beyond a node that follows the rules up to `newest`.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn missing(store: &Store, newest: AppVersion) -> anyhow::Result<Option<Missing>> {
    let state = store.state();
    let next = Height::new(state.tip()?.height.get() + 1);
    let planned = query::upgrade(&state)?.map(|upgrade| upgrade.plan);
    let due = planned.filter(|plan| plan.height() <= next);
    let known = |number| AppVersion::from_number(number).is_some_and(|version| version <= newest);
    Ok(due
        .filter(|plan| !known(plan.app_version()))
        .map(|plan| Missing {
            plan,
            newest: newest.number(),
        }))
}
