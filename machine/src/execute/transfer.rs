use counterpoint_core::action::Transfer;

use super::{ExecuteError, TxContext, debit};
use crate::state::{StateDelta, StateRead};

/// Moves value from the signer to `action.to`.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &Transfer,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    debit(ctx.signer, action.amount, delta)?;
    // Read only after the debit is recorded: paying yourself must not mint.
    delta.credit(action.to, action.amount)
}
