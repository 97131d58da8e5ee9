use std::sync::LazyLock;

use counterpoint_core::{
    action::{Action, Transfer},
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    slot::HeaderTime,
    transaction::TransactionBody,
};
use counterpoint_machine::{ChainStart, MemState, check_tx, init_chain};
use proptest::prelude::*;

use super::*;

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
    let genesis = SequencerGenesis {
        accounts: (0..10).map(account).collect(),
        ..SequencerGenesis::default()
    };
    let time = HeaderTime {
        seconds: 1,
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
    let body = TransactionBody {
        chain_id: "test".into(),
        signer: key(seed).public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: tip,
        max_fee: Amount::new(RICH),
        valid_until: Height::new(valid_until),
        actions: vec![Action::Transfer(Transfer {
            to,
            amount: Amount::new(amount),
        })],
    };
    let signed = SignedTransaction::sign(body, &key(seed)).unwrap();
    check_tx(&*STATE, signed, Height::new(1)).unwrap()
}

fn queue(count: usize) -> Queue {
    Queue::new(Limits {
        bytes: 1 << 20,
        count,
        per_account: 3,
    })
}

#[test]
fn only_the_same_actions_replace_and_only_for_more() {
    let mut queue = queue(10);
    let mut insert = |tip, valid_until, amount| {
        let result = queue.insert(tx(1, 0, tip, valid_until, amount), rich(0));
        (result, queue.len())
    };
    let taken = Err(Refused::NonceTaken(Nonce::new(0)));
    assert_eq!(insert(5, 10, 1), (Ok(()), 1));
    assert_eq!(insert(5, 10, 1), (Err(Refused::Known), 1));
    assert_eq!(insert(9, 10, 2), (taken, 1), "other actions");
    assert_eq!(insert(4, 11, 1), (taken, 1), "smaller tip");
    assert_eq!(insert(5, 11, 1), (Ok(()), 1));
    assert_eq!(insert(6, 11, 1), (Ok(()), 1));
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
    assert_eq!(queue.len(), 3, "what was tried out is back");
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
fn the_best_paying_come_first_whoever_sends_them() {
    let mut queue = queue(10);
    for (seed, nonce, tip) in [(1, 0, 9), (1, 1, 0), (2, 0, 5), (2, 1, 7)] {
        queue.insert(tx(seed, nonce, tip, 10, 1), rich(0)).unwrap();
    }
    let size = tx(1, 0, 9, 10, 1).tx().as_bytes().len() as u64;
    let tips = |bytes| -> Vec<u64> {
        let selected = queue.select(Room::new(&*STATE, bytes).unwrap(), 0);
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
    let fee = first.fee().get();
    let poor = |nonce, balance| Account {
        nonce: Nonce::new(nonce),
        balance: Amount::new(balance),
    };
    queue.insert(first.clone(), poor(0, fee)).unwrap();
    let refused = queue.insert(second.clone(), poor(0, 2 * fee - 1));
    assert!(matches!(refused, Err(Refused::Funds { .. })));
    queue.insert(second.clone(), poor(0, 2 * fee)).unwrap();
    queue.advance(&first.tx().signer(), poor(1, fee - 1));
    assert_eq!(queue.len(), 0, "the first is included, the second unpaid");
}

#[test]
fn parked_transactions_are_no_candidates() {
    let mut queue = queue(10);
    queue.insert(tx(1, 1, 9, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 0, 1, 10, 1), rich(0)).unwrap();
    queue.insert(tx(2, 2, 1, 10, 1), rich(0)).unwrap();
    let ready = |queue: &Queue| -> Vec<Hash> {
        let candidates = queue.select(room(), 0);
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
    waiting: Vec<CheckedTx>,
    accounts: BTreeMap<Address, Account>,
}

impl Model {
    const LIMITS: Limits = Limits {
        bytes: 2_800, // Between 6 and 7 transfers.
        count: 6,
        per_account: 3,
    };

    fn insert(&mut self, new: CheckedTx, account: Account) -> bool {
        let (tx, before) = (new.tx().clone(), self.waiting.clone());
        let same = |old: &CheckedTx| {
            old.tx().signer() == tx.signer() && old.tx().body().nonce == tx.body().nonce
        };
        let (old, mut others): (Vec<_>, Vec<_>) = before.iter().cloned().partition(same);
        let own = |other: &&CheckedTx| other.tx().signer() == tx.signer();
        let improved = old.iter().all(|old| improves(&tx, old.tx()));
        let crowded = others.iter().filter(own).count() >= Self::LIMITS.per_account;
        let fees: u128 = others.iter().filter(own).map(|tx| tx.fee().get()).sum();
        let known = before.iter().any(|old| old.tx().hash() == tx.hash());
        // The fee of the first one is check_tx's business.
        let unpaid =
            before.iter().any(|old| own(&old)) && fees + new.fee().get() > account.balance.get();
        if known || !improved || crowded || unpaid {
            return false;
        }
        let size = |txs: &[CheckedTx]| txs.iter().map(|tx| weight(tx.tx())).sum::<usize>();
        let rank_of = |tx: &SignedTransaction, account: Account, others: &[CheckedTx]| Rank {
            ready: is_ready(tx, account, others),
            tip: tx.body().tip_per_byte,
        };
        let mine = rank_of(&tx, account, &others);
        while size(&others) + weight(&tx) > Self::LIMITS.bytes || others.len() >= Self::LIMITS.count
        {
            let is_tail = |other: &&CheckedTx| {
                let behind = |next: &CheckedTx| {
                    next.tx().signer() == other.tx().signer()
                        && next.tx().body().nonce > other.tx().body().nonce
                };
                !own(other) && !others.iter().any(behind)
            };
            let rank = |other: &&CheckedTx| {
                let (tx, account) = (other.tx(), self.accounts[&other.tx().signer()]);
                (rank_of(tx, account, &others), tx.signer())
            };
            let least = others.iter().filter(is_tail).min_by_key(rank);
            match least.map(|least| (rank(&least).0, least.tx().clone())) {
                Some((other, victim)) if other < mine => {
                    others.retain(|other| other.tx().hash() != victim.hash());
                }
                _ => return false,
            }
        }
        others.push(new);
        self.waiting = others;
        self.accounts.insert(tx.signer(), account);
        true
    }

    fn advance(&mut self, signer: &Address, account: Account) {
        self.waiting.sort_by_key(|tx| tx.tx().body().nonce);
        let mut funds = account.balance.get();
        self.waiting.retain(|tx| {
            if tx.tx().signer() != *signer {
                return true;
            }
            let stays = tx.tx().body().nonce >= account.nonce && tx.fee().get() <= funds;
            funds -= if stays { tx.fee().get() } else { 0 };
            stays
        });
        self.accounts.insert(*signer, account);
    }

    fn ready(&self) -> BTreeSet<Hash> {
        let is_ready = |tx: &&CheckedTx| {
            let account = self.accounts[&tx.tx().signer()];
            is_ready(tx.tx(), account, &self.waiting)
        };
        let ready = self.waiting.iter().filter(is_ready);
        ready.map(|tx| tx.tx().hash()).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        seed: u8,
        nonce: u64,
        tip: u64,
        valid_until: u64,
    },
    Advance {
        seed: u8,
        balance: u128,
    },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let insert = (1_u8..5, 0_u64..5, 0_u64..4, 1_u64..6).prop_map(|step| {
        let (seed, ahead, tip, valid_until) = step;
        Step::Insert {
            seed,
            nonce: ahead,
            tip,
            valid_until,
        }
    });
    prop_oneof![
        8 => insert,
        1 => (1_u8..5, 0_u128..20_000).prop_map(|(seed, balance)| Step::Advance { seed, balance }),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_queue_does_what_the_naive_model_does(steps in prop::collection::vec(step(), 0..60)) {
        let (mut queue, mut model) = (Queue::new(Model::LIMITS), Model::default());
        let mut height = 0;
        let mut accounts: BTreeMap<u8, Account> = (1..5).map(|seed| (seed, rich(0))).collect();
        for step in steps {
            match step {
                Step::Insert { seed, nonce, tip, valid_until } => {
                    let account = accounts[&seed];
                    let nonce = account.nonce.get() + nonce;
                    let tx = tx(seed, nonce, tip, height + valid_until, 1);
                    let inserted = queue.insert(tx.clone(), account).is_ok();
                    prop_assert_eq!(inserted, model.insert(tx, account));
                }
                Step::Advance { seed, balance } => {
                    let account = accounts.get_mut(&seed).unwrap();
                    account.nonce = account.nonce.next().unwrap();
                    account.balance = Amount::new(balance);
                    let signer = key(seed).public_key().address();
                    queue.advance(&signer, *account);
                    model.advance(&signer, *account);
                }
                Step::Expire => {
                    height += 1;
                    queue.expire(Height::new(height));
                    model.waiting.retain(|tx| tx.tx().body().valid_until.get() >= height);
                }
            }
            let sizes = model.waiting.iter().map(|tx| weight(tx.tx()));
            prop_assert_eq!(queue.bytes(), sizes.sum::<usize>());
            prop_assert_eq!(queue.len(), model.waiting.len());
            prop_assert!(model.waiting.iter().all(|tx| queue.get(&tx.tx().hash()).is_some()));
            let ready = queue.select(room(), 7);
            let ready: BTreeSet<Hash> = ready.iter().map(SignedTransaction::hash).collect();
            prop_assert_eq!(ready, model.ready());
            prop_assert_eq!(queue.tails.len(), queue.accounts.len());
            prop_assert_eq!(queue.expiry.len(), queue.len());
        }
    }
}
