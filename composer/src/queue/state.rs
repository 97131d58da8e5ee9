//! What the queue knows: what replaying the records gives, without a disk or a clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque, btree_map},
    iter::Peekable,
    ops::Bound,
    sync::Arc,
};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use counterpoint_core::primitive::{Height, RollupId};
use tokio::sync::{broadcast, watch};

use super::{
    Batch, Checked, Claim, Execution, Held, Item, MAX_ARRIVALS, MAX_BYTES, MAX_FINISHED, MAX_ITEMS,
    MAX_PARKED, MAX_PARKED_PER_SENDER, MAX_PER_SENDER, MAX_REPLACED, Place, QueueError, Rejection,
    Stage,
    lane::{Entry, Lane, Standing},
    record::{LastSkip, Record, Skip, bundle_bytes},
};
use crate::followers::Followers;

/// One sender of one rollup.
type LaneKey = (RollupId, Address);

/// The end of a range of senders.
const LAST_ADDRESS: Address = Address::repeat_byte(0xff);

/// What there is to follow of a rollup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Whether anything is in a list whose fate is not known.
    pub(crate) sequenced: bool,
    /// Whether anything waits for a nonce, or for the cause of a skip to pass.
    pub(crate) waiting: bool,
}

/// All of it at one moment.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) items: BTreeMap<u64, Item>,
    by_hash: HashMap<(RollupId, B256), u64>,
    lanes: HashMap<LaneKey, Lane>,
    /// Senders of each rollup whose first waiting transaction may go into a batch, by its number.
    heads: BTreeMap<RollupId, BTreeMap<u64, Address>>,
    /// Lanes with parked transactions, and how many those are in all.
    parked_lanes: BTreeSet<LaneKey>,
    parked: usize,
    /// In verified lists, in the order of execution.
    sequenced: BTreeSet<(RollupId, Place, u64)>,
    /// Skipped, and to be tried again.
    delayed: BTreeSet<(RollupId, u64)>,
    /// Batches whose inclusion is not verified yet, by nonce.
    pub(super) open: BTreeMap<u64, Arc<Batch>>,
    /// What the account's nonce is known to be at least.
    pub(super) next_nonce: Option<u64>,
    next_seq: u64,
    pub(super) bytes: usize,
    /// What is being written, and not in `items` yet: nobody is told of it, but its nonce is taken.
    writing: BTreeMap<u64, Writing>,
    /// Bytes and new transactions of those.
    reserved: Reserved,
    /// Members of bundles, in their order, as long as any is remembered.
    bundles: HashMap<(RollupId, B256), Vec<u64>>,
    finished: VecDeque<u64>,
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
    checked: Arc<Checked>,
    time: u64,
    bundle: Option<B256>,
    reserved: Reserved,
}

/// Room for transactions that are being written.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    items: usize,
    bytes: usize,
}

impl State {
    pub(super) fn live(&self) -> usize {
        self.items.len() - self.finished.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.heads.is_empty()
    }

    pub(super) fn arrivals(&mut self, rollup: RollupId) -> broadcast::Receiver<B256> {
        let arrivals = self.arrivals.entry(rollup);
        arrivals
            .or_insert_with(|| broadcast::Sender::new(MAX_ARRIVALS))
            .subscribe()
    }

    pub(super) fn follow(&mut self, rollup: RollupId, hash: B256) -> watch::Receiver<()> {
        self.followers.follow((rollup, hash))
    }

