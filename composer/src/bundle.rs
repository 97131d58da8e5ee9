//! Which transactions ride together: pure, so that a test needs no network.

use std::collections::BTreeMap;

use counterpoint_core::{
    action::{Action, SubmitData, SubmitDataError},
    primitive::RollupId,
};

use crate::queue::Item;

/// Most bytes of all items of a batch; with its envelope it stays below a transaction's limit.
pub(crate) const MAX_BATCH_BYTES: usize = 900_000;

/// One sequencer transaction for items of several rollups: each rollup's items in the order in
/// which they were acknowledged, so that no sender's transactions change places.
///
/// # Errors
/// [`SubmitDataError`] if an item could never be ordered; intake does not let such items in.
pub(crate) fn actions(items: &[Item]) -> Result<Vec<Action>, SubmitDataError> {
    let mut rollups: BTreeMap<RollupId, Vec<bytes::Bytes>> = BTreeMap::new();
    for item in items {
        rollups
            .entry(item.rollup)
            .or_default()
            .push(item.raw.clone());
    }
    let submit = |(rollup, items)| Ok(Action::SubmitData(SubmitData::new(rollup, items)?));
    rollups.into_iter().map(submit).collect()
}

/// Cuts a batch where a rollup's items would pass what one action carries.
#[must_use]
pub(crate) fn cut(items: Vec<Item>) -> Vec<Item> {
    let mut counts: BTreeMap<RollupId, usize> = BTreeMap::new();
    let fits = |item: &Item| {
        let count = counts.entry(item.rollup).or_default();
        *count += 1;
        *count <= SubmitData::MAX_ITEMS
    };
    items.into_iter().take_while(fits).collect()
}
