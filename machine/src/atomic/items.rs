//! The system items of a block: what may be released in its slots, and what became of earlier ones.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterpoint_core::{
    atomic::{
        AtomicAbort, AtomicBundle, AtomicOutcome, AtomicRelease, AttesterFault, FaultProof,
        LegOutcome, OnAbort, Pin, Quorum, QuorumError, SystemItem, Votes,
    },
    key::{PublicKey, Signature, verify_batch},
    primitive::{Amount, Hash, Height, RollupId},
    registry::RollupConfig,
    state::{
        AbortReason, BundleRecord, BundleStatus, LegRecord, ReleaseRecord, ReleasedLeg, Suspension,
    },
};

use super::{
    life,
    rules::{self, Expected},
};
use crate::{
    lists::Lists,
    state::{Key, LastHeader, ReadRecords, StateDelta, StateRead, StoreError},
};

/// Most outcomes that a block records, and most faults.
const MAX_REPORTS: usize = 256;

/// Why a system item may not be in a block: the proposer's fault, and the same verdict on every node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemRefusal {
    /// System items ascend by tag and subject, each once.
    #[error("it is out of order")]
    Order,
    /// The bundle has no slot that opens at this height (R1).
    #[error("bundle {0} is not scheduled for this height")]
    NotScheduled(Hash),
    /// It is pinned to another height than the one before (R1).
    #[error("it is pinned to height {0}, which is not the one before")]
    Pin(Height),
    /// It has more or fewer quorums than the bundle has legs.
    #[error("it has {0} quorums, the bundle has other legs")]
    Legs(usize),
    /// The bundle does not touch the rollup.
    #[error("the bundle has no leg for rollup {0}")]
    NoLeg(RollupId),
    /// The rollup opens no block at this height, or has no attesters.
    #[error("rollup {0} can take no leg at this height")]
    Closed(RollupId),
    /// The votes are not a canonical quorum (R2, R3, R6).
    #[error("rollup {rollup_id}: {error}")]
    Quorum {
        /// Of whose attesters.
        rollup_id: RollupId,
        /// What is wrong with them.
        error: QuorumError,
    },
    /// It says something else than a release or abort needs, or other messages (R4).
    #[error("rollup {0}: the statement is another")]
    Statement(RollupId),
    /// The leg was executed in another environment than the block has (R5).
    #[error("rollup {0}: the environment is another")]
    Environment(RollupId),
    /// The leg is too large for the rollup's block (R7).
    #[error("rollup {0}: the leg does not fit")]
    Room(RollupId),
    /// A signature does not verify.
    #[error("a signature does not verify")]
    Signature,
    /// Nobody waits for the outcome.
    #[error("nobody waits for this outcome of bundle {0}")]
    Outcome(Hash),
    /// It proves no lie by an attester that has a vote.
    #[error("it proves nothing against an attester that has a vote")]
    Fault,
    /// More outcomes or faults than a block has time for.
    #[error("too many reports in one block")]
    TooMany,
}

/// How applying a system item can end badly.
#[derive(Debug)]
pub(crate) enum ItemError {
    Refused(ItemRefusal),
    Store(StoreError),
}