    /// Who holds a nonce of a sender, if it is not finished.
    #[must_use]
    pub(crate) fn by_nonce(
        &self,
        rollup: RollupId,
        sender: Address,
        nonce: u64,
    ) -> Option<Held<'_>> {
        let entry = self.lanes.get(&(rollup, sender))?.get(nonce)?;
        if self.writing.contains_key(&entry.seq) {
            return Some(Held::Writing);
        }
        self.items.get(&entry.seq).map(Held::Item)
    }

    /// The most that a sender's transactions from a nonce on can cost. What is parked is not counted:
    /// geth's pool does not.
    #[must_use]
    pub(crate) fn pending_cost(&self, rollup: RollupId, sender: Address, from: u64) -> U256 {
        let lane = self.lanes.get(&(rollup, sender));
        lane.map_or(U256::ZERO, |lane| lane.pending_cost(from))
    }

    /// Whether a transaction waits behind a gap, or is one.
    #[must_use]
    pub(crate) fn is_parked(&self, item: &Item) -> bool {
        let lane = self.lanes.get(&item.lane());
        lane.is_some_and(|lane| lane.is_parked(item.tx.nonce()))
    }

    /// The nonce after those that wait here without a gap, from the account's own on.
    #[must_use]
    pub(crate) fn pending_nonce(&self, rollup: RollupId, sender: Address, from: u64) -> u64 {
        let lane = self.lanes.get(&(rollup, sender));
        lane.map_or(from, |lane| lane.pending_nonce(from))
    }

    /// The next nonce of a sender that would run, `floor` being its executed one.
    pub(crate) fn next_to_run(&self, rollup: RollupId, sender: Address, floor: u64) -> u64 {
        let lane = self.lanes.get(&(rollup, sender));
        lane.map_or(floor, |lane| lane.missing().max(floor))
    }

    /// A rollup's transaction by its hash.
    pub(crate) fn get(&self, rollup: RollupId, hash: B256) -> Option<&Item> {
        let seq = self.by_hash.get(&(rollup, hash))?;
        self.items.get(seq)
    }

    pub(super) fn was_replaced(&self, hash: &B256) -> bool {
        self.replaced.contains(hash)
    }

    /// The nonce that a queued transaction is parked for, if it is.
    pub(super) fn missing(&self, item: &Item) -> Option<u64> {
        let lane = self.lanes.get(&(item.rollup, item.sender))?;
        let parked = item.stage == Stage::Queued && lane.is_parked(item.tx.nonce());
        (parked && !item.delayed).then(|| lane.missing())
    }

    pub(super) fn bundle(&self, rollup: RollupId, bundle: B256) -> Option<Vec<&Item>> {
        let seqs = self.bundles.get(&(rollup, bundle))?;
        Some(seqs.iter().filter_map(|seq| self.items.get(seq)).collect())
    }

    /// Reserves the place of a transaction, which is taken once its record is on disk.
    pub(super) fn admit(
        &mut self,
        checked: Arc<Checked>,
        claim: Claim,
        time: u64,
        bundle: Option<B256>,
    ) -> Result<Record, QueueError> {
        let Claim { floor, replaces } = claim;
        let freed = match replaces {
            Some(seq) => self.replaceable(seq)?.raw.len(),
            None => 0,
        };
        let reserved = Reserved {
            items: usize::from(replaces.is_none()),
            bytes: checked.raw.len(),
        };
        if self.bytes + self.reserved.bytes + reserved.bytes > MAX_BYTES + freed {
            return Err(QueueError::Full);
        }
        let (rollup, raw) = (checked.rollup, checked.raw.clone());
        let (seq, record) = match replaces {
            Some(seq) => (seq, Record::Replaced { seq, raw, time }),
            None => {
                let seq = self.take_nonce(&checked, floor)?;
                let accepted = Record::Accepted {
                    seq,
                    rollup,
                    raw,
                    time,
                    floor,
                    bundle: bundle_bytes(bundle),
                };
                (seq, accepted)
            }
        };
        self.reserved.items += reserved.items;
        self.reserved.bytes += reserved.bytes;
        let writing = Writing {
            checked,
            time,
            bundle,
            reserved,
        };
        self.writing.insert(seq, writing);
        Ok(record)
    }

    fn replaceable(&self, seq: u64) -> Result<&Item, QueueError> {
        let item = self
            .items
            .get(&seq)
            .filter(|item| item.stage == Stage::Queued && !self.writing.contains_key(&seq));
        match item {
            None => Err(QueueError::TooLate),
            Some(item) if item.is_bundled() => Err(QueueError::Bundled),
            Some(item) => Ok(item),
        }
    }

    /// Numbers a new transaction: the sender's nonce is its own from now on.
    fn take_nonce(&mut self, checked: &Checked, floor: u64) -> Result<u64, QueueError> {
        if self.live() + self.reserved.items >= MAX_ITEMS {
            return Err(QueueError::Full);
        }
        let nonce = checked.tx.nonce();
        let (held, parked, parks) = match self.lanes.get(&checked.lane()) {
            Some(lane) => (lane.len(), lane.parked(), lane.would_park(nonce, floor)),
            None => (0, 0, nonce > floor),
        };
        if held >= MAX_PER_SENDER {
            return Err(QueueError::Sender);
        }
        if parks && parked >= MAX_PARKED_PER_SENDER {
            return Err(QueueError::Parked);
        }
        if parks && self.parked >= MAX_PARKED {
            return Err(QueueError::ParkedFull);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let entry = Entry {
            seq,
            cost: cost(&checked.tx),
            standing: Standing::Writing,
        };
        self.change(checked.lane(), |lane| {
            lane.raise(floor);
            lane.insert(nonce, entry);
        });
        Ok(seq)
    }

    /// Takes over what was being written and is on disk.
    pub(super) fn written(&mut self, record: &Record) {
        let admitted = record.admitted();
        let Some((seq, writing)) = admitted.and_then(|seq| self.writing.remove_entry(&seq)) else {
            return;
        };
        let Writing {
            checked,
            time,
            bundle,
            reserved,
        } = writing;
        self.reserved.items -= reserved.items;
        self.reserved.bytes -= reserved.bytes;
        if self.items.contains_key(&seq) {
            self.replace(seq, checked, time);
        } else {
            self.insert(seq, checked, time, bundle);
        }
    }

    /// Gives back what was reserved for a transaction that is not written after all.
    pub(super) fn withdraw(&mut self, record: &Record) {
        let admitted = record.admitted();
        let Some((seq, writing)) = admitted.and_then(|seq| self.writing.remove_entry(&seq)) else {
            return;
        };
        let Writing {
            checked, reserved, ..
        } = writing;
        self.reserved.items -= reserved.items;
        self.reserved.bytes -= reserved.bytes;
        let nonce = checked.tx.nonce();
        self.change(checked.lane(), |lane| lane.remove(nonce, seq));
    }

    /// Takes over what a record of the log says.
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Accepted {
                seq,
                rollup,
                raw,
                time,
                floor,
                bundle,
            } => {
                if let Some(checked) = decode(rollup, raw) {
                    self.change(checked.lane(), |lane| lane.raise(floor));
                    self.insert(seq, Arc::new(checked), time, bundle.map(B256::new));
                }
            }
            Record::Replaced { seq, raw, time } => {
                let rollup = self.items.get(&seq).map(|item| item.rollup);
                if let Some(checked) = rollup.and_then(|rollup| decode(rollup, raw)) {
                    self.replace(seq, Arc::new(checked), time);
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
                self.next_nonce = self.next_nonce.max(nonce.checked_add(1));
            }
            Record::Dissolved { nonces, next_nonce } => {
                let batches: Vec<Arc<Batch>> = nonces
                    .iter()
                    .filter_map(|nonce| self.open.remove(nonce))
                    .collect();
                for seq in batches.iter().flat_map(|batch| &batch.seqs) {
                    self.set_stage(*seq, Stage::Queued);
                }
                self.next_nonce = Some(next_nonce);
            }
            Record::Skipped(skip) => self.skip(skip),
            Record::Rejected { seqs, why } => {
                for seq in seqs {
                    self.finish(seq, Stage::Rejected(why));
                }
            }
            Record::Kept {
                next_nonce,
                open,
                placed,
                skipped,
            } => {
                self.next_nonce = next_nonce;
                for (seq, skip, delayed) in skipped {
                    self.was_skipped(seq, skip, delayed);
                }
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
        self.next_nonce.get_or_insert(batch.nonce);
        self.open.insert(batch.nonce, Arc::new(batch));
    }

    /// Changes a lane, and what is known of all lanes with it.
    fn change(&mut self, key: LaneKey, change: impl FnOnce(&mut Lane)) {
        let lane = self.lanes.entry(key).or_default();
        let (head, parked) = (lane.next_waiting(0), lane.parked());
        change(lane);
        let (new_head, new_parked) = (lane.next_waiting(0), lane.parked());
        if lane.is_empty() {
            self.lanes.remove(&key);
        }
        if head != new_head {
            let (rollup, sender) = key;
            let heads = self.heads.entry(rollup).or_default();
            if let Some((_, seq)) = head {
                heads.remove(&seq);
            }
            if let Some((_, seq)) = new_head {
                heads.insert(seq, sender);
            }
            if heads.is_empty() {
                self.heads.remove(&rollup);
            }
        }
        self.parked = self.parked + new_parked - parked;
        if new_parked > 0 {
            self.parked_lanes.insert(key);
        } else {
            self.parked_lanes.remove(&key);
        }
    }

    fn insert(&mut self, seq: u64, checked: Arc<Checked>, time: u64, bundle: Option<B256>) {
        self.next_seq = self.next_seq.max(seq + 1);
        if let Some(bundle) = bundle {
            // What is finished was sent before, and the bundle is sent again.
            let members = self.bundles.entry((checked.rollup, bundle)).or_default();
            let is_live = |seq: &u64| self.items.get(seq).is_some_and(|it| !it.stage.is_final());
            members.retain(is_live);
            members.push(seq);
        }
        self.put(Item::new(seq, checked, time, bundle));
    }

    fn put(&mut self, item: Item) {
        let (hash, seq) = (*item.tx.tx_hash(), item.seq);
        self.bytes += item.raw.len();
        self.by_hash.insert((item.rollup, hash), seq);
        self.replaced.remove(&hash);
        let entry = Entry {
            seq,
            cost: cost(&item.tx),
            standing: item.standing(),
        };
        let nonce = item.tx.nonce();
        self.change(item.lane(), |lane| lane.insert(nonce, entry));
        if let Some(arrivals) = self.arrivals.get(&item.rollup) {
            let _nobody = arrivals.send(hash);
        }
        self.followers.changed(&(item.rollup, hash));
        self.items.insert(seq, item);
    }

    /// Puts another transaction into the place of one that waits: the sender's later ones stay
    /// behind it.
    fn replace(&mut self, seq: u64, checked: Arc<Checked>, time: u64) {
        let Some(old) = self.items.remove(&seq) else {
            return;
        };
        let hash = *old.tx.tx_hash();
        self.forget_hash(&old);
        self.delayed.remove(&(old.rollup, seq));
        self.bytes -= old.raw.len();
        self.followers.changed(&(old.rollup, hash));
        self.replaced.insert(hash);
        self.replaced_line.push_back(hash);
        if self.replaced_line.len() > MAX_REPLACED
            && let Some(oldest) = self.replaced_line.pop_front()
        {
            self.replaced.remove(&oldest);
        }
        self.put(Item::new(seq, checked, time, None));
    }

    /// A transaction that was skipped may have been sent again since, under another number.
    fn forget_hash(&mut self, item: &Item) {
        let key = (item.rollup, *item.tx.tx_hash());
        if self.by_hash.get(&key) == Some(&item.seq) {
            self.by_hash.remove(&key);
        }
    }

    /// An item stands elsewhere now; in a batch or a list it is not delayed any more.
    pub(super) fn set_stage(&mut self, seq: u64, stage: Stage) {
        let Some(item) = self.items.get_mut(&seq) else {
            return;
        };
        let before = std::mem::replace(&mut item.stage, stage);
        self.followers.changed(&(item.rollup, *item.tx.tx_hash()));
        if stage != Stage::Queued {
            item.delayed = false;
        }
        let (key, nonce, rollup) = (item.lane(), item.tx.nonce(), item.rollup);
        let (standing, delayed) = (item.standing(), item.delayed);
        if let Stage::Sequenced(place) = before {
            self.sequenced.remove(&(rollup, place, seq));
        }
        if let Stage::Sequenced(place) = stage {
            self.sequenced.insert((rollup, place, seq));
        }
        if delayed {
            self.delayed.insert((rollup, seq));
        } else {
            self.delayed.remove(&(rollup, seq));
        }
        self.change(key, |lane| lane.set(nonce, seq, standing));
    }

    /// Whether an item stands where a skip says it was skipped, or gives up waiting for the cause of
    /// that skip to pass.
    pub(super) fn concerns(&self, skip: &Skip) -> bool {
        self.items.get(&skip.seq).is_some_and(|item| {
            item.stage == Stage::Sequenced(skip.place) || (item.delayed && !skip.again)
        })
    }

    /// What the conductor skipped is finished, or waits for its cause to pass.
    fn skip(&mut self, skip: Skip) {
        let Skip {
            seq,
            place,
            reason,
            again,
        } = skip;
        let Some(item) = self.items.get_mut(&seq) else {
            return;
        };
        let attempts = item.skip.as_ref().map_or(0, |skip| skip.attempts);
        let skip = LastSkip {
            place,
            reason,
            attempts: attempts + u32::from(!item.delayed),
        };
        if again {
            self.was_skipped(seq, skip, true);
        } else {
            item.skip = Some(skip);
            self.finish(seq, Stage::Skipped(place));
        }
    }

    fn was_skipped(&mut self, seq: u64, skip: LastSkip, delayed: bool) {
        if let Some(item) = self.items.get_mut(&seq) {
            item.skip = Some(skip);
            item.delayed = delayed;
            self.set_stage(seq, Stage::Queued);
        }
    }

    /// The cause of a skip has passed: the transaction waits like any other, or is parked.
    pub(super) fn release(&mut self, seq: u64, floor: u64) {
        if let Some(item) = self.items.get_mut(&seq).filter(|item| item.delayed) {
            item.delayed = false;
            let key = item.lane();
            self.set_stage(seq, Stage::Queued);
            self.change(key, |lane| lane.raise(floor));
        }
    }

    /// A sender's executed nonce, as the client has it.
    pub(super) fn raise(&mut self, rollup: RollupId, sender: Address, floor: u64) {
        let key = (rollup, sender);
        if self.lanes.contains_key(&key) {
            self.change(key, |lane| lane.raise(floor));
        }
    }

    /// Keeps the status of a finished transaction for a while, but not its place in line.
    pub(super) fn finish(&mut self, seq: u64, stage: Stage) {
        let unfinished = self.items.get(&seq).filter(|item| !item.stage.is_final());
        if unfinished.is_none() {
            return;
        }
        self.set_stage(seq, stage);
        let Some(item) = self.items.get(&seq) else {
            return;
        };
        let (key, nonce, bytes) = (item.lane(), item.tx.nonce(), item.raw.len());
        self.bytes -= bytes;
        self.change(key, |lane| {
            if matches!(stage, Stage::Executed(..)) {
                lane.raise(nonce.saturating_add(1));
            }
            lane.remove(nonce, seq);
        });
        self.finished.push_back(seq);
        while self.finished.len() > MAX_FINISHED {
            let Some(oldest) = self.finished.pop_front() else {
                break;
            };
            self.forget(oldest);
        }
    }

    /// A transaction is in a block. Gives whether it was waited for: one that is not in a list
    /// according to us, or was skipped there, can have run from a copy that somebody else sent.
    pub(super) fn executed(&mut self, rollup: RollupId, hash: B256, execution: Execution) -> bool {
        let Some(item) = self.get(rollup, hash) else {
            return false;
        };
        let place = match (item.stage, &item.skip) {
            (Stage::Sequenced(place), _) => place,
            (Stage::Queued, Some(skip)) if item.delayed => skip.place,
            _ => return false,
        };
        self.finish(item.seq, Stage::Executed(place, execution));
        true
    }

    fn forget(&mut self, seq: u64) {
        let Some(item) = self.items.remove(&seq) else {
            return;
        };
        self.forget_hash(&item);
        if let Some(bundle) = item.bundle
            && let Some(members) = self.bundles.get_mut(&(item.rollup, bundle))
        {
            members.retain(|member| *member != seq);
            if members.is_empty() {
                self.bundles.remove(&(item.rollup, bundle));
            }
        }
    }

    /// What may go into a batch, of the rollup that has waited longest first.
    pub(super) fn lines(&self) -> Vec<(RollupId, Line<'_>)> {
        let mut heads: Vec<_> = self.heads.iter().collect();
        heads.sort_by_key(|(_, heads)| heads.keys().next());
        let lines = heads.into_iter();
        lines
            .map(|(rollup, heads)| (*rollup, Line::new(self, heads)))
            .collect()
    }

    /// The sequenced transactions of a rollup before a place, in the order of execution.
    pub(super) fn sequenced_before(
        &self,
        rollup: RollupId,
        end: Place,
        limit: usize,
    ) -> Vec<(u64, B256, Place)> {
        let range = (rollup, Place::FIRST, 0)..(rollup, end, 0);
        let placed = self.sequenced.range(range).filter_map(|(_, place, seq)| {
            let item = self.items.get(seq)?;
            Some((*seq, *item.tx.tx_hash(), *place))
        });
        placed.take(limit).collect()
    }

    /// A transaction by its hash, if it is in a verified list and its fate is not known.
    pub(crate) fn sequenced_at(&self, rollup: RollupId, hash: B256) -> Option<(u64, B256, Place)> {
        let item = self.get(rollup, hash)?;
        match item.stage {
            Stage::Sequenced(place) => Some((item.seq, hash, place)),
            _ => None,
        }
    }

    /// What there is to follow of a rollup.
    pub(crate) fn work(&self, rollup: RollupId) -> Work {
        let sequenced = self.sequenced.range((rollup, Place::FIRST, 0)..).next();
        Work {
            sequenced: sequenced.is_some_and(|(of, ..)| *of == rollup),
            waiting: self.delayed(rollup).next().is_some()
                || self.parked_senders(rollup, None).next().is_some(),
        }
    }

    /// Skipped transactions of a rollup that wait for the cause to pass.
    pub(crate) fn delayed(&self, rollup: RollupId) -> impl Iterator<Item = &Item> {
        let delayed = self.delayed.range((rollup, 0)..=(rollup, u64::MAX));
        delayed.filter_map(|(_, seq)| self.items.get(seq))
    }

    /// Senders of a rollup with parked transactions, after `after`.
    pub(crate) fn parked_senders(
        &self,
        rollup: RollupId,
        after: Option<Address>,
    ) -> impl Iterator<Item = Address> {
        let from = match after {
            Some(after) => Bound::Excluded((rollup, after)),
            None => Bound::Included((rollup, Address::ZERO)),
        };
        let to = Bound::Included((rollup, LAST_ADDRESS));
        let senders = self.parked_lanes.range((from, to));
        senders.map(|(_, sender)| *sender)
    }

    /// Why parked transactions of a rollup are to be rejected: those acknowledged before `oldest`
    /// have waited too long, and a bundle with a gap cannot go as a whole.
    pub(super) fn hopeless(&self, rollup: RollupId, oldest: u64) -> Vec<(u64, Rejection)> {
        let lanes = (rollup, Address::ZERO)..=(rollup, LAST_ADDRESS);
        let mut hopeless = Vec::new();
        for lane in self.parked_lanes.range(lanes) {
            let Some(lane) = self.lanes.get(lane) else {
                continue;
            };
            let missing = lane.missing();
            let items = lane.behind().filter_map(|seq| self.items.get(&seq));
            for item in items.filter(|item| item.stage == Stage::Queued && !item.delayed) {
                match item.bundle.filter(|_| item.is_bundled()) {
                    Some(bundle) => {
                        let members = self.bundles.get(&(rollup, bundle)).into_iter().flatten();
                        hopeless.extend(members.map(|seq| (*seq, Rejection::Bundle { missing })));
                    }
                    None if item.time < oldest => {
                        hopeless.push((item.seq, Rejection::Expired { missing }));
                    }
                    None => {}
                }
            }
        }
        hopeless
    }

    /// What waits of a rollup, parked or not.
    pub(super) fn waiting_of(&self, rollup: RollupId) -> Vec<u64> {
        let lanes = self.lanes.iter().filter(|((of, _), _)| *of == rollup);
        let seqs = lanes.flat_map(|(_, lane)| lane.seqs());
        let is_queued = |seq: &u64| {
            let item = self.items.get(seq);
            item.is_some_and(|item| item.stage == Stage::Queued)
        };
        seqs.filter(is_queued).collect()
    }

    /// Records that give this state again, without what was executed.
    pub(super) fn records(&self) -> Vec<Record> {
        let accepted = |item: &Item| Record::Accepted {
            seq: item.seq,
            rollup: item.rollup,
            raw: item.raw.clone(),
            time: item.time,
            floor: self.lanes.get(&item.lane()).map_or(0, Lane::floor),
            bundle: bundle_bytes(item.bundle),
        };
        // First, so that one of them that was sent again gives way to itself.
        let mut records = Vec::new();
        for item in self.finished.iter().filter_map(|seq| self.items.get(seq)) {
            let why = match (item.stage, &item.skip) {
                (Stage::Rejected(why), _) => Record::Rejected {
                    seqs: vec![item.seq],
                    why,
                },
                (Stage::Skipped(place), Some(skip)) => Record::Skipped(Skip {
                    seq: item.seq,
                    place,
                    reason: skip.reason.clone(),
                    again: false,
                }),
                _ => continue,
            };
            records.push(accepted(item));
            records.push(why);
        }
        let live = || self.items.values().filter(|item| !item.stage.is_final());
        records.extend(live().map(accepted));
        let placed = live().filter_map(|item| match item.stage {
            Stage::Sequenced(place) => Some((item.seq, place)),
            _ => None,
        });
        let skipped = live().filter_map(|item| Some((item.seq, item.skip.clone()?, item.delayed)));
        let mut open = self.open.values().map(|batch| Batch::clone(batch));
        records.push(Record::Kept {
            next_nonce: self.next_nonce,
            open: open.next(),
            placed: placed.collect(),
            skipped: skipped.collect(),
        });
        records.extend(open.map(Record::Signed));
        records
    }
}

/// What may go into a batch of one rollup, oldest first: single transactions, and bundles as a whole.
/// One sender's are in the order of their nonces, however they came. Nothing is looked at that does not
/// wait: lanes are merged as they are reached.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    state: &'a State,
    heads: Peekable<btree_map::Keys<'a, u64, Address>>,
    /// The next transactions of lanes whose heads were given.
    next: BinaryHeap<Reverse<u64>>,
    /// Members of bundles that nothing waits before, until all of a bundle are.
    reached: HashMap<B256, Vec<u64>>,
}

