//! State sync as CometBFT has it done.

use bytes::Bytes;
use counterpoint_abci::{
    SnapshotRequest, SnapshotResponse,
    proto::abci::{
        RequestApplySnapshotChunk, RequestListSnapshots, RequestLoadSnapshotChunk,
        RequestOfferSnapshot, ResponseApplySnapshotChunk, Snapshot,
        response_apply_snapshot_chunk::Result as Applied,
        response_offer_snapshot::Result as Offered,
    },
};

use super::Node;

pub(crate) async fn list(node: &Node) -> Vec<Snapshot> {
    let request = SnapshotRequest::ListSnapshots(RequestListSnapshots {});
    match node.sync(request).await {
        SnapshotResponse::ListSnapshots(response) => response.snapshots,
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) async fn load(node: &Node, snapshot: &Snapshot, chunk: u32) -> Bytes {
    let request = RequestLoadSnapshotChunk {
        height: snapshot.height,
        format: snapshot.format,
        chunk,
    };
    match node.sync(SnapshotRequest::LoadSnapshotChunk(request)).await {
        SnapshotResponse::LoadSnapshotChunk(response) => response.chunk,
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) async fn offer(node: &Node, snapshot: &Snapshot, app_hash: &[u8]) -> Offered {
    let request = RequestOfferSnapshot {
        snapshot: Some(snapshot.clone()),
        app_hash: Bytes::copy_from_slice(app_hash),
    };
    match node.sync(SnapshotRequest::OfferSnapshot(request)).await {
        SnapshotResponse::OfferSnapshot(response) => response.result(),
        other => panic!("unexpected {other:?}"),
    }
}

pub(crate) async fn apply(node: &Node, index: u32, chunk: &[u8]) -> ResponseApplySnapshotChunk {
    let request = RequestApplySnapshotChunk {
        index,
        chunk: Bytes::copy_from_slice(chunk),
        sender: "peer".into(),
    };
    match node
        .sync(SnapshotRequest::ApplySnapshotChunk(request))
        .await
    {
        SnapshotResponse::ApplySnapshotChunk(response) => response,
        other => panic!("unexpected {other:?}"),
    }
}

/// Restores the newest snapshot of another node; gives its height. `app_hash` knows what light
/// clients would find.
pub(crate) async fn restore(
    node: &Node,
    source: &Node,
    app_hash: impl Fn(u64) -> Bytes,
) -> Option<u64> {
    let snapshot = list(source).await.pop()?;
    let accepted = offer(node, &snapshot, &app_hash(snapshot.height)).await;
    assert_eq!(accepted, Offered::Accept);
    for index in 0..snapshot.chunks {
        let chunk = load(source, &snapshot, index).await;
        assert_eq!(apply(node, index, &chunk).await.result(), Applied::Accept);
    }
    Some(snapshot.height)
}
