//! The state: flat keys and values, read through a trait and changed through a delta.

mod delta;
mod keys;
#[cfg(any(test, feature = "test-utils"))]
mod mem;
mod read;
mod records;

pub(crate) use delta::StateDelta;
pub(crate) use keys::Key;
#[cfg(any(test, feature = "test-utils"))]
pub use mem::MemState;
pub(crate) use read::ReadRecords;
pub use read::{Changes, Entries, StateRead, StoreError};
pub use records::{Account, DepositQueue, QueuedDeposit, RollupRecord};
pub(crate) use records::{Chain, LastHeader};
