//! What attesters, their users and the mempool are told of bundles.

use bytes::Bytes;
use counterpoint_core::{
    atomic::{AtomicBundle, Attestation, AttesterMessage, Ballot, LegEnv, VerifiedMessage},
    key::PublicKey,
    primitive::{Hash, Height, RollupId},
    slot::HeaderTime,
    state::{BundleRecord, BundleStatus, LegRecord},
};

use super::{
    aggregate::{self, Absent, Decision},
    items::{Scheduled, Slot},
    rules::{self, Expected},
};
use crate::{
    lists::Lists,
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError},
};

/// How far ahead of this node those may be whose attestations it keeps, in heights.
const MAX_AHEAD: u64 = 2;

/// A bundle that the next height may release.
#[derive(Clone, Debug)]
pub struct ScheduledBundle {
    /// Its terms.
    pub bundle: AtomicBundle,
    /// Its legs, in order.
    pub legs: Vec<ScheduledLeg>,
}

/// A leg that attesters are to execute now.
#[derive(Clone, Debug)]
pub struct ScheduledLeg {
    /// What their statements are about.
    pub ballot: Ballot,
    /// What it is to be executed in; only the base fee is theirs to add.
    pub env: LegEnv,
    /// The raw transactions, in order.
    pub txs: Vec<Bytes>,
}

/// The bundles that the height after `tip` may release, with all that attesters need.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn scheduled<S: StateRead>(state: &S, tip: Height) -> Result<Vec<ScheduledBundle>, StoreError> {
    let Some((slot, lists)) = open(state, tip)? else {
        return Ok(Vec::new());
    };
    let of = |scheduled: &Scheduled| {
        let legs = scheduled.record.legs.iter().zip(&scheduled.legs);
        let leg = |(leg, txs): (&LegRecord, &Vec<Bytes>)| {
            let set = lists.config(leg.rollup_id)?.attesters.0.as_ref()?;
            let expected = Expected::of(&scheduled.bundle, leg.rollup_id, set.epoch, slot.pin);
            Some(ScheduledLeg {
                env: lists.leg_env(leg.rollup_id, 0, expected.ticket)?,
                ballot: expected.ballot,
                txs: txs.clone(),
            })
        };
        Some(ScheduledBundle {
            bundle: scheduled.bundle.clone(),
            legs: legs.map(leg).collect::<Option<Vec<_>>>()?,
        })
    };
    Ok(slot.bundles.values().filter_map(of).collect())
}

/// Of each bundle that the height after `tip` may release and that `messages` decide nothing about,
/// those who still could.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn undecided<S: StateRead>(
    state: &S,
    messages: &[VerifiedMessage],
    tip: Height,
) -> Result<Vec<Vec<Absent>>, StoreError> {
    let mut undecided = Vec::new();
    let Some((slot, lists)) = open(state, tip)? else {
        return Ok(undecided);
    };
    let attestations: Vec<&Attestation> = messages.iter().filter_map(attestation).collect();
    let said = aggregate::by_leg(&attestations, aggregate::leg_of);
    for scheduled in slot.bundles.values() {
        match aggregate::decide(&slot, scheduled, &said, &lists, state)? {
            Decision::Item(_) | Decision::Never => {}
            Decision::Open(missing) => undecided.push(missing),
        }
    }
    Ok(undecided)
}

/// The slots that open after `tip`, if any bundle is scheduled for them, and the lists they open with.
fn open<S: StateRead>(state: &S, tip: Height) -> Result<Option<(Slot, Lists)>, StoreError> {
    if state.read::<Vec<Hash>>(&Key::Scheduled)?.is_none() {
        return Ok(None);
    }
    let height = Height::new(tip.get().saturating_add(1));
    let last = state.last_header()?;
    let mut delta = StateDelta::new(state);
    // When the block is proposed matters only for what it closes.
    let lists = Lists::open(height, HeaderTime::default(), &last, &mut delta)?;
    let slot = Slot::open(height, &last, &mut delta)?;
    Ok(Some((slot, lists)))
}

fn attestation(message: &VerifiedMessage) -> Option<&Attestation> {
    match message.message() {
        AttesterMessage::Attestation(attestation) => Some(attestation),
        AttesterMessage::Outcome(_) => None,
    }
}

