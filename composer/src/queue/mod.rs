//! What was acknowledged and is not finished: on disk first, then in memory.
//!
//! ```text
//!          parked, delayed
//!               │ ▲
//!               ▼ │
//! accept ─▶ Queued ─batch─▶ Batched ─verified inclusion─▶ Sequenced ─receipt─▶ Executed
//!              ▲               │ failed on the sequencer,    │  └─────skip──▶ Skipped
//!              │               │ or provably in no block     │
//!              └───────────────┴── skip that can pass ───────┘
//! ```
//! Every arrow is a record that is synced before anybody relies on it, except those to what was
//! executed and from what was parked or delayed, which are learnt again. State is what replaying the
//! records gives.

mod lane;
mod log;
mod record;
mod state;

use std::{
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use alloy_consensus::TxEnvelope;
use alloy_primitives::{Address, B256};
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::primitive::{Hash, Height, RollupId};
use counterpoint_service::{
    to_f64,
    traces::{self, Hop},
};
pub(crate) use log::{Enqueued, Log, LogError};
use metrics::{gauge, histogram};
use record::Record;
pub(crate) use record::{LastSkip, Skip};
pub(crate) use state::{Line, State, cost};
use tokio::sync::{Notify, RwLock as AsyncRwLock, broadcast, watch};

use self::lane::Standing;
use crate::metric;

/// Most transactions that wait or are not finished.
const MAX_ITEMS: usize = 100_000;
/// Most of them from one sender to one rollup.
pub(crate) const MAX_PER_SENDER: usize = 256;
/// Most of them behind a nonce that is missing, of one sender: as geth's pool.
pub(crate) const MAX_PARKED_PER_SENDER: usize = 64;
/// Most of them behind a nonce that is missing, in all: what cannot be sent keeps nobody else out.
const MAX_PARKED: usize = 8_192;
/// Most bytes of them.
const MAX_BYTES: usize = 256 << 20;
/// Finished transactions whose status is remembered.
const MAX_FINISHED: usize = 50_000;
/// Replaced transactions whose status is remembered.
const MAX_REPLACED: usize = 50_000;
/// Arrivals that who is told of them may be behind.
const MAX_ARRIVALS: usize = 16_384;
/// Bytes by which the log may grow before it is written anew, beside twice what is not finished: it
/// is read whole at a start. Tests of whole networks see it happen.
const COMPACT_BYTES: u64 = if cfg!(feature = "test-utils") {
    64 << 10
} else {
    128 << 20
};

/// A transaction as intake has checked it. It is decoded once, and shared from then on.
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
    /// When it came, if it did not come from the disk.
    pub(crate) received: Option<Instant>,
}

impl Checked {
    /// Adds to a histogram how long ago it came.
    pub(crate) fn record_age(&self, histogram: &'static str) {
        if let Some(received) = self.received {
            histogram!(histogram).record(received.elapsed());
        }
    }

    fn lane(&self) -> (RollupId, Address) {
        (self.rollup, self.sender)
    }
}

/// What the queue must know to take a transaction in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Claim {
    /// The sender's executed nonce.
    pub(crate) floor: u64,
    /// The transaction of the same sender and nonce that gives way.
    pub(crate) replaces: Option<u64>,
}

/// A transaction that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Counts acknowledged transactions.
    pub(crate) seq: u64,
    /// What was acknowledged.
    pub(crate) checked: Arc<Checked>,
    /// When it was acknowledged, in seconds since 1970.
    pub(crate) time: u64,
    /// Where it stands.
    pub(crate) stage: Stage,
    /// What became of it in a list the last time, if it was in one and in no block.
    pub(crate) skip: Option<LastSkip>,
    /// Whether it waits for the cause of that to pass.
    pub(crate) delayed: bool,
    /// The bundle that it came in.
    pub(crate) bundle: Option<B256>,
}

impl Deref for Item {
    type Target = Checked;

    fn deref(&self) -> &Checked {
        &self.checked
    }
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
    /// Never in a list.
    Rejected(Rejection),
}

