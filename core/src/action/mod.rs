//! What a transaction does: one action per file, and the enum that lists them.
//!
//! Discriminants are on the wire and never reused. Reserved for later packages: UpdateRollup 3,
//! ExitRollup 4, ValidatorUpdate 6, AuthorityChange 7, FeeChange 8, ScheduleUpgrade 9,
//! SubmitBundle 16, RevealLegs 17, CancelBundle 18.

mod deposit;
mod register_rollup;
mod submit_data;
mod transfer;

pub use deposit::{Deposit, DepositError};
pub use register_rollup::RegisterRollup;
pub use submit_data::{SubmitData, SubmitDataError};
pub use transfer::Transfer;

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
    /// Locks value here and mints it on a rollup, one way.
    Deposit(Deposit) = 5,
}
