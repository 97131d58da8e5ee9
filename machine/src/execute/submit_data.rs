use counterpoint_core::action::SubmitData;

use super::{ExecuteError, Item, Submitted, TxContext, active_rollup};
use crate::state::{StateDelta, StateRead};

/// Adds the items to the rollup's list; we never look inside.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &SubmitData,
    delta: &StateDelta<'_, S>,
    submitted: &mut Submitted,
) -> Result<(), ExecuteError> {
    let rollup_id = action.rollup_id();
    active_rollup(rollup_id, ctx.height, delta)?;
    let items = action.items().iter().zip(action.leaves());
    submitted.extend(items.map(|(item, leaf)| Item {
        rollup_id,
        raw: item.clone(),
        leaf: *leaf,
    }));
    Ok(())
}