/// Why an acknowledged transaction is never sequenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, thiserror::Error)]
pub(crate) enum Rejection {
    /// It was parked until its deadline.
    #[error("expired, nonce {missing} was never seen")]
    Expired {
        /// The nonce that it waited for.
        missing: u64,
    },
    /// There are no lists of its rollup any more.
    #[error("the rollup has left the sequencer")]
    RollupLeft,
    /// Its sender has sealed it for an atomic bundle, and it runs there or nowhere.
    #[error("it is sealed for an atomic bundle")]
    Sealed,
    /// What one of its bundle follows is gone, so that the bundle cannot go as a whole.
    #[error("the bundle cannot go as a whole: nonce {missing} of a sender is missing")]
    Bundle {
        /// That nonce.
        missing: u64,
    },
}

impl Stage {
    /// Whether the same transaction, sent once more, is a new one.
    pub(crate) fn may_be_sent_again(self) -> bool {
        matches!(self, Self::Skipped(_) | Self::Rejected(_))
    }

    /// Whether nothing more becomes of the transaction.
    fn is_final(self) -> bool {
        matches!(
            self,
            Self::Executed(..) | Self::Skipped(_) | Self::Rejected(_)
        )
    }
}

impl Item {
    /// A transaction that waits.
    fn new(seq: u64, checked: Arc<Checked>, time: u64, bundle: Option<B256>) -> Self {
        Self {
            seq,
            checked,
            time,
            stage: Stage::Queued,
            skip: None,
            delayed: false,
            bundle,
        }
    }

    /// Whether it goes with its bundle or not at all: what was in a list goes on alone.
    pub(crate) fn is_bundled(&self) -> bool {
        self.bundle.is_some() && self.skip.is_none() && self.stage == Stage::Queued
    }

    fn standing(&self) -> Standing {
        match self.stage {
            Stage::Queued if self.delayed => Standing::Delayed,
            Stage::Batched(_) => Standing::Batched,
            Stage::Queued => Standing::Waiting,
            // The last ones leave the lane at once.
            Stage::Sequenced(_) | Stage::Executed(..) | Stage::Skipped(_) | Stage::Rejected(_) => {
                Standing::Sequenced
            }
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

impl Place {
    /// Nothing lies before it.
    const FIRST: Self = Self {
        height: Height::new(0),
        index: 0,
    };
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
    /// One sender holds as many places behind a gap as one may.
    #[error(
        "account limit exceeded: {MAX_PARKED_PER_SENDER} transactions of the sender wait for an \
         earlier nonce"
    )]
    Parked,
    /// There is no room for what waits for an earlier nonce.
    #[error("txpool is full: send the earlier nonces first")]
    ParkedFull,
    /// What it should replace has left the queue.
    #[error("nonce too low: a transaction with this nonce is on its way to the sequencer")]
    TooLate,
    /// What it should replace is a part of a bundle.
    #[error("already reserved: a transaction with this nonce is in a bundle, which goes as it is")]
    Bundled,
    /// It could not be made durable.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Who holds a nonce.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held<'a> {
    /// A transaction that is not finished.
    Item(&'a Item),
    /// One that is being written: what becomes of it is not known yet.
    Writing,
}

/// Why a queued transaction is not in a batch yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For the next batch.
    Batch,
    /// For a nonce that is missing.
    Nonce(u64),
    /// For the cause of its last skip to pass.
    Cause,
}

/// The queue of one composer.
#[derive(Debug)]
pub(crate) struct Queue {
    log: Log,
    state: Mutex<State>,
    /// Shared by whoever appends. Held alone by compaction, so that it loses no record, and by who
    /// takes a batch or rejects what waits, so that nothing of it is being replaced.
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
    /// lets in. It sees those before it as taken.
    ///
    /// Once begun this must be run to its end: what is on disk must get into memory.
    pub(crate) async fn accept<E: From<QueueError>>(
        &self,
        transactions: Vec<Arc<Checked>>,
        judge: impl Fn(&State, &Checked) -> Result<Claim, E>,
    ) -> Vec<Result<(), E>> {
        let _appending = self.appending.read().await;
        let (mut verdicts, mut records, now) = (Vec::new(), Vec::new(), unix_secs());
        let enqueued = {
            let mut state = self.state();
            for checked in transactions {
                let hash = *checked.tx.tx_hash();
                let verdict = judge(&state, &checked).and_then(|claim| {
                    records.push(state.admit(checked, claim, now, None)?);
                    traces::begin(Hop::Queue, &hash);
                    Ok(())
                });
                verdicts.push(verdict);
            }
            if records.is_empty() {
                return verdicts;
            }
            self.log.enqueue(&records)
        };
        match self.write_accepted(records, enqueued).await {
            Ok(()) => verdicts,
            Err(_) => {
                let fail = |()| Err(QueueError::Log(self.log.stopped()).into());
                let failed = verdicts.into_iter().map(|verdict| verdict.and_then(fail));
                failed.collect()
            }
        }
    }