impl<'a> Line<'a> {
    fn new(state: &'a State, heads: &'a BTreeMap<u64, Address>) -> Self {
        Self {
            state,
            heads: heads.keys().peekable(),
            next: BinaryHeap::new(),
            reached: HashMap::new(),
        }
    }

    fn pop(&mut self) -> Option<u64> {
        let next = self.next.peek().map(|Reverse(seq)| *seq);
        let fresh = self.heads.peek().map(|seq| **seq);
        if next.is_some_and(|next| fresh.is_none_or(|fresh| next < fresh)) {
            self.next.pop();
            return next;
        }
        self.heads.next().copied()
    }

    /// What follows an item in its lane.
    fn follower(&self, item: &Item) -> Option<&'a Item> {
        let lane = self.state.lanes.get(&item.lane())?;
        let (_, seq) = lane.next_waiting(item.tx.nonce().checked_add(1)?)?;
        self.state.items.get(&seq)
    }

    fn push_follower(&mut self, item: &Item) {
        if let Some(follower) = self.follower(item) {
            self.next.push(Reverse(follower.seq));
        }
    }

    /// Notes that nothing waits before a member; gives the bundle once that is so of all. Until then
    /// the lane goes no further, but for members that follow one another.
    fn reach(&mut self, bundle: B256, first: &'a Item) -> Option<Vec<&'a Item>> {
        let members = self.state.bundles.get(&(first.rollup, bundle))?;
        let reached = self.reached.entry(bundle).or_default();
        reached.push(first.seq);
        let mut last = first;
        while let Some(follower) = self.follower(last)
            && follower.bundle == Some(bundle)
        {
            self.reached.entry(bundle).or_default().push(follower.seq);
            last = follower;
        }
        if self.reached.get(&bundle).map(Vec::len) != Some(members.len()) {
            return None;
        }
        let items: Vec<&Item> = members
            .iter()
            .filter_map(|seq| self.state.items.get(seq))
            .collect();
        for item in &items {
            let follower = self.follower(item);
            if follower.is_some_and(|follower| follower.bundle != Some(bundle)) {
                self.push_follower(item);
            }
        }
        Some(items)
    }
}

impl<'a> Iterator for Line<'a> {
    type Item = Vec<&'a Item>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let seq = self.pop()?;
            let Some(item) = self.state.items.get(&seq) else {
                continue;
            };
            match item.bundle.filter(|_| item.is_bundled()) {
                Some(bundle) => {
                    if let Some(whole) = self.reach(bundle, item) {
                        return Some(whole);
                    }
                }
                None => {
                    self.push_follower(item);
                    return Some(vec![item]);
                }
            }
        }
    }
}

/// Decodes what was checked before it was accepted.
pub(super) fn decode(rollup: RollupId, raw: Bytes) -> Option<Checked> {
    let tx = TxEnvelope::decode_2718_exact(&raw).ok()?;
    let sender = tx.recover_signer().ok()?;
    Some(Checked {
        rollup,
        raw,
        tx,
        sender,
        received: None,
    })
}

/// The most that a transaction can cost its sender, in wei.
#[must_use]
pub(crate) fn cost(tx: &TxEnvelope) -> U256 {
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    gas.saturating_add(tx.value())
}
