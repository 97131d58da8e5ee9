//! The mempool: intake, gossip, and what a proposer chooses from.
//!
//! Intake verifies signatures and checks against the committed state without any lock; the lock
//! around the [`Queue`] is held only for moving things in memory, so consensus never waits for it.

mod queue;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use counterpoint_core::{
    block::Tag,
    primitive::{Address, Hash, Height, Nonce},
    transaction::{GossipBundle, RawTransaction, SignedTransaction},
};
use counterpoint_machine::{Account, CheckedTx, ExecuteError, Room, StoreError, check_tx, query};
use metrics::{counter, gauge};
pub(crate) use queue::Limits;
use queue::{Queue, Refused};
use tracing::debug;

use crate::{
    metric::{self, to_f64},
    store::Store,
};

/// Most bundles of peers that wait to be passed on: 64 MiB.
const MAX_RELAYED: usize = 64;

/// Heights after which local transactions that still wait are offered to peers once more.
const REOFFER_HEIGHTS: u64 = 50;

/// Most hashes that are kept for offering: twice what the queue holds.
const MAX_OFFERS: usize = 200_000;

/// Most bytes of transactions that one ReapTxs answers with; the next one comes soon.
const REAP_BYTES: usize = 4 << 20;

/// Codes of what the mempool itself refuses; those of the machine lie below. InsertTx forgets codes
/// from 32,000 on, so that CometBFT offers the transaction again.
mod code {
    pub(super) const UNDECODABLE: u32 = 1;
    pub(super) const NONCE_TAKEN: u32 = 64;
    pub(super) const FULL: u32 = 32_000;
    pub(super) const ACCOUNT_FULL: u32 = 32_001;
    pub(super) const FUNDS: u32 = 32_002;
}

/// What became of a transaction that was handed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// 0 if the mempool or a block holds it.
    pub(crate) code: u32,
    /// Why not.
    pub(crate) log: String,
}

/// Where a transaction comes from: what users hand in here is for us to spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Local,
    /// A peer, which has spread it already.
    Peer,
}

/// The mempool of one node.
#[derive(Debug)]
pub(crate) struct Mempool {
    store: Store,
    relay: Relay,
    pool: Mutex<Pool>,
}

/// Whether bundles of peers are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    /// Yes, byte for byte, once.
    Bundles,
    /// No: in a full mesh everybody has them.
    Nothing,
}

#[derive(Debug)]
struct Pool {
    queue: Queue,
    /// The height that comes after the state which the queue follows.
    next: Height,
    /// Handed in here and not yet offered to peers.
    to_offer: VecDeque<Hash>,
    /// Offered to peers, and perhaps still waiting.
    offered: BTreeSet<Hash>,
    to_relay: VecDeque<Bytes>,
}

/// What intake found out about one transaction.
enum Intake {
    /// A block or the queue holds it.
    Known,
    /// The queue holds it from now on.
    Accepted,
    Refused(Verdict),
}

