//! What was acknowledged and is not finished: on disk first, then in memory.
//!
//! ```text
//! accept ─▶ Queued ─batch─▶ Batched ─verified inclusion─▶ Sequenced ─receipt─▶ Executed
//!              ▲               │ failed on the sequencer              └skip──▶ Skipped
//!              └───────────────┘
//! ```
//! Every arrow to the right is a record that is synced before anybody relies on it, except the last
//! ones, which can be learnt again. State is what replaying the records gives.

mod log;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, U256};
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::primitive::{Hash, Height, RollupId};
use counterpoint_service::to_f64;
pub(crate) use log::{Log, LogError};
use metrics::gauge;
use tokio::sync::{Notify, RwLock as AsyncRwLock, broadcast, watch};

use crate::{followers::Followers, metric};

/// Most transactions that wait or are not finished.
const MAX_ITEMS: usize = 100_000;
/// Most of them from one sender to one rollup.
pub(crate) const MAX_PER_SENDER: usize = 256;
/// Most bytes of them.
const MAX_BYTES: usize = 256 << 20;
/// Finished transactions whose status is remembered.
const MAX_FINISHED: usize = 50_000;
/// Replaced transactions whose status is remembered.
const MAX_REPLACED: usize = 50_000;
/// Arrivals that who is told of them may be behind.
const MAX_ARRIVALS: usize = 16_384;
/// Finished transactions after which the log is written anew; tests of whole networks see it happen.
const COMPACT_AFTER: usize = if cfg!(feature = "test-utils") {
    500
} else {
    20_000
};
/// Bytes by which the log may grow before it is written anew: it is read whole at a start.
const COMPACT_BYTES: u64 = 1 << 30;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
enum Record {
    /// A transaction was acknowledged.
    Accepted {
        seq: u64,
        rollup: RollupId,
        raw: Bytes,
    },
    /// A transaction gave its place to one with the same sender and nonce and a greater fee.
    Replaced { seq: u64, raw: Bytes },
    /// A batch was signed, for the first time or once more.
    Signed(Batch),
    /// A batch is in a verified block; where its items are, or nothing for those it did not place.
    Included {
        nonce: u64,
        height: u64,
        places: Vec<(u64, Option<u32>)>,
    },
    /// What compaction keeps beside the transactions themselves. Of the batches on their way it has
    /// the oldest; the others follow it as they were signed.
    Kept {
        next_nonce: Option<u64>,
        open: Option<Batch>,
        placed: Vec<(u64, Place)>,
    },
}

/// A transaction as intake has checked it.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// Its rollup.
    pub(crate) rollup: RollupId,
    /// As it was sent.
    pub(crate) raw: Bytes,
    /// Decoded.
    pub(crate) tx: TxEnvelope,
    /// Who signed.
    pub(crate) sender: Address,
}

/// A transaction that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Counts acknowledged transactions.
    pub(crate) seq: u64,
    /// Its rollup.
    pub(crate) rollup: RollupId,
    /// As it was sent.
    pub(crate) raw: Bytes,
    /// Decoded.
    pub(crate) tx: TxEnvelope,
    /// Who signed.
    pub(crate) sender: Address,
    /// Where it stands.
    pub(crate) stage: Stage,
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for a batch.
    Queued,
    /// In a signed batch with this nonce.
    Batched(u64),
    /// In a verified list.
    Sequenced(Place),
    /// In a block of the rollup.
    Executed(Place, Execution),
    /// In a list, and in no block.
    Skipped(Place),
}

impl Stage {
    /// Whether nothing more becomes of the transaction.
    fn is_final(self) -> bool {
        matches!(self, Self::Executed(..) | Self::Skipped(_))
    }
}

impl Item {
    /// A transaction that waits.
    fn new(seq: u64, checked: Checked) -> Self {
        let Checked {
            rollup,
            raw,
            tx,
            sender,
        } = checked;
        Self {
            seq,
            rollup,
            raw,
            tx,
            sender,
            stage: Stage::Queued,
        }
    }
}

/// Where a list holds a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub(crate) struct Place {
    /// The sequencer's height.
    pub(crate) height: Height,
    /// Place in the rollup's list.
    pub(crate) index: u32,
}

/// What its receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    /// The rollup's block.
    pub(crate) block_number: u64,
    /// Whether it succeeded.
    pub(crate) success: bool,
}

