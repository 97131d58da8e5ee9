//! What a block commits to, and how to prove a part of it.
//!
//! ```text
//! RollupItem ─▶ list_root ─▶ RollupLeaf ─▶ rollups_root ─▶ Preamble, item 0 ─▶ data_hash ─▶ header
//! ```

mod env;
mod item;
mod layout;
mod leaf;
pub mod merkle;
pub mod order;
mod proof;

pub use env::{ENV_VERSION, RollupEnv, prev_randao};
pub use item::RollupItem;
pub use layout::{BlockItemError, PREAMBLE_VERSION, Preamble, Tag, data_leaf, data_root};
pub use leaf::RollupLeaf;
pub use proof::{
    ItemProof, LeafProof, ProofError, TransactionProof, VerifiedItem, VerifiedLeaf, VerifiedList,
};

#[cfg(test)]
mod tests;
