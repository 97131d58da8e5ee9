//! Room on the disk of `data_dir`: whoever runs out of it should have been told, and told why.

use std::{io, path::Path};

use nix::sys::statvfs::statvfs;

/// Less is too little: a database's journals alone take up to 512 MiB, and compaction writes the new
/// before it removes the old.
const LOW_BYTES: u64 = 1 << 30;

/// With less, a write that failed is likely to have failed for it: a database writes files of up to
/// so many bytes, and removes what did not find room.
const FULL_BYTES: u64 = 64 << 20;

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
}
