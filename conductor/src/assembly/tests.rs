use std::collections::BTreeMap;

use alloy_consensus::{Transaction, TxEip1559};
use alloy_primitives::{Address, B256, TxKind, U256, hex};
use counterpoint_core::primitive::EvmAddress;
use proptest::prelude::*;

use super::*;
use crate::testing::{Rollup, SlicePlan, paid, sign, transfer, whole};

fn item(raw: Bytes) -> RollupItem {
    RollupItem::Transaction(raw)
}

fn part(opens: bool, closes: bool, items: Vec<RollupItem>) -> SlicePlan {
    SlicePlan {
        opens,
        closes,
        items,
    }
}

fn deposit(index: u64, amount_gwei: u64) -> RollupItem {
    RollupItem::Deposit {
        index,
        address: EvmAddress::new([0x55; 20]),
        amount_gwei,
    }
}

fn included(closed: &Closed) -> usize {
    closed.built.block.body.transactions.len()
}

#[test]
fn good_items_run_in_order_and_bad_ones_leave_a_reason() {
    let mut rollup = Rollup::new();
    let poor = TxEip1559 {
        value: U256::MAX >> 1,
        ..transfer(1)
    };
    let below_intrinsic = TxEip1559 {
        gas_limit: 20_999,
        ..transfer(1)
    };
    let items = vec![
        paid(1, 0),
        paid(1, 0),
        paid(1, 2),
        item(sign(1, poor)),
        item(sign(1, below_intrinsic)),
        paid(9, 0),
        item(Bytes::from_static(b"\x02junk")),
        paid(1, 1),
    ];
    let closed = rollup.push(whole(items)).unwrap().unwrap();
    assert_eq!(included(&closed), 2);
    let reasons: Vec<SkipReason> = rollup.skips().iter().map(|skip| skip.reason).collect();
    let expected = [
        SkipReason::Nonce,
        SkipReason::Nonce,
        SkipReason::Balance,
        SkipReason::IntrinsicGas,
        SkipReason::Balance,
        SkipReason::Decode,
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn a_full_block_ends_at_an_item_and_the_next_goes_on_there() {
    let mut rollup = Rollup::new();
    let items = (0..6).map(|nonce| paid(1, nonce)).collect();
    let first = rollup.push(whole(items)).unwrap().unwrap();
    assert_eq!(included(&first), 4);
    let left = Cursor {
        height: Height::new(2),
        index: 4,
    };
    assert_eq!(first.extra.cursor, left);
    assert_eq!(first.extra.next_opening, Height::new(3));
    let second = rollup.push(whole(vec![paid(1, 6)])).unwrap().unwrap();
    assert_eq!(
        included(&second),
        3,
        "what was left runs before what is new"
    );
    let done = Cursor {
        height: Height::new(4),
        index: 0,
    };
    assert_eq!(second.extra.cursor, done);
    assert!(rollup.skips().is_empty());
}

/// Senders are recovered for many items at once; each item still meets its own fate.
#[test]
fn long_lists_keep_their_order() {
    let mut rollup = Rollup::new();
    let mut items = Vec::new();
    for nonce in 0..6 {
        items.push(paid(1, nonce));
        let junk = |at: u8| item(Bytes::from(vec![0x02, at]));
        items.extend((0..150).map(junk));
        items.push(deposit(nonce, 1));
        items.push(paid(9, 0));
    }
    let first = rollup.push(whole(items)).unwrap().unwrap();
    assert_eq!((included(&first), first.extra.cursor.index), (4, 4 * 153));
    let second = rollup.push(whole(vec![paid(1, 6)])).unwrap().unwrap();
    assert_eq!(included(&second), 3);
    let skips = rollup.skips();
    assert_eq!(skips.len(), 6 * 151);
    for part in skips.chunks(151) {
        let (last, junk) = part.split_last().unwrap();
        assert_eq!(last.reason, SkipReason::Balance);
        assert!(junk.iter().all(|skip| skip.reason == SkipReason::Decode));
    }
}

#[test]
fn a_block_covers_all_heights_of_its_slot() {
    let mut rollup = Rollup::new();
    assert!(
        rollup
            .push(part(true, false, vec![paid(1, 0)]))
            .unwrap()
            .is_none()
    );
    assert!(rollup.push(part(false, false, vec![])).unwrap().is_none());
    let closed = rollup
        .push(part(false, true, vec![paid(1, 1)]))
        .unwrap()
        .unwrap();
    assert_eq!(included(&closed), 2);
    assert_eq!(closed.extra.next_opening, Height::new(5));
}

#[test]
fn deposits_are_withdrawals_and_no_transactions() {
    let mut rollup = Rollup::new();
    let closed = rollup
        .push(whole(vec![deposit(0, 42), deposit(1, 8), paid(1, 0)]))
        .unwrap()
        .unwrap();
    assert_eq!(included(&closed), 1);
    let withdrawals = closed.built.block.body.withdrawals.unwrap();
    assert_eq!((withdrawals[0].index, withdrawals[0].amount), (0, 42));
    // Both reach the same account.
    let balance = rollup.balance(Address::repeat_byte(0x55));
    assert_eq!(balance, U256::from(50_000_000_000_u64));
}

#[test]
fn what_waited_too_long_is_skipped() {
    let mut rollup = Rollup::new();
    let items = (0..6).map(|nonce| paid(1, nonce)).collect();
    rollup.push(whole(items)).unwrap();
    rollup.sequence(whole(vec![paid(2, 0)]), 482);
    let closed = rollup.feed().unwrap().unwrap();
    assert_eq!(included(&closed), 1);
    let stale = |skip: &Skip| skip.reason == SkipReason::Stale;
    assert_eq!(rollup.skips().iter().filter(|skip| stale(skip)).count(), 2);
}

#[test]
fn lists_that_do_not_follow_are_refused() {
    let error = |plans: Vec<SlicePlan>| {
        let mut rollup = Rollup::new();
        let fed: Result<Vec<_>, _> = plans.into_iter().map(|plan| rollup.push(plan)).collect();
        fed.unwrap_err().to_string()
    };
    let (open, middle) = (part(true, false, vec![]), part(false, false, vec![]));
    assert_eq!(
        error(vec![middle]),
        "height 2 continues a block that never opened"
    );
    assert_eq!(
        error(vec![open.clone(), open]),
        "height 3 opens a block while another is open"
    );
    let mut rollup = Rollup::new();
    rollup.env_version = 2;
    let unknown = rollup.push(whole(vec![])).unwrap_err().to_string();
    assert!(unknown.ends_with("follows derivation rules 2: install a newer conductor"));
}

/// Init code of a contract that stores 42 and returns it to any call.
const ANSWER: &str = "602a600055600a6011600039600a6000f3602a60005260206000f3";

#[test]
fn derived_blocks_are_frozen() {
    let mut rollup = Rollup::new();
    (rollup.config.gas_limit, rollup.config.max_tx_gas) = (30_000_000, 7_500_000);
    let create = TxEip1559 {
        to: TxKind::Create,
        value: U256::ZERO,
        gas_limit: 200_000,
        input: hex::decode(ANSWER).unwrap().into(),
        ..transfer(1)
    };
    let plans = [
        whole(vec![]),
        whole(vec![
            deposit(0, 42),
            paid(1, 0),
            item(sign(1, create)),
            paid(2, 0),
        ]),
        whole(vec![paid(2, 7), paid(2, 1)]),
    ];
    let mut lines = String::new();
    for plan in plans {
        let Closed { built, extra, .. } = rollup.push(plan).unwrap().unwrap();
        let header = &built.block.header;
        lines += &format!(
            "{} {} state {} gas {} extra {}\n",
            header.number,
            built.hash,
            header.state_root,
            header.gas_used,
            hex::encode(extra.encode()),
        );
    }
    insta::assert_snapshot!(lines);
}

/// Heights of a random history: slots of one to three heights, some with more than fits.
fn any_history() -> impl Strategy<Value = Vec<(u64, SlicePlan)>> {
    let slot = (
        1_usize..4,
        1_u64..300,
        prop::collection::vec((1_u8..4, 0_u64..6), 0..14),
    );
    prop::collection::vec(slot, 1..7).prop_map(|slots| {
        let mut heights = Vec::new();
        for (length, secs, txs) in slots {
            for at in 0..length {
                let mine = txs.iter().skip(at).step_by(length);
                let items = mine.map(|(seed, nonce)| paid(*seed, *nonce)).collect();
                heights.push((secs, part(at == 0, at + 1 == length, items)));
            }
        }
        heights
    })
}

/// Blocks of a history, with the assembler started anew before the heights in `restarts`.
fn blocks(
    history: &[(u64, SlicePlan)],
    restarts: &[prop::sample::Index],
    limit: usize,
) -> Vec<(B256, ExtraData)> {
    let mut rollup = Rollup::new();
    rollup.limit(limit);
    for (secs, plan) in history {
        rollup.sequence(plan.clone(), *secs);
    }
    let mut restarts: Vec<usize> = restarts.iter().map(|at| at.index(history.len())).collect();
    let (mut blocks, mut steps) = (Vec::new(), 0);
    while rollup.is_behind() {
        if let Some(at) = restarts.iter().position(|at| *at == steps) {
            restarts.swap_remove(at);
            rollup.restart();
        }
        steps += 1;
        if let Some(closed) = rollup.feed().unwrap() {
            blocks.push((closed.built.hash, closed.extra));
            assert!(included(&closed) <= 4);
        }
    }
    blocks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn restarts_and_limits_change_nothing(
        history in any_history(),
        restarts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        limit in 0_usize..2_000,
    ) {
        let expected = blocks(&history, &[], usize::MAX);
        prop_assert_eq!(blocks(&history, &restarts, limit), expected);
    }

    #[test]
    fn every_nonce_runs_at_most_once_and_in_order(history in any_history()) {
        let mut rollup = Rollup::new();
        let mut next = BTreeMap::<Address, u64>::new();
        for (secs, plan) in history {
            rollup.sequence(plan, secs);
            let Some(closed) = rollup.feed().unwrap() else { continue };
            for tx in closed.built.block.body.transactions {
                use alloy_consensus::transaction::SignerRecoverable;
                let nonce = next.entry(tx.recover_signer().unwrap()).or_default();
                prop_assert_eq!(tx.nonce(), *nonce);
                *nonce += 1;
            }
        }
    }
}
