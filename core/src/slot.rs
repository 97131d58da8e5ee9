//! Slots: whole seconds on rollups, finer order on the sequencer.
//!
//! One rollup block covers the heights of one slot. The time of a block is fixed only when it is
//! proposed, so a height belongs to the slot of the header *before* it, which everybody knows.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize, io};
use serde::{Deserialize, Serialize};

/// How long an item may wait for room in a rollup block, in seconds, before it is skipped.
pub const MAX_BACKLOG_SECS: u64 = 480;

/// Length of a slot in seconds, 1 to 60.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct SlotSecs(u8);

/// A slot length outside 1 to 60 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot_secs is {0}, must lie in 1..=60")]
pub struct SlotSecsError(u8);

/// The time in a block header.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize,
)]
pub struct HeaderTime {
    /// Whole seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Start of a slot, in seconds since 1970: the timestamp of its rollup block.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize,
)]
pub struct Slot(u64);

impl SlotSecs {
    /// The shortest slot.
    pub const ONE: Self = Self(1);
    /// Longest slot.
    pub const MAX: u8 = 60;

    /// Builds a slot length.
    ///
    /// # Errors
    /// [`SlotSecsError`] unless `secs` lies in 1 to 60.
    pub fn new(secs: u8) -> Result<Self, SlotSecsError> {
        if (1..=Self::MAX).contains(&secs) {
            Ok(Self(secs))
        } else {
            Err(SlotSecsError(secs))
        }
    }

    /// The length in seconds.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for SlotSecs {
    type Error = SlotSecsError;

    fn try_from(secs: u8) -> Result<Self, SlotSecsError> {
        Self::new(secs)
    }
}

impl From<SlotSecs> for u8 {
    fn from(secs: SlotSecs) -> Self {
        secs.0
    }
}

impl BorshDeserialize for SlotSecs {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        Self::new(u8::deserialize_reader(reader)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl Slot {
    /// The slot before every other: that of the chain's initial height.
    pub const ZERO: Self = Self(0);

    /// Wraps the start of a slot.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The slot of a height, given the time in the header **before** it; `None` at the initial
    /// height, which has none.
    ///
    /// Header times strictly increase, so slots never go back.
    ///
    /// # Specification
    /// `docs/spec/derivation.md`, section "Slots".
    #[must_use]
    pub fn of(previous: Option<HeaderTime>, slot_secs: SlotSecs) -> Self {
        let seconds = previous.map_or(0, |time| time.seconds);
        let within = seconds.checked_rem(u64::from(slot_secs.get())).unwrap_or(0);
        Self(seconds.saturating_sub(within))
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_bounded() {
        assert!(SlotSecs::new(0).is_err() && SlotSecs::new(61).is_err());
        assert!(borsh::from_slice::<SlotSecs>(&[0]).is_err());
        assert_eq!(borsh::from_slice::<SlotSecs>(&[60]).unwrap().get(), 60);
    }

    #[test]
    fn the_initial_height_has_slot_zero() {
        assert_eq!(Slot::of(None, SlotSecs::new(12).unwrap()), Slot::ZERO);
    }

    proptest! {
        #[test]
        fn slots_are_multiples_and_never_go_back(
            a in 0..u64::MAX, b in 0..u64::MAX, secs in 1_u8..=60
        ) {
            let secs = SlotSecs::new(secs).unwrap();
            let slot = |seconds| Slot::of(Some(HeaderTime { seconds, nanos: 0 }), secs).get();
            prop_assert_eq!(slot(a) % u64::from(secs.get()), 0);
            prop_assert!(slot(a) <= a && a - slot(a) < u64::from(secs.get()));
            prop_assert_eq!(a <= b, a <= b && slot(a) <= slot(b));
        }
    }
}
