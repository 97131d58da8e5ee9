//! Reads that users ask for.

use counterpoint_core::{
    primitive::{Address, Hash, RollupId},
    state::{
        Account, Approval, AuthorityRecord, BundleRecord, Chain, ConsensusRecord, DepositQueue,
        RollupRecord, Table, Upgrade, Validator,
    },
};

use crate::{
    atomic,
    state::{Changes, Key, ReadRecords, StateRead, StoreError, decode},
};

/// The account of an address.
///
/// # Errors
/// [`StoreError`] if the store is broken; the same for all reads.
pub fn account<S: StateRead>(state: &S, address: Address) -> Result<Option<Account>, StoreError> {
    state.account(address)
}

/// A rollup by its identifier, even if it has left.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn rollup<S: StateRead>(state: &S, id: RollupId) -> Result<Option<RollupRecord>, StoreError> {
    match state.rollup(id)? {
        Some(record) => Ok(Some(record)),
        None => state.former_rollup(id),
    }
}

/// At most `limit` rollups after one, in the order of identifiers.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn rollups_after<S: StateRead>(
    state: &S,
    after: Option<RollupId>,
    limit: usize,
) -> Result<Vec<RollupRecord>, StoreError> {
    let beyond = |record: &RollupRecord| after.is_none_or(|id| record.config.rollup_id > id);
    Ok(state
        .rollups()?
        .into_iter()
        .filter(beyond)
        .take(limit)
        .collect())
}

/// A rollup's deposits.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn deposits<S: StateRead>(state: &S, id: RollupId) -> Result<DepositQueue, StoreError> {
    state.deposit_queue(id)
}

/// Facts about the chain as a whole.
///
/// # Errors
/// [`StoreError`] if the store is broken or the chain was never initialised.
pub fn chain<S: StateRead>(state: &S) -> Result<Chain, StoreError> {
    state.chain()
}

/// The validators, in the order of their addresses.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn validators<S: StateRead>(state: &S) -> Result<Vec<Validator>, StoreError> {
    Ok(state.validators()?.into_values().collect())
}

/// Who decides about the chain, if anybody does.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn authority<S: StateRead>(state: &S) -> Result<Option<AuthorityRecord>, StoreError> {
    state.read(&Key::Authority)
}

/// Proposals that more members of the authority may join.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn proposals<S: StateRead>(state: &S) -> Result<Vec<(Hash, Approval)>, StoreError> {
    let entries = state.scan(&[Table::Approvals as u8])?;
    let read = |(key, value): &(Vec<u8>, Vec<u8>)| {
        let proposal = key.get(1..).and_then(|proposal| proposal.try_into().ok());
        let broken = || StoreError::corrupt(format!("proposal under key {key:02x?}"));
        Ok((Hash::new(proposal.ok_or_else(broken)?), decode(key, value)?))
    };
    entries.iter().map(read).collect()
}

/// What becomes of an atomic bundle.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn bundle<S: StateRead>(state: &S, id: Hash) -> Result<Option<BundleRecord>, StoreError> {
    state.read(&Key::Bundle(id))
}

/// The bundles that wait for a slot of a rollup, in the order in which they get one.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn bundles<S: StateRead>(
    state: &S,
    rollup_id: RollupId,
) -> Result<Vec<(Hash, BundleRecord)>, StoreError> {
    let mut bundles = Vec::new();
    for id in atomic::queue(state, rollup_id)? {
        let missing = || StoreError::corrupt(format!("queued bundle {id} is missing"));
        bundles.push((id, bundle(state, id)?.ok_or_else(missing)?));
    }
    Ok(bundles)
}

/// The bundles that `changes` to `state` take to another stage.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn changed_bundles<S: StateRead>(
    state: &S,
    changes: &Changes,
) -> Result<Vec<(Hash, BundleRecord)>, StoreError> {
    let first = Key::Bundle(Hash::ZERO).encode();
    let (mut changed, table) = (Vec::new(), first.first().copied());
    let of_table = changes
        .range(first..)
        .take_while(|(key, _)| key.first().copied() == table);
    for (key, value) in of_table {
        let id = key.get(1..).and_then(|id| id.try_into().ok());
        let (Some(id), Some(value)) = (id.map(Hash::new), value) else {
            continue;
        };
        let after: BundleRecord = decode(key, value)?;
        let before = bundle(state, id)?;
        if before.is_none_or(|before| before.status != after.status) {
            changed.push((id, after));
        }
    }
    Ok(changed)
}

/// The rules that are to come.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn upgrade<S: StateRead>(state: &S) -> Result<Option<Upgrade>, StoreError> {
    state.read(&Key::Upgrade)
}

/// CometBFT's parameters as far as the chain changes them.
///
/// # Errors
/// [`StoreError`] if the store is broken or the chain was never initialised.
pub fn consensus<S: StateRead>(state: &S) -> Result<ConsensusRecord, StoreError> {
    state.consensus()
}
