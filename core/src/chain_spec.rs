//! What a rollup's blocks are executed under: the part of its genesis file that consensus needs.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::{EvmAddress, Hash};

/// The rules of one rollup's EVM; its digest stands in the registry.
///
/// # Specification
/// `docs/spec/derivation.md`, section "Chain specification".
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ChainSpec {
    /// Hash of the rollup's genesis block.
    pub genesis_hash: Hash,
    /// EIP-155 chain id.
    pub evm_chain_id: u64,
    /// Forks and the timestamps they start at, in ascending order of fork.
    pub forks: Vec<(Fork, u64)>,
    /// Blob parameters of each fork, in ascending order of fork.
    pub blobs: Vec<BlobParams>,
    /// The deposit contract, which must be absent or without code.
    pub deposit_contract: Option<EvmAddress>,
}

/// A hard fork of Ethereum that a rollup may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Fork {
    /// March 2024.
    Cancun = 1,
    /// May 2025.
    Prague = 2,
    /// December 2025.
    Osaka = 3,
}

/// Blob parameters of one fork (EIP-7840).
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlobParams {
    /// The fork that they start with.
    pub fork: Fork,
    /// Blobs per block aimed at.
    pub target: u32,
    /// Most blobs per block.
    pub max: u32,
    /// How fast the blob base fee moves.
    pub update_fraction: u64,
}

impl ChainSpec {
    /// `sha256("counterpoint/chain-spec/v1" ‖ borsh)`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::tagged("counterpoint/chain-spec/v1", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_frozen() {
        let spec = ChainSpec {
            genesis_hash: Hash::new([1; 32]),
            evm_chain_id: 1_001,
            forks: vec![(Fork::Cancun, 0), (Fork::Prague, 0)],
            blobs: vec![BlobParams {
                fork: Fork::Prague,
                target: 6,
                max: 9,
                update_fraction: 5_007_716,
            }],
            deposit_contract: Some(EvmAddress::new([2; 20])),
        };
        insta::assert_snapshot!(hex::encode(borsh::to_vec(&spec).unwrap()));
        insta::assert_snapshot!(spec.hash());
    }
}