/// A signed batch whose inclusion is not verified yet.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Batch {
    /// The account's nonce.
    pub(crate) nonce: u64,
    /// Its items.
    pub(crate) seqs: Vec<u64>,
    /// Hashes of all versions that were ever signed; any of them may be in a block.
    pub(crate) hashes: Vec<Hash>,
    /// The last version.
    pub(crate) newest: Bytes,
}

/// Why a transaction is not accepted by the queue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// There is no room.
    #[error("the composer is overloaded, try again later")]
    Full,
    /// One sender holds as many places as one may.
    #[error("account limit exceeded: {MAX_PER_SENDER} transactions of the sender are pending")]
    Sender,
    /// What it should replace has left the queue.
    #[error("nonce too low: a transaction with this nonce is on its way to the sequencer")]
    TooLate,
    /// It could not be made durable.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// All of it at one moment.
#[derive(Debug, Default)]
pub(crate) struct State {
    items: BTreeMap<u64, Item>,
    by_hash: HashMap<(RollupId, B256), u64>,
    by_sender: HashMap<(RollupId, Address), BTreeMap<u64, u64>>,
    queued: BTreeSet<u64>,
    /// Batches whose inclusion is not verified yet, by nonce.
    open: BTreeMap<u64, Batch>,
    /// How many transactions of a sender are in batches.
    batched: HashMap<(RollupId, Address), usize>,
    next_nonce: Option<u64>,
    next_seq: u64,
    bytes: usize,
    /// What is being written, and not in `items` yet: nobody is told of it, but its nonce is taken.
    writing: BTreeMap<u64, Writing>,
    /// Bytes and new transactions of those.
    reserved: Reserved,
    finished: VecDeque<u64>,
    finished_since_compaction: usize,
    /// Hashes of transactions that gave way, oldest first in the line beside.
    replaced: HashSet<B256>,
    replaced_line: VecDeque<B256>,
    /// Hashes of what each rollup is given, for those who asked for it.
    arrivals: HashMap<RollupId, broadcast::Sender<B256>>,
    followers: Followers<(RollupId, B256)>,
}

/// A transaction that is being written, and the room that it was given.
#[derive(Debug)]
struct Writing {
    checked: Checked,
    reserved: Reserved,
}

/// Room for transactions that are being written.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    items: usize,
    bytes: usize,
}

/// Who holds a nonce.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held<'a> {
    /// A transaction that is not finished.
    Item(&'a Item),
    /// One that is being written: what becomes of it is not known yet.
    Writing,
}

/// The queue of one composer.
#[derive(Debug)]
pub(crate) struct Queue {
    log: Log,
    state: Mutex<State>,
    /// Shared by whoever appends. Held alone by compaction, so that it loses no record, and by who
    /// takes a batch, so that nothing in it is being replaced.
    appending: AsyncRwLock<()>,
    changed: Notify,
}

