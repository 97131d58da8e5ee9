//! Four validators, two rollups, and kill −9 of every kind of process while traffic flows: nothing
//! acknowledged is lost, nothing runs twice, and all validators agree.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_provider::Provider;
use serde_json::json;

use crate::support::{Network, PATIENCE, nodes_agree, raw_transfer, receipt};

/// The processes that die in turn, some of them together, and how long they stay dead.
const VICTIMS: [(&[&str], u64); 13] = [
    (&["val-0-app"], 2), // The one that every client asks first.
    (&["composer"], 0),
    (&["val-1-app"], 2),
    (&["composer", "val-0-app"], 1),
    (&["val-2-cometbft"], 2),
    (&["composer"], 1),
    (&["alpha-conductor"], 1),
    (&["alpha-geth"], 2),
    (&["composer"], 0),
    (&["beta-geth"], 1),
    (&["val-0-cometbft"], 2),
    (&["val-3-app", "val-3-cometbft"], 1),
    (&["beta-conductor", "beta-geth", "composer"], 1),
];

/// The accounts that send on each rollup: several batches are on their way when a process dies.
const SENDERS: std::ops::Range<usize> = 2..5;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_runs_twice() {
    let mut network = Network::start(4, 2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = [0, 1].map(|rollup| {
        let send = |account| {
            let sender = Sender::of(&network, rollup, account);
            tokio::spawn(send_until(sender, Arc::clone(&stop)))
        };
        SENDERS.map(send).collect::<Vec<_>>()
    });
    for (names, seconds) in VICTIMS {
        tokio::time::sleep(Duration::from_secs(2)).await;
        eprintln!("kill -9 {}", names.join(", "));
        for name in names {
            network.devnet.kill(name).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        for name in names {
            network.devnet.launch(name).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    for (rollup, traffic) in traffic.into_iter().enumerate() {
        let mut acknowledged = Vec::new();
        for sender in traffic {
            let sent = sender.await.unwrap();
            assert!(sent.len() > 10, "only {} were acknowledged", sent.len());
            acknowledged.extend(sent);
        }
        all_ran_once(&network, rollup, &acknowledged).await;
    }
    nodes_agree(&network).await;
    network.stop().await;
}

/// Sends transfers one after another; sends the same one again until it is acknowledged.
struct Sender {
    http: reqwest::Client,
    url: String,
    raw: Vec<alloy_primitives::Bytes>,
}

impl Sender {
    fn of(network: &Network, rollup: usize, account: usize) -> Self {
        let chain_id = network.info.rollups[rollup].evm_chain_id;
        let sign = |nonce| raw_transfer(network, chain_id, account, nonce, |request| request);
        let sign_all = async {
            let mut raw = Vec::new();
            for nonce in 0..400 {
                raw.push(sign(nonce).await);
            }
            raw
        };
        let raw =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(sign_all));
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        Self {
            http,
            url: network.info.rollups[rollup].composer_rpc.clone(),
            raw,
        }
    }

    /// Whether the composer acknowledged a transaction.
    async fn send(&self, raw: &alloy_primitives::Bytes) -> Option<serde_json::Value> {
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw],
        });
        let answer = self.http.post(&self.url).json(&request).send().await.ok()?;
        answer.json().await.ok()
    }
}

async fn send_until(sender: Sender, stop: Arc<AtomicBool>) -> Vec<B256> {
    let mut acknowledged = Vec::new();
    for raw in &sender.raw {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if stop.load(Ordering::Relaxed) {
                return acknowledged;
            }
            let answer = sender.send(raw).await;
            let answer = answer.unwrap_or_default();
            if answer.get("result").is_some() {
                acknowledged.push(keccak256(raw));
                break;
            }
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            if message.starts_with("nonce too low") {
                // The answer to an earlier attempt was lost; its receipt will show it.
                acknowledged.push(keccak256(raw));
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "never acknowledged: {answer}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged
}

async fn all_ran_once(network: &Network, rollup: usize, acknowledged: &[B256]) {
    let geth = network.geth(rollup);
    for hash in acknowledged {
        assert!(receipt(&geth, *hash).await.status());
    }
    let balance = geth.get_balance(Address::repeat_byte(0x77)).await.unwrap();
    assert_eq!(
        balance,
        U256::from(acknowledged.len()),
        "each transfer moved one wei, once"
    );
    // The sequencer ordered each of them once, too: no list holds a hash twice.
    let head = geth.get_block_number().await.unwrap();
    let mut seen = BTreeSet::new();
    for number in 1..=head {
        let block = geth.get_block_by_number(number.into()).await.unwrap();
        let block = block.unwrap_or_else(|| panic!("block {number} is missing"));
        for hash in block.transactions.hashes() {
            assert!(seen.insert(hash), "{hash} ran twice");
        }
    }
    assert_eq!(seen.len(), acknowledged.len());
    ordered_once(network, rollup).await;
}

/// Reads every verified list from genesis and looks for duplicates.
async fn ordered_once(network: &Network, rollup: usize) {
    use counterpoint_core::{block::RollupItem, primitive::Height};
    use counterpoint_service::sequencer::Follower;
    let id = network.info.rollups[rollup].rollup_id;
    let tip = network.sequencer(3).info().await.unwrap().height;
    let client = network.sequencer(3);
    let mut follower = Follower::new(client, id, network.trust(), Height::new(2));
    let mut seen = BTreeSet::new();
    for _ in 2..=tip {
        let block = follower.next().await.unwrap();
        for item in block.list.items() {
            if let RollupItem::Transaction(raw) = item {
                assert!(seen.insert(keccak256(raw)), "sequenced twice");
            }
        }
    }
}
