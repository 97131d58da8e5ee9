//! The pure structure behind the mempool: who waits, in what order, and who must go.
//!
//! Of each account, the unbroken run of nonces from its next one on is *ready* for a proposer; what
//! lies behind a gap is *parked*. All that wait of one account can be paid from what it holds, so
//! filling the pool costs what filling blocks would cost.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use counterpoint_core::{
    primitive::{Address, Amount, Hash, Height, Nonce},
    transaction::SignedTransaction,
};
use counterpoint_machine::{Account, CheckedTx};

/// What a mempool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of all transactions together.
    pub(crate) bytes: usize,
    /// Transactions.
    pub(crate) count: usize,
    /// Transactions of one account.
    pub(crate) per_account: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            count: 100_000,
            per_account: 1_024,
        }
    }
}

/// Why a transaction does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It is there already.
    #[error("already known")]
    Known,
    /// Another one with this nonce waits, and this one does not improve on it.
    #[error("nonce {0} is taken; only identical actions with a greater tip or valid_until replace")]
    NonceTaken(Nonce),
    /// The account holds as many places as one may.
    #[error("account has {0} transactions waiting, which is the limit")]
    AccountFull(usize),
    /// The account cannot pay the fees of all its transactions that would wait.
    #[error("account holds {balance}, and the fees of all that would wait are greater")]
    Funds {
        /// What it holds.
        balance: Amount,
    },
    /// Everybody who waits pays more.
    #[error("mempool is full; offer a greater tip or try again later")]
    Full,
}

/// Transactions that wait, by account and nonce.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    accounts: HashMap<Address, Waiting>,
    by_hash: HashMap<Hash, (Address, Nonce)>,
    /// The last transaction of every account, cheapest first: what is evicted.
    tails: BTreeSet<(u64, Address)>,
    expiry: BTreeSet<(Height, Hash)>,
    bytes: usize,
}