impl Queue {
    /// Reads the queue from its directory.
    ///
    /// # Errors
    /// [`LogError`] if the log cannot be read.
    pub(crate) fn open(directory: &Path) -> Result<Self, LogError> {
        let (log, records) = Log::open::<Record>(&directory.join("queue.log"))?;
        let mut state = State::default();
        for record in records {
            state.apply(record);
        }
        let (appending, changed) = Default::default();
        Ok(Self {
            log,
            state: Mutex::new(state),
            appending,
            changed,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes checked transactions in together; once this returns, nothing loses those that `judge`
    /// lets in. It sees those before it as taken, and says whose place a transaction takes: that of
    /// the same sender and nonce, if it still waits.
    ///
    /// Once begun this must be run to its end: what is on disk must get into memory.
    pub(crate) async fn accept<E: From<QueueError>>(
        &self,
        transactions: Vec<Checked>,
        judge: impl Fn(&State, &Checked) -> Result<Option<u64>, E>,
    ) -> Vec<Result<(), E>> {
        let _appending = self.appending.read().await;
        let (mut verdicts, mut records, mut writing) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut state = self.state();
            for checked in transactions {
                let verdict = judge(&state, &checked).and_then(|replaces| {
                    let (rollup, raw) = (checked.rollup, checked.raw.clone());
                    let seq = state.admit(checked, replaces)?;
                    writing.push(seq);
                    records.push(match replaces {
                        Some(_) => Record::Replaced { seq, raw },
                        None => Record::Accepted { seq, rollup, raw },
                    });
                    Ok(())
                });
                verdicts.push(verdict);
            }
        }
        if records.is_empty() {
            return verdicts;
        }
        if self.log.append(&records).await.is_err() {
            // Nothing is ever written again: what stays reserved is in nobody's way.
            let stopped = |()| Err(QueueError::Log(LogError::Stopped).into());
            return verdicts
                .into_iter()
                .map(|verdict| verdict.and_then(stopped))
                .collect();
        }
        let mut state = self.state();
        for seq in writing {
            state.written(seq);
        }
        gauge!(metric::QUEUE_TRANSACTIONS).set(to_f64(state.live() as u64));
        gauge!(metric::QUEUE_BYTES).set(to_f64(state.bytes as u64));
        drop(state);
        self.changed.notify_one();
        verdicts
    }

    /// Looks at the queue as it is at one moment.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// Waits until everything that was accepted before is durable.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if it may not be.
    pub(crate) async fn barrier(&self) -> Result<(), LogError> {
        self.log.append::<Record>(&[]).await
    }

    /// Waits until something is queued.
    pub(crate) async fn wait(&self) {
        while !self.has_queued() {
            self.changed().await;
        }
    }

    /// Waits until there is more to send, or a place for it.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Moves what `fill` chooses of the waiting transactions, oldest first, into the batch with
    /// this nonce. It must be signed next: only then does a restart know of it.
    ///
    /// A sender with transactions in another batch waits for it: should that one fail, the later
    /// ones would be ordered before the earlier ones.
    pub(crate) async fn take(
        &self,
        nonce: u64,
        fill: impl FnOnce(&mut dyn Iterator<Item = &Item>) -> Vec<Item>,
    ) -> Vec<Item> {
        let _alone = self.appending.write().await;
        let mut state = self.state();
        let waiting = state.queued.iter().filter_map(|seq| state.items.get(seq));
        let mut waiting =
            waiting.filter(|item| !state.batched.contains_key(&(item.rollup, item.sender)));
        let taken = fill(&mut waiting);
        for item in &taken {
            state.set_stage(item.seq, Stage::Batched(nonce));
        }
        taken
    }

    /// Remembers a signed version of a batch, before it is sent anywhere.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk; then it must not be sent.
    pub(crate) async fn signed(&self, batch: Batch) -> Result<(), LogError> {
        let appending = self.appending.read().await;
        let record = Record::Signed(batch);
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        drop(appending);
        if self.log.grown() > COMPACT_BYTES {
            self.compact().await?;
        }
        Ok(())
    }

    /// Remembers where a batch's items are; those without a place are queued again.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn included(
        &self,
        nonce: u64,
        height: Height,
        places: Vec<(u64, Option<u32>)>,
    ) -> Result<(), LogError> {
        let _appending = self.appending.read().await;
        let record = Record::Included {
            nonce,
            height: height.get(),
            places,
        };
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        self.changed.notify_one();
        Ok(())
    }

    /// The batches whose inclusion is not verified yet, in the order of their nonces.
    #[must_use]
    pub(crate) fn open_batches(&self) -> Vec<Batch> {
        self.state().open.values().cloned().collect()
    }

    /// Whether anything is queued.
    #[must_use]
    pub(crate) fn has_queued(&self) -> bool {
        !self.state().queued.is_empty()
    }

    /// The nonce after all batches, if there ever was one.
    #[must_use]
    pub(crate) fn next_nonce(&self) -> Option<u64> {
        self.state().next_nonce
    }

    /// Items of a batch.
    #[must_use]
    pub(crate) fn items(&self, seqs: &[u64]) -> Vec<Item> {
        let state = self.state();
        seqs.iter()
            .filter_map(|seq| state.items.get(seq))
            .cloned()
            .collect()
    }

    /// A rollup's transaction by its hash.
    #[must_use]
    pub(crate) fn get(&self, rollup: RollupId, hash: B256) -> Option<Item> {
        let state = self.state();
        state
            .by_hash
            .get(&(rollup, hash))
            .and_then(|seq| state.items.get(seq))
            .cloned()
    }

    /// Where a rollup's transaction stands.
    #[must_use]
    pub(crate) fn stage(&self, rollup: RollupId, hash: B256) -> Option<Stage> {
        let state = self.state();
        let seq = state.by_hash.get(&(rollup, hash))?;
        Some(state.items.get(seq)?.stage)
    }

    /// Hashes of the transactions that a rollup is given from now on.
    pub(crate) fn arrivals(&self, rollup: RollupId) -> broadcast::Receiver<B256> {
        let mut state = self.state();
        let arrivals = state.arrivals.entry(rollup);
        arrivals
            .or_insert_with(|| broadcast::Sender::new(MAX_ARRIVALS))
            .subscribe()
    }

    /// Wakes whenever something becomes of a rollup's transaction.
    pub(crate) fn follow(&self, rollup: RollupId, hash: B256) -> watch::Receiver<()> {
        self.state().followers.follow((rollup, hash))
    }

    /// Whether a transaction gave way to another one not long ago.
    #[must_use]
    pub(crate) fn was_replaced(&self, hash: &B256) -> bool {
        self.state().replaced.contains(hash)
    }

    /// Transactions in a verified list whose fate is not known, oldest first.
    #[must_use]
    pub(crate) fn sequenced(&self, rollup: RollupId, limit: usize) -> Vec<(u64, B256, Place)> {
        let state = self.state();
        let waiting = state.items.values().filter(|item| item.rollup == rollup);
        let placed = waiting.filter_map(|item| match item.stage {
            Stage::Sequenced(place) => Some((item.seq, *item.tx.tx_hash(), place)),
            _ => None,
        });
        placed.take(limit).collect()
    }

    /// Remembers what became of a transaction. This is not synced: it can be learnt again.
    ///
    /// # Errors
    /// [`LogError`] if the log is gone.
    pub(crate) async fn finish(&self, seq: u64, stage: Stage) -> Result<(), LogError> {
        let compact = {
            let mut state = self.state();
            state.finish(seq, stage);
            state.finished_since_compaction >= COMPACT_AFTER
        };
        if compact {
            self.compact().await?;
        }
        Ok(())
    }

    /// Writes the log anew, without what is finished.
    async fn compact(&self) -> Result<(), LogError> {
        let _alone = self.appending.write().await;
        let records = {
            let mut state = self.state();
            state.finished_since_compaction = 0;
            state.records()
        };
        self.log.replace(&records).await
    }

    /// How many transactions are not finished.
    #[must_use]
    pub(crate) fn live(&self) -> usize {
        self.state().live()
    }
}

impl State {
    fn live(&self) -> usize {
        self.items.len() - self.finished.len()
    }

