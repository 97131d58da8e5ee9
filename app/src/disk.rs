//! Room on the disk of `data_dir`: whoever runs out of it should have been told, and told why.

use std::path::Path;

use anyhow::Context;
use counterpoint_service::ConfigError;
use nix::sys::statvfs::statvfs;

/// Less is too little: the database's journals alone take up to 512 MiB, and compaction writes the
/// new before it removes the old.
pub(crate) const LOW_BYTES: u64 = 1 << 30;

/// With less, a write that failed is likely to have failed for it: the database writes files of up to
/// so many bytes, and removes what did not find room.
const FULL_BYTES: u64 = 64 << 20;

/// How many bytes this process may still write where `path` is.
///
/// # Errors
/// The system does not say.
pub(crate) fn free_bytes(path: &Path) -> anyhow::Result<u64> {
    let of = || format!("failed to ask for the free bytes of {}", path.display());
    let stat = statvfs(path).with_context(of)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Why `free` bytes are too few, if they are.
pub(crate) fn low(path: &Path, free: u64) -> Option<String> {
    let path = path.display();
    (free < LOW_BYTES).then(|| {
        format!(
            "data_dir {path} has {} MiB left of the {} MiB it needs to go on: make room",
            free >> 20,
            LOW_BYTES >> 20
        )
    })
}

/// A fault, with the state of a full disk: what the database says of a write that follows a failed
/// one does not name the cause.
pub(crate) fn explain(fault: eyre::Report, path: &Path) -> eyre::Report {
    match free_bytes(path) {
        Ok(free) if free < FULL_BYTES && !fault.is::<ConfigError>() => {
            let why = format!(
                "data_dir {} is full: make room, then start again",
                path.display()
            );
            fault.wrap_err(why)
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
