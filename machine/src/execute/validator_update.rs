use counterpoint_core::{
    action::ValidatorUpdate,
    state::{Tombstone, Validator},
};

use super::{ExecuteError, TxContext};
use crate::{
    rejection::Rejection,
    state::{Key, ReadRecords, StateDelta, StateRead},
    validators::{MAX_VALIDATORS, ValidatorSet, total_power},
};

/// Adds, changes or removes a validator.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &ValidatorUpdate,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let address = action.public_key().address();
    let mut set = delta.validators()?;
    if action.power() == 0 {
        set.remove(&address)
            .ok_or(Rejection::UnknownValidator(address))?;
        delta.delete(&Key::Validator(address));
    } else {
        let tombstone: Option<Tombstone> = delta.read(&Key::Tombstone(address))?;
        if tombstone.is_some() {
            return Err(Rejection::Tombstoned(address).into());
        }
        let validator = Validator {
            public_key: action.public_key(),
            power: action.power(),
            payout: action.payout(),
        };
        set.insert(address, validator);
        delta.put(&Key::Validator(address), &validator)?;
    }
    Ok(check_set(ctx.validators, &set)?)
}

/// Whether CometBFT and light clients can follow from the set before the block to this one.
fn check_set(before: &ValidatorSet, after: &ValidatorSet) -> Result<(), Rejection> {
    let total = total_power(after);
    if total == 0 {
        return Err(Rejection::NoValidators);
    }
    if after.len() > MAX_VALIDATORS || total > ValidatorUpdate::MAX_POWER {
        return Err(Rejection::TooManyValidators);
    }
    let limit = total_power(before)
        .checked_div(3)
        .unwrap_or_default()
        .max(1);
    let grown = |from: &ValidatorSet, to: &ValidatorSet| {
        let growth = to.iter().map(|(address, validator)| {
            let old = from.get(address).map_or(0, |validator| validator.power);
            validator.power.saturating_sub(old)
        });
        growth.fold(0, u64::saturating_add)
    };
    let moved = grown(before, after).max(grown(after, before));
    if moved > limit {
        return Err(Rejection::PowerMoves { moved, limit });
    }
    Ok(())
}
