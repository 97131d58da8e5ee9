use std::collections::BTreeMap;

use alloy_consensus::{
    Transaction, TxEip1559, proofs::calculate_receipt_root, transaction::SignerRecoverable,
};
use alloy_primitives::{Address, B256, TxKind, U256, hex};
use counterpoint_core::{primitive::EvmAddress, registry::RollupStatus};
use proptest::prelude::*;

use super::*;
use crate::{
    receipts::Told,
    testing::{Rollup, SlicePlan, failing, leg, paid, sign, transfer, whole},
};

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

/// The places of a block's transactions in the sequencer's order, as they were told.
fn places(rollup: &Rollup, number: u64) -> Vec<(u64, u32)> {
    let place = |told: Told| match told.event.as_ref() {
        Event::Included { place, .. } if told.block.number == number => {
            Some((place.height.get(), place.index))
        }
        _ => None,
    };
    rollup.told().into_iter().filter_map(place).collect()
}

#[test]
fn legs_run_before_what_waits_and_do_not_move_the_cursor() {
    let mut rollup = Rollup::new();
    let items = (0..6).map(|nonce| paid(1, nonce)).collect();
    rollup.push(whole(items)).unwrap();
    let legs = [0, 1].map(|nonce| leg(sign(2, transfer(nonce))));
    let items = [&[deposit(0, 1)], &legs[..], &[paid(1, 6)]].concat();
    let second = rollup.push(whole(items)).unwrap().unwrap();
    assert_eq!(places(&rollup, 2), [(3, 1), (3, 2), (2, 4), (2, 5)]);
    let left = Cursor {
        height: Height::new(3),
        index: 3,
    };
    assert_eq!(second.extra.cursor, left);
    let [executed] = &second.legs[..] else {
        panic!("one leg: {:?}", second.legs);
    };
    assert!(executed.succeeds() && executed.txs.len() == 2 && executed.height == Height::new(3));
    let third = rollup.push(whole(vec![])).unwrap().unwrap();
    assert_eq!(places(&rollup, 3), [(3, 3)]);
    assert!(third.legs.is_empty());
}

#[test]
fn a_leg_is_executed_at_the_opening_height_or_never() {
    let mut rollup = Rollup::new();
    let late = vec![leg(sign(2, transfer(0))), paid(1, 0)];
    rollup.push(part(true, false, vec![])).unwrap();
    let closed = rollup.push(part(false, true, late)).unwrap().unwrap();
    assert_eq!(places(&rollup, 1), [(3, 1)]);
    assert!(closed.legs.is_empty());
}

#[test]
fn a_leg_that_fails_is_taken_as_it_is() {
    let mut rollup = Rollup::new();
    let items = vec![
        leg(sign(2, transfer(0))),
        leg(sign(2, failing(1))),
        leg(sign(2, transfer(7))),
        paid(2, 2),
    ];
    let closed = rollup.push(whole(items)).unwrap().unwrap();
    assert_eq!(places(&rollup, 1), [(2, 0), (2, 1), (2, 3)]);
    let [executed] = &closed.legs[..] else {
        panic!("one leg: {:?}", closed.legs);
    };
    let came: Vec<_> = executed
        .txs
        .iter()
        .map(|(_, result)| result.clone())
        .collect();
    let status = |at: usize| {
        came[at]
            .as_ref()
            .map(alloy_consensus::ReceiptEnvelope::status)
    };
    assert_eq!(status(0), Ok(true));
    assert_eq!(status(1), Ok(false));
    assert_eq!(status(2), Err(&SkipReason::Nonce));
    assert!(!executed.succeeds());
}

