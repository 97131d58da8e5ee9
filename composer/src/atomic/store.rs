//! The bundles that were acknowledged and are not over: on disk first, then in memory.
//!
//! What becomes of them is not on disk: the chain's state says it, with proofs.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::{
    action::RevealLegs,
    atomic::AtomicBundle,
    primitive::{Hash, Height},
    state::{BundleRecord, BundleStatus},
};
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use crate::{
    followers::Followers,
    queue::{Log, LogError},
};

/// Most bundles that are not over.
const MAX_LIVE: usize = 1_024;
/// Most bytes of them and of their legs.
const MAX_BYTES: u64 = 64 << 20;
/// Bundles that are over and still remembered, with the hashes of their transactions.
const MAX_OVER: usize = 256;
/// Stages that are remembered of a bundle: more than its attempts can bring.
const MAX_STAGES: usize = 128;
/// Pause after the first attempt that came to nothing; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often it does: up to half a minute.
const MAX_DOUBLINGS: u32 = 5;
/// Bytes by which the log may grow before it is written anew.
const COMPACT_BYTES: u64 = 16 << 20;

/// One line of the log; replaying them gives the state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Record {
    /// A bundle was acknowledged.
    Accepted(AtomicBundle),
    /// Its legs were.
    Revealed(RevealLegs),
    /// A transaction was signed, and may be anywhere from then on.
    Signed(Signed),
    /// Nothing more is to be done for a bundle, and why, if the chain has nothing to say about it.
    Over { id: Hash, why: Option<String> },
}

/// What a bundle needs a transaction for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) enum Step {
    Seal,
    Reveal,
}

/// A transaction on its way.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Signed {
    pub(super) nonce: u64,
    pub(super) id: Hash,
    pub(super) step: Step,
    pub(super) tx: Bytes,
}

/// A bundle, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) bundle: AtomicBundle,
    pub(super) legs: Option<RevealLegs>,
    /// What the state had of it, and the height that had left it.
    pub(super) known: Option<(BundleRecord, Height)>,
    /// The stages that were seen, and the heights that had left them.
    pub(super) stages: Vec<(BundleStatus, Height)>,
    /// Why nothing becomes of it, if not for a reason of the chain.
    pub(super) refused: Option<String>,
    /// What the last attempt of a step failed for.
    pub(super) trouble: Option<String>,
    /// Steps that failed in blocks, one after another.
    pub(super) failures: u32,
    /// Attempts of a step that came to nothing, one after another.
    pub(super) attempts: u32,
    /// When the next one may be tried.
    pub(super) not_before: Option<Instant>,
}

impl Entry {
    fn new(bundle: AtomicBundle) -> Self {
        Self {
            bundle,
            legs: None,
            known: None,
            stages: Vec::new(),
            refused: None,
            trouble: None,
            failures: 0,
            attempts: 0,
            not_before: None,
        }
    }

    pub(super) fn status(&self) -> Option<BundleStatus> {
        self.known.as_ref().map(|(record, _)| record.status)
    }

    /// What is to be done next, if anything is.
    pub(super) fn step(&self) -> Option<Step> {
        match self.status() {
            None => Some(Step::Seal),
            Some(BundleStatus::Sealed) => self.legs.as_ref().map(|_| Step::Reveal),
            Some(_) => None,
        }
    }

    /// An attempt of a step came to nothing: the next one has to wait, the longer the more there were.
    pub(super) fn wait(&mut self, why: String) {
        let pause = FIRST_PAUSE * 2_u32.pow(self.attempts.min(MAX_DOUBLINGS));
        self.attempts = self.attempts.saturating_add(1);
        (self.trouble, self.not_before) = (Some(why), Some(Instant::now() + pause));
    }

    fn bytes(&self) -> u64 {
        let legs = self.legs.as_ref().map_or(0, RevealLegs::bytes_len);
        self.bundle.bytes_len() + legs
    }
}

/// Whether nothing becomes of a bundle any more.
pub(super) fn is_final(status: BundleStatus) -> bool {
    !status.is_live() && status != BundleStatus::Released
}

/// Why a bundle is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("too many bundles are not over, try again later")]
    Full,
    #[error(transparent)]
    Log(#[from] LogError),
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<Hash, Entry>,
    bytes: u64,
    over: BTreeMap<Hash, Entry>,
    /// Those that are over, oldest first.
    line: VecDeque<Hash>,
    signed: BTreeMap<u64, Signed>,
    followers: Followers<Hash>,
}

