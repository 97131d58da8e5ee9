//! What a transaction pays, and who gets it.
//!
//! `fee = flat + (base_fee + tip_per_byte) · (bytes of the block item + 32 · items)`. The base fee is
//! burned, so nobody fills blocks with his own data for free. The rest is for the proposer, less the
//! share of the tip that owners of rollups get for data of theirs.

use std::collections::BTreeMap;

use counterpoint_core::{
    action::Action,
    fees::FeeParams,
    primitive::{Address, Amount},
    transaction::SignedTransaction,
};

use crate::{
    registry::FIRST_RENT_HEIGHTS,
    rejection::Rejection,
    room::Share,
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError},
    version::AppVersion,
};

/// Bytes that an item counts for on top of its own: its place in a list is hashed and proven.
pub const BYTES_PER_ITEM: u64 = 32;

/// What a whole is in the unit of shares.
const BASIS_POINTS: u128 = 10_000;

/// What inclusion costs in the next block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    /// What fees are worked out from.
    pub params: FeeParams,
    /// Base units per byte that are burned.
    pub base_fee: u64,
    /// The rules in force.
    pub(crate) version: AppVersion,
}

/// What one transaction pays, by where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fee {
    /// Destroyed: what pays for bytes, in the block and in the state.
    pub burned: Amount,
    /// For the work that actions are beside their bytes: given to the proposer.
    pub flat: Amount,
    /// Given to the proposer and to owners of rollups.
    pub tip: Amount,
}

impl Prices {
    /// The prices that follow from `state`.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn read<S: StateRead>(state: &S) -> Result<Self, StoreError> {
        let missing = || StoreError::corrupt("the chain has no fees".into());
        Ok(Self {
            params: state.read(&Key::FeeParams)?.ok_or_else(missing)?,
            base_fee: state.read(&Key::BaseFee)?.ok_or_else(missing)?,
            version: AppVersion::read(state)?,
        })
    }

    /// The fee of `tx`, or nothing if it is greater than an [`Amount`] can count.
    #[must_use]
    pub fn fee(&self, tx: &SignedTransaction) -> Option<Fee> {
        let actions = &tx.body().actions;
        let weight = u128::from(weight(tx)?);
        let flat = actions.iter().map(|action| self.flat(action));
        let flat = flat.fold(0, u128::saturating_add);
        let kept = actions.iter().map(|action| self.kept(action));
        let kept = kept.fold(0, u128::saturating_add);
        let burned = weight.checked_mul(u128::from(self.base_fee))?;
        let burned = burned.checked_add(kept)?;
        let tip = weight.checked_mul(u128::from(tx.body().tip_per_byte))?;
        Some(Fee {
            burned: Amount::new(burned),
            flat: Amount::new(flat),
            tip: Amount::new(tip),
        })
    }

    /// What `tx` takes from its signer at the most: the fee, and what its actions move. Nothing if
    /// that is greater than an [`Amount`] can count.
    #[must_use]
    pub fn cost(&self, tx: &SignedTransaction) -> Option<Amount> {
        let fee = self.fee(tx)?.total()?;
        let moves = tx.body().actions.iter().map(|action| self.moves(action));
        moves
            .into_iter()
            .try_fold(fee, |cost, amount| cost.checked_add(amount?))
    }

    /// The value that an action takes from the signer's account.
    fn moves(&self, action: &Action) -> Option<Amount> {
        match action {
            Action::Transfer(transfer) => Some(transfer.amount),
            Action::Deposit(deposit) => Some(Amount::new(deposit.amount_gwei().into())),
            Action::UpdateRollup(update) => Some(update.rent),
            Action::SubmitBundle(submit) => Some(submit.bundle.tips()),
            Action::RegisterRollup(_) => {
                let deposit = self.params.registration_deposit;
                deposit.checked_add(self.first_rent())
            }
            Action::SubmitData(_)
            | Action::ExitRollup(_)
            | Action::ValidatorUpdate(_)
            | Action::AuthorityChange(_)
            | Action::FeeChange(_)
            | Action::ScheduleUpgrade(_)
            | Action::ConsensusChange(_)
            | Action::RevealLegs(_)
            | Action::CancelBundle(_) => Some(Amount::ZERO),
        }
    }

    /// The rent that a registration pays in advance.
    pub(crate) fn first_rent(&self) -> Amount {
        let per_height = u128::from(self.params.rent_per_height);
        Amount::new(per_height.saturating_mul(FIRST_RENT_HEIGHTS.into()))
    }

    fn flat(&self, action: &Action) -> u128 {
        let fee = match action {
            Action::Deposit(_) => self.params.deposit_fee,
            Action::RegisterRollup(_) | Action::UpdateRollup(_) | Action::ExitRollup(_) => {
                self.params.registry_fee
            }
            Action::SubmitBundle(submit) => {
                let legs = submit.bundle.terms().legs.len() as u64;
                let fee = self.params.leg_fee.saturating_mul(legs);
                fee.saturating_add(self.params.bundle_fee)
            }
            Action::Transfer(_)
            | Action::SubmitData(_)
            | Action::ValidatorUpdate(_)
            | Action::AuthorityChange(_)
            | Action::FeeChange(_)
            | Action::ScheduleUpgrade(_)
            | Action::ConsensusChange(_)
            | Action::RevealLegs(_)
            | Action::CancelBundle(_) => self.params.action_fee,
        };
        self.version.flat_fee(fee)
    }

    /// What an action pays for what it leaves in the state; it is burned, so that nobody fills the
    /// state for nothing with blocks of his own.
    fn kept(&self, action: &Action) -> u128 {
        let params = &self.params;
        let fee = match action {
            Action::SubmitBundle(submit) => {
                let seals = params.seal_fee.saturating_mul(submit.bundle.seals() as u64);
                let bytes = submit.bundle.bytes_len();
                seals.saturating_add(params.bundle_byte_fee.saturating_mul(bytes))
            }
            Action::RevealLegs(reveal) => params.bundle_byte_fee.saturating_mul(reveal.bytes_len()),
            _ => 0,
        };
        self.version.flat_fee(fee)
    }

    /// For how many heights `rent` pays.
    pub(crate) fn heights_of_rent(&self, rent: Amount) -> u64 {
        let per_height = u128::from(self.params.rent_per_height);
        let heights = rent.get().checked_div(per_height).unwrap_or(u128::MAX);
        u64::try_from(heights).unwrap_or(u64::MAX)
    }

    /// The least and the greatest base fee that the next `blocks` blocks can lead to.
    #[must_use]
    pub fn forecast(&self, blocks: u32) -> (u64, u64) {
        let after = |bytes| {
            (0..blocks).fold(self.base_fee, |base_fee, _| {
                self.params.next_base_fee(base_fee, bytes)
            })
        };
        (after(0), after(u64::MAX))
    }
}

