//! The disk of `data_dir`: whether there is room, and what is left to do once a write has failed.

use std::{path::Path, sync::Arc};

use counterpoint_service::{Readiness, disk, to_f64};
use metrics::gauge;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{metric, queue::Queue};

/// Looks at the disk until it is dropped.
pub(crate) async fn watch(data_dir: &Path, queue: &Queue, readiness: &Readiness) {
    disk::watch(readiness, || look(data_dir, queue)).await;
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

#[cfg(test)]
mod tests {
    use std::{env, path::PathBuf, process::Command};

    use counterpoint_core::primitive::RollupId;
    use nix::sys::resource::{Resource, setrlimit};
    use tempfile::tempdir;

    use super::*;
    use crate::queue::testing::{checked, raw};

    /// Tells the test that it is the process which runs out of room, and where.
    const FULL: &str = "COUNTERPOINT_TEST_FULL_DISK";
    /// Transactions that still find room.
    const STORED: u64 = 3;

    /// Takes transactions in until one finds no room; says what readiness tells then.
    async fn fill(path: PathBuf) -> String {
        let queue = Queue::open(&path).unwrap();
        assert_eq!(look(&path, &queue), None);
        let put = |nonce| {
            queue.put(
                checked(RollupId::from_name("alpha"), raw(1, nonce, 10)),
                None,
            )
        };
        for nonce in 0..STORED {
            put(nonce).await.unwrap();
        }
        // From here on every write fails, as on a full disk.
        setrlimit(Resource::RLIMIT_FSIZE, 1, 1).unwrap();
        for nonce in STORED..STORED + 2 {
            let refused = put(nonce).await.unwrap_err().to_string();
            let expect = "the composer cannot write its queue and takes nothing in";
            assert!(refused.starts_with(expect), "{refused}");
        }
        assert_eq!(u64::try_from(queue.live()).unwrap(), STORED);
        look(&path, &queue).unwrap_or_else(|| "nothing is wrong".into())
    }

    #[tokio::test]
    async fn a_full_disk_stops_intake_and_loses_nothing() {
        if let Some(path) = env::var_os(FULL) {
            eprintln!("{}", fill(path.into()).await);
            // Without a clean end, as the composer may end.
            std::process::exit(0);
        }
        let directory = tempdir().unwrap();
        let test = "disk::tests::a_full_disk_stops_intake_and_loses_nothing";
        // A write beyond the limit is an error only for who ignores the signal.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(FULL, directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{said}");
        assert!(said.contains("the queue cannot be written: "), "{said}");
        assert!(said.contains("make room, then start again"), "{said}");
        let queue = Queue::open(directory.path()).unwrap();
        assert_eq!(u64::try_from(queue.live()).unwrap(), STORED, "{said}");
    }
}