    /// Takes the transactions of a bundle in, all of them or none.
    ///
    /// # Errors
    /// The first one that `judge` does not let in, or [`QueueError`]: then none is taken in.
    pub(crate) async fn accept_bundle<E: From<QueueError>>(
        &self,
        bundle: B256,
        transactions: Vec<Arc<Checked>>,
        judge: impl Fn(&State, &Checked) -> Result<Claim, E>,
    ) -> Result<(), E> {
        let _appending = self.appending.read().await;
        let (records, enqueued) = {
            let (mut state, mut records) = (self.state(), Vec::new());
            for checked in transactions {
                let hash = *checked.tx.tx_hash();
                let admitted = judge(&state, &checked).and_then(|claim| {
                    Ok(state.admit(checked, claim, unix_secs(), Some(bundle))?)
                });
                traces::begin(Hop::Queue, &hash);
                match admitted {
                    Ok(record) => records.push(record),
                    Err(error) => {
                        records
                            .iter()
                            .rev()
                            .for_each(|record| state.withdraw(record));
                        return Err(error);
                    }
                }
            }
            let enqueued = self.log.enqueue(&records);
            (records, enqueued)
        };
        let written = self.write_accepted(records, enqueued).await;
        written.map_err(|error| QueueError::Log(error).into())
    }

    /// Writes what was admitted, and takes it over. If the disk fails, nothing is ever written again,
    /// and what stays reserved is in nobody's way.
    ///
    /// It got its place in the log together with that in memory, so that [`barrier`](Self::barrier) covers
    /// all that anybody can have seen here.
    async fn write_accepted(
        &self,
        records: Vec<Record>,
        enqueued: Result<Enqueued, LogError>,
    ) -> Result<(), LogError> {
        enqueued?.on_disk().await?;
        let mut state = self.state();
        records.iter().for_each(|record| state.written(record));
        gauge!(metric::QUEUE_TRANSACTIONS).set(to_f64(state.live() as u64));
        gauge!(metric::QUEUE_BYTES).set(to_f64(state.bytes as u64));
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Looks at the queue as it is at one moment.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state())
    }

    /// Waits until everything that was accepted before is durable.
    ///
    /// # Errors
    /// [`LogError`] if it may not be.
    pub(crate) async fn barrier(&self) -> Result<(), LogError> {
        self.log.append::<Record>(&[]).await
    }

    /// Why nothing can be written any more, if so.
    #[must_use]
    pub(crate) fn failure(&self) -> Option<String> {
        self.log.failure()
    }