impl Fee {
    /// All parts together.
    #[must_use]
    pub fn total(&self) -> Option<Amount> {
        self.burned.checked_add(self.flat)?.checked_add(self.tip)
    }
}

/// The bytes that a transaction pays for.
fn weight(tx: &SignedTransaction) -> Option<u64> {
    let items = |action: &Action| match action {
        Action::SubmitData(data) => data.items().len() as u64,
        _ => 0,
    };
    let items = tx.body().actions.iter().map(items);
    let items = items.fold(0, u64::saturating_add);
    let bytes = tx.as_bytes().len() as u64;
    bytes.checked_add(items.checked_mul(BYTES_PER_ITEM)?)
}

/// What the owner of a rollup gets for `part` of a transaction's data, of a tip of `tip_per_byte`.
pub(crate) fn owner_share(tip_per_byte: u64, part: Share, share_bps: u16) -> Option<Amount> {
    let weight = part
        .bytes
        .checked_add(part.items.checked_mul(BYTES_PER_ITEM)?)?;
    let tip = u128::from(weight).checked_mul(u128::from(tip_per_byte))?;
    let share = tip.checked_mul(u128::from(share_bps))?;
    share.checked_div(BASIS_POINTS).map(Amount::new)
}

/// What the transactions of a block pay, until it is paid out at the end of the block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Income {
    burned: Amount,
    earned: BTreeMap<Address, Amount>,
}

impl Income {
    /// Takes the fee of one transaction: `owners` get their shares, `proposer` the rest.
    pub(crate) fn take(
        &mut self,
        fee: &Fee,
        proposer: Address,
        owners: &[(Address, Amount)],
    ) -> Result<(), Rejection> {
        let add =
            |total: Amount, amount: Amount| total.checked_add(amount).ok_or(Rejection::Overflow);
        let mut rest = add(fee.flat, fee.tip)?;
        self.burned = add(self.burned, fee.burned)?;
        for (owner, share) in owners {
            rest = rest.checked_sub(*share).ok_or(Rejection::Overflow)?;
            let earned = self.earned.entry(*owner).or_default();
            *earned = add(*earned, *share)?;
        }
        let earned = self.earned.entry(proposer).or_default();
        *earned = add(*earned, rest)?;
        Ok(())
    }

    /// Pays out. What was taken from accounts goes back to accounts, so nothing overflows.
    pub(crate) fn pay<S: StateRead>(self, delta: &mut StateDelta<'_, S>) -> Result<(), StoreError> {
        for (who, amount) in self.earned {
            if amount > Amount::ZERO {
                delta.give(who, amount)?;
            }
        }
        if self.burned > Amount::ZERO {
            delta.burn(self.burned)?;
        }
        Ok(())
    }
}
