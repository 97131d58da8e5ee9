//! Each rule that needs the state or the room in a block, exactly at its bound and one beyond.

use std::sync::Arc;

use alloy_consensus::{TxEip1559, TxEip7702};
use alloy_eips::eip7702::Authorization;
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_network::TxSignerSync;
use alloy_primitives::{Bytes, TxKind, U256};

use super::*;
use crate::{
    chain_spec::{Specification, dev_genesis},
    evm::{BlockBuilder, MemStore, Outcome, Store},
    testing::{CHAIN_ID, GENESIS_TIME, sign, wallet},
};

const GAS_LIMIT: u64 = 2_000_000_000;
/// Longest init code (EIP-3860).
const MAX_INITCODE_BYTES: usize = 49_152;
/// Most gas of a transaction from Osaka on (EIP-7825).
const OSAKA_TX_GAS: u64 = 1 << 24;
/// The base fee of the first block, of which the parent is empty.
const BASE_FEE: u128 = 875_000_000;

/// A wallet with exactly as much as its transfer costs at most.
const EXACT: u8 = 11;
/// A wallet that has one wei less.
const SHORT: u8 = 12;
/// A wallet whose account has code.
const CONTRACT: u8 = 13;
/// One that has delegated to code (EIP-7702).
const DELEGATED: u8 = 14;
/// One with the last nonce there is.
const LAST_NONCE: u8 = 15;

fn genesis() -> Genesis {
    let cost = U256::from(21_000_u64) * U256::from(2_000_000_000_u64) + U256::from(5);
    let rich = U256::from(1_000_000_000_000_000_000_000_u128);
    let alloc = [
        (1, rich),
        (EXACT, cost),
        (SHORT, cost - U256::from(1)),
        (CONTRACT, rich),
        (DELEGATED, rich),
        (LAST_NONCE, rich),
    ];
    let alloc = alloc.map(|(seed, balance)| (wallet(seed).address(), balance));
    let mut genesis = dev_genesis(CHAIN_ID, GAS_LIMIT, GENESIS_TIME, alloc).unwrap();
    let mut change = |seed: u8, nonce: u64, code: Option<Bytes>| {
        let address = wallet(seed).address();
        let account = genesis.alloc[&address].clone();
        let account = GenesisAccount {
            nonce: Some(nonce),
            code,
            ..account
        };
        genesis.alloc.insert(address, account);
    };
    change(CONTRACT, 0, Some(Bytes::from_static(&[0])));
    let delegation = [&[0xef, 0x01, 0x00][..], &[0x77; 20]].concat();
    change(DELEGATED, 0, Some(delegation.into()));
    change(LAST_NONCE, u64::MAX, None);
    genesis
}

fn osaka() -> Genesis {
    let mut genesis = genesis();
    genesis.config.osaka_time = Some(0);
    let blobs = &mut genesis.config.blob_schedule;
    blobs.insert("osaka".into(), blobs["prague"]);
    genesis
}

fn cancun() -> Genesis {
    let mut genesis = genesis();
    genesis.config.prague_time = None;
    genesis
}

/// The first block of a rollup.
fn block(genesis: &Genesis, gas_limit: u64) -> BlockBuilder {
    let store: Arc<dyn Store> = Arc::new(MemStore::default());
    let specification = Specification::new(genesis, store.as_ref()).unwrap();
    let rules = Rules {
        chain_id: CHAIN_ID,
        max_tx_gas: 20_000_000,
        min_tip_wei: 1,
        allow_unprotected: false,
    };
    let inputs = BlockInputs {
        number: 1,
        timestamp: GENESIS_TIME + 1,
        prev_randao: B256::ZERO,
        beacon_root: B256::ZERO,
        fee_recipient: Address::repeat_byte(0xfe),
        gas_limit,
        withdrawals: Vec::new(),
    };
    let parent = specification.genesis_header();
    let parent = (parent, parent.hash_slow());
    BlockBuilder::begin(Arc::new(store), &specification, rules, parent, inputs).unwrap()
}

fn transfer() -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0x77)),
        value: U256::from(5),
        ..TxEip1559::default()
    }
}

fn execute(block: &mut BlockBuilder, raw: &bytes::Bytes) -> Outcome {
    block.execute(raw, [].iter()).unwrap()
}

fn verdict(block: &mut BlockBuilder, raw: &bytes::Bytes) -> Result<(), SkipReason> {
    match execute(block, raw) {
        Outcome::Included(_) => Ok(()),
        Outcome::Skipped(reason) => Err(reason),
        Outcome::EndOfBlock => panic!("there is room"),
    }
}

