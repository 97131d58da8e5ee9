//! The laws of the state machine, over random rounds and by forged blocks.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

mod atomic;
mod operations;
mod support;

use bytes::Bytes;
use counterpoint_core::{
    action::{
        Action, AuthorityChange, ConsensusChange, Deposit, ExitRollup, FeeChange, ScheduleUpgrade,
        SubmitData, Transfer, UpdateRollup, ValidatorUpdate,
    },
    authority::Authority,
    block::{Preamble, RollupItem},
    fees::FeeParams,
    primitive::{Amount, EvmAddress, Height, RollupId},
};
use counterpoint_machine::{Block, ExecuteError, Outcome, Refusal, Rejection, check_tx, query};
use proptest::prelude::*;
use support::{CHAIN_ID, Chain, GENESIS_SECS, RICH, address, key, register, rollup};

fn transfer(to: u8, amount: u128) -> Action {
    Action::Transfer(Transfer {
        to: address(to),
        amount: Amount::new(amount),
    })
}

fn submit(name: &str, items: &[&'static [u8]]) -> Action {
    let items = items.iter().map(|item| Bytes::from_static(item)).collect();
    Action::SubmitData(SubmitData::new(RollupId::from_name(name), items).unwrap())
}

fn deposit(name: &str, amount: u128) -> Action {
    let to = EvmAddress::new([4; 20]);
    Action::Deposit(Deposit::new(RollupId::from_name(name), to, amount).unwrap())
}

fn list<'a>(outcome: &'a Outcome, name: &str) -> &'a [RollupItem] {
    let id = RollupId::from_name(name);
    &outcome
        .rollups
        .iter()
        .find(|slice| slice.leaf.rollup_id == id)
        .unwrap()
        .items
}

fn chain() -> Chain {
    let mut chain = Chain::new(vec![rollup("alpha", 1), rollup("beta", 2)], 5);
    chain.advance(vec![], 250);
    chain
}

#[test]
fn a_scripted_chain_has_a_frozen_app_hash() {
    let mut chain = chain();
    chain.advance(
        vec![chain.sign(
            1,
            0,
            3,
            vec![transfer(2, 5), submit("alpha", &[b"a", b"bc"])],
        )],
        250,
    );
    chain.advance(
        vec![chain.sign(2, 0, 0, vec![deposit("beta", 20_000_000)])],
        900,
    );
    chain.advance(vec![chain.sign(1, 1, 0, vec![register("gamma", 8)])], 900);
    chain.advance(vec![], 900);
    insta::assert_snapshot!(chain.app_hash);
}

#[test]
fn slots_number_rollup_blocks() {
    let mut chain = Chain::new(vec![rollup("alpha", 1), rollup("beta", 2)], 1);
    let mut seen = Vec::new();
    for _ in 0..12 {
        let (_, outcome) = chain.advance(vec![], 400);
        for slice in &outcome.rollups {
            let env = &slice.leaf.env;
            assert_eq!(env.config_hash, slice.config.hash());
            assert_eq!(env.opens, env.beacon_root != [0; 32]);
            if slice.config.name == "alpha" {
                seen.push((
                    env.slot.get() - GENESIS_SECS,
                    env.number,
                    env.opens,
                    env.closes,
                ));
            }
        }
    }
    // Header times 0, 0.4, 0.8, 1.2 … and every height has the slot of the header before.
    insta::assert_debug_snapshot!(seen);
}

#[test]
fn a_closing_height_is_followed_by_an_opening_one() {
    let mut chain = Chain::new(vec![rollup("alpha", 1), rollup("beta", 3)], 1);
    let mut closed = [true; 2];
    for step in 0..60 {
        let (_, outcome) = chain.advance(vec![], 130 + 37 * (step % 23));
        for (slice, closed) in outcome.rollups.iter().zip(&mut closed) {
            assert_eq!(slice.leaf.env.opens, *closed);
            *closed = slice.leaf.env.closes;
        }
    }
}

#[test]
fn deposits_arrive_at_openings_at_most_16_in_order() {
    let mut chain = chain();
    for nonce in 0..20 {
        chain.advance(
            vec![chain.sign(
                1,
                nonce,
                0,
                vec![deposit("alpha", 10_000_000 + u128::from(nonce))],
            )],
            10,
        );
    }
    let mut emitted = Vec::new();
    for _ in 0..4 {
        let (_, outcome) = chain.advance(vec![], 1_000);
        assert!(list(&outcome, "alpha").len() <= 16);
        emitted.extend(list(&outcome, "alpha").to_vec());
    }
    let expect = |index: u64| RollupItem::Deposit {
        index,
        address: EvmAddress::new([4; 20]),
        amount_gwei: 10_000_000 + index,
    };
    assert_eq!(emitted, (0..20).map(expect).collect::<Vec<_>>());
    assert_eq!(
        query::chain(&chain.state).unwrap().locked.get(),
        20 * 10_000_000 + 190
    );
}

