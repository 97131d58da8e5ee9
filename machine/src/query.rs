//! Reads that users ask for.

use counterpoint_core::primitive::{Address, Amount, Height, RollupId};

pub use crate::state::{Account, DepositQueue, RollupRecord};
use crate::state::{ReadRecords, StateRead, StoreError};

/// Where all value is. `supply` is the sum of all balances, `burned` and `locked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// What the genesis issued.
    pub supply: Amount,
    /// Paid in fees.
    pub burned: Amount,
    /// In deposits and registrations.
    pub locked: Amount,
}

/// The account of an address.
///
/// # Errors
/// [`StoreError`] if the store is broken; the same for all reads.
pub fn account<S: StateRead>(state: &S, address: Address) -> Result<Option<Account>, StoreError> {
    state.account(address)
}

/// A rollup by its identifier.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn rollup<S: StateRead>(state: &S, id: RollupId) -> Result<Option<RollupRecord>, StoreError> {
    state.rollup(id)
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

/// Where all value is.
///
/// # Errors
/// [`StoreError`] if the store is broken or the chain was never initialised.
pub fn supply<S: StateRead>(state: &S) -> Result<Supply, StoreError> {
    let chain = state.chain()?;
    Ok(Supply {
        supply: chain.supply,
        burned: chain.burned,
        locked: chain.locked,
    })
}

/// The identifier of the chain.
///
/// # Errors
/// [`StoreError`] if the store is broken or the chain was never initialised.
pub fn chain_id<S: StateRead>(state: &S) -> Result<String, StoreError> {
    Ok(state.chain()?.chain_id)
}

/// The first height of the chain.
///
/// # Errors
/// [`StoreError`] if the store is broken or the chain was never initialised.
pub fn initial_height<S: StateRead>(state: &S) -> Result<Height, StoreError> {
    Ok(state.chain()?.initial_height)
}
