//! What still fits into a block: bytes as a whole, and each rollup's own share.

use std::collections::BTreeMap;

use counterpoint_core::{
    action::Action,
    primitive::{Address, Amount, RollupId},
    registry::RollupConfig,
    transaction::SignedTransaction,
};

use crate::{
    fees::Prices,
    state::{ReadRecords, StateRead, StoreError},
};

/// Items and their bytes, of one rollup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

/// Most transactions of bundles that the transactions of a block seal or reveal. The sender of each is
/// recovered from its signature, which takes 60 µs: such blocks would otherwise take seconds.
pub(crate) const MAX_RECOVERIES: u64 = 4_096;

/// Why a transaction does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The block is too full for it.
    Block,
    /// The rollup's share is; others may fit.
    Share(RollupId),
    /// The block seals and reveals as much as it may; transactions without bundles fit.
    Recoveries,
    /// Its signer cannot pay the price of now, or will not; others may.
    Unpaid,
}

/// The place that is left in a block which is being filled.
#[derive(Clone, Debug)]
pub struct Room {
    bytes: u64,
    recoveries: u64,
    shares: BTreeMap<RollupId, Share>,
    prices: Prices,
    /// What the transactions that were taken cost their signers.
    spent: BTreeMap<Address, Amount>,
}

impl Share {
    /// A rollup's share of a block.
    pub(crate) fn of(config: &RollupConfig) -> Self {
        Self {
            items: config.max_items_per_block.into(),
            bytes: config.max_bytes_per_block.into(),
        }
    }

    pub(crate) fn add(&mut self, items: u64, bytes: u64) {
        self.items = self.items.saturating_add(items);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// What is left of this share once `part` is taken out, if there is as much.
    pub(crate) fn without(self, part: Self) -> Option<Self> {
        Some(Self {
            items: self.items.checked_sub(part.items)?,
            bytes: self.bytes.checked_sub(part.bytes)?,
        })
    }
}

impl Room {
    /// An empty block of at most `max_bytes`, with the shares that the rollups in `state` have.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn new<S: StateRead>(state: &S, max_bytes: u64) -> Result<Self, StoreError> {
        let share = |config: &RollupConfig| (config.rollup_id, Share::of(config));
        let records = state.rollups()?;
        Ok(Self {
            bytes: max_bytes,
            recoveries: MAX_RECOVERIES,
            shares: records.iter().map(|record| share(&record.config)).collect(),
            prices: Prices::read(state)?,
            spent: BTreeMap::new(),
        })
    }

    /// Takes the place of `tx`, whose signer holds `balance`. Whoever could not pay would be left out
    /// of the block, and must not keep others from it meanwhile.
    ///
    /// # Errors
    /// [`NoRoom`] says what is too full; then nothing has changed.
    pub fn take(&mut self, tx: &SignedTransaction, balance: Amount) -> Result<(), NoRoom> {
        let spent = self.pay(tx, balance).ok_or(NoRoom::Unpaid)?;
        let bytes = self.bytes.checked_sub(tx.as_bytes().len() as u64);
        let bytes = bytes.ok_or(NoRoom::Block)?;
        let left = self.recoveries.checked_sub(recoveries(tx));
        let unrecovered = left.ok_or(NoRoom::Recoveries)?;
        let parts = parts(tx);
        let left = parts.iter().filter_map(|(id, part)| {
            // A rollup that is not registered has no share to pass; the action will fail.
            let left = self.shares.get(id)?.without(*part);
            Some(left.map(|left| (*id, left)).ok_or(NoRoom::Share(*id)))
        });
        let left = left.collect::<Result<Vec<_>, _>>()?;
        (self.bytes, self.recoveries) = (bytes, unrecovered);
        self.shares.extend(left);
        self.spent.insert(tx.signer(), spent);
        Ok(())
    }

    /// What the signer will have spent, if he can and will.
    fn pay(&self, tx: &SignedTransaction, balance: Amount) -> Option<Amount> {
        let fee = self.prices.fee(tx)?.total()?;
        let before = self.spent.get(&tx.signer()).copied().unwrap_or_default();
        let spent = before.checked_add(self.prices.cost(tx)?)?;
        (fee <= tx.body().max_fee && spent <= balance).then_some(spent)
    }
}

/// How many transactions of bundles a transaction seals or reveals.
pub(crate) fn recoveries(tx: &SignedTransaction) -> u64 {
    let of = |action: &Action| match action {
        Action::SubmitBundle(submit) => submit.bundle.seals() as u64,
        Action::RevealLegs(reveal) => {
            let legs = reveal.legs().iter();
            legs.fold(0_u64, |sum, leg| sum.saturating_add(leg.len() as u64))
        }
        _ => 0,
    };
    let actions = tx.body().actions.iter().map(of);
    actions.fold(0, u64::saturating_add)
}

/// What a transaction adds to rollups' lists if all goes well.
pub(crate) fn parts(tx: &SignedTransaction) -> BTreeMap<RollupId, Share> {
    let mut parts: BTreeMap<RollupId, Share> = BTreeMap::new();
    for action in &tx.body().actions {
        if let Action::SubmitData(data) = action {
            let part = parts.entry(data.rollup_id()).or_default();
            part.add(data.items().len() as u64, data.bytes_len());
        }
    }
    parts
}
