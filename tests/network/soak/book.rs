//! Every transaction that was signed, and when it got how far.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};

/// Who sends a transaction, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Gives a sender what it will need.
    Funding,
    /// Through the composer, at its due time.
    Own,
    /// Another one with the same nonce, straight to the sequencer: one of the two must lose.
    Rival,
}

/// One transaction, and when it got how far, counted from the start.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) rollup: usize,
    pub(super) kind: Kind,
    pub(super) sender: Address,
    pub(super) nonce: u64,
    pub(super) to: Address,
    pub(super) value: U256,
    pub(super) due: Duration,
    pub(super) acknowledged: Option<Duration>,
    pub(super) ordered: Option<Duration>,
    pub(super) executed: Option<Duration>,
}

/// What everybody writes into.
#[derive(Clone, Debug)]
pub(super) struct Book {
    start: Instant,
    entries: Arc<Mutex<BTreeMap<B256, Entry>>>,
}

impl Book {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            entries: Arc::default(),
        }
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Notes a transaction before anybody is sent it.
    pub(super) fn enter(&self, raw: &Bytes, entry: Entry) -> B256 {
        let hash = keccak256(raw);
        self.entries.lock().unwrap().insert(hash, entry);
        hash
    }

    pub(super) fn acknowledged(&self, hash: &B256) {
        self.note(hash, |entry| &mut entry.acknowledged);
    }

    pub(super) fn ordered(&self, hash: &B256) {
        self.note(hash, |entry| &mut entry.ordered);
    }

    pub(super) fn executed(&self, hash: &B256) {
        self.note(hash, |entry| &mut entry.executed);
    }

    /// Notes that something has happened, for the first time.
    fn note(&self, hash: &B256, time: impl Fn(&mut Entry) -> &mut Option<Duration>) {
        let now = self.now();
        if let Some(entry) = self.entries.lock().unwrap().get_mut(hash) {
            time(entry).get_or_insert(now);
        }
    }

    pub(super) fn entries(&self) -> BTreeMap<B256, Entry> {
        self.entries.lock().unwrap().clone()
    }
}