    /// Who holds a nonce of a sender, if it is not finished.
    #[must_use]
    pub(crate) fn by_nonce(
        &self,
        rollup: RollupId,
        sender: Address,
        nonce: u64,
    ) -> Option<Held<'_>> {
        let seq = self.by_sender.get(&(rollup, sender))?.get(&nonce)?;
        if self.writing.contains_key(seq) {
            return Some(Held::Writing);
        }
        self.items.get(seq).map(Held::Item)
    }

    /// The most that a sender's unfinished transactions from a nonce on can cost.
    #[must_use]
    pub(crate) fn pending_cost(&self, rollup: RollupId, sender: Address, from: u64) -> U256 {
        let nonces = self.by_sender.get(&(rollup, sender));
        let seqs = nonces.into_iter().flat_map(|nonces| nonces.range(from..));
        let costs = seqs.filter_map(|(_, seq)| match self.writing.get(seq) {
            Some(writing) => Some(cost(&writing.checked.tx)),
            None => Some(cost(&self.items.get(seq)?.tx)),
        });
        costs.fold(U256::ZERO, U256::saturating_add)
    }

    /// The nonce after those that wait here without a gap, from the account's own on.
    #[must_use]
    pub(crate) fn pending_nonce(&self, rollup: RollupId, sender: Address, from: u64) -> u64 {
        let mut next = from;
        if let Some(nonces) = self.by_sender.get(&(rollup, sender)) {
            while nonces.contains_key(&next) {
                next += 1;
            }
        }
        next
    }

