use std::sync::LazyLock;

use counterpoint_core::{
    action::{Action, SubmitData, Transfer},
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    registry::RollupConfig,
    slot::HeaderTime,
    transaction::TransactionBody,
};
use counterpoint_machine::{ChainStart, MemState, NoRoom, Room, check_tx, init_chain};
use proptest::prelude::*;

use super::*;
use crate::mempool::select::Choice;

const RICH: u128 = 1_000_000_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// A state in which accounts 0 to 9 are rich.
static STATE: LazyLock<MemState> = LazyLock::new(|| {
    let account = |seed| GenesisAccount {
        address: key(seed).public_key().address(),
        balance: Amount::new(RICH),
    };
    let rollup = |(evm_chain_id, name)| RollupConfig {
        evm_chain_id,
        genesis_time: 1,
        max_bytes_per_block: 1 << 20,
        max_items_per_block: 1_000,
        ..RollupConfig::example(name)
    };
    let rollups = (1_000..).zip(["alpha", "beta", "gamma", "delta"]);
    let genesis = SequencerGenesis {
        accounts: (0..10).map(account).collect(),
        rollups: rollups.map(rollup).collect(),
        ..SequencerGenesis::default()
    };
    let time = HeaderTime {
        seconds: 1_000,
        nanos: 0,
    };
    let mut state = MemState::default();
    let start = ChainStart::example("test", time, &[10]);
    state.apply(init_chain(&genesis, &start).unwrap());
    state
});

fn rich(nonce: u64) -> Account {
    Account {
        nonce: Nonce::new(nonce),
        balance: Amount::new(RICH),
    }
}

fn tx(seed: u8, nonce: u64, tip: u64, valid_until: u64, amount: u128) -> CheckedTx {
    let to = Address::new([1; 20]);
    let amount = Amount::new(amount);
    let action = Action::Transfer(Transfer { to, amount });
    tx_of(seed, nonce, tip, valid_until, vec![action])
}

fn tx_of(seed: u8, nonce: u64, tip: u64, valid_until: u64, actions: Vec<Action>) -> CheckedTx {
    let body = TransactionBody {
        chain_id: "test".into(),
        signer: key(seed).public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: tip,
        max_fee: Amount::new(RICH),
        valid_until: Height::new(valid_until),
        actions,
    };
    let signed = SignedTransaction::sign(body, &key(seed)).unwrap();
    // Rollups take items from height 2 on, and nothing may be valid for more than 600 heights.
    let height = valid_until.saturating_sub(600).max(valid_until.min(2));
    check_tx(&*STATE, signed, Height::new(height)).unwrap()
}

fn queue(count: usize) -> Queue {
    let size = |count| Size {
        count,
        bytes: 1 << 20,
    };
    Queue::new(Limits {
        all: size(count),
        account: size(3),
        parked: size(2),
    })
}

#[test]
fn only_the_same_actions_replace_and_only_for_more() {
    let mut queue = queue(10);
    let mut insert = |tip, valid_until, amount| {
        let result = queue.insert(tx(1, 0, tip, valid_until, amount), rich(0));
        (result, queue.size.count)
    };
    let taken = Err(Refused::NonceTaken(Nonce::new(0)));
    assert_eq!(insert(0, 10, 1), (Ok(()), 1));
    assert_eq!(insert(1, 10, 1), (Ok(()), 1), "more than nothing");
    assert_eq!(insert(100, 10, 1), (Ok(()), 1));
    assert_eq!(insert(100, 10, 1), (Err(Refused::Known), 1));
    assert_eq!(insert(200, 10, 2), (taken, 1), "other actions");
    assert_eq!(insert(109, 10, 1), (taken, 1), "not a tenth more");
    assert_eq!(insert(110, 10, 1), (Ok(()), 1));
    assert_eq!(insert(110, 19, 1), (taken, 1), "hardly later");
    assert_eq!(insert(109, 20, 1), (taken, 1), "later, but cheaper");
    assert_eq!(insert(121, 9, 1), (taken, 1), "dearer, but shorter");
    assert_eq!(insert(110, 20, 1), (Ok(()), 1), "signed again for longer");
}

