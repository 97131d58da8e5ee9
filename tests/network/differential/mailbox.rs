//! The contracts of atomic bundles on a stock client, by the list that they pass in process.

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, TxKind, U256, utils::Unit};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionReceipt;
use bytes::Bytes as Item;
use counterpoint_conductor::{chain_spec::dev_genesis, engine::Driver};
use counterpoint_contracts::{
    DEPLOYER, predeploys,
    scenarios::{self, CHAIN_ID, Call, PEOPLE},
};

use super::{
    candidates::{sign, wallet},
    chain::Chain,
    clients::Client,
    hand_in,
};

const GENESIS_TIME: u64 = 1_700_000_000;
/// A quarter of it is enough for either contract.
const GAS_LIMIT: u64 = 10_000_000;
/// The wallets of those who send.
const WALLETS: [u8; PEOPLE] = [1, 2];

/// The beacon roots of the blocks are tickets, or not: geth stores them and executes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn geth_agrees_on_the_mailbox() {
    let people = WALLETS.map(|seed| wallet(seed).address());
    let rich = |address: Address| (address, Unit::ETHER.wei());
    let mut genesis = dev_genesis(CHAIN_ID, GAS_LIMIT, GENESIS_TIME, people.map(rich)).unwrap();
    // The mailbox is created, as on a rollup that began without it.
    let proxy = |(address, _): &(Address, _)| *address == DEPLOYER;
    genesis.alloc.extend(predeploys().into_iter().filter(proxy));
    let mut chain = Chain::new(&genesis);
    let client = Client::geth(&genesis).await;
    let driver = Driver::new(client.engine(), chain.specification.clone());
    let rpc = client.rpc();
    let mut nonces = [0; PEOPLE];
    for scenario in scenarios::all(people) {
        for block in scenario.blocks {
            let items: Vec<Item> = block
                .calls
                .iter()
                .map(|call| transaction(call, &mut nonces))
                .collect();
            let timestamp = chain.head().0.timestamp + 1;
            let built = chain.carry(timestamp, block.beacon_root, &items);
            hand_in(&client, &driver, &built).await;
            let number = built.block.header.number;
            let receipts = rpc
                .get_block_receipts(number.into())
                .await
                .unwrap()
                .unwrap();
            let succeeded: Vec<bool> = receipts.iter().map(TransactionReceipt::status).collect();
            let expected: Vec<bool> = block
                .calls
                .iter()
                .map(|call| call.outcome.is_ok())
                .collect();
            assert_eq!(succeeded, expected, "{}, block {number}", scenario.name);
        }
    }
    client.stop().await;
}

fn transaction(call: &Call, nonces: &mut [u64; PEOPLE]) -> Item {
    let nonce = nonces[call.from];
    nonces[call.from] += 1;
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: GAS_LIMIT / 4,
        max_fee_per_gas: 2_000_000_000,
        to: TxKind::Call(call.to),
        value: U256::ZERO,
        input: call.input.clone(),
        ..TxEip1559::default()
    };
    sign(WALLETS[call.from], tx)
}
