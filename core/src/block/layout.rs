use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::{RollupLeaf, merkle};
use crate::primitive::Hash;

/// The version of the block layout that this software knows.
pub const PREAMBLE_VERSION: u16 = 1;

/// The first byte of a block item, or of what travels between mempools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tag {
    /// Item 0 of every block.
    Preamble = 0x00,
    /// Reserved for the encrypted mempool.
    KeyReveal = 0x01,
    /// Shows that a leg of a bundle would fail.
    AtomicAbort = 0x02,
    /// Puts the legs of a bundle into blocks.
    AtomicRelease = 0x03,
    /// Records what became of a released leg.
    AtomicOutcome = 0x04,
    /// Proves that an attester lied.
    AttesterFault = 0x05,
    /// A signed user transaction.
    Transaction = 0x10,
    /// Transactions on their way between mempools; never a block item.
    GossipBundle = 0x20,
    /// What an attester sends to mempools; never a block item.
    Attestation = 0x21,
}

impl Tag {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// Commits to every rollup's part of the block; the proposer writes it, every validator recomputes
/// it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Preamble {
    /// [`PREAMBLE_VERSION`].
    pub version: u16,
    /// How many rollups have a leaf.
    pub rollups_len: u32,
    /// Merkle root over the leaves, sorted by rollup id.
    pub rollups_root: Hash,
}

/// Why bytes are not the block item they should be.
#[derive(Debug, thiserror::Error)]
pub enum BlockItemError {
    /// The first byte is another, or missing.
    #[error("expected tag {expected:?}, found {actual:?}")]
    Tag {
        /// What stands there in a valid block.
        expected: Tag,
        /// The first byte.
        actual: Option<u8>,
    },
    /// Not canonical borsh.
    #[error("failed to decode block item")]
    Decode(#[from] borsh::io::Error),
}

impl Preamble {
    /// Commits to `leaves`, which must be sorted by rollup id.
    #[must_use]
    pub fn new(leaves: &[RollupLeaf]) -> Self {
        Self {
            version: PREAMBLE_VERSION,
            rollups_len: u32::try_from(leaves.len()).unwrap_or(u32::MAX),
            rollups_root: merkle::root(leaves.iter().map(RollupLeaf::leaf).collect()),
        }
    }

    /// The block item: `0x00 ‖ borsh`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![Tag::Preamble.byte()];
        bytes.extend(borsh::to_vec(self).unwrap_or_default());
        bytes.into()
    }

    /// Reads item 0 of a block.
    ///
    /// # Errors
    /// [`BlockItemError`] if the tag is another or the rest is not canonical.
    pub fn decode(item: &[u8]) -> Result<Self, BlockItemError> {
        match item.split_first() {
            Some((tag, rest)) if *tag == Tag::Preamble.byte() => Ok(borsh::from_slice(rest)?),
            other => {
                let actual = other.map(|(tag, _)| *tag);
                Err(BlockItemError::Tag {
                    expected: Tag::Preamble,
                    actual,
                })
            }
        }
    }
}

/// The leaf of a block item under `data_hash`; CometBFT's leaves are the items' SHA-256 digests.
#[must_use]
pub fn data_leaf(item_hash: &Hash) -> Hash {
    merkle::leaf(item_hash.as_bytes())
}

/// `data_hash` of a block with these items.
#[must_use]
pub fn data_root<T: AsRef<[u8]>>(items: &[T]) -> Hash {
    let leaf = |item: &T| data_leaf(&Hash::digest(&[item.as_ref()]));
    merkle::root(items.iter().map(leaf).collect())
}
