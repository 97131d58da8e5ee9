//! The pure structure behind the mempool: who waits, in what order, and who must go.
//!
//! Of each account, the unbroken run of nonces from its next one on is *ready* for a proposer; what
//! lies behind a gap is *parked*, within a share of its own and for a while. All that wait of one
//! account can be paid from what it holds, so filling the pool costs what filling blocks would cost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use counterpoint_core::{
    action::Action,
    primitive::{Address, Amount, Hash, Height, Nonce, RollupId},
    state::Account,
    transaction::SignedTransaction,
};
use counterpoint_machine::CheckedTx;

/// Bytes of memory that an item takes beside its own, about: allocation, handle and Merkle leaf.
const ITEM_OVERHEAD: usize = 96;
/// How long transactions may wait for a gap before them to close, in heights.
pub(super) const PARKED_HEIGHTS: u64 = 100;
/// By what part of itself a tip must grow to replace: spreading a transaction anew has a price.
const TIP_STEP: u64 = 10;
/// Or by how many heights `valid_until` must: a composer signs a batch that has expired again.
const EXTENSION: u64 = 10;

/// How many transactions, and the memory they take in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// What a mempool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Altogether.
    pub(crate) all: Size,
    /// Of one account.
    pub(crate) account: Size,
    /// Behind gaps.
    pub(crate) parked: Size,
}

impl Default for Limits {
    fn default() -> Self {
        let size = |count, mebibytes: usize| Size {
            count,
            bytes: mebibytes << 20,
        };
        Self {
            all: size(100_000, 512),
            account: size(1_024, 64),
            parked: size(10_000, 64),
        }
    }
}

impl Size {
    fn of(tx: &SignedTransaction) -> Self {
        Self {
            count: 1,
            bytes: weight(tx),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            count: self.count - other.count,
            bytes: self.bytes - other.bytes,
        }
    }

    fn fits(self, limit: Self) -> bool {
        self.count <= limit.count && self.bytes <= limit.bytes
    }
}

/// Why a transaction does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It is there already.
    #[error("already known")]
    Known,
    /// Another one with this nonce waits, and this one does not improve on it.
    #[error(
        "nonce {0} is taken: only identical actions replace, for a tip greater by a tenth or a \
         valid_until later by {EXTENSION} heights"
    )]
    NonceTaken(Nonce),
    /// The account holds as much as one may.
    #[error("account has {0} transactions waiting, which is its limit in number or bytes")]
    AccountFull(usize),
    /// The account cannot pay for all its transactions that would wait.
    #[error("account holds {balance}, and all that would wait costs more")]
    Funds {
        /// What it holds.
        balance: Amount,
    },
    /// It would wait for a gap to close, and there is no room for that.
    #[error("nonce {missing} is missing, and too much waits for missing nonces already")]
    Gap {
        /// The nonce that the account goes on with.
        missing: Nonce,
    },
    /// Everybody who waits pays more.
    #[error("mempool is full; offer a greater tip or try again later")]
    Full,
}

/// Transactions that wait, by account and nonce.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    pub(super) accounts: HashMap<Address, Waiting>,
    by_hash: HashMap<Hash, (Address, Nonce)>,
    /// The last transaction of every account, the one worth least first: what is evicted.
    tails: BTreeSet<(Rank, Address)>,
    expiry: BTreeSet<(Height, Hash)>,
    /// Accounts with a gap, the one whose transactions have waited longest for it first.
    gaps: BTreeSet<(Height, Address)>,
    size: Size,
    parked: Size,
    /// The height that blocks are made for now.
    next: Height,
}

/// What a transaction is worth to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Whether a proposer can take it: no nonce before it is missing.
    ready: bool,
    tip: u64,
}

/// What waits of one account. Never empty while it is in the queue.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) account: Account,
    pub(super) txs: BTreeMap<Nonce, Held>,
    /// The nonce after the unbroken run from the account's own on.
    end: Nonce,
    costs: u128, // Of all that wait; at most the balance when each came in.
    size: Size,
    parked: Size,
}

/// A transaction that waits, and what is asked of it again and again.
#[derive(Clone, Debug)]
pub(super) struct Held {
    checked: CheckedTx,
    size: Size,
    /// The height it came at.
    since: Height,
    /// The rollup that most of its data is for.
    pub(super) rollup: Option<RollupId>,
}

impl Held {
    fn new(checked: CheckedTx, since: Height) -> Self {
        let tx = checked.tx();
        Self {
            size: Size::of(tx),
            since,
            rollup: main_rollup(tx),
            checked,
        }
    }

