//! The mempool: intake, gossip, and what a proposer chooses from.
//!
//! Intake goes from the cheap to the dear: a look at the head of a transaction, its hash, its body,
//! its signature, the state. It happens without any lock; the lock around the [`Queue`] is held only
//! for moving things in memory, so consensus never waits for it.
//!
//! In CometBFT's own mempool (`flood`) the same queue is the index of what CometBFT holds: it knows
//! whose turn it is, and which signatures were verified, but what is proposed is taken from what
//! CometBFT lists.

mod inbox;
mod queue;
mod screen;
mod select;
mod verify;
mod votes;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use counterpoint_core::{
    block::Tag,
    primitive::{Address, Hash, Height, Nonce},
    state::Account,
    transaction::{
        GossipBundle, RawTransaction, SignedTransaction, TransactionHead, UnverifiedTransaction,
    },
};
use counterpoint_machine::{CheckedTx, ExecuteError, Room, StoreError, check_tx, query};
use counterpoint_service::to_f64;
use inbox::{Bounds, Inbox, Offer};
use metrics::{counter, gauge};
pub(crate) use queue::{Limits, Size};
use queue::{Queue, Refused};
use screen::Screen;
use select::Choice;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use verify::Remembered;
pub(crate) use verify::verify;
use votes::Votes;

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

/// Bytes that CheckTx may look at from one block to the next. Commit waits for all the CheckTx that
/// CometBFT has sent before it, so this bounds that wait; gRPC has no such bound.
const CHECK_BYTES: usize = 16 << 20;
/// Bytes that a signature counts for: about as long as it takes to hash them.
const SIGNATURE_BYTES: usize = 32 << 10;
/// Attesters' messages that CheckTx may look at from one block to the next, for the same reason.
const CHECK_MESSAGES: usize = 2_048;

/// Codes of what the mempool itself refuses; those of the machine lie below. CometBFT forgets what
/// InsertTx answered with a code from 32,000 on, so that it can be offered again.
pub(crate) mod code {
    use counterpoint_machine::Rejection;

    pub(crate) const UNDECODABLE: u32 = 1;
    pub(crate) const NONCE_TAKEN: u32 = 64;
    pub(crate) const GONE: u32 = 65;
    pub(crate) const UNWANTED: u32 = 66;
    pub(crate) const TAKEN: u32 = 67;
    pub(crate) const FULL: u32 = 32_000;
    pub(crate) const ACCOUNT_FULL: u32 = 32_001;
    pub(crate) const FUNDS: u32 = 32_002;
    pub(crate) const GAP: u32 = 32_003;
    pub(crate) const BUSY: u32 = 32_004;
    pub(crate) const NO_CHAIN: u32 = 32_005;

    /// Whether the verdict may be another one for who has seen the next blocks. Where there is no
    /// room, there is none for waiting either.
    pub(super) fn can_pass(code: u32) -> bool {
        Rejection::can_pass(code) || code == FUNDS
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
    gossip: Gossip,
    pool: Mutex<Pool>,
    /// Something is in the inbox.
    offered: Notify,
    /// An attester's message was taken in.
    voted: Notify,
    /// It was said that CometBFT is configured for another mempool.
    mismatched: AtomicBool,
}

/// How transactions reach other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gossip {
    /// In bundles of ours; those of peers are passed on, byte for byte, once.
    Relayed,
    /// In bundles of ours only: in a full mesh everybody gets them from where they were made.
    Direct,
    /// CometBFT's mempool holds and spreads them.
    Flood,
}

#[derive(Debug)]
struct Pool {
    queue: Queue,
    inbox: Inbox,
    /// Messages of attesters that peers offered.
    offered_votes: Inbox,
    votes: Votes,
    remembered: Remembered,
    /// The height that comes after the state which the queue follows.
    next: Height,
    /// Handed in here and not yet offered to peers.
    to_offer: VecDeque<Hash>,
    /// Offered to peers, and perhaps still waiting.
    offered: BTreeSet<Hash>,
    to_relay: VecDeque<Bytes>,
    /// Bytes that CheckTx may still look at before the next block.
    check_bytes: usize,
    /// Messages of attesters that it may.
    check_messages: usize,
}

