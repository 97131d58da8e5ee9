//! What the conductor shows of itself: `/status`, `/skips`, and how far it lags.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use alloy_primitives::B256;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use counterpoint_service::{Bar, Probes, Readiness, disk::DISK, sequencer::Client, to_f64};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};

use crate::{
    metric,
    progress::Progress,
    receipts::{Event, Receipts},
};

/// Readiness: the client took the last block.
pub(crate) const CLIENT: &str = "execution_client";
/// Readiness: verified blocks arrive.
pub(crate) const SEQUENCER: &str = "sequencer";
/// Readiness: the head is not old.
pub(crate) const LAG: &str = "lag";
/// How long a block, or the client's answer to one, may take until readiness shows it.
pub(crate) const LATE: Duration = Duration::from_secs(10);

/// Shared with the HTTP server.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) readiness: Readiness,
    status: Arc<Mutex<Value>>,
    sequencer: Arc<OnceLock<Client>>,
    receipts: Arc<OnceLock<Arc<Receipts>>>,
    /// While the head is old: how many seconds it lagged at first, for whoever watches it.
    catching_up: Arc<Mutex<Option<(u64, Bar)>>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            readiness: Readiness::of(&[CLIENT, SEQUENCER, LAG, DISK]),
            status: Arc::default(),
            sequencer: Arc::default(),
            receipts: Arc::default(),
            catching_up: Arc::default(),
        }
    }

    /// Shows how the nodes of the sequencer do from now on.
    pub(crate) fn watch(&self, sequencer: Client) {
        let _ = self.sequencer.set(sequencer);
    }

    /// Skips are looked up here from now on.
    pub(crate) fn attach(&self, receipts: Arc<Receipts>) {
        let _ = self.receipts.set(receipts);
    }

    pub(crate) fn routes(&self, metrics: PrometheusHandle) -> Router {
        let board = self.clone();
        let status = move || {
            let progress = board.status.lock().unwrap_or_else(PoisonError::into_inner);
            let skipped = board.receipts.get().map(|receipts| receipts.skipped());
            json!({
                "progress": *progress,
                "skipped": skipped.unwrap_or_default(),
                "sequencers": board.sequencer.get().map(Client::status),
            })
        };
        let skips = Router::new()
            .route("/skips/{hash}", get(skip))
            .with_state(self.clone());
        Probes::new(self.readiness.clone(), metrics, status)
            .router()
            .merge(skips)
    }

    /// Shows the block that was committed last; one of slots of `slot_secs` is old when five more
    /// should have followed.
    pub(crate) fn show(&self, progress: &Progress, slot_secs: u8) {
        let (number, slot) = (progress.header.number, progress.header.timestamp);
        let lag_secs = since(slot);
        gauge!(metric::BLOCK_NUMBER).set(to_f64(number));
        gauge!(metric::LAG_SECONDS).set(to_f64(lag_secs));
        let mut bar = self
            .catching_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if lag_secs > LATE.as_secs().saturating_add(5 * u64::from(slot_secs)) {
            let reason = format!("block {number} was committed {lag_secs} s after its slot began");
            self.readiness.unmet(LAG, reason);
            let begin = || (lag_secs, Bar::steps("seconds to catch up", lag_secs));
            let (first, bar) = bar.get_or_insert_with(begin);
            bar.reach(first.saturating_sub(lag_secs));
        } else {
            self.readiness.met(LAG);
            *bar = None;
        }
        drop(bar);
        let extra = &progress.extra;
        let status = json!({
            "number": number,
            "hash": progress.hash,
            "lag_secs": lag_secs,
            "next_opening": extra.next_opening,
            "cursor": { "height": extra.cursor.height, "index": extra.cursor.index },
            "left": progress.left.is_some(),
        });
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Seconds that have passed since a time.
pub(crate) fn since(unix_secs: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs().saturating_sub(unix_secs)
}

/// Why a transaction is in no block, if it was skipped not long ago.
async fn skip(State(board): State<Board>, Path(hash): Path<B256>) -> (StatusCode, Json<Value>) {
    let told = board
        .receipts
        .get()
        .and_then(|receipts| receipts.find(&hash));
    let reason = told.and_then(|told| match told.event.as_ref() {
        Event::Skipped(skip) => Some(skip.reason),
        _ => None,
    });
    let code = if reason.is_some() {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    };
    (code, Json(json!({ "hash": hash, "reason": reason })))
}
