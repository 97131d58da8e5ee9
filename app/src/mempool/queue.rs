//! The pure structure behind the mempool: who waits, in what order, and who must go.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use counterpoint_core::{
    primitive::{Address, Hash, Height, Nonce},
    transaction::SignedTransaction,
};

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
    /// Everybody who waits pays more.
    #[error("mempool is full; offer a greater tip or try again later")]
    Full,
}

/// Transactions that wait, by account and nonce.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    accounts: HashMap<Address, BTreeMap<Nonce, SignedTransaction>>,
    by_hash: HashMap<Hash, (Address, Nonce)>,
    /// The last transaction of every account, cheapest first: what is evicted.
    tails: BTreeSet<(u64, Address)>,
    expiry: BTreeSet<(Height, Hash)>,
    bytes: usize,
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

    /// Takes a checked transaction in; cheaper ones may have to go for it.
    ///
    /// # Errors
    /// [`Refused`] says why it stays outside; then nothing has changed.
    pub(crate) fn insert(&mut self, tx: SignedTransaction) -> Result<(), Refused> {
        if self.by_hash.contains_key(&tx.hash()) {
            return Err(Refused::Known);
        }
        let (signer, nonce) = (tx.signer(), tx.body().nonce);
        let waiting = self.accounts.get(&signer);
        if let Some(other) = waiting.and_then(|account| account.get(&nonce)) {
            if !improves(&tx, other) {
                return Err(Refused::NonceTaken(nonce));
            }
            let other = other.hash();
            self.remove(&other);
        } else if let Some(count) = waiting.map(BTreeMap::len)
            && count >= self.limits.per_account
        {
            return Err(Refused::AccountFull(count));
        }
        self.make_room(&tx)?;
        self.put(tx);
        Ok(())
    }

    /// Evicts the last transactions of the accounts that pay least, if all of them pay less.
    fn make_room(&mut self, tx: &SignedTransaction) -> Result<(), Refused> {
        let (mut bytes, mut count) = (self.bytes + tx.as_bytes().len(), self.by_hash.len() + 1);
        let mut victims = Vec::new();
        for (tip, account) in &self.tails {
            if bytes <= self.limits.bytes && count <= self.limits.count {
                break;
            }
            if *tip >= tx.body().tip_per_byte {
                return Err(Refused::Full);
            }
            let tail = self
                .accounts
                .get(account)
                .and_then(|account| account.last_key_value());
            let Some((_, tail)) = tail else { continue };
            bytes -= tail.as_bytes().len();
            count -= 1;
            victims.push(tail.hash());
        }
        if bytes > self.limits.bytes || count > self.limits.count {
            return Err(Refused::Full);
        }
        for victim in victims {
            self.remove(&victim);
        }
        Ok(())
    }

    fn put(&mut self, tx: SignedTransaction) {
        let (signer, nonce, hash) = (tx.signer(), tx.body().nonce, tx.hash());
        self.forget_tail(&signer);
        self.bytes += tx.as_bytes().len();
        self.by_hash.insert(hash, (signer, nonce));
        self.expiry.insert((tx.body().valid_until, hash));
        self.accounts.entry(signer).or_default().insert(nonce, tx);
        self.note_tail(&signer);
    }

    fn remove(&mut self, hash: &Hash) {
        let Some((signer, nonce)) = self.by_hash.remove(hash) else {
            return;
        };
        self.forget_tail(&signer);
        if let Some(account) = self.accounts.get_mut(&signer) {
            if let Some(tx) = account.remove(&nonce) {
                self.bytes -= tx.as_bytes().len();
                self.expiry.remove(&(tx.body().valid_until, *hash));
            }
            if account.is_empty() {
                self.accounts.remove(&signer);
            }
        }
        self.note_tail(&signer);
    }

    fn tail_of(&self, account: &Address) -> Option<(u64, Address)> {
        let (_, tail) = self.accounts.get(account)?.last_key_value()?;
        Some((tail.body().tip_per_byte, *account))
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

    /// Drops what the committed state has overtaken: nonces below the account's.
    pub(crate) fn advance(&mut self, account: &Address, nonce: Nonce) {
        let Some(waiting) = self.accounts.get(account) else {
            return;
        };
        let stale: Vec<Hash> = waiting.range(..nonce).map(|(_, tx)| tx.hash()).collect();
        for hash in stale {
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

    /// What a proposer chooses from: runs of nonces, the best-paying accounts first, of about
    /// `bytes` in all.
    #[must_use]
    pub(crate) fn candidates(&self, bytes: usize) -> Vec<SignedTransaction> {
        let mut heads: Vec<(u64, &BTreeMap<Nonce, SignedTransaction>)> = self
            .accounts
            .values()
            .filter_map(|account| Some((account.first_key_value()?.1.body().tip_per_byte, account)))
            .collect();
        heads.sort_by_key(|(tip, _)| std::cmp::Reverse(*tip));
        let mut room = bytes;
        let mut candidates = Vec::new();
        for tx in heads.iter().flat_map(|(_, account)| account.values()) {
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
        self.accounts.get(signer)?.get(nonce)
    }

    /// The nonce after the unbroken run that starts at `nonce`.
    #[must_use]
    pub(crate) fn next_nonce(&self, account: &Address, nonce: Nonce) -> Nonce {
        let mut next = nonce;
        if let Some(waiting) = self.accounts.get(account) {
            while waiting.contains_key(&next) {
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

/// Whether `new` may take the place of `old`: it does the same, and pays more or lasts longer. So a
/// sender can hurry a transaction, but never take back what it asked for.
fn improves(new: &SignedTransaction, old: &SignedTransaction) -> bool {
    let (new, old) = (new.body(), old.body());
    let worse = new.tip_per_byte < old.tip_per_byte || new.valid_until < old.valid_until;
    let better = new.tip_per_byte > old.tip_per_byte || new.valid_until > old.valid_until;
    new.actions == old.actions && better && !worse
}

#[cfg(test)]
mod tests {
    use counterpoint_core::{
        action::{Action, Transfer},
        key::SecretKey,
        primitive::Amount,
        transaction::TransactionBody,
    };
    use proptest::prelude::*;

    use super::*;

    fn tx(seed: u8, nonce: u64, tip: u64, valid_until: u64, amount: u128) -> SignedTransaction {
        let key = SecretKey::from_seed([seed; 32]);
        let to = Address::new([1; 20]);
        let body = TransactionBody {
            chain_id: "test".into(),
            signer: key.public_key(),
            nonce: Nonce::new(nonce),
            tip_per_byte: tip,
            max_fee: Amount::new(1),
            valid_until: Height::new(valid_until),
            actions: vec![Action::Transfer(Transfer {
                to,
                amount: Amount::new(amount),
            })],
        };
        SignedTransaction::sign(body, &key).unwrap()
    }

    fn queue(count: usize) -> Queue {
        Queue::new(Limits {
            bytes: 1 << 20,
            count,
            per_account: 3,
        })
    }

    #[test]
    fn only_the_same_actions_replace_and_only_for_more() {
        let mut queue = queue(10);
        queue.insert(tx(1, 0, 5, 10, 1)).unwrap();
        let taken = Err(Refused::NonceTaken(Nonce::new(0)));
        assert_eq!(queue.insert(tx(1, 0, 5, 10, 1)), Err(Refused::Known));
        assert_eq!(queue.insert(tx(1, 0, 9, 10, 2)), taken, "other actions");
        assert_eq!(queue.insert(tx(1, 0, 4, 11, 1)), taken, "smaller tip");
        queue.insert(tx(1, 0, 5, 11, 1)).unwrap();
        queue.insert(tx(1, 0, 6, 11, 1)).unwrap();
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn the_cheapest_tail_goes_first() {
        let mut queue = queue(3);
        queue.insert(tx(1, 0, 9, 10, 1)).unwrap();
        queue.insert(tx(1, 1, 1, 10, 1)).unwrap();
        queue.insert(tx(2, 0, 5, 10, 1)).unwrap();
        assert_eq!(queue.insert(tx(3, 0, 1, 10, 1)), Err(Refused::Full));
        queue.insert(tx(3, 0, 2, 10, 1)).unwrap();
        assert!(queue.get(&tx(1, 1, 1, 10, 1).hash()).is_none());
        assert!(queue.get(&tx(1, 0, 9, 10, 1).hash()).is_some());
    }

    #[test]
    fn one_account_holds_only_its_share() {
        let mut queue = queue(10);
        for nonce in 0..3 {
            queue.insert(tx(1, nonce, 5, 10, 1)).unwrap();
        }
        assert_eq!(
            queue.insert(tx(1, 3, 5, 10, 1)),
            Err(Refused::AccountFull(3))
        );
        assert_eq!(
            queue.next_nonce(&tx(1, 0, 0, 0, 0).signer(), Nonce::new(0)),
            Nonce::new(3)
        );
    }

    proptest! {
        #[test]
        fn counts_and_limits_always_hold(
            steps in prop::collection::vec((1_u8..5, 0_u64..5, 0_u64..4, 1_u64..6, 0_u8..8), 0..60)
        ) {
            let mut queue = queue(6);
            let mut height = 0;
            for (seed, nonce, tip, valid_until, step) in steps {
                let tx = tx(seed, nonce, tip, valid_until, 1);
                match step {
                    0 => queue.advance(&tx.signer(), tx.body().nonce),
                    1 => { height += 1; queue.expire(Height::new(height)); }
                    _ => { let _ = queue.insert(tx); }
                }
                let all = queue.candidates(usize::MAX);
                prop_assert_eq!(all.len(), queue.len());
                prop_assert_eq!(all.iter().map(|tx| tx.as_bytes().len()).sum::<usize>(), queue.bytes());
                prop_assert!(queue.len() <= 6 && queue.tails.len() == queue.accounts.len());
                prop_assert_eq!(queue.expiry.len(), queue.len());
                prop_assert!(all.iter().all(|tx| queue.get(&tx.hash()) == Some(tx)));
            }
        }
    }
}
