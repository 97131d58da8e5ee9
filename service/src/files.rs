//! Files that operators give to services.

use std::{fs, path::Path};

use counterpoint_core::{key::SecretKey, light::TrustedState};
use eyre::{WrapErr, eyre};

/// Reads a sequencer account's key: 64 hexadecimal digits.
///
/// # Errors
/// The file cannot be read or does not hold a key; the message never shows what it holds.
pub fn read_key(path: &Path) -> eyre::Result<SecretKey> {
    let text = fs::read_to_string(path)
        .wrap_err_with(|| format!("failed to read key file {}", path.display()))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| {
        eyre!(
            "key file {} must hold 64 hexadecimal digits",
            path.display()
        )
    })?;
    Ok(SecretKey::from_seed(seed))
}

/// Reads what trust in the sequencer starts from: CometBFT's genesis file.
///
/// # Errors
/// The file cannot be read, or trust cannot start from it.
pub fn read_trust(path: &Path) -> eyre::Result<TrustedState> {
    let genesis = fs::read(path)
        .wrap_err_with(|| format!("failed to read sequencer_genesis {}", path.display()))?;
    TrustedState::from_genesis(&genesis)
        .wrap_err_with(|| format!("sequencer_genesis {}", path.display()))
}
