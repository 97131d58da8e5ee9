//! The disk of `data_dir`: whether there is room, and what is left to do once a write has failed.

use std::{path::Path, sync::Arc, time::Duration};

use counterpoint_service::{Readiness, disk, to_f64};
use metrics::gauge;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{metric, queue::Queue};

/// Readiness: there is room on the disk, and what is written gets there.
pub(crate) const DISK: &str = "disk";
/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks at the disk until it is dropped.
pub(crate) async fn watch(data_dir: &Path, queue: &Queue, readiness: &Readiness) {
    let mut low = false;
    loop {
        let unmet = look(data_dir, queue);
        match (&unmet, low) {
            (Some(reason), false) => warn!(reason, "not ready"),
            (None, true) => info!(condition = DISK, "ready again"),
            _ => {}
        }
        low = unmet.is_some();
        match unmet {
            Some(reason) => readiness.unmet(DISK, reason),
            None => readiness.met(DISK),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is wrong with the disk, and what to do about it.
fn look(data_dir: &Path, queue: &Queue) -> Option<String> {
    if let Some(failure) = queue.failure() {
        let again = "make room, then start again";
        return Some(format!("the queue cannot be written: {failure}: {again}"));
    }
    match disk::free_bytes(data_dir) {
        Ok(free) => {
            gauge!(metric::FREE_BYTES).set(to_f64(free));
            disk::low(data_dir, free)
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Does what needs the queue. Once it cannot be written, nothing is taken in or sent any more, and
/// only reads are left: they go on until the composer is told to stop.
///
/// # Errors
/// Whatever else ends the work.
pub(crate) async fn outlast(
    queue: Arc<Queue>,
    shutdown: &CancellationToken,
    work: impl Future<Output = eyre::Result<()>>,
) -> eyre::Result<()> {
    match work.await {
        Err(report) if queue.failure().is_some() => {
            let error = format!("{report:#}");
            error!(
                error,
                "nothing is sent any more: make room, then start again"
            );
            shutdown.cancelled().await;
            Ok(())
        }
        ended => ended,
    }
}
