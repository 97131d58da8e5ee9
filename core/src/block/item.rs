use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::merkle;
use crate::primitive::{EvmAddress, Hash};

/// One entry of a rollup's list.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum RollupItem {
    /// An opaque item that somebody submitted.
    Transaction(Bytes) = 0,
    /// Value locked on the sequencer, to be minted by an EIP-4895 withdrawal.
    Deposit {
        /// Counts this rollup's deposits from 0.
        index: u64,
        /// Who is credited.
        address: EvmAddress,
        /// How much.
        amount_gwei: u64,
    } = 1,
    /// A transaction of an atomic bundle.
    Leg {
        /// The bundle that it belongs to.
        bundle_id: Hash,
        /// The transaction.
        raw: Bytes,
    } = 2,
}

impl RollupItem {
    /// The Merkle leaf of this item.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Transaction(bytes) => Self::transaction_leaf(bytes),
            other => merkle::leaf(&borsh::to_vec(other).unwrap_or_default()),
        }
    }

    /// The Merkle leaf of `Transaction(item)`, without copying the item.
    #[must_use]
    pub fn transaction_leaf(item: &[u8]) -> Hash {
        let len = u32::try_from(item.len()).unwrap_or(u32::MAX).to_le_bytes();
        Hash::digest(&[&[0, 0], &len, item])
    }

    /// The opaque bytes that count against a rollup's share of a block; none for deposits.
    #[must_use]
    pub fn data_len(&self) -> usize {
        match self {
            Self::Transaction(bytes) | Self::Leg { raw: bytes, .. } => bytes.len(),
            Self::Deposit { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_cut_hashes_the_encoding() {
        let item = Bytes::from_static(b"opaque");
        let encoded = borsh::to_vec(&RollupItem::Transaction(item.clone())).unwrap();
        assert_eq!(RollupItem::transaction_leaf(&item), merkle::leaf(&encoded));
    }
}
