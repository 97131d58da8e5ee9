//! Embedded or thin: who has the rollup's state, and what becomes of a store when that changes.
//!
//! ```text
//! embedded ─▶ thin      mark, then drop the state; blocks and progress stay
//! thin ─▶ embedded      genesis state, then each block executed once more; the mark goes with the last
//! ```
//! As long as the mark is there, what the tables of the state hold counts for nothing.

use serde::{Deserialize, Serialize};

use crate::evm::{Batch, Store, StoreError, Table, clear_state};

/// There as long as the state is not.
const THIN: &[u8] = b"thin";
/// The last block whose state is there again; there while a store is filled.
const REFILLED: &[u8] = b"refilled";

/// Who has the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The conductor, beside its client.
    #[default]
    Embedded,
    /// The client alone.
    Thin,
}

/// Whether a store has given up its state.
///
/// # Errors
/// [`StoreError`] if it cannot be read.
pub(crate) fn is_thin(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(store.get(Table::Meta, THIN)?.is_some())
}

/// Drops the state; what was filled in again counts for nothing.
///
/// # Errors
/// [`StoreError`] if the store cannot be written.
pub(crate) fn give_up_state(store: &dyn Store) -> Result<(), StoreError> {
    if !is_thin(store)? || refilled(store)?.is_some() {
        let (thin, refilled) = (
            (Table::Meta, THIN.to_vec()),
            (Table::Meta, REFILLED.to_vec()),
        );
        store.commit(Batch::from([(thin, Some(Vec::new())), (refilled, None)]))?;
    }
    // A crash may have come in between.
    match store.scan(Table::Accounts, &[], 1)?.is_empty()
        && store.scan(Table::Nodes, &[], 1)?.is_empty()
    {
        true => Ok(()),
        false => clear_state(store),
    }
}

/// Up to which block the state is there again.
///
/// # Errors
/// [`StoreError`] if the store cannot be read.
pub(crate) fn refilled(store: &dyn Store) -> Result<Option<u64>, StoreError> {
    let number = store.get(Table::Meta, REFILLED)?;
    let number = number.map(|number| <[u8; 8]>::try_from(number).map(u64::from_be_bytes));
    number
        .transpose()
        .map_err(|_| StoreError::new("the mark of a refill is damaged"))
}

/// The state after a block is there again.
pub(crate) fn stage_refilled(batch: &mut Batch, number: u64) {
    let number = number.to_be_bytes().to_vec();
    batch.insert((Table::Meta, REFILLED.to_vec()), Some(number));
}

/// The state counts, from genesis on or up to the last block.
pub(crate) fn stage_embedded(batch: &mut Batch) {
    batch.insert((Table::Meta, THIN.to_vec()), None);
    batch.insert((Table::Meta, REFILLED.to_vec()), None);
}