impl State {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted(bundle) => {
                let id = bundle.id();
                let entry = Entry::new(bundle);
                self.bytes += entry.bytes();
                if let Some(before) = self.live.insert(id, entry) {
                    self.bytes -= before.bytes();
                }
                self.forget(&id);
                self.followers.changed(&id);
            }
            Record::Revealed(legs) => {
                let id = legs.bundle_id();
                if let Some(entry) = self.live.get_mut(&id) {
                    self.bytes -= entry.bytes();
                    entry.legs = Some(legs);
                    self.bytes += entry.bytes();
                    self.followers.changed(&id);
                }
            }
            Record::Signed(signed) => {
                self.signed.insert(signed.nonce, signed);
            }
            Record::Over { id, why } => {
                if let Some(mut entry) = self.live.remove(&id) {
                    self.bytes -= entry.bytes();
                    (entry.legs, entry.refused) = (None, why);
                    self.over.insert(id, entry);
                    self.line.push_back(id);
                    while self.line.len() > MAX_OVER {
                        let oldest = self.line.pop_front();
                        oldest.map(|id| self.over.remove(&id));
                    }
                    self.followers.changed(&id);
                }
            }
        }
    }

    fn forget(&mut self, id: &Hash) {
        if self.over.remove(id).is_some() {
            self.line.retain(|other| other != id);
        }
    }

    /// What compaction keeps.
    fn records(&self) -> Vec<Record> {
        let accepted = self.live.values().flat_map(|entry| {
            let legs = entry.legs.clone().map(Record::Revealed);
            [Some(Record::Accepted(entry.bundle.clone())), legs]
        });
        let signed = self.signed.values().cloned().map(Record::Signed);
        accepted.flatten().chain(signed).collect()
    }
}

/// The bundles of one composer.
#[derive(Debug)]
pub(super) struct Store {
    log: Log,
    state: Mutex<State>,
    /// One record is written at a time: bundles are rare, and so compaction loses none.
    writing: AsyncMutex<()>,
    changed: Notify,
}

