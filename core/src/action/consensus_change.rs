use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::Height;

/// Changes parameters of CometBFT that the chain may change at run time. For the authority alone.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ConsensusChange {
    /// Greatest size of a block, in bytes, from the next one on.
    pub max_block_bytes: Option<u64>,
    /// The first height whose votes carry an extension; once on, they stay on.
    pub vote_extensions_height: Option<Height>,
}
