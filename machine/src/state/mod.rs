//! The state: flat keys and values, read through a trait and changed through a delta.

mod delta;
#[cfg(any(test, feature = "test-utils"))]
mod mem;
mod read;

pub(crate) use counterpoint_core::state::{
    Account, AtomicRollup, Chain, ConsensusRecord, DepositQueue, Key, LastHeader, QueuedDeposit,
    RollupRecord,
};
pub(crate) use delta::StateDelta;
#[cfg(any(test, feature = "test-utils"))]
pub use mem::MemState;
pub use read::{Changes, Entries, StateRead, StoreError};
pub(crate) use read::{ReadRecords, decode};
