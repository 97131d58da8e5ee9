//! From a verified list to a receipt: asks each rollup's execution client what became of items.

use std::{sync::Arc, time::Duration};

use counterpoint_core::primitive::RollupId;
use metrics::counter;
use tracing::debug;

use crate::{
    queue::{Execution, LogError, Place, Queue, Stage},
    upstream::{Upstream, UpstreamError},
};

/// Pause between two rounds.
const PERIOD: Duration = Duration::from_millis(100);
/// Most transactions that are asked for in a round.
const MAX_ASKED: usize = 256;

/// Follows the sequenced transactions of one rollup to their end.
#[derive(Debug)]
pub(crate) struct Tracker {
    queue: Arc<Queue>,
    rollup: RollupId,
    upstream: Upstream,
}

impl Tracker {
    /// A tracker for one rollup.
    #[must_use]
    pub(crate) fn new(queue: Arc<Queue>, rollup: RollupId, upstream: Upstream) -> Self {
        Self {
            queue,
            rollup,
            upstream,
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// The queue cannot be written any more.
    pub(crate) async fn run(self) -> eyre::Result<()> {
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.round().await {
                Ok(()) => {}
                Err(RoundError::Log(error)) => return Err(error.into()),
                Err(RoundError::Upstream(error)) => debug!(%error, "no receipts"),
            }
        }
    }

    async fn round(&self) -> Result<(), RoundError> {
        let waiting = self.queue.sequenced(self.rollup, MAX_ASKED);
        if waiting.is_empty() {
            return Ok(());
        }
        // Read before the receipts: what lies before the cursor has its receipt by then, or none.
        let progress = self.upstream.head().await?.progress;
        for (seq, hash, place) in waiting {
            if let Some(receipt) = self.upstream.receipt(hash).await? {
                let execution = Execution {
                    block_number: receipt.block_number.to(),
                    success: receipt.status.to::<u64>() == 1,
                };
                counter!("composer_executed_transactions_total").increment(1);
                self.queue
                    .finish(seq, Stage::Executed(place, execution))
                    .await?;
            } else if progress.is_some_and(|progress| passed(place, progress.cursor)) {
                counter!("composer_skipped_transactions_total").increment(1);
                self.queue.finish(seq, Stage::Skipped(place)).await?;
            }
        }
        Ok(())
    }
}

/// Whether the cursor lies behind a place, so that its item is in a block or in none for ever.
fn passed(place: Place, cursor: counterpoint_core::cursor::Cursor) -> bool {
    (place.height, place.index) < (cursor.height, cursor.index)
}

enum RoundError {
    Log(LogError),
    Upstream(UpstreamError),
}

impl From<LogError> for RoundError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<UpstreamError> for RoundError {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}
