//! Who decides about validators, fees and upgrades: one account, or m of n.

use borsh::{BorshDeserialize, BorshSerialize, io};
use serde::{Deserialize, Serialize};

use crate::{
    action::Action,
    primitive::{Address, Hash},
};

/// One account or several, of which `threshold` must agree.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Authority {
    threshold: u8,         // Invariant: 1..=members.len().
    members: Vec<Address>, // Invariant: 1..=MAX_MEMBERS, ascending, no two equal.
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    threshold: u8,
    members: Vec<Address>,
}

/// Why there cannot be such an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Nobody, or too many.
    #[error("authority has {0} members, must have 1..=16")]
    Members(usize),
    /// Members are not in ascending order of their bytes, or one is listed twice.
    #[error("members of the authority must be in ascending order, each once")]
    Order,
    /// More must agree than there are, or nobody.
    #[error("threshold of the authority must lie between 1 and the number of members")]
    Threshold,
}

impl Authority {
    /// Most members.
    pub const MAX_MEMBERS: usize = 16;

    /// `threshold` of `members`, who are in ascending order.
    ///
    /// # Errors
    /// [`AuthorityError`] says which bound is broken.
    pub fn new(threshold: u8, members: Vec<Address>) -> Result<Self, AuthorityError> {
        let count = members.len();
        if !(1..=Self::MAX_MEMBERS).contains(&count) {
            return Err(AuthorityError::Members(count));
        }
        if !members.is_sorted_by(|a, b| a < b) {
            return Err(AuthorityError::Order);
        }
        if !(1..=count).contains(&usize::from(threshold)) {
            return Err(AuthorityError::Threshold);
        }
        Ok(Self { threshold, members })
    }

    /// How many must agree.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// Those who have a say, in ascending order.
    #[must_use]
    pub fn members(&self) -> &[Address] {
        &self.members
    }

    /// What members agree to: the actions of a transaction, under the `epoch`-th authority.
    #[must_use]
    pub fn proposal(epoch: u64, actions: &[Action]) -> Hash {
        Hash::tagged("counterpoint/proposal/v1", &(epoch, actions))
    }
}

impl TryFrom<Unchecked> for Authority {
    type Error = AuthorityError;

    fn try_from(authority: Unchecked) -> Result<Self, AuthorityError> {
        Self::new(authority.threshold, authority.members)
    }
}

impl BorshDeserialize for Authority {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (threshold, members) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(threshold, members)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_checked() {
        let who = |seeds: &[u8]| seeds.iter().map(|seed| Address::new([*seed; 20])).collect();
        let check = |threshold, seeds: &[u8]| Authority::new(threshold, who(seeds)).err();
        assert_eq!(check(2, &[1, 2, 3]), None);
        assert_eq!(check(1, &[]), Some(AuthorityError::Members(0)));
        assert_eq!(check(1, &[7; 17]), Some(AuthorityError::Members(17)));
        assert_eq!(check(1, &[2, 1]), Some(AuthorityError::Order));
        assert_eq!(check(1, &[1, 1]), Some(AuthorityError::Order));
        assert_eq!(check(0, &[1]), Some(AuthorityError::Threshold));
        assert_eq!(check(2, &[1]), Some(AuthorityError::Threshold));
        assert!(borsh::from_slice::<Authority>(&[2, 0, 0, 0, 0]).is_err());
    }
}
