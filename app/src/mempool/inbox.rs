//! What peers offered and nobody has looked at yet: bounded, and shared out fairly.
//!
//! CometBFT does not say which peer sends what. So offers wait in lanes by who claims to have
//! signed their first transaction, and the lanes take turns: who sends more waits longer, not
//! everybody. When there is no room, the longest lane gives way. A claim may be false, so a lane can
//! be filled in somebody's name; then his transactions still come in at every node that he or his
//! composer hands them to, and in the blocks which that node proposes.
//!
//! A peer may also be a block ahead: it has seen the account or the rollup that a transaction needs.
//! So what is refused for a reason that can pass is looked at again after the next blocks.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use counterpoint_core::{atomic::AttesterMessage, key::PublicKey, transaction::TransactionHead};

/// Bytes that an offer counts for on top of its own: the books that are kept about it.
const OFFER_OVERHEAD: usize = 256;
/// Most bytes of what waits for the next block, and of those in one name.
const MAX_LATER_BYTES: usize = 8 << 20;
const MAX_LATER_LANE_BYTES: usize = 1 << 20;
/// Blocks after which a transaction is looked at for the last time.
const MAX_TRIES: u8 = 5;

/// Transactions that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) members: Vec<Bytes>,
    /// How many of them were looked at.
    pub(super) done: usize,
    /// Whether one of these was news.
    pub(super) news: bool,
    /// Whether one of these is nothing that an honest node would pass on.
    pub(super) bad: bool,
    /// The bundle they came in, to be passed on.
    pub(super) bundle: Option<Bytes>,
    claim: Claim,
    bytes: usize,
    tries: u8,
}

/// Who claims to have signed the first transaction; all garbage shares a lane.
type Claim = Option<PublicKey>;

/// What an inbox holds at the most, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// All offers together.
    all: usize,
    /// One lane.
    lane: usize,
}

impl Bounds {
    /// Of transactions.
    pub(super) const TRANSACTIONS: Self = Self {
        all: 64 << 20,
        lane: 8 << 20,
    };
    /// Of attesters' messages: a few hundred bytes each, and of use for one block only.
    pub(super) const MESSAGES: Self = Self {
        all: 8 << 20,
        lane: 2 << 20,
    };
}

/// Offers, lane by lane.
#[derive(Debug)]
pub(super) struct Inbox {
    bounds: Bounds,
    lanes: HashMap<Claim, Lane>,
    /// Lanes that are not empty, the next one first.
    turns: VecDeque<Claim>,
    /// The same, by length.
    lengths: BTreeSet<(usize, Claim)>,
    bytes: usize,
    later: Vec<Offer>,
    later_bytes: usize,
    later_lanes: HashMap<Claim, usize>,
}

#[derive(Debug, Default)]
struct Lane {
    offers: VecDeque<Offer>,
    bytes: usize,
}

impl Offer {
    /// What a peer sent.
    pub(super) fn new(members: Vec<Bytes>, bundle: Option<Bytes>) -> Self {
        Self::tried(0, members, bundle)
    }

    fn tried(tries: u8, members: Vec<Bytes>, bundle: Option<Bytes>) -> Self {
        let of_members: usize = members.iter().map(Bytes::len).sum();
        let of_bundle = bundle.as_ref().map_or(0, Bytes::len);
        Self {
            claim: members.first().and_then(|item| claim(item)),
            members,
            done: 0,
            news: false,
            bad: false,
            bundle,
            bytes: of_members + of_bundle + OFFER_OVERHEAD,
            tries,
        }
    }
}

/// Who claims to have signed an item.
fn claim(item: &[u8]) -> Claim {
    let transaction = TransactionHead::read(item).map(|head| head.signer);
    transaction.or_else(|| Some(AttesterMessage::decode(item).ok()?.attester()))
}

