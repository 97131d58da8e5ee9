use counterpoint_core::action::ExitRollup;

use super::{ExecuteError, TxContext, owned_rollup};
use crate::{
    registry,
    state::{StateDelta, StateRead},
};

/// Announces that the rollup leaves.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &ExitRollup,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let record = owned_rollup(action.rollup_id, ctx, delta)?;
    Ok(registry::announce_exit(record, ctx.height, delta)?)
}