/// What intake found out about one transaction.
enum Intake {
    /// A block or the queue holds it.
    Known,
    /// The queue holds it from now on.
    Accepted,
    Refused(Verdict),
}

/// What a user's transaction is before CometBFT's mempool has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// A block holds it.
    Included,
    /// Decodes, and its signature is sound.
    Sound,
    Refused(Verdict),
}

impl Mempool {
    /// An empty mempool that checks against `store`.
    #[must_use]
    pub(crate) fn new(store: Store, limits: Limits, gossip: Gossip) -> Self {
        // CometBFT lists transactions in the order they came: one behind a gap would stand in the
        // way of all that came after it.
        let parked = match gossip {
            Gossip::Flood => Size::default(),
            Gossip::Relayed | Gossip::Direct => limits.parked,
        };
        let (votes, remembered, next, to_offer, offered, to_relay) = Default::default();
        let pool = Pool {
            queue: Queue::new(Limits { parked, ..limits }),
            inbox: Inbox::new(Bounds::TRANSACTIONS),
            offered_votes: Inbox::new(Bounds::MESSAGES),
            votes,
            remembered,
            next,
            to_offer,
            offered,
            to_relay,
            check_bytes: CHECK_BYTES,
            check_messages: CHECK_MESSAGES,
        };
        Self {
            store,
            gossip,
            pool: Mutex::new(pool),
            offered: Notify::new(),
            voted: Notify::new(),
            mismatched: AtomicBool::new(false),
        }
    }

    /// How transactions reach other nodes.
    #[must_use]
    pub(crate) fn gossip(&self) -> Gossip {
        self.gossip
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a transaction of a user, or an attester's message, and lets it in; gives its hash too.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; a refusal is a [`Verdict`].
    pub(crate) fn submit(&self, bytes: &[u8]) -> Result<(Hash, Verdict), StoreError> {
        // It outlives the frame or message that carried it.
        let raw = RawTransaction::new(Bytes::copy_from_slice(bytes));
        let hash = raw.hash();
        if is_message(bytes) {
            return Ok((hash, self.submit_message(bytes, self.source())?));
        }
        let intake = if self.knows(&hash)? {
            Intake::Known
        } else {
            match self.screen(bytes)? {
                Some(verdict) => Intake::Refused(verdict),
                None => self.take_in(raw)?,
            }
        };
        Ok((hash, intake.counted().into_verdict()))
    }

    /// Answers CheckTx: as [`submit`](Self::submit), but only so much of it between two blocks.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; a refusal is a [`Verdict`].
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<Verdict, StoreError> {
        if is_message(bytes) {
            return self.check_message(bytes, self.source());
        }
        if self.gossip == Gossip::Flood {
            // What a block holds already must not enter CometBFT's list again.
            if let Some(verdict) = self.screen(bytes)? {
                return Ok(Intake::Refused(verdict).counted().into_verdict());
            }
            // What came here by gRPC is verified, whatever peers have CometBFT ask.
            let verified = self.pool().remembered.find(bytes);
            if let Some(tx) = verified {
                let intake = self.check_and_insert(tx, Source::Peer)?;
                return Ok(intake.counted().into_verdict());
            }
        }
        if !self.pool().may_check(bytes.len()) {
            let log = "no more is checked before the next block: try again, or use gRPC";
            return Ok(refuse(code::BUSY, log.into()).counted().into_verdict());
        }
        Ok(self.submit(bytes)?.1)
    }

    /// Whether CometBFT's mempool may keep a transaction after a block. What has left the queue was
    /// included, overtaken, replaced or outbid, has expired, or waits for a gap.
    #[must_use]
    pub(crate) fn recheck(&self, bytes: &[u8]) -> Verdict {
        if self.holds(bytes) {
            return Verdict::default();
        }
        Verdict {
            code: code::GONE,
            log: "no block can hold it any more, or better ones took its place".into(),
        }
    }

    /// Looks at a transaction that is to be handed to CometBFT's mempool; gives its hash too. What
    /// was verified is remembered until it comes back by CheckTx.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn examine(&self, bytes: &[u8]) -> Result<(Hash, Prospect), StoreError> {
        let raw = RawTransaction::new(Bytes::copy_from_slice(bytes));
        let hash = raw.hash();
        if is_message(bytes) {
            return Ok((hash, self.examine_message(bytes)?));
        }
        if self.store.place(&hash).map_err(into_fault)?.is_some() {
            return Ok((hash, Prospect::Included));
        }
        if let Some(verdict) = self.screen(bytes)? {
            return Ok((hash, Prospect::Refused(verdict)));
        }
        Ok(match self.verify(raw) {
            Ok(tx) => {
                self.pool().remembered.put(tx);
                (hash, Prospect::Sound)
            }
            Err(verdict) => (hash, Prospect::Refused(verdict)),
        })
    }