impl Inbox {
    /// An empty one.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            lengths: BTreeSet::new(),
            bytes: 0,
            later: Vec::new(),
            later_bytes: 0,
            later_lanes: HashMap::new(),
        }
    }

    /// Takes an offer in, or says that there is no room.
    pub(super) fn push(&mut self, offer: Offer) -> bool {
        let claim = offer.claim;
        let lane = self.lanes.get(&claim).map_or(0, |lane| lane.bytes);
        if lane + offer.bytes > self.bounds.lane {
            return false;
        }
        while self.bytes + offer.bytes > self.bounds.all {
            let longest = self.lengths.last().copied();
            match longest {
                Some((length, longest)) if length > lane + offer.bytes => {
                    self.alter(longest, |lane| lane.offers.pop_back());
                }
                _ => return false,
            }
        }
        self.alter(claim, |lane| {
            lane.bytes += offer.bytes;
            lane.offers.push_back(offer);
            None
        });
        true
    }

    /// Takes back an offer that was popped and is not done with: it comes first when it is its
    /// lane's turn again. It had its room, whatever has come since.
    pub(super) fn put_back(&mut self, offer: Offer) {
        self.alter(offer.claim, |lane| {
            lane.bytes += offer.bytes;
            lane.offers.push_front(offer);
            None
        });
    }

    /// The oldest offer of the lane whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Offer> {
        let claim = self.turns.front().copied()?;
        let offer = self.alter(claim, |lane| lane.offers.pop_front());
        if self.turns.front() == Some(&claim) {
            self.turns.rotate_left(1);
        }
        offer
    }

    /// Changes a lane, and what is kept about it; `change` gives the offer that it takes out.
    fn alter(
        &mut self,
        claim: Claim,
        change: impl FnOnce(&mut Lane) -> Option<Offer>,
    ) -> Option<Offer> {
        let (mut lane, known) = match self.lanes.remove(&claim) {
            Some(lane) => (lane, true),
            None => (Lane::default(), false),
        };
        self.lengths.remove(&(lane.bytes, claim));
        self.bytes -= lane.bytes;
        let removed = change(&mut lane);
        lane.bytes -= removed.as_ref().map_or(0, |offer| offer.bytes);
        self.bytes += lane.bytes;
        if lane.offers.is_empty() {
            // Nearly always it is the lane whose turn it was.
            if self.turns.front() == Some(&claim) {
                self.turns.pop_front();
            } else {
                self.turns.retain(|turn| *turn != claim);
            }
        } else {
            if !known {
                self.turns.push_back(claim);
            }
            self.lengths.insert((lane.bytes, claim));
            self.lanes.insert(claim, lane);
        }
        removed
    }

    /// Keeps a member of `offer`, which was refused for a reason that can pass.
    pub(super) fn postpone(&mut self, offer: &Offer, member: Bytes) {
        if offer.tries >= MAX_TRIES {
            return;
        }
        let later = Offer::tried(offer.tries + 1, vec![member], None);
        let all = self.later_bytes + later.bytes;
        let lane = self.later_lanes.entry(later.claim).or_default();
        if all <= MAX_LATER_BYTES && *lane + later.bytes <= MAX_LATER_LANE_BYTES {
            self.later_bytes = all;
            *lane += later.bytes;
            self.later.push(later);
        }
    }

    /// A block was committed: what was postponed is looked at again.
    pub(super) fn next_block(&mut self) {
        self.later_bytes = 0;
        self.later_lanes.clear();
        for offer in std::mem::take(&mut self.later) {
            self.push(offer);
        }
    }

    /// Bytes of all that waits to be looked at.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::transfer;

    /// An offer that claims to be `seed`'s, of about so many bytes.
    fn offer(seed: u8, bytes: usize) -> Offer {
        let mut item = transfer(seed, 0, 1).to_vec();
        item.resize(bytes - OFFER_OVERHEAD, 0);
        Offer::new(vec![item.into()], None)
    }

    const MIB: usize = 1 << 20;

    /// One of half a MiB that was refused once.
    fn tried(seed: u8) -> Offer {
        Offer::tried(1, offer(seed, MIB / 2).members, None)
    }

    #[test]
    fn lanes_take_turns() {
        let mut inbox = Inbox::new(Bounds::TRANSACTIONS);
        for seed in [1, 1, 1, 2, 3, 2] {
            assert!(inbox.push(offer(seed, MIB)));
        }
        let order: Vec<Offer> = std::iter::from_fn(|| inbox.pop()).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 1].map(|seed| offer(seed, MIB)));
        assert_eq!(
            (inbox.bytes, inbox.turns.len(), inbox.lengths.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn garbage_shares_a_lane() {
        let mut inbox = Inbox::new(Bounds::TRANSACTIONS);
        let garbage = |fill: u8| Offer::new(vec![vec![fill; MIB].into()], None);
        let taken = (0..20).filter(|fill| inbox.push(garbage(*fill))).count();
        assert_eq!(taken, Bounds::TRANSACTIONS.lane / MIB - 1);
        assert!(inbox.push(offer(1, MIB)));
        inbox.pop();
        assert_eq!(inbox.pop(), Some(offer(1, MIB)), "at the second turn");
    }

    #[test]
    fn a_full_inbox_takes_from_the_longest_lane() {
        let mut inbox = Inbox::new(Bounds::TRANSACTIONS);
        for at in 0..64 {
            assert!(inbox.push(offer(at % 8, MIB)));
        }
        assert!(!inbox.push(offer(1, MIB)), "the lane is full");
        assert!(inbox.push(offer(100, MIB)));
        assert!(inbox.bytes <= Bounds::TRANSACTIONS.all);
        let mine = std::iter::from_fn(|| inbox.pop()).position(|taken| taken == offer(100, MIB));
        assert!(mine.is_some_and(|turn| turn <= 8), "{mine:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn books_are_exact(steps in prop::collection::vec((0_u8..12, 1_usize..5), 0..120)) {
            let mut inbox = Inbox::new(Bounds::TRANSACTIONS);
            for (seed, size) in steps {
                if seed < 2 {
                    inbox.pop();
                } else {
                    inbox.push(offer(seed, size * MIB));
                }
                let sum: usize = inbox.lanes.values().map(|lane| lane.bytes).sum();
                let offers = inbox.lanes.values().flat_map(|lane| &lane.offers);
                prop_assert_eq!(inbox.bytes, offers.map(|offer| offer.bytes).sum::<usize>());
                prop_assert_eq!(inbox.bytes, sum);
                prop_assert!(inbox.bytes <= Bounds::TRANSACTIONS.all);
                prop_assert!(inbox.lanes.values().all(|lane| lane.bytes <= Bounds::TRANSACTIONS.lane));
                prop_assert_eq!(inbox.turns.len(), inbox.lanes.len());
                prop_assert_eq!(inbox.lengths.len(), inbox.lanes.len());
            }
        }
    }

    #[test]
    fn what_can_pass_is_tried_for_a_few_blocks() {
        let mut inbox = Inbox::new(Bounds::TRANSACTIONS);
        let mut offer = offer(1, 1_000);
        for _ in 0..MAX_TRIES {
            inbox.postpone(&offer, offer.members[0].clone());
            assert_eq!(inbox.pop(), None, "not before the next block");
            inbox.next_block();
            offer = inbox.pop().unwrap();
        }
        inbox.postpone(&offer, offer.members[0].clone());
        inbox.next_block();
        assert_eq!(inbox.pop(), None);
        let refused = Offer::new(vec![], None);
        for seed in 0..40_u8 {
            for _ in 0..3 {
                inbox.postpone(&refused, self::offer(seed, MIB / 2).members[0].clone());
            }
        }
        let lane = |seed| {
            inbox
                .later
                .iter()
                .filter(|later| **later == tried(seed))
                .count()
        };
        assert_eq!(
            (0..8).map(lane).collect::<Vec<_>>(),
            [2; 8],
            "a few in each name"
        );
        assert_eq!(inbox.later.len(), 16);
    }
}