#[test]
fn the_cheapest_tail_of_others_goes_first() {
    let mut queue = queue(3);
    queue.insert(tx(1, 0, 9, 10, 1), rich(0)).unwrap();
    queue.insert(tx(1, 1, 1, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 0, 5, 10, 1), rich(0)).unwrap();
    let insert = |queue: &mut Queue, tx: CheckedTx| queue.insert(tx, rich(0));
    assert_eq!(
        insert(&mut queue, tx(3, 0, 1, 10, 1)),
        Err(Refused::Full),
        "no better than the cheapest"
    );
    assert_eq!(
        insert(&mut queue, tx(1, 2, 5, 10, 1)),
        Err(Refused::Full),
        "own predecessors stay"
    );
    assert_eq!(queue.size.count, 3, "what was tried out is back");
    insert(&mut queue, tx(3, 0, 2, 10, 1)).unwrap();
    assert!(queue.get(&tx(1, 1, 1, 10, 1).tx().hash()).is_none());
    assert!(queue.get(&tx(1, 0, 9, 10, 1).tx().hash()).is_some());
}

#[test]
fn what_waits_for_a_gap_goes_before_what_a_proposer_can_take() {
    let mut queue = queue(2);
    queue.insert(tx(1, 3, 9, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 0, 1, 10, 1), rich(0)).unwrap();
    let insert = |queue: &mut Queue, tx: CheckedTx| queue.insert(tx, rich(0));
    assert_eq!(insert(&mut queue, tx(3, 3, 9, 10, 1)), Err(Refused::Full));
    insert(&mut queue, tx(3, 0, 0, 10, 1)).unwrap();
    assert!(queue.get(&tx(1, 3, 9, 10, 1).tx().hash()).is_none());
    assert_eq!(insert(&mut queue, tx(4, 3, 9, 10, 1)), Err(Refused::Full));
}

#[test]
fn what_waits_for_gaps_has_a_share_and_a_time() {
    let mut queue = queue(10);
    let parked = |seed, tip| tx(seed, 3, tip, 600, 1);
    let missing = Nonce::new(0);
    queue.insert(parked(1, 5), rich(0)).unwrap();
    queue.insert(parked(2, 6), rich(0)).unwrap();
    let refused = queue.insert(parked(3, 5), rich(0));
    assert_eq!(refused, Err(Refused::Gap { missing }));
    queue.expire(Height::new(2));
    queue.insert(parked(3, 7), rich(0)).unwrap();
    assert!(queue.get(&parked(1, 5).tx().hash()).is_none(), "outbid");
    queue.insert(tx(4, 0, 0, 600, 1), rich(0)).unwrap();
    queue.expire(Height::new(PARKED_HEIGHTS));
    assert_eq!(queue.parked.count, 2);
    queue.expire(Height::new(PARKED_HEIGHTS + 1));
    assert_eq!(queue.parked.count, 1, "the first has had its time");
    queue.expire(Height::new(PARKED_HEIGHTS + 3));
    assert_eq!((queue.parked.count, queue.size.count), (0, 1));
}

#[test]
fn one_account_holds_only_its_bytes() {
    let mut limits = queue(10).limits;
    let size = weight(tx(1, 0, 5, 10, 1).tx());
    limits.account.bytes = 2 * size;
    let mut queue = Queue::new(limits);
    queue.insert(tx(1, 0, 5, 10, 1), rich(0)).unwrap();
    queue.insert(tx(1, 1, 5, 10, 1), rich(0)).unwrap();
    let refused = queue.insert(tx(1, 2, 5, 10, 1), rich(0));
    assert_eq!(refused, Err(Refused::AccountFull(2)));
    queue.insert(tx(1, 1, 6, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 0, 5, 10, 1), rich(0)).unwrap();
}

fn data(seed: u8, nonce: u64, tip: u64, rollup: &str, length: usize) -> CheckedTx {
    let items = vec![vec![seed; length].into()];
    let data = SubmitData::new(RollupId::from_name(rollup), items).unwrap();
    tx_of(seed, nonce, tip, 600, vec![Action::SubmitData(data)])
}

/// Bytes of each rollup in a block of `bytes`, chosen from `txs`.
fn shares(txs: Vec<CheckedTx>, bytes: u64, salt: u64) -> BTreeMap<RollupId, usize> {
    let mut queue = Queue::new(Limits::default());
    for tx in txs {
        queue.insert(tx, rich(0)).unwrap();
    }
    let mut shares = BTreeMap::new();
    for tx in queue.select(Room::new(&*STATE, bytes).unwrap(), salt, Choice::Everything) {
        let rollup = main_rollup(&tx).unwrap();
        *shares.entry(rollup).or_default() += tx.as_bytes().len();
    }
    shares
}

