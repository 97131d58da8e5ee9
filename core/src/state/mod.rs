//! The state as everybody may see it: keys, records, and proofs that a header commits to one.
//!
//! The app hash in the header of height *h* is the root of a Jellyfish Merkle tree over the state
//! that height *h* − 1 left. A node answers with value and proof, and whoever holds a verified header
//! checks them here.
//!
//! # Specification
//! `docs/spec/state.md`.

mod bundle;
mod keys;
mod proof;
mod records;
mod tree;

pub use bundle::{
    AbortReason, BundleEnds, BundleRecord, BundleStatus, LegRecord, QueuedBundle, ReleaseRecord,
    ReleasedLeg, Suspension,
};
pub use keys::{Key, Table};
pub use proof::{StateProof, StateProofError};
pub use records::{
    Account, Approval, AtomicRollup, AuthorityRecord, Chain, ConsensusRecord, DepositQueue,
    LastHeader, PendingConfig, QueuedDeposit, RollupRecord, SealedSender, Tombstone, Upgrade,
    Validator,
};
pub use tree::{EMPTY_TREE, Leaf, TreePath, branch_hash, key_hash};
