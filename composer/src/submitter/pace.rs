//! When the next batch begins. Pure.

use std::time::Duration;

use counterpoint_core::action::SubmitData;

use super::Weight;
use crate::bundle::MAX_BATCH_BYTES;

/// Time between the beginnings of two batches under light load, so that many transactions share one.
const LIGHT: Duration = Duration::from_millis(50);
/// Bytes of a batch from which on one to a block is enough.
const HEAVY_BYTES: u64 = MAX_BATCH_BYTES as u64 / 4;
/// Bytes of a batch that is as good as full.
const FULL_BYTES: u64 = MAX_BATCH_BYTES as u64 / 10 * 9;

/// How long after the beginning of the last batch the next one begins: soon while batches are small,
/// so that nobody waits; up to a block's `interval` as they grow, so that few large transactions carry
/// what many small ones would; and soon again once a batch cannot hold more.
#[must_use]
pub(super) fn spacing(last: Weight, interval: Duration) -> Duration {
    if last.bytes >= FULL_BYTES || last.items >= SubmitData::MAX_ITEMS as u64 {
        return LIGHT;
    }
    let rest = interval.saturating_sub(LIGHT);
    let heavy = u32::try_from(last.bytes.min(HEAVY_BYTES)).unwrap_or(u32::MAX);
    let most = u32::try_from(HEAVY_BYTES).unwrap_or(u32::MAX);
    LIGHT + rest.saturating_mul(heavy) / most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(bytes: u64, items: u64) -> u128 {
        let last = Weight {
            actions: 1,
            items,
            bytes,
        };
        spacing(last, Duration::from_millis(200)).as_millis()
    }

    #[test]
    fn batches_are_rarer_the_larger_they_are_until_they_are_full() {
        assert_eq!(after(0, 0), 50);
        assert_eq!(after(110, 1), 50);
        assert_eq!(after(112_500, 1_000), 125);
        assert_eq!(after(225_000, 2_000), 200);
        assert_eq!(after(800_000, 4_000), 200);
        assert_eq!(after(810_000, 4_000), 50);
        assert_eq!(after(450_000, 4_096), 50);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_a_block(bytes in 0..2_000_000_u64, millis in 0..10_000_u64) {
            let interval = Duration::from_millis(millis);
            let last = Weight { actions: 1, items: 1, bytes };
            prop_assert!(spacing(last, interval) <= interval.max(LIGHT));
        }
    }
}
