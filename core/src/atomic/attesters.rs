use borsh::{BorshDeserialize, BorshSerialize, io};
use serde::{Deserialize, Serialize};

use crate::key::PublicKey;

/// Who executes a rollup's legs and signs what came of it: `threshold` of these keys make a quorum.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct AttesterKeys {
    keys: Vec<PublicKey>, // Invariant: 1..=MAX_KEYS, ascending, no two equal.
    threshold: u8,        // Invariant: 1..=keys.len().
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    keys: Vec<PublicKey>,
    threshold: u8,
}

/// Why these cannot be a rollup's attesters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttesterKeysError {
    /// Nobody, or too many.
    #[error("{0} attesters must be 1..={max}", max = AttesterKeys::MAX_KEYS)]
    Count(usize),
    /// Keys are not in ascending order of their bytes, or one is listed twice.
    #[error("attesters must be in ascending order of their keys, each once")]
    Order,
    /// More must agree than there are, or nobody.
    #[error("threshold of attesters must lie between 1 and their number")]
    Threshold,
}

impl AttesterKeys {
    /// Most keys of a set.
    pub const MAX_KEYS: usize = 16;

    /// `threshold` of `keys`, which are in ascending order.
    ///
    /// # Errors
    /// [`AttesterKeysError`] says which bound is broken.
    pub fn new(keys: Vec<PublicKey>, threshold: u8) -> Result<Self, AttesterKeysError> {
        let count = keys.len();
        if !(1..=Self::MAX_KEYS).contains(&count) {
            return Err(AttesterKeysError::Count(count));
        }
        if !keys.is_sorted_by(|a, b| a < b) {
            return Err(AttesterKeysError::Order);
        }
        if !(1..=count).contains(&usize::from(threshold)) {
            return Err(AttesterKeysError::Threshold);
        }
        Ok(Self { keys, threshold })
    }

    /// The keys, ascending.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// How many must agree.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }
}

impl TryFrom<Unchecked> for AttesterKeys {
    type Error = AttesterKeysError;

    fn try_from(unchecked: Unchecked) -> Result<Self, AttesterKeysError> {
        Self::new(unchecked.keys, unchecked.threshold)
    }
}

impl BorshDeserialize for AttesterKeys {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (keys, threshold) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(keys, threshold)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A rollup's attesters, and the how many-eth set that they are.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttesterSet {
    /// Counts the rollup's sets from 1, so that no vote outlives the set it was given in. The chain
    /// counts, not the owner.
    pub epoch: u64,
    /// The keys and their threshold.
    pub members: AttesterKeys,
}

/// The attesters of a rollup that may have none. Encoded as bytes with their length before them, of
/// which a rollup without attesters has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attesters(pub Option<AttesterSet>);

impl Attesters {
    /// Whether the rollup has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl BorshSerialize for Attesters {
    fn serialize<W: io::Write>(&self, writer: &mut W) -> io::Result<()> {
        let encoded = self.0.as_ref().map(borsh::to_vec).transpose()?;
        BorshSerialize::serialize(&encoded.unwrap_or_default(), writer)
    }
}

impl BorshDeserialize for Attesters {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let encoded: Vec<u8> = BorshDeserialize::deserialize_reader(reader)?;
        let set = (!encoded.is_empty()).then(|| borsh::from_slice(&encoded));
        Ok(Self(set.transpose()?))
    }
}
