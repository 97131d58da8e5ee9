//! How nodes have served so far, and so which one is asked next. Time is an argument.

use std::time::{Duration, Instant};

/// First pause after a node was away or slow; it doubles with each failure in a row.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// First pause after a bad proof. A node is never given up for good: it may have been repaired, and
/// all that it can do is to be found out again.
const MIN_BAN: Duration = Duration::from_secs(60);
/// Longest such pause.
const MAX_BAN: Duration = Duration::from_secs(3_600);
/// Faults that a failure counts for; each good answer takes one back.
const FAILURE: u32 = 2;
/// Faults of a bad proof: any node that is merely unreliable is better.
const LIE: u32 = 1_000_000;

/// What one node has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The fewer, the sooner it is asked.
    faults: u32,
    /// Failures since the last good answer.
    failures: u32,
    pub(super) bad_proofs: u32,
    /// Put off after a failure until then; a good answer ends it.
    retry_at: Option<Instant>,
    /// Put off after a bad proof until then, whatever it answers.
    banned_until: Option<Instant>,
    /// Why it did not answer last time.
    pub(super) trouble: Option<String>,
    /// What it served last that does not hold.
    pub(super) bad_proof: Option<String>,
}

/// All nodes, in the operator's order.
#[derive(Clone, Debug)]
pub(super) struct Standings(Vec<Standing>);

impl Standings {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![Standing::default(); nodes])
    }

    /// The nodes, best first: those that need not be waited for, by their faults; then the others,
    /// the soonest first.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        let rank = |node: &usize| {
            let standing = self.0.get(*node);
            standing.map(|one| (one.wait(now), one.faults))
        };
        order.sort_by_key(rank); // Stable: the operator's order decides between equals.
        order
    }

    /// How long a node must be left alone.
    pub(super) fn wait(&self, node: usize, now: Instant) -> Duration {
        let standing = self.0.get(node);
        standing.map_or(Duration::ZERO, |one| one.wait(now))
    }

    /// A node gave a good answer.
    pub(super) fn served(&mut self, node: usize) {
        if let Some(one) = self.0.get_mut(node) {
            one.faults = one.faults.saturating_sub(1);
            (one.failures, one.retry_at, one.trouble) = (0, None, None);
        }
    }

    /// A node was away, slow, or had nothing to say.
    pub(super) fn failed(&mut self, node: usize, now: Instant, reason: String) {
        if let Some(one) = self.0.get_mut(node) {
            let pause = doubled(MIN_PAUSE, one.failures, MAX_PAUSE);
            one.faults = one.faults.saturating_add(FAILURE);
            one.failures = one.failures.saturating_add(1);
            one.retry_at = now.checked_add(pause);
            one.trouble = Some(reason);
        }
    }

    /// A node served a bad proof.
    pub(super) fn lied(&mut self, node: usize, now: Instant, reason: String) {
        if let Some(one) = self.0.get_mut(node) {
            let pause = doubled(MIN_BAN, one.bad_proofs, MAX_BAN);
            one.faults = one.faults.saturating_add(LIE);
            one.bad_proofs = one.bad_proofs.saturating_add(1);
            one.banned_until = now.checked_add(pause);
            one.bad_proof = Some(reason);
        }
    }

    pub(super) fn all(&self) -> &[Standing] {
        &self.0
    }
}

impl Standing {
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let until = self.retry_at.max(self.banned_until);
        until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// `first` doubled `times` times, at most `longest`.
pub(super) fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 2_u32.saturating_pow(times);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_order_holds_until_somebody_fails() {
        let now = Instant::now();
        let mut standings = Standings::new(3);
        assert_eq!(standings.order(now), [0, 1, 2]);
        standings.failed(0, now, "away".into());
        assert_eq!(standings.order(now), [1, 2, 0]);
        assert_eq!(standings.wait(0, now), MIN_PAUSE);
        let later = now + MIN_PAUSE;
        assert_eq!(standings.order(later), [1, 2, 0], "it has faults");
        standings.served(0);
        standings.served(0);
        assert_eq!(standings.order(now), [0, 1, 2]);
    }

    #[test]
    fn whoever_is_only_away_is_asked_again_soon() {
        let now = Instant::now();
        let mut standings = Standings::new(1);
        for pause in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            standings.failed(0, now, "away".into());
            assert_eq!(standings.wait(0, now), Duration::from_millis(pause));
        }
        standings.served(0);
        assert_eq!(standings.wait(0, now), Duration::ZERO);
        assert!(standings.all()[0].trouble.is_none());
    }

    #[test]
    fn a_liar_comes_last_for_long_and_is_remembered() {
        let now = Instant::now();
        let mut standings = Standings::new(2);
        standings.lied(0, now, "forged".into());
        standings.failed(0, now, "away".into());
        assert_eq!(
            standings.wait(0, now),
            MIN_BAN,
            "no failure makes it sooner"
        );
        for _ in 0..1_000 {
            standings.failed(1, now, "away".into());
        }
        assert_eq!(standings.order(now + MAX_BAN), [1, 0]);
        for _ in 0..100 {
            standings.lied(0, now, "forged again".into());
        }
        assert_eq!(standings.wait(0, now), MAX_BAN);
        standings.served(0);
        assert_eq!(
            standings.all()[0].bad_proof.as_deref(),
            Some("forged again")
        );
    }
}
