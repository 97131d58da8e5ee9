use borsh::{BorshDeserialize, BorshSerialize};
use sha3::{Digest, Keccak256};

use crate::{
    primitive::{Hash, RollupId},
    slot::Slot,
};

/// The version of the derivation rules that this software knows.
pub const ENV_VERSION: u8 = 1;

/// What a rollup block sees of the sequencer; a part of every leaf, checked by every validator.
///
/// At a height that does not open, `slot`, `number` and `config_hash` repeat the opening's and the
/// two roots are zero.
///
/// # Specification
/// `docs/spec/derivation.md`, section "Environment".
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RollupEnv {
    /// Selects the derivation rules.
    pub version: u8,
    /// Timestamp of the rollup block.
    pub slot: Slot,
    /// Number of the rollup block.
    pub number: u64,
    /// Whether this height is the first of its rollup block.
    pub opens: bool,
    /// Whether this height is the last of its rollup block.
    pub closes: bool,
    /// EIP-4788 root that the block's contracts see.
    pub beacon_root: [u8; 32],
    /// EIP-4399 randomness that the block's contracts see.
    pub prev_randao: [u8; 32],
    /// Digest of the configuration applied at the opening.
    pub config_hash: Hash,
}

/// `keccak256("counterpoint/prevrandao/v1" ‖ rollup_id ‖ header hash before the opening)`.
#[must_use]
pub fn prev_randao(rollup_id: &RollupId, header_hash: &Hash) -> [u8; 32] {
    Keccak256::new()
        .chain_update(b"counterpoint/prevrandao/v1")
        .chain_update(rollup_id.as_bytes())
        .chain_update(header_hash.as_bytes())
        .finalize()
        .into()
}
