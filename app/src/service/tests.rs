//! The services, driven as CometBFT drives them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use counterpoint_abci::{
    InfoRequest, InfoResponse,
    proto::abci::{RequestQuery, response_process_proposal::ProposalStatus},
};
use counterpoint_core::{
    action::{Action, ScheduleUpgrade},
    block::{LeafProof, RollupItem, data_leaf, merkle},
    key::count::verified,
    light::VerifiedHeader,
    primitive::{Hash, Height},
    slot::HeaderTime,
    state::BundleStatus,
};
use counterpoint_machine::query;
use tempfile::tempdir;

use super::*;
use crate::{
    store::{Slice, Tip},
    testing::{
        Node, Proposal, address,
        attest::{ATTESTERS, Sample, Says, attest, now},
        data, rollup, sign, transfer,
    },
};

/// Seven blocks with traffic, some of it over two rounds; every block with its app hash.
async fn history(node: &Node) -> Vec<(Proposal, Bytes)> {
    let mut blocks = vec![node.advance().await];
    for nonce in 0..3 {
        for seed in 1..4 {
            let tx = transfer(seed, nonce, u64::from(seed));
            assert_eq!(node.check(&tx).await, (0, String::new()));
        }
        let item = data(4, nonce, b"opaque");
        assert_eq!(node.check(&item).await.0, 0);
        let early = node.prepare(0).await;
        assert_eq!(node.process(&early).await, ProposalStatus::Accept);
        assert_eq!(node.check(&transfer(5, nonce, 9)).await.0, 0);
        let late = node.prepare(1).await;
        assert_eq!(late.items.len(), early.items.len() + 1);
        assert_eq!(node.process(&late).await, ProposalStatus::Accept);
        assert_eq!(node.process(&early).await, ProposalStatus::Accept);
        let decided = if nonce == 1 { late } else { early };
        let app_hash = node.replay(&decided).await;
        blocks.push((decided, app_hash));
        blocks.push(node.advance().await);
    }
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn no_signature_is_verified_twice() {
    let directories = [(); 3].map(|()| tempdir().unwrap());
    let proposer = Node::start(directories[0].path()).await;
    let validator = Node::start(directories[1].path()).await;
    let late = Node::start(directories[2].path()).await;
    for seed in 1..4 {
        assert_eq!(proposer.check(&transfer(seed, 0, 1)).await.0, 0);
    }
    for bundle in proposer.reap().await {
        assert_eq!(validator.insert(&bundle).await, 0);
    }
    assert_eq!(validator.mempool.size(), proposer.mempool.size());
    // These two nobody was told of.
    assert_eq!(proposer.check(&transfer(4, 0, 1)).await.0, 0);
    assert_eq!(proposer.check(&transfer(4, 1, 1)).await.0, 0);
    let start = verified();
    let first = proposer.prepare(0).await;
    assert_eq!(first.items.len(), 6);
    assert_eq!(proposer.process(&first).await, ProposalStatus::Accept);
    assert_eq!(verified() - start, 0, "by the proposer");
    assert_eq!(validator.process(&first).await, ProposalStatus::Accept);
    assert_eq!(verified() - start, 2, "the strangers");
    assert_eq!(proposer.check(&transfer(5, 0, 1)).await.0, 0);
    let second = proposer.prepare(1).await;
    assert_eq!(validator.process(&second).await, ProposalStatus::Accept);
    assert_eq!(
        verified() - start,
        4,
        "at intake, and the new one by the validator"
    );
    assert_eq!(validator.process(&first).await, ProposalStatus::Accept);
    for node in [&validator, &proposer] {
        node.replay(&second).await;
    }
    assert_eq!(verified() - start, 4, "by nobody who processed the block");
    late.replay(&second).await;
    assert_eq!(verified() - start, 10, "by who sees it for the first time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_transaction_in_a_block_is_named() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    for seed in 1..4 {
        assert_eq!(node.check(&transfer(seed, 0, 1)).await.0, 0);
    }
    let mut proposal = node.prepare(0).await;
    let mut forged = proposal.items[2].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    proposal.items[2] = forged.into();
    proposal.hash = Hash::digest(&[b"another block"]);
    assert_eq!(node.process(&proposal).await, ProposalStatus::Reject);
    let error = node.finalize(&proposal).await.unwrap_err().to_string();
    assert!(
        error.contains("item 2 is not a transaction: signature"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replaying_gives_the_same_app_hashes() {
    let (first, second) = (tempdir().unwrap(), tempdir().unwrap());
    let node = Node::start(first.path()).await;
    let blocks = history(&node).await;
    assert_eq!(node.mempool.size(), (0, 0), "what was included is gone");
    let fresh = Node::start(second.path()).await;
    for (proposal, app_hash) in &blocks {
        assert_eq!(fresh.replay(proposal).await, app_hash);
    }
    assert_eq!(fresh.store.tip().unwrap(), node.store.tip().unwrap());
    let nonce = |node: &Node| {
        let account = query::account(&node.store.state(), address(5)).unwrap();
        account.unwrap().nonce.get()
    };
    assert_eq!((nonce(&node), nonce(&fresh)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_at_any_step_goes_on_from_the_last_commit() {
    let (first, second) = (tempdir().unwrap(), tempdir().unwrap());
    let blocks = history(&Node::start(first.path()).await).await;
    drop(Node::start(second.path()).await);
    for (height, (proposal, app_hash)) in (0..).zip(&blocks) {
        if height == 0 {
            // Without a block CometBFT initialises the chain again.
            Node::start(second.path()).await;
        }
        // Ended after each step that comes before Commit: as if nothing had happened.
        for steps in 0..3 {
            let node = Node::open(second.path());
            assert_eq!(node.info().await.last_block_height, height);
            if steps > 0 {
                assert_eq!(node.process(proposal).await, ProposalStatus::Accept);
            }
            if steps > 1 {
                node.finalize(proposal).await.unwrap();
            }
        }
        let node = Node::open(second.path());
        assert_eq!(node.replay(proposal).await, app_hash);
        drop(node);
        let info = Node::open(second.path()).info().await;
        assert_eq!(info.last_block_height, height + 1);
        assert_eq!(info.last_block_app_hash, app_hash);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_and_transactions_are_proven_against_the_data_hash() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    for (proposal, _) in history(&node).await {
        let height = Height::new(u64::try_from(proposal.height).unwrap());
        let hashes: Vec<Hash> = proposal.items.iter().map(|i| Hash::digest(&[i])).collect();
        let data_hash = merkle::root(hashes.iter().map(data_leaf).collect());
        assert_eq!(node.store.data_hash(height).unwrap(), Some(data_hash));
        let (hash, time) = (proposal.hash, HeaderTime::default());
        let header = VerifiedHeader::unchecked(height, hash, time, data_hash, Hash::ZERO);
        for (hash, index) in hashes.iter().zip(0..).skip(1) {
            let place = node.store.place(hash).unwrap().unwrap();
            assert_eq!((place.height, place.index, place.code), (height, index, 0));
            let proof = node.store.transaction_proof(&place).unwrap().unwrap();
            assert_eq!(proof.verify(hash, &header), Ok(()));
        }
        let slice = node.store.slice(height, &rollup()).unwrap();
        assert_eq!(slice.is_some(), height.get() >= 2, "first_height is 2");
        let Some(Slice { block: slice, .. }) = slice else {
            continue;
        };
        let proof: LeafProof = borsh::from_slice(&slice.borsh_leaf_proof).unwrap();
        let items: Vec<RollupItem> = borsh::from_slice(&slice.borsh_list).unwrap();
        let leaf = proof.verify(&rollup(), &header).unwrap();
        leaf.verify_list(items).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_block_may_be_is_rejected() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    for seed in 1..3 {
        node.check(&transfer(seed, 0, u64::from(seed))).await;
    }
    let good = node.prepare(0).await;
    let garbage = Bytes::from_static(b"\x10garbage");
    let with = |change: &dyn Fn(&mut Vec<Bytes>)| {
        let mut items = good.items.clone();
        change(&mut items);
        let hash = Hash::digest(&items.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>());
        let height = good.height;
        Proposal {
            height,
            hash,
            items,
            proposer: 101,
            accused: Vec::new(),
        }
    };
    let bad = [
        with(&|items| items.clear()),
        with(&|items| {
            items.remove(0);
        }),
        with(&|items| items.swap(1, 2)),
        with(&|items| items.push(garbage.clone())),
        with(&|items| items.push(transfer(1, 5, 0))),
        with(&|items| items.push(items[1].clone())),
    ];
    for proposal in &bad {
        assert_eq!(node.process(proposal).await, ProposalStatus::Reject);
    }
    assert_eq!(node.process(&good).await, ProposalStatus::Accept);
    let error = node.finalize(&bad[1]).await.unwrap_err().to_string();
    assert!(error.starts_with("decided block 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_block_of_unknown_rules_is_not_judged() {
    let directories = [(); 2].map(|()| tempdir().unwrap());
    let [node, other] = [&directories[0], &directories[1]].map(|it| Node::start(it.path()));
    let (node, other) = (node.await, other.await);
    let first = Height::new(4);
    let upgrade = ScheduleUpgrade::new(first, "next".into(), 2).unwrap();
    let upgrade = sign(1, 0, 1, Action::ScheduleUpgrade(upgrade));
    for at in [&node, &other] {
        assert_eq!(at.check(&upgrade).await, (0, String::new()));
    }
    for _ in 1..first.get() - 1 {
        node.replay(&other.advance().await.0).await;
    }
    let (last, _) = other.advance().await;
    node.finalize(&last).await.unwrap();
    node.commit().await.unwrap();
    let next = Proposal {
        height: last.height + 1,
        ..last
    };
    let refused = node.finalize(&next).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("upgrade \"next\": from height 4 on"),
        "{refused}"
    );
    assert_eq!(node.info().await.last_block_height, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_starts_once_and_only_from_a_sound_genesis() {
    let directory = tempdir().unwrap();
    let node = Node::open(directory.path());
    for malformed in ["", "{}", r#"{"accounts":[],"rollups":[],"more":1}"#] {
        let error = node.init(malformed.into()).await.unwrap_err().to_string();
        assert!(error.starts_with("genesis: app_state is not"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert_eq!(node.store.tip().unwrap(), Tip::default());
    assert!(node.commit().await.is_err(), "nothing was finalised");
    drop(node);
    let node = Node::start(directory.path()).await;
    let (first, _) = node.advance().await;
    let error = node.finalize(&first).await.unwrap_err().to_string();
    assert_eq!(error, "block 1 decided, but 2 is next");
    let error = node.init(vec![]).await.unwrap_err().to_string();
    assert!(error.contains("holds another one at height 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_declined() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let query = InfoRequest::Query(RequestQuery::default());
    match info(&node.store, &node.consensus, query).await.unwrap() {
        InfoResponse::Query(response) => assert_eq!(response.code, 1),
        InfoResponse::Info(other) => panic!("unexpected {other:?}"),
    }
}

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG / 10, what).await;
    done.expect("nothing to wait for")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposer_waits_for_attesters_and_holds_nobody_up() {
    let directory = tempdir().unwrap();
    let node = Arc::new(Node::open_patient(directory.path(), LONG));
    soon(node.init_attested()).await;
    let sample = Sample::new(0, |_| {});
    soon(node.schedule(&sample)).await;
    let slot = now(&node);
    let proposer = Arc::clone(&node);
    let proposal = tokio::spawn(async move { proposer.prepare(0).await });
    for seed in [ATTESTERS[0], ATTESTERS[1]] {
        for message in attest(&slot, seed, Says::Commit) {
            soon(node.info()).await;
            assert!(!proposal.is_finished(), "votes are missing");
            assert_eq!(soon(node.check(&message)).await.0, 0);
        }
    }
    let proposal = soon(proposal).await.unwrap();
    assert_eq!(proposal.items.len(), 2);
    assert_eq!(node.process(&proposal).await, ProposalStatus::Accept);
    node.replay(&proposal).await;
    assert_eq!(sample.status(&node), BundleStatus::Released);
}