    /// Waits until there is more to send, or a place for it.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Moves what `fill` chooses into the batch with this nonce. It must be signed next: only then
    /// does a restart know of it.
    ///
    /// `fill` sees what may be sent of each rollup, oldest first: single transactions, and bundles,
    /// of which it takes all or nothing. A sender with transactions in another batch waits for it: should that
    /// one fail, the later ones would be ordered before the earlier ones.
    pub(crate) async fn take(
        &self,
        nonce: u64,
        fill: impl FnOnce(Vec<(RollupId, Line<'_>)>) -> Vec<Item>,
    ) -> Vec<Item> {
        let _alone = self.appending.write().await;
        let mut state = self.state();
        let taken = fill(state.lines());
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
        self.write(Record::Signed(batch)).await?;
        let live = self.state().bytes as u64;
        if self.log.grown() > COMPACT_BYTES + 2 * live {
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
        let height = height.get();
        self.write(Record::Included {
            nonce,
            height,
            places,
        })
        .await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Writes a record down and takes it over.
    async fn write(&self, record: Record) -> Result<(), LogError> {
        let _appending = self.appending.read().await;
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        Ok(())
    }

    /// Remembers what the conductor skipped. A skip is about one place: it says nothing of a
    /// transaction that stands elsewhere by now.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn skipped(&self, mut skips: Vec<Skip>) -> Result<(), LogError> {
        let _appending = self.appending.read().await;
        self.look(|state| skips.retain(|skip| state.concerns(skip)));
        if skips.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> = skips.into_iter().map(Record::Skipped).collect();
        self.log.append(&records).await?;
        let mut state = self.state();
        records.into_iter().for_each(|record| state.apply(record));
        Ok(())
    }

    /// Rejects transactions that wait, but for those that gave way to another one meanwhile.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn reject(&self, items: &[Item], why: Rejection) -> Result<(), LogError> {
        if items.is_empty() {
            return Ok(());
        }
        let _alone = self.appending.write().await;
        let seqs = self.look(|state| {
            let same = |item: &&Item| {
                let now = state.items.get(&item.seq);
                now.is_some_and(|now| now.tx.tx_hash() == item.tx.tx_hash())
            };
            items.iter().filter(same).map(|item| item.seq).collect()
        });
        let record = Record::Rejected { seqs, why };
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        Ok(())
    }

    /// Rejects all that waits of a rollup.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn reject_all(
        &self,
        rollup: RollupId,
        why: Rejection,
    ) -> Result<(), LogError> {
        if self.look(|state| state.waiting_of(rollup).is_empty()) {
            return Ok(());
        }
        let _alone = self.appending.write().await;
        let seqs = self.look(|state| state.waiting_of(rollup));
        let record = Record::Rejected { seqs, why };
        self.log.append(std::slice::from_ref(&record)).await?;
        self.state().apply(record);
        Ok(())
    }

    /// Rejects what was parked too long, having been acknowledged before `oldest`, and bundles that
    /// cannot go as a whole any more. Gives how many.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn expire(&self, rollup: RollupId, oldest: u64) -> Result<usize, LogError> {
        if self.look(|state| state.hopeless(rollup, oldest).is_empty()) {
            return Ok(0);
        }
        let _alone = self.appending.write().await;
        let hopeless = self.look(|state| state.hopeless(rollup, oldest));
        let rejected = |(seq, why): &(u64, Rejection)| Record::Rejected {
            seqs: vec![*seq],
            why: *why,
        };
        let records: Vec<Record> = hopeless.iter().map(rejected).collect();
        self.log.append(&records).await?;
        let mut state = self.state();
        records.into_iter().for_each(|record| state.apply(record));
        Ok(hopeless.len())
    }

    /// The cause of a skip has passed, `floor` being the sender's executed nonce. This is not
    /// written down: it is found out again.
    pub(crate) fn release(&self, seq: u64, floor: u64) {
        self.state().release(seq, floor);
        self.changed.notify_one();
    }

    /// A sender's executed nonce, as the client has it: what waited for it waits no more.
    pub(crate) fn raise(&self, rollup: RollupId, sender: Address, floor: u64) {
        self.state().raise(rollup, sender, floor);
        self.changed.notify_one();
    }