    pub(super) fn tx(&self) -> &SignedTransaction {
        self.checked.tx()
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        let (accounts, by_hash, tails, expiry, gaps) = Default::default();
        Self {
            limits,
            accounts,
            by_hash,
            tails,
            expiry,
            gaps,
            size: Size::default(),
            parked: Size::default(),
            next: Height::new(0),
        }
    }

    /// Takes a checked transaction in, whose signer has `account`; cheaper ones of others may have
    /// to go for it.
    ///
    /// # Errors
    /// [`Refused`] says why it stays outside; then everything waits that waited before.
    pub(crate) fn insert(&mut self, checked: CheckedTx, account: Account) -> Result<(), Refused> {
        let new = Held::new(checked, self.next);
        if self.by_hash.contains_key(&new.tx().hash()) {
            return Err(Refused::Known);
        }
        let replaced = self.admit(&new, &account)?;
        // Taken out first, so that it neither counts nor is evicted in its successor's favour.
        let replaced = replaced.and_then(|hash| self.remove(&hash));
        if let Err(refused) = self.make_room(&new, &account) {
            self.put_back(replaced);
            return Err(refused);
        }
        self.put(new, account);
        Ok(())
    }

    /// Why an account can have nothing new at `nonce`, whatever it is, if that is so.
    #[must_use]
    pub(crate) fn refuses(&self, account: &Address, nonce: Nonce) -> Option<Refused> {
        let waiting = self.accounts.get(account)?;
        let full = waiting.size.count >= self.limits.account.count;
        let refused = Refused::AccountFull(waiting.size.count);
        (full && !waiting.txs.contains_key(&nonce)).then_some(refused)
    }

    /// Whether the account may have one more; gives the hash of the one whose place it takes.
    fn admit(&self, new: &Held, account: &Account) -> Result<Option<Hash>, Refused> {
        let (tx, balance) = (new.tx(), account.balance);
        let nonce = tx.body().nonce;
        let cost = new.checked.cost();
        let Some(waiting) = self.accounts.get(&tx.signer()) else {
            let paid = cost <= balance;
            return paid.then_some(None).ok_or(Refused::Funds { balance });
        };
        let old = waiting.txs.get(&nonce);
        if old.is_some_and(|old| !improves(tx, old.tx())) {
            return Err(Refused::NonceTaken(nonce));
        }
        let replaced = old.map_or(Size::default(), |old| old.size);
        let size = waiting.size.minus(replaced).plus(new.size);
        if !size.fits(self.limits.account) {
            return Err(Refused::AccountFull(waiting.size.count));
        }
        let others = waiting.costs - old.map_or(0, |old| old.checked.cost().get());
        if others.saturating_add(cost.get()) > balance.get() {
            return Err(Refused::Funds { balance });
        }
        Ok(old.map(|old| old.tx().hash()))
    }

    /// Evicts last transactions of other accounts, if that makes room for `new` and all of them are
    /// worth less. The signer's own stay: without them this one would wait for a gap.
    fn make_room(&mut self, new: &Held, account: &Account) -> Result<(), Refused> {
        let (signer, nonce) = (new.tx().signer(), new.tx().body().nonce);
        let missing = self.next_nonce(&signer, account.nonce);
        let rank = Rank {
            ready: nonce <= missing,
            tip: new.tx().body().tip_per_byte,
        };
        let mut evicted = Vec::new();
        loop {
            let full = !self.size.plus(new.size).fits(self.limits.all);
            let crowded = !rank.ready && !self.parked.plus(new.size).fits(self.limits.parked);
            if !full && !crowded {
                return Ok(());
            }
            let mut others = self.tails.iter().filter(|(_, who)| *who != signer);
            let least = others.next().filter(|(other, _)| *other < rank);
            let hash = least.and_then(|(_, who)| self.last_of(who));
            let Some(hash) = hash else {
                self.put_back(evicted);
                let refused = if full {
                    Refused::Full
                } else {
                    Refused::Gap { missing }
                };
                return Err(refused);
            };
            evicted.extend(self.remove(&hash));
        }
    }

    fn last_of(&self, account: &Address) -> Option<Hash> {
        let (_, last) = self.accounts.get(account)?.txs.last_key_value()?;
        Some(last.tx().hash())
    }

    fn put_back(&mut self, removed: impl IntoIterator<Item = (Held, Account)>) {
        for (held, account) in removed {
            self.put(held, account);
        }
    }

    fn put(&mut self, held: Held, account: Account) {
        let tx = held.tx();
        let (signer, nonce, hash) = (tx.signer(), tx.body().nonce, tx.hash());
        self.by_hash.insert(hash, (signer, nonce));
        self.expiry.insert((tx.body().valid_until, hash));
        self.alter(&signer, |waiting| waiting.put(held, account));
    }

