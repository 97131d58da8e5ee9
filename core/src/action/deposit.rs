use borsh::{BorshDeserialize, BorshSerialize, io};

use crate::primitive::{EvmAddress, RollupId};

/// Locks value on the sequencer and credits it on a rollup as an EIP-4895 withdrawal.
///
/// Deposits are **one-way** until the bridge exists: nothing brings the value back.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct Deposit {
    rollup_id: RollupId,
    evm_address: EvmAddress,
    amount: u128, // Invariant: MIN_AMOUNT..=u64::MAX, since a withdrawal counts gwei in a u64.
}

/// Why a deposit cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "deposit of {amount} gwei must lie in {}..={}",
    Deposit::MIN_AMOUNT,
    u64::MAX
)]
pub struct DepositError {
    /// The amount asked for, in base units.
    pub amount: u128,
}

impl Deposit {
    /// Least amount, in base units (gwei): a hundredth of one whole token, so that a block's 16
    /// places are never filled for nothing.
    pub const MIN_AMOUNT: u128 = 10_000_000;

    /// Builds the action.
    ///
    /// # Errors
    /// [`DepositError`] if the amount is below [`Deposit::MIN_AMOUNT`] or above `u64::MAX`.
    pub fn new(
        rollup_id: RollupId,
        evm_address: EvmAddress,
        amount: u128,
    ) -> Result<Self, DepositError> {
        if (Self::MIN_AMOUNT..=u128::from(u64::MAX)).contains(&amount) {
            Ok(Self {
                rollup_id,
                evm_address,
                amount,
            })
        } else {
            Err(DepositError { amount })
        }
    }

    /// The rollup that mints the value.
    #[must_use]
    pub fn rollup_id(&self) -> RollupId {
        self.rollup_id
    }

    /// The account credited there.
    #[must_use]
    pub fn evm_address(&self) -> EvmAddress {
        self.evm_address
    }

    /// How much, in base units of the sequencer, which are gwei on the rollup.
    #[must_use]
    pub fn amount_gwei(&self) -> u64 {
        u64::try_from(self.amount).unwrap_or(u64::MAX)
    }
}

impl BorshDeserialize for Deposit {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (rollup_id, evm_address, amount) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(rollup_id, evm_address, amount)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
