//! Execution in process: revm over our own Merkle Patricia trie.
//!
//! ```text
//! derive ─▶ executor ─▶ bundle of changes ─▶ state ─▶ trie ─▶ root
//!              │                               │        │
//!              └──────── reads ◀── store ◀─────┴────────┘ one batch per block
//! ```

mod executor;
mod state;
mod store;
mod trie;

pub use executor::{BlockBuilder, BlockInputs, BuiltBlock, ExecuteError, Outcome, RollupBlock};
#[cfg(test)]
pub(crate) use state::balance;
pub use state::{GenesisImport, StateUpdate, code};
pub use store::{Batch, DiskStore, Entry, MemStore, Store, StoreError, Table, TableKey};
pub use trie::{NodeChanges, Trie};
