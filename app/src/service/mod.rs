//! One `tower` service per ABCI connection.

mod consensus;
mod info;
mod mempool;
mod snapshot;

use std::{future::Future, pin::Pin};

pub(crate) use consensus::Consensus;
use counterpoint_abci::BoxError;
pub(crate) use info::info;
pub(crate) use mempool::mempool;
pub(crate) use snapshot::snapshot;

/// What a service answers in time.
pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Runs work that reads the disk or hashes off the runtime's workers; a panic there is a fault.
pub(crate) fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Answer<T> {
    Box::pin(async { tokio::task::spawn_blocking(work).await? })
}

#[cfg(test)]
mod tests;
