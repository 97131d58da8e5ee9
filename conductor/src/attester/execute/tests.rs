use std::sync::Arc;

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, TxKind, U256, keccak256};
use alloy_sol_types::SolCall;
use counterpoint_contracts::{
    IAtomicMailbox::{closeCall, openCall, receiveMessageCall, sendCall},
    MAILBOX, predeploys,
};
use counterpoint_core::{
    atomic::{Caller, session_id, ticket},
    primitive::{EvmAddress, Hash},
};

use super::*;
use crate::{
    chain_spec::Specification,
    derive::Rules,
    evm::{BlockInputs, MemStore, Store},
    testing::{CHAIN_ID, GENESIS_TIME, failing, genesis, sign, transfer, wallet},
};

const HERE: RollupId = RollupId::new([1; 32]);
const THERE: RollupId = RollupId::new([2; 32]);
const SALT: Hash = Hash::new([3; 32]);
const GAS: u64 = 1_000_000;

/// A letter in each direction, from wallet 1 to itself.
fn messages() -> Vec<Message> {
    let address = EvmAddress::new(wallet(1).address().into_array());
    let message = |src, dst, data: &'static [u8]| Message {
        src,
        dst,
        index: 0,
        sender: address,
        receiver: address,
        data: Bytes::from_static(data),
    };
    vec![
        message(HERE, THERE, b"there"),
        message(THERE, HERE, b"here"),
    ]
}

fn callers() -> Vec<Caller> {
    let address = EvmAddress::new(wallet(1).address().into_array());
    [HERE, THERE]
        .map(|rollup_id| Caller { rollup_id, address })
        .to_vec()
}

/// The first block of a rollup that a leg is released into.
fn block() -> BlockBuilder {
    let mut genesis = genesis();
    genesis.alloc.extend(predeploys());
    let store: Arc<dyn Store> = Arc::new(MemStore::default());
    let specification = Specification::new(&genesis, store.as_ref()).unwrap();
    let rules = Rules {
        chain_id: CHAIN_ID,
        max_tx_gas: 2 * GAS,
        min_tip_wei: 1,
        allow_unprotected: true,
    };
    let session = session_id(&SALT, &callers());
    let ticket = ticket("test", &HERE, &session, &inbox_hash(&HERE, &messages()));
    let inputs = BlockInputs {
        number: 1,
        timestamp: GENESIS_TIME + 1,
        prev_randao: B256::ZERO,
        beacon_root: B256::new(*ticket.as_bytes()),
        fee_recipient: Address::repeat_byte(0xfe),
        gas_limit: 30_000_000,
        withdrawals: Vec::new(),
    };
    let parent = specification.genesis_header();
    let parent = (parent, parent.hash_slow());
    BlockBuilder::begin(Arc::new(store), &specification, rules, parent, inputs).unwrap()
}

fn leg(txs: Vec<TxEip1559>, messages: &[Message]) -> LegOutcome {
    let raws: Vec<Bytes> = txs.into_iter().map(|tx| sign(1, tx)).collect();
    execute(&mut block(), &HERE, &raws, messages).unwrap()
}

#[track_caller]
fn check(txs: Vec<TxEip1559>, failure: Failure, tx: u8) {
    assert_eq!(leg(txs, &[]), LegOutcome::Abort { failure, tx });
}

fn call(nonce: u64, call: &impl SolCall) -> TxEip1559 {
    TxEip1559 {
        to: TxKind::Call(MAILBOX),
        value: U256::ZERO,
        input: call.abi_encode().into(),
        gas_limit: GAS,
        ..transfer(nonce)
    }
}

fn open(nonce: u64) -> TxEip1559 {
    let caller = |caller: Caller| counterpoint_contracts::Caller {
        rollupId: B256::new(*caller.rollup_id.as_bytes()),
        caller: wallet(1).address(),
    };
    let inbox = B256::new(*messages()[1].hash().as_bytes());
    let open = openCall {
        chainIdHash: keccak256("test"),
        rollupId: B256::new(*HERE.as_bytes()),
        salt: B256::new(*SALT.as_bytes()),
        callers: callers().into_iter().map(caller).collect(),
        inbox: vec![inbox],
    };
    call(nonce, &open)
}

fn send(nonce: u64, data: &'static [u8]) -> TxEip1559 {
    let send = sendCall {
        session: B256::new(*session_id(&SALT, &callers()).as_bytes()),
        dst: B256::new(*THERE.as_bytes()),
        receiver: wallet(1).address(),
        data: data.into(),
    };
    call(nonce, &send)
}

