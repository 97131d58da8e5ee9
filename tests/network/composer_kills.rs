//! kill −9 of the composer under load, at each step of a write to its queue's log and at random
//! moments, and of the sequencer node beside it: what was acknowledged is in the rollup once, and
//! its status is right after every restart.
//!
//! ```text
//! accept ─ Accepted, Replaced ─▶ answer       A group of records is written, then synced, and only
//! batch ── Signed ─────────────▶ submit       then does anybody rely on it: the composer dies
//! proof ── Included ───────────▶ finish       before, in the middle of, and after both.
//! compaction ─ Kept ─▶ rename ─▶ append
//! ```

mod deadly;
mod load;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::Duration,
};

use alloy_network::TransactionResponse;
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_provider::Provider;
use counterpoint_core::{
    block::RollupItem,
    primitive::{Hash, Height},
};
use counterpoint_service::sequencer::Follower;
use deadly::{Deadly, Moment, Record};
use load::{Ledger, Load};
use serde_json::{Value, json};

use crate::support::{Network, wait_for};

const COMPOSER: &str = "composer";
const SEQUENCER: &str = "val-0-app";
/// Deaths unless `COUNTERPOINT_KILLS` says otherwise: each moment, and some at random.
const KILLS: u64 = 28;
/// Every so many deaths one is at a random moment.
const RANDOM_EVERY: u64 = 4;
/// Every so many deaths the sequencer node dies, too.
const SEQUENCER_EVERY: u64 = 7;
/// Longest life of a composer that dies at a random moment.
const LIFE: Duration = Duration::from_millis(2_500);
/// Calls of a JSON-RPC batch.
const CALLS: usize = 100;
/// Transactions whose status is asked for after a restart.
const ASKED: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_every_death_of_the_composer() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    let kills = number("COUNTERPOINT_KILLS").unwrap_or(KILLS);
    let seed = number("COUNTERPOINT_KILLS_SEED").unwrap_or(1);
    let mut network = Network::start(1, 1).await;
    let deadly = Deadly::build(&network.layout().dir);
    network.devnet.kill(COMPOSER).await.unwrap();
    network.devnet.install(COMPOSER, &deadly.program).unwrap();
    let load = Load::start(&network, 0..5);
    let mut moments = moments().into_iter().cycle();
    for kill in 0..kills {
        let dice = Hash::digest(&[b"kills", &seed.to_le_bytes(), &kill.to_le_bytes()]);
        let dice = dice.as_bytes();
        let moment = match (kill + 1) % RANDOM_EVERY {
            0 => None,
            _ => moments.next(),
        };
        eprintln!("kill {} of {kills}, seed {seed}: {moment:?}", kill + 1);
        match moment {
            Some((record, moment)) => deadly.die(record, moment, dice[0] % 3 + 1),
            None => deadly.live(),
        }
        network.devnet.launch(COMPOSER).await.unwrap();
        if kill % SEQUENCER_EVERY == 0 {
            network.devnet.kill(SEQUENCER).await.unwrap();
            network.devnet.launch(SEQUENCER).await.unwrap();
        }
        if moment.is_none() {
            tokio::time::sleep(LIFE.mul_f64(f64::from(dice[1]) / 255.0)).await;
        } else {
            network.ended(COMPOSER).await;
            assert!(deadly.has_died(), "it ended by itself");
        }
        network.devnet.kill(COMPOSER).await.unwrap();
        deadly.live();
        network.devnet.launch(COMPOSER).await.unwrap();
        statuses_are_known(&network, &load).await;
        network.devnet.kill(COMPOSER).await.unwrap();
    }
    network.devnet.launch(COMPOSER).await.unwrap();
    let ledger = load.stop().await;
    everything_ran_once(&network, &ledger).await;
    network.stop().await;
}

/// All moments of all records.
fn moments() -> Vec<(Record, Moment)> {
    use Record::{Accepted, Included, Kept, Replaced, Signed};
    let records = [Accepted, Replaced, Signed, Included, Kept];
    let moments = records.map(|record| Moment::OF_APPEND.map(|moment| (record, moment)));
    let mut moments = moments.concat();
    moments.push((Kept, Moment::Renamed));
    moments
}

/// What was acknowledged is somewhere on its way, as soon as the composer is back.
async fn statuses_are_known(network: &Network, load: &Load) {
    let mut acknowledged = load.acknowledged();
    let newest = acknowledged.split_off(acknowledged.len().saturating_sub(ASKED / 2));
    let step = acknowledged.len() / (ASKED / 2) + 1;
    let asked: Vec<B256> = acknowledged
        .into_iter()
        .step_by(step)
        .chain(newest)
        .collect();
    let told = statuses(network, &asked).await;
    let certain: BTreeSet<B256> = load.acknowledged().into_iter().collect();
    for (hash, status) in told {
        let name = status["status"].as_str().unwrap_or_default();
        let is_right = ["parked", "queued", "submitted", "sequenced", "executed"].contains(&name);
        assert!(is_right || !certain.contains(&hash), "{status}");
    }
}

