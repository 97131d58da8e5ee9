//! What batches may cost, and how long the account lasts. Pure: time is an argument.

use std::time::Instant;

use counterpoint_core::{fees::FeeParams, primitive::Amount};

/// What an item weighs beside its bytes.
const ITEM_WEIGHT: u64 = 32;
/// Most bytes of an item's length in a transaction.
const LENGTH_BYTES: u64 = 4;
/// Most bytes of an action without its items.
const ACTION_BYTES: u64 = 64;
/// Most bytes of a transaction without its actions.
const ENVELOPE_BYTES: u64 = 512;
/// What a batch of the greatest size weighs, about.
const FULL_WEIGHT: u64 = 1_000_000;
/// Batches of the greatest size that the account must be able to pay for, or somebody is called.
const MIN_BATCHES: u128 = 100;
/// Batches of the greatest size that are kept back: intake stops before, so that what was taken in
/// can be paid for.
const RESERVE_BATCHES: u128 = 10;
/// Minutes that the account must last at the present rate, or somebody is called.
const MIN_MINUTES: f64 = 60.0;
/// Seconds over which the rate of spending is averaged.
const MEMORY_SECS: f64 = 300.0;

/// What inclusion costs now, and how much it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prices {
    /// Base units per byte in the next block.
    pub(crate) base_fee: u64,
    /// The least that the base fee can be; above it, blocks are fuller than they should be.
    pub(crate) min_base_fee: u64,
    /// Base units per action.
    pub(crate) action_fee: u64,
    /// Most base units per byte, tip included, that a batch may cost.
    pub(crate) max_price: u64,
}

/// What a batch asks of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Actions: one per rollup.
    pub(crate) actions: u64,
    /// Items.
    pub(crate) items: u64,
    /// Bytes of the items.
    pub(crate) bytes: u64,
}

impl Weight {
    /// What is paid for by the byte, at the most.
    fn bytes_paid(self) -> u64 {
        let items = self.items.saturating_mul(ITEM_WEIGHT + LENGTH_BYTES);
        let actions = self.actions.saturating_mul(ACTION_BYTES);
        let all = self.bytes.saturating_add(items).saturating_add(actions);
        all.saturating_add(ENVELOPE_BYTES)
    }
}

impl Prices {
    /// Today's prices under a bound.
    #[must_use]
    pub(crate) fn new(base_fee: u64, fees: &FeeParams, max_price: u64) -> Self {
        Self {
            base_fee,
            min_base_fee: fees.min_base_fee,
            action_fee: fees.action_fee,
            max_price,
        }
    }

    /// Whether batches wait until it becomes cheaper.
    #[must_use]
    pub(crate) fn too_dear(&self) -> bool {
        self.base_fee > self.max_price
    }

    /// The most that a batch may pay, whatever prices do until it is in a block. Flat fees may double
    /// meanwhile.
    #[must_use]
    pub(crate) fn max_fee(&self, weight: Weight) -> Amount {
        let flat = u128::from(self.action_fee)
            .saturating_mul(u128::from(weight.actions))
            .saturating_mul(2);
        let bytes = u128::from(self.max_price).saturating_mul(u128::from(weight.bytes_paid()));
        Amount::new(flat.saturating_add(bytes))
    }

    /// About what a batch costs in the next block.
    #[must_use]
    pub(crate) fn cost(&self, weight: Weight) -> u128 {
        let price = u128::from(self.base_fee.min(self.max_price));
        let flat = u128::from(self.action_fee).saturating_mul(u128::from(weight.actions));
        flat.saturating_add(price.saturating_mul(u128::from(weight.bytes_paid())))
    }

    /// A tip that takes the place of `tip` while blocks are full: twice as much, which is more than
    /// the tenth that a mempool asks for, within the bound. Nothing while there is room in blocks,
    /// since tips buy nothing then.
    #[must_use]
    pub(crate) fn raised(&self, tip: u64) -> Option<u64> {
        let most = self.max_price.saturating_sub(self.base_fee);
        let raised = tip.saturating_mul(2).max(1).min(most);
        let least = tip.saturating_add(tip.div_ceil(10).max(1));
        (self.base_fee > self.min_base_fee && raised >= least).then_some(raised)
    }

    fn batches(&self, count: u128) -> u128 {
        let weight = Weight {
            actions: 1,
            items: 0,
            bytes: FULL_WEIGHT,
        };
        self.cost(weight).saturating_mul(count)
    }

    /// Whether an account with this balance can pay for what waits and some more.
    #[must_use]
    pub(crate) fn affords(&self, balance: Amount, waiting: Weight) -> bool {
        let reserve = self.batches(RESERVE_BATCHES);
        balance.get() >= self.cost(waiting).saturating_add(reserve)
    }