fn receive(nonce: u64) -> TxEip1559 {
    let receive = receiveMessageCall {
        message: counterpoint_contracts::Message {
            src: B256::new(*THERE.as_bytes()),
            dst: B256::new(*HERE.as_bytes()),
            index: 0,
            sender: wallet(1).address(),
            receiver: wallet(1).address(),
            data: b"here".into(),
        },
    };
    call(nonce, &receive)
}

#[test]
fn every_reason_is_told_apart() {
    check(vec![transfer(0), transfer(2)], Failure::Nonce, 1);
    let beyond = TxEip1559 {
        value: U256::MAX >> 1,
        ..transfer(0)
    };
    check(vec![beyond], Failure::Balance, 0);
    let cheap = TxEip1559 {
        max_fee_per_gas: 1,
        max_priority_fee_per_gas: 1,
        ..transfer(0)
    };
    check(vec![cheap], Failure::FeeTooLow, 0);
    let no_tip = TxEip1559 {
        max_priority_fee_per_gas: 0,
        ..transfer(0)
    };
    check(vec![no_tip], Failure::FeeTooLow, 0);
    let greedy = TxEip1559 {
        gas_limit: 2 * GAS + 1,
        ..transfer(0)
    };
    check(vec![greedy], Failure::InvalidTx, 0);
    let foreign = TxEip1559 {
        chain_id: CHAIN_ID + 1,
        ..transfer(0)
    };
    check(vec![transfer(0), foreign], Failure::InvalidTx, 1);
    check(vec![call(0, &closeCall {})], Failure::Revert, 0);
    // A precompile takes all gas when it fails, and still has not run out of it.
    check(vec![failing(0)], Failure::Revert, 0);
    let short = TxEip1559 {
        gas_limit: 60_000,
        ..open(0)
    };
    check(
        vec![transfer(0), TxEip1559 { nonce: 1, ..short }],
        Failure::OutOfGas,
        1,
    );
}

#[test]
fn what_the_sequencer_seals_no_leg_of_is_invalid() {
    use alloy_consensus::{TxEip7702, TxLegacy};
    let unprotected = sign(
        1,
        TxLegacy {
            gas_price: 10_000_000_000,
            gas_limit: 21_000,
            ..TxLegacy::default()
        },
    );
    let delegating = sign(
        1,
        TxEip7702 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            ..TxEip7702::default()
        },
    );
    for raw in [unprotected, delegating, Bytes::from_static(b"junk")] {
        let failure = Failure::InvalidTx;
        let outcome = execute(&mut block(), &HERE, &[raw], &[]).unwrap();
        assert_eq!(outcome, LegOutcome::Abort { failure, tx: 0 });
    }
}

#[test]
fn messages_are_exactly_those_of_the_bundle() {
    let messages = messages();
    let whole = vec![
        open(0),
        send(1, b"there"),
        receive(2),
        call(3, &closeCall {}),
    ];
    let LegOutcome::Commit {
        in_hash, out_hash, ..
    } = leg(whole.clone(), &messages)
    else {
        panic!("the leg commits: {:?}", leg(whole, &messages));
    };
    assert_eq!(in_hash, inbox_hash(&HERE, &messages));
    assert_eq!(out_hash, outbox_hash(&HERE, &messages));
    let mismatch = |txs: Vec<TxEip1559>, tx| {
        let failure = Failure::MessageMismatch;
        assert_eq!(leg(txs, &messages), LegOutcome::Abort { failure, tx });
    };
    mismatch(vec![open(0), send(1, b"other")], 1);
    mismatch(vec![open(0), send(1, b"there"), send(2, b"there")], 2);
    mismatch(vec![open(0), send(1, b"there")], 1);
    mismatch(vec![open(0), receive(1), transfer(2)], 2);
    // Nothing was agreed upon, and something is sent.
    let failure = Failure::MessageMismatch;
    let told = leg(vec![open(0), send(1, b"there")], &messages[1..]);
    assert_eq!(told, LegOutcome::Abort { failure, tx: 1 });
}

#[test]
fn receipts_are_those_of_the_block() {
    let raws = [0, 1].map(|nonce| sign(1, transfer(nonce)));
    let LegOutcome::Commit { receipts_hash, .. } =
        execute(&mut block(), &HERE, &raws, &[]).unwrap()
    else {
        panic!("transfers succeed");
    };
    let mut block = block();
    let run = |raw| match block.execute(raw, iter::empty()).unwrap() {
        Outcome::Included(receipt) => receipt.envelope.encoded_2718().into(),
        other => panic!("included: {other:?}"),
    };
    let receipts: Vec<Bytes> = raws.iter().map(run).collect();
    assert_eq!(receipts_hash, super::receipts_hash(&receipts));
}