#[test]
fn rollups_that_pay_the_same_share_a_full_block() {
    // Beta is sent by many accounts, gamma in small pieces: neither gets more for that.
    let alpha = (0..20).map(|nonce| data(0, nonce, 1, "alpha", 4_000));
    let beta =
        (1..7).flat_map(|seed| (0..20).map(move |nonce| data(seed, nonce, 1, "beta", 4_000)));
    let gamma = (0..200).map(|nonce| data(8, nonce, 1, "gamma", 300));
    let txs: Vec<_> = alpha.chain(beta).chain(gamma).collect();
    for salt in [0, 7, u64::MAX] {
        let shares = shares(txs.clone(), 90_000, salt);
        assert_eq!(shares.len(), 3);
        let even = |bytes: &usize| (25_000..=35_000).contains(bytes);
        assert!(shares.values().all(even), "{shares:?}");
    }
    let mut dear = txs;
    dear.extend((0..20).map(|nonce| data(9, nonce, 2, "delta", 4_000)));
    let shares = shares(dear, 80_000, 0);
    let delta = shares[&RollupId::from_name("delta")];
    assert!(delta > 75_000, "who pays more goes first: {shares:?}");
}

#[test]
fn accounts_that_pay_the_same_share_their_rollups_part() {
    let many = (0..20).map(|nonce| data(0, nonce, 1, "alpha", 4_000));
    let one = (0..2).map(|nonce| data(1, nonce, 1, "alpha", 4_000));
    let mut queue = Queue::new(Limits::default());
    for tx in many.chain(one) {
        queue.insert(tx, rich(0)).unwrap();
    }
    for salt in [0, 7, u64::MAX] {
        let room = Room::new(&*STATE, 18_000).unwrap();
        let selected = queue.select(room, salt, Choice::Everything);
        let lone = key(1).public_key().address();
        let of_one = selected.iter().filter(|tx| tx.signer() == lone).count();
        assert_eq!((selected.len(), of_one), (4, 2));
    }
}

#[test]
fn only_what_is_listed_is_chosen() {
    let mut queue = queue(10);
    for nonce in 0..3 {
        queue.insert(tx(1, nonce, 5, 10, 1), rich(0)).unwrap();
    }
    queue.insert(tx(2, 0, 5, 10, 1), rich(0)).unwrap();
    let listed = [tx(1, 0, 5, 10, 1), tx(1, 2, 5, 10, 1)].map(|tx| tx.tx().hash());
    let listed = listed.into_iter().collect();
    let chosen = queue.select(room(), 0, Choice::Listed(&listed));
    assert_eq!(chosen.len(), 1, "nothing after the gap in the list");
    assert_eq!(chosen[0], *tx(1, 0, 5, 10, 1).tx());
}

#[test]
fn the_best_paying_come_first_whoever_sends_them() {
    let mut queue = queue(10);
    for (seed, nonce, tip) in [(1, 0, 9), (1, 1, 0), (2, 0, 5), (2, 1, 7)] {
        queue.insert(tx(seed, nonce, tip, 10, 1), rich(0)).unwrap();
    }
    let size = tx(1, 0, 9, 10, 1).tx().as_bytes().len() as u64;
    let tips = |bytes| -> Vec<u64> {
        let selected = queue.select(Room::new(&*STATE, bytes).unwrap(), 0, Choice::Everything);
        selected.iter().map(|tx| tx.body().tip_per_byte).collect()
    };
    assert_eq!(tips(u64::MAX), [9, 5, 7, 0]);
    assert_eq!(tips(3 * size), [9, 5, 7]);
    assert!(tips(size - 1).is_empty());
}

#[test]
fn one_account_holds_only_its_share() {
    let mut queue = queue(10);
    for nonce in 0..3 {
        queue.insert(tx(1, nonce, 5, 10, 1), rich(0)).unwrap();
    }
    let refused = queue.insert(tx(1, 3, 5, 10, 1), rich(0));
    assert_eq!(refused, Err(Refused::AccountFull(3)));
    let signer = key(1).public_key().address();
    assert_eq!(queue.next_nonce(&signer, Nonce::new(0)), Nonce::new(3));
}

