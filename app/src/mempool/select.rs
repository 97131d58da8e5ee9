//! What a proposer takes of what waits.
//!
//! The best-paying go first, whoever sends them. Among those who pay the same, the rollup that has
//! the fewest bytes of the block goes first, then the account that has: a full block is shared out
//! instead of going to whoever is looked at first. The order inside the block is the chain's rule;
//! only what is in it is chosen here.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
};

use counterpoint_core::{
    primitive::{Address, Amount, Hash, Nonce, RollupId},
    transaction::SignedTransaction,
};
use counterpoint_machine::{NoRoom, Room};

use super::queue::{Held, Queue, Waiting};

/// Transactions that a block was too full for, after which a proposer looks no further; the same
/// for what one rollup's share is too full for.
const MAX_MISSES: usize = 1_000;

/// What a proposer may choose.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice<'a> {
    /// All that waits.
    Everything,
    /// Only these of it.
    Listed(&'a HashSet<Hash>),
}

/// The next transactions of accounts, all for one rollup, or for none.
#[derive(Debug, Default)]
struct Lane {
    heads: BinaryHeap<Head>,
    /// Bytes of the block.
    taken: u64,
    misses: usize,
}

/// The next transaction of an account; the greatest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    tip: u64,
    /// Bytes of the block that the account has.
    taken: Reverse<u64>,
    place: u64,
    signer: Address,
    nonce: Nonce,
}

type LaneId = Option<RollupId>;
type LaneRank = (u64, Reverse<u64>, u64, LaneId);

/// A block that is being filled.
struct Selection<'a> {
    queue: &'a Queue,
    choice: Choice<'a>,
    salt: u64,
    lanes: HashMap<LaneId, Lane>,
    /// The lanes that have heads, the next one last.
    ranks: BTreeSet<LaneRank>,
}

impl Queue {
    /// Chooses as long as `room` takes what is chosen. Whoever's next one finds no room is passed
    /// over. `salt` decides between those who are equal in everything, so that nobody is favoured
    /// for long.
    #[must_use]
    pub(crate) fn select(
        &self,
        mut room: Room,
        salt: u64,
        choice: Choice<'_>,
    ) -> Vec<SignedTransaction> {
        let mut selection = Selection::open(self, salt, choice);
        let (mut selected, mut misses) = (Vec::new(), 0);
        while let Some((lane, head, tx)) = selection.next() {
            let missed = match room.take(tx, self.balance(&head.signer)) {
                Ok(()) => {
                    selected.push(tx.clone());
                    selection.took(lane, &head, tx.as_bytes().len() as u64);
                    continue;
                }
                Err(missed) => missed,
            };
            match missed {
                // A full rollup says nothing about the others.
                NoRoom::Share(_) => selection.missed(lane),
                NoRoom::Unpaid | NoRoom::Recoveries => {}
                NoRoom::Block if misses < MAX_MISSES => misses += 1,
                NoRoom::Block => break,
            }
        }
        selected
    }
}

impl Queue {
    fn balance(&self, signer: &Address) -> Amount {
        let waiting = self.accounts.get(signer);
        waiting.map_or(Amount::ZERO, |waiting| waiting.account.balance)
    }
}

impl<'a> Selection<'a> {
    fn open(queue: &'a Queue, salt: u64, choice: Choice<'a>) -> Self {
        let mut lanes: HashMap<LaneId, Lane> = HashMap::new();
        for (signer, waiting) in &queue.accounts {
            let nonce = waiting.account.nonce;
            if let Some(held) = offered(choice, waiting, nonce) {
                let head = Head::new(held, *signer, 0, salt);
                lanes.entry(held.rollup).or_default().heads.push(head);
            }
        }
        let rank = |(id, lane): (&LaneId, &Lane)| lane.rank(*id, salt);
        let ranks = lanes.iter().filter_map(rank).collect();
        Self {
            queue,
            choice,
            salt,
            lanes,
            ranks,
        }
    }

    fn next(&mut self) -> Option<(LaneId, Head, &'a SignedTransaction)> {
        let (_, _, _, id) = *self.ranks.last()?;
        let head = self.alter(id, |lane| lane.heads.pop())?;
        let tx = self.queue.at(&head.signer, head.nonce)?;
        Some((id, head, tx))
    }

    /// A transaction is in the block: the account's next one takes its place.
    fn took(&mut self, id: LaneId, head: &Head, bytes: u64) {
        self.alter(id, |lane| lane.taken += bytes);
        let waiting = self.queue.accounts.get(&head.signer);
        let next = waiting.zip(head.nonce.next());
        let next = next.and_then(|(waiting, nonce)| offered(self.choice, waiting, nonce));
        if let Some(held) = next {
            let next = Head::new(held, head.signer, head.taken.0 + bytes, self.salt);
            self.alter(held.rollup, |lane| lane.heads.push(next));
        }
    }

    /// The share of a lane's rollup is too full for one of its transactions.
    fn missed(&mut self, id: LaneId) {
        self.alter(id, |lane| {
            lane.misses += 1;
            if lane.misses > MAX_MISSES {
                lane.heads.clear();
            }
        });
    }

    fn alter<T>(&mut self, id: LaneId, change: impl FnOnce(&mut Lane) -> T) -> T {
        let lane = self.lanes.entry(id).or_default();
        if let Some(rank) = lane.rank(id, self.salt) {
            self.ranks.remove(&rank);
        }
        let result = change(lane);
        self.ranks.extend(lane.rank(id, self.salt));
        result
    }
}

impl Head {
    fn new(held: &Held, signer: Address, taken: u64, salt: u64) -> Self {
        let body = held.tx().body();
        Self {
            tip: body.tip_per_byte,
            taken: Reverse(taken),
            place: salted(signer.as_bytes(), salt),
            signer,
            nonce: body.nonce,
        }
    }
}

impl Lane {
    /// Where the lane stands among the others, if it has heads.
    fn rank(&self, id: LaneId, salt: u64) -> Option<LaneRank> {
        let tip = self.heads.peek()?.tip;
        let place = id.map_or(salt, |id| salted(id.as_bytes(), salt));
        Some((tip, Reverse(self.taken), place, id))
    }
}

fn offered<'a>(choice: Choice<'_>, waiting: &'a Waiting, nonce: Nonce) -> Option<&'a Held> {
    let held = waiting.txs.get(&nonce)?;
    match choice {
        Choice::Everything => Some(held),
        Choice::Listed(hashes) => hashes.contains(&held.tx().hash()).then_some(held),
    }
}

/// A place among equals that changes with `salt`.
fn salted(bytes: &[u8], salt: u64) -> u64 {
    let bytes = bytes.iter().take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)) ^ salt
}