impl Store {
    /// Reads the bundles from a directory.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be read.
    pub(super) fn open(directory: &Path) -> Result<Self, LogError> {
        let (log, records) = Log::open::<Record>(&directory.join("bundles.log"))?;
        let mut state = State::default();
        records.into_iter().for_each(|record| state.apply(record));
        Ok(Self {
            log,
            state: Mutex::new(state),
            writing: AsyncMutex::default(),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a bundle in, unless it is here already; once this returns, nothing loses it.
    ///
    /// Once begun this must be run to its end: what is on disk must get into memory.
    pub(super) async fn accept(&self, bundle: AtomicBundle) -> Result<(), StoreError> {
        let _alone = self.writing.lock().await;
        {
            let state = self.state();
            if state.live.contains_key(&bundle.id()) {
                return Ok(());
            }
            let bytes = state.bytes + bundle.bytes_len();
            if state.live.len() >= MAX_LIVE || bytes > MAX_BYTES {
                return Err(StoreError::Full);
            }
        }
        Ok(self.write(Record::Accepted(bundle)).await?)
    }

    /// Takes the legs of a bundle in, unless they are here already or it is over.
    ///
    /// Once begun this must be run to its end.
    pub(super) async fn reveal(&self, legs: RevealLegs) -> Result<(), StoreError> {
        let _alone = self.writing.lock().await;
        {
            let state = self.state();
            let entry = state.live.get(&legs.bundle_id());
            if entry.is_none_or(|entry| entry.legs.is_some()) {
                return Ok(());
            }
            if state.bytes + legs.bytes_len() > MAX_BYTES {
                return Err(StoreError::Full);
            }
        }
        Ok(self.write(Record::Revealed(legs)).await?)
    }

    /// Remembers a transaction before it is sent anywhere.
    pub(super) async fn signed(&self, signed: Signed) -> Result<(), LogError> {
        let _alone = self.writing.lock().await;
        self.write(Record::Signed(signed)).await?;
        if self.log.grown() > COMPACT_BYTES {
            let records = self.state().records();
            self.log.replace(&records)?;
        }
        Ok(())
    }

    /// Nothing more is to be done for a bundle.
    pub(super) async fn over(&self, id: Hash, why: Option<String>) -> Result<(), LogError> {
        let _alone = self.writing.lock().await;
        self.write(Record::Over { id, why }).await
    }

    async fn write(&self, record: Record) -> Result<(), LogError> {
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits until a bundle or its legs are taken in.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many bundles are not over.
    pub(super) fn live(&self) -> usize {
        self.state().live.len()
    }

    /// Bundles that are not sealed yet, as far as is known.
    pub(super) fn to_seal(&self) -> Vec<AtomicBundle> {
        let state = self.state();
        let waiting = state.live.values().filter(|entry| entry.known.is_none());
        waiting.map(|entry| entry.bundle.clone()).collect()
    }

    pub(super) fn live_ids(&self) -> Vec<Hash> {
        self.state().live.keys().copied().collect()
    }

    pub(super) fn get(&self, id: &Hash) -> Option<Entry> {
        let state = self.state();
        state.live.get(id).or_else(|| state.over.get(id)).cloned()
    }

    /// Wakes whenever more is known of a bundle.
    pub(super) fn follow(&self, id: Hash) -> watch::Receiver<()> {
        self.state().followers.follow(id)
    }

    /// Changes what is known of a bundle that is not over. This is not written down: it is learnt
    /// again.
    pub(super) fn update(&self, id: &Hash, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state();
        if let Some(entry) = state.live.get_mut(id) {
            change(entry);
            state.followers.changed(id);
        }
    }

    /// What the state has of a bundle. What an older state had is nothing new.
    pub(super) fn learn(&self, id: &Hash, record: BundleRecord, height: Height) {
        let mut state = self.state();
        let Some(entry) = state.live.get_mut(id) else {
            return;
        };
        if entry
            .known
            .as_ref()
            .is_some_and(|(_, known)| *known >= height)
        {
            return;
        }
        let status = record.status;
        let is_new = entry.status() != Some(status);
        entry.known = Some((record, height));
        if is_new {
            (entry.failures, entry.attempts) = (0, 0);
            (entry.trouble, entry.not_before) = (None, None);
            if entry.stages.len() < MAX_STAGES {
                entry.stages.push((status, height));
            }
            state.followers.changed(id);
        }
    }

    /// Transactions on their way, by nonce.
    pub(super) fn on_their_way(&self) -> Vec<Signed> {
        self.state().signed.values().cloned().collect()
    }

    /// A transaction is provably settled, or nobody took it.
    pub(super) fn settled(&self, nonce: u64) {
        self.state().signed.remove(&nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::testing::Sample;

    fn signed(id: Hash) -> Signed {
        Signed {
            nonce: 3,
            id,
            step: Step::Seal,
            tx: Bytes::from_static(b"tx"),
        }
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_every_restart_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (Sample::new(1), Sample::new(2));
        let (first, second) = (one.bundle(), two.bundle());
        let legs = RevealLegs::new(first.id(), one.legs.clone()).unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.accept(first.clone()).await.unwrap();
        store.accept(second.clone()).await.unwrap();
        store.reveal(legs.clone()).await.unwrap();
        store.signed(signed(first.id())).await.unwrap();
        drop(store);

        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.get(&first.id()).unwrap().legs, Some(legs.clone()));
        assert_eq!(store.on_their_way(), [signed(first.id())]);
        store.over(second.id(), Some("late".into())).await.unwrap();
        let records = store.state().records();
        store.log.replace(&records).unwrap();
        drop(store);

        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.live_ids(), [first.id()]);
        assert_eq!(store.get(&first.id()).unwrap().legs, Some(legs));
        assert_eq!(store.on_their_way(), [signed(first.id())]);
        assert!(store.get(&second.id()).is_none());
    }

    #[tokio::test]
    async fn bytes_are_counted_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let sample = Sample::new(1);
        let bundle = sample.bundle();
        let legs = RevealLegs::new(bundle.id(), sample.legs.clone()).unwrap();
        store.accept(bundle.clone()).await.unwrap();
        store.accept(bundle.clone()).await.unwrap();
        store.reveal(legs.clone()).await.unwrap();
        let held = bundle.bytes_len() + legs.bytes_len();
        assert_eq!((store.live(), store.state().bytes), (1, held));
        store.state().bytes = MAX_BYTES;
        let refused = store.accept(Sample::new(2).bundle()).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
        store.state().bytes = held;
        store.over(bundle.id(), None).await.unwrap();
        assert_eq!((store.live(), store.state().bytes), (0, 0));
        assert!(store.get(&bundle.id()).unwrap().legs.is_none());
        for number in 3..3 + MAX_OVER as u64 {
            let bundle = Sample::new(number).bundle();
            store.accept(bundle.clone()).await.unwrap();
            store.over(bundle.id(), None).await.unwrap();
        }
        assert_eq!(store.state().over.len(), MAX_OVER);
        assert!(store.get(&bundle.id()).is_none(), "the oldest is forgotten");
    }
}
