//! What a transaction does: one action per file, and the enum that lists them.
//!
//! Discriminants are on the wire and never reused.

mod authority_change;
mod cancel_bundle;
mod consensus_change;
mod deposit;
mod exit_rollup;
mod fee_change;
mod register_rollup;
mod reveal_legs;
mod schedule_upgrade;
mod submit_bundle;
mod submit_data;
mod transfer;
mod update_rollup;
mod validator_update;

pub use authority_change::AuthorityChange;
pub use cancel_bundle::CancelBundle;
pub use consensus_change::ConsensusChange;
pub use deposit::{Deposit, DepositError};
pub use exit_rollup::ExitRollup;
pub use fee_change::FeeChange;
pub use register_rollup::RegisterRollup;
pub use reveal_legs::{RevealLegs, RevealLegsError};
pub use schedule_upgrade::{ScheduleUpgrade, UpgradeNameError};
pub use submit_bundle::SubmitBundle;
pub use submit_data::{SubmitData, SubmitDataError};
pub use transfer::Transfer;
pub use update_rollup::UpdateRollup;
pub use validator_update::{ValidatorUpdate, ValidatorUpdateError};

use borsh::{BorshDeserialize, BorshSerialize};

/// One step of a transaction: all steps apply, or none.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Action {
    /// Moves value between sequencer accounts.
    Transfer(Transfer) = 0,
    /// Orders opaque items for one rollup.
    SubmitData(SubmitData) = 1,
    /// Registers a rollup.
    RegisterRollup(RegisterRollup) = 2,
    /// Changes a rollup that the signer owns.
    UpdateRollup(UpdateRollup) = 3,
    /// Ends a rollup that the signer owns.
    ExitRollup(ExitRollup) = 4,
    /// Locks value here and mints it on a rollup, one way.
    Deposit(Deposit) = 5,
    /// Changes the set of validators.
    ValidatorUpdate(ValidatorUpdate) = 6,
    /// Changes who the authority is.
    AuthorityChange(AuthorityChange) = 7,
    /// Changes what fees are worked out from.
    FeeChange(FeeChange) = 8,
    /// Schedules other rules.
    ScheduleUpgrade(ScheduleUpgrade) = 9,
    /// Changes parameters of CometBFT.
    ConsensusChange(ConsensusChange) = 10,
    /// Seals an atomic bundle.
    SubmitBundle(SubmitBundle) = 16,
    /// Gives the transactions of a sealed bundle.
    RevealLegs(RevealLegs) = 17,
    /// Ends a bundle of the signer's.
    CancelBundle(CancelBundle) = 18,
}

impl Action {
    /// Whether only the authority may ask for this.
    #[must_use]
    pub fn needs_authority(&self) -> bool {
        match self {
            Self::Transfer(_)
            | Self::SubmitData(_)
            | Self::RegisterRollup(_)
            | Self::UpdateRollup(_)
            | Self::ExitRollup(_)
            | Self::Deposit(_)
            | Self::SubmitBundle(_)
            | Self::RevealLegs(_)
            | Self::CancelBundle(_) => false,
            Self::ValidatorUpdate(_)
            | Self::AuthorityChange(_)
            | Self::FeeChange(_)
            | Self::ScheduleUpgrade(_)
            | Self::ConsensusChange(_) => true,
        }
    }
}