#[test]
fn a_registered_rollup_starts_at_its_first_height() {
    let mut chain = chain();
    chain.advance(vec![chain.sign(1, 0, 0, vec![register("gamma", 5)])], 250);
    let id = RollupId::from_name("gamma");
    let leaves = |outcome: &Outcome| {
        outcome
            .rollups
            .iter()
            .any(|slice| slice.leaf.rollup_id == id)
    };
    let early = chain.sign(2, 0, 0, vec![submit("gamma", &[b"early"])]);
    let (_, outcome) = chain.advance(vec![early], 250);
    assert!(!leaves(&outcome) && chain.height == 3);
    assert_eq!(outcome.codes[1].0, Rejection::InactiveRollup(id).code());
    chain.advance(vec![], 250);
    let (_, outcome) = chain.advance(vec![], 250);
    let slice = outcome
        .rollups
        .iter()
        .find(|slice| slice.leaf.rollup_id == id)
        .unwrap();
    assert!(slice.leaf.env.opens && slice.leaf.env.number == 1 && chain.height == 5);
}

#[track_caller]
fn check_action(actions: Vec<Action>, code: u32) {
    let mut chain = chain();
    let before = query::account(&chain.state, address(1)).unwrap().unwrap();
    let (_, outcome) = chain.advance(vec![chain.sign(1, 0, 0, actions)], 250);
    assert_eq!(outcome.codes.last().unwrap().0, code, "{:?}", outcome.codes);
    let after = query::account(&chain.state, address(1)).unwrap().unwrap();
    assert_eq!(after.nonce.get(), 1, "the nonce is taken either way");
    assert!(
        after.balance < before.balance,
        "the fee is taken either way"
    );
    let unpaid = list(&outcome, "alpha").is_empty() && list(&outcome, "beta").is_empty();
    assert!(code == 0 || unpaid, "what failed adds nothing to lists");
}

#[test]
fn actions_apply_all_or_none() {
    check_action(vec![transfer(2, 5), submit("alpha", &[b"x"])], 0);
    check_action(vec![submit("alpha", &[b"x"]), transfer(2, RICH)], 16);
    check_action(vec![transfer(2, 5), submit("nobody", &[b"x"])], 18);
    check_action(vec![register("alpha", 20)], 21);
    check_action(vec![register("gamma", 3)], 23);
    check_action(vec![register("gamma", 4)], 0);
    check_action(vec![register("gamma", 20), register("gamma", 20)], 21);
}

#[test]
fn a_mempool_refuses_what_no_block_may_have() {
    let chain = chain();
    let next = Height::new(chain.height + 1);
    let check = |tx, expect: u32| {
        let code = match check_tx(&chain.state, tx, next) {
            Ok(_) => 0,
            Err(ExecuteError::Rejected(rejection)) => rejection.code(),
            Err(ExecuteError::Store(fault)) => panic!("{fault}"),
        };
        assert_eq!(code, expect);
    };
    check(chain.sign(1, 0, 0, vec![transfer(2, 1)]), 0);
    check(chain.sign(1, 7, 0, vec![transfer(2, 1)]), 0);
    check(chain.sign(9, 0, 0, vec![transfer(2, 1)]), 4);
    check(chain.sign(1, 0, u64::MAX, vec![transfer(2, 1)]), 7);
    let items = |count| vec![b"x".as_slice(); count];
    check(chain.sign(1, 7, 0, vec![submit("alpha", &items(20))]), 0);
    let halves = vec![submit("alpha", &items(11)), submit("alpha", &items(10))];
    check(chain.sign(1, 7, 0, halves), 9);
    check(chain.sign(1, 0, 0, vec![transfer(2, RICH)]), 16);
    let mut late = Chain::new(vec![], 1);
    late.height = 700;
    check(late.sign(1, 0, 0, vec![transfer(2, 1)]), 6);
    let stale = Chain::new(vec![], 1).sign(1, 0, 0, vec![transfer(2, 1)]);
    let error = check_tx(&chain.state, stale, Height::new(11)).unwrap_err();
    assert!(matches!(
        error,
        ExecuteError::Rejected(Rejection::Expired { .. })
    ));
    assert_eq!(query::chain(&chain.state).unwrap().chain_id, CHAIN_ID);
}

