//! Which transactions ride together: pure, so that a test needs no network.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitData, SubmitDataError},
    primitive::RollupId,
    registry::RollupConfig,
    transaction::MAX_ACTIONS,
};

use crate::queue::Item;

/// Most bytes of all items of a batch; with its envelope it stays below a transaction's limit.
const MAX_BATCH_BYTES: usize = 900_000;

/// What one batch may hold of a rollup: a batch that passes the rollup's share of a block would
/// never be included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    bytes: usize,
    items: usize,
}

/// The shares of all rollups that are served.
pub(crate) type Shares = BTreeMap<RollupId, Share>;

impl Share {
    /// The share that a rollup's configuration allows.
    #[must_use]
    pub(crate) fn of(config: &RollupConfig) -> Self {
        let bytes = usize::try_from(config.max_bytes_per_block).unwrap_or(usize::MAX);
        let items = usize::try_from(config.max_items_per_block).unwrap_or(usize::MAX);
        Self {
            bytes: bytes.min(MAX_BATCH_BYTES),
            items: items.min(SubmitData::MAX_ITEMS),
        }
    }

    /// Takes an item out of the share, if there is room for it.
    fn take(&mut self, bytes: usize) -> bool {
        match (self.bytes.checked_sub(bytes), self.items.checked_sub(1)) {
            (Some(bytes), Some(items)) => {
                *self = Self { bytes, items };
                true
            }
            _ => {
                // Later ones must not overtake the one that found no room.
                *self = Self { bytes: 0, items: 0 };
                false
            }
        }
    }
}

/// Chooses a batch from what waits, oldest first. A rollup whose share is full waits for the next
/// one; so do rollups that are not served any more.
#[must_use]
pub(crate) fn fill<'a>(waiting: impl Iterator<Item = &'a Item>, shares: &Shares) -> Vec<Item> {
    let (mut left, mut batch) = (BTreeMap::new(), Vec::new());
    let mut room = MAX_BATCH_BYTES;
    for item in waiting {
        let Some(share) = shares.get(&item.rollup) else {
            continue;
        };
        if left.len() == MAX_ACTIONS && !left.contains_key(&item.rollup) {
            continue;
        }
        let Some(rest) = room.checked_sub(item.raw.len()) else {
            break;
        };
        let share = left.entry(item.rollup).or_insert(*share);
        if share.take(item.raw.len()) {
            room = rest;
            batch.push(item.clone());
        }
    }
    batch
}

/// One sequencer transaction for items of several rollups: each rollup's items in the order in
/// which they were acknowledged, so that no sender's transactions change places.
///
/// # Errors
/// [`SubmitDataError`] if an item could never be ordered; intake does not let such items in.
pub(crate) fn actions(items: &[Item]) -> Result<Vec<Action>, SubmitDataError> {
    let mut rollups: BTreeMap<RollupId, Vec<Bytes>> = BTreeMap::new();
    for item in items {
        rollups
            .entry(item.rollup)
            .or_default()
            .push(item.raw.clone());
    }
    let submit = |(rollup, items)| Ok(Action::SubmitData(SubmitData::new(rollup, items)?));
    rollups.into_iter().map(submit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::testing::item;

    fn share(bytes: usize, items: usize) -> Share {
        Share { bytes, items }
    }

    /// Which of the items with these rollups, one of 110 bytes or so each, ride together.
    #[track_caller]
    fn check(rollups: &[&str], shares: &[(&str, Share)], expect: &[u64]) {
        let named = |(name, share): &(&str, Share)| (RollupId::from_name(name), *share);
        let shares: Shares = shares.iter().map(named).collect();
        let items: Vec<Item> = (0..)
            .zip(rollups)
            .map(|(seq, rollup)| item(seq, RollupId::from_name(rollup)))
            .collect();
        let batch = fill(items.iter(), &shares);
        let seqs: Vec<u64> = batch.iter().map(|item| item.seq).collect();
        assert_eq!(seqs, expect);
        assert!(actions(&batch).is_ok());
    }

    #[test]
    fn a_full_rollup_waits_and_others_go_on() {
        let all = share(10_000, 10);
        check(&["a", "b", "a"], &[("a", all), ("b", all)], &[0, 1, 2]);
        check(
            &["a", "a", "b", "a", "b"],
            &[("a", share(10_000, 1)), ("b", all)],
            &[0, 2, 4],
        );
        let one = item(0, RollupId::from_name("a")).raw.len();
        check(&["a", "a"], &[("a", share(one, 10))], &[0]);
        check(&["a", "a"], &[("a", share(one - 1, 10))], &[]);
    }

    #[test]
    fn rollups_that_are_not_served_wait() {
        check(&["gone", "a"], &[("a", share(10_000, 10))], &[1]);
    }

    #[test]
    fn a_batch_stays_below_the_limit_of_a_transaction() {
        let served = share(usize::MAX, usize::MAX);
        let rollup = RollupId::from_name("a");
        let mut large = item(0, rollup);
        large.raw = Bytes::from(vec![1; SubmitData::MAX_ITEM_BYTES]);
        let waiting = vec![large; 20];
        let batch = fill(waiting.iter(), &Shares::from([(rollup, served)]));
        assert_eq!(batch.len(), MAX_BATCH_BYTES / SubmitData::MAX_ITEM_BYTES);
    }
}
