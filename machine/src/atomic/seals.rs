//! Sealed transactions: nobody can run one alone.

use counterpoint_core::{
    atomic::{keccak, sender},
    block::RollupItem,
    primitive::{EvmAddress, Hash, RollupId},
};

use crate::state::{AtomicRollup, Key, ReadRecords, StateDelta, StateRead, StoreError};

/// Seals a transaction for ever. Nothing if its sender has sealed it already.
pub(crate) fn seal<S: StateRead>(
    bundle_id: Hash,
    rollup_id: RollupId,
    tx_hash: Hash,
    sender: EvmAddress,
    delta: &mut StateDelta<'_, S>,
) -> Result<Option<()>, StoreError> {
    let key = Key::Seal(rollup_id, tx_hash, sender);
    if delta.get(&key.encode())?.is_some() {
        return Ok(None);
    }
    delta.put(&key, &bundle_id)?;
    delta.put(&Key::SealedHash(rollup_id, tx_hash), &())?;
    let rollup = delta.atomic_rollup(rollup_id)?;
    let seals = rollup.seals.saturating_add(1);
    delta.put(
        &Key::AtomicRollup(rollup_id),
        &AtomicRollup { seals, ..rollup },
    )?;
    Ok(Some(()))
}

/// Drops sealed transactions from a rollup's list, and their leaves with them.
///
/// A rollup without seals costs nothing. For others each item is hashed, and only one whose hash
/// somebody sealed is looked into: it counts only if its own sender sealed it. That costs about as
/// much per byte as the signatures of the transactions that carry items.
pub(crate) fn drop_sealed<S: StateRead>(
    rollup_id: RollupId,
    list: (Vec<RollupItem>, Vec<Hash>),
    state: &S,
) -> Result<(Vec<RollupItem>, Vec<Hash>), StoreError> {
    if list.0.is_empty() || state.atomic_rollup(rollup_id)?.seals == 0 {
        return Ok(list);
    }
    let (mut items, mut leaves) = (Vec::new(), Vec::new());
    for (item, leaf) in list.0.into_iter().zip(list.1) {
        let sealed = match &item {
            RollupItem::Transaction(raw) => is_sealed(rollup_id, raw, state)?,
            RollupItem::Deposit { .. } | RollupItem::Leg { .. } => false,
        };
        if !sealed {
            items.push(item);
            leaves.push(leaf);
        }
    }
    Ok((items, leaves))
}

fn is_sealed<S: StateRead>(rollup_id: RollupId, raw: &[u8], state: &S) -> Result<bool, StoreError> {
    let tx_hash = keccak(raw);
    if state
        .get(&Key::SealedHash(rollup_id, tx_hash).encode())?
        .is_none()
    {
        return Ok(false);
    }
    let Some(sender) = sender(raw) else {
        return Ok(false);
    };
    let key = Key::Seal(rollup_id, tx_hash, sender);
    Ok(state.get(&key.encode())?.is_some())
}