    /// Why somebody should send the account more, before it runs dry.
    #[must_use]
    pub(crate) fn low(&self, balance: Amount, per_minute: f64) -> Option<String> {
        if balance.get() < self.batches(MIN_BATCHES) {
            let base_fee = self.base_fee;
            return Some(format!(
                "pays for fewer than {MIN_BATCHES} full batches at the base fee of {base_fee}"
            ));
        }
        let minutes = units(balance.get()) / per_minute;
        (minutes < MIN_MINUTES)
            .then(|| format!("lasts {minutes:.0} minutes at the present rate of spending"))
    }
}

/// How fast the account is spent: an average that forgets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spending {
    recent: f64,
    at: Option<Instant>,
}

impl Spending {
    /// A batch was paid for.
    pub(crate) fn paid(&mut self, cost: u128, now: Instant) {
        self.recent = self.left(now) + units(cost);
        self.at = Some(now);
    }

    /// Base units per minute.
    #[must_use]
    pub(crate) fn per_minute(&self, now: Instant) -> f64 {
        self.left(now) / MEMORY_SECS * 60.0
    }

    fn left(&self, now: Instant) -> f64 {
        let passed = self
            .at
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.recent * (-passed / MEMORY_SECS).exp()
    }
}

/// Base units as a number for averages and metrics.
#[expect(
    clippy::cast_precision_loss,
    reason = "nobody pays by what comes of it"
)]
#[must_use]
pub(crate) fn units(amount: u128) -> f64 {
    amount as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PRICES: Prices = Prices {
        base_fee: 8,
        min_base_fee: 8,
        action_fee: 1_000,
        max_price: 1_000,
    };

    fn at(base_fee: u64) -> Prices {
        Prices { base_fee, ..PRICES }
    }

    #[test]
    fn tips_are_paid_only_while_blocks_are_full_and_within_the_bound() {
        assert_eq!(PRICES.raised(0), None);
        let tips = std::iter::successors(Some(0), |tip| at(900).raised(*tip));
        assert_eq!(tips.collect::<Vec<_>>(), [0, 1, 2, 4, 8, 16, 32, 64, 100]);
        assert_eq!(at(1_000).raised(0), None);
        assert_eq!(at(5_000).raised(0), None);
        assert!(at(1_001).too_dear());
        assert!(!at(1_000).too_dear());
    }

    #[test]
    fn somebody_is_called_before_intake_stops() {
        let none = Weight {
            actions: 0,
            items: 0,
            bytes: 0,
        };
        let balance = |batches: u128| Amount::new(PRICES.batches(batches));
        assert_eq!(PRICES.low(balance(100), 0.0), None);
        let low = PRICES.low(balance(99), 0.0).unwrap();
        assert!(low.contains("fewer than 100 full batches"), "{low}");
        assert!(PRICES.affords(balance(99), none));
        assert!(PRICES.affords(balance(11), none));
        assert!(!PRICES.affords(balance(9), none));
        let waiting = Weight {
            actions: 1,
            items: 0,
            bytes: 20 * FULL_WEIGHT,
        };
        assert!(
            !PRICES.affords(balance(11), waiting),
            "what waits is paid first"
        );
        // Ten times the base fee is a tenth of the batches.
        assert!(at(80).low(balance(500), 0.0).is_some());
        let rate = units(balance(600).get()) / 30.0;
        let low = PRICES.low(balance(600), rate).unwrap();
        assert!(low.contains("lasts 30 minutes"), "{low}");
        assert_eq!(PRICES.low(balance(1_300), rate), None);
    }

    #[test]
    fn spending_is_forgotten_in_time() {
        let (mut spending, start) = (Spending::default(), Instant::now());
        assert!(spending.per_minute(start).abs() < f64::EPSILON);
        // A unit per second for an hour is 60 a minute.
        for second in 0..3_600 {
            spending.paid(1, start + Duration::from_secs(second));
        }
        let hour = start + Duration::from_secs(3_600);
        assert!((spending.per_minute(hour) - 60.0).abs() < 1.0);
        assert!(spending.per_minute(hour + Duration::from_secs(3_600)) < 0.01);
    }

    proptest! {
        #[test]
        fn what_a_batch_costs_is_within_what_it_may(
            base_fee in 0..2_000_u64, actions in 1..256_u64, items in 1..4_096_u64, bytes in 1..900_000_u64,
        ) {
            let (prices, weight) = (at(base_fee), Weight { actions, items, bytes });
            prop_assert!(prices.cost(weight) <= prices.max_fee(weight).get());
        }

        #[test]
        fn a_raised_tip_is_one_that_mempools_take(base_fee in 9..1_000_u64, tip in 0..1_000_u64) {
            if let Some(raised) = at(base_fee).raised(tip) {
                prop_assert!(raised >= tip + tip.div_ceil(10).max(1));
                prop_assert!(raised + base_fee <= 1_000);
            }
        }
    }
}
