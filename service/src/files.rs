//! Files that operators give to services.

use std::{fs, path::Path};

use crate::ConfigError;
use counterpoint_core::{key::SecretKey, light::TrustedState};

/// Reads a sequencer account's key: 64 hexadecimal digits.
///
/// # Errors
/// [`ConfigError::File`]: the file cannot be read or does not hold a key; the message never shows what it
/// holds.
pub fn read_key(path: &Path) -> eyre::Result<SecretKey> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError::File(format!("failed to read key file {shown}: {error}")))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| {
        ConfigError::File(format!("key file {shown} must hold 64 hexadecimal digits"))
    })?;
    Ok(SecretKey::from_seed(seed))
}

/// Reads what trust in the sequencer starts from: CometBFT's genesis file.
///
/// # Errors
/// [`ConfigError::File`]: the file cannot be read, or trust cannot start from it.
pub fn read_trust(path: &Path) -> eyre::Result<TrustedState> {
    let read = || TrustedState::from_genesis(&fs::read(path)?).map_err(eyre::Report::from);
    read().map_err(|error| {
        let path = path.display();
        ConfigError::File(format!("sequencer_genesis {path}: {error:#}")).into()
    })
}
