//! Validators, the authority, fees, upgrades, and rollups that change and leave.

use crate::support::{self, Chain, RICH, address, key, rollup};
use bytes::Bytes;
use counterpoint_core::{
    action::{
        Action, AuthorityChange, ConsensusChange, Deposit, ExitRollup, FeeChange, ScheduleUpgrade,
        SubmitData, Transfer, UpdateRollup, ValidatorUpdate,
    },
    authority::Authority,
    fees::FeeParams,
    genesis::{GenesisAccount, SequencerGenesis},
    primitive::{Address, Amount, EvmAddress, Hash, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    state::RollupRecord,
};
use counterpoint_machine::{
    AppVersion, MAX_VALID_HEIGHTS, Outcome, ParamsUpdate, PowerUpdate, Rejection, fees::Prices,
    query,
};

/// Account 1 is the whole authority, validators have the keys 101 and so on.
pub(crate) fn genesis(authority: &[u8], threshold: u8) -> SequencerGenesis {
    let account = |seed| GenesisAccount {
        address: address(seed),
        balance: Amount::new(RICH),
    };
    let mut members: Vec<Address> = authority.iter().map(|seed| address(*seed)).collect();
    members.sort();
    SequencerGenesis {
        accounts: (1..=5).map(account).collect(),
        rollups: vec![rollup("alpha", 1), rollup("beta", 2)],
        authority: Some(Authority::new(threshold, members).unwrap()),
        fees: None,
    }
}

fn chain(powers: &[u64]) -> Chain {
    Chain::start(&genesis(&[1], 1), powers)
}

fn power(seed: u8, power: u64) -> Action {
    let key = key(seed).public_key();
    Action::ValidatorUpdate(ValidatorUpdate::new(key, power, key.address()).unwrap())
}

fn update(seed: u8, power: u64) -> PowerUpdate {
    PowerUpdate {
        public_key: key(seed).public_key(),
        power,
    }
}

fn transfer(to: u8, amount: u128) -> Action {
    Action::Transfer(Transfer {
        to: address(to),
        amount: Amount::new(amount),
    })
}

fn submit(name: &str, bytes: usize) -> Action {
    let items = vec![Bytes::from(vec![7; bytes])];
    Action::SubmitData(SubmitData::new(RollupId::from_name(name), items).unwrap())
}

impl Chain {
    /// One block with one transaction; gives its code and what the block did.
    fn run(&mut self, seed: u8, actions: Vec<Action>) -> (u32, Outcome) {
        let tx = self.sign(seed, self.nonce(seed), 0, actions);
        let (_, outcome) = self.advance(vec![tx], 250);
        (outcome.codes.last().unwrap().0, outcome)
    }

    fn powers(&self) -> Vec<(Address, u64)> {
        let set = query::validators(&self.state).unwrap();
        let power = |validator: &counterpoint_core::state::Validator| {
            (validator.public_key.address(), validator.power)
        };
        set.iter().map(power).collect()
    }

    fn balance(&self, seed: u8) -> u128 {
        let account = query::account(&self.state, address(seed)).unwrap();
        account.unwrap_or_default().balance.get()
    }

    fn record(&self, name: &str) -> RollupRecord {
        let id = RollupId::from_name(name);
        query::rollup(&self.state, id).unwrap().unwrap()
    }

    /// Empty blocks until `height` is committed; gives the last outcome.
    fn idle_until(&mut self, height: u64) -> Outcome {
        loop {
            let (_, outcome) = self.advance(vec![], 250);
            if self.height >= height {
                return outcome;
            }
        }
    }
}

#[test]
fn the_authority_changes_validators_and_nobody_else() {
    let mut chain = chain(&[10; 4]);
    let (code, outcome) = chain.run(2, vec![power(105, 10)]);
    assert_eq!((code, outcome.validators.len()), (29, 0));
    let (code, outcome) = chain.run(1, vec![power(105, 10)]);
    assert_eq!((code, outcome.validators), (0, vec![update(105, 10)]));
    let (code, outcome) = chain.run(1, vec![power(105, 12), power(105, 11)]);
    assert_eq!(
        (code, outcome.validators),
        (0, vec![update(105, 11)]),
        "one entry a key"
    );
    let (code, outcome) = chain.run(1, vec![power(106, 0)]);
    assert_eq!((code, outcome.validators.len()), (34, 0), "an absent key");
    let (code, outcome) = chain.run(1, vec![power(106, 5), power(106, 0)]);
    assert_eq!(
        (code, outcome.validators.len()),
        (0, 0),
        "come and gone in one block"
    );
    let (code, outcome) = chain.run(1, vec![power(101, 10)]);
    assert_eq!(
        (code, outcome.validators.len()),
        (0, 0),
        "what stays is not told"
    );
    let (code, _) = chain.run(1, vec![power(105, 0), transfer(2, 1)]);
    assert_eq!(code, 30);
}

#[test]
fn a_key_is_rotated_in_one_block() {
    let mut chain = chain(&[10; 4]);
    let (code, outcome) = chain.run(1, vec![power(101, 0), power(111, 10)]);
    let mut expect = vec![update(101, 0), update(111, 10)];
    expect.sort_by_key(|update| update.public_key.address());
    assert_eq!((code, outcome.validators), (0, expect));
}

#[test]
fn at_most_a_third_of_the_power_moves_in_one_block() {
    let mut chain = chain(&[10, 10, 10]);
    assert_eq!(chain.run(1, vec![power(104, 11)]).0, 37);
    assert_eq!(chain.run(1, vec![power(101, 0), power(102, 9)]).0, 37);
    let txs = vec![
        chain.sign(1, 2, 0, vec![power(104, 10)]),
        chain.sign(1, 3, 0, vec![power(105, 1)]),
    ];
    let (_, outcome) = chain.advance(txs, 250);
    let codes: Vec<u32> = outcome.codes.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [0, 0, 37], "two transactions count together");
    let mut lone = self::chain(&[1]);
    assert_eq!(lone.run(1, vec![power(101, 0)]).0, 35, "the last one stays");
    assert_eq!(
        lone.run(1, vec![power(102, 1)]).0,
        0,
        "the smallest chain can grow"
    );
    let huge = ValidatorUpdate::MAX_POWER;
    assert_eq!(lone.run(1, vec![power(102, huge)]).0, 36);
}