impl From<ItemRefusal> for ItemError {
    fn from(refusal: ItemRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for ItemError {
    fn from(fault: StoreError) -> Self {
        Self::Store(fault)
    }
}

/// A bundle that may be released at this height.
#[derive(Clone, Debug)]
pub(super) struct Scheduled {
    pub(super) record: BundleRecord,
    pub(super) bundle: AtomicBundle,
    pub(super) legs: Vec<Vec<Bytes>>,
}

/// The slots that open at one height.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) chain_id: String,
    pub(super) height: Height,
    pub(super) pin: Pin,
    pub(super) bundles: BTreeMap<Hash, Scheduled>,
    last: Option<(u8, [u8; 32], [u8; 32])>,
    released: Vec<Hash>,
    reports: usize,
}

impl Slot {
    /// Finds out what the block before has scheduled.
    pub(crate) fn open<S: StateRead>(
        height: Height,
        last: &LastHeader,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<Self, StoreError> {
        let mut slot = Self {
            chain_id: delta.chain()?.chain_id,
            height,
            pin: Pin {
                height: Height::new(height.get().saturating_sub(1)),
                hash: last.hash,
            },
            bundles: BTreeMap::new(),
            last: None,
            released: Vec::new(),
            reports: 0,
        };
        let Some(scheduled) = delta.read::<Vec<Hash>>(&Key::Scheduled)? else {
            return Ok(slot);
        };
        delta.delete(&Key::Scheduled);
        for id in scheduled {
            let missing = || StoreError::corrupt(format!("a part of bundle {id} is missing"));
            let scheduled = Scheduled {
                record: delta.bundle(id)?,
                bundle: delta.read(&Key::BundleBody(id))?.ok_or_else(missing)?,
                legs: delta.read(&Key::BundleLegs(id))?.ok_or_else(missing)?,
            };
            slot.bundles.insert(id, scheduled);
        }
        Ok(slot)
    }

    /// Applies the block's next system item. On an error nothing has changed.
    pub(crate) fn apply<S: StateRead>(
        &mut self,
        item: &SystemItem,
        lists: &mut Lists,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), ItemError> {
        let key = item.order_key();
        if self.last.is_some_and(|last| last >= key) {
            return Err(ItemRefusal::Order.into());
        }
        match item {
            SystemItem::Abort(abort) => self.abort(abort, lists, delta),
            SystemItem::Release(release) => self.release(release, lists, delta),
            SystemItem::Outcome(outcome) => self.outcome(outcome, lists, delta),
            SystemItem::Fault(fault) => self.fault(fault, lists, delta),
        }?;
        self.last = Some(key);
        Ok(())
    }

    /// After the last system item: what was not released has used an attempt.
    pub(crate) fn settle<S: StateRead>(
        &mut self,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), StoreError> {
        for (id, scheduled) in std::mem::take(&mut self.bundles) {
            life::use_attempt(id, scheduled.record, delta)?;
        }
        if !self.released.is_empty() {
            delta.put(&Key::ReleasedAt(self.height), &self.released)?;
        }
        Ok(())
    }

    /// R1: the bundle, if this is its slot.
    fn scheduled(&self, id: Hash, pin_height: Height) -> Result<&Scheduled, ItemRefusal> {
        let scheduled = self.bundles.get(&id);
        let now = BundleStatus::Scheduled(self.height);
        let scheduled = scheduled.filter(|scheduled| scheduled.record.status == now);
        let scheduled = scheduled.ok_or(ItemRefusal::NotScheduled(id))?;
        if pin_height != self.pin.height {
            return Err(ItemRefusal::Pin(pin_height));
        }
        Ok(scheduled)
    }

    fn release<S: StateRead>(
        &mut self,
        release: &AtomicRelease,
        lists: &mut Lists,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), ItemError> {
        let id = release.bundle_id;
        let scheduled = self.scheduled(id, release.pin_height)?;
        let legs = &scheduled.record.legs;
        if release.quorums.len() != legs.len() {
            return Err(ItemRefusal::Legs(release.quorums.len()).into());
        }
        let extras = &scheduled.bundle.terms().extra_attesters;
        let (mut signed, mut released, mut tickets) = (Vec::new(), Vec::new(), Vec::new());
        for (leg, quorum) in legs.iter().zip(&release.quorums) {
            let rollup_id = leg.rollup_id;
            let expected = self.expected(scheduled, rollup_id, lists)?;
            self.check_quorum(&expected, quorum, extras, lists, delta, &mut signed)?;
            let receipts_hash = expected.receipts(quorum);
            let config = config(rollup_id, lists)?;
            if !rules::fits(leg, config) {
                return Err(ItemRefusal::Room(rollup_id).into());
            }
            released.push(ReleasedLeg {
                block_number: lists.number(rollup_id).unwrap_or_default(),
                receipts_hash: receipts_hash.ok_or(ItemRefusal::Statement(rollup_id))?,
                confirmed: false,
            });
            tickets.push(expected.ticket);
        }
        verify_batch(&signed).map_err(|_| ItemRefusal::Signature)?;
        let Some(Scheduled {
            mut record, legs, ..
        }) = self.bundles.remove(&id)
        else {
            return Err(ItemRefusal::NotScheduled(id).into());
        };
        for ((leg, raws), ticket) in record.legs.iter().zip(legs).zip(tickets) {
            lists.release(leg.rollup_id, id, ticket, raws, rules::share(leg));
        }
        pay_owners(&record, lists, delta)?;
        record.attempts_left = record.attempts_left.saturating_sub(1);
        let left = life::tips(&record, record.attempts_left);
        if left > Amount::ZERO {
            delta.unlock(record.submitter, left)?;
        }
        record.attempts_left = 0;
        record.status = BundleStatus::Released;
        let (pin, legs) = (self.pin, released);
        record.release = Some(ReleaseRecord { pin, legs });
        life::forget(id, &record, delta)?;
        delta.put(&Key::Bundle(id), &record)?;
        self.released.push(id);
        Ok(())
    }

    fn abort<S: StateRead>(
        &mut self,
        abort: &AtomicAbort,
        lists: &Lists,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), ItemError> {
        let (id, rollup_id) = (abort.bundle_id, abort.rollup_id);
        let scheduled = self.scheduled(id, abort.pin_height)?;
        let leg = leg(&scheduled.record, rollup_id)?;
        let LegOutcome::Abort { failure, tx } = abort.quorum.statement.outcome else {
            return Err(ItemRefusal::Statement(rollup_id).into());
        };
        if tx >= leg.txs {
            return Err(ItemRefusal::Statement(rollup_id).into());
        }
        let mut signed = Vec::new();
        let expected = self.expected(scheduled, rollup_id, lists)?;
        self.check_quorum(&expected, &abort.quorum, &[], lists, delta, &mut signed)?;
        verify_batch(&signed).map_err(|_| ItemRefusal::Signature)?;
        let Some(Scheduled {
            mut record, bundle, ..
        }) = self.bundles.remove(&id)
        else {
            return Err(ItemRefusal::NotScheduled(id).into());
        };
        record.answered = true;
        if bundle.terms().on_abort == OnAbort::Retry {
            return Ok(life::use_attempt(id, record, delta)?);
        }
        delta.burn_locked(record.tip_per_attempt)?;
        record.attempts_left = record.attempts_left.saturating_sub(1);
        let reason = AbortReason::Attested {
            rollup_id,
            tx,
            failure,
        };
        Ok(life::finish(id, record, reason, delta)?)
    }

    fn expected(
        &self,
        scheduled: &Scheduled,
        rollup_id: RollupId,
        lists: &Lists,
    ) -> Result<Expected, ItemRefusal> {
        let set = config(rollup_id, lists)?.attesters.0.as_ref();
        let epoch = set.ok_or(ItemRefusal::Closed(rollup_id))?.epoch;
        Ok(Expected::of(&scheduled.bundle, rollup_id, epoch, self.pin))
    }

    /// R2, R3, R5 and R6; adds what is to be verified to `signed`.
    fn check_quorum<S: StateRead>(
        &self,
        expected: &Expected,
        quorum: &Quorum,
        extras: &[PublicKey],
        lists: &Lists,
        state: &S,
        signed: &mut Vec<(PublicKey, Hash, Signature)>,
    ) -> Result<(), ItemError> {
        let rollup_id = expected.ballot.rollup_id;
        check_voters(rollup_id, &quorum.votes, extras, lists, state)?;
        let statement = &quorum.statement;
        let env = lists.leg_env(rollup_id, statement.base_fee, expected.ticket);
        let env = env.ok_or(ItemRefusal::Closed(rollup_id))?;
        if env.hash() != statement.env_hash {
            return Err(ItemRefusal::Environment(rollup_id).into());
        }
        let digest = expected.ballot.digest(&self.chain_id, statement);
        signed.extend(quorum.votes.signed(digest));
        Ok(())
    }

    fn outcome<S: StateRead>(
        &mut self,
        outcome: &AtomicOutcome,
        lists: &Lists,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), ItemError> {
        let AtomicOutcome { executed, votes } = outcome;
        let (id, rollup_id) = (executed.bundle_id, executed.rollup_id);
        let unwanted = || ItemRefusal::Outcome(id);
        let mut record: BundleRecord = delta.read(&Key::Bundle(id))?.ok_or_else(unwanted)?;
        let place = record
            .legs
            .iter()
            .position(|leg| leg.rollup_id == rollup_id);
        let release = record.release.as_mut().ok_or_else(unwanted)?;
        let leg = place.and_then(|place| release.legs.get_mut(place));
        let leg = leg.ok_or_else(unwanted)?;
        let waits = record.status == BundleStatus::Released && !leg.confirmed;
        if !waits || executed.block_number != leg.block_number {
            return Err(unwanted().into());
        }
        check_voters(rollup_id, votes, &[], lists, delta)?;
        let signed: Vec<_> = votes.signed(executed.digest(&self.chain_id)).collect();
        verify_batch(&signed).map_err(|_| ItemRefusal::Signature)?;
        self.report()?;
        leg.confirmed = executed.receipts_hash == leg.receipts_hash;
        if !leg.confirmed {
            record.status = BundleStatus::Violated;
        } else if release.legs.iter().all(|leg| leg.confirmed) {
            record.status = BundleStatus::Executed;
        }
        Ok(delta.put(&Key::Bundle(id), &record)?)
    }

    fn fault<S: StateRead>(
        &mut self,
        fault: &AttesterFault,
        lists: &Lists,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<(), ItemError> {
        let (rollup_id, attester) = (fault.rollup_id(), fault.attester());
        let voters = rules::voters(config(rollup_id, lists)?, delta)?;
        if !voters.contains(&attester) || !fault.contradicts_itself() {
            return Err(ItemRefusal::Fault.into());
        }
        let mut violated = None;
        if let FaultProof::Contradiction(attestation, _) = &fault.proof {
            let id = attestation.ballot.bundle_id;
            let record: Option<BundleRecord> = delta.read(&Key::Bundle(id))?;
            let pin = attestation.ballot.pin;
            let released = |record: &BundleRecord| {
                let release = record.release.as_ref();
                release.is_some_and(|release| release.pin == pin)
            };
            let record = record.filter(released).ok_or(ItemRefusal::Fault)?;
            violated = Some((id, record));
        }
        fault
            .verify(&self.chain_id)
            .map_err(|_| ItemRefusal::Signature)?;
        self.report()?;
        let height = self.height;
        delta.put(
            &Key::Suspension(rollup_id, attester),
            &Suspension { height },
        )?;
        if let Some((id, mut record)) = violated
            && record.status == BundleStatus::Released
        {
            record.status = BundleStatus::Violated;
            delta.put(&Key::Bundle(id), &record)?;
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), ItemRefusal> {
        if self.reports >= MAX_REPORTS {
            return Err(ItemRefusal::TooMany);
        }
        self.reports = self.reports.saturating_add(1);
        Ok(())
    }
}

fn config(rollup_id: RollupId, lists: &Lists) -> Result<&RollupConfig, ItemRefusal> {
    lists
        .config(rollup_id)
        .ok_or(ItemRefusal::Closed(rollup_id))
}

fn leg(record: &BundleRecord, rollup_id: RollupId) -> Result<&LegRecord, ItemRefusal> {
    let mut legs = record.legs.iter();
    let leg = legs.find(|leg| leg.rollup_id == rollup_id);
    leg.ok_or(ItemRefusal::NoLeg(rollup_id))
}

/// R2, R3 and R6: whether the voters are a canonical quorum.
fn check_voters<S: StateRead>(
    rollup_id: RollupId,
    votes: &Votes,
    extras: &[PublicKey],
    lists: &Lists,
    state: &S,
) -> Result<(), ItemError> {
    let config = config(rollup_id, lists)?;
    let set = config.attesters.0.as_ref();
    let threshold = set
        .ok_or(ItemRefusal::Closed(rollup_id))?
        .members
        .threshold();
    let voters = rules::voters(config, state)?;
    let checked = votes.check_voters(&voters, threshold, extras);
    Ok(checked.map_err(|error| ItemRefusal::Quorum { rollup_id, error })?)
}

/// Half of a released bundle's tip is burned, half is for the owners of its rollups, in equal parts;
/// what cannot be divided is burned too.
fn pay_owners<S: StateRead>(
    record: &BundleRecord,
    lists: &Lists,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let tip = record.tip_per_attempt.get();
    let legs = record.legs.len() as u128;
    let part = (tip >> 1).checked_div(legs).unwrap_or_default();
    let mut burned = tip;
    for leg in &record.legs {
        let owner = lists.config(leg.rollup_id).map(|config| config.owner);
        if let Some(owner) = owner.filter(|_| part > 0) {
            delta.unlock(owner, Amount::new(part))?;
            burned = burned.saturating_sub(part);
        }
    }
    delta.burn_locked(Amount::new(burned))
}
