use counterpoint_core::{
    action::AuthorityChange,
    state::{AuthorityRecord, Table},
};

use super::ExecuteError;
use crate::{
    rejection::Rejection,
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Hands the authority over; what its members had not yet agreed on is forgotten.
pub(super) fn execute<S: StateRead>(
    action: &AuthorityChange,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    for (key, _) in delta.scan(&[Table::Approvals as u8])? {
        delta.delete_encoded(key);
    }
    let record: AuthorityRecord = delta
        .read(&Key::Authority)?
        .ok_or(Rejection::NotAuthority)?;
    let next = AuthorityRecord {
        epoch: record.epoch.checked_add(1).ok_or(Rejection::Overflow)?,
        authority: action.authority.clone(),
    };
    Ok(delta.put(&Key::Authority, &next)?)
}
