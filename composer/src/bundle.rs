//! Which transactions ride together: pure, so that a test needs no network.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use alloy_primitives::Address;
use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitData, SubmitDataError},
    primitive::RollupId,
    registry::RollupConfig,
    transaction::MAX_ACTIONS,
};

use crate::queue::Item;

/// Most bytes of all items of a batch; with its envelope it stays below a transaction's limit.
pub(crate) const MAX_BATCH_BYTES: usize = 900_000;
/// Bytes of a sender that go before others' rests: an eighth of a batch, and never less than one.
const SENDER_BYTES: usize = MAX_BATCH_BYTES / 8;

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

    /// The lesser of both in each part.
    #[must_use]
    pub(crate) fn min(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            items: self.items.min(other.items),
        }
    }

    /// Takes items out of the share, if there is room for all of them.
    fn take(&mut self, bytes: usize, items: usize) -> bool {
        match (self.bytes.checked_sub(bytes), self.items.checked_sub(items)) {
            (Some(bytes), Some(items)) => {
                *self = Self { bytes, items };
                true
            }
            _ => false,
        }
    }
}

/// A single transaction, or a bundle, of which all or nothing rides.
struct Group<'a> {
    /// Place in its rollup's line.
    at: usize,
    items: Vec<&'a Item>,
    bytes: usize,
}

/// Chooses a batch from what waits of each rollup, given oldest first: rollups get equal parts of it,
/// and what one does not use goes to the others; a sender with much is behind those with little. A
/// sender's transactions are taken in their order. Rollups without a share wait.
///
/// It looks no further than it must: at about a batch of each rollup.
#[must_use]
pub(crate) fn fill<'a, L>(
    waiting: impl IntoIterator<Item = (RollupId, L)>,
    shares: &Shares,
) -> Vec<Item>
where
    L: IntoIterator<Item = Vec<&'a Item>>,
{
    let served = waiting
        .into_iter()
        .filter_map(|(rollup, waiting)| Some((waiting, *shares.get(&rollup)?)));
    let mut lines = Vec::new();
    for (waiting, share) in served.take(MAX_ACTIONS) {
        let mut line = Line::new(share);
        for (at, items) in waiting.into_iter().enumerate() {
            let bytes = items.iter().map(|item| item.raw.len()).sum();
            line.offer(Group { at, items, bytes });
            if !line.is_open() {
                break;
            }
        }
        lines.push(line.into_groups());
    }
    let mut batch = share_out(lines);
    batch.sort_by_key(|group| group.at);
    let items = batch.into_iter().flat_map(|group| group.items);
    items.cloned().collect()
}

/// What a batch could take of one rollup.
struct Line<'a> {
    share: Share,
    /// The first of each sender, oldest first.
    first: Vec<Group<'a>>,
    /// What comes after them.
    rest: Vec<Group<'a>>,
    senders: HashMap<Address, Turn>,
    /// Bytes and items that senders have had for a first part.
    filled: Share,
}

/// What a sender has had.
#[derive(Clone, Copy, Default)]
struct Turn {
    bytes: usize,
    /// Whether the rest of it comes later.
    over: bool,
}

impl<'a> Line<'a> {
    fn new(share: Share) -> Self {
        Self {
            share,
            first: Vec::new(),
            rest: Vec::new(),
            senders: HashMap::new(),
            filled: share,
        }
    }

    /// Whether it could hold more first parts.
    fn is_open(&self) -> bool {
        self.filled.bytes > 0 && self.filled.items > 0
    }

    fn offer(&mut self, group: Group<'a>) {
        // A bundle comes as late as the last of its senders, and holds the others back.
        let mut over = false;
        for item in &group.items {
            let turn = self.senders.entry(item.sender).or_default();
            over |= turn.over || (turn.bytes > 0 && turn.bytes + group.bytes > SENDER_BYTES);
        }
        for item in &group.items {
            let turn = self.senders.entry(item.sender).or_default();
            turn.bytes += item.raw.len();
            turn.over = over;
        }
        if over {
            self.rest.push(group);
            return;
        }
        if !self.filled.take(group.bytes, group.items.len()) {
            (self.filled.bytes, self.filled.items) = (0, 0);
        }
        self.first.push(group);
    }

