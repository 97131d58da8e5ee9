//! What callers may make the composer pay for bundles. Pure: time is an argument.

use std::time::{Duration, Instant};

use counterpoint_core::{
    action::RevealLegs, atomic::AtomicBundle, fees::FeeParams, primitive::Amount,
};

use crate::rpc::{Meter, Payer};

/// Time over which what was spent is forgotten.
const HOUR: Duration = Duration::from_secs(3_600);
/// Most bytes of a transaction beside its action.
const ENVELOPE_BYTES: u64 = 512;

/// What inclusion costs.
#[derive(Clone, Debug)]
pub(super) struct Prices {
    pub(super) fees: FeeParams,
    /// Base units per byte in the next block.
    pub(super) base_fee: u64,
    /// Most base units per byte.
    pub(super) max_price: u64,
}

/// What a transaction costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Whatever the base fee is.
    flat: u64,
    /// What the base fee counts.
    bytes: u64,
}

impl Prices {
    /// What sealing a bundle costs, without tips.
    pub(super) fn seal(&self, bundle: &AtomicBundle) -> Cost {
        let fees = &self.fees;
        let legs = bundle.terms().legs.len() as u64;
        let flat = fees
            .bundle_fee
            .saturating_add(fees.leg_fee.saturating_mul(legs));
        let seals = fees.seal_fee.saturating_mul(bundle.seals() as u64);
        self.cost(flat.saturating_add(seals), bundle.bytes_len())
    }

    /// What revealing legs costs.
    pub(super) fn reveal(&self, legs: &RevealLegs) -> Cost {
        self.cost(self.fees.action_fee, legs.bytes_len())
    }

    fn cost(&self, flat: u64, bytes: u64) -> Cost {
        let kept = self.fees.bundle_byte_fee.saturating_mul(bytes);
        Cost {
            flat: flat.saturating_add(kept),
            bytes: bytes.saturating_add(ENVELOPE_BYTES),
        }
    }

    /// About what is paid, if blocks become a little fuller.
    pub(super) fn about(&self, cost: Cost) -> u128 {
        let price = self.base_fee.saturating_mul(2).min(self.max_price);
        u128::from(cost.flat) + u128::from(price) * u128::from(cost.bytes)
    }

    /// The most that may be paid, whatever prices do until it is in a block. Flat fees may double
    /// meanwhile.
    pub(super) fn max_fee(&self, cost: Cost) -> Amount {
        let carried = u128::from(self.max_price) * u128::from(cost.bytes);
        Amount::new(2 * u128::from(cost.flat) + carried)
    }

    /// Whether everything waits until it becomes cheaper.
    pub(super) fn too_dear(&self) -> bool {
        self.base_fee > self.max_price
    }
}

/// What every caller has spent, which it forgets at a steady rate.
#[derive(Debug)]
pub(super) struct Budget {
    per_hour: u64,
    spent: Meter,
}

impl Budget {
    pub(super) fn new(per_hour: u64) -> Self {
        Self {
            per_hour,
            spent: Meter::default(),
        }
    }

    /// Counts what is spent on a caller's account, unless it is more than it may; then it is told how
    /// long to wait, or that waiting does not help.
    pub(super) fn spend(
        &mut self,
        payer: Payer,
        cost: u128,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        let per_hour = u128::from(self.per_hour);
        if cost > per_hour {
            return Err(None);
        }
        let nanos = HOUR.as_nanos().saturating_mul(cost) / per_hour.max(1);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.spent.take(payer, time, HOUR, now).map_err(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_its_hour_back_in_an_hour_and_nobody_elses() {
        let (mut budget, start) = (Budget::new(1_000), Instant::now());
        let mut spend = |caller: &str, cost, secs| {
            let now = start + Duration::from_secs(secs);
            budget.spend(Payer::Key(caller.into()), cost, now)
        };
        assert_eq!(spend("one", 1_001, 0), Err(None));
        assert_eq!(spend("one", 1_000, 0), Ok(()));
        assert_eq!(spend("one", 100, 0), Err(Some(Duration::from_secs(360))));
        assert_eq!(spend("two", 1_000, 0), Ok(()));
        assert_eq!(spend("one", 100, 359), Err(Some(Duration::from_secs(1))));
        assert_eq!(spend("one", 100, 360), Ok(()));
        assert_eq!(spend("one", 1_000, 8_000), Ok(()));
        assert_eq!(Budget::new(0).spend(Payer::Rest, 1, start), Err(None));
    }
}
