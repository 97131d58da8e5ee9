use counterpoint_core::{action::ConsensusChange, primitive::Height};

use super::{ExecuteError, TxContext};
use crate::{
    consensus::MAX_BLOCK_BYTES,
    rejection::{Mismatch, Rejection},
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Heights between the decision and the first votes with extensions.
const NOTICE_HEIGHTS: u64 = 2;
/// The same at the most: CometBFT counts heights in fewer bits than we do.
const MAX_AHEAD_HEIGHTS: u64 = 100_000_000;

/// Changes CometBFT's parameters, within what CometBFT itself accepts: it would stop for ever on
/// anything else.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &ConsensusChange,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let mut record = delta.consensus()?;
    if let Some(bytes) = action.max_block_bytes {
        if !(record.min_block_bytes..=MAX_BLOCK_BYTES).contains(&bytes) {
            return Err(Rejection::BlockBytes {
                bytes,
                least: record.min_block_bytes,
            }
            .into());
        }
        record.max_block_bytes = bytes;
    }
    if let Some(actual) = action.vote_extensions_height {
        let planned = record.vote_extensions_height;
        if planned > Height::new(0) && planned <= ctx.height {
            return Err(Rejection::VoteExtensionsOn.into());
        }
        let from = |ahead: u64| Height::new(ctx.height.get().saturating_add(ahead));
        let expected = actual.clamp(from(NOTICE_HEIGHTS), from(MAX_AHEAD_HEIGHTS));
        if actual != expected {
            return Err(Rejection::VoteExtensions(Mismatch { expected, actual }).into());
        }
        record.vote_extensions_height = actual;
    }
    Ok(delta.put(&Key::Consensus, &record)?)
}
