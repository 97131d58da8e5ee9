//! Room on the disk of `data_dir`: whoever runs out of it should have been told, and told why.

use std::{io, path::Path, time::Duration};

use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

use crate::Readiness;

/// Readiness: there is room on the disk, and what is written gets there.
pub const DISK: &str = "disk";
/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Less is too little: a database's journals alone take up to 512 MiB, and compaction writes the new
/// before it removes the old.
const LOW_BYTES: u64 = 1 << 30;

/// With less, a write that failed is likely to have failed for it: a database writes files of up to
/// so many bytes, and removes what did not find room.
const FULL_BYTES: u64 = 64 << 20;

/// Looks again and again until it is dropped; what `look` finds wrong shows in readiness, and each change
/// in the log.
pub async fn watch(readiness: &Readiness, look: impl Fn() -> Option<String>) {
    let mut low = false;
    loop {
        let unmet = look();
        match (&unmet, low) {
            (Some(reason), false) => warn!(condition = DISK, reason, "not ready"),
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

/// Why the room where `path` is will not do.
#[must_use]
pub fn look(path: &Path) -> Option<String> {
    match free_bytes(path) {
        Ok(free) => low(path, free),
        Err(error) => Some(error.to_string()),
    }
}

/// How many bytes this process may still write where `path` is.
///
/// # Errors
/// The system does not say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let of = |error: nix::Error| {
        let what = format!(
            "failed to ask for the free bytes of {}: {error}",
            path.display()
        );
        io::Error::new(io::Error::from(error).kind(), what)
    };
    let stat = statvfs(path).map_err(of)?;
    // Types differ between systems.
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Why `free` bytes are too few, if they are.
#[must_use]
pub fn low(path: &Path, free: u64) -> Option<String> {
    let path = path.display();
    (free < LOW_BYTES).then(|| {
        format!(
            "data_dir {path} has {} MiB left of the {} MiB it needs to go on: make room",
            free >> 20,
            LOW_BYTES >> 20
        )
    })
}

/// Whether the disk is as good as full, and what to do about it.
#[must_use]
pub fn full(path: &Path) -> Option<String> {
    let free = free_bytes(path).ok()?;
    (free < FULL_BYTES).then(|| {
        format!(
            "data_dir {} is full: make room, then start again",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn too_little_room_is_told_with_what_to_do() {
        let path = Path::new("/data");
        assert_eq!(low(path, LOW_BYTES), None);
        assert_eq!(
            low(path, 5 << 20).unwrap(),
            "data_dir /data has 5 MiB left of the 1024 MiB it needs to go on: make room"
        );
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        let error = free_bytes(Path::new("/no/such/place")).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_shows_until_it_is_mended() {
        let readiness = Readiness::of(&[DISK]);
        let looks = AtomicUsize::new(0);
        let watched = watch(&readiness, || match looks.fetch_add(1, Ordering::Relaxed) {
            1 => Some("5 MiB left".into()),
            _ => None,
        });
        let seen = async {
            let mut seen = Vec::new();
            for _ in 0..3 {
                tokio::time::sleep(PERIOD / 2).await;
                seen.push(readiness.reasons().contains_key(DISK));
                tokio::time::sleep(PERIOD / 2).await;
            }
            seen
        };
        tokio::select! {
            () = watched => {}
            seen = seen => assert_eq!(seen, [false, true, false]),
        }
        assert!(look(Path::new("/no/such/place")).is_some());
    }
}
