use std::{fmt, str::FromStr};

use bech32::{Bech32m, Hrp};
use borsh::{BorshDeserialize, BorshSerialize};

use super::serde_by_string;

/// A sequencer account: the first 20 bytes of `sha256(public key)`, shown as bech32m `cpt1…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Address([u8; 20]);

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not bech32m, or a digit was mistyped.
    #[error("not a bech32m text: {0}")]
    Encoding(String),
    /// Another network's address.
    #[error("expected an address that starts with {expected}1, found {actual}1")]
    Prefix {
        /// Our prefix.
        expected: &'static str,
        /// The prefix of the text.
        actual: String,
    },
    /// The text carries another number of bytes than 20.
    #[error("expected 20 bytes, found {0}")]
    Length(usize),
}

impl Address {
    /// The human-readable part of every address.
    pub const PREFIX: &'static str = "cpt";

    const HRP: Hrp = Hrp::parse_unchecked(Self::PREFIX);

    /// Wraps the raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bech32::encode::<Bech32m>(Self::HRP, &self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|error| AddressError::Encoding(error.to_string()))?;
        if checked.hrp() != Self::HRP {
            let actual = checked.hrp().to_string();
            return Err(AddressError::Prefix {
                expected: Self::PREFIX,
                actual,
            });
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let length = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| AddressError::Length(length))
    }
}

serde_by_string!(Address);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_reads_itself() {
        let address = Address::new([7; 20]);
        assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn refuses_what_is_not_ours() {
        let other = bech32::encode::<Bech32m>(Hrp::parse_unchecked("abc"), &[7; 20]).unwrap();
        assert!(matches!(
            other.parse::<Address>(),
            Err(AddressError::Prefix { .. })
        ));
        let short = bech32::encode::<Bech32m>(Address::HRP, &[7; 19]).unwrap();
        assert_eq!(short.parse::<Address>(), Err(AddressError::Length(19)));
        assert!(matches!(
            "cpt1nonsense".parse::<Address>(),
            Err(AddressError::Encoding(_))
        ));
        let mut typo = Address::new([7; 20]).to_string();
        typo.replace_range(6..7, if &typo[6..7] == "q" { "p" } else { "q" });
        assert!(matches!(
            typo.parse::<Address>(),
            Err(AddressError::Encoding(_))
        ));
    }
}
