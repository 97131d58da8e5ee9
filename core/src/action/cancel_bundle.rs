use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::Hash;

/// Ends a bundle of the signer's that is not scheduled; what its other attempts would have cost is
/// given back.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CancelBundle {
    /// The bundle.
    pub bundle_id: Hash,
}
