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
//!
//! All of that is behind [`StateSource`]: in thin mode the client reads and roots (`crate::thin`).

mod executor;
mod restore;
mod source;
mod state;
mod store;
mod trie;

pub use executor::{BlockBuilder, BlockInputs, BuiltBlock, ExecuteError, Outcome, RollupBlock};
pub use restore::{RestoreError, StateRestore};
pub use source::{Accounts, Parent, StateError, StateSource};
#[cfg(test)]
pub(crate) use state::balance;
pub use state::{Account, GenesisImport, StateUpdate, code};
pub(crate) use state::{block_hash, clear_state};
pub use store::{Batch, DiskStore, Entry, MemStore, Store, StoreError, Table, TableKey};
pub use trie::{NodeChanges, Trie};