/// The verdict on one transaction in a block of its own.
#[track_caller]
fn check(
    genesis: &Genesis,
    seed: u8,
    change: impl FnOnce(&mut TxEip1559),
    expect: Result<(), SkipReason>,
) {
    let mut tx = transfer();
    change(&mut tx);
    let mut block = block(genesis, GAS_LIMIT);
    assert_eq!(verdict(&mut block, &sign(seed, tx)), expect);
}

#[test]
fn nonces_follow_one_another() {
    let genesis = genesis();
    check(&genesis, 1, |tx| tx.nonce = 0, Ok(()));
    check(&genesis, 1, |tx| tx.nonce = 1, Err(SkipReason::Nonce));
    check(
        &genesis,
        1,
        |tx| tx.nonce = u64::MAX,
        Err(SkipReason::Nonce),
    );
    // The last nonce is never used (EIP-2681).
    let last = |tx: &mut TxEip1559| tx.nonce = u64::MAX;
    check(&genesis, LAST_NONCE, last, Err(SkipReason::Nonce));
    let mut block = block(&genesis, GAS_LIMIT);
    let first = sign(1, transfer());
    assert_eq!(verdict(&mut block, &first), Ok(()));
    assert_eq!(verdict(&mut block, &first), Err(SkipReason::Nonce));
}

#[test]
fn a_sender_pays_for_all_that_may_be_used() {
    let genesis = genesis();
    check(&genesis, EXACT, |_| {}, Ok(()));
    check(&genesis, SHORT, |_| {}, Err(SkipReason::Balance));
    check(&genesis, SHORT, |tx| tx.value = U256::from(4), Ok(()));
    let nobody = 99;
    check(&genesis, nobody, |_| {}, Err(SkipReason::Balance));
    let overflow = |tx: &mut TxEip1559| tx.value = U256::MAX;
    check(&genesis, 1, overflow, Err(SkipReason::Balance));
}