#[test]
fn the_fees_of_all_that_wait_must_be_covered() {
    let mut queue = queue(10);
    let (first, second) = (tx(1, 0, 5, 10, 1), tx(1, 1, 5, 10, 1));
    let fee = first.cost().get();
    let poor = |nonce, balance| Account {
        nonce: Nonce::new(nonce),
        balance: Amount::new(balance),
    };
    queue.insert(first.clone(), poor(0, fee)).unwrap();
    let refused = queue.insert(second.clone(), poor(0, 2 * fee - 1));
    assert!(matches!(refused, Err(Refused::Funds { .. })));
    queue.insert(second.clone(), poor(0, 2 * fee)).unwrap();
    queue.advance(&first.tx().signer(), poor(1, fee - 1));
    assert_eq!(
        queue.size.count, 0,
        "the first is included, the second unpaid"
    );
}

#[test]
fn parked_transactions_are_no_candidates() {
    let mut queue = queue(10);
    queue.insert(tx(1, 1, 9, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 0, 1, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 2, 1, 10, 1), rich(0)).unwrap();
    let ready = |queue: &Queue| -> Vec<Hash> {
        let candidates = queue.select(room(), 0, Choice::Everything);
        candidates.iter().map(SignedTransaction::hash).collect()
    };
    assert_eq!(ready(&queue), [tx(2, 0, 1, 10, 1).tx().hash()]);
    queue.advance(&key(1).public_key().address(), rich(1));
    assert_eq!(ready(&queue).len(), 2);
    assert_eq!(ready(&queue)[0], tx(1, 1, 9, 10, 1).tx().hash());
}

/// Whether no nonce between the account's and the transaction's is missing among `others`.
fn is_ready(tx: &SignedTransaction, account: Account, others: &[CheckedTx]) -> bool {
    let waits = |nonce: u64| {
        let is = |other: &CheckedTx| {
            other.tx().signer() == tx.signer() && other.tx().body().nonce.get() == nonce
        };
        others.iter().any(is)
    };
    (account.nonce.get()..tx.body().nonce.get()).all(waits)
}

/// A block that takes everything.
fn room() -> Room {
    Room::new(&*STATE, u64::MAX).unwrap()
}

/// The same rules over a plain list, everything counted anew each time.
#[derive(Default)]
struct Model {
    waiting: Vec<(CheckedTx, Height)>,
    accounts: BTreeMap<Address, Account>,
    next: Height,
}

type Waiter = (CheckedTx, Height);

fn size_of(waiting: &[Waiter]) -> Size {
    let sizes = waiting.iter().map(|(tx, _)| Size::of(tx.tx()));
    sizes.fold(Size::default(), Size::plus)
}

impl Model {
    const LIMITS: Limits = Limits {
        all: Size {
            count: 6,
            bytes: 3_000, // Between 6 and 7 transfers.
        },
        account: Size {
            count: 3,
            bytes: 1_450,
        },
        parked: Size {
            count: 2,
            bytes: 1_000,
        },
    };

    fn is_parked(&self, tx: &SignedTransaction, among: &[Waiter]) -> bool {
        let others: Vec<CheckedTx> = among.iter().map(|(tx, _)| tx.clone()).collect();
        !is_ready(tx, self.accounts[&tx.signer()], &others)
    }

    fn parked(&self, among: &[Waiter]) -> Vec<Waiter> {
        let parked = among
            .iter()
            .filter(|(tx, _)| self.is_parked(tx.tx(), among));
        parked.cloned().collect()
    }

    fn rank(&self, tx: &SignedTransaction, among: &[Waiter]) -> Rank {
        Rank {
            ready: !self.is_parked(tx, among),
            tip: tx.body().tip_per_byte,
        }
    }

    /// The last transaction of some account that is worth least.
    fn least(&self, waiting: &[Waiter], but: Option<Address>) -> Option<(Rank, Hash)> {
        let is_tail = |(other, _): &&Waiter| {
            let behind = |(next, _): &Waiter| {
                next.tx().signer() == other.tx().signer()
                    && next.tx().body().nonce > other.tx().body().nonce
            };
            Some(other.tx().signer()) != but && !waiting.iter().any(behind)
        };
        let rank = |(other, _): &&Waiter| {
            let tx = other.tx();
            (self.rank(tx, waiting), tx.signer(), tx.hash())
        };
        let least = waiting
            .iter()
            .filter(is_tail)
            .map(|other| rank(&other))
            .min();
        least.map(|(rank, _, hash)| (rank, hash))
    }

