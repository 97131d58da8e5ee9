use counterpoint_abci::{
    BoxError, SnapshotRequest, SnapshotResponse,
    proto::abci::{
        ResponseApplySnapshotChunk, ResponseListSnapshots, ResponseLoadSnapshotChunk,
        ResponseOfferSnapshot, response_apply_snapshot_chunk, response_offer_snapshot,
    },
};

/// This node takes no snapshots and restores none, and says so.
///
/// # Errors
/// Never.
pub(crate) async fn snapshot(request: SnapshotRequest) -> Result<SnapshotResponse, BoxError> {
    Ok(match request {
        SnapshotRequest::ListSnapshots(_) => ResponseListSnapshots::default().into(),
        SnapshotRequest::OfferSnapshot(_) => {
            let result = response_offer_snapshot::Result::Abort.into();
            ResponseOfferSnapshot { result }.into()
        }
        SnapshotRequest::LoadSnapshotChunk(_) => ResponseLoadSnapshotChunk::default().into(),
        SnapshotRequest::ApplySnapshotChunk(_) => {
            let result = response_apply_snapshot_chunk::Result::Abort.into();
            ResponseApplySnapshotChunk {
                result,
                ..Default::default()
            }
            .into()
        }
    })
}
