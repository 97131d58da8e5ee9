//! Rollups with slots of different lengths, side by side on one sequencer.

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, U256};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionRequest;
use counterpoint_core::primitive::Height;
use counterpoint_service::sequencer::Follower;

use crate::support::{Network, receipt, wait_for};

const SLOT_SECS: [u64; 2] = [1, 2];

#[tokio::test(flavor = "multi_thread")]
async fn each_rollup_keeps_to_its_own_slots() {
    let change = |options: &mut counterpoint::devnet::Options| options.slot_secs = vec![1, 2];
    let mut network = Network::start_with(1, 2, change).await;
    for (rollup, slot_secs) in SLOT_SECS.into_iter().enumerate() {
        let request = TransactionRequest::default()
            .with_to(Address::repeat_byte(0x11))
            .with_value(U256::from(1));
        let wallet = network.wallet(rollup, 0);
        let hash = *wallet.send_transaction(request).await.unwrap().tx_hash();
        let geth = network.geth(rollup);
        assert!(receipt(&geth, hash).await.status());
        let head = wait_for("six blocks", || async {
            geth.get_block_number().await.ok().filter(|head| *head >= 6)
        })
        .await;
        let mut timestamps = Vec::new();
        for number in 1..=head {
            let block = geth.get_block_by_number(number.into()).await.unwrap();
            timestamps.push(block.unwrap().header.timestamp);
        }
        let expected = slots(&network, rollup, slot_secs).await;
        // The list of height 2 belongs to the slot of the block before it, which has none.
        let first = timestamps.iter().position(|slot| *slot == expected[0]);
        let timestamps = &timestamps[first.unwrap()..];
        assert!(timestamps.len() >= 4, "{timestamps:?}");
        assert_eq!(*timestamps, expected[..timestamps.len()]);
    }
    verification_says_whether_blocks_are_the_same(&network).await;
    a_lost_store_is_rebuilt_from_the_client(&mut network).await;
    network.stop().await;
}

/// Beside the running conductor, which keeps its store to itself.
async fn verification_says_whether_blocks_are_the_same(network: &Network) {
    let verify = async |to: &str| {
        let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_counterpoint-under-test"))
            .args(["conductor", "verify", "--from", "2", "--to", to, "--config"])
            .arg(network.layout().service_config("beta-conductor"))
            .output()
            .await
            .unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        (
            ended.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, text) = verify("6").await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the client has the blocks"), "{text}");
    let (code, text) = verify("1000000").await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("--to is 1000000, the client has blocks up to"),
        "{text}"
    );
    let (code, text) = verify("1").await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--from is 2"), "{text}");
}

/// The store is gone; the client's blocks are enough to go on.
async fn a_lost_store_is_rebuilt_from_the_client(network: &mut Network) {
    network.devnet.kill("beta-conductor").await.unwrap();
    let store = network.layout().dir.join("beta/conductor");
    std::fs::remove_dir_all(&store).unwrap();
    let (code, text) = conductor(network, &["rebuild"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("the store has all that the client has"),
        "{text}"
    );
    network.devnet.launch("beta-conductor").await.unwrap();
    let request = TransactionRequest::default()
        .with_to(Address::repeat_byte(0x11))
        .with_value(U256::from(1));
    let wallet = network.wallet(1, 0);
    let hash = *wallet.send_transaction(request).await.unwrap().tx_hash();
    assert!(receipt(&network.geth(1), hash).await.status());
    let log = network.log("beta-conductor");
    let last = log.rsplit("starting from").next().unwrap();
    assert!(!last.contains("head=0"), "it has begun anew: {last}");
}

/// Runs another command of beta's conductor; gives its exit code and all that it says.
async fn conductor(network: &Network, args: &[&str]) -> (Option<i32>, String) {
    let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_counterpoint-under-test"))
        .arg("conductor")
        .args(args)
        .arg("--config")
        .arg(network.layout().service_config("beta-conductor"))
        .output()
        .await
        .unwrap();
    let text = [ended.stdout, ended.stderr].concat();
    (
        ended.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The slots in which the sequencer made blocks, by the times in its headers.
async fn slots(network: &Network, rollup: usize, slot_secs: u64) -> Vec<u64> {
    let id = network.info.rollups[rollup].rollup_id;
    let tip = network.sequencer(0).info().await.unwrap().height;
    let client = network.sequencer(0);
    let mut follower = Follower::new(client, id, network.trust(), Height::new(2));
    let mut slots = Vec::new();
    for _ in 2..=tip {
        let seconds = follower.next().await.unwrap().list.header().time().seconds;
        slots.push(seconds / slot_secs * slot_secs);
    }
    slots.dedup();
    slots
}
