//! Snapshots, made and restored as CometBFT has it done, and everything that peers may send.

use std::num::NonZeroUsize;

use bytes::Bytes;
use counterpoint_abci::proto::abci::{
    Snapshot, response_apply_snapshot_chunk::Result as Applied,
    response_offer_snapshot::Result as Offered,
};
use counterpoint_core::{
    action::{Action, ScheduleUpgrade},
    primitive::RollupId,
};
use counterpoint_machine::tree;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::testing::{
    Node, Proposal, SNAPSHOT_INTERVAL, data, rollup, sign,
    sync::{apply, list, load, offer, restore},
    transfer,
};

/// A node with some history, which makes snapshots where they are due; its last blocks.
async fn source(path: &Path, blocks: u64) -> (Node, Vec<(Proposal, Bytes)>) {
    let node = Node::start(path).await;
    let mut history = Vec::new();
    for height in 1..=blocks {
        if height % 3 == 0 {
            node.check(&transfer(1, height / 3 - 1, 2)).await;
            node.check(&data(4, height / 3 - 1, b"opaque")).await;
        }
        history.push(node.advance().await);
        node.make_snapshot();
    }
    (node, history)
}

/// A snapshot with these chunks, which says of itself what is true.
fn snapshot_of(height: u64, chunks: &[Vec<u8>]) -> Snapshot {
    let hashes = chunks.iter().map(|chunk| Hash::digest(&[chunk])).collect();
    let metadata = Metadata::new(Height::new(height), Height::new(1), hashes);
    Snapshot {
        height,
        format: FORMAT,
        chunks: u32::try_from(chunks.len()).unwrap(),
        hash: Bytes::copy_from_slice(metadata.hash().as_bytes()),
        metadata: borsh::to_vec(&metadata).unwrap().into(),
    }
}

type Entries = Vec<format::Entry>;

/// The state of a node, cut into chunks of a few entries each.
fn chunks(node: &Node) -> (Vec<Vec<u8>>, Entries) {
    let state = node.store.state();
    let entries: Entries = state.entries().map(Result::unwrap).collect();
    let chunks = entries.chunks(4);
    let chunks = chunks.map(|entries| borsh::to_vec(&entries.to_vec()).unwrap());
    (chunks.collect(), entries)
}

fn empty_node() -> (TempDir, Node) {
    let directory = tempdir().unwrap();
    let node = Node::open(directory.path());
    (directory, node)
}