/// What a validator says to the honest next block after `forge` has changed it.
fn judge_forged(forge: impl FnOnce(&Chain, &mut Vec<Bytes>)) -> Result<(), Refusal> {
    let chain = chain();
    let txs = vec![
        chain.sign(1, 0, 5, vec![submit("alpha", &[b"one"])]),
        chain.sign(1, 1, 5, vec![submit("alpha", &[b"two"])]),
        chain.sign(2, 0, 9, vec![submit("beta", &[b"three"])]),
    ];
    let ctx = chain.ctx();
    let mut items = counterpoint_machine::prepare(&chain.state, &ctx, &[], txs, 8_000).unwrap();
    assert_eq!(items.len(), 4);
    chain.judge(&items).unwrap();
    forge(&chain, &mut items);
    chain.judge(&items)
}

#[test]
fn forged_blocks_are_rejected() {
    assert!(matches!(
        judge_forged(|_, items| items.clear()),
        Err(Refusal::Empty)
    ));
    assert!(matches!(
        judge_forged(|_, items| items.swap(1, 3)),
        Err(Refusal::Order)
    ));
    let omit = judge_forged(|_, items| drop(items.pop()));
    assert!(matches!(omit, Err(Refusal::Commitment)));
    let gap = judge_forged(|_, items| drop(items.remove(2)));
    assert!(matches!(
        gap,
        Err(Refusal::Transaction {
            rejection: Rejection::Nonce(_),
            ..
        })
    ));
    let twice = judge_forged(|_, items| items.push(items[3].clone()));
    assert!(twice.is_err());
    let garbage = judge_forged(|_, items| items.push(Bytes::from_static(&[0x10, 1, 2])));
    assert!(matches!(garbage, Err(Refusal::Item { index: 4, .. })));
    let system = judge_forged(|_, items| items.insert(1, Bytes::from_static(&[0x02])));
    assert!(matches!(system, Err(Refusal::SystemItem { index: 1, .. })));
    let preamble = judge_forged(|_, items| items[0] = Preamble::new(&[]).encode());
    assert!(matches!(preamble, Err(Refusal::Commitment)));
    let stranger = judge_forged(|chain, items| {
        items.push(chain.sign(9, 0, 0, vec![transfer(1, 1)]).as_bytes().clone());
    });
    assert!(matches!(
        stranger,
        Err(Refusal::Transaction {
            rejection: Rejection::NoAccount,
            ..
        })
    ));
    let overfull = judge_forged(|chain, items| {
        let many = vec![b"x".as_slice(); 20];
        items.push(
            chain
                .sign(3, 0, 0, vec![submit("alpha", &many)])
                .as_bytes()
                .clone(),
        );
    });
    assert!(matches!(overfull, Err(Refusal::Overfull { index: 4 })));
}

#[test]
fn an_overfull_rollup_costs_nobody_else_his_place() {
    let mut chain = chain();
    let many = vec![b"x".as_slice(); 15];
    let txs = vec![
        chain.sign(1, 0, 9, vec![submit("alpha", &many)]),
        chain.sign(2, 0, 5, vec![submit("alpha", &many)]),
        chain.sign(3, 0, 1, vec![submit("beta", &many)]),
    ];
    let (items, outcome) = chain.advance(txs, 250);
    assert_eq!(items.len(), 3);
    assert_eq!(
        (list(&outcome, "alpha").len(), list(&outcome, "beta").len()),
        (15, 15)
    );
    assert_eq!(chain.nonce(2), 0, "what was left out did not pay");
}

