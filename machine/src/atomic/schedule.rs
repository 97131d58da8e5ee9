//! Which bundles get the slots that open next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use counterpoint_core::{
    atomic::AtomicBundle,
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
    state::{AbortReason, BundleRecord, BundleStatus, QueuedBundle, Table},
};

use super::{life, rules};
use crate::{
    lists::Lists,
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError, decode},
};

/// Heights after which a release that attesters have not confirmed counts as unconfirmed.
const CONFIRM_HEIGHTS: u64 = 600;

/// What the end of a block does to bundles: old ones end, and those whose rollups all open at the
/// next height are scheduled for it. `now` is the time of the block, in seconds.
pub(crate) fn close<S: StateRead>(
    height: Height,
    now: u64,
    lists: &Lists,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    life::expire(now, delta)?;
    give_up_waiting(height, delta)?;
    schedule(height, now, lists, delta)
}

/// Releases that are old enough are waited for no longer.
fn give_up_waiting<S: StateRead>(
    height: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let Some(released) = height.get().checked_sub(CONFIRM_HEIGHTS) else {
        return Ok(());
    };
    let key = Key::ReleasedAt(Height::new(released));
    let Some(bundles) = delta.read::<Vec<Hash>>(&key)? else {
        return Ok(());
    };
    delta.delete(&key);
    for id in bundles {
        let mut record = delta.bundle(id)?;
        if record.status == BundleStatus::Released {
            record.status = BundleStatus::Unconfirmed;
            delta.put(&Key::Bundle(id), &record)?;
        }
    }
    Ok(())
}

fn schedule<S: StateRead>(
    height: Height,
    now: u64,
    lists: &Lists,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let closing: BTreeSet<RollupId> = lists.closing().collect();
    if closing.is_empty() {
        return Ok(());
    }
    let next = Height::new(height.get().saturating_add(1));
    let mut configs: BTreeMap<RollupId, Option<RollupConfig>> = BTreeMap::new();
    let mut busy = BTreeSet::new();
    let mut scheduled = Vec::new();
    for (_, _, id) in candidates(&closing, delta)? {
        if closing.len().saturating_sub(busy.len()) < AtomicBundle::MIN_LEGS {
            break; // Nobody's rollups are all free any more.
        }
        let mut record = delta.bundle(id)?;
        let free = |id: &RollupId| closing.contains(id) && !busy.contains(id);
        if !record.legs.iter().all(|leg| free(&leg.rollup_id)) {
            continue;
        }
        if !(record.valid_from..=record.valid_until).contains(&now) {
            continue;
        }
        if !all_can(&record, next, &mut configs, delta)? {
            // It would keep others out of the queues, and never pay for a slot.
            life::finish(id, record, AbortReason::AttestersOffline, delta)?;
            continue;
        }
        busy.extend(record.legs.iter().map(|leg| leg.rollup_id));
        record.status = BundleStatus::Scheduled(next);
        delta.put(&Key::Bundle(id), &record)?;
        scheduled.push(id);
    }
    if !scheduled.is_empty() {
        scheduled.sort();
        delta.put(&Key::Scheduled, &scheduled)?;
    }
    Ok(())
}

/// Bundles in the queue of a rollup that is about to open, each once, in the order in which they are
/// scheduled.
fn candidates<S: StateRead>(
    closing: &BTreeSet<RollupId>,
    delta: &StateDelta<'_, S>,
) -> Result<BTreeSet<(Reverse<u128>, Height, Hash)>, StoreError> {
    let mut candidates = BTreeSet::new();
    for (key, value) in delta.scan(&[Table::QueuedBundles as u8])? {
        let (rollup_id, id) = life::queue_key(&key)?;
        if closing.contains(&rollup_id) {
            let place: QueuedBundle = decode(&key, &value)?;
            candidates.insert((Reverse(place.tip_per_leg), place.height, id));
        }
    }
    Ok(candidates)
}

/// Whether every rollup can take its leg at `next`, under the configuration of then.
fn all_can<S: StateRead>(
    record: &BundleRecord,
    next: Height,
    configs: &mut BTreeMap<RollupId, Option<RollupConfig>>,
    delta: &StateDelta<'_, S>,
) -> Result<bool, StoreError> {
    for leg in &record.legs {
        let id = leg.rollup_id;
        let config = match configs.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let rollup = delta.rollup(id)?;
                unknown.insert(rollup.and_then(|rollup| rules::config_at(&rollup, next)))
            }
        };
        let Some(config) = config else {
            return Ok(false);
        };
        if !rules::fits(leg, config) || !rules::has_quorum(config, delta)? {
            return Ok(false);
        }
    }
    Ok(true)
}