    /// In the order in which they may be taken, as far as the share goes.
    fn into_groups(self) -> VecDeque<Group<'a>> {
        let mut share = self.share;
        let all = self.first.into_iter().chain(self.rest);
        // Later ones must not overtake the one that finds no room.
        all.take_while(|group| share.take(group.bytes, group.items.len()))
            .collect()
    }
}

/// Takes from the rollup with the fewest bytes so far, again and again, until there is no room.
fn share_out(mut lines: Vec<VecDeque<Group<'_>>>) -> Vec<Group<'_>> {
    let (mut batch, mut room) = (Vec::new(), MAX_BATCH_BYTES);
    let mut turns: BTreeSet<(usize, usize)> = (0..lines.len()).map(|line| (0, line)).collect();
    while let Some((bytes, line)) = turns.pop_first() {
        let Some(group) = lines.get_mut(line).and_then(VecDeque::pop_front) else {
            continue;
        };
        let Some(rest) = room.checked_sub(group.bytes) else {
            continue;
        };
        room = rest;
        turns.insert((bytes + group.bytes, line));
        batch.push(group);
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
    use std::{
        cell::Cell,
        sync::{Arc, LazyLock},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::queue::{Checked, testing::item};

    /// What waits of each rollup, without bundles.
    fn alone(items: &[Item]) -> BTreeMap<RollupId, Vec<Vec<&Item>>> {
        let mut waiting = BTreeMap::<_, Vec<_>>::new();
        for item in items {
            waiting.entry(item.rollup).or_default().push(vec![item]);
        }
        waiting
    }

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
        let batch = fill(alone(&items), &shares);
        let mut seqs: Vec<u64> = batch.iter().map(|item| item.seq).collect();
        seqs.sort_unstable();
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

    /// A transaction of a sender to a rollup.
    fn sized(seq: u64, rollup: RollupId, sender: u8, bytes: usize) -> Item {
        // Signing is slow, and nothing here looks at what was signed.
        static SIGNED: LazyLock<Item> = LazyLock::new(|| item(0, RollupId::from_name("a")));
        let checked = Checked {
            rollup,
            raw: Bytes::from(vec![1; bytes]),
            sender: Address::repeat_byte(sender),
            ..Checked::clone(&SIGNED.checked)
        };
        Item {
            seq,
            checked: Arc::new(checked),
            ..SIGNED.clone()
        }
    }

    fn names() -> [RollupId; 3] {
        ["a", "b", "c"].map(RollupId::from_name)
    }

    fn bytes<'a>(batch: impl IntoIterator<Item = &'a Item>) -> usize {
        batch.into_iter().map(|item| item.raw.len()).sum()
    }

    #[test]
    fn a_rollup_with_much_leaves_room_for_the_others() {
        let [a, b, c] = names();
        let many = (0..5_000).map(|seq| sized(seq, a, (seq % 200) as u8, 1_000));
        let few = (5_000..5_010).map(|seq| sized(seq, b, 1, 1_000));
        let half = (5_010..6_000).map(|seq| sized(seq, c, (seq % 200) as u8, 1_000));
        let waiting: Vec<Item> = many.chain(few).chain(half).collect();
        let shares = names().map(|id| (id, share(usize::MAX, usize::MAX))).into();
        let batch = fill(alone(&waiting), &shares);
        let of = |id| bytes(batch.iter().filter(|item| item.rollup == id));
        assert_eq!([of(a), of(b), of(c)], [445_000, 10_000, 445_000]);
    }

    #[test]
    fn a_sender_with_much_leaves_room_for_the_others() {
        let [a, ..] = names();
        let greedy = (0..100).map(|seq| sized(seq, a, 1, 100_000));
        let others = (100..180).map(|seq| sized(seq, a, seq.to_le_bytes()[0], 10_000));
        let waiting: Vec<Item> = greedy.chain(others).collect();
        let shares = Shares::from([(a, share(usize::MAX, usize::MAX))]);
        let batch = fill(alone(&waiting), &shares);
        assert_eq!(batch.len(), 81, "one of the greedy and all others");
        // Alone it has all of it.
        let batch = fill(alone(&waiting[..100]), &shares);
        assert_eq!(batch.len(), 9);
    }

    #[test]
    fn no_more_is_looked_at_than_needed() {
        let [a, ..] = names();
        let waiting: Vec<Item> = (0..2_000)
            .map(|seq| sized(seq, a, (seq % 200) as u8, 1_000))
            .collect();
        let shares = Shares::from([(a, share(MAX_BATCH_BYTES, usize::MAX))]);
        let (b, few) = (names()[1], [sized(2_000, names()[1], 1, 1_000)]);
        let shares = shares
            .into_iter()
            .chain([(b, share(MAX_BATCH_BYTES, 9))])
            .collect();
        let looked = Cell::new(0);
        let lines = [(b, &few[..]), (a, &waiting[..])].map(|(rollup, waiting)| {
            let count = |_: &&Item| looked.set(looked.get() + 1);
            (rollup, waiting.iter().inspect(count).map(|item| vec![item]))
        });
        let batch = fill(lines, &shares);
        assert_eq!((batch.len(), looked.get()), (900, 901));
    }

    proptest! {
        #[test]
        fn batches_are_fair_and_keep_every_order(
            kinds in prop::collection::vec((0..3_usize, 0..6_u8, 1..40_000_usize), 0..200),
            limits in prop::array::uniform3((40_000..2_000_000_usize, 1..100_usize)),
        ) {
            let waiting: Vec<Item> = (0..)
                .zip(&kinds)
                .map(|(seq, (rollup, sender, bytes))| sized(seq, names()[*rollup], *sender, *bytes))
                .collect();
            let shares: Shares = names()
                .into_iter()
                .zip(limits)
                .map(|(id, (bytes, items))| (id, share(bytes.min(MAX_BATCH_BYTES), items)))
                .collect();
            let batch = fill(alone(&waiting), &shares);
            let taken: BTreeSet<u64> = batch.iter().map(|item| item.seq).collect();
            prop_assert!(bytes(&batch) <= MAX_BATCH_BYTES);
            for (id, share) in &shares {
                let mine = || batch.iter().filter(|item| item.rollup == *id);
                prop_assert!(mine().is_sorted_by_key(|item| item.seq));
                prop_assert!(bytes(mine()) <= share.bytes && mine().count() <= share.items);
                for sender in 0..6 {
                    // A sender's transactions are taken from the first one on, without a gap.
                    let is_of = |item: &&Item| {
                        item.rollup == *id && item.sender == Address::repeat_byte(sender)
                    };
                    let took = waiting.iter().filter(is_of).map(|item| taken.contains(&item.seq));
                    prop_assert!(took.is_sorted_by_key(|took| !took));
                }
                // Who waits has had about a third, unless its share ends before.
                let waits = waiting.iter().filter(|item| item.rollup == *id).count() > mine().count();
                let full = bytes(mine()) + 40_000 > share.bytes || mine().count() == share.items;
                prop_assert!(!waits || full || bytes(mine()) + 80_000 >= MAX_BATCH_BYTES / 3);
            }
        }
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
        Arc::make_mut(&mut large.checked).raw = vec![1; SubmitData::MAX_ITEM_BYTES].into();
        let waiting = vec![large; 20];
        let batch = fill(alone(&waiting), &Shares::from([(rollup, served)]));
        assert_eq!(batch.len(), MAX_BATCH_BYTES / SubmitData::MAX_ITEM_BYTES);
    }
}
