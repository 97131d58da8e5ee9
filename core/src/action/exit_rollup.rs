use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::RollupId;

/// Ends a rollup after a notice: its last leaf closes a rollup block, deposits that still wait go
/// back to their depositors, and the registration deposit to the owner.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ExitRollup {
    /// Which rollup; the signer must own it.
    pub rollup_id: RollupId,
}
