//! The unfinished transactions of one sender to one rollup, by nonce: pure, and cheap to change.
//!
//! ```text
//! nonce   3    4    5    6    7    8    9
//!         ├─── chain ────┤    ·    ├────┤
//!       floor            until     parked, since nonce 6 is missing
//! ```
//! The chain runs from the sender's executed nonce to the first one that is missing or delayed. Only
//! what is in it may go into a batch; what lies behind the gap is parked.

use std::collections::BTreeMap;

use alloy_primitives::U256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lane {
    entries: BTreeMap<u64, Entry>,
    /// The greatest executed nonce that anybody told of.
    floor: u64,
    /// The end of the chain: the first nonce from the floor on that is missing or delayed.
    until: u64,
    /// The most that the entries below `until` can cost.
    cost: U256,
    /// How many entries lie below `until`.
    chained: usize,
    /// How many entries are in batches.
    batched: usize,
}

/// One transaction of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// The most that it can cost its sender, in wei.
    pub(super) cost: U256,
    pub(super) standing: Standing,
}

/// Where an unfinished transaction stands, as far as its lane must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Being written to the disk.
    Writing,
    /// To be batched once the chain reaches it.
    Waiting,
    /// Was skipped, and waits for the cause to pass.
    Delayed,
    /// In a batch whose inclusion is not verified.
    Batched,
    /// In a verified list.
    Sequenced,
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The sender's executed nonce, as far as anybody told.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// How many wait behind a gap.
    pub(super) fn parked(&self) -> usize {
        self.entries.len() - self.chained
    }

    /// The nonce that the parked ones wait for.
    pub(super) fn missing(&self) -> u64 {
        self.until
    }

    /// Whether a gap lies before a nonce.
    pub(super) fn is_parked(&self, nonce: u64) -> bool {
        nonce >= self.until
    }

    /// Whether a new transaction would be parked, `floor` being the sender's executed nonce.
    pub(super) fn would_park(&self, nonce: u64, floor: u64) -> bool {
        nonce > self.pending_nonce(floor)
    }

    pub(super) fn get(&self, nonce: u64) -> Option<Entry> {
        self.entries.get(&nonce).copied()
    }

    pub(super) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.entries.values().map(|entry| entry.seq)
    }

    /// The transactions behind the gap, the delayed one that may be its cause included.
    pub(super) fn behind(&self) -> impl Iterator<Item = u64> {
        self.entries.range(self.until..).map(|(_, entry)| entry.seq)
    }

    /// The first transaction from a nonce on that may go into a batch, while none is in one: should
    /// that batch fail, later ones would be ordered before earlier ones.
    pub(super) fn next_waiting(&self, from: u64) -> Option<(u64, u64)> {
        if self.batched > 0 || from >= self.until {
            return None;
        }
        let mut chain = self.entries.range(from..self.until);
        let stop = |standing| matches!(standing, Standing::Waiting | Standing::Writing);
        let (nonce, entry) = chain.find(|(_, entry)| stop(entry.standing))?;
        (entry.standing == Standing::Waiting).then_some((*nonce, entry.seq))
    }

    /// The nonce after those that are here without a gap, from `from` on.
    pub(super) fn pending_nonce(&self, from: u64) -> u64 {
        let from = from.max(self.floor);
        let mut next = if from <= self.until { self.until } else { from };
        while self.entries.contains_key(&next) {
            next = next.saturating_add(1);
        }
        next
    }

    /// The most that the chain from `from` on can cost.
    pub(super) fn pending_cost(&self, from: u64) -> U256 {
        let below = self.entries.range(..from.min(self.until));
        let below = below.map(|(_, entry)| entry.cost);
        below.fold(self.cost, U256::wrapping_sub)
    }

    /// The sender's nonce is `floor` by now.
    pub(super) fn raise(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while self.until < self.floor {
            // The entries, not every number between.
            let next = self.entries.range(self.until..self.floor).next();
            match next.map(|(nonce, entry)| (*nonce, entry.cost)) {
                Some((nonce, cost)) => self.chain(nonce, cost),
                None => self.until = self.floor,
            }
        }
        self.advance();
    }

    /// Puts a transaction into its nonce's place.
    pub(super) fn insert(&mut self, nonce: u64, entry: Entry) {
        if let Some(old) = self.entries.get(&nonce).copied() {
            self.remove(nonce, old.seq);
        }
        self.entries.insert(nonce, entry);
        self.batched += usize::from(entry.standing == Standing::Batched);
        if nonce < self.until {
            self.cost = self.cost.wrapping_add(entry.cost);
            self.chained += 1;
        }
        self.advance();
    }

    /// Takes a transaction out, if the place is still its own.
    pub(super) fn remove(&mut self, nonce: u64, seq: u64) {
        let Some(entry) = self.get(nonce).filter(|entry| entry.seq == seq) else {
            return;
        };
        if nonce < self.floor {
            self.unchain(entry.cost);
        } else {
            self.retreat(nonce);
        }
        self.batched -= usize::from(entry.standing == Standing::Batched);
        self.entries.remove(&nonce);
    }

    /// A transaction stands elsewhere now.
    pub(super) fn set(&mut self, nonce: u64, seq: u64, standing: Standing) {
        let Some(entry) = self.entries.get_mut(&nonce).filter(|it| it.seq == seq) else {
            return;
        };
        let before = std::mem::replace(&mut entry.standing, standing);
        self.batched += usize::from(standing == Standing::Batched);
        self.batched -= usize::from(before == Standing::Batched);
        if standing == Standing::Delayed && (self.floor..self.until).contains(&nonce) {
            self.retreat(nonce);
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(entry) = self.entries.get(&self.until) {
            if entry.standing == Standing::Delayed {
                return;
            }
            self.chain(self.until, entry.cost);
        }
    }

    /// Ends the chain before a nonce.
    fn retreat(&mut self, until: u64) {
        if until >= self.until {
            return;
        }
        while let Some((nonce, entry)) = self.entries.range(until..self.until).next_back() {
            let (nonce, cost) = (*nonce, entry.cost);
            self.unchain(cost);
            self.until = nonce;
        }
        self.until = until;
    }

    fn chain(&mut self, nonce: u64, cost: U256) {
        self.cost = self.cost.wrapping_add(cost);
        self.chained += 1;
        self.until = nonce.saturating_add(1);
    }

    fn unchain(&mut self, cost: U256) {
        self.cost = self.cost.wrapping_sub(cost);
        self.chained -= 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a lane says, found out the slow way.
    fn check(lane: &Lane) {
        let mut until = lane.floor;
        let is_chained = |nonce| {
            let entry = lane.get(nonce);
            entry.is_some_and(|entry| entry.standing != Standing::Delayed)
        };
        while is_chained(until) {
            until += 1;
        }
        let chain = || lane.entries.range(..until);
        let cost = chain().map(|(_, entry)| entry.cost);
        assert_eq!(lane.until, until);
        assert_eq!(lane.chained, chain().count());
        assert_eq!(lane.cost, cost.fold(U256::ZERO, U256::wrapping_add));
        let batched = |entry: &&Entry| entry.standing == Standing::Batched;
        assert_eq!(lane.batched, lane.entries.values().filter(batched).count());
    }

    fn standing() -> impl Strategy<Value = Standing> {
        prop::sample::select(vec![
            Standing::Writing,
            Standing::Waiting,
            Standing::Delayed,
            Standing::Batched,
            Standing::Sequenced,
        ])
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_slow_look(
            steps in prop::collection::vec((0..4_u8, 0..12_u64, standing()), 0..60),
        ) {
            let mut lane = Lane::default();
            for (seq, (step, nonce, standing)) in (0_u64..).zip(steps) {
                let held = lane.get(nonce).map_or(0, |entry| entry.seq);
                match step {
                    0 => lane.raise(nonce / 2),
                    1 => lane.remove(nonce, held),
                    2 => lane.set(nonce, held, standing),
                    _ => {
                        let cost = U256::from(seq + 1);
                        lane.insert(nonce, Entry { seq, cost, standing });
                    }
                }
                check(&lane);
            }
        }
    }

    #[test]
    fn the_last_nonce_ends_the_chain() {
        let mut lane = Lane::default();
        lane.raise(u64::MAX - 1);
        for nonce in [u64::MAX - 1, u64::MAX - 2] {
            let standing = Standing::Waiting;
            lane.insert(
                nonce,
                Entry {
                    seq: nonce,
                    cost: U256::from(1),
                    standing,
                },
            );
        }
        assert_eq!(lane.pending_nonce(u64::MAX - 1), u64::MAX);
        assert_eq!(lane.next_waiting(0), Some((u64::MAX - 2, u64::MAX - 2)));
    }
}