#[test]
fn evidence_takes_all_power_at_once_and_for_ever() {
    let mut chain = chain(&[10; 4]);
    chain.accused = vec![address(102), address(102), address(77)];
    let tx = chain.sign(1, 0, 0, vec![power(102, 9)]);
    let (_, outcome) = chain.advance(vec![tx], 250);
    assert_eq!(
        outcome.codes[1].0, 33,
        "an update of the same key in the same block"
    );
    assert_eq!(outcome.validators, [update(102, 0)]);
    assert_eq!(chain.powers().len(), 3);
    assert_eq!(chain.run(1, vec![power(102, 5)]).0, 33);
    assert_eq!(
        chain.run(1, vec![power(77, 5)]).0,
        33,
        "a key that is to come, too"
    );
    chain.accused = vec![address(102)];
    let (_, outcome) = chain.advance(vec![], 250);
    assert!(outcome.validators.is_empty(), "told once");
}

#[test]
fn a_lone_validator_that_double_signs_stays_until_another_takes_over() {
    let mut chain = chain(&[3]);
    chain.accused = vec![address(101)];
    let (_, outcome) = chain.advance(vec![], 250);
    assert!(outcome.validators.is_empty());
    assert_eq!(
        chain.run(1, vec![power(101, 4)]).0,
        33,
        "but it never grows"
    );
    assert_eq!(chain.run(1, vec![power(102, 1)]).0, 0);
    assert_eq!(chain.run(1, vec![power(103, 1)]).0, 0);
    assert_eq!(chain.run(1, vec![power(104, 1)]).0, 0);
    assert_eq!(chain.run(1, vec![power(105, 2)]).0, 0);
    assert_eq!(chain.run(1, vec![power(102, 3)]).0, 0);
    assert_eq!(chain.run(1, vec![power(101, 0)]).0, 0);
    assert_eq!(chain.powers().len(), 4);
    chain.accused = vec![address(102), address(103), address(104), address(105)];
    let (_, outcome) = chain.advance(vec![], 250);
    assert_eq!((outcome.validators.len(), chain.powers().len()), (3, 1));
}