    fn insert(&mut self, new: &CheckedTx, account: Account) -> bool {
        let (tx, before) = (new.tx().clone(), self.waiting.clone());
        self.accounts.insert(tx.signer(), account);
        let same = |(old, _): &Waiter| {
            old.tx().signer() == tx.signer() && old.tx().body().nonce == tx.body().nonce
        };
        let (old, mut others): (Vec<_>, Vec<_>) = before.iter().cloned().partition(same);
        let own: Vec<Waiter> = before
            .iter()
            .filter(|(other, _)| {
                other.tx().signer() == tx.signer() && !same(&(other.clone(), self.next))
            })
            .cloned()
            .collect();
        let improved = old.iter().all(|(old, _)| improves(&tx, old.tx()));
        let fits = size_of(&own).plus(Size::of(&tx)).fits(Self::LIMITS.account);
        let costs: u128 = own.iter().map(|(tx, _)| tx.cost().get()).sum();
        let known = before.iter().any(|(old, _)| old.tx().hash() == tx.hash());
        let unpaid = costs + new.cost().get() > account.balance.get();
        if known || !improved || !fits || unpaid {
            return false;
        }
        let mine = self.rank(&tx, &others);
        loop {
            let full = !size_of(&others).plus(Size::of(&tx)).fits(Self::LIMITS.all);
            let parked = size_of(&self.parked(&others)).plus(Size::of(&tx));
            if !full && (mine.ready || parked.fits(Self::LIMITS.parked)) {
                break;
            }
            match self.least(&others, Some(tx.signer())) {
                Some((rank, victim)) if rank < mine => {
                    others.retain(|(other, _)| other.tx().hash() != victim);
                }
                _ => return false,
            }
        }
        others.push((new.clone(), self.next));
        self.waiting = others;
        true
    }

    fn advance(&mut self, signer: &Address, account: Account) {
        self.accounts.insert(*signer, account);
        self.waiting.sort_by_key(|(tx, _)| tx.tx().body().nonce);
        let mut funds = account.balance.get();
        self.waiting.retain(|(tx, _)| {
            if tx.tx().signer() != *signer {
                return true;
            }
            let stays = tx.tx().body().nonce >= account.nonce && tx.cost().get() <= funds;
            funds -= if stays { tx.cost().get() } else { 0 };
            stays
        });
        self.trim();
    }

    fn expire(&mut self, next: Height) {
        self.next = next;
        self.waiting
            .retain(|(tx, _)| tx.tx().body().valid_until >= next);
        let oldest = Height::new(next.get().saturating_sub(PARKED_HEIGHTS));
        let old: Vec<Hash> = self
            .parked(&self.waiting)
            .iter()
            .filter(|(_, since)| *since < oldest)
            .map(|(tx, _)| tx.tx().hash())
            .collect();
        self.waiting
            .retain(|(tx, _)| !old.contains(&tx.tx().hash()));
        self.trim();
    }

    fn trim(&mut self) {
        while !size_of(&self.parked(&self.waiting)).fits(Self::LIMITS.parked) {
            let (_, victim) = self.least(&self.waiting, None).unwrap();
            self.waiting.retain(|(tx, _)| tx.tx().hash() != victim);
        }
    }

