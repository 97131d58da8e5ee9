//! The tree over the state: its root is the app hash.

use crate::state::{Changes, StoreError};
use counterpoint_core::{primitive::Hash, state::key_hash};
use jmt::{
    Sha256Jmt,
    storage::{TreeReader, TreeUpdateBatch},
};

/// The root after `changes`, and what to write with them in one batch. Versions count from 0, the
/// genesis, without gaps.
///
/// # Errors
/// [`StoreError`] if the tree cannot be read.
pub fn update<R: TreeReader>(
    reader: &R,
    version: u64,
    changes: &Changes,
) -> Result<(Hash, TreeUpdateBatch), StoreError> {
    let values = changes
        .iter()
        .map(|(key, value)| (key_hash(key), value.clone()));
    let (root, batch) = Sha256Jmt::new(reader)
        .put_value_set(values, version)
        .map_err(|error| StoreError::corrupt(format!("state tree: {error:#}")))?;
    Ok((Hash::new(root.0), batch))
}