    /// Remembers that no version of these batches can be in a block any more: their items are queued
    /// again, and the next batch takes the first nonce from `next_nonce` on that no other one has.
    ///
    /// # Errors
    /// [`LogError`] if it may not be on disk.
    pub(crate) async fn dissolved(
        &self,
        nonces: Vec<u64>,
        next_nonce: u64,
    ) -> Result<(), LogError> {
        self.write(Record::Dissolved { nonces, next_nonce }).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// The batches whose inclusion is not verified yet, in the order of their nonces.
    #[must_use]
    pub(crate) fn open_batches(&self) -> Vec<Arc<Batch>> {
        self.state().open.values().cloned().collect()
    }

    /// Whether anything may go into a batch.
    #[must_use]
    pub(crate) fn has_queued(&self) -> bool {
        self.state().has_waiting()
    }

    /// The nonce of the next batch, if there ever was one.
    #[must_use]
    pub(crate) fn next_nonce(&self) -> Option<u64> {
        let state = self.state();
        let first = state.next_nonce?;
        (first..).find(|nonce| !state.open.contains_key(nonce))
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
        self.state().get(rollup, hash).cloned()
    }

    /// Where a rollup's transaction stands.
    #[must_use]
    pub(crate) fn stage(&self, rollup: RollupId, hash: B256) -> Option<Stage> {
        self.state().get(rollup, hash).map(|item| item.stage)
    }

    /// What a queued transaction waits for.
    #[must_use]
    pub(crate) fn waiting(&self, item: &Item) -> Waiting {
        match self.state().missing(item) {
            Some(missing) => Waiting::Nonce(missing),
            None if item.delayed => Waiting::Cause,
            None => Waiting::Batch,
        }
    }

    /// The transactions of a bundle, in its order, as long as any is remembered.
    #[must_use]
    pub(crate) fn bundle(&self, rollup: RollupId, bundle: B256) -> Option<Vec<Item>> {
        let state = self.state();
        Some(state.bundle(rollup, bundle)?.into_iter().cloned().collect())
    }

    /// Hashes of the transactions that a rollup is given from now on.
    pub(crate) fn arrivals(&self, rollup: RollupId) -> broadcast::Receiver<B256> {
        self.state().arrivals(rollup)
    }

    /// Wakes whenever something becomes of a rollup's transaction.
    pub(crate) fn follow(&self, rollup: RollupId, hash: B256) -> watch::Receiver<()> {
        self.state().follow(rollup, hash)
    }

    /// Whether a transaction gave way to another one not long ago.
    #[must_use]
    pub(crate) fn was_replaced(&self, hash: &B256) -> bool {
        self.state().was_replaced(hash)
    }

    /// Transactions in a verified list before a place whose fate is not known, in the order of
    /// execution.
    #[must_use]
    pub(crate) fn sequenced_before(
        &self,
        rollup: RollupId,
        end: Place,
        limit: usize,
    ) -> Vec<(u64, B256, Place)> {
        self.state().sequenced_before(rollup, end, limit)
    }

    /// Remembers the transactions of a rollup that are in a block. Gives how many were waited for.
    /// This is not written down: it can be learnt again.
    pub(crate) fn executed(
        &self,
        rollup: RollupId,
        executed: impl Iterator<Item = (B256, Execution)>,
    ) -> usize {
        let (mut state, mut count) = (self.state(), 0);
        for (hash, execution) in executed {
            if state.executed(rollup, hash, execution) {
                count += 1;
                if let Some(item) = state.get(rollup, hash) {
                    item.record_age(metric::EXECUTED_SECONDS);
                }
            }
        }
        count
    }

    /// Writes the log anew, without what was executed.
    async fn compact(&self) -> Result<(), LogError> {
        let _alone = self.appending.write().await;
        let records = self.look(State::records);
        self.log.replace(&records)
    }

    /// Transactions that are not finished, and their bytes.
    #[must_use]
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.live(), state.bytes)
    }

    /// How many transactions are not finished.
    #[must_use]
    pub(crate) fn live(&self) -> usize {
        self.state().live()
    }
}

/// Whether the reason of a skip, as `docs/spec/derivation.md` names it, can pass: a gap before the
/// nonce, fees that fall, a backlog that is worked off.
pub(crate) fn can_pass(reason: &str) -> bool {
    matches!(reason, "nonce" | "fee_too_low" | "tip_too_low" | "stale")
}

/// Seconds since 1970.
pub(crate) fn unix_secs() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