    fn ready(&self) -> BTreeSet<Hash> {
        let ready = self.waiting.iter().map(|(tx, _)| tx.tx());
        let ready = ready.filter(|tx| !self.is_parked(tx, &self.waiting));
        ready.map(SignedTransaction::hash).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        seed: u8,
        ahead: u64,
        tip: u64,
        valid_for: u64,
        actions: usize,
    },
    Advance {
        seed: u8,
        balance: u128,
    },
    Expire {
        heights: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let insert = (1_u8..5, 0_u64..5, 0_u64..4, 1_u64..300, 1_usize..3);
    let insert = insert.prop_map(|(seed, ahead, tip, valid_for, actions)| Step::Insert {
        seed,
        ahead,
        tip,
        valid_for,
        actions,
    });
    prop_oneof![
        8 => insert,
        1 => (1_u8..5, 0_u128..20_000).prop_map(|(seed, balance)| Step::Advance { seed, balance }),
        1 => (1_u64..60).prop_map(|heights| Step::Expire { heights }),
    ]
}

/// Whether the nonces of each account in `selected` follow on its own without a gap.
fn runs_are_unbroken(
    selected: &[SignedTransaction],
    accounts: &BTreeMap<Address, Account>,
) -> bool {
    let mut next: BTreeMap<Address, Nonce> = BTreeMap::new();
    selected.iter().all(|tx| {
        let account = accounts[&tx.signer()];
        let nonce = next.entry(tx.signer()).or_insert(account.nonce);
        let follows = tx.body().nonce == *nonce;
        *nonce = nonce.next().unwrap();
        follows
    })
}

#[test]
fn who_moves_away_what_the_next_ones_cost_takes_no_room() {
    let mut queue = Queue::new(Limits::default());
    let most = |nonce| tx(1, nonce, 9, 500, RICH - 100_000);
    queue.insert(most(0), rich(0)).unwrap();
    let refused = queue.insert(most(1), rich(0)).unwrap_err();
    assert!(matches!(refused, Refused::Funds { .. }));
    // What it holds has shrunk since, as it does when the price rises.
    let mut room = room();
    let (poor, other) = (most(0), tx(2, 0, 1, 500, 1));
    assert_eq!(
        room.take(poor.tx(), Amount::new(1_000)),
        Err(NoRoom::Unpaid)
    );
    assert_eq!(room.take(other.tx(), Amount::new(RICH)), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_queue_does_what_the_naive_model_does(
        steps in prop::collection::vec(step(), 0..60),
        room_bytes in 0_u64..2_000,
    ) {
        let (mut queue, mut model) = (Queue::new(Model::LIMITS), Model::default());
        let mut height = 0;
        let mut accounts: BTreeMap<u8, Account> = (1..5).map(|seed| (seed, rich(0))).collect();
        for step in steps {
            match step {
                Step::Insert { seed, ahead, tip, valid_for, actions } => {
                    let account = accounts[&seed];
                    let nonce = account.nonce.get() + ahead;
                    let (to, amount) = (Address::new([1; 20]), Amount::new(1));
                    let actions = vec![Action::Transfer(Transfer { to, amount }); actions];
                    let tx = tx_of(seed, nonce, tip, height + valid_for, actions);
                    let inserted = queue.insert(tx.clone(), account).is_ok();
                    prop_assert_eq!(inserted, model.insert(&tx, account));
                }
                Step::Advance { seed, balance } => {
                    let account = accounts.get_mut(&seed).unwrap();
                    account.nonce = account.nonce.next().unwrap();
                    account.balance = Amount::new(balance);
                    let signer = key(seed).public_key().address();
                    queue.advance(&signer, *account);
                    model.advance(&signer, *account);
                }
                Step::Expire { heights } => {
                    height += heights;
                    queue.expire(Height::new(height));
                    model.expire(Height::new(height));
                }
            }
            prop_assert_eq!(queue.size(), size_of(&model.waiting));
            prop_assert_eq!(queue.parked(), size_of(&model.parked(&model.waiting)));
            prop_assert!(queue.size().fits(Model::LIMITS.all));
            prop_assert!(queue.parked().fits(Model::LIMITS.parked));
            prop_assert!(queue.accounts.values().all(|one| one.size.fits(Model::LIMITS.account)));
            let waits = |(tx, _): &Waiter| queue.get(&tx.tx().hash()).is_some();
            prop_assert!(model.waiting.iter().all(waits));
            let ready = queue.select(room(), 7, Choice::Everything);
            let ready: BTreeSet<Hash> = ready.iter().map(SignedTransaction::hash).collect();
            prop_assert_eq!(ready, model.ready());
            let room = Room::new(&*STATE, room_bytes).unwrap();
            let chosen = queue.select(room, 7, Choice::Everything);
            let bytes: usize = chosen.iter().map(|tx| tx.as_bytes().len()).sum();
            prop_assert!(bytes as u64 <= room_bytes);
            prop_assert!(runs_are_unbroken(&chosen, &model.accounts));
            prop_assert_eq!(queue.tails.len(), queue.accounts.len());
            prop_assert_eq!(queue.expiry.len(), queue.size.count);
            prop_assert_eq!(queue.by_hash.len(), queue.size.count);
        }
    }
}
