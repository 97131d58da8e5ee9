//! What is read, against what was executed.

use counterpoint_core::{
    block::{LeafProof, data_leaf, merkle::Tree},
    primitive::{Address, Hash, Height, RollupId},
    slot::HeaderTime,
};
use counterpoint_machine::{Block, BlockContext, Outcome, finalize, process};
use counterpoint_proto::sequencer::RollupBlock;
use tempfile::tempdir;

use crate::testing::{Node, Proposal, data, rollup, time, transfer};

/// What a block does, worked out beside the node.
fn outcome(node: &Node, proposal: &Proposal) -> (Outcome, Vec<Hash>) {
    let time = time(proposal.height).unwrap();
    let ctx = BlockContext {
        height: Height::new(u64::try_from(proposal.height).unwrap()),
        time: HeaderTime {
            seconds: u64::try_from(time.seconds).unwrap(),
            nanos: 0,
        },
        proposer: Address::new([9; 20]),
    };
    let block = Block::decode(&proposal.items, |_| None).unwrap();
    let execution = process(&node.store.state(), &ctx, &block).unwrap();
    (
        finalize(execution, proposal.hash).unwrap(),
        block.item_hashes(),
    )
}

/// The parts of a block as the protocol defines them, built from scratch.
fn expected(height: u64, outcome: &Outcome, items: &[Hash]) -> Vec<(RollupId, RollupBlock)> {
    let leaves = outcome.rollups.iter().map(|slice| slice.leaf.leaf());
    let (rollups, data) = (
        Tree::new(leaves.collect()),
        Tree::new(items.iter().map(data_leaf).collect()),
    );
    let part = |(index, slice): (u32, &counterpoint_machine::RollupSlice)| {
        let proof = LeafProof {
            leaf: slice.leaf.clone(),
            leaf_path: rollups.path(index).unwrap(),
            preamble: outcome.preamble.clone(),
            preamble_path: data.path(0).unwrap(),
        };
        let block = RollupBlock {
            height,
            borsh_leaf_proof: borsh::to_vec(&proof).unwrap().into(),
            borsh_list: borsh::to_vec(&slice.items).unwrap().into(),
            ..RollupBlock::default()
        };
        (slice.leaf.rollup_id, block)
    };
    (0..).zip(&outcome.rollups).map(part).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_read_as_they_were_executed() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.advance().await;
    let mut lists = 0;
    for nonce in 0..12 {
        if nonce % 3 == 0 {
            node.check(&data(4, nonce / 3, b"opaque")).await;
            node.check(&transfer(1, nonce / 3, 5)).await;
        }
        let proposal = node.prepare(0).await;
        let (outcome, items) = outcome(&node, &proposal);
        node.replay(&proposal).await;
        let height = Height::new(u64::try_from(proposal.height).unwrap());
        for (id, block) in expected(height.get(), &outcome, &items) {
            // The second reader gets what the first one had built.
            for _ in 0..2 {
                let slice = node.store.slice(height, &id).unwrap().unwrap();
                assert_eq!(slice.block, block);
                let config = node.store.config(&slice.config_hash).unwrap().unwrap();
                assert_eq!(config, borsh::to_vec(&outcome.rollups[0].config).unwrap());
            }
            lists += usize::from(block.borsh_list.len() > 4);
        }
        let nobody = RollupId::from_name("nobody");
        assert!(node.store.slice(height, &nobody).unwrap().is_none());
    }
    assert_eq!(lists, 4);
    assert_eq!(
        node.store.lists.len().unwrap(),
        lists,
        "empty lists are not stored"
    );
    let next = Height::new(14);
    assert!(node.store.slice(next, &rollup()).unwrap().is_none());
    node.advance().await;
    assert!(node.store.slice(next, &rollup()).unwrap().is_some());
}
