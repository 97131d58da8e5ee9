use counterpoint_core::{action::ScheduleUpgrade, primitive::Height, state::Upgrade};

use super::{ExecuteError, TxContext};
use crate::{
    rejection::{Mismatch, Rejection},
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Heights between a plan and the upgrade: nodes look at the plan once it is committed.
const NOTICE_HEIGHTS: u64 = 2;

/// Plans an upgrade, or calls off what was planned.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &ScheduleUpgrade,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let now = delta.chain()?.app_version;
    if action.app_version() == now {
        delta.delete(&Key::Upgrade);
        return Ok(());
    }
    let next = now.saturating_add(1);
    if action.app_version() != next {
        let (expected, actual) = (next, action.app_version());
        return Err(Rejection::UpgradeVersion(Mismatch { expected, actual }).into());
    }
    let expected = Height::new(ctx.height.get().saturating_add(NOTICE_HEIGHTS));
    if action.height() < expected {
        let actual = action.height();
        return Err(Rejection::UpgradeHeight(Mismatch { expected, actual }).into());
    }
    let plan = action.clone();
    Ok(delta.put(&Key::Upgrade, &Upgrade { plan })?)
}