    /// What shows before anything is hashed. What does not even look like a transaction passes: to
    /// decode it says what is wrong.
    fn screen(&self, item: &[u8]) -> Result<Option<Verdict>, StoreError> {
        let Some(head) = TransactionHead::read(item) else {
            return Ok(None);
        };
        self.judge(&Screen::open(&self.store)?, &head, item.len())
    }

    /// Judges by a head: what the state says, and whether the account has room.
    fn judge(
        &self,
        screen: &Screen,
        head: &TransactionHead,
        length: usize,
    ) -> Result<Option<Verdict>, StoreError> {
        if !screen.begun {
            let (code, log) = (code::NO_CHAIN, "the chain is not there yet".into());
            return Ok(Some(Verdict { code, log }));
        }
        if let Some(rejection) = screen.judge(head, length)? {
            let (code, log) = (rejection.code(), rejection.to_string());
            return Ok(Some(Verdict { code, log }));
        }
        let pool = self.pool();
        let full = pool.queue.refuses(&head.signer.address(), head.nonce);
        Ok(full.map(Verdict::from))
    }

    fn knows(&self, hash: &Hash) -> Result<bool, StoreError> {
        if self.pool().queue.get(hash).is_some() {
            return Ok(true);
        }
        let place = self.store.place(hash).map_err(into_fault)?;
        Ok(place.is_some())
    }

    fn take_in(&self, raw: RawTransaction) -> Result<Intake, StoreError> {
        match self.verify(raw) {
            Ok(tx) => self.check_and_insert(tx, self.source()),
            Err(verdict) => Ok(Intake::Refused(verdict)),
        }
    }

    /// Whose it is to spread what is handed in here: CometBFT's own mempool spreads what it asked about.
    fn source(&self) -> Source {
        match self.gossip {
            Gossip::Flood => Source::Peer,
            Gossip::Relayed | Gossip::Direct => Source::Local,
        }
    }

    fn verify(&self, raw: RawTransaction) -> Result<SignedTransaction, Verdict> {
        if let Some(tx) = self.get(&raw.hash()) {
            return Ok(tx);
        }
        raw.verify().map_err(|error| Verdict {
            code: code::UNDECODABLE,
            log: format!("{:#}", eyre::Report::new(error)),
        })
    }

