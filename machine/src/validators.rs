//! The set of validators: who has how much power, and what CometBFT is told of it.
//!
//! CometBFT stops for ever on an update that names a key twice, removes one that is not there, or
//! leaves nobody. So updates are never passed on: they are the difference of the set before and
//! after the block.

use std::collections::BTreeMap;

use counterpoint_core::{
    action::Action,
    key::PublicKey,
    primitive::{Address, Height},
    state::{Table, Tombstone, Validator},
    transaction::SignedTransaction,
};

use crate::state::{Changes, Key, ReadRecords, StateDelta, StateRead, StoreError};

/// Most validators: a header carries a signature of each.
pub const MAX_VALIDATORS: usize = 200;

/// Validators by the address of their key.
pub(crate) type ValidatorSet = BTreeMap<Address, Validator>;

/// What CometBFT is told of one validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerUpdate {
    /// Its consensus key.
    pub public_key: PublicKey,
    /// Its power from now on; 0 if it has left.
    pub power: u64,
}

/// Whether a transaction asks for a change of the set.
pub(crate) fn are_changed_by(tx: &SignedTransaction) -> bool {
    let changes = |action: &Action| matches!(action, Action::ValidatorUpdate(_));
    tx.body().actions.iter().any(changes)
}

/// The power of all together.
pub(crate) fn total_power(set: &ValidatorSet) -> u64 {
    let powers = set.values().map(|validator| validator.power);
    powers.fold(0, u64::saturating_add)
}

/// Takes all power from a key that signed two blocks of one height. The last validator stays, since
/// without it there would be no chain; that it did so is on record.
pub(crate) fn punish<S: StateRead>(
    address: Address,
    height: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let tombstone = Key::Tombstone(address);
    if delta.read::<Tombstone>(&tombstone)?.is_some() {
        return Ok(());
    }
    delta.put(&tombstone, &Tombstone { height })?;
    let set = delta.validators()?;
    if set.contains_key(&address) && set.len() > 1 {
        delta.delete(&Key::Validator(address));
    }
    Ok(())
}

/// What CometBFT must be told after a block with these `changes` to `before`.
pub(crate) fn updates<S: StateRead>(
    before: &S,
    changes: &Changes,
) -> Result<Vec<PowerUpdate>, StoreError> {
    let table = [Table::Validators as u8];
    let changed = changes.range(table.to_vec()..);
    let mut updates = Vec::new();
    for (key, value) in changed.take_while(|(key, _)| key.starts_with(&table)) {
        let decode = |value: &[u8]| crate::state::decode::<Validator>(key, value);
        let old = before.get(key)?.as_deref().map(decode).transpose()?;
        let new = value.as_deref().map(decode).transpose()?;
        let power = |validator: Option<Validator>| validator.map_or(0, |validator| validator.power);
        if let Some(validator) = new.or(old)
            && power(old) != power(new)
        {
            updates.push(PowerUpdate {
                public_key: validator.public_key,
                power: power(new),
            });
        }
    }
    Ok(updates)
}