#[test]
fn members_agree_on_the_same_actions() {
    let mut chain = Chain::start(&genesis(&[1, 2, 3], 2), &[10; 4]);
    let (code, outcome) = chain.run(1, vec![power(105, 5)]);
    assert_eq!((code, outcome.validators.len()), (0, 0), "one of two");
    assert_eq!(chain.run(1, vec![power(105, 5)]).0, 31, "twice the same");
    assert_eq!(chain.run(4, vec![power(105, 5)]).0, 29);
    let (code, outcome) = chain.run(2, vec![power(105, 6)]);
    assert_eq!((code, outcome.validators.len()), (0, 0), "other actions");
    let (code, outcome) = chain.run(3, vec![power(105, 5)]);
    assert_eq!((code, outcome.validators), (0, vec![update(105, 5)]));
    let (code, outcome) = chain.run(3, vec![power(105, 5)]);
    assert_eq!(
        (code, outcome.validators.len()),
        (0, 0),
        "executed is not approved again"
    );
    for step in 0..7 {
        assert_eq!(chain.run(1, vec![power(106, step + 1)]).0, 0);
    }
    assert_eq!(chain.run(1, vec![power(106, 8)]).0, 0);
    assert_eq!(
        chain.run(1, vec![power(106, 9)]).0,
        32,
        "open proposals are bounded"
    );
}

#[test]
fn what_one_authority_began_dies_with_it() {
    let mut chain = Chain::start(&genesis(&[1, 2], 2), &[10; 4]);
    let mut members = vec![address(2), address(3)];
    members.sort();
    let authority = Authority::new(2, members).unwrap();
    let change = || {
        Action::AuthorityChange(AuthorityChange {
            authority: authority.clone(),
        })
    };
    chain.run(2, vec![power(105, 5)]);
    chain.run(1, vec![change()]);
    assert_eq!(chain.run(2, vec![change()]).0, 0);
    assert_eq!(
        chain.run(1, vec![power(105, 5)]).0,
        29,
        "the old one is out"
    );
    let (code, outcome) = chain.run(3, vec![power(105, 5)]);
    assert_eq!(
        (code, outcome.validators.len()),
        (0, 0),
        "the old word does not count"
    );
    let (code, outcome) = chain.run(2, vec![power(105, 5)]);
    assert_eq!((code, outcome.validators.len()), (0, 1));
}

#[test]
fn without_an_authority_nothing_moves() {
    let mut chain = Chain::new(vec![], 2);
    assert_eq!(chain.run(1, vec![power(105, 5)]).0, 29);
}

#[test]
fn fees_go_where_they_should() {
    let mut config = genesis(&[1], 1);
    config.rollups[0].tip_share_bps = 5_000;
    config.rollups[0].owner = address(77);
    let mut chain = Chain::start(&config, &[10; 4]);
    let key = key(101).public_key();
    let payout = ValidatorUpdate::new(key, 10, address(88)).unwrap();
    assert_eq!(chain.run(1, vec![Action::ValidatorUpdate(payout)]).0, 0);
    assert_eq!(
        chain.balance(88),
        0,
        "the block that changes it pays the old account"
    );
    let burned = query::chain(&chain.state).unwrap().burned;

    let (tip, before) = (6, chain.balance(2));
    let tx = chain.sign(2, 0, tip, vec![submit("alpha", 100), submit("beta", 50)]);
    let weight = tx.as_bytes().len() as u128 + 2 * 32;
    chain.advance(vec![tx], 250);
    let tips = weight * u128::from(tip);
    let owner = u128::from(tip) * (100 + 32) / 2;
    assert_eq!(
        chain.balance(77),
        owner,
        "half of the tip for his own bytes"
    );
    assert_eq!(
        chain.balance(88),
        tips - owner + 2_000,
        "the rest, and flat fees"
    );
    assert_eq!(
        query::chain(&chain.state).unwrap().burned.get() - burned.get(),
        weight * 8
    );
    assert_eq!(before - chain.balance(2), tips + 2_000 + weight * 8);

    let (owner, proposer) = (chain.balance(77), chain.balance(88));
    let failing = vec![submit("alpha", 100), transfer(3, RICH)];
    let (_, outcome) = {
        let tx = chain.sign(2, 1, tip, failing);
        chain.advance(vec![tx], 250)
    };
    assert_eq!(outcome.codes[1].0, 16);
    assert_eq!(chain.balance(77), owner, "no data, no share");
    assert!(chain.balance(88) > proposer, "what fails pays all the same");
}

