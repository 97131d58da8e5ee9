//! Room on the disk of `data_dir`: whoever runs out of it should have been told, and told why.

use std::path::Path;

use anyhow::Context;
use counterpoint_service::ConfigError;
use nix::sys::statvfs::statvfs;

/// Less is too little: the database's journals alone take up to 512 MiB, and compaction writes the
/// new before it removes the old.
pub(crate) const LOW_BYTES: u64 = 1 << 30;

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

/// A fault, with the state of the disk if that may be the cause: what the database says of a write
/// that follows a failed one does not name it.
pub(crate) fn explain(fault: eyre::Report, path: &Path) -> eyre::Report {
    let free = free_bytes(path).ok();
    match free.and_then(|free| low(path, free)) {
        Some(reason) if !fault.is::<ConfigError>() => {
            fault.wrap_err(format!("{reason}, and start again if that was why"))
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
