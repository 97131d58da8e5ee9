use borsh::{BorshDeserialize, BorshSerialize};

use crate::atomic::AtomicBundle;

/// Seals the transactions of an atomic bundle and locks the tips of all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SubmitBundle {
    /// The bundle.
    pub bundle: AtomicBundle,
}
