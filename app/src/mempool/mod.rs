//! The mempool: intake, gossip, and what a proposer chooses from.
//!
//! Intake verifies signatures and checks against the committed state without any lock; the lock
//! around the [`Queue`] is held only for moving things in memory, so consensus never waits for it.

mod queue;

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use counterpoint_core::{
    block::Tag,
    primitive::{Address, Hash, Height, Nonce},
    transaction::{GossipBundle, SignedTransaction},
};
use counterpoint_machine::{CheckError, StateRead, StoreError, check_tx, query};
use metrics::{counter, gauge};
pub(crate) use queue::{Limits, Queue, Refused};
use tracing::debug;

use crate::store::Store;

/// Most bundles of peers that wait to be passed on.
const MAX_RELAYED: usize = 64;

/// Heights after which local transactions that still wait are offered to peers once more.
const REOFFER_HEIGHTS: u64 = 50;

/// Codes of what the mempool itself refuses; those of the machine lie below. InsertTx forgets codes
/// from 32,000 on, so that CometBFT offers the transaction again.
mod code {
    pub(super) const UNDECODABLE: u32 = 1;
    pub(super) const NONCE_TAKEN: u32 = 64;
    pub(super) const ACCOUNT_FULL: u32 = 32_001;
    pub(super) const FULL: u32 = 32_000;
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
pub(crate) enum Source {
    /// A user of this node.
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
    /// Handed in here and not yet offered to peers.
    to_offer: VecDeque<Hash>,
    /// Offered to peers, and perhaps still waiting.
    offered: Vec<Hash>,
    to_relay: VecDeque<Bytes>,
}

impl Mempool {
    /// An empty mempool that checks against `store`.
    #[must_use]
    pub(crate) fn new(store: Store, limits: Limits, relay: Relay) -> Self {
        let (to_offer, offered, to_relay) = Default::default();
        let pool = Pool {
            queue: Queue::new(limits),
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

    /// Checks a transaction and lets it in.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; a refusal is a [`Verdict`].
    pub(crate) fn submit(&self, bytes: &[u8], source: Source) -> Result<Verdict, StoreError> {
        // It outlives the frame or message that carried it.
        let bytes = Bytes::copy_from_slice(bytes);
        let hash = Hash::digest(&[&bytes]);
        if self.knows(&hash)? {
            return Ok(Verdict::default());
        }
        let verdict = self.check_and_insert(&bytes, source)?;
        let outcome = if verdict.code == 0 {
            "accepted"
        } else {
            "refused"
        };
        counter!("app_submitted_transactions_total", "outcome" => outcome).increment(1);
        Ok(verdict)
    }

    fn knows(&self, hash: &Hash) -> Result<bool, StoreError> {
        if self.pool().queue.get(hash).is_some() {
            return Ok(true);
        }
        self.store
            .place(hash)
            .map(|place| place.is_some())
            .map_err(into_fault)
    }

    fn check_and_insert(&self, bytes: &Bytes, source: Source) -> Result<Verdict, StoreError> {
        let tx = match SignedTransaction::decode(bytes) {
            Ok(tx) => tx,
            Err(error) => {
                let error = eyre::Report::new(error);
                return Ok(Verdict {
                    code: code::UNDECODABLE,
                    log: format!("{error:#}"),
                });
            }
        };
        let height = self.store.tip().map_err(into_fault)?.height;
        let next = Height::new(height.get() + 1);
        let checked = match check_tx(&self.store.state(), tx, next) {
            Ok(checked) => checked,
            Err(CheckError::Rejected(rejection)) => {
                return Ok(Verdict {
                    code: rejection.code(),
                    log: rejection.to_string(),
                });
            }
            Err(CheckError::Store(fault)) => return Err(fault),
        };
        let tx = checked.into_tx();
        let hash = tx.hash();
        let mut pool = self.pool();
        let inserted = pool.queue.insert(tx);
        if source == Source::Local && inserted.is_ok() {
            pool.to_offer.push_back(hash);
        }
        Ok(match inserted {
            Ok(()) | Err(Refused::Known) => Verdict::default(),
            Err(refused) => Verdict {
                code: code_of(refused),
                log: refused.to_string(),
            },
        })
    }

    /// Takes in what a peer offers: a transaction, or a bundle of them. The code says whether
    /// CometBFT may forget it.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn insert(&self, item: &[u8]) -> Result<u32, StoreError> {
        if item.first() != Some(&Tag::GossipBundle.byte()) {
            return Ok(self.submit(item, Source::Peer)?.code);
        }
        let members = match GossipBundle::unpack(item) {
            Ok(members) => members,
            Err(error) => {
                debug!(%error, "peer sent a malformed bundle");
                return Ok(code::UNDECODABLE);
            }
        };
        let mut code = 0;
        for member in &members {
            code = code.max(self.submit(member, Source::Peer)?.code);
        }
        let mut pool = self.pool();
        if self.relay == Relay::Bundles && code == 0 && pool.to_relay.len() < MAX_RELAYED {
            pool.to_relay.push_back(Bytes::copy_from_slice(item));
        }
        // Members are judged one by one: only a full pool makes the bundle worth another try.
        Ok(if code >= code::FULL { code } else { 0 })
    }

    /// What to offer to peers: local transactions, bundled, and bundles to pass on.
    #[must_use]
    pub(crate) fn reap(&self) -> Vec<Bytes> {
        let mut pool = self.pool();
        let fresh: Vec<Hash> = pool.to_offer.drain(..).collect();
        let waiting = fresh.iter().filter_map(|hash| pool.queue.get(hash));
        let members = waiting.map(|tx| tx.as_bytes().clone()).collect();
        pool.offered.extend(fresh);
        let mut bundles = GossipBundle::pack(members);
        bundles.extend(pool.to_relay.drain(..));
        bundles
    }

    /// What a proposer chooses from, about `bytes` in all.
    #[must_use]
    pub(crate) fn candidates(&self, bytes: usize) -> Vec<SignedTransaction> {
        self.pool().queue.candidates(bytes)
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

    /// Follows the committed state: `signers` had transactions in the block at `height`.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) fn advance(&self, height: Height, signers: &[Address]) -> Result<(), StoreError> {
        let state = self.store.state();
        let nonces = nonces(&state, signers)?;
        let mut pool = self.pool();
        for (signer, nonce) in nonces {
            pool.queue.advance(&signer, nonce);
        }
        pool.queue.expire(Height::new(height.get() + 1));
        if height.get().is_multiple_of(REOFFER_HEIGHTS) {
            let Pool {
                queue,
                to_offer,
                offered,
                ..
            } = &mut *pool;
            let waiting = offered.drain(..).filter(|hash| queue.get(hash).is_some());
            to_offer.extend(waiting);
        }
        gauge!("app_mempool_transactions").set(to_f64(pool.queue.len()));
        gauge!("app_mempool_bytes").set(to_f64(pool.queue.bytes()));
        Ok(())
    }
}

fn nonces<S: StateRead>(
    state: &S,
    signers: &[Address],
) -> Result<Vec<(Address, Nonce)>, StoreError> {
    let nonce = |signer: &Address| {
        let account = query::account(state, *signer)?.unwrap_or_default();
        Ok((*signer, account.nonce))
    };
    signers.iter().map(nonce).collect()
}

fn code_of(refused: Refused) -> u32 {
    match refused {
        Refused::Known => 0,
        Refused::NonceTaken(_) => code::NONCE_TAKEN,
        Refused::AccountFull(_) => code::ACCOUNT_FULL,
        Refused::Full => code::FULL,
    }
}

pub(crate) fn into_fault(error: anyhow::Error) -> StoreError {
    StoreError::from(Box::<dyn std::error::Error + Send + Sync>::from(error))
}

/// Metrics are floating-point numbers; what they count is far below their precision.
#[expect(clippy::cast_precision_loss, reason = "a metric may be rounded")]
pub(crate) fn to_f64(count: usize) -> f64 {
    count as f64
}