    fn remove(&mut self, hash: &Hash) -> Option<(Held, Account)> {
        let (signer, nonce) = *self.by_hash.get(hash)?;
        let removed = self.alter(&signer, |waiting| {
            let held = waiting.remove(&nonce)?;
            Some((held, waiting.account))
        })?;
        self.forget(removed.0.tx());
        Some(removed)
    }

    fn forget(&mut self, tx: &SignedTransaction) {
        self.by_hash.remove(&tx.hash());
        self.expiry.remove(&(tx.body().valid_until, tx.hash()));
    }

    /// Changes what waits of one account, and with it everything that is kept about it.
    fn alter<T>(&mut self, signer: &Address, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.accounts.remove(signer).unwrap_or_default();
        if let Some(rank) = waiting.rank_of_last() {
            self.tails.remove(&(rank, *signer));
        }
        if let Some(since) = waiting.parked_since() {
            self.gaps.remove(&(since, *signer));
        }
        let (size, parked) = (waiting.size, waiting.parked);
        let result = change(&mut waiting);
        self.size = self.size.minus(size).plus(waiting.size);
        self.parked = self.parked.minus(parked).plus(waiting.parked);
        if let Some(since) = waiting.parked_since() {
            self.gaps.insert((since, *signer));
        }
        if let Some(rank) = waiting.rank_of_last() {
            self.tails.insert((rank, *signer));
            self.accounts.insert(*signer, waiting);
        }
        result
    }

    /// Follows the committed state: drops nonces below the account's, and what it can no longer
    /// pay, in the order of nonces.
    pub(crate) fn advance(&mut self, signer: &Address, account: Account) {
        if !self.accounts.contains_key(signer) {
            return;
        }
        let lost = self.alter(signer, |waiting| waiting.follow(account));
        for held in lost {
            self.forget(held.tx());
        }
        self.trim_parked();
    }

    /// Drops everything that cannot be included at `next` or later, and what has waited too long
    /// for a gap to close.
    pub(crate) fn expire(&mut self, next: Height) {
        self.next = next;
        while let Some((_, hash)) = self.expiry.first().filter(|(until, _)| *until < next) {
            let hash = *hash;
            self.remove(&hash);
        }
        let oldest = Height::new(next.get().saturating_sub(PARKED_HEIGHTS));
        while let Some((_, signer)) = self.gaps.first().filter(|(since, _)| *since < oldest) {
            let signer = *signer;
            let lost = self.alter(&signer, |waiting| waiting.unpark(oldest));
            for held in lost {
                self.forget(held.tx());
            }
        }
        self.trim_parked();
    }

    /// What lost the ones before it has become parked, and may be too much of that.
    fn trim_parked(&mut self) {
        while !self.parked.fits(self.limits.parked) {
            let least = self.tails.first().and_then(|(_, who)| self.last_of(who));
            let Some(hash) = least else { return };
            self.remove(&hash);
        }
    }

    /// A transaction that waits.
    #[must_use]
    pub(crate) fn get(&self, hash: &Hash) -> Option<&SignedTransaction> {
        let (signer, nonce) = self.by_hash.get(hash)?;
        self.at(signer, *nonce)
    }

    /// What waits at a nonce of an account.
    #[must_use]
    pub(crate) fn at(&self, account: &Address, nonce: Nonce) -> Option<&SignedTransaction> {
        Some(self.accounts.get(account)?.txs.get(&nonce)?.tx())
    }

    /// The nonce after the unbroken run that starts at `nonce`.
    #[must_use]
    pub(crate) fn next_nonce(&self, account: &Address, nonce: Nonce) -> Nonce {
        let waiting = self.accounts.get(account);
        waiting.map_or(nonce, |waiting| waiting.end_of_run(nonce))
    }

    /// What waits altogether.
    #[must_use]
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// What waits for gaps to close.
    #[must_use]
    pub(crate) fn parked(&self) -> Size {
        self.parked
    }
}

impl Waiting {
    fn put(&mut self, held: Held, account: Account) {
        let (nonce, size) = (held.tx().body().nonce, held.size);
        let moved = self.txs.is_empty() || account.nonce != self.account.nonce;
        self.account = account;
        self.costs += held.checked.cost().get();
        self.size = self.size.plus(size);
        self.parked = self.parked.plus(size);
        self.txs.insert(nonce, held);
        if moved {
            self.count_parked();
        } else if nonce < self.end {
            self.parked = self.parked.minus(size);
        } else {
            self.extend();
        }
    }

