//! Versions of the rules: a block is executed under those of its own height, for ever.

use crate::state::{ReadRecords, StateRead, StoreError};

/// A version of the rules that this software knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppVersion {
    /// The first.
    One,
    /// One that differs in the flat fees, so that tests can see an upgrade.
    #[cfg(feature = "test-utils")]
    Test,
}

impl AppVersion {
    /// The newest version that a release of this software follows.
    pub const NEWEST: Self = Self::One;

    /// The version with this number, if this software knows it.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            #[cfg(feature = "test-utils")]
            2 => Some(Self::Test),
            _ => None,
        }
    }

    /// The number that headers and the state carry.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::One => 1,
            #[cfg(feature = "test-utils")]
            Self::Test => 2,
        }
    }

    /// The version that the next block is executed under.
    pub(crate) fn read<S: StateRead>(state: &S) -> Result<Self, StoreError> {
        let number = state.chain()?.app_version;
        let unknown = || StoreError::corrupt(format!("rules of version {number} are unknown"));
        Self::from_number(number).ok_or_else(unknown)
    }

    /// Base units of an action for which the parameters say `fee`.
    pub(crate) fn flat_fee(self, fee: u64) -> u128 {
        match self {
            Self::One => u128::from(fee),
            #[cfg(feature = "test-utils")]
            Self::Test => u128::from(fee).saturating_mul(2),
        }
    }
}
