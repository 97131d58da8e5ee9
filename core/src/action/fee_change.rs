use borsh::{BorshDeserialize, BorshSerialize};

use crate::fees::FeeParams;

/// Replaces what fees are worked out from, from the next block on. For the authority alone.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FeeChange {
    /// The parameters in force from then on.
    pub params: FeeParams,
}
