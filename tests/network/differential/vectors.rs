//! The public vectors of precompiled contracts, as geth's sources carry them: output and gas.

use std::{fs, path::Path, sync::Arc};

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, hex};
use counterpoint::devnet::tools;
use counterpoint_conductor::{
    chain_spec::{Specification, dev_genesis},
    derive::Rules,
    evm::{BlockBuilder, BlockInputs, MemStore, Outcome, Store},
};
use counterpoint_core::chain_spec::Fork;
use revm::bytecode::opcode as op;
use serde_json::Value;

use super::candidates::{sign, wallet};

const CHAIN_ID: u64 = 412_000;
const TX_GAS: u64 = 1 << 24;
const PROXY: Address = address!("000000000000000000000000000000000000c0de");
/// Longest input that fits into an item with the rest of its transaction.
const MAX_INPUT_BYTES: usize = 130_000;
/// Costs 15 gas without input.
const IDENTITY: u16 = 4;

/// Files of vectors, whose contract they are for, and the fork whose gas they name.
const FILES: [(&str, u16, Fork); 26] = [
    ("ecRecover", 0x01, Fork::Prague),
    ("modexp_eip2565", 0x05, Fork::Prague),
    ("modexp_eip7883", 0x05, Fork::Osaka),
    ("bn256Add", 0x06, Fork::Prague),
    ("bn256ScalarMul", 0x07, Fork::Prague),
    ("bn256Pairing", 0x08, Fork::Prague),
    ("blake2F", 0x09, Fork::Prague),
    ("fail-blake2f", 0x09, Fork::Prague),
    ("pointEvaluation", 0x0a, Fork::Prague),
    ("blsG1Add", 0x0b, Fork::Prague),
    ("fail-blsG1Add", 0x0b, Fork::Prague),
    ("blsG1Mul", 0x0c, Fork::Prague),
    ("fail-blsG1Mul", 0x0c, Fork::Prague),
    ("blsG1MultiExp", 0x0c, Fork::Prague),
    ("fail-blsG1MultiExp", 0x0c, Fork::Prague),
    ("blsG2Add", 0x0d, Fork::Prague),
    ("fail-blsG2Add", 0x0d, Fork::Prague),
    ("blsG2Mul", 0x0e, Fork::Prague),
    ("blsG2MultiExp", 0x0e, Fork::Prague),
    ("fail-blsG2MultiExp", 0x0e, Fork::Prague),
    ("blsPairing", 0x0f, Fork::Prague),
    ("fail-blsPairing", 0x0f, Fork::Prague),
    ("blsMapG1", 0x10, Fork::Prague),
    ("blsMapG2", 0x11, Fork::Prague),
    ("fail-blsMapG2", 0x11, Fork::Prague),
    ("p256Verify", 0x100, Fork::Osaka),
];

/// Calls the contract that the first word names with all that follows, and logs whether that
/// worked, what it cost with its call, and what came back.
const CALLER: [u8; 39] = [
    op::PUSH1,
    32,
    op::CALLDATASIZE,
    op::SUB,
    op::DUP1,
    op::PUSH1,
    32,
    op::PUSH0,
    op::CALLDATACOPY,
    op::GAS,
    op::PUSH0,
    op::PUSH0,
    op::DUP4,
    op::PUSH0,
    op::PUSH0,
    op::CALLDATALOAD,
    op::GAS,
    op::STATICCALL,
    op::GAS,
    op::DUP3,
    op::SUB,
    op::PUSH1,
    32,
    op::MSTORE,
    op::PUSH0,
    op::MSTORE,
    op::RETURNDATASIZE,
    op::PUSH0,
    op::PUSH1,
    64,
    op::RETURNDATACOPY,
    op::RETURNDATASIZE,
    op::PUSH1,
    64,
    op::ADD,
    op::PUSH0,
    op::LOG0,
    op::STOP,
    op::STOP,
];