fn any_order() -> impl Strategy<Value = Action> {
    prop_oneof![
        (101_u8..107, 0_u64..20, 1_u8..9).prop_map(|(seed, power, payout)| {
            let key = key(seed).public_key();
            let update = ValidatorUpdate::new(key, power, address(payout));
            Action::ValidatorUpdate(update.unwrap())
        }),
        (1_u8..4, 1_u8..3).prop_map(|(member, threshold)| {
            let mut members = vec![address(member), address(4)];
            members.sort();
            let authority = Authority::new(threshold, members).unwrap();
            Action::AuthorityChange(AuthorityChange { authority })
        }),
        (1_024_u64..10_000, 0_u64..50, 0_u64..500).prop_map(|(target, base_fee, flat)| {
            Action::FeeChange(FeeChange {
                params: FeeParams {
                    target_block_bytes: target,
                    min_base_fee: base_fee,
                    action_fee: flat,
                    rent_per_height: flat,
                    ..FeeParams::default()
                },
            })
        }),
        (1_u64..40, 1_u64..4).prop_map(|(height, version)| {
            let plan = ScheduleUpgrade::new(Height::new(height), "next".into(), version);
            Action::ScheduleUpgrade(plan.unwrap())
        }),
        (any::<Option<u32>>(), prop::option::of(0_u64..40)).prop_map(|(bytes, votes)| {
            Action::ConsensusChange(ConsensusChange {
                max_block_bytes: bytes.map(u64::from),
                vote_extensions_height: votes.map(Height::new),
            })
        }),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    let names = prop::sample::select(vec!["alpha", "beta", "gamma", "delta", "nobody"]);
    let config = |name: &str| counterpoint_core::registry::RollupConfig {
        owner: address(2),
        ..rollup(name, 1)
    };
    prop_oneof![
        1 => (names.clone(), 0_u128..1_000, 0_u16..6_000).prop_map(move |(name, rent, share)| {
            Action::UpdateRollup(UpdateRollup {
                rent: Amount::new(rent),
                tip_share_bps: share,
                ..UpdateRollup::of(&config(name))
            })
        }),
        1 => names.clone().prop_map(|name| {
            let rollup_id = RollupId::from_name(name);
            Action::ExitRollup(ExitRollup { rollup_id })
        }),
        1 => any_order(),
        2 => atomic::any_action(),
        4 => (1_u8..8, 0..RICH).prop_map(|(to, amount)| transfer(to, amount / 3)),
        4 => (names.clone(), 1_usize..8).prop_map(|(name, count)| submit(name, &vec![b"data".as_slice(); count])),
        1 => (names.clone(), 10_000_000_u128..20_000_000).prop_map(|(name, amount)| deposit(name, amount)),
        1 => (names, 1_u64..30).prop_map(|(name, height)| register(name, height)),
    ]
}

/// A signer, how far its nonce lies ahead, its tip and its actions.
type Intent = (u8, u64, u64, Vec<Action>);

/// Transactions, evidence, the time until the next block, and heights that are passed over.
type Round = (Vec<Intent>, Vec<u8>, u64, u64);

fn any_round() -> impl Strategy<Value = Round> {
    let actions = prop_oneof![
        4 => prop::collection::vec(any_action(), 1..4),
        1 => prop::collection::vec(any_order(), 1..3),
    ];
    let intent = (1_u8..8, 0_u64..3, 0_u64..4, actions);
    let accused = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(101_u8..106, 1..3)];
    // Far enough for what has a notice to take effect.
    let skipped = prop_oneof![8 => Just(0_u64), 1 => Just(650_u64)];
    (
        prop::collection::vec(intent, 0..8),
        accused,
        1_u64..2_500,
        skipped,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// `Chain::advance` asserts: what prepare builds, process accepts; replay repeats it with and
    /// without remembered signatures; supply is conserved.
    #[test]
    fn random_rounds_keep_the_laws(rounds in prop::collection::vec(any_round(), 1..12)) {
        let start = || {
            let mut genesis = operations::genesis(&[1, 2], 1);
            genesis.rollups[0].tip_share_bps = 3_000;
            for rollup in &mut genesis.rollups {
                rollup.attesters = atomic::attesters();
            }
            Chain::start(&genesis, &[10; 4])
        };
        let (mut chain, mut twin) = (start(), start());
        for (intents, accused, millis, skipped) in rounds {
            for chain in [&mut chain, &mut twin] {
                chain.accused = accused.iter().map(|seed| address(*seed)).collect();
                chain.skip_to(chain.height + skipped);
            }
            let sign = |(seed, ahead, tip, actions): Intent| {
                chain.sign(seed, chain.nonce(seed) + ahead, tip, actions)
            };
            let txs: Vec<_> = intents.into_iter().map(sign).collect();
            let (items, _) = chain.advance(txs, millis);
            // Offered exactly what was chosen, backwards, another proposer builds the same block.
            let chosen = Block::decode(&items, |_| None).unwrap();
            let backwards = chosen.transactions().iter().rev().cloned().collect();
            let (same, _) = twin.advance(backwards, millis);
            prop_assert_eq!(items, same);
            prop_assert_eq!(chain.app_hash, twin.app_hash);
        }
        // The root depends on what is there alone, not on how it came to be.
        prop_assert_eq!(chain.app_hash, chain.root_of_everything());
    }
}
