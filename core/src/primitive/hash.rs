use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest, Sha256};

use super::serde_by_string;

/// A SHA-256 digest, shown as 64 lower-case hexadecimal digits.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Hash([u8; 32]);

/// Why a text is not a fixed number of bytes in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {bytes} bytes as {} hexadecimal digits", bytes.saturating_mul(2))]
pub struct HexError {
    /// How many bytes the text must stand for.
    pub bytes: usize,
}

impl Hash {
    /// 32 zero bytes: what stands where there is no digest yet.
    pub const ZERO: Self = Self([0; 32]);

    /// Wraps a digest that was computed or committed elsewhere.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// SHA-256 over the concatenation of `parts`.
    #[must_use]
    pub fn digest(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// SHA-256 over an ASCII domain tag and the canonical borsh encoding of `value`.
    #[must_use]
    pub fn tagged<T: BorshSerialize>(tag: &str, value: &T) -> Self {
        let mut hasher = HashWriter(Sha256::new());
        hasher.0.update(tag.as_bytes());
        // A hasher takes every byte, and lengths are bounded by the constructors of `T`.
        let written = value.serialize(&mut hasher);
        debug_assert!(written.is_ok(), "a bounded value always encodes");
        Self(hasher.0.finalize().into())
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hashes what is written to it, so that large values are never copied to be hashed.
struct HashWriter(Sha256);

impl borsh::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> borsh::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> borsh::io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

serde_by_string!(Hash);

/// Reads exactly `N` bytes of hexadecimal, with or without `0x`.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| HexError { bytes: N })?;
    Ok(bytes)
}
