//! One `tower` service per ABCI connection.

mod consensus;
mod convert;
mod info;
mod mempool;
mod snapshot;

use std::{future::Future, pin::Pin};

pub(crate) use consensus::{Consensus, Parts};
use counterpoint_abci::BoxError;
pub(crate) use info::info;
pub(crate) use mempool::mempool;
pub(crate) use snapshot::StateSync;

/// What a service answers in time.
pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Does work that reads the disk or hashes where it stands. Each of CometBFT's connections has a
/// thread, so nobody waits for it; handing it over would cost every block several changes of thread.
pub(crate) fn in_place<T: 'static>(
    work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Answer<T> {
    Box::pin(async { work() })
}

#[cfg(test)]
mod tests;
