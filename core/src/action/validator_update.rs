use borsh::{BorshDeserialize, BorshSerialize, io};

use crate::{key::PublicKey, primitive::Address};

/// Adds a validator, changes its power or payout account, or removes it with power 0. For the
/// authority alone.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct ValidatorUpdate {
    public_key: PublicKey, // Invariant: a point on the curve, else no light client could read the set.
    power: u64,            // Invariant: at most MAX_POWER.
    payout: Address,
}

/// Why a validator cannot be described so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorUpdateError {
    /// The key is not an ed25519 point.
    #[error("validator key is not an ed25519 public key")]
    Key,
    /// The power is greater than any set may have in total.
    #[error("validator power is {0}, must be below 2^60")]
    Power(u64),
}

impl ValidatorUpdate {
    /// Greatest power of one validator, and of all together: below CometBFT's own limit of 2^60.
    pub const MAX_POWER: u64 = (1 << 60) - 1;

    /// Builds the action.
    ///
    /// # Errors
    /// [`ValidatorUpdateError`] names what is out of bounds.
    pub fn new(
        public_key: PublicKey,
        power: u64,
        payout: Address,
    ) -> Result<Self, ValidatorUpdateError> {
        if !public_key.is_point() {
            return Err(ValidatorUpdateError::Key);
        }
        if power > Self::MAX_POWER {
            return Err(ValidatorUpdateError::Power(power));
        }
        Ok(Self {
            public_key,
            power,
            payout,
        })
    }

    /// The consensus key; its address is the validator's.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Voting power; 0 removes the validator.
    #[must_use]
    pub fn power(&self) -> u64 {
        self.power
    }

    /// The account that its blocks earn for.
    #[must_use]
    pub fn payout(&self) -> Address {
        self.payout
    }
}

impl BorshDeserialize for ValidatorUpdate {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (public_key, power, payout) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(public_key, power, payout)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