    fn check_and_insert(
        &self,
        tx: SignedTransaction,
        source: Source,
    ) -> Result<Intake, StoreError> {
        loop {
            let state = self.store.state();
            let next = next_height(&state.tip().map_err(into_fault)?);
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

    /// Puts what a peer offers, alone or in a bundle, into the inbox of its kind. The code says
    /// whether CometBFT may forget it. This never waits and verifies nothing: Commit waits for
    /// whatever CometBFT asked of the mempool before it.
    #[must_use]
    pub(crate) fn insert(&self, item: &[u8]) -> u32 {
        // It outlives the frame that carried it.
        let item = Bytes::copy_from_slice(item);
        let offer = match item.first() {
            Some(tag) if *tag == Tag::Transaction.byte() || is_message(&item) => {
                Offer::new(vec![item], None)
            }
            Some(tag) if *tag == Tag::GossipBundle.byte() => match GossipBundle::unpack(&item) {
                Ok(members) => Offer::new(members, Some(item)),
                Err(error) => {
                    debug!(%error, "peer sent a malformed bundle");
                    return code::UNDECODABLE;
                }
            },
            _ => return code::UNDECODABLE,
        };
        if !self.pool().take_offer(offer) {
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
        while self.take_in_next()? {}
        Ok(())
    }

    /// Takes in the next batch of attesters' messages and the next one of transactions, each of the
    /// offer whose turn it is; says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn take_in_next(&self) -> Result<bool, StoreError> {
        let messages = self.take_in_messages()?;
        Ok(self.take_in_transactions()? || messages)
    }

    fn take_in_transactions(&self) -> Result<bool, StoreError> {
        // Taken by a statement of its own, so that the lock is not held meanwhile.
        let offer = self.pool().inbox.pop();
        let Some(mut offer) = offer else {
            return Ok(false);
        };
        self.take_in_batch(&mut offer)?;
        let mut pool = self.pool();
        if offer.done < offer.members.len() {
            pool.inbox.put_back(offer);
        } else if offer.bad {
            counter!(metric::BAD_OFFERS).increment(1);
        } else if self.gossip == Gossip::Relayed
            // Only what was news here can be news to others, so that no bundle travels for ever.
            && offer.news
            && pool.to_relay.len() < MAX_RELAYED
        {
            pool.to_relay.extend(offer.bundle);
        }
        Ok(true)
    }

    fn take_in_batch(&self, offer: &mut Offer) -> Result<(), StoreError> {
        let screen = Screen::open(&self.store)?;
        let (mut sound, mut unverified) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        let end = offer
            .members
            .len()
            .min(offer.done + UnverifiedTransaction::BATCH);
        for at in offer.done..end {
            let member = offer.members[at].clone();
            match self.look(&screen, &member, &mut seen)? {
                Look::Known => count("known"),
                Look::Sound(tx) => sound.push(tx),
                Look::Unverified(tx) => unverified.push(tx),
                Look::Refused(verdict) => {
                    offer.bad |= verdict.code == code::UNDECODABLE;
                    self.refuse_offered(offer, member, &verdict);
                }
            }
        }
        offer.done = end;
        let verified = verify(unverified);
        if verified.forged {
            // Who answers for it has not looked at what he sends, and so wastes no more of us.
            offer.bad = true;
            offer.done = offer.members.len();
        }
        for tx in sound.into_iter().chain(verified.sound) {
            match self.check_and_insert(tx.clone(), Source::Peer)? {
                Intake::Known => count("known"),
                Intake::Accepted => {
                    count("accepted");
                    offer.news = true;
                }
                Intake::Refused(verdict) => {
                    self.refuse_offered(offer, tx.as_bytes().clone(), &verdict);
                    self.pool().remembered.put(tx);
                }
            }
        }
        Ok(())
    }

    /// Looks at one transaction of a peer, short of its signature.
    fn look(
        &self,
        screen: &Screen,
        member: &Bytes,
        seen: &mut HashSet<Hash>,
    ) -> Result<Look, StoreError> {
        let junk = |log: String| {
            let code = code::UNDECODABLE;
            Look::Refused(Verdict { code, log })
        };
        let Some(head) = TransactionHead::read(member) else {
            return Ok(junk("not a transaction".into()));
        };
        if let Some(verdict) = self.judge(screen, &head, member.len())? {
            return Ok(Look::Refused(verdict));
        }
        let raw = RawTransaction::new(member.clone());
        let hash = raw.hash();
        if !seen.insert(hash) || self.knows(&hash)? {
            return Ok(Look::Known);
        }
        if let Some(tx) = self.get(&hash) {
            return Ok(Look::Sound(tx));
        }
        Ok(raw.decode().map_or_else(
            |error| junk(format!("{:#}", eyre::Report::new(error))),
            Look::Unverified,
        ))
    }

    fn refuse_offered(&self, offer: &Offer, member: Bytes, verdict: &Verdict) {
        count("refused");
        if code::can_pass(verdict.code) {
            self.pool().inbox.postpone(offer, member);
        } else {
            debug!(?verdict, "peer offered a bad transaction");
        }
    }

    /// What to offer to peers: what attesters said, local transactions, bundled, and bundles to pass on.
    #[must_use]
    pub(crate) fn reap(&self) -> Vec<Bytes> {
        if self.gossip == Gossip::Flood {
            self.warn_of_mismatch("app");
            return Vec::new();
        }
        let mut pool = self.pool();
        let mut bundles = pool.votes.take_offers();
        bundles.extend(GossipBundle::pack(pool.take_offers()));
        bundles.extend(pool.to_relay.drain(..));
        bundles
    }

    /// What a proposer takes, as far as there is room; `salt` decides between equals. `listed` is
    /// what CometBFT's mempool offers, if that is in use.
    #[must_use]
    pub(crate) fn select(&self, room: Room, salt: u64, listed: &[Bytes]) -> Vec<SignedTransaction> {
        let pool = self.pool();
        if self.gossip == Gossip::Flood {
            let held = listed.iter().filter_map(|item| pool.find(item));
            let held = held.map(SignedTransaction::hash).collect();
            return pool.queue.select(room, salt, Choice::Listed(&held));
        }
        if !listed.is_empty() {
            self.warn_of_mismatch("flood");
        }
        pool.queue.select(room, salt, Choice::Everything)
    }

    fn warn_of_mismatch(&self, theirs: &str) {
        if !self.mismatched.swap(true, Ordering::Relaxed) {
            error!("cometbft runs with mempool.type {theirs}: set mempool = {theirs:?} here too");
        }
    }

    /// The transaction that has exactly these bytes, if its signature was verified on its way in. They
    /// need not be hashed for that.
    #[must_use]
    pub(crate) fn find(&self, item: &[u8]) -> Option<SignedTransaction> {
        let pool = self.pool();
        let waits = pool.find(item).cloned();
        waits.or_else(|| pool.remembered.find(item))
    }

    /// A transaction whose signature was verified on its way in.
    #[must_use]
    pub(crate) fn get(&self, hash: &Hash) -> Option<SignedTransaction> {
        let pool = self.pool();
        let waits = pool.queue.get(hash).cloned();
        waits.or_else(|| pool.remembered.get(hash))
    }

    /// Whether a transaction waits.
    #[must_use]
    pub(crate) fn is_pending(&self, hash: &Hash) -> bool {
        self.pool().queue.get(hash).is_some()
    }

    /// Whether exactly these bytes wait; they need not be hashed for that.
    #[must_use]
    pub(crate) fn holds(&self, item: &[u8]) -> bool {
        if is_message(item) {
            return self.holds_message(item);
        }
        self.pool().find(item).is_some()
    }

    /// The nonce that follows what waits here, from the account's own on.
    #[must_use]
    pub(crate) fn next_nonce(&self, account: &Address, nonce: Nonce) -> Nonce {
        self.pool().queue.next_nonce(account, nonce)
    }

    /// How many transactions wait, and their bytes.
    #[must_use]
    pub(crate) fn size(&self) -> (usize, usize) {
        let Size { count, bytes } = self.pool().queue.size();
        (count, bytes)
    }

    /// Follows the committed state: `signers` had transactions in the block at `height`.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn advance(&self, height: Height, signers: &[Address]) -> Result<(), StoreError> {
        self.advance_votes()?;
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
        pool.check_bytes = CHECK_BYTES;
        pool.check_messages = CHECK_MESSAGES;
        let (size, parked) = (pool.queue.size(), pool.queue.parked());
        gauge!(metric::MEMPOOL_TRANSACTIONS).set(to_f64(size.count as u64));
        gauge!(metric::MEMPOOL_BYTES).set(to_f64(size.bytes as u64));
        gauge!(metric::MEMPOOL_PARKED).set(to_f64(parked.count as u64));
        gauge!(metric::INBOX_BYTES).set(to_f64(pool.inbox.bytes() as u64));
        Ok(())
    }
}

/// What a peer's transaction is, short of its signature.
enum Look {
    Known,
    /// Verified earlier.
    Sound(SignedTransaction),
    Unverified(UnverifiedTransaction),
    Refused(Verdict),
}

impl Intake {
    fn counted(self) -> Self {
        count(match self {
            Self::Known => "known",
            Self::Accepted => "accepted",
            Self::Refused(_) => "refused",
        });
        self
    }