#[test]
fn the_base_fee_follows_the_blocks() {
    let mut config = genesis(&[1], 1);
    config.fees = Some(FeeParams {
        target_block_bytes: 1_024,
        min_base_fee: 100,
        ..FeeParams::default()
    });
    let mut chain = Chain::start(&config, &[10]);
    let base_fee = |chain: &Chain| Prices::read(&chain.state).unwrap().base_fee;
    assert_eq!(base_fee(&chain), 100);
    chain.run(1, vec![submit("alpha", 1_900)]);
    let raised = base_fee(&chain);
    assert!(raised > 110, "{raised}");
    assert_eq!(Prices::read(&chain.state).unwrap().forecast(2).0, 100);
    assert!(Prices::read(&chain.state).unwrap().forecast(2).1 > raised);
    let cheap = vec![submit("alpha", 10)];
    let mut body = chain.sign(1, 1, 0, cheap).body().clone();
    body.max_fee = Amount::new(100 * 300);
    chain.idle_until(chain.height + 3);
    assert_eq!(base_fee(&chain), 100, "and back to the floor");
    let params = FeeParams {
        min_base_fee: 1_000,
        ..FeeParams::default()
    };
    let change = |params: FeeParams| vec![Action::FeeChange(FeeChange { params })];
    assert_eq!(chain.run(2, change(params.clone())).0, 29);
    assert_eq!(
        chain
            .run(
                1,
                change(FeeParams {
                    min_base_fee: 0,
                    ..params.clone()
                })
            )
            .0,
        38
    );
    assert_eq!(chain.run(1, change(params)).0, 0);
    assert_eq!(base_fee(&chain), 1_000, "from the next block on");
}

#[test]
fn rules_change_at_their_height_and_old_blocks_keep_theirs() {
    let mut chain = chain(&[10; 4]);
    let plan = |height: u64, version: u64| {
        let plan = ScheduleUpgrade::new(Height::new(height), "test".into(), version).unwrap();
        vec![Action::ScheduleUpgrade(plan)]
    };
    assert_eq!(chain.run(2, plan(9, 2)).0, 29);
    assert_eq!(chain.run(1, plan(3, 2)).0, 39);
    assert_eq!(chain.run(1, plan(9, 3)).0, 40);
    assert_eq!(chain.run(1, plan(9, 2)).0, 0);
    assert_eq!(chain.run(1, plan(9, 1)).0, 0, "called off");
    assert!(query::upgrade(&chain.state).unwrap().is_none());
    assert_eq!(chain.run(1, plan(9, 2)).0, 0);
    let flat = |chain: &mut Chain| {
        let before = chain.balance(101);
        chain.run(2, vec![transfer(3, 1)]);
        chain.balance(101) - before
    };
    assert_eq!((chain.height, flat(&mut chain)), (6, 1_000));
    let outcome = chain.idle_until(8);
    assert_eq!(outcome.params, ParamsUpdate::default());
    assert_eq!(flat(&mut chain), 2_000, "height 9 follows the new rules");
    assert_eq!(
        query::chain(&chain.state).unwrap().app_version,
        AppVersion::Test.number()
    );
    assert!(query::upgrade(&chain.state).unwrap().is_none());
}

