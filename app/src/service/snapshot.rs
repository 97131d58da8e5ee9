use std::sync::{Arc, Mutex, PoisonError};

use counterpoint_abci::{
    BoxError, SnapshotRequest, SnapshotResponse,
    proto::abci::{
        RequestApplySnapshotChunk, RequestLoadSnapshotChunk, RequestOfferSnapshot,
        ResponseApplySnapshotChunk, ResponseListSnapshots, ResponseLoadSnapshotChunk,
        ResponseOfferSnapshot, Snapshot, response_apply_snapshot_chunk::Result as Applied,
        response_offer_snapshot::Result as Offered,
    },
};
use counterpoint_core::primitive::Height;
use counterpoint_service::to_f64;
use metrics::gauge;
use tokio::sync::watch;
use tracing::{error, warn};

use super::{Answer, in_place};
use crate::{
    mempool::Mempool,
    metric,
    snapshot::{ApplyError, FORMAT, Metadata, OfferError, Progress, Restore, Snapshots},
    store::{Store, Tip},
    upgrade::Guard,
};

/// Answers the snapshot connection.
#[derive(Clone, Debug)]
pub(crate) struct StateSync(Arc<State>);

#[derive(Debug)]
struct State {
    store: Store,
    mempool: Arc<Mempool>,
    snapshots: Arc<Snapshots>,
    committed: watch::Sender<Height>,
    guard: Guard,
    restore: Mutex<Option<Restore>>,
}

impl StateSync {
    /// A service that serves `snapshots` and restores peers' into `store`; tells `committed` of the
    /// height that the node stands at then. Which states it can follow `guard` knows.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        mempool: Arc<Mempool>,
        snapshots: Arc<Snapshots>,
        committed: watch::Sender<Height>,
        guard: Guard,
    ) -> Self {
        Self(Arc::new(State {
            store,
            mempool,
            snapshots,
            committed,
            guard,
            restore: Mutex::default(),
        }))
    }

    /// Answers one request.
    #[must_use]
    pub(crate) fn call(&self, request: SnapshotRequest) -> Answer<SnapshotResponse> {
        let state = Arc::clone(&self.0);
        in_place(move || {
            Ok(match request {
                SnapshotRequest::ListSnapshots(_) => state.list()?.into(),
                SnapshotRequest::LoadSnapshotChunk(request) => state.load(&request)?.into(),
                SnapshotRequest::OfferSnapshot(request) => state.offer(&request)?.into(),
                SnapshotRequest::ApplySnapshotChunk(request) => state.apply(request)?.into(),
            })
        })
    }
}

impl State {
    fn list(&self) -> Result<ResponseListSnapshots, BoxError> {
        let describe = |metadata: &Metadata| {
            Ok(Snapshot {
                height: metadata.height.get(),
                format: FORMAT,
                chunks: u32::try_from(metadata.chunks.len())?,
                hash: metadata.hash().as_bytes().to_vec().into(),
                metadata: borsh::to_vec(metadata)?.into(),
            })
        };
        let snapshots = self.snapshots.list();
        let snapshots: Result<_, BoxError> = snapshots.iter().map(describe).collect();
        Ok(ResponseListSnapshots {
            snapshots: snapshots?,
        })
    }

    /// An empty chunk says that there is no such chunk.
    fn load(
        &self,
        request: &RequestLoadSnapshotChunk,
    ) -> Result<ResponseLoadSnapshotChunk, BoxError> {
        let height = Height::new(request.height);
        let chunk = match request.format {
            FORMAT => self.snapshots.chunk(height, request.chunk)?,
            _ => None,
        };
        Ok(ResponseLoadSnapshotChunk {
            chunk: chunk.unwrap_or_default().into(),
        })
    }

    fn offer(&self, request: &RequestOfferSnapshot) -> Result<ResponseOfferSnapshot, BoxError> {
        let offer = request.snapshot.as_ref().ok_or("no snapshot is offered")?;
        let mut restore = self.restore.lock().unwrap_or_else(PoisonError::into_inner);
        *restore = None;
        let result = match Restore::begin(&self.store, &self.guard, offer, &request.app_hash) {
            Ok(begun) => {
                *restore = Some(begun);
                Offered::Accept
            }
            Err(OfferError::Store(fault)) => return Err(fault.into()),
            Err(refused) => {
                let result = match refused {
                    OfferError::Format(_) => Offered::RejectFormat,
                    OfferError::NotFresh(_) => Offered::Abort,
                    _ => Offered::Reject,
                };
                let reason = format!("{:#}", eyre::Report::new(refused));
                warn!(height = offer.height, reason, "snapshot refused");
                result
            }
        };
        let result = result.into();
        Ok(ResponseOfferSnapshot { result })
    }

    fn apply(
        &self,
        request: RequestApplySnapshotChunk,
    ) -> Result<ResponseApplySnapshotChunk, BoxError> {
        let mut restore = self.restore.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(begun) = restore.as_mut() else {
            error!("a chunk of a snapshot that was not offered");
            return Ok(answer(Applied::Abort));
        };
        let refused = match begun.apply(request.index, &request.chunk) {
            Ok(Progress::Unfinished) => return Ok(answer(Applied::Accept)),
            Ok(Progress::Restored(tip)) => {
                *restore = None;
                self.follow(&tip)?;
                return Ok(answer(Applied::Accept));
            }
            Err(ApplyError::Store(fault)) => return Err(fault.into()),
            Err(refused) => refused,
        };
        let sender = request.sender;
        let response = match refused {
            ApplyError::Order { .. } => answer(Applied::RetrySnapshot),
            ApplyError::Damaged(index) => ResponseApplySnapshotChunk {
                refetch_chunks: vec![index],
                reject_senders: vec![sender.clone()],
                ..answer(Applied::Retry)
            },
            ApplyError::Beyond(_) => {
                *restore = None;
                answer(Applied::Abort)
            }
            _ => {
                *restore = None;
                answer(Applied::RejectSnapshot)
            }
        };
        let reason = format!("{:#}", eyre::Report::new(refused));
        warn!(sender, reason, "chunk refused");
        Ok(response)
    }

    /// The node goes on from a restored state.
    fn follow(&self, tip: &Tip) -> Result<(), BoxError> {
        gauge!(metric::HEIGHT).set(to_f64(tip.height.get()));
        self.mempool.advance(tip.height, &[])?;
        self.committed.send_replace(tip.height);
        Ok(())
    }
}

fn answer(result: Applied) -> ResponseApplySnapshotChunk {
    ResponseApplySnapshotChunk {
        result: result.into(),
        ..ResponseApplySnapshotChunk::default()
    }
}
