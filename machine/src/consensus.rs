//! CometBFT's parameters, as far as the chain sets them.

use counterpoint_core::primitive::Height;

use crate::state::{ConsensusRecord, ReadRecords, StateRead, StoreError};

/// Greatest block that CometBFT takes, in bytes.
pub const MAX_BLOCK_BYTES: u64 = 104_857_600;

/// The least size of a block that a chain may ask for, in bytes.
const MIN_BLOCK_BYTES: u64 = 262_144;
/// What a block has beside transactions, in bytes at the most: header, commit, preamble.
const OVERHEAD_BYTES: u64 = 65_536;

/// What CometBFT is told to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParamsUpdate {
    /// Greatest size of a block, in bytes.
    pub max_block_bytes: Option<u64>,
    /// The first height whose votes carry an extension.
    pub vote_extensions_height: Option<Height>,
    /// The version that headers carry from the next block on.
    pub app_version: Option<u64>,
}

/// The least size of a block that leaves room for all evidence.
pub(crate) fn min_block_bytes(max_evidence_bytes: u64) -> u64 {
    MIN_BLOCK_BYTES.max(max_evidence_bytes)
}

/// Most bytes of a transaction that a block has room for.
pub(crate) fn max_tx_bytes<S: StateRead>(state: &S) -> Result<u64, StoreError> {
    let room = state.consensus()?.max_block_bytes;
    Ok(room.saturating_sub(OVERHEAD_BYTES))
}

/// What CometBFT must be told after the state went from `before` to `after`.
pub(crate) fn update<A: StateRead, B: StateRead>(
    before: &A,
    after: &B,
) -> Result<ParamsUpdate, StoreError> {
    let versions = (before.chain()?.app_version, after.chain()?.app_version);
    let (old, new): (ConsensusRecord, ConsensusRecord) = (before.consensus()?, after.consensus()?);
    let bytes = (new.max_block_bytes != old.max_block_bytes).then_some(new.max_block_bytes);
    let votes = (new.vote_extensions_height != old.vote_extensions_height)
        .then_some(new.vote_extensions_height);
    Ok(ParamsUpdate {
        max_block_bytes: bytes,
        vote_extensions_height: votes,
        app_version: (versions.0 != versions.1).then_some(versions.1),
    })
}