#[test]
fn cometbft_is_told_only_what_it_accepts() {
    let mut chain = chain(&[10; 4]);
    let change = |max_block_bytes, votes: Option<u64>| {
        vec![Action::ConsensusChange(ConsensusChange {
            max_block_bytes,
            vote_extensions_height: votes.map(Height::new),
        })]
    };
    assert_eq!(chain.run(2, change(Some(2_000_000), None)).0, 29);
    assert_eq!(
        chain.run(1, change(Some(1_000_000), None)).0,
        41,
        "evidence needs room"
    );
    assert_eq!(chain.run(1, change(Some(200_000_000), None)).0, 41);
    assert_eq!(chain.run(1, change(None, Some(5))).0, 42);
    assert_eq!(chain.run(1, change(None, Some(0))).0, 42);
    assert_eq!(
        chain.run(1, change(None, Some(u64::MAX))).0,
        42,
        "CometBFT cannot count so far"
    );
    let (code, outcome) = chain.run(1, change(Some(2_000_000), Some(20)));
    let told = ParamsUpdate {
        max_block_bytes: Some(2_000_000),
        vote_extensions_height: Some(Height::new(20)),
        app_version: None,
    };
    assert_eq!((code, outcome.params), (0, told));
    let (code, outcome) = chain.run(1, change(None, Some(20)));
    assert_eq!((code, outcome.params), (0, ParamsUpdate::default()));
    assert_eq!(
        chain.run(1, change(None, Some(12))).0,
        0,
        "still to come, so it can move"
    );
    chain.idle_until(12);
    assert_eq!(chain.run(1, change(None, Some(30))).0, 43, "on is on");
}

#[test]
fn an_update_applies_after_its_notice_at_an_opening() {
    let mut chain = chain(&[10; 4]);
    chain.advance(vec![], 250);
    let old = chain.record("beta").config;
    let wanted = UpdateRollup {
        max_items_per_block: 5,
        min_tip_wei: 9,
        ..UpdateRollup::of(&old)
    };
    let change = |update: &UpdateRollup| vec![Action::UpdateRollup(update.clone())];
    assert_eq!(chain.run(2, change(&wanted)).0, 26);
    let broken = UpdateRollup {
        max_tx_gas: 1,
        ..wanted.clone()
    };
    assert_eq!(chain.run(1, change(&broken)).0, 20);
    let forked = UpdateRollup {
        chain_spec_hash: Hash::new([1; 32]),
        ..wanted.clone()
    };
    assert_eq!(chain.run(1, change(&forked)).0, 45);
    let asked_at = chain.height + 1;
    assert_eq!(chain.run(1, change(&wanted)).0, 0);
    let from = asked_at + MAX_VALID_HEIGHTS + 1;
    chain.idle_until(from - 1);
    assert_eq!(chain.record("beta").config, old);
    loop {
        let (_, outcome) = chain.advance(vec![], 250);
        let slice = &outcome
            .rollups
            .iter()
            .find(|slice| slice.config.name == "beta")
            .unwrap();
        let applied = slice.config != old;
        assert_eq!(slice.leaf.env.config_hash, slice.config.hash());
        assert!(!applied || slice.leaf.env.opens, "only at an opening");
        if applied {
            assert_eq!(slice.config.max_items_per_block, 5);
            break;
        }
        assert!(chain.height < from + 12);
    }
    assert!(chain.record("beta").pending.is_none());
}