    /// Reserves the place of a transaction, which is taken once its record is on disk.
    fn admit(&mut self, checked: Checked, replaces: Option<u64>) -> Result<u64, QueueError> {
        let replaced = match replaces {
            Some(seq) if self.writing.contains_key(&seq) => return Err(QueueError::TooLate),
            Some(seq) if self.queued.contains(&seq) => self.items.get(&seq),
            Some(_) => return Err(QueueError::TooLate),
            None => None,
        };
        let freed = replaced.map_or(0, |old| old.raw.len());
        let reserved = Reserved {
            items: usize::from(replaces.is_none()),
            bytes: checked.raw.len(),
        };
        if self.bytes + self.reserved.bytes + reserved.bytes > MAX_BYTES + freed {
            return Err(QueueError::Full);
        }
        let seq = match replaces {
            Some(seq) => seq,
            None => self.take_nonce(&checked)?,
        };
        self.reserved.items += reserved.items;
        self.reserved.bytes += reserved.bytes;
        self.writing.insert(seq, Writing { checked, reserved });
        Ok(seq)
    }

    /// Numbers a new transaction: the sender's nonce is its own from now on.
    fn take_nonce(&mut self, checked: &Checked) -> Result<u64, QueueError> {
        if self.live() + self.reserved.items >= MAX_ITEMS {
            return Err(QueueError::Full);
        }
        let key = (checked.rollup, checked.sender);
        let held = self.by_sender.get(&key).map_or(0, BTreeMap::len);
        if held >= MAX_PER_SENDER {
            return Err(QueueError::Sender);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let nonces = self.by_sender.entry(key).or_default();
        nonces.insert(checked.tx.nonce(), seq);
        Ok(seq)
    }

    /// Takes over what was being written and is on disk.
    fn written(&mut self, seq: u64) {
        let Some(Writing { checked, reserved }) = self.writing.remove(&seq) else {
            return;
        };
        self.reserved.items -= reserved.items;
        self.reserved.bytes -= reserved.bytes;
        if self.items.contains_key(&seq) {
            self.replace(seq, checked);
        } else {
            self.insert(seq, checked);
        }
    }

    /// Takes over what a record of the log says.
    fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted { seq, rollup, raw } => {
                if let Some(checked) = decode(rollup, raw) {
                    self.insert(seq, checked);
                }
            }
            Record::Replaced { seq, raw } => {
                let rollup = self.items.get(&seq).map(|item| item.rollup);
                if let Some(checked) = rollup.and_then(|rollup| decode(rollup, raw)) {
                    self.replace(seq, checked);
                }
            }
            Record::Signed(batch) => self.open(batch),
            Record::Included {
                nonce,
                height,
                places,
            } => {
                let height = Height::new(height);
                for (seq, index) in places {
                    let stage = index.map_or(Stage::Queued, |index| {
                        Stage::Sequenced(Place { height, index })
                    });
                    self.set_stage(seq, stage);
                }
                self.open.remove(&nonce);
                self.follow(nonce);
            }
            Record::Kept {
                next_nonce,
                open,
                placed,
            } => {
                self.next_nonce = next_nonce;
                open.into_iter().for_each(|batch| self.open(batch));
                for (seq, place) in placed {
                    self.set_stage(seq, Stage::Sequenced(place));
                }
            }
        }
    }

    fn open(&mut self, batch: Batch) {
        for seq in &batch.seqs {
            self.set_stage(*seq, Stage::Batched(batch.nonce));
        }
        self.follow(batch.nonce);
        self.open.insert(batch.nonce, batch);
    }

    /// The next batch comes after the one with this nonce, and after all others.
    fn follow(&mut self, nonce: u64) {
        self.next_nonce = self.next_nonce.max(nonce.checked_add(1));
    }

    fn insert(&mut self, seq: u64, checked: Checked) {
        let item = Item::new(seq, checked);
        let hash = *item.tx.tx_hash();
        self.next_seq = self.next_seq.max(seq + 1);
        self.bytes += item.raw.len();
        self.by_hash.insert((item.rollup, hash), seq);
        self.replaced.remove(&hash);
        self.by_sender
            .entry((item.rollup, item.sender))
            .or_default()
            .insert(item.tx.nonce(), seq);
        self.queued.insert(seq);
        if let Some(arrivals) = self.arrivals.get(&item.rollup) {
            let _nobody = arrivals.send(hash);
        }
        self.followers.changed(&(item.rollup, hash));
        self.items.insert(seq, item);
    }

    /// Puts another transaction into the place of one that waits: the sender's later ones stay
    /// behind it.
    fn replace(&mut self, seq: u64, checked: Checked) {
        let Some(old) = self.items.remove(&seq) else {
            return;
        };
        let hash = *old.tx.tx_hash();
        self.forget_hash(&old);
        self.bytes -= old.raw.len();
        self.followers.changed(&(old.rollup, hash));
        self.replaced.insert(hash);
        self.replaced_line.push_back(hash);
        if self.replaced_line.len() > MAX_REPLACED
            && let Some(oldest) = self.replaced_line.pop_front()
        {
            self.replaced.remove(&oldest);
        }
        self.insert(seq, checked);
    }

    /// A transaction that was skipped may have been sent again since, under another number.
    fn forget_hash(&mut self, item: &Item) {
        let key = (item.rollup, *item.tx.tx_hash());
        if self.by_hash.get(&key) == Some(&item.seq) {
            self.by_hash.remove(&key);
        }
    }

    fn set_stage(&mut self, seq: u64, stage: Stage) {
        let Some(item) = self.items.get_mut(&seq) else {
            return;
        };
        let sender = (item.rollup, item.sender);
        let before = std::mem::replace(&mut item.stage, stage);
        self.followers.changed(&(item.rollup, *item.tx.tx_hash()));
        self.count_batched(sender, before, stage);
        if stage == Stage::Queued {
            self.queued.insert(seq);
        } else {
            self.queued.remove(&seq);
        }
    }

    fn count_batched(&mut self, sender: (RollupId, Address), before: Stage, after: Stage) {
        let is_batched = |stage| matches!(stage, Stage::Batched(_));
        match (is_batched(before), is_batched(after)) {
            (false, true) => *self.batched.entry(sender).or_default() += 1,
            (true, false) => {
                let Some(count) = self.batched.get_mut(&sender) else {
                    return;
                };
                *count -= 1;
                if *count == 0 {
                    self.batched.remove(&sender);
                }
            }
            _ => {}
        }
    }

    /// Keeps the status of a finished transaction for a while, but not its place in line.
    fn finish(&mut self, seq: u64, stage: Stage) {
        if self
            .items
            .get(&seq)
            .is_none_or(|item| item.stage.is_final())
        {
            return;
        }
        self.set_stage(seq, stage);
        let Some(item) = self.items.get(&seq) else {
            return;
        };
        let (key, nonce, bytes) = ((item.rollup, item.sender), item.tx.nonce(), item.raw.len());
        self.bytes -= bytes;
        if let Some(nonces) = self.by_sender.get_mut(&key) {
            if nonces.get(&nonce) == Some(&seq) {
                nonces.remove(&nonce);
            }
            if nonces.is_empty() {
                self.by_sender.remove(&key);
            }
        }
        self.finished.push_back(seq);
        self.finished_since_compaction += 1;
        while self.finished.len() > MAX_FINISHED {
            let Some(oldest) = self.finished.pop_front() else {
                break;
            };
            if let Some(item) = self.items.remove(&oldest) {
                self.forget_hash(&item);
            }
        }
    }

    /// Records that give this state again, without what is finished.
    fn records(&self) -> Vec<Record> {
        let live = || self.items.values().filter(|item| !item.stage.is_final());
        let accepted = live().map(|item| Record::Accepted {
            seq: item.seq,
            rollup: item.rollup,
            raw: item.raw.clone(),
        });
        let placed = live().filter_map(|item| match item.stage {
            Stage::Sequenced(place) => Some((item.seq, place)),
            _ => None,
        });
        let mut open = self.open.values().cloned();
        let kept = Record::Kept {
            next_nonce: self.next_nonce,
            open: open.next(),
            placed: placed.collect(),
        };
        let signed = open.map(Record::Signed);
        accepted.chain([kept]).chain(signed).collect()
    }
}

/// Decodes what was checked before it was accepted.
fn decode(rollup: RollupId, raw: Bytes) -> Option<Checked> {
    let tx = TxEnvelope::decode_2718_exact(&raw).ok()?;
    let sender = tx.recover_signer().ok()?;
    Some(Checked {
        rollup,
        raw,
        tx,
        sender,
    })
}

/// The most that a transaction can cost its sender, in wei.
#[must_use]
pub(crate) fn cost(tx: &TxEnvelope) -> U256 {
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    gas.saturating_add(tx.value())
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
