use counterpoint_core::action::FeeChange;

use super::ExecuteError;
use crate::{
    rejection::Rejection,
    state::{Key, StateDelta, StateRead},
};

/// Replaces the fee parameters; this block keeps the old ones, but for the base fee that follows it.
pub(super) fn execute<S: StateRead>(
    action: &FeeChange,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    action.params.check().map_err(Rejection::FeeParams)?;
    Ok(delta.put(&Key::FeeParams, &action.params)?)
}