/// Whether a mempool should hold a message: it is from somebody who has a vote, on a leg that is
/// scheduled for the height after `tip`, or on one whose outcome is waited for.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn is_wanted<S: StateRead>(
    state: &S,
    message: &AttesterMessage,
    tip: Height,
) -> Result<bool, StoreError> {
    let (bundle_id, rollup_id) = message.leg();
    let next = Height::new(tip.get().saturating_add(1));
    let record: Option<BundleRecord> = state.read(&Key::Bundle(bundle_id))?;
    let rollup = state.rollup(rollup_id)?;
    let (Some(record), Some(rollup)) = (record, rollup) else {
        return Ok(false);
    };
    let place = record
        .legs
        .iter()
        .position(|leg| leg.rollup_id == rollup_id);
    match message {
        AttesterMessage::Attestation(attestation) => {
            let (ballot, last) = (&attestation.ballot, state.last_header()?);
            let Some(config) = rules::config_at(&rollup, next) else {
                return Ok(false);
            };
            let epoch = config.attesters.0.as_ref().map(|set| set.epoch);
            let now = record.status == BundleStatus::Scheduled(next) && place.is_some();
            let pinned = (ballot.pin.height, ballot.pin.hash) == (tip, last.hash);
            if !now || !pinned || epoch != Some(ballot.epoch) {
                return Ok(false);
            }
            if rules::voters(&config, state)?.contains(&attestation.attester) {
                return Ok(true);
            }
            is_extra(state, bundle_id, &attestation.attester)
        }
        AttesterMessage::Outcome(vote) => {
            let release = record.release.as_ref();
            let leg = release.and_then(|release| release.legs.get(place?));
            let waits = record.status == BundleStatus::Released
                && leg.is_some_and(|leg| {
                    !leg.confirmed && leg.block_number == vote.executed.block_number
                });
            Ok(waits && rules::voters(&rollup.config, state)?.contains(&vote.attester))
        }
    }
}

/// Whether a message may be wanted once this node has the next heights: it is from somebody who has a
/// vote, on a leg that others have seen scheduled, or released.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn is_early<S: StateRead>(
    state: &S,
    message: &AttesterMessage,
    tip: Height,
) -> Result<bool, StoreError> {
    let (bundle_id, rollup_id) = message.leg();
    let record: Option<BundleRecord> = state.read(&Key::Bundle(bundle_id))?;
    let touched = |record: &BundleRecord| record.legs.iter().any(|leg| leg.rollup_id == rollup_id);
    let Some(record) = record.filter(touched) else {
        return Ok(false);
    };
    match message {
        AttesterMessage::Attestation(attestation) => {
            let pinned = attestation.ballot.pin.height.get();
            let ahead = pinned.saturating_sub(tip.get());
            if !(1..=MAX_AHEAD).contains(&ahead) || !record.status.is_live() {
                return Ok(false);
            }
            let opening = Height::new(pinned.saturating_add(1));
            let attester = &attestation.attester;
            Ok(has_vote(state, rollup_id, attester, opening)?
                || is_extra(state, bundle_id, attester)?)
        }
        AttesterMessage::Outcome(vote) => {
            let next = Height::new(tip.get().saturating_add(1));
            let soon = record.status == BundleStatus::Scheduled(next);
            Ok(soon && has_vote(state, rollup_id, &vote.attester, next)?)
        }
    }
}

/// Whether an attestation led to a release whose outcome is waited for: what its attester says then
/// may contradict it.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn is_bound<S: StateRead>(state: &S, attestation: &Attestation) -> Result<bool, StoreError> {
    let ballot = &attestation.ballot;
    let record: Option<BundleRecord> = state.read(&Key::Bundle(ballot.bundle_id))?;
    let released = record.filter(|record| record.status == BundleStatus::Released);
    let release = released.and_then(|record| record.release);
    Ok(attestation.commits() && release.is_some_and(|release| release.pin == ballot.pin))
}

/// Whether an attester of a rollup has a vote at `height`.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn has_vote<S: StateRead>(
    state: &S,
    rollup_id: RollupId,
    attester: &PublicKey,
    height: Height,
) -> Result<bool, StoreError> {
    let rollup = state.rollup(rollup_id)?;
    let Some(config) = rollup.and_then(|rollup| rules::config_at(&rollup, height)) else {
        return Ok(false);
    };
    Ok(rules::voters(&config, state)?.contains(attester))
}

fn is_extra<S: StateRead>(state: &S, bundle_id: Hash, key: &PublicKey) -> Result<bool, StoreError> {
    let bundle: Option<AtomicBundle> = state.read(&Key::BundleBody(bundle_id))?;
    Ok(bundle.is_some_and(|bundle| bundle.terms().extra_attesters.contains(key)))
}
