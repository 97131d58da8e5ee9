use borsh::{BorshDeserialize, BorshSerialize, io};
use bytes::Bytes;

use crate::{
    atomic::{AtomicBundle, LegSeal},
    primitive::Hash,
};

/// Gives the raw transactions of a sealed bundle, which can be scheduled from then on.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct RevealLegs {
    bundle_id: Hash,
    legs: Vec<Vec<Bytes>>, // Invariant: as many legs and transactions as a bundle may have.
}

/// Why these can be the legs of no bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevealLegsError {
    /// Fewer legs or transactions than any bundle has, or more.
    #[error(
        "legs must be 2..={} of 1..={} transactions",
        AtomicBundle::MAX_LEGS,
        LegSeal::MAX_TXS
    )]
    Count,
    /// Together they are longer than the state has room for.
    #[error("legs have {0} bytes together, at most {max}", max = RevealLegs::MAX_BYTES)]
    Length(usize),
}

impl RevealLegs {
    /// Most bytes of all transactions together: they stay in the state until the bundle ends.
    pub const MAX_BYTES: usize = 262_144;

    /// Builds the action; `legs` are in the order of the bundle's.
    ///
    /// # Errors
    /// [`RevealLegsError`] if no bundle has legs like these.
    pub fn new(bundle_id: Hash, legs: Vec<Vec<Bytes>>) -> Result<Self, RevealLegsError> {
        let counts = (2..=AtomicBundle::MAX_LEGS).contains(&legs.len());
        let fits = |leg: &Vec<Bytes>| (1..=LegSeal::MAX_TXS).contains(&leg.len());
        if !counts || !legs.iter().all(fits) {
            return Err(RevealLegsError::Count);
        }
        let lengths = legs.iter().flatten().map(Bytes::len);
        let length = lengths.fold(0, usize::saturating_add);
        if length > Self::MAX_BYTES {
            return Err(RevealLegsError::Length(length));
        }
        Ok(Self { bundle_id, legs })
    }

    /// The bundle.
    #[must_use]
    pub fn bundle_id(&self) -> Hash {
        self.bundle_id
    }

    /// Raw transactions by leg.
    #[must_use]
    pub fn legs(&self) -> &[Vec<Bytes>] {
        &self.legs
    }

    /// Bytes of all transactions together.
    #[must_use]
    pub fn bytes_len(&self) -> u64 {
        let add = |total: u64, raw: &Bytes| total.saturating_add(raw.len() as u64);
        self.legs.iter().flatten().fold(0, add)
    }
}

impl BorshDeserialize for RevealLegs {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (bundle_id, legs) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(bundle_id, legs)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
