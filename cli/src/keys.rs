//! Sequencer account keys in files: 64 hexadecimal digits, readable by their owner alone.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use counterpoint_core::key::SecretKey;
use eyre::{WrapErr, eyre};

/// 32 random bytes from the system.
///
/// # Errors
/// The system has none.
pub fn random() -> eyre::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| eyre!("no randomness: {error}"))?;
    Ok(bytes)
}

/// Makes a new key in a new file.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create(path: &Path) -> eyre::Result<SecretKey> {
    let seed = random()?;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .wrap_err_with(|| format!("failed to create key file {}", path.display()))?;
    file.write_all(hex::encode(seed).as_bytes())?;
    file.sync_all()?;
    Ok(SecretKey::from_seed(seed))
}