    fn remove(&mut self, nonce: &Nonce) -> Option<Held> {
        let held = self.txs.remove(nonce)?;
        self.costs -= held.checked.cost().get();
        self.size = self.size.minus(held.size);
        if *nonce >= self.end {
            self.parked = self.parked.minus(held.size);
        } else if *nonce >= self.account.nonce {
            let behind = self.txs.range(*nonce..self.end);
            self.parked = behind.fold(self.parked, |parked, (_, held)| parked.plus(held.size));
            self.end = *nonce;
        }
        Some(held)
    }

    /// Takes over what a block made of the account; gives what can wait no longer.
    fn follow(&mut self, account: Account) -> Vec<Held> {
        self.account = account;
        let (mut funds, mut lost) = (account.balance, Vec::new());
        for (nonce, held) in &self.txs {
            match funds.checked_sub(held.checked.cost()) {
                Some(rest) if *nonce >= account.nonce => funds = rest,
                _ => lost.push(*nonce),
            }
        }
        let lost = lost.iter().filter_map(|nonce| self.remove(nonce)).collect();
        self.count_parked();
        lost
    }

    /// Gives up what came before `oldest` and still waits for a gap to close.
    fn unpark(&mut self, oldest: Height) -> Vec<Held> {
        let parked = self.txs.range(self.end..);
        let old = parked.filter(|(_, held)| held.since < oldest);
        let old: Vec<Nonce> = old.map(|(nonce, _)| *nonce).collect();
        old.iter().filter_map(|nonce| self.remove(nonce)).collect()
    }

    fn count_parked(&mut self) {
        self.end = self.end_of_run(self.account.nonce);
        let parked = self.txs.range(self.end..);
        self.parked = parked.fold(Size::default(), |size, (_, held)| size.plus(held.size));
    }

    /// The run goes on as far as it can.
    fn extend(&mut self) {
        let end = self.end_of_run(self.end);
        let joined = self.txs.range(self.end..end);
        self.parked = joined.fold(self.parked, |parked, (_, held)| parked.minus(held.size));
        self.end = end;
    }

    fn end_of_run(&self, start: Nonce) -> Nonce {
        let mut end = start;
        while self.txs.contains_key(&end)
            && let Some(next) = end.next()
        {
            end = next;
        }
        end
    }

    /// When the first of those that wait for a gap to close came.
    fn parked_since(&self) -> Option<Height> {
        let parked = self.txs.range(self.end..);
        parked.map(|(_, held)| held.since).min()
    }

    /// What the last transaction is worth to the pool: one behind a gap less than any that a
    /// proposer can take.
    fn rank_of_last(&self) -> Option<Rank> {
        let (nonce, last) = self.txs.last_key_value()?;
        Some(Rank {
            ready: *nonce < self.end,
            tip: last.tx().body().tip_per_byte,
        })
    }
}

/// The rollup that most of a transaction's data is for.
fn main_rollup(tx: &SignedTransaction) -> Option<RollupId> {
    let mut bytes: BTreeMap<RollupId, u64> = BTreeMap::new();
    for action in &tx.body().actions {
        if let Action::SubmitData(data) = action {
            *bytes.entry(data.rollup_id()).or_default() += data.bytes_len();
        }
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
    most.map(|(rollup, _)| rollup)
}

/// Bytes of memory that a transaction takes, about: what it was encoded in, and what it is decoded
/// to, where every item stands on its own.
fn weight(tx: &SignedTransaction) -> usize {
    let items = |action: &Action| match action {
        Action::SubmitData(data) => data.items().len(),
        _ => 0,
    };
    let items: usize = tx.body().actions.iter().map(items).sum();
    2 * tx.as_bytes().len() + ITEM_OVERHEAD * items
}

/// Whether `new` may take the place of `old`: it does the same, and pays notably more or lasts
/// notably longer. So a sender can hurry a transaction, but never take back what it asked for, and
/// cannot have the network spread the same thing again and again for nothing.
fn improves(new: &SignedTransaction, old: &SignedTransaction) -> bool {
    let (new, old) = (new.body(), old.body());
    let worse = new.tip_per_byte < old.tip_per_byte || new.valid_until < old.valid_until;
    let step = old.tip_per_byte.div_ceil(TIP_STEP).max(1);
    let dearer = new.tip_per_byte >= old.tip_per_byte.saturating_add(step);
    let later = new.valid_until.get() >= old.valid_until.get().saturating_add(EXTENSION);
    new.actions == old.actions && !worse && (dearer || later)
}

#[cfg(test)]
mod tests;