#[test]
fn a_leg_without_room_is_no_block_of_this_chain() {
    let mut rollup = Rollup::new();
    let items = (0..5).map(|nonce| leg(sign(1, transfer(nonce)))).collect();
    let error = rollup.push(whole(items)).unwrap_err().to_string();
    assert_eq!(
        error,
        "height 2 releases a leg that its block has no room for"
    );
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

#[test]
fn the_last_block_is_the_one_before_the_opening_at_which_a_rollup_leaves() {
    let mut rollup = Rollup::new();
    rollup.config.status = RollupStatus::Exiting(Height::new(4));
    let first = rollup.push(whole(vec![])).unwrap().unwrap();
    assert_eq!(first.left, None, "height 3 opens another");
    rollup.push(part(true, false, vec![])).unwrap();
    let items = (0..6).map(|nonce| paid(1, nonce)).collect();
    // The exit's height is no opening: it takes effect at the next one.
    let last = rollup.push(part(false, true, items)).unwrap().unwrap();
    assert_eq!(last.left, Some(rollup.config.clone()));
    let backlog = Cursor {
        height: Height::new(4),
        index: 4,
    };
    assert_eq!(last.extra.cursor, backlog);
    assert_eq!(last.extra.next_opening, Height::new(5));
    rollup.restart();
    assert_eq!(rollup.progress.left, Some(rollup.config.clone()));
}

/// Heights of a random history: slots of one to three heights, some with more than fits, some with
/// legs, which need not succeed.
fn any_history() -> impl Strategy<Value = Vec<(u64, SlicePlan)>> {
    let slot = (
        1_usize..4,
        1_u64..300,
        prop::collection::vec((1_u8..4, 0_u64..6), 0..14),
        prop::collection::vec((1_u8..4, 0_u64..6), 0..3),
    );
    prop::collection::vec(slot, 1..7).prop_map(|slots| {
        let mut heights = Vec::new();
        for (length, secs, txs, legs) in slots {
            let legs = legs
                .iter()
                .map(|(seed, nonce)| leg(sign(*seed, transfer(*nonce))));
            let mut legs = legs.collect::<Vec<_>>();
            for at in 0..length {
                let mine = txs.iter().skip(at).step_by(length);
                let mut items = std::mem::take(&mut legs);
                items.extend(mine.map(|(seed, nonce)| paid(*seed, *nonce)));
                heights.push((secs, part(at == 0, at + 1 == length, items)));
            }
        }
        heights
    })
}

/// How a conductor fares on its way through a history.
#[derive(Clone, Debug, Default)]
struct Fate {
    /// It starts anew before these heights.
    restarts: Vec<prop::sample::Index>,
    /// Bytes of items that it may keep waiting.
    limit: usize,
    /// Blocks that its client lags behind.
    depth: usize,
}

fn any_fate() -> impl Strategy<Value = Fate> {
    let restarts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (restarts, 0_usize..2_000, 0_usize..4).prop_map(|(restarts, limit, depth)| Fate {
        restarts,
        limit,
        depth,
    })
}

/// Everything that was told, by block and by place in the telling; what is told again is the same.
#[derive(Debug, Default)]
struct Witness(BTreeMap<u64, Vec<Event>>);

impl Witness {
    fn hear(&mut self, rollup: &Rollup) {
        let mut heard = BTreeMap::<u64, Vec<Event>>::new();
        for told in rollup.told() {
            let event = told.event.as_ref().clone();
            heard.entry(told.block.number).or_default().push(event);
        }
        for (number, events) in heard {
            let before = self.0.entry(number).or_default();
            let both = before.len().min(events.len());
            assert_eq!(before[..both], events[..both], "block {number}");
            if events.len() > before.len() {
                *before = events;
            }
        }
    }

    /// What was told of a block is what it holds.
    fn check(&self, closed: &Closed) {
        let (header, body) = (&closed.built.block.header, &closed.built.block.body);
        let events = &self.0[&header.number];
        let receipts = events.iter().filter_map(|event| match event {
            Event::Included { receipt, .. } => Some(receipt.as_ref()),
            _ => None,
        });
        let receipts: Vec<_> = receipts.collect();
        let hashes = body.transactions.iter().map(|tx| *tx.tx_hash());
        assert!(receipts.iter().map(|receipt| receipt.hash).eq(hashes));
        let envelopes: Vec<_> = receipts.iter().map(|receipt| &receipt.envelope).collect();
        assert_eq!(calculate_receipt_root(&envelopes), header.receipts_root);
        let (mut gas_used, mut logs) = (0, 0);
        for (index, (receipt, tx)) in receipts.iter().zip(&body.transactions).enumerate() {
            gas_used += receipt.gas_used;
            assert_eq!(receipt.envelope.cumulative_gas_used(), gas_used);
            assert_eq!((receipt.index, receipt.first_log), (index as u64, logs));
            logs += receipt.envelope.logs().len() as u64;
            let price = tx.effective_gas_price(header.base_fee_per_gas);
            assert_eq!(receipt.effective_gas_price, price);
            assert_eq!(receipt.from, tx.recover_signer().unwrap());
        }
        assert!(
            matches!(events.first(), Some(Event::Opened { number, timestamp, .. })
            if (*number, *timestamp) == (header.number, header.timestamp))
        );
        assert!(matches!(events.last(), Some(Event::Closed { hash, .. })
            if *hash == closed.built.hash));
    }
}

/// Blocks of a history, and what was told of them.
fn blocks(history: &[(u64, SlicePlan)], fate: &Fate) -> (Vec<(B256, ExtraData)>, Witness) {
    let mut rollup = Rollup::new();
    rollup.limit(fate.limit);
    rollup.lag(fate.depth);
    for (secs, plan) in history {
        rollup.sequence(plan.clone(), *secs);
    }
    let restarts = fate.restarts.iter().map(|at| at.index(history.len()));
    let mut restarts: Vec<usize> = restarts.collect();
    let (mut blocks, mut witness, mut steps) = (BTreeMap::new(), Witness::default(), 0);
    while rollup.is_behind() {
        if let Some(at) = restarts.iter().position(|at| *at == steps) {
            restarts.swap_remove(at);
            witness.hear(&rollup);
            rollup.restart();
        }
        steps += 1;
        if let Some(closed) = rollup.feed().unwrap() {
            witness.hear(&rollup);
            witness.check(&closed);
            assert!(included(&closed) <= 4);
            let block = (closed.built.hash, closed.extra);
            let before = blocks.insert(closed.built.block.header.number, block);
            assert!(before.is_none_or(|before| before == block), "built again");
        }
    }
    witness.hear(&rollup);
    (blocks.into_values().collect(), witness)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn crashes_limits_and_slow_clients_change_nothing(history in any_history(), fate in any_fate()) {
        let quiet = Fate { limit: usize::MAX, ..Fate::default() };
        let (expected, told) = blocks(&history, &quiet);
        let (actual, told_again) = blocks(&history, &fate);
        prop_assert_eq!(actual, expected);
        prop_assert_eq!(told_again.0, told.0);
    }

    #[test]
    fn every_nonce_runs_at_most_once_and_in_order(history in any_history()) {
        let mut rollup = Rollup::new();
        let mut next = BTreeMap::<Address, u64>::new();
        for (secs, plan) in history {
            rollup.sequence(plan, secs);
            let Some(closed) = rollup.feed().unwrap() else { continue };
            for tx in closed.built.block.body.transactions {
                let nonce = next.entry(tx.recover_signer().unwrap()).or_default();
                prop_assert_eq!(tx.nonce(), *nonce);
                *nonce += 1;
            }
        }
    }
}