/// What waits of one account. Never empty while it is in the queue.
#[derive(Debug, Default)]
struct Waiting {
    account: Account,
    fees: u128, // Of all that wait; at most the balance when each came in.
    txs: BTreeMap<Nonce, CheckedTx>,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new(limits: Limits) -> Self {
        let (accounts, by_hash, tails) = Default::default();
        Self {
            limits,
            accounts,
            by_hash,
            tails,
            expiry: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Takes a checked transaction in, whose signer has `account`; cheaper ones of others may have
    /// to go for it.
    ///
    /// # Errors
    /// [`Refused`] says why it stays outside; then everything waits that waited before.
    pub(crate) fn insert(&mut self, checked: CheckedTx, account: Account) -> Result<(), Refused> {
        let tx = checked.tx();
        if self.by_hash.contains_key(&tx.hash()) {
            return Err(Refused::Known);
        }
        let replaced = self.admit(&checked, &account)?;
        // Taken out first, so that it neither counts nor is evicted in its successor's favour.
        let replaced = replaced.and_then(|hash| self.remove(&hash));
        if let Err(refused) = self.make_room(tx) {
            self.put_back(replaced);
            return Err(refused);
        }
        self.put(checked, account);
        Ok(())
    }

    /// Whether the account may have one more; gives the hash of the one whose place it takes.
    fn admit(&self, checked: &CheckedTx, account: &Account) -> Result<Option<Hash>, Refused> {
        let (tx, balance) = (checked.tx(), account.balance);
        let nonce = tx.body().nonce;
        let Some(waiting) = self.accounts.get(&tx.signer()) else {
            return Ok(None); // Its own fee was checked.
        };
        let old = waiting.txs.get(&nonce);
        if old.is_some_and(|old| !improves(tx, old.tx())) {
            return Err(Refused::NonceTaken(nonce));
        }
        if old.is_none() && waiting.txs.len() >= self.limits.per_account {
            return Err(Refused::AccountFull(waiting.txs.len()));
        }
        let others = waiting.fees - old.map_or(0, |old| old.fee().get());
        if others.saturating_add(checked.fee().get()) > balance.get() {
            return Err(Refused::Funds { balance });
        }
        Ok(old.map(|old| old.tx().hash()))
    }

    /// Evicts the last transactions of the accounts that pay least, if that makes room for `tx` and
    /// all of them pay less. The signer's own stay: without them this one would wait for a gap.
    fn make_room(&mut self, tx: &SignedTransaction) -> Result<(), Refused> {
        let mut evicted = Vec::new();
        while self.bytes + tx.as_bytes().len() > self.limits.bytes
            || self.by_hash.len() >= self.limits.count
        {
            let others = self.tails.iter().filter(|(_, who)| *who != tx.signer());
            let cheapest = others
                .take(1)
                .find(|(tip, _)| *tip < tx.body().tip_per_byte);
            let tail = cheapest.and_then(|(_, who)| self.accounts.get(who)?.txs.last_key_value());
            let Some(hash) = tail.map(|(_, tail)| tail.tx().hash()) else {
                self.put_back(evicted);
                return Err(Refused::Full);
            };
            evicted.extend(self.remove(&hash));
        }
        Ok(())
    }

    fn put_back(&mut self, removed: impl IntoIterator<Item = (CheckedTx, Account)>) {
        for (checked, account) in removed {
            self.put(checked, account);
        }
    }

    fn put(&mut self, checked: CheckedTx, account: Account) {
        let tx = checked.tx();
        let (signer, nonce, hash) = (tx.signer(), tx.body().nonce, tx.hash());
        self.forget_tail(&signer);
        self.bytes += tx.as_bytes().len();
        self.by_hash.insert(hash, (signer, nonce));
        self.expiry.insert((tx.body().valid_until, hash));
        let waiting = self.accounts.entry(signer).or_default();
        waiting.account = account;
        waiting.fees += checked.fee().get();
        waiting.txs.insert(nonce, checked);
        self.note_tail(&signer);
    }

    fn remove(&mut self, hash: &Hash) -> Option<(CheckedTx, Account)> {
        let (signer, nonce) = self.by_hash.remove(hash)?;
        self.forget_tail(&signer);
        let waiting = self.accounts.get_mut(&signer)?;
        let removed = waiting.txs.remove(&nonce)?;
        let account = waiting.account;
        waiting.fees -= removed.fee().get();
        if waiting.txs.is_empty() {
            self.accounts.remove(&signer);
        }
        self.bytes -= removed.tx().as_bytes().len();
        self.expiry
            .remove(&(removed.tx().body().valid_until, *hash));
        self.note_tail(&signer);
        Some((removed, account))
    }

    fn tail_of(&self, account: &Address) -> Option<(u64, Address)> {
        let (_, tail) = self.accounts.get(account)?.txs.last_key_value()?;
        Some((tail.tx().body().tip_per_byte, *account))
    }

    fn forget_tail(&mut self, account: &Address) {
        if let Some(tail) = self.tail_of(account) {
            self.tails.remove(&tail);
        }
    }

    fn note_tail(&mut self, account: &Address) {
        if let Some(tail) = self.tail_of(account) {
            self.tails.insert(tail);
        }
    }

    /// Follows the committed state: drops nonces below the account's, and what it can no longer
    /// pay, in the order of nonces.
    pub(crate) fn advance(&mut self, signer: &Address, account: Account) {
        let Some(waiting) = self.accounts.get_mut(signer) else {
            return;
        };
        waiting.account = account;
        let mut funds = account.balance;
        let mut lost = Vec::new();
        for (nonce, checked) in &waiting.txs {
            match funds.checked_sub(checked.fee()) {
                Some(rest) if *nonce >= account.nonce => funds = rest,
                _ => lost.push(checked.tx().hash()),
            }
        }
        for hash in lost {
            self.remove(&hash);
        }
    }

    /// Drops everything that cannot be included at `next` or later.
    pub(crate) fn expire(&mut self, next: Height) {
        while let Some((_, hash)) = self.expiry.first().filter(|(until, _)| *until < next) {
            let hash = *hash;
            self.remove(&hash);
        }
    }

    /// What a proposer chooses from: what is ready, the best-paying accounts first, of about
    /// `bytes` in all.
    #[must_use]
    pub(crate) fn candidates(&self, bytes: usize) -> Vec<SignedTransaction> {
        let mut runs: Vec<(u64, &Waiting)> = self
            .accounts
            .values()
            .filter_map(|waiting| {
                let first = waiting.txs.get(&waiting.account.nonce)?;
                Some((first.tx().body().tip_per_byte, waiting))
            })
            .collect();
        runs.sort_by_key(|(tip, _)| std::cmp::Reverse(*tip));
        let mut room = bytes;
        let mut candidates = Vec::new();
        for tx in runs.iter().flat_map(|(_, waiting)| waiting.ready()) {
            if room == 0 {
                break;
            }
            room = room.saturating_sub(tx.as_bytes().len());
            candidates.push(tx.clone());
        }
        candidates
    }

    /// A transaction that waits.
    #[must_use]
    pub(crate) fn get(&self, hash: &Hash) -> Option<&SignedTransaction> {
        let (signer, nonce) = self.by_hash.get(hash)?;
        Some(self.accounts.get(signer)?.txs.get(nonce)?.tx())
    }

    /// The nonce after the unbroken run that starts at `nonce`.
    #[must_use]
    pub(crate) fn next_nonce(&self, account: &Address, nonce: Nonce) -> Nonce {
        let mut next = nonce;
        if let Some(waiting) = self.accounts.get(account) {
            while waiting.txs.contains_key(&next) {
                next = next.next().unwrap_or(next);
            }
        }
        next
    }

    /// How many transactions wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Bytes of all transactions together.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Waiting {
    /// The unbroken run from the account's next nonce on.
    fn ready(&self) -> impl Iterator<Item = &SignedTransaction> {
        let mut next = Some(self.account.nonce);
        std::iter::from_fn(move || {
            let tx = self.txs.get(&next?)?.tx();
            next = tx.body().nonce.next();
            Some(tx)
        })
    }
}

/// Whether `new` may take the place of `old`: it does the same, and pays more or lasts longer. So a
/// sender can hurry a transaction, but never take back what it asked for.
fn improves(new: &SignedTransaction, old: &SignedTransaction) -> bool {
    let (new, old) = (new.body(), old.body());
    let worse = new.tip_per_byte < old.tip_per_byte || new.valid_until < old.valid_until;
    let better = new.tip_per_byte > old.tip_per_byte || new.valid_until > old.valid_until;
    new.actions == old.actions && better && !worse
}

#[cfg(test)]
mod tests;
