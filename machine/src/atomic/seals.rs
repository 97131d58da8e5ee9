//! Sealed transactions: nobody can run one alone.

use counterpoint_core::{
    atomic::{keccak, sender},
    block::RollupItem,
    primitive::{EvmAddress, Hash, RollupId},
    state::{SealedSender, Table},
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
    let hash = Key::SealedHash(rollup_id, tx_hash);
    if delta.get(&hash.encode())?.is_none() {
        delta.put(&hash, &SealedSender::Unseen)?;
    }
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
/// somebody sealed is looked into: it counts only if its own sender sealed it. Who that is is
/// recovered once for ever, so that nobody can have it done again and again by ordering a
/// transaction that a stranger sealed.
pub(crate) fn drop_sealed<S: StateRead>(
    rollup_id: RollupId,
    list: (Vec<RollupItem>, Vec<Hash>),
    delta: &mut StateDelta<'_, S>,
) -> Result<(Vec<RollupItem>, Vec<Hash>), StoreError> {
    let seals = delta.atomic_rollup(rollup_id)?.seals;
    if list.0.is_empty() || seals == 0 {
        return Ok(list);
    }
    let sealed = Hashes::read(rollup_id, seals, list.0.len(), delta)?;
    let (mut items, mut leaves) = (Vec::new(), Vec::new());
    for (item, leaf) in list.0.into_iter().zip(list.1) {
        let dropped = match &item {
            RollupItem::Transaction(raw) => {
                let tx_hash = keccak(raw);
                sealed.may_have(&tx_hash) && is_sealed(rollup_id, tx_hash, raw, delta)?
            }
            RollupItem::Deposit { .. } | RollupItem::Leg { .. } => false,
        };
        if !dropped {
            items.push(item);
            leaves.push(leaf);
        }
    }
    Ok((items, leaves))
}

/// What is sealed of a rollup.
enum Hashes {
    /// All of it, in order: it is no more than what is asked for.
    All(Vec<Hash>),
    /// Too much to read it all.
    Many,
}

impl Hashes {
    fn read<S: StateRead>(
        rollup_id: RollupId,
        seals: u64,
        asked: usize,
        state: &S,
    ) -> Result<Self, StoreError> {
        if seals > asked as u64 {
            return Ok(Self::Many);
        }
        let prefix = [&[Table::SealedHashes as u8], &rollup_id.as_bytes()[..]].concat();
        let hash = |(key, _): &(Vec<u8>, Vec<u8>)| {
            let hash = key
                .get(prefix.len()..)
                .and_then(|hash| hash.try_into().ok());
            let broken = || StoreError::corrupt(format!("sealed hash under key {key:02x?}"));
            Ok(Hash::new(hash.ok_or_else(broken)?))
        };
        let entries = state.scan(&prefix)?;
        let hashes = entries.iter().map(hash).collect::<Result<_, StoreError>>();
        Ok(Self::All(hashes?))
    }

    fn may_have(&self, tx_hash: &Hash) -> bool {
        match self {
            Self::All(hashes) => hashes.binary_search(tx_hash).is_ok(),
            Self::Many => true,
        }
    }
}

/// Whether the sender of a transaction has sealed it.
fn is_sealed<S: StateRead>(
    rollup_id: RollupId,
    tx_hash: Hash,
    raw: &[u8],
    delta: &mut StateDelta<'_, S>,
) -> Result<bool, StoreError> {
    let key = Key::SealedHash(rollup_id, tx_hash);
    let Some(mut known) = delta.read::<SealedSender>(&key)? else {
        return Ok(false);
    };
    if known == SealedSender::Unseen {
        known = sender(raw).map_or(SealedSender::Nobody, SealedSender::Account);
        delta.put(&key, &known)?;
    }
    match known {
        SealedSender::Account(sender) => {
            let seal = Key::Seal(rollup_id, tx_hash, sender);
            Ok(delta.get(&seal.encode())?.is_some())
        }
        SealedSender::Unseen | SealedSender::Nobody => Ok(false),
    }
}