    fn into_verdict(self) -> Verdict {
        match self {
            Self::Known | Self::Accepted => Verdict::default(),
            Self::Refused(verdict) => verdict,
        }
    }
}

fn count(outcome: &'static str) {
    counter!(metric::SUBMITTED, "outcome" => outcome).increment(1);
}

/// The height of the block after `tip`.
fn next_height(tip: &Tip) -> Height {
    Height::new(tip.initial.get().max(tip.height.get() + 1))
}

impl Pool {
    /// Whether CheckTx may look at so many bytes; they are gone then.
    fn may_check(&mut self, length: usize) -> bool {
        let rest = self.check_bytes.checked_sub(length + SIGNATURE_BYTES);
        self.check_bytes = rest.unwrap_or(self.check_bytes);
        rest.is_some()
    }

    /// Whether CheckTx may look at one more message of an attester.
    fn may_check_message(&mut self) -> bool {
        let rest = self.check_messages.checked_sub(1);
        self.check_messages = rest.unwrap_or(0);
        rest.is_some()
    }

    /// Puts an offer into the inbox of its kind, which is that of its first member.
    fn take_offer(&mut self, offer: Offer) -> bool {
        if offer.members.first().is_some_and(|item| is_message(item)) {
            self.offered_votes.push(offer)
        } else {
            self.inbox.push(offer)
        }
    }

