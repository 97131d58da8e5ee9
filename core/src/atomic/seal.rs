use borsh::{BorshDeserialize, BorshSerialize};

use super::EvmSignature;
use crate::primitive::{Hash, RollupId};

/// The transactions of a bundle on one rollup, before anybody may see them.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LegSeal {
    /// Where they execute.
    pub rollup_id: RollupId,
    /// In the order of their execution.
    pub txs: Vec<SealedTx>,
}

impl LegSeal {
    /// Most transactions of a leg.
    pub const MAX_TXS: usize = 8;
}

/// A transaction by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealedTx {
    /// Keccak-256 of the raw transaction.
    pub tx_hash: Hash,
    /// By its sender, over the [digest](super::auth_digest) of bundle and transaction. That of
    /// anybody else makes the seal inert.
    pub auth: EvmSignature,
}
