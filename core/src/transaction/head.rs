use borsh::BorshDeserialize;

use super::MAX_CHAIN_ID_BYTES;
use crate::{
    block::Tag,
    key::PublicKey,
    primitive::{Amount, Height, Nonce},
};

/// What stands before the actions of a block item: all that can be had of it for next to nothing.
///
/// The item may be anything else all the same. But what is refused for its head need neither be
/// hashed nor decoded nor verified.
#[derive(Clone, Debug, PartialEq, Eq, BorshDeserialize)]
pub struct TransactionHead {
    /// The chain that may execute it.
    pub chain_id: String,
    /// Who it says has signed it.
    pub signer: PublicKey,
    /// The place among the signer's transactions.
    pub nonce: Nonce,
    /// Base units per byte on top of the base fee.
    pub tip_per_byte: u64,
    /// The whole fee may not pass this.
    pub max_fee: Amount,
    /// The last height at which it may be included.
    pub valid_until: Height,
}

impl TransactionHead {
    /// Reads the head of a block item, or finds that it can be no transaction.
    #[must_use]
    pub fn read(item: &[u8]) -> Option<Self> {
        let (tag, mut encoded) = item.split_first()?;
        let length = u32::from_le_bytes(encoded.get(..4)?.try_into().ok()?);
        let named = (1..=MAX_CHAIN_ID_BYTES).contains(&usize::try_from(length).ok()?);
        if *tag != Tag::Transaction.byte() || !named {
            return None;
        }
        Self::deserialize(&mut encoded).ok()
    }
}
