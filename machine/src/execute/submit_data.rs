use counterpoint_core::action::SubmitData;

use super::{ExecuteError, Submitted, TxContext, active_rollup};
use crate::state::{StateDelta, StateRead};

/// Adds the items to the rollup's list; we never look inside.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext,
    action: &SubmitData,
    delta: &StateDelta<'_, S>,
    submitted: &mut Submitted,
) -> Result<(), ExecuteError> {
    let rollup_id = action.rollup_id();
    active_rollup(rollup_id, ctx.height, delta)?;
    submitted.extend(action.items().iter().map(|item| (rollup_id, item.clone())));
    Ok(())
}
