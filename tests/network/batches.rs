//! Batches of the composer on their way at the same time.

use alloy_primitives::{B256, keccak256};
use serde_json::{Value, json};

use crate::support::{Network, raw_transfer, receipt, wait_for};

/// Pairs of senders that are tried: a block may come between the two of one.
const PAIRS: u64 = 5;

/// One sender's transaction does not wait for another one's batch, but its own next one does.
#[tokio::test(flavor = "multi_thread")]
async fn senders_do_not_wait_for_each_other() {
    let change = |options: &mut counterpoint::devnet::Options| options.block_interval_ms = 3_000;
    let network = Network::start_with(1, 1, change).await;
    let (mut together, mut behind, mut hashes) = (0, 0, Vec::new());
    for pair in 0..PAIRS {
        let first = send(&network, 0, 2 * pair).await;
        let batch = submitted(&network, first).await;
        let second = send(&network, 0, 2 * pair + 1).await;
        let other = send(&network, 1, pair).await;
        let another = submitted(&network, other).await;
        let own = network.status(0, second).await;
        if is_submitted(&network.status(0, first).await) {
            together +=
                u32::from(another["status"] == "submitted" && another["batch"] != batch["batch"]);
            behind += u32::from(own["status"] == "queued");
        }
        for hash in [first, second, other] {
            wait_for("the order", || async {
                let status = network.status(0, hash).await;
                (!is_submitted(&status) && status["status"] != "queued").then_some(())
            })
            .await;
        }
        hashes.extend([first, second, other]);
    }
    assert!(together > 0, "no two batches were on their way together");
    assert!(behind > 0, "no transaction waited for its sender's batch");
    for hash in hashes {
        assert!(receipt(&network.geth(0), hash).await.status());
    }
    network.stop().await;
}

async fn send(network: &Network, account: usize, nonce: u64) -> B256 {
    let chain_id = network.info.rollups[0].evm_chain_id;
    let raw = raw_transfer(network, chain_id, account, nonce, |request| request).await;
    let sent = network.rpc(0, "eth_sendRawTransaction", json!([raw])).await;
    assert_eq!(sent, Ok(json!(keccak256(&raw))));
    keccak256(&raw)
}

/// The status of a transaction once it has left the queue.
async fn submitted(network: &Network, hash: B256) -> Value {
    wait_for("a batch", || async {
        let status = network.status(0, hash).await;
        (status["status"] != "queued").then_some(status)
    })
    .await
}

fn is_submitted(status: &Value) -> bool {
    status["status"] == "submitted"
}
