use counterpoint_core::{
    action::CancelBundle,
    state::{BundleRecord, BundleStatus},
};

use super::{ExecuteError, TxContext};
use crate::{
    atomic::cancel,
    rejection::Rejection,
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Ends a bundle of the signer's that no slot is taken up by.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &CancelBundle,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let id = action.bundle_id;
    let record: Option<BundleRecord> = delta.read(&Key::Bundle(id))?;
    let record = record.ok_or(Rejection::UnknownBundle(id))?;
    if record.submitter != ctx.signer {
        return Err(Rejection::NotSubmitter(id).into());
    }
    if !matches!(record.status, BundleStatus::Sealed | BundleStatus::Queued) {
        return Err(Rejection::BundleStatus(id).into());
    }
    Ok(cancel(id, record, delta)?)
}