/// Where the composer says that transactions stand, once it answers.
async fn statuses(network: &Network, hashes: &[B256]) -> Vec<(B256, Value)> {
    let (http, url) = (
        reqwest::Client::new(),
        &network.info.rollups[0].composer_rpc,
    );
    let mut statuses = Vec::new();
    for hashes in hashes.chunks(CALLS) {
        let call = |hash: &B256| {
            let method = "counterpoint_getTransactionStatus";
            json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [hash] })
        };
        let calls: Vec<Value> = hashes.iter().map(call).collect();
        let answers: Vec<Value> = wait_for("the composer to answer", || async {
            let answer = http.post(url).json(&calls).send().await.ok()?;
            answer.json().await.ok()
        })
        .await;
        assert_eq!(answers.len(), hashes.len());
        let results = answers
            .into_iter()
            .map(|mut answer| answer["result"].take());
        statuses.extend(hashes.iter().copied().zip(results));
    }
    statuses
}

/// The ledger against the rollup's blocks, the sequencer's lists and the composer's own word.
async fn everything_ran_once(network: &Network, ledger: &Ledger) {
    let count = ledger
        .entries
        .values()
        .filter(|entry| entry.is_acknowledged)
        .count();
    eprintln!("{count} acknowledged transactions");
    let ran = blocks_hold_all(network, ledger).await;
    let mut nonces = BTreeMap::new();
    for ((account, nonce), entry) in &ledger.entries {
        let runs: Vec<_> = entry
            .open
            .iter()
            .filter(|hash| ran.contains_key(*hash))
            .collect();
        assert!(runs.len() <= 1, "{runs:?} have the same nonce");
        if runs.len() == 1 {
            let next = nonces.entry(account).or_insert(0);
            assert_eq!(nonce, next, "a gap before a nonce of account {account}");
            *next += 1;
        }
        assert!(
            runs.len() == 1 || !entry.is_acknowledged,
            "{entry:?} is lost"
        );
    }
    let lists = lists(network).await;
    assert_eq!(
        lists.keys().collect::<BTreeSet<_>>(),
        ran.keys().map(|hash| &ledger.raw[hash]).collect(),
        "what was ordered is what ran"
    );
    for (hash, status) in all_executed(network, ran.keys().copied().collect()).await {
        assert_eq!(status["blockNumber"], ran[&hash], "{status}");
        let (height, index) = lists[&ledger.raw[&hash]];
        if let Some(told) = status.get("height") {
            assert_eq!((told, &status["index"]), (&json!(height), &json!(index)));
        }
    }
}

/// Waits until all that was acknowledged ran; gives the numbers of the blocks of all that ran, each
/// once.
async fn blocks_hold_all(network: &Network, ledger: &Ledger) -> BTreeMap<B256, u64> {
    let geth = network.geth(0);
    let acknowledged = ledger
        .entries
        .values()
        .filter(|entry| entry.is_acknowledged);
    for entry in acknowledged {
        wait_for(&format!("one of {:?} to run", entry.open), || async {
            for hash in &entry.open {
                let receipt = geth.get_transaction_receipt(*hash).await.ok().flatten();
                if let Some(receipt) = receipt {
                    assert!(receipt.status());
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    let mut ran = BTreeMap::new();
    for number in 1..=geth.get_block_number().await.unwrap() {
        let block = geth
            .get_block_by_number(number.into())
            .full()
            .await
            .unwrap();
        let block = block.unwrap_or_else(|| panic!("block {number} is missing"));
        for tx in block.transactions.txns() {
            assert_eq!(ran.insert(tx.tx_hash(), number), None, "it ran twice");
        }
    }
    ran
}

/// Every transaction in the verified lists, each once: its height and its place.
async fn lists(network: &Network) -> BTreeMap<Bytes, (u64, usize)> {
    let (id, client) = (network.info.rollups[0].rollup_id, network.sequencer(0));
    let tip = client.info().await.unwrap().height;
    let mut follower = Follower::new(client, id, network.trust(), Height::new(2));
    let mut places = BTreeMap::new();
    for height in 2..=tip {
        let block = follower.next().await.unwrap();
        for (index, item) in block.list.items().iter().enumerate() {
            if let RollupItem::Transaction(raw) = item {
                let raw = Bytes::from(raw.clone());
                let hash = keccak256(&raw);
                let before = places.insert(raw, (height, index));
                assert_eq!(before, None, "{hash} was ordered twice");
            }
        }
    }
    places
}

/// The statuses of all that ran, once all of them say so.
async fn all_executed(network: &Network, hashes: Vec<B256>) -> Vec<(B256, Value)> {
    wait_for("all to be executed", || async {
        let statuses = statuses(network, &hashes).await;
        let mut states = statuses.iter().map(|(_, status)| &status["status"]);
        states
            .all(|status| status == "executed")
            .then_some(statuses)
    })
    .await
}
