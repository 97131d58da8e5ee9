//! The mempool: intake, gossip, and what a proposer chooses from.
//!
//! Intake verifies signatures and checks against the committed state without any lock; the lock
//! around the [`Queue`] is held only for moving things in memory, so consensus never waits for it.

mod inbox;
mod queue;

use std::{
    collections::{BTreeSet, VecDeque},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use counterpoint_core::{
    block::Tag,
    primitive::{Address, Hash, Height, Nonce},
    transaction::{GossipBundle, RawTransaction, SignedTransaction},
};
use counterpoint_machine::{Account, CheckedTx, ExecuteError, Room, StoreError, check_tx, query};
use counterpoint_service::to_f64;
use inbox::{Inbox, Offer};
use metrics::{counter, gauge};
pub(crate) use queue::Limits;
use queue::{Queue, Refused};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    metric,
    store::{Store, Tip},
};

/// Most bundles of peers that wait to be passed on: 64 MiB.
const MAX_RELAYED: usize = 64;

/// Heights after which local transactions that still wait are offered to peers once more.
const REOFFER_HEIGHTS: u64 = 50;

/// Most hashes that are kept for offering: twice what the queue holds.
const MAX_OFFERS: usize = 200_000;

/// Most bytes of transactions that one ReapTxs answers with; the next one comes soon.
const REAP_BYTES: usize = 4 << 20;

/// Codes of what the mempool itself refuses; those of the machine lie below. CometBFT forgets what
/// InsertTx answered with a code from 32,000 on, so that it can be offered again.
mod code {
    use counterpoint_machine::Rejection;

    pub(super) const UNDECODABLE: u32 = 1;
    pub(super) const NONCE_TAKEN: u32 = 64;
    pub(super) const FULL: u32 = 32_000;
    pub(super) const ACCOUNT_FULL: u32 = 32_001;
    pub(super) const FUNDS: u32 = 32_002;
    pub(super) const NO_CHAIN: u32 = 32_003;

    /// Whether the next blocks may change the verdict.
    pub(super) fn can_pass(code: u32) -> bool {
        Rejection::can_pass(code) || code >= FULL
    }
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
    /// Something is in the inbox.
    offered: Notify,
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
    inbox: Inbox,
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
        let (inbox, next, to_offer, offered, to_relay) = Default::default();
        let pool = Pool {
            queue: Queue::new(limits),
            inbox,
            next,
            to_offer,
            offered,
            to_relay,
        };
        Self {
            store,
            relay,
            pool: Mutex::new(pool),
            offered: Notify::new(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a transaction of a user and lets it in; gives its hash too.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; a refusal is a [`Verdict`].
    pub(crate) fn submit(&self, bytes: &[u8]) -> Result<(Hash, Verdict), StoreError> {
        // It outlives the frame or message that carried it.
        let raw = RawTransaction::new(Bytes::copy_from_slice(bytes));
        let hash = raw.hash();
        let verdict = match self.take_in(raw, Source::Local)? {
            Intake::Known | Intake::Accepted => Verdict::default(),
            Intake::Refused(verdict) => verdict,
        };
        Ok((hash, verdict))
    }

    fn take_in(&self, raw: RawTransaction, source: Source) -> Result<Intake, StoreError> {
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
            let tip = state.tip().map_err(into_fault)?;
            if tip == Tip::default() {
                let log = "the chain is not there yet".into();
                return Ok(refuse(code::NO_CHAIN, log));
            }
            let next = Height::new(tip.initial.get().max(tip.height.get() + 1));
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

    /// Puts what a peer offers, a transaction or a bundle of them, into the inbox. The code says
    /// whether CometBFT may forget it. This never waits and verifies nothing: Commit waits for
    /// whatever CometBFT asked of the mempool before it.
    #[must_use]
    pub(crate) fn insert(&self, item: &[u8]) -> u32 {
        // It outlives the frame that carried it.
        let item = Bytes::copy_from_slice(item);
        let offer = match item.first() {
            Some(tag) if *tag == Tag::Transaction.byte() => Offer::new(vec![item], None),
            Some(tag) if *tag == Tag::GossipBundle.byte() => match GossipBundle::unpack(&item) {
                Ok(members) => Offer::new(members, Some(item)),
                Err(error) => {
                    debug!(%error, "peer sent a malformed bundle");
                    return code::UNDECODABLE;
                }
            },
            _ => return code::UNDECODABLE,
        };
        if !self.pool().inbox.push(offer) {
            return code::FULL;
        }
        self.offered.notify_one();
        0
    }

    /// Looks at what peers offer until told to stop.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) async fn run(
        self: Arc<Self>,
        shutdown: CancellationToken,
    ) -> Result<(), StoreError> {
        loop {
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || this.take_in_all()).await;
            looked
                .map_err(|panic| StoreError::from(Box::<dyn Error + Send + Sync>::from(panic)))??;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.offered.notified() => {}
            }
        }
    }

    /// Takes in everything in the inbox.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn take_in_all(&self) -> Result<(), StoreError> {
        // Each offer is taken by a statement of its own, so that the lock is not held meanwhile.
        loop {
            let Some(offer) = self.pool().inbox.pop() else {
                return Ok(());
            };
            self.take_in_offer(&offer)?;
        }
    }

    fn take_in_offer(&self, offer: &Offer) -> Result<(), StoreError> {
        let mut accepted = false;
        for member in &offer.members {
            match self.take_in(RawTransaction::new(member.clone()), Source::Peer)? {
                Intake::Known => {}
                Intake::Accepted => accepted = true,
                Intake::Refused(verdict) if code::can_pass(verdict.code) => {
                    self.pool().inbox.postpone(offer, member.clone());
                }
                Intake::Refused(verdict) => debug!(?verdict, "peer offered a bad transaction"),
            }
        }
        let mut pool = self.pool();
        // Only what was news here can be news to others, so that no bundle travels for ever.
        if self.relay == Relay::Bundles && accepted && pool.to_relay.len() < MAX_RELAYED {
            pool.to_relay.extend(offer.bundle.clone());
        }
        Ok(())
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
        pool.inbox.next_block();
        self.offered.notify_one();
        if height.get().is_multiple_of(REOFFER_HEIGHTS) {
            let again = std::mem::take(&mut pool.offered);
            pool.to_offer.extend(again);
        }
        gauge!(metric::MEMPOOL_TRANSACTIONS).set(to_f64(pool.queue.len() as u64));
        gauge!(metric::MEMPOOL_BYTES).set(to_f64(pool.queue.bytes() as u64));
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
    StoreError::from(Box::<dyn Error + Send + Sync>::from(error))
}

#[cfg(test)]
mod tests;
