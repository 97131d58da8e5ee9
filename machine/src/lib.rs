//! The state machine of the sequencer: synchronous, pure, deterministic.
//!
//! ```text
//! mempool ─▶ check_tx                                        one transaction, for one node's pool
//! proposer ─▶ prepare ─┐
//! validator ─▶ process ├─▶ BlockExecutor ─▶ Execution ─▶ finalize ─▶ Outcome ─▶ tree::update
//! replay ────▶ process ┘   one code path                 block hash
//! ```
//! State comes in as `&impl StateRead`, the last committed one; height, time and proposer come
//! from the block; the answer leaves as a value. A *rejection* is data and the same on every node;
//! a [`StoreError`] is a broken node, which must stop instead of voting.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::disallowed_types,
        clippy::disallowed_methods
    )
)]

mod atomic;
mod authority;
mod check;
mod consensus;
mod execute;
pub mod fees;
mod genesis;
mod lists;
mod proposal;
pub mod query;
mod registry;
mod rejection;
mod room;
mod state;
pub mod tree;
mod validators;
mod version;

pub use atomic::{
    Absent, ItemRefusal, ScheduledBundle, ScheduledLeg, has_vote, is_bound, is_early, is_wanted,
    scheduled, undecided,
};
pub use check::{CheckedTx, MAX_VALID_HEIGHTS, check_head, check_tx};
pub use consensus::{MAX_BLOCK_BYTES, ParamsUpdate};
pub use execute::ExecuteError;
pub use genesis::{ChainStart, InitError, init_chain};
pub use lists::{MAX_DEPOSITS_PER_BLOCK, RollupSlice};
pub use proposal::{
    Block, BlockContext, Execution, Outcome, ProcessError, Refusal, finalize, prepare, process,
};
pub use rejection::{LegFault, Mismatch, Rejection};
pub use room::{NoRoom, Room};
#[cfg(any(test, feature = "test-utils"))]
pub use state::MemState;
pub use state::{Changes, Entries, StateRead, StoreError};
pub use validators::{MAX_VALIDATORS, PowerUpdate};
pub use version::AppVersion;
