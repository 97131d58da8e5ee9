use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};

use super::{Hash, HexError, hash::parse_hex, serde_by_string};

/// Names a rollup for ever: `sha256("counterpoint/rollup/v1" ‖ name)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct RollupId([u8; 32]);

impl RollupId {
    /// The identifier of the rollup called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self(*Hash::digest(&[b"counterpoint/rollup/v1", name.as_bytes()]).as_bytes())
    }

    /// Wraps an identifier that was derived elsewhere.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RollupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RollupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RollupId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

serde_by_string!(RollupId);
