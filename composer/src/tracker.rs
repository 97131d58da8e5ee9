//! From a verified list to a receipt: asks each rollup's execution client what became of items.
//!
//! Every new block is asked for all its receipts at once. What is in none of them, though execution
//! has passed its place, was skipped or executed before this tracker looked: it is asked for alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::B256;
use counterpoint_core::primitive::RollupId;
use metrics::counter;
use tracing::debug;

use crate::{
    metric,
    queue::{Execution, LogError, Place, Queue, Stage},
    upstream::{Receipt, Upstream, UpstreamError},
};

/// Pause between two rounds.
const PERIOD: Duration = Duration::from_millis(100);
/// Most transactions that are looked for in a round.
const MAX_WAITING: usize = 20_000;
/// Most blocks that are looked through in a round.
const MAX_BLOCKS: u64 = 16;
/// Most transactions that are asked for alone in a round.
const MAX_ASKED: usize = 256;

/// Follows the sequenced transactions of one rollup to their end.
#[derive(Debug)]
pub(crate) struct Tracker {
    queue: Arc<Queue>,
    rollup: RollupId,
    upstream: Upstream,
    /// The last block that was looked through.
    scanned: Option<u64>,
}

impl Tracker {
    /// A tracker for one rollup.
    #[must_use]
    pub(crate) fn new(queue: Arc<Queue>, rollup: RollupId, upstream: Upstream) -> Self {
        Self {
            queue,
            rollup,
            upstream,
            scanned: None,
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// The queue cannot be written any more.
    pub(crate) async fn run(mut self) -> eyre::Result<()> {
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.round().await {
                Ok(()) => {}
                Err(RoundError::Log(error)) => return Err(error.into()),
                Err(RoundError::Upstream(error)) => debug!(%error, "no receipts"),
            }
        }
    }

    async fn round(&mut self) -> Result<(), RoundError> {
        let waiting = self.queue.sequenced(self.rollup, MAX_WAITING);
        if waiting.is_empty() {
            self.scanned = None;
            return Ok(());
        }
        let mut waiting: BTreeMap<B256, (u64, Place)> = waiting
            .into_iter()
            .map(|(seq, hash, place)| (hash, (seq, place)))
            .collect();
        // Read before the receipts: what lies before the cursor has its receipt by then, or none.
        let head = self.upstream.head().await?;
        let scanned = self.scanned.unwrap_or(head.number);
        if head.number < scanned {
            self.scanned = Some(head.number); // The client came back with fewer blocks.
            return Ok(());
        }
        self.scanned = Some(scanned);
        let until = head.number.min(scanned.saturating_add(MAX_BLOCKS));
        for number in scanned.saturating_add(1)..=until {
            let receipts = match self.upstream.receipts(number).await {
                Err(error @ UpstreamError::Unreachable(_)) => return Err(error.into()),
                Err(error) => {
                    // Too long an answer, for instance: its transactions are asked for alone.
                    debug!(%error, number, "no receipts of a block");
                    Vec::new()
                }
                Ok(receipts) => receipts,
            };
            for receipt in receipts {
                if let Some((seq, place)) = waiting.remove(&receipt.transaction_hash) {
                    self.executed(seq, place, &receipt).await?;
                }
            }
            self.scanned = Some(number);
        }
        let Some(progress) = head.progress.filter(|_| until == head.number) else {
            return Ok(());
        };
        let passed = waiting
            .into_iter()
            .filter(|(_, (_, place))| passed(*place, progress.cursor));
        for (hash, (seq, place)) in passed.take(MAX_ASKED) {
            match self.upstream.receipt(hash).await? {
                Some(receipt) => self.executed(seq, place, &receipt).await?,
                None => {
                    counter!(metric::SKIPPED).increment(1);
                    self.queue.finish(seq, Stage::Skipped(place)).await?;
                }
            }
        }
        Ok(())
    }

    async fn executed(&self, seq: u64, place: Place, receipt: &Receipt) -> Result<(), LogError> {
        let execution = Execution {
            block_number: receipt.block_number.to(),
            success: receipt.status.to::<u64>() == 1,
        };
        counter!(metric::EXECUTED).increment(1);
        self.queue
            .finish(seq, Stage::Executed(place, execution))
            .await
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
