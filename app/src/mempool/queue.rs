//! The pure structure behind the mempool: who waits, in what order, and who must go.
//!
//! Of each account, the unbroken run of nonces from its next one on is *ready* for a proposer; what
//! lies behind a gap is *parked*. All that wait of one account can be paid from what it holds, so
//! filling the pool costs what filling blocks would cost.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use counterpoint_core::{
    action::Action,
    primitive::{Address, Amount, Hash, Height, Nonce},
    state::Account,
    transaction::SignedTransaction,
};
use counterpoint_machine::{CheckedTx, NoRoom, Room};

/// Transactions that a block was too full for, after which a proposer looks no further.
const MAX_MISSES: usize = 1_000;
/// Bytes of memory that an item takes beside its own, about: allocation, handle and Merkle leaf.
const ITEM_OVERHEAD: usize = 96;

/// What a mempool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory of all transactions together.
    pub(crate) bytes: usize,
    /// Transactions.
    pub(crate) count: usize,
    /// Transactions of one account.
    pub(crate) per_account: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
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
    /// The last transaction of every account, the one worth least first: what is evicted.
    tails: BTreeSet<(Rank, Address)>,
    expiry: BTreeSet<(Height, Hash)>,
    bytes: usize,
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
        if let Err(refused) = self.make_room(&checked, &account) {
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

    /// Evicts last transactions of other accounts, if that makes room for `checked` and all of them
    /// are worth less. The signer's own stay: without them this one would wait for a gap.
    fn make_room(&mut self, checked: &CheckedTx, account: &Account) -> Result<(), Refused> {
        let tx = checked.tx();
        let rank = Rank {
            ready: self.next_nonce(&tx.signer(), account.nonce) >= tx.body().nonce,
            tip: tx.body().tip_per_byte,
        };
        let mut evicted = Vec::new();
        while self.bytes + weight(tx) > self.limits.bytes || self.by_hash.len() >= self.limits.count
        {
            let mut others = self.tails.iter().filter(|(_, who)| *who != tx.signer());
            let least = others.next().filter(|(other, _)| *other < rank);
            let tail = least.and_then(|(_, who)| self.accounts.get(who)?.txs.last_key_value());
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
        self.bytes += weight(tx);
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
        self.bytes -= weight(removed.tx());
        self.expiry
            .remove(&(removed.tx().body().valid_until, *hash));
        self.note_tail(&signer);
        Some((removed, account))
    }

    fn tail_of(&self, account: &Address) -> Option<(Rank, Address)> {
        let rank = self.accounts.get(account)?.rank_of_last()?;
        Some((rank, *account))
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
        self.forget_tail(signer);
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
        self.note_tail(signer);
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

    /// What a proposer chooses from: again and again the best-paying of all accounts' next ones, as
    /// long as `room` takes them. An account whose next one finds no room is passed over. `salt`
    /// decides between those who pay the same, so that no address is favoured for long.
    #[must_use]
    pub(crate) fn select(&self, mut room: Room, salt: u64) -> Vec<SignedTransaction> {
        let head = |(signer, waiting): (&Address, &Waiting)| {
            let nonce = waiting.account.nonce;
            let tip = waiting.txs.get(&nonce)?.tx().body().tip_per_byte;
            Some((tip, salted(signer, salt), *signer, nonce))
        };
        let mut heads: BinaryHeap<_> = self.accounts.iter().filter_map(head).collect();
        let (mut selected, mut misses) = (Vec::new(), 0);
        while let Some((_, place, signer, nonce)) = heads.pop() {
            let txs = self.accounts.get(&signer).map(|waiting| &waiting.txs);
            let Some((txs, tx)) = txs.and_then(|txs| Some((txs, txs.get(&nonce)?.tx()))) else {
                continue;
            };
            match room.take(tx) {
                Ok(()) => {}
                // A full rollup says nothing about the others.
                Err(NoRoom::Share(_)) => continue,
                Err(NoRoom::Block) if misses < MAX_MISSES => {
                    misses += 1;
                    continue;
                }
                Err(NoRoom::Block) => break,
            }
            selected.push(tx.clone());
            let next = nonce.next().and_then(|nonce| txs.get(&nonce));
            if let Some(next) = next.map(|next| next.tx().body()) {
                heads.push((next.tip_per_byte, place, signer, next.nonce));
            }
        }
        selected
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

    /// Bytes of memory of all transactions together, about.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Waiting {
    /// What the last transaction is worth to the pool: one behind a gap less than any that a
    /// proposer can take.
    fn rank_of_last(&self) -> Option<Rank> {
        let (nonce, last) = self.txs.last_key_value()?;
        let run = nonce.get().checked_sub(self.account.nonce.get())?;
        let ready = usize::try_from(run).is_ok_and(|run| run < self.txs.len());
        let tip = last.tx().body().tip_per_byte;
        Some(Rank { ready, tip })
    }
}

/// A place among equals that changes with `salt`.
fn salted(address: &Address, salt: u64) -> u64 {
    let bytes = address.as_bytes().iter().take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)) ^ salt
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
