use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    block::RollupItem,
    primitive::{EvmAddress, Hash},
};

/// Everything but the parent that the block around a leg is built from. Chain and attesters both
/// compute it, so that nobody can be made to execute a leg in another block.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LegEnv {
    /// Number of the rollup block.
    pub number: u64,
    /// Its timestamp.
    pub timestamp: u64,
    /// Its gas limit.
    pub gas_limit: u64,
    /// Who receives its fees.
    pub fee_recipient: EvmAddress,
    /// EIP-4399 randomness.
    pub prev_randao: [u8; 32],
    /// EIP-1559 base fee, which only those who execute know.
    pub base_fee: u64,
    /// EIP-4788 root: the ticket.
    pub beacon_root: [u8; 32],
    /// [`deposits_hash`] of what the block mints.
    pub deposits_hash: Hash,
}

impl LegEnv {
    /// `sha256("counterpoint/env/v1" ‖ borsh)`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::tagged("counterpoint/env/v1", self)
    }
}

/// `sha256("counterpoint/deposits/v1" ‖ borsh(Vec<RollupItem>))` of a block's deposits, in order.
/// It stands for the block's withdrawals root, which would need a Merkle Patricia trie.
#[must_use]
pub fn deposits_hash(deposits: &[RollupItem]) -> Hash {
    Hash::tagged("counterpoint/deposits/v1", &deposits)
}