#[test]
fn fees_cover_the_base_fee_and_the_tip() {
    let genesis = genesis();
    let fees = |cap, tip| {
        move |tx: &mut TxEip1559| (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (cap, tip)
    };
    check(&genesis, 1, fees(BASE_FEE + 1, 1), Ok(()));
    check(&genesis, 1, fees(BASE_FEE, 1), Err(SkipReason::TipTooLow));
    check(
        &genesis,
        1,
        fees(BASE_FEE - 1, 0),
        Err(SkipReason::FeeTooLow),
    );
    let cap = BASE_FEE + 7;
    check(&genesis, 1, fees(cap, cap), Ok(()));
    check(&genesis, 1, fees(cap, cap + 1), Err(SkipReason::FeeTooLow));
}

#[test]
fn gas_covers_what_is_paid_before_the_first_step() {
    let (cancun, prague) = (cancun(), genesis());
    let with = |gas_limit: u64, input: Vec<u8>| {
        move |tx: &mut TxEip1559| (tx.gas_limit, tx.input) = (gas_limit, input.into())
    };
    let short = Err(SkipReason::IntrinsicGas);
    check(&prague, 1, with(21_000, vec![]), Ok(()));
    check(&prague, 1, with(20_999, vec![]), short);
    // Under Cancun a byte that is not zero costs 16, from Prague on at least 40 (EIP-7623).
    check(&cancun, 1, with(21_016, vec![1]), Ok(()));
    check(&cancun, 1, with(21_015, vec![1]), short);
    check(&prague, 1, with(21_040, vec![1]), Ok(()));
    check(&prague, 1, with(21_039, vec![1]), short);
}

#[test]
fn init_code_has_a_longest_length() {
    let genesis = genesis();
    let create = |length: usize| {
        move |tx: &mut TxEip1559| {
            tx.gas_limit = 2_000_000;
            tx.to = TxKind::Create;
            tx.input = vec![0; length].into();
        }
    };
    check(&genesis, 1, create(MAX_INITCODE_BYTES), Ok(()));
    let longer = create(MAX_INITCODE_BYTES + 1);
    check(&genesis, 1, longer, Err(SkipReason::InitcodeSize));
}

#[test]
fn contracts_send_nothing_unless_they_are_delegations() {
    let genesis = genesis();
    check(&genesis, CONTRACT, |_| {}, Err(SkipReason::SenderHasCode));
    check(&genesis, DELEGATED, |_| {}, Ok(()));
}

#[test]
fn a_transaction_asks_for_no_more_gas_than_one_may() {
    let (prague, osaka) = (genesis(), osaka());
    let gas = |limit: u64| move |tx: &mut TxEip1559| tx.gas_limit = limit;
    check(&prague, 1, gas(20_000_000), Ok(()));
    check(&prague, 1, gas(20_000_001), Err(SkipReason::GasLimit));
    check(&osaka, 1, gas(OSAKA_TX_GAS), Ok(()));
    check(&osaka, 1, gas(OSAKA_TX_GAS + 1), Err(SkipReason::GasLimit));
}

#[test]
fn authorizations_need_prague_and_one_entry() {
    let authorization = Authorization {
        chain_id: U256::from(CHAIN_ID),
        address: Address::repeat_byte(0x77),
        nonce: 0,
    };
    // One that does not hold is passed over, and counts.
    let signed = authorization.into_signed(alloy_primitives::Signature::test_signature());
    let tx = TxEip7702 {
        chain_id: CHAIN_ID,
        gas_limit: 100_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1,
        authorization_list: vec![signed],
        ..TxEip7702::default()
    };
    let empty = TxEip7702 {
        authorization_list: Vec::new(),
        ..tx.clone()
    };
    let judge = |genesis: &Genesis, tx: &TxEip7702| {
        verdict(&mut block(genesis, GAS_LIMIT), &sign(1, tx.clone()))
    };
    assert_eq!(judge(&genesis(), &tx), Ok(()));
    assert_eq!(judge(&genesis(), &empty), Err(SkipReason::Invalid));
    assert_eq!(judge(&cancun(), &tx), Err(SkipReason::Invalid));
}

#[test]
fn a_block_ends_before_a_valid_item_that_finds_no_gas() {
    let genesis = genesis();
    let at = |nonce: u64, gas_limit: u64| {
        sign(
            1,
            TxEip1559 {
                nonce,
                gas_limit,
                ..transfer()
            },
        )
    };
    // Room for one transfer, and for 29,000 gas behind it.
    let mut full = block(&genesis, 50_000);
    assert_eq!(verdict(&mut full, &at(0, 50_000)), Ok(()));
    assert_eq!(execute(&mut full, &at(1, 29_001)), Outcome::EndOfBlock);
    // What is not valid never ends a block.
    assert_eq!(verdict(&mut full, &at(2, 29_001)), Err(SkipReason::Nonce));
    assert_eq!(verdict(&mut full, &at(1, 29_000)), Ok(()));
}

/// A transaction of so many bytes.
fn long(nonce: u64, bytes: usize) -> bytes::Bytes {
    let with_input = |length: usize| {
        let mut tx = TxEip1559 {
            nonce,
            gas_limit: 2_000_000,
            input: vec![0; length].into(),
            ..transfer()
        };
        let signature = wallet(1).sign_transaction_sync(&mut tx).unwrap();
        TxEnvelope::from(alloy_consensus::SignableTransaction::into_signed(
            tx, signature,
        ))
        .encoded_2718()
    };
    let mut length = bytes - 120;
    loop {
        let raw = with_input(length);
        if raw.len() == bytes {
            return raw.into();
        }
        // Once is enough, unless the next signature is a byte shorter.
        length = length + bytes - raw.len();
    }
}

#[test]
fn a_block_ends_before_a_valid_item_that_finds_no_bytes() {
    // In a block body each is wrapped in a string with a header of 4 bytes.
    let (whole, header) = (SubmitData::MAX_ITEM_BYTES, 4);
    let full = MAX_BLOCK_TX_BYTES / (whole + header);
    let rest = MAX_BLOCK_TX_BYTES % (whole + header) - header;
    let mut block = block(&genesis(), GAS_LIMIT);
    for nonce in 0..full as u64 {
        assert_eq!(verdict(&mut block, &long(nonce, whole)), Ok(()));
    }
    let nonce = full as u64;
    let beyond = execute(&mut block, &long(nonce, rest + 1));
    assert_eq!(beyond, Outcome::EndOfBlock);
    assert_eq!(verdict(&mut block, &long(nonce, rest)), Ok(()));
    let last = sign(
        1,
        TxEip1559 {
            nonce: nonce + 1,
            ..transfer()
        },
    );
    assert_eq!(execute(&mut block, &last), Outcome::EndOfBlock);
}
