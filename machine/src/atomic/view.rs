//! What attesters, their users and the mempool are told of bundles.

use bytes::Bytes;
use counterpoint_core::{
    atomic::{AtomicBundle, AttesterMessage, Ballot, LegEnv},
    primitive::Height,
    slot::HeaderTime,
    state::{BundleRecord, BundleStatus},
};

use super::{
    items::{Scheduled, Slot},
    rules::{self, Expected},
};
use crate::{
    lists::Lists,
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError},
};

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
    let height = Height::new(tip.get().saturating_add(1));
    let last = state.last_header()?;
    let mut delta = StateDelta::new(state);
    // When the block is proposed matters only for what it closes.
    let lists = Lists::open(height, HeaderTime::default(), &last, &mut delta)?;
    let slot = Slot::open(height, &last, &mut delta)?;
    let of = |scheduled: &Scheduled| {
        let legs = scheduled.record.legs.iter().zip(&scheduled.legs);
        let leg = |(leg, txs): (&counterpoint_core::state::LegRecord, &Vec<Bytes>)| {
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
    let (bundle_id, rollup_id) = match message {
        AttesterMessage::Attestation(attestation) => {
            (attestation.ballot.bundle_id, attestation.ballot.rollup_id)
        }
        AttesterMessage::Outcome(vote) => (vote.executed.bundle_id, vote.executed.rollup_id),
    };
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
            let bundle: Option<AtomicBundle> = state.read(&Key::BundleBody(bundle_id))?;
            let extras = bundle
                .iter()
                .flat_map(|bundle| &bundle.terms().extra_attesters);
            Ok(extras.into_iter().any(|key| *key == attestation.attester))
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