/// Nothing of a chain is there.
async fn assert_empty(node: &Node) {
    let info = node.info().await;
    assert_eq!(
        (info.last_block_height, info.last_block_app_hash.len()),
        (0, 0)
    );
    assert_eq!(node.store.state().entries().count(), 0);
    assert_eq!(*node.commits.borrow(), Height::new(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_node_goes_on_like_the_others() {
    let directory = tempdir().unwrap();
    let (node, history) = source(directory.path(), 13).await;
    let snapshots = list(&node).await;
    let heights: Vec<u64> = snapshots.iter().map(|snapshot| snapshot.height).collect();
    assert_eq!(heights, [SNAPSHOT_INTERVAL, 2 * SNAPSHOT_INTERVAL]);
    let snapshot = &snapshots[1];
    let app_hash = history[9].1.clone();

    let (directory, joined) = empty_node();
    assert_eq!(offer(&joined, snapshot, &app_hash).await, Offered::Accept);
    for index in 0..snapshot.chunks {
        let chunk = load(&node, snapshot, index).await;
        assert_eq!(
            apply(&joined, index, &chunk).await.result(),
            Applied::Accept
        );
    }
    let info = joined.info().await;
    assert_eq!(info.last_block_height, 10);
    assert_eq!(info.last_block_app_hash, app_hash);
    assert_eq!(info.app_version, node.info().await.app_version);
    assert_eq!(*joined.commits.borrow(), Height::new(10));
    assert_eq!(joined.store.lowest().unwrap(), Height::new(11));

    // It takes transactions, survives a restart, and follows.
    assert_eq!(joined.check(&transfer(2, 0, 1)).await.0, 0);
    drop(joined);
    let joined = Node::open(directory.path());
    for (proposal, app_hash) in &history[10..] {
        assert_eq!(joined.replay(proposal).await, app_hash);
        let height = Height::new(u64::try_from(proposal.height).unwrap());
        let theirs = node.store.slice(height, &rollup()).unwrap().unwrap();
        let ours = joined.store.slice(height, &rollup()).unwrap().unwrap();
        assert_eq!(ours.block, theirs.block);
        let config = |node: &Node| node.store.config(&ours.config_hash).unwrap().unwrap();
        assert_eq!(config(&joined), config(&node));
    }
    for _ in 0..20 {
        joined.check(&transfer(3, joined.next_nonce(3), 1)).await;
        let (proposal, app_hash) = joined.advance().await;
        assert_eq!(node.replay(&proposal).await, app_hash);
    }
    assert_eq!(joined.store.tip().unwrap(), node.store.tip().unwrap());
    let other = RollupId::from_name("other");
    assert!(
        joined
            .store
            .slice(Height::new(12), &other)
            .unwrap()
            .is_none()
    );
    assert!(
        joined
            .store
            .slice(Height::new(10), &rollup())
            .unwrap()
            .is_none()
    );
}

/// CometBFT must not take over what its application leaves alone with: one that loses it then never
/// starts again.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_beyond_this_software_is_not_taken() {
    let directory = tempdir().unwrap();
    let node = Node::open_later(directory.path());
    node.init_example().await;
    let plan = ScheduleUpgrade::new(Height::new(3), "next".into(), 2).unwrap();
    let upgrade = sign(1, 0, 1, Action::ScheduleUpgrade(plan));
    assert_eq!(node.check(&upgrade).await.0, 0);
    let mut app_hash = Bytes::new();
    for _ in 0..SNAPSHOT_INTERVAL {
        app_hash = node.advance().await.1;
        node.make_snapshot();
    }
    let snapshot = list(&node).await.remove(0);

    let (directory, older) = empty_node();
    assert_eq!(offer(&older, &snapshot, &app_hash).await, Offered::Accept);
    for index in 0..snapshot.chunks {
        let chunk = load(&node, &snapshot, index).await;
        let expected = if index + 1 < snapshot.chunks {
            Applied::Accept
        } else {
            Applied::Abort
        };
        assert_eq!(apply(&older, index, &chunk).await.result(), expected);
    }
    assert_empty(&older).await;

    drop(older);
    let later = Node::open_later(directory.path());
    let height = restore(&later, &node, |_| app_hash.clone()).await;
    assert_eq!(height, Some(snapshot.height));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_has_the_same_tree_as_one_that_grew() {
    let (_directory, node) = empty_node();
    let key = |index: u32| [&[0x77], &index.to_be_bytes()[..]].concat();
    let entries: Entries = (0..20_000)
        .map(|index| (key(index), vec![1; (index % 50) as usize]))
        .collect();
    let changes = entries.iter().cloned();
    let changes = changes.map(|(key, value)| (key, Some(value))).collect();
    let (expected, _) = tree::update(&node.store, &changes).unwrap();
    node.store.begin_restore().unwrap();
    for entries in entries.chunks(9_000) {
        node.store.restore_entries(entries).unwrap();
    }
    assert_eq!(node.store.restore_tree().unwrap(), expected);
    // The next block builds on it, deletions too.
    let later = [(key(3), None), (key(70_000), Some(vec![9]))];
    let later = later.into_iter().collect();
    let (grown, _) = tree::update(&node.store, &later).unwrap();
    let mut all: counterpoint_machine::Changes = changes;
    all.extend(later);
    all.retain(|_, value| value.is_some());
    let (_directory, other) = empty_node();
    assert_eq!(tree::update(&other.store, &all).unwrap().0, grown);
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_are_refused_for_what_is_wrong_with_them() {
    let directory = tempdir().unwrap();
    let (node, history) = source(directory.path(), SNAPSHOT_INTERVAL).await;
    let good = list(&node).await.remove(0);
    let app_hash = &history[4].1;
    assert_eq!(
        offer(&node, &good, app_hash).await,
        Offered::Abort,
        "not fresh"
    );
    assert_eq!(node.info().await.last_block_height, 5);

    let (_directory, fresh) = empty_node();
    let refused = async |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        let offered = offer(&fresh, &snapshot, app_hash).await;
        // Nothing begins that way.
        assert_eq!(apply(&fresh, 0, b"").await.result(), Applied::Abort);
        offered
    };
    assert_eq!(refused(&|it| it.format = 2).await, Offered::RejectFormat);
    assert_eq!(refused(&|it| it.height = 6).await, Offered::Reject);
    assert_eq!(refused(&|it| it.chunks = 2).await, Offered::Reject);
    assert_eq!(refused(&|it| it.hash = Bytes::new()).await, Offered::Reject);
    let metadata = good.metadata.slice(1..);
    let cut = |it: &mut Snapshot| it.metadata = metadata.clone();
    assert_eq!(refused(&cut).await, Offered::Reject);
    assert_eq!(
        refused(&|it| it.metadata = Bytes::new()).await,
        Offered::Reject
    );
    let other = snapshot_of(6, &[b"chunk".to_vec()]);
    let swap = |it: &mut Snapshot| it.metadata = other.metadata.clone();
    assert_eq!(refused(&swap).await, Offered::Reject);
    assert_eq!(offer(&fresh, &good, b"short").await, Offered::Reject);
    assert_empty(&fresh).await;
    assert_eq!(offer(&fresh, &good, app_hash).await, Offered::Accept);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_chunks_are_asked_for_again() {
    let directory = tempdir().unwrap();
    let (node, history) = source(directory.path(), 4).await;
    let (chunks, _) = chunks(&node);
    assert!(chunks.len() > 2);
    let (app_hash, snapshot) = (&history[3].1, snapshot_of(4, &chunks));
    let (_directory, joined) = empty_node();
    assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
    let mut corrupt = chunks[0].clone();
    corrupt[9] ^= 1;
    let oversize = vec![0; format::MAX_CHUNK_BYTES + 1];
    let (truncated, other) = (&chunks[0][..chunks[0].len() - 1], &chunks[1]);
    for wrong in [&corrupt, &oversize, truncated, other, &[][..]] {
        let answer = apply(&joined, 0, wrong).await;
        assert_eq!(answer.result(), Applied::Retry);
        assert_eq!(answer.refetch_chunks, [0]);
        assert_eq!(answer.reject_senders, ["peer"]);
    }
    assert_eq!(
        joined.store.state().entries().count(),
        0,
        "nothing was read"
    );
    // Reordered: everything begins anew, by another offer.
    let skipped = apply(&joined, 1, &chunks[1]).await;
    assert_eq!(skipped.result(), Applied::RetrySnapshot);
    assert_eq!(
        apply(&joined, 0, &chunks[0]).await.result(),
        Applied::Accept
    );
    let twice = apply(&joined, 0, &chunks[0]).await;
    assert_eq!(twice.result(), Applied::RetrySnapshot);
    assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
    for (index, chunk) in (0..).zip(&chunks) {
        assert_eq!(apply(&joined, index, chunk).await.result(), Applied::Accept);
    }
    assert_eq!(joined.info().await.last_block_app_hash, app_hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_with_right_digests_leave_nothing_behind() {
    let directory = tempdir().unwrap();
    let (node, history) = source(directory.path(), 4).await;
    let (_, entries) = chunks(&node);
    let app_hash = &history[3].1;
    let (_directory, joined) = empty_node();
    let rejected = async |entries: &[format::Entry], tail: &[u8]| {
        let half = entries.len() / 2;
        let (first, second) = (entries[..half].to_vec(), entries[half..].to_vec());
        let first = borsh::to_vec(&first).unwrap();
        let second = [&borsh::to_vec(&second).unwrap(), tail].concat();
        let snapshot = snapshot_of(4, &[first.clone(), second.clone()]);
        assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
        let mut last = Applied::Accept;
        for (index, chunk) in (0..).zip([first, second]) {
            if last == Applied::Accept {
                last = apply(&joined, index, &chunk).await.result();
            }
        }
        assert_eq!(last, Applied::RejectSnapshot);
        assert_empty(&joined).await;
        assert_eq!(apply(&joined, 0, b"").await.result(), Applied::Abort);
    };
    let with = |change: &dyn Fn(&mut Entries)| {
        let mut entries = entries.clone();
        change(&mut entries);
        entries
    };
    rejected(&with(&|it| it[3].1[0] ^= 1), b"").await; // Another root.
    rejected(&with(&|it| drop(it.remove(3))), b"").await;
    rejected(&with(&|it| it.push((vec![0xff], vec![]))), b"").await;
    rejected(&with(&|it| it.swap(1, 2)), b"").await; // The right state, unsorted.
    rejected(&with(&|it| it.insert(1, it[1].clone())), b"").await;
    rejected(&with(&|it| it.insert(0, (vec![], vec![]))), b"").await;
    rejected(&entries, b"more").await;
    // A root that is right, of a state that has no chain or another beginning.
    let (chunk, snapshot) = {
        let chunk = borsh::to_vec(&entries).unwrap();
        let hashes = vec![Hash::digest(&[&chunk])];
        let metadata = Metadata::new(Height::new(4), Height::new(2), hashes);
        let snapshot = Snapshot {
            hash: Bytes::copy_from_slice(metadata.hash().as_bytes()),
            metadata: borsh::to_vec(&metadata).unwrap().into(),
            ..snapshot_of(4, std::slice::from_ref(&chunk))
        };
        (chunk, snapshot)
    };
    assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
    let answer = apply(&joined, 0, &chunk).await;
    assert_eq!(answer.result(), Applied::RejectSnapshot);
    assert_empty(&joined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_restore_leaves_a_fresh_node() {
    let directory = tempdir().unwrap();
    let (node, history) = source(directory.path(), 4).await;
    let (chunks, _) = chunks(&node);
    let (app_hash, snapshot) = (&history[3].1, snapshot_of(4, &chunks));
    let (directory, mut joined) = empty_node();
    for chunks_before_the_crash in 0..chunks.len() {
        assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
        for (index, chunk) in (0..).zip(&chunks[..chunks_before_the_crash]) {
            assert_eq!(apply(&joined, index, chunk).await.result(), Applied::Accept);
        }
        // Users are told to come back; nothing breaks.
        assert_eq!(joined.check(&transfer(1, 0, 1)).await.0, 32_005);
        drop(joined);
        joined = Node::open(directory.path());
        assert_empty(&joined).await;
        assert!(joined.store.is_fresh().unwrap());
    }
    // CometBFT may end after the last chunk, before it has noted the new state: it offers again.
    for _ in 0..2 {
        assert_eq!(offer(&joined, &snapshot, app_hash).await, Offered::Accept);
        for (index, chunk) in (0..).zip(&chunks) {
            assert_eq!(apply(&joined, index, chunk).await.result(), Applied::Accept);
        }
        drop(joined);
        joined = Node::open(directory.path());
        assert_eq!(joined.info().await.last_block_app_hash, app_hash);
    }
    let (proposal, app_hash) = node.advance().await;
    assert_eq!(joined.replay(&proposal).await, app_hash);
    assert_eq!(offer(&joined, &snapshot, &app_hash).await, Offered::Abort);
}

fn open(directory: &Path, kept: usize) -> (Arc<Snapshots>, mpsc::Receiver<StateSnapshot>) {
    let settings = Settings {
        interval: 1,
        kept: NonZeroUsize::new(kept).unwrap(),
    };
    Snapshots::open(directory.into(), settings).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_whole_or_not_there() {
    let directory = tempdir().unwrap();
    let (node, _) = source(&directory.path().join("node"), 3).await;
    let directory = directory.path().join("snapshots");
    let (snapshots, mut states) = open(&directory, 2);
    let stop = CancellationToken::new();
    snapshots.committed(Height::new(3), &node.store);
    node.advance().await;
    snapshots.committed(Height::new(4), &node.store);
    let state = states.try_recv().unwrap();
    assert!(states.try_recv().is_err(), "one at a time");
    snapshots.make(&state, &stop).unwrap();
    assert_eq!(
        snapshots.oldest(),
        Some(Height::new(3)),
        "of its own height"
    );
    snapshots.committed(Height::new(3), &node.store);
    assert!(states.try_recv().is_err(), "it is there");
    for height in 5..7 {
        node.advance().await;
        snapshots.committed(Height::new(height), &node.store);
        snapshots.make(&states.try_recv().unwrap(), &stop).unwrap();
    }
    let heights = |snapshots: &Snapshots| -> Vec<u64> {
        let all = snapshots.list();
        all.iter().map(|metadata| metadata.height.get()).collect()
    };
    assert_eq!(heights(&snapshots), [5, 6], "the newest two are kept");
    assert!(snapshots.chunk(Height::new(3), 0).unwrap().is_none());
    assert!(snapshots.chunk(Height::new(5), 1).unwrap().is_none());
    let chunk = snapshots.chunk(Height::new(5), 0).unwrap().unwrap();
    assert_eq!(Hash::digest(&[&chunk]), snapshots.list()[0].chunks[0]);

    // Told to stop, or ended by force: what is not whole goes.
    let stopped = CancellationToken::new();
    stopped.cancel();
    node.advance().await;
    snapshots.committed(Height::new(7), &node.store);
    let state = states.try_recv().unwrap();
    assert!(snapshots.make(&state, &stopped).is_err());
    fs::create_dir(directory.join("tmp-7")).unwrap();
    fs::write(directory.join("tmp-7/0"), b"half a chunk").unwrap();
    fs::write(directory.join("6/metadata"), b"damaged").unwrap();
    drop((snapshots, states));
    let (snapshots, _states) = open(&directory, 2);
    assert_eq!(heights(&snapshots), [5]);
    assert!(!directory.join("tmp-7").exists());
}