    /// The transaction that has exactly these bytes, if it waits.
    fn find(&self, item: &[u8]) -> Option<&SignedTransaction> {
        let head = TransactionHead::read(item)?;
        let tx = self.queue.at(&head.signer.address(), head.nonce)?;
        (tx.as_bytes() == item).then_some(tx)
    }

    fn insert(&mut self, checked: CheckedTx, account: Account, source: Source) -> Intake {
        let hash = checked.tx().hash();
        match self.queue.insert(checked, account) {
            Ok(()) => {}
            Err(Refused::Known) => return Intake::Known,
            Err(refused) => return Intake::Refused(refused.into()),
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

/// Whether an item is a message of an attester.
fn is_message(item: &[u8]) -> bool {
    item.first() == Some(&Tag::Attestation.byte())
}

fn refuse(code: u32, log: String) -> Intake {
    Intake::Refused(Verdict { code, log })
}

impl From<Refused> for Verdict {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Known => 0,
            Refused::NonceTaken(_) => code::NONCE_TAKEN,
            Refused::AccountFull(_) => code::ACCOUNT_FULL,
            Refused::Funds { .. } => code::FUNDS,
            Refused::Gap { .. } => code::GAP,
            Refused::Full => code::FULL,
        };
        let log = refused.to_string();
        Self { code, log }
    }
}

fn into_fault(error: anyhow::Error) -> StoreError {
    StoreError::from(Box::<dyn Error + Send + Sync>::from(error))
}

#[cfg(test)]
mod tests;
