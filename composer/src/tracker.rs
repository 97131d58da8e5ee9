//! From a verified list to a receipt: asks each rollup's execution client what became of items.
//!
//! Every new block is asked for all its receipts at once. What is in none of them, though execution
//! has passed its place, was skipped or executed before this tracker looked: it is asked for alone.
//! So is what the conductor says that it skipped, since another copy of it may have run before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::B256;
use counterpoint_core::primitive::RollupId;
use metrics::counter;
use tracing::debug;

use crate::{
    early::Early,
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
    early: Arc<Early>,
    /// The last block that was looked through.
    scanned: Option<u64>,
}

impl Tracker {
    /// A tracker for one rollup.
    #[must_use]
    pub(crate) fn new(
        queue: Arc<Queue>,
        rollup: RollupId,
        upstream: Upstream,
        early: Arc<Early>,
    ) -> Self {
        Self {
            queue,
            rollup,
            upstream,
            early,
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
        let progress = head.progress.filter(|_| until == head.number);
        let decided = waiting.into_iter().filter(|(hash, (_, place))| {
            progress.is_some_and(|progress| passed(*place, progress.cursor))
                || self.early.skip(hash, *place).is_some()
        });
        for (hash, (seq, place)) in decided.take(MAX_ASKED) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        early::testing::{Client, height_one, skip},
        queue::testing::{checked, raw},
    };

    /// What becomes of a sequenced transaction that the conductor skipped at this index.
    async fn round(index: u32, change: impl FnOnce(&Client, B256)) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let queue = Arc::new(Queue::open(directory.path()).unwrap());
        let (rollup, client, early) = (
            RollupId::from_name("alpha"),
            Client::start(5).await,
            Early::default(),
        );
        let tx = checked(rollup, raw(1, 0, 10));
        let hash = *tx.tx.tx_hash();
        queue.put(tx, None).await.unwrap();
        let places = vec![(0, Some(0))];
        queue
            .included(0, height_one().height, places)
            .await
            .unwrap();
        let place = Place {
            index,
            ..height_one()
        };
        early.hear(vec![skip(hash, place, "nonce")]).unwrap();
        change(&client, hash);
        let upstream = Upstream::new(&client.url).unwrap();
        let mut tracker = Tracker::new(Arc::clone(&queue), rollup, upstream, Arc::new(early));
        assert!(tracker.round().await.is_ok());
        queue.get(rollup, hash).unwrap().stage
    }

    #[tokio::test]
    async fn what_the_conductor_skipped_is_finished_unless_the_client_has_it() {
        assert_eq!(round(0, |_, _| ()).await, Stage::Skipped(height_one()));
        let elsewhere = round(1, |_, _| ()).await;
        assert_eq!(elsewhere, Stage::Sequenced(height_one()));
        let had = round(0, |client, hash| client.executed(hash, 4)).await;
        assert!(matches!(had, Stage::Executed(..)), "{had:?}");
    }
}
