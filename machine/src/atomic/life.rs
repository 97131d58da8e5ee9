//! A bundle's record, its place in queues, its money and its end.

use std::{cmp::Reverse, collections::BTreeSet};

use counterpoint_core::{
    primitive::{Amount, Hash, RollupId},
    state::{AbortReason, BundleEnds, BundleRecord, BundleStatus, QueuedBundle, Table},
};

use crate::state::{Key, ReadRecords, StateDelta, StateRead, StoreError, decode};

/// Most bundles of one rollup that wait.
const MAX_QUEUED: u32 = 64;
/// Most bundles whose last second is the same.
const MAX_ENDING: usize = 256;

/// Takes a bundle out of all queues.
fn dequeue<S: StateRead>(
    id: Hash,
    record: &BundleRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    for leg in &record.legs {
        let key = Key::QueuedBundle(leg.rollup_id, id);
        if delta.read::<QueuedBundle>(&key)?.is_none() {
            continue;
        }
        delta.delete(&key);
        let mut rollup = delta.atomic_rollup(leg.rollup_id)?;
        rollup.queued = rollup.queued.saturating_sub(1);
        delta.put(&Key::AtomicRollup(leg.rollup_id), &rollup)?;
    }
    Ok(())
}

/// Puts a bundle into the queues of all its rollups. Where one is full the bundle with the lowest
/// tip gives way, if it is lower. Otherwise gives the rollup whose queue has no room.
pub(crate) fn enqueue<S: StateRead>(
    id: Hash,
    record: &BundleRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<Result<(), RollupId>, StoreError> {
    let place = QueuedBundle {
        tip_per_leg: tip_per_leg(record),
        height: record.height,
    };
    for leg in &record.legs {
        if delta.atomic_rollup(leg.rollup_id)?.queued >= MAX_QUEUED {
            let Some((last, loser)) = last_in_queue(leg.rollup_id, delta)? else {
                return Ok(Err(leg.rollup_id));
            };
            if loser.tip_per_leg >= place.tip_per_leg {
                return Ok(Err(leg.rollup_id));
            }
            let loser = delta.bundle(last)?;
            finish(last, loser, AbortReason::Superseded, delta)?;
        }
        let mut rollup = delta.atomic_rollup(leg.rollup_id)?;
        rollup.queued = rollup.queued.saturating_add(1);
        delta.put(&Key::AtomicRollup(leg.rollup_id), &rollup)?;
        delta.put(&Key::QueuedBundle(leg.rollup_id, id), &place)?;
    }
    Ok(Ok(()))
}

fn tip_per_leg(record: &BundleRecord) -> u128 {
    let tip = record.tip_per_attempt.get();
    tip.checked_div(record.legs.len() as u128).unwrap_or(0)
}

/// The bundle that would be scheduled last.
fn last_in_queue<S: StateRead>(
    rollup_id: RollupId,
    delta: &StateDelta<'_, S>,
) -> Result<Option<(Hash, QueuedBundle)>, StoreError> {
    let prefix = [&[Table::QueuedBundles as u8], &rollup_id.as_bytes()[..]].concat();
    let mut last: Option<(Hash, QueuedBundle)> = None;
    for (key, value) in delta.scan(&prefix)? {
        let (_, id) = queue_key(&key)?;
        let place: QueuedBundle = decode(&key, &value)?;
        let rank =
            |id: Hash, place: &QueuedBundle| (place.tip_per_leg, Reverse((place.height, id)));
        if last.is_none_or(|(other, than)| rank(id, &place) < rank(other, &than)) {
            last = Some((id, place));
        }
    }
    Ok(last)
}

/// The bundles in a rollup's queue, in the order in which they are scheduled.
pub(crate) fn queue<S: StateRead>(state: &S, rollup_id: RollupId) -> Result<Vec<Hash>, StoreError> {
    let prefix = [&[Table::QueuedBundles as u8], &rollup_id.as_bytes()[..]].concat();
    let mut queued = BTreeSet::new();
    for (key, value) in state.scan(&prefix)? {
        let (_, id) = queue_key(&key)?;
        let place: QueuedBundle = decode(&key, &value)?;
        queued.insert((Reverse(place.tip_per_leg), place.height, id));
    }
    Ok(queued.into_iter().map(|(.., id)| id).collect())
}

/// Rollup and bundle of a key of the queue.
pub(super) fn queue_key(key: &[u8]) -> Result<(RollupId, Hash), StoreError> {
    let broken = || StoreError::corrupt(format!("queued bundle under key {key:02x?}"));
    let (rollup, bundle) = key
        .get(1..)
        .and_then(|ids| ids.split_first_chunk())
        .ok_or_else(broken)?;
    let bundle: [u8; 32] = bundle.try_into().map_err(|_| broken())?;
    Ok((RollupId::new(*rollup), Hash::new(bundle)))
}

/// Notes when a bundle ends at the latest; nothing if too many end then.
pub(crate) fn note_end<S: StateRead>(
    id: Hash,
    second: u64,
    now: u64,
    delta: &mut StateDelta<'_, S>,
) -> Result<Option<()>, StoreError> {
    let key = Key::Ending(second);
    let mut ending: Vec<Hash> = delta.read(&key)?.unwrap_or_default();
    if ending.len() >= MAX_ENDING {
        return Ok(None);
    }
    ending.push(id);
    delta.put(&key, &ending)?;
    let none = BundleEnds {
        next: now,
        waiting: 0,
    };
    let mut ends: BundleEnds = delta.read(&Key::BundleEnds)?.unwrap_or(none);
    ends.waiting = ends.waiting.saturating_add(1);
    delta.put(&Key::BundleEnds, &ends)?;
    Ok(Some(()))
}

/// Ends the bundles whose last second lies before `now`. Those that a block has no time for end in
/// the next ones; nothing schedules them meanwhile.
pub(super) fn expire<S: StateRead>(
    now: u64,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let Some(mut ends) = delta.read::<BundleEnds>(&Key::BundleEnds)? else {
        return Ok(());
    };
    if ends.next >= now {
        return Ok(());
    }
    let mut ended = 0_usize;
    while ends.next < now && ends.waiting > 0 && ended < MAX_ENDING {
        let key = Key::Ending(ends.next);
        let ending: Vec<Hash> = delta.read(&key)?.unwrap_or_default();
        if !ending.is_empty() {
            delta.delete(&key);
        }
        for id in &ending {
            let record = delta.bundle(*id)?;
            if record.status.is_live() {
                finish(*id, record, AbortReason::Expired, delta)?;
            }
        }
        ended = ended.saturating_add(ending.len());
        ends.waiting = ends.waiting.saturating_sub(ending.len() as u64);
        ends.next = ends.next.saturating_add(1);
    }
    if ends.waiting == 0 {
        delta.delete(&Key::BundleEnds);
    } else {
        delta.put(&Key::BundleEnds, &ends)?;
    }
    Ok(())
}

/// Ends a bundle that its submitter calls off.
pub(crate) fn cancel<S: StateRead>(
    id: Hash,
    record: BundleRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    finish(id, record, AbortReason::Cancelled, delta)
}

/// Ends a bundle that nothing of has run, and gives back the tips of the attempts that are left.
pub(super) fn finish<S: StateRead>(
    id: Hash,
    mut record: BundleRecord,
    reason: AbortReason,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let left = tips(&record, record.attempts_left);
    if left > Amount::ZERO {
        delta.unlock(record.submitter, left)?;
    }
    record.attempts_left = 0;
    record.status = BundleStatus::Aborted(reason);
    forget(id, &record, delta)?;
    delta.put(&Key::Bundle(id), &record)
}

/// Drops what nobody needs of a bundle that has ended or was released.
pub(super) fn forget<S: StateRead>(
    id: Hash,
    record: &BundleRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    dequeue(id, record, delta)?;
    delta.delete(&Key::BundleBody(id));
    delta.delete(&Key::BundleLegs(id));
    Ok(())
}

/// Burns the tip of an attempt that failed, and ends the bundle if it was the last.
pub(super) fn use_attempt<S: StateRead>(
    id: Hash,
    mut record: BundleRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    delta.burn_locked(record.tip_per_attempt)?;
    record.attempts_left = record.attempts_left.saturating_sub(1);
    if record.attempts_left == 0 {
        let reason = if record.answered {
            AbortReason::Attempts
        } else {
            AbortReason::AttestersOffline
        };
        return finish(id, record, reason, delta);
    }
    record.status = BundleStatus::Queued;
    delta.put(&Key::Bundle(id), &record)
}

/// What so many attempts cost.
pub(super) fn tips(record: &BundleRecord, attempts: u8) -> Amount {
    // The whole of all attempts was counted without overflow when the bundle was submitted.
    let tip = record.tip_per_attempt.get();
    Amount::new(tip.saturating_mul(attempts.into()))
}
