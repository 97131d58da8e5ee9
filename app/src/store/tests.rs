//! What is read, against what was executed.

use counterpoint_core::{
    block::{LeafProof, data_leaf, merkle::Tree},
    primitive::{Hash, Height, RollupId},
    state::{Account, Key, StateProof},
};
use counterpoint_machine::Outcome;
use counterpoint_proto::sequencer::RollupBlock;
use tempfile::tempdir;

use super::{FORMAT, Place, Store};
use crate::testing::{Node, Template, address, data, rollup, transfer};

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
        let (outcome, items) = node.execute(&proposal);
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

#[tokio::test(flavor = "multi_thread")]
async fn pruning_goes_on_after_a_restart() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let template = Template::of(&node).await;
    // Heights 3 and 4 have one configuration, then comes another, the first again, and a third.
    let gas_limit = |height| match height {
        5 | 6 => 2_000_000,
        9.. => 3_000_000,
        _ => 1_000_000,
    };
    let items = |height: u64| (0..900).map(move |index: u64| item(height, index));
    for height in 3..=12 {
        let at = Height::new(height);
        let mut block = template.block(height, height);
        block.items.extend(items(height));
        block.outcome.codes = vec![(0, String::new()); block.items.len()];
        let slice = &mut block.outcome.rollups[0];
        slice.config.gas_limit = gas_limit(height);
        slice.leaf.env.config_hash = slice.config.hash();
        node.store.commit(block).unwrap();
        let validators = [4, 6, 11].contains(&height).then_some(&b"validators"[..]);
        node.store.put_header(at, b"header", validators).unwrap();
    }
    let config = |node: &Node, height: u64| {
        let slice = node.store.slice(Height::new(height), &rollup()).unwrap();
        let hash = slice.unwrap().config_hash;
        (hash, node.store.config(&hash).unwrap())
    };
    let (second, known) = config(&node, 5);
    assert!(known.is_some());

    node.store.raise_lowest(Height::new(8)).unwrap();
    node.store.raise_lowest(Height::new(7)).unwrap();
    assert_eq!(
        node.store.lowest().unwrap(),
        Height::new(8),
        "it never falls"
    );
    drop(node);
    let mut steps = 0;
    let node = loop {
        let node = Node::open(directory.path());
        if node.store.prune().unwrap().is_break() {
            break node;
        }
        steps += 1;
    };
    assert!(steps > 1, "a step is bounded");
    let place = |height| node.store.place(&item(height, 0)).unwrap();
    for height in 3..8 {
        let at = Height::new(height);
        assert!(node.store.slice(at, &rollup()).unwrap().is_none());
        assert_eq!(node.store.header(at).unwrap(), None);
        assert_eq!(place(height), None);
    }
    for height in 8..=12 {
        assert!(config(&node, height).1.is_some());
        assert!(node.store.header(Height::new(height)).unwrap().is_some());
        let Place { height: found, .. } = place(height).unwrap();
        assert_eq!(found, Height::new(height));
    }
    assert!(
        node.store.config(&second).unwrap().is_some(),
        "configurations stay"
    );
    let (_, changed) = node.store.validators(Height::new(8)).unwrap().unwrap();
    assert!(!changed, "those of height 6 still are the validators");
    let left = |keyspace: &fjall::Keyspace| keyspace.len().unwrap();
    assert_eq!(left(&node.store.blocks), 5);
    assert_eq!(left(&node.store.lists), 0);
    assert_eq!(left(&node.store.configs), 4);
    assert_eq!(left(&node.store.validators), 2);
    assert_eq!(left(&node.store.transactions), 5 * 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_pruned_does_not_look_empty() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.advance().await;
    node.check(&data(4, 0, b"opaque")).await;
    node.advance().await;
    node.advance().await;
    let (height, nobody) = (Height::new(2), RollupId::from_name("nobody"));
    // The block is being read when its list goes.
    assert!(node.store.slice(height, &nobody).unwrap().is_none());
    node.store.raise_lowest(Height::new(3)).unwrap();
    assert!(node.store.prune().unwrap().is_continue());
    assert!(node.store.slice(height, &rollup()).unwrap().is_none());
}

fn item(height: u64, index: u64) -> Hash {
    Hash::digest(&[&height.to_be_bytes(), &index.to_be_bytes()])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_holds_is_proven_against_the_next_header() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let (_, app_hash) = node.advance().await;
    assert!(
        node.store.provable().unwrap().is_none(),
        "no header commits to it yet"
    );
    node.check(&transfer(1, 0, 1)).await;
    node.advance().await;
    node.store
        .put_header(Height::new(2), b"header", None)
        .unwrap();
    let (state, next) = node.store.provable().unwrap().unwrap();
    assert_eq!(
        next,
        Height::new(2),
        "the state of height 1, though 2 is committed"
    );
    let app_hash = Hash::new(app_hash[..].try_into().unwrap());
    let (rich, nobody) = (Key::Account(address(1)), Key::Account(address(99)));
    let prove = |key: &Key<'_>| {
        let proof = state.prove(&key.encode()).unwrap();
        StateProof::decode(&borsh::to_vec(&proof).unwrap()).unwrap()
    };
    let account: Option<Account> = prove(&rich).verify_record(&rich, &app_hash).unwrap();
    assert_eq!(account.unwrap().nonce.get(), 0);
    let nothing: Option<Account> = prove(&nobody).verify_record(&nobody, &app_hash).unwrap();
    assert_eq!(nothing, None);
    assert!(
        prove(&rich).verify(&nobody, &app_hash).is_err(),
        "another key"
    );
    assert!(prove(&nobody).verify(&rich, &app_hash).is_err(), "hidden");
    assert!(
        prove(&rich).verify(&rich, &Hash::ZERO).is_err(),
        "another state"
    );
    let mut forged = borsh::to_vec(&prove(&rich)).unwrap();
    forged[10] ^= 1;
    assert!(
        StateProof::decode(&forged)
            .unwrap()
            .verify(&rich, &app_hash)
            .is_err()
    );
    assert!(StateProof::decode(&vec![0; StateProof::MAX_BYTES + 1]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_older_and_newer_software_is_left_alone() {
    let directory = tempdir().unwrap();
    for format in [FORMAT - 1, FORMAT + 1] {
        let node = Node::start(directory.path()).await;
        let meta = &node.store.meta;
        meta.insert(b"format", format.to_le_bytes()).unwrap();
        drop(node);
        let error = Store::open(directory.path()).unwrap_err().to_string();
        let expected = format!(
            "the database in {} has format {format}, this software writes {FORMAT}: use the version \
             that wrote it, or an empty data_dir",
            directory.path().display()
        );
        assert_eq!(error, expected);
        // Nothing was changed: the software that wrote it still finds it.
        let error = Store::open(directory.path()).unwrap_err().to_string();
        assert_eq!(error, expected);
        std::fs::remove_dir_all(directory.path()).unwrap();
    }
}

#[test]
fn a_database_that_was_never_finished_is_named() {
    let directory = tempdir().unwrap();
    drop(Store::open(directory.path()).unwrap());
    // As a disk without room leaves it.
    std::fs::write(directory.path().join("version"), "").unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    let expected = "a database whose making was interrupted: use an empty data_dir";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_data_dir_has_one_owner() {
    let directory = tempdir().unwrap();
    let _store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("is in use by another process"), "{error}");
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file).unwrap_err().to_string();
    assert!(error.starts_with("failed to create data_dir"), "{error}");
}
