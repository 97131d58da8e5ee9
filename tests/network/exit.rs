//! A rollup leaves while more waits than its last block can hold.

use std::fs;

use alloy_eips::BlockNumberOrTag;
use alloy_network::TransactionBuilder;
use alloy_primitives::{Bytes, TxKind, U256, hex};
use alloy_provider::Provider;
use counterpoint_core::{
    action::{Action, ExitRollup, SubmitData},
    primitive::Height,
};
use serde_json::Value;

use crate::support::{Network, raw_transfer, sequence, wait_for};

/// Init code that runs until its gas is gone.
const BURNS: &str = "5b600056";
/// Transactions that burn a quarter of a block each: ten blocks of them.
const WAITING: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_that_leaves_takes_all_with_it() {
    let mut network = Network::start_with(1, 1, |options| options.block_interval_ms = 10).await;
    let rollup = network.info.rollups[0].clone();
    let exit = Action::ExitRollup(ExitRollup {
        rollup_id: rollup.rollup_id,
    });
    let inclusion = sequence(&network, vec![exit]).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    let from = inclusion.header.height().get() + 601;
    network.reach(0, from - 25).await;
    let items = burners(&network).await;
    let data = items.iter().map(|raw| raw.0.clone()).collect();
    let data = Action::SubmitData(SubmitData::new(rollup.rollup_id, data).unwrap());
    assert_eq!(sequence(&network, vec![data]).await.code, 0);
    network.ended("alpha-conductor").await;
    let log = network.log("alpha-conductor");
    assert!(log.contains("the rollup has left the sequencer"), "{log}");

    let directory = network.layout().dir.join("alpha/conductor/exit");
    let export = fs::read(directory.join("export.json")).unwrap();
    let backlog = fs::read_to_string(directory.join("backlog.jsonl")).unwrap();
    let told: Value = serde_json::from_slice(&export).unwrap();
    let geth = network.geth(0);
    let head = geth.get_block_by_number(BlockNumberOrTag::Latest).await;
    let head = head.unwrap().unwrap();
    assert_eq!(told["last_block"]["number"], head.header.number);
    assert_eq!(told["last_block"]["hash"], head.header.hash.to_string());
    let root = head.header.state_root.to_string();
    assert_eq!(told["last_block"]["state_root"], root);
    assert_eq!(told["config"]["name"], "alpha");
    // What ran and what is left are all that was ordered, in order.
    let ran = geth
        .get_transaction_count(network.address(0))
        .await
        .unwrap();
    let left: Vec<Value> = backlog
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(!left.is_empty(), "all {ran} ran");
    assert_eq!(told["backlog"]["items"], left.len());
    let expected = items.iter().skip(usize::try_from(ran).unwrap());
    let expected: Vec<String> = expected.map(ToString::to_string).collect();
    let left: Vec<&str> = left
        .iter()
        .map(|line| line["raw"].as_str().unwrap())
        .collect();
    assert_eq!(left, expected);
    // The last height has a leaf, and the next one has none.
    let last = told["last_height"].as_u64().unwrap();
    assert!(last + 1 >= from, "left at {last}, before {from}");
    let client = network.sequencer(0);
    let leaf = |height| client.rollup_block(Height::new(height), &rollup.rollup_id);
    assert!(leaf(last).await.is_ok());
    assert!(leaf(last + 1).await.unwrap_err().is_not_found());

    // As if it had died before it wrote the export.
    fs::remove_dir_all(&directory).unwrap();
    network.devnet.launch("alpha-conductor").await.unwrap();
    wait_for("the export once more", || async {
        directory.exists().then_some(())
    })
    .await;
    network.ended("alpha-conductor").await;
    assert_eq!(fs::read(directory.join("export.json")).unwrap(), export);
    let again = fs::read_to_string(directory.join("backlog.jsonl")).unwrap();
    assert_eq!(again, backlog);
    network.stop().await;
}

async fn burners(network: &Network) -> Vec<Bytes> {
    let chain_id = network.info.rollups[0].evm_chain_id;
    let mut all = Vec::new();
    for nonce in 0..WAITING {
        let raw = raw_transfer(network, chain_id, 0, nonce, |mut request| {
            request.to = Some(TxKind::Create);
            request
                .with_value(U256::ZERO)
                .with_gas_limit(7_500_000)
                .with_input(hex::decode(BURNS).unwrap())
        });
        all.push(raw.await);
    }
    all
}