#[test]
fn a_rollup_that_leaves_takes_nothing_along() {
    let mut chain = chain(&[10; 4]);
    chain.advance(vec![], 250);
    let id = RollupId::from_name("alpha");
    let exit = || vec![Action::ExitRollup(ExitRollup { rollup_id: id })];
    assert_eq!(chain.run(2, exit()).0, 26);
    let announced = chain.height + 1;
    assert_eq!(chain.run(1, exit()).0, 0);
    assert_eq!(chain.run(1, exit()).0, 27, "once");
    let update = UpdateRollup::of(&chain.record("alpha").config);
    assert_eq!(chain.run(1, vec![Action::UpdateRollup(update)]).0, 27);
    let last = announced + MAX_VALID_HEIGHTS;
    chain.idle_until(last - 1);
    let status = chain.record("alpha").config.status;
    assert_eq!(
        status,
        RollupStatus::Exiting(Height::new(last + 1)),
        "everybody sees it coming"
    );
    let deposit =
        |amount: u128| Action::Deposit(Deposit::new(id, EvmAddress::new([4; 20]), amount).unwrap());
    // More than the last opening can take; the rest comes back.
    let deposits = (0..40).map(|index| deposit(20_000_000 + index)).collect();
    let before = chain.balance(3);
    assert_eq!(chain.run(3, deposits).0, 0);
    let mut closed = false;
    loop {
        let tx = chain.sign(4, chain.nonce(4), 0, vec![submit("alpha", 10)]);
        let (_, outcome) = chain.advance(vec![tx], 250);
        let Some(slice) = outcome
            .rollups
            .iter()
            .find(|slice| slice.leaf.rollup_id == id)
        else {
            assert_eq!(outcome.codes[1].0, Rejection::InactiveRollup(id).code());
            assert!(closed && chain.height > last);
            break;
        };
        assert_eq!(outcome.codes[1].0, 0, "served until its last leaf");
        closed = slice.leaf.env.closes;
        assert!(chain.height < last + 12);
    }
    let emitted = query::deposits(&chain.state, id).unwrap();
    assert_eq!(emitted.queued, emitted.emitted, "nothing waits any more");
    let gone: u128 =
        (0..u128::from(emitted.emitted)).fold(0, |gone, index| gone + 20_000_000 + index);
    assert!(
        before - chain.balance(3) - gone < 1_000_000,
        "only fees and what was minted"
    );
    assert_eq!(query::chain(&chain.state).unwrap().rollups, 1);
    assert_eq!(chain.run(1, exit()).0, 19);
    assert_eq!(chain.run(3, vec![deposit(20_000_000)]).0, 19);
    assert_eq!(
        chain.record("alpha").config.name,
        "alpha",
        "it is still known"
    );
}

#[test]
fn rent_keeps_a_rollup_and_its_end_makes_it_leave() {
    let mut config = genesis(&[1], 1);
    config.fees = Some(FeeParams {
        rent_per_height: 1,
        registration_deposit: Amount::new(5_000),
        ..FeeParams::default()
    });
    let mut chain = Chain::start(&config, &[10; 4]);
    chain.advance(vec![], 250);
    assert_eq!(chain.record("alpha").paid_until, Height::new(u64::MAX));
    assert_eq!(
        chain.run(2, vec![support::register("gamma", 2_000_000)]).0,
        44
    );
    let RollupConfig { name, .. } = rollup("gamma", 1);
    let before = query::chain(&chain.state).unwrap();
    assert_eq!(chain.run(2, vec![support::register("gamma", 6)]).0, 0);
    let after = query::chain(&chain.state).unwrap();
    assert_eq!(after.locked.get() - before.locked.get(), 5_000);
    assert!(after.burned.get() - before.burned.get() > 10_000_000);
    let paid_until = chain.record(&name).paid_until;
    assert_eq!(paid_until, Height::new(6 + 10_000_000));
    let rent = UpdateRollup {
        rent: Amount::new(77),
        ..UpdateRollup::of(&chain.record(&name).config)
    };
    chain.idle_until(6);
    assert_eq!(chain.run(2, vec![Action::UpdateRollup(rent)]).0, 0);
    assert_eq!(chain.record(&name).paid_until.get(), paid_until.get() + 77);
    assert!(
        chain.record(&name).pending.is_none(),
        "nothing else changed"
    );
    // Straight to the end of what is paid.
    let due = chain.record(&name).paid_until.get();
    chain.skip_to(due - 1);
    chain.advance(vec![], 250);
    assert!(chain.record(&name).leaves());
    let locked = query::chain(&chain.state).unwrap().locked.get();
    let owner = chain.balance(2);
    chain.idle_until(due + MAX_VALID_HEIGHTS + 8);
    assert_eq!(query::chain(&chain.state).unwrap().rollups, 2);
    assert_eq!(
        locked - query::chain(&chain.state).unwrap().locked.get(),
        5_000
    );
    assert_eq!(chain.balance(2) - owner, 5_000, "the deposit comes back");
    assert_eq!(
        chain.run(2, vec![support::register("gamma", due + 700)]).0,
        21
    );
}
