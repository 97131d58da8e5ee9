use borsh::{BorshDeserialize, BorshSerialize, io};

use super::{AttesterKeys, Statement};
use crate::key::{PublicKey, Signature};
use crate::primitive::Hash;

/// One signature of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// Whose.
    pub attester: PublicKey,
    /// Over what the quorum says; unverified.
    pub signature: Signature,
}

/// Signatures by different attesters over the same digest.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct Votes(Vec<Vote>); // Invariant: 1..=MAX, ascending by attester, no two equal.

/// Why votes are not the quorum that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// None, or more than any quorum has.
    #[error("{0} votes must be 1..={max}", max = Votes::MAX)]
    Count(usize),
    /// Not in ascending order of attesters, each once.
    #[error("votes must be in ascending order of attesters, each once")]
    Order,
    /// Somebody voted who has no vote.
    #[error("{0} has no vote")]
    Stranger(PublicKey),
    /// One of those that the bundle names is missing.
    #[error("the vote of extra attester {0} is missing")]
    Missing(PublicKey),
    /// More of the set than are needed, or fewer.
    #[error("{actual} attesters of the set voted, not {expected}")]
    Threshold {
        /// How many a canonical quorum has.
        expected: usize,
        /// How many voted.
        actual: usize,
    },
}

impl Votes {
    /// Most votes: a full set and all extra attesters.
    pub const MAX: usize = AttesterKeys::MAX_KEYS + 4;

    /// Votes in ascending order of attesters.
    ///
    /// # Errors
    /// [`QuorumError::Count`] or [`QuorumError::Order`].
    pub fn new(votes: Vec<Vote>) -> Result<Self, QuorumError> {
        if !(1..=Self::MAX).contains(&votes.len()) {
            return Err(QuorumError::Count(votes.len()));
        }
        if !votes.is_sorted_by(|a, b| a.attester < b.attester) {
            return Err(QuorumError::Order);
        }
        Ok(Self(votes))
    }

    /// The votes, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[Vote] {
        &self.0
    }

    /// What is to be verified if all are votes for `digest`.
    pub fn signed(&self, digest: Hash) -> impl Iterator<Item = (PublicKey, Hash, Signature)> + '_ {
        self.0
            .iter()
            .map(move |vote| (vote.attester, digest, vote.signature))
    }

    /// Whether the voters are exactly `threshold` of `members` and all of `extras`. If more extras
    /// than that are members, their number takes the place of the threshold. So there is nothing
    /// that could be added or left out.
    ///
    /// # Errors
    /// [`QuorumError`] says who is missing or too many.
    pub fn check_voters(
        &self,
        members: &[PublicKey],
        threshold: u8,
        extras: &[PublicKey],
    ) -> Result<(), QuorumError> {
        let voters = || self.0.iter().map(|vote| vote.attester);
        let stranger = voters().find(|key| !members.contains(key) && !extras.contains(key));
        if let Some(key) = stranger {
            return Err(QuorumError::Stranger(key));
        }
        let missing = extras
            .iter()
            .find(|key| !voters().any(|voter| voter == **key));
        if let Some(key) = missing {
            return Err(QuorumError::Missing(*key));
        }
        let bound = extras.iter().filter(|key| members.contains(key)).count();
        let expected = usize::from(threshold).max(bound);
        let actual = voters().filter(|key| members.contains(key)).count();
        if actual != expected {
            return Err(QuorumError::Threshold { expected, actual });
        }
        Ok(())
    }
}

impl BorshDeserialize for Votes {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let votes = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(votes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A statement that enough attesters agree on; it is stored once.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Quorum {
    /// What they say.
    pub statement: Statement,
    /// Their signatures.
    pub votes: Votes,
}