/// What a contract did with its input.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    success: bool,
    gas: u64,
    output: Bytes,
}

/// A block with room for every vector.
struct Calls {
    block: BlockBuilder,
    nonce: u64,
}

impl Calls {
    fn new(fork: Fork) -> Self {
        let rich = (wallet(1).address(), U256::from(u128::MAX));
        let mut genesis = dev_genesis(CHAIN_ID, 30_000_000, 1_000, [rich]).unwrap();
        genesis.config.osaka_time = (fork == Fork::Osaka).then_some(0);
        let blobs = &mut genesis.config.blob_schedule;
        blobs.insert("osaka".into(), blobs["prague"]);
        let account = alloy_genesis::GenesisAccount {
            code: Some(CALLER.into()),
            ..Default::default()
        };
        genesis.alloc.insert(PROXY, account);
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let specification = Specification::new(&genesis, store.as_ref()).unwrap();
        let rules = Rules {
            chain_id: CHAIN_ID,
            max_tx_gas: TX_GAS,
            min_tip_wei: 0,
            allow_unprotected: false,
        };
        let inputs = BlockInputs {
            number: 1,
            timestamp: 1_001,
            prev_randao: B256::ZERO,
            beacon_root: B256::ZERO,
            fee_recipient: Address::ZERO,
            gas_limit: u64::MAX >> 1,
            withdrawals: Vec::new(),
        };
        let parent = specification.genesis_header();
        let parent = (parent, parent.hash_slow());
        let block =
            BlockBuilder::begin(Arc::new(store), &specification, rules, parent, inputs).unwrap();
        Self { block, nonce: 0 }
    }

    fn call(&mut self, contract: u16, input: &[u8]) -> Answer {
        let contract = B256::left_padding_from(&contract.to_be_bytes());
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: TX_GAS,
            max_fee_per_gas: 2_000_000_000,
            to: TxKind::Call(PROXY),
            input: [contract.as_slice(), input].concat().into(),
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let outcome = self.block.execute(&sign(1, tx), [].iter()).unwrap();
        let Outcome::Included(receipt) = outcome else {
            panic!("{outcome:?}");
        };
        let data = &receipt.envelope.logs()[0].data.data;
        let word = |at: usize| U256::from_be_slice(&data[at..at + 32]).to::<u64>();
        Answer {
            success: word(0) == 1,
            gas: word(32),
            output: data.slice(64..),
        }
    }
}

fn replay(directory: &Path, (name, contract, fork): (&str, u16, Fork)) -> usize {
    let file = fs::read(directory.join(format!("{name}.json"))).unwrap();
    let vectors: Vec<Value> = serde_json::from_slice(&file).unwrap();
    let mut calls = Calls::new(fork);
    let around = calls.call(IDENTITY, &[]).gas - 15;
    let mut replayed = 0;
    for vector in &vectors {
        let what = format!("{name}: {}", vector["Name"]);
        let bytes = |field: &str| hex::decode(vector[field].as_str().unwrap()).unwrap();
        let input = bytes("Input");
        if input.len() > MAX_INPUT_BYTES {
            continue;
        }
        replayed += 1;
        let answer = calls.call(contract, &input);
        if name.starts_with("fail-") {
            assert!(!answer.success && answer.output.is_empty(), "{what}");
            continue;
        }
        let expected = Answer {
            success: true,
            gas: vector["Gas"]
                .as_u64()
                .map_or(answer.gas, |gas| gas + around),
            output: bytes("Expected").into(),
        };
        assert_eq!(answer, expected, "{what}");
    }
    replayed
}

#[test]
fn precompiled_contracts_answer_as_published() {
    let sources = tools::GETH.sources().unwrap();
    let directory = sources.join("core/vm/testdata/precompiles");
    let replayed: usize = FILES.iter().map(|file| replay(&directory, *file)).sum();
    assert!(replayed > 1_500, "{replayed} vectors");
}
