//! Rollups whose terms change while a composer serves them.

use alloy_primitives::{B256, keccak256};
use counterpoint_core::{
    action::{Action, ExitRollup, UpdateRollup},
    primitive::Height,
};
use serde_json::json;

use crate::support::{Network, raw_transfer, receipt, sequence, wait_for};

/// Transactions of one sender that wait together, more than a block may have by then.
const TOGETHER: u64 = 12;
/// Items of a rollup in a block, after the change.
const FEW: u32 = 5;

/// A rollup's share shrinks below what its composer has in one batch, another rollup leaves, and
/// nobody restarts anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_composer_follows_its_rollups() {
    let network = Network::start_with(1, 2, |options| options.block_interval_ms = 10).await;
    let [alpha, beta] = [0, 1].map(|at| network.info.rollups[at].rollup_id);
    let name = network.info.rollups[0].name.clone();
    let config = network.sequencer(0).rollup(&name).await.unwrap();
    let update = UpdateRollup {
        max_items_per_block: FEW,
        ..UpdateRollup::of(&config)
    };
    let exit = Action::ExitRollup(ExitRollup { rollup_id: beta });
    let asked = sequence(&network, vec![Action::UpdateRollup(update), exit]).await;
    assert_eq!(asked.code, 0, "{}", asked.log);
    let from = asked.header.height().get() + 601;

    network.reach(0, from - 150).await;
    let refused = send(&network, 1, 0).await.unwrap_err();
    let reason = refused["message"].as_str().unwrap();
    assert!(reason.contains("and takes nothing more"), "{reason}");

    network.reach(0, from + 20).await;
    let mut hashes = Vec::new();
    for nonce in 0..TOGETHER {
        hashes.push(send(&network, 0, nonce).await.unwrap());
    }
    for hash in &hashes {
        assert!(receipt(&network.geth(0), *hash).await.status());
    }
    let node = network.sequencer(0);
    for hash in hashes {
        let height = network.status(0, hash).await["height"].as_u64().unwrap();
        let (_, block) = node
            .rollup_block(Height::new(height), &alpha)
            .await
            .unwrap();
        let items: Vec<counterpoint_core::block::RollupItem> =
            borsh::from_slice(&block.borsh_list).unwrap();
        assert!(items.len() <= FEW as usize, "{} items", items.len());
    }
    wait_for("the end of beta", || async {
        let refused = send(&network, 1, 0).await.unwrap_err();
        let reason = refused["message"].as_str().unwrap();
        reason.contains("has left the sequencer").then_some(())
    })
    .await;
    network.stop().await;
}

async fn send(network: &Network, rollup: usize, nonce: u64) -> Result<B256, serde_json::Value> {
    let chain_id = network.info.rollups[rollup].evm_chain_id;
    let raw = raw_transfer(network, chain_id, 0, nonce, |request| request).await;
    let sent = network
        .rpc(rollup, "eth_sendRawTransaction", json!([raw]))
        .await;
    sent.map(|_| keccak256(&raw))
}
