//! Execution in process: revm over our own Merkle Patricia trie.
//!
//! ```text
//! derive ─▶ executor ─▶ bundle of changes ─▶ state ─▶ trie ─▶ root
//!              │                               │        │
//!              └──────── reads ◀── store ◀─────┴────────┘ one batch per block
//! ```
//! The state may be larger than memory: the store's cache has a bound, and beside it there is what one
//! block reads and writes. Senders, tries of different accounts and subtrees are worked on in
//! parallel; transactions are not.

mod executor;
mod restore;
mod state;
mod store;
mod trie;

pub use executor::{BlockBuilder, BlockInputs, BuiltBlock, ExecuteError, Outcome, RollupBlock};
pub use restore::{RestoreError, StateRestore};
#[cfg(test)]
pub(crate) use state::balance;
pub use state::{GenesisImport, StateUpdate, code};
pub use store::{Batch, DiskStore, Entry, MemStore, Store, StoreError, Table, TableKey};
pub use trie::{NodeChanges, Trie};
