//! Keys, and sequencer account keys in files: 64 hexadecimal digits, readable by their owner alone.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use alloy_primitives::keccak256;
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

/// Where the keys of a network come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// The system's randomness.
    Random,
    /// A text: whoever knows it has them all.
    Seed(String),
}

impl Keys {
    /// The secret of this name.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn secret(&self, name: &str) -> eyre::Result<[u8; 32]> {
        match self {
            Self::Random => random(),
            Self::Seed(seed) => {
                let parts = ["counterpoint/seed", seed, name].map(keccak256);
                Ok(keccak256(parts.concat()).0)
            }
        }
    }
}

/// Makes a new key in a new file.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create(path: &Path) -> eyre::Result<SecretKey> {
    let seed = random()?;
    write(path, &seed)?;
    Ok(SecretKey::from_seed(seed))
}

/// Writes a key to a new file.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write(path: &Path, seed: &[u8; 32]) -> eyre::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .wrap_err_with(|| format!("failed to create key file {}", path.display()))?;
    file.write_all(hex::encode(seed).as_bytes())?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_secret_to_each_name() {
        let secret = |seed: &str, name| Keys::Seed(seed.to_owned()).secret(name).unwrap();
        assert_eq!(secret("a", "val-0"), secret("a", "val-0"));
        assert_ne!(secret("a", "val-0"), secret("a", "val-1"));
        assert_ne!(secret("a", "val-0"), secret("b", "val-0"));
        assert_ne!(secret("ab", "c"), secret("a", "bc"));
        let random = || Keys::Random.secret("val-0").unwrap();
        assert_ne!(random(), random());
    }
}
