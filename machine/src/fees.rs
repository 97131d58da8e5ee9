//! What a transaction pays.
//!
//! `fee = flat + (base_fee + tip_per_byte) · (bytes of the block item + 32 · items)`. The tip goes
//! to the proposer, everything else is burned, so nobody fills blocks with his own data for free.

use counterpoint_core::{action::Action, primitive::Amount, transaction::SignedTransaction};

/// Base units per byte that every transaction pays; burned.
pub const BASE_FEE: u64 = 8;
/// Bytes that an item counts for on top of its own: its place in a list is hashed and proven.
pub const BYTES_PER_ITEM: u64 = 32;
/// What a registration locks: 10 whole tokens.
pub const REGISTRATION_DEPOSIT: Amount = Amount::new(10_000_000_000);

/// What one transaction pays, by where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fee {
    /// Destroyed.
    pub burned: Amount,
    /// Given to the proposer of the block.
    pub tip: Amount,
}

impl Fee {
    /// The fee of `tx`, or nothing if it is greater than an [`Amount`] can count.
    #[must_use]
    pub fn of(tx: &SignedTransaction) -> Option<Self> {
        let actions = &tx.body().actions;
        let items = actions.iter().map(items).fold(0, u64::saturating_add);
        let bytes = u64::try_from(tx.as_bytes().len()).ok()?;
        let weight = u128::from(bytes.checked_add(items.checked_mul(BYTES_PER_ITEM)?)?);
        let flat = actions.iter().map(flat).fold(0, u128::saturating_add);
        let burned = weight
            .checked_mul(u128::from(BASE_FEE))?
            .checked_add(flat)?;
        let tip = weight.checked_mul(u128::from(tx.body().tip_per_byte))?;
        Some(Self {
            burned: Amount::new(burned),
            tip: Amount::new(tip),
        })
    }

    /// Both parts together.
    #[must_use]
    pub fn total(&self) -> Option<Amount> {
        self.burned.checked_add(self.tip)
    }
}

fn items(action: &Action) -> u64 {
    match action {
        Action::SubmitData(data) => data.items().len() as u64,
        _ => 0,
    }
}

/// Base units for the work that an action is beside its bytes.
fn flat(action: &Action) -> u128 {
    match action {
        Action::Transfer(_) | Action::SubmitData(_) => 1_000,
        Action::Deposit(_) => 10_000,
        Action::RegisterRollup(_) => 1_000_000,
    }
}