impl Mempool {
    /// An empty mempool that checks against `store`.
    #[must_use]
    pub(crate) fn new(store: Store, limits: Limits, relay: Relay) -> Self {
        let (next, to_offer, offered, to_relay) = Default::default();
        let pool = Pool {
            queue: Queue::new(limits),
            next,
            to_offer,
            offered,
            to_relay,
        };
        Self {
            store,
            relay,
            pool: Mutex::new(pool),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a transaction of a user and lets it in.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; a refusal is a [`Verdict`].
    pub(crate) fn submit(&self, bytes: &[u8]) -> Result<Verdict, StoreError> {
        Ok(match self.take_in(bytes, Source::Local)? {
            Intake::Known | Intake::Accepted => Verdict::default(),
            Intake::Refused(verdict) => verdict,
        })
    }

    fn take_in(&self, bytes: &[u8], source: Source) -> Result<Intake, StoreError> {
        // It outlives the frame or message that carried it.
        let raw = RawTransaction::new(Bytes::copy_from_slice(bytes));
        let intake = if self.knows(&raw.hash())? {
            Intake::Known
        } else {
            self.check_and_insert(raw, source)?
        };
        let outcome = match intake {
            Intake::Known => "known",
            Intake::Accepted => "accepted",
            Intake::Refused(_) => "refused",
        };
        counter!(metric::SUBMITTED, "outcome" => outcome).increment(1);
        Ok(intake)
    }

    fn knows(&self, hash: &Hash) -> Result<bool, StoreError> {
        if self.pool().queue.get(hash).is_some() {
            return Ok(true);
        }
        let place = self.store.place(hash).map_err(into_fault)?;
        Ok(place.is_some())
    }

    fn check_and_insert(&self, raw: RawTransaction, source: Source) -> Result<Intake, StoreError> {
        let tx = match raw.verify() {
            Ok(tx) => tx,
            Err(error) => {
                let log = format!("{:#}", eyre::Report::new(error));
                return Ok(refuse(code::UNDECODABLE, log));
            }
        };
        loop {
            let state = self.store.state();
            let height = state.tip().map_err(into_fault)?.height;
            let next = Height::new(height.get() + 1);
            let checked = match check_tx(&state, tx.clone(), next) {
                Ok(checked) => checked,
                Err(ExecuteError::Rejected(rejection)) => {
                    return Ok(refuse(rejection.code(), rejection.to_string()));
                }
                Err(ExecuteError::Store(fault)) => return Err(fault),
            };
            let account = query::account(&state, tx.signer())?.unwrap_or_default();
            let mut pool = self.pool();
            // A block that was committed meanwhile may have overtaken what was checked.
            if pool.next <= next {
                return Ok(pool.insert(checked, account, source));
            }
        }
    }

    /// Takes in what a peer offers: a transaction, or a bundle of them. The code says whether
    /// CometBFT may forget it.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn insert(&self, item: &[u8]) -> Result<u32, StoreError> {
        if item.first() != Some(&Tag::GossipBundle.byte()) {
            return Ok(match self.take_in(item, Source::Peer)? {
                Intake::Known | Intake::Accepted => 0,
                Intake::Refused(verdict) => verdict.code,
            });
        }
        let members = match GossipBundle::unpack(item) {
            Ok(members) => members,
            Err(error) => {
                debug!(%error, "peer sent a malformed bundle");
                return Ok(code::UNDECODABLE);
            }
        };
        let (mut later, mut accepted) = (0, false);
        for member in &members {
            match self.take_in(member, Source::Peer)? {
                Intake::Accepted => accepted = true,
                // Members are judged one by one: only a full pool makes it worth another try.
                Intake::Refused(verdict) if verdict.code >= code::FULL => later = verdict.code,
                Intake::Known | Intake::Refused(_) => {}
            }
        }
        let mut pool = self.pool();
        // Only what was news here can be news to others, so that no bundle travels for ever.
        if self.relay == Relay::Bundles && accepted && pool.to_relay.len() < MAX_RELAYED {
            pool.to_relay.push_back(Bytes::copy_from_slice(item));
        }
        Ok(later)
    }

    /// What to offer to peers: local transactions, bundled, and bundles to pass on.
    #[must_use]
    pub(crate) fn reap(&self) -> Vec<Bytes> {
        let mut pool = self.pool();
        let mut bundles = GossipBundle::pack(pool.take_offers());
        bundles.extend(pool.to_relay.drain(..));
        bundles
    }

    /// What a proposer chooses from, as far as there is room; `salt` decides between equals.
    #[must_use]
    pub(crate) fn select(&self, room: Room, salt: u64) -> Vec<SignedTransaction> {
        self.pool().queue.select(room, salt)
    }

    /// A transaction whose signature was verified on its way in.
    #[must_use]
    pub(crate) fn get(&self, hash: &Hash) -> Option<SignedTransaction> {
        self.pool().queue.get(hash).cloned()
    }

    /// The nonce that follows what waits here, from the account's own on.
    #[must_use]
    pub(crate) fn next_nonce(&self, account: &Address, nonce: Nonce) -> Nonce {
        self.pool().queue.next_nonce(account, nonce)
    }

    /// How many transactions wait, and their bytes.
    #[must_use]
    pub(crate) fn size(&self) -> (usize, usize) {
        let pool = self.pool();
        (pool.queue.len(), pool.queue.bytes())
    }

    /// Follows the committed state: `signers` had transactions in the block at `height`.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn advance(&self, height: Height, signers: &[Address]) -> Result<(), StoreError> {
        let state = self.store.state();
        let mut accounts = Vec::new();
        for signer in signers {
            accounts.push((signer, query::account(&state, *signer)?.unwrap_or_default()));
        }
        let mut pool = self.pool();
        pool.next = Height::new(height.get() + 1);
        let next = pool.next;
        for (signer, account) in accounts {
            pool.queue.advance(signer, account);
        }
        pool.queue.expire(next);
        if height.get().is_multiple_of(REOFFER_HEIGHTS) {
            let again = std::mem::take(&mut pool.offered);
            pool.to_offer.extend(again);
        }
        gauge!(metric::MEMPOOL_TRANSACTIONS).set(to_f64(pool.queue.len()));
        gauge!(metric::MEMPOOL_BYTES).set(to_f64(pool.queue.bytes()));
        Ok(())
    }
}

impl Pool {
    fn insert(&mut self, checked: CheckedTx, account: Account, source: Source) -> Intake {
        let hash = checked.tx().hash();
        match self.queue.insert(checked, account) {
            Ok(()) => {}
            Err(Refused::Known) => return Intake::Known,
            Err(refused) => return refuse(code_of(refused), refused.to_string()),
        }
        if source == Source::Local {
            if self.to_offer.len() < MAX_OFFERS {
                self.to_offer.push_back(hash);
            } else {
                self.note_offered(hash);
            }
        }
        Intake::Accepted
    }

    /// The next local transactions that peers have not seen, in the order they came.
    fn take_offers(&mut self) -> Vec<Bytes> {
        let (mut offers, mut bytes) = (Vec::new(), 0);
        while bytes < REAP_BYTES
            && let Some(hash) = self.to_offer.pop_front()
        {
            let Some(tx) = self.queue.get(&hash) else {
                continue;
            };
            bytes += tx.as_bytes().len();
            offers.push(tx.as_bytes().clone());
            self.note_offered(hash);
        }
        offers
    }

    fn note_offered(&mut self, hash: Hash) {
        if self.offered.len() >= MAX_OFFERS {
            let queue = &self.queue;
            self.offered.retain(|hash| queue.get(hash).is_some());
        }
        self.offered.insert(hash);
    }
}

fn refuse(code: u32, log: String) -> Intake {
    Intake::Refused(Verdict { code, log })
}

fn code_of(refused: Refused) -> u32 {
    match refused {
        Refused::Known => 0,
        Refused::NonceTaken(_) => code::NONCE_TAKEN,
        Refused::AccountFull(_) => code::ACCOUNT_FULL,
        Refused::Funds { .. } => code::FUNDS,
        Refused::Full => code::FULL,
    }
}

fn into_fault(error: anyhow::Error) -> StoreError {
    StoreError::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
}

#[cfg(test)]
mod tests;
