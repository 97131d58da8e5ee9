//! From a verified list to a receipt: asks each rollup's execution client what became of items.
//!
//! Every new block is asked for all its receipts at once. What is in none of them, though execution
//! has passed its place, was skipped or executed before this tracker looked: it is asked for alone.
//! So is what the conductor says that it skipped, since another copy of it may have run before.
//!
//! A skip for a reason that can pass delays a transaction. At each new head it is looked whether the
//! cause has passed, and whether what is parked still misses a nonce.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256};
use counterpoint_core::{cursor::Cursor, registry::RollupConfig};
use counterpoint_service::traces::{self, Attribute, Hop};
use metrics::counter;
use tracing::{debug, info};

use crate::{
    early::Early,
    metric,
    queue::{Execution, Item, LogError, Place, Queue, Skip, Stage, can_pass, unix_secs},
    upstream::{Account, Head, Receipt, Upstream, UpstreamError},
};

/// Pause between two rounds.
const PERIOD: Duration = Duration::from_millis(100);
/// Most blocks that are looked through in a round.
const MAX_BLOCKS: u64 = 16;
/// Most transactions or senders that are asked for alone in a round.
const MAX_ASKED: usize = 256;
/// Most skips that the conductor has told of transactions whose place is not known yet.
const MAX_TOLD: usize = 16_384;
/// Pause between two looks for what has waited too long.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often a transaction may be in a list: who is skipped so often pays for nobody's try.
const MAX_ATTEMPTS: u32 = 16;
/// Age of a head, in slots and seconds on top, with which what is sent now does not wait too long.
const FRESH_SLOTS: u64 = 5;
const FRESH_SECS: u64 = 10;

/// Follows the sequenced transactions of one rollup to their end.
#[derive(Debug)]
pub(crate) struct Tracker {
    queue: Arc<Queue>,
    config: Arc<RollupConfig>,
    upstream: Upstream,
    early: Arc<Early>,
    /// How long after its acknowledgement a transaction that cannot run is tried again.
    retry: Duration,
    /// The last block that was looked through.
    scanned: Option<u64>,
    /// What the conductor has skipped, as long as its fate is not decided.
    told: Vec<(B256, Place)>,
    /// The head at which all that waits was looked at.
    looked: Option<u64>,
    /// The last parked sender that was asked for at this head.
    asked: Option<Address>,
    expired: Option<Instant>,
}

impl Tracker {
    /// A tracker for one rollup.
    #[must_use]
    pub(crate) fn new(
        queue: Arc<Queue>,
        config: Arc<RollupConfig>,
        upstream: Upstream,
        early: Arc<Early>,
        retry: Duration,
    ) -> Self {
        Self {
            queue,
            config,
            upstream,
            early,
            retry,
            scanned: None,
            told: Vec::new(),
            looked: None,
            asked: None,
            expired: None,
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
        self.expire().await?;
        let rollup = self.config.rollup_id;
        let work = self.queue.look(|state| state.work(rollup));
        if !work.sequenced {
            self.scanned = None;
            self.told.clear();
            self.early.take_skips();
        }
        if !work.sequenced && !work.waiting {
            return Ok(());
        }
        // Read before the receipts: what lies before the cursor has its receipt by then, or none.
        let head = self.upstream.head().await?;
        if work.sequenced && self.scan(&head).await? {
            self.decide(&head).await?;
        }
        if work.waiting && self.looked != Some(head.number) {
            self.look(&head).await?;
        }
        Ok(())
    }

    /// Reads the receipts of new blocks. Gives whether those up to the head were read.
    async fn scan(&mut self, head: &Head) -> Result<bool, RoundError> {
        let scanned = self.scanned.unwrap_or(head.number);
        self.scanned = Some(scanned.min(head.number));
        if head.number < scanned {
            return Ok(false); // The client came back with fewer blocks.
        }
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
            self.executed(&receipts);
            self.scanned = Some(number);
        }
        Ok(until == head.number)
    }

    fn executed(&self, receipts: &[Receipt]) {
        let rollup = self.config.rollup_id;
        let executed = receipts.iter().map(|receipt| {
            traces::end(Hop::Track, &receipt.transaction_hash, || {
                let number = receipt.block_number.to();
                vec![Attribute::Number("block_number", number)]
            });
            let execution = Execution {
                block_number: receipt.block_number.to(),
                success: receipt.status.to::<u64>() == 1,
            };
            (receipt.transaction_hash, execution)
        });
        let count = self.queue.executed(rollup, executed);
        counter!(metric::EXECUTED).increment(count as u64);
    }

    /// Finds out what became of transactions whose turn is over, and that are in no block.
    async fn decide(&mut self, head: &Head) -> Result<(), RoundError> {
        let rollup = self.config.rollup_id;
        self.told.extend(self.early.take_skips());
        let surplus = self.told.len().saturating_sub(MAX_TOLD);
        self.told.drain(..surplus);
        let told = &mut self.told;
        let mut decided = self.queue.look(|state| {
            // One that is not known to be in a list will be, at the place that was told or another.
            let awaited = |(hash, place): &(B256, Place)| match state.get(rollup, *hash) {
                Some(item) => match item.stage {
                    Stage::Sequenced(now) => now == *place,
                    stage => matches!(stage, Stage::Batched(_)),
                },
                None => false,
            };
            told.retain(awaited);
            let at = told
                .iter()
                .filter_map(|(hash, _)| state.sequenced_at(rollup, *hash));
            at.map(|(seq, hash, place)| (place, (seq, hash)))
                .take(MAX_ASKED)
                .collect::<BTreeMap<_, _>>()
        });
        if let Some(progress) = head.progress {
            let end = place(progress.cursor);
            let passed = self.queue.sequenced_before(rollup, end, MAX_ASKED);
            decided.extend(passed.into_iter().map(|(seq, hash, at)| (at, (seq, hash))));
        }
        let mut skips = Vec::new();
        for (place, (seq, hash)) in decided {
            match self.upstream.receipt(hash).await? {
                Some(receipt) => self.executed(&[receipt]),
                None => skips.push(self.skip(seq, place, hash, head).await?),
            }
        }
        Ok(self.queue.skipped(skips).await?)
    }

    /// A skip, and whether the transaction is tried again.
    async fn skip(
        &self,
        seq: u64,
        place: Place,
        hash: B256,
        head: &Head,
    ) -> Result<Skip, RoundError> {
        counter!(metric::SKIPPED).increment(1);
        let items = self.queue.items(&[seq]);
        let (mut reason, mut again) = (String::new(), false);
        if let Some(item) = items.first() {
            reason = match self.early.skip(&hash, place) {
                Some(reason) => reason,
                None => self.obstacle(item, head).await?.unwrap_or_default().into(),
            };
            let attempts = item.skip.as_ref().map_or(0, |skip| skip.attempts);
            again = can_pass(&reason)
                && attempts + 1 < MAX_ATTEMPTS
                && item.time >= self.oldest()
                && self.pays(item, 0);
        }
        info!(%hash, height = %place.height, index = place.index, reason, again, "skipped");
        Ok(Skip {
            seq,
            place,
            reason,
            again,
        })
    }

    /// What keeps a transaction from running now, if nobody says why it was skipped.
    async fn obstacle(
        &self,
        item: &Item,
        head: &Head,
    ) -> Result<Option<&'static str>, UpstreamError> {
        let accounts = self.upstream.accounts(&[item.sender]).await?;
        let is_next = |account: &Account| account.nonce == item.tx.nonce();
        if !accounts.iter().any(is_next) {
            return Ok(Some("nonce"));
        }
        Ok((!self.pays(item, head.next_base_fee)).then_some("fee_too_low"))
    }

    /// Whether a transaction offers enough while the base fee is so high.
    fn pays(&self, item: &Item, base_fee: u64) -> bool {
        let tip = item.tx.effective_tip_per_gas(base_fee);
        tip.is_some_and(|tip| tip >= u128::from(self.config.min_tip_wei))
    }

    /// Transactions that were acknowledged before have waited long enough.
    fn oldest(&self) -> u64 {
        unix_secs().saturating_sub(self.retry.as_secs())
    }

    /// Looks at a new head whether what waits has to wait on.
    async fn look(&mut self, head: &Head) -> Result<(), RoundError> {
        let rollup = self.config.rollup_id;
        let (oldest, fresh) = (self.oldest(), self.is_fresh(head));
        let may_run = |item: &Item| {
            let Some(skip) = &item.skip else {
                return true;
            };
            // Only then the client has executed all that the conductor had when it skipped.
            let is_over = |place| {
                head.progress
                    .is_some_and(|it| place < self::place(it.cursor))
            };
            is_over(skip.place)
                && match skip.reason.as_str() {
                    "stale" => fresh,
                    _ => self.pays(item, head.next_base_fee),
                }
        };
        let ready = |item: &Item| item.time < oldest || may_run(item);
        let ready = self.queue.look(|state| {
            let delayed = state.delayed(rollup).filter(|item| ready(item));
            delayed.take(MAX_ASKED).cloned().collect::<Vec<_>>()
        });
        self.try_again(&ready, oldest).await?;
        let parked = self.queue.look(|state| {
            let senders = state.parked_senders(rollup, self.asked);
            senders.take(MAX_ASKED).collect::<Vec<_>>()
        });
        for (sender, account) in self.accounts(parked.iter().copied()).await? {
            self.queue.raise(rollup, sender, account.nonce);
        }
        self.asked = parked.last().copied();
        if ready.len() < MAX_ASKED && parked.len() < MAX_ASKED {
            (self.looked, self.asked) = (Some(head.number), None);
        }
        Ok(())
    }

    fn is_fresh(&self, head: &Head) -> bool {
        let age = unix_secs().saturating_sub(head.timestamp);
        age <= FRESH_SLOTS * u64::from(self.config.slot_secs.get()) + FRESH_SECS
    }

    /// Queues skipped transactions again, but for those that can never run any more.
    async fn try_again(&self, ready: &[Item], oldest: u64) -> Result<(), RoundError> {
        let accounts = self.accounts(ready.iter().map(|item| item.sender)).await?;
        let mut skips = Vec::new();
        for item in ready {
            let (Some(skip), Some(account)) = (&item.skip, accounts.get(&item.sender)) else {
                continue;
            };
            if item.time >= oldest && item.tx.nonce() >= account.nonce {
                self.queue.release(item.seq, account.nonce);
                continue;
            }
            match self.upstream.receipt(*item.tx.tx_hash()).await? {
                Some(receipt) => self.executed(&[receipt]),
                None => skips.push(Skip {
                    seq: item.seq,
                    place: skip.place,
                    reason: skip.reason.clone(),
                    again: false,
                }),
            }
        }
        Ok(self.queue.skipped(skips).await?)
    }

    async fn accounts(
        &self,
        senders: impl Iterator<Item = Address>,
    ) -> Result<BTreeMap<Address, Account>, UpstreamError> {
        let senders: BTreeSet<Address> = senders.collect();
        let senders: Vec<Address> = senders.into_iter().collect();
        if senders.is_empty() {
            return Ok(BTreeMap::new());
        }
        let accounts = self.upstream.accounts(&senders).await?;
        Ok(senders.into_iter().zip(accounts).collect())
    }

    /// Rejects what was parked too long.
    async fn expire(&mut self) -> Result<(), LogError> {
        if self
            .expired
            .is_some_and(|last| last.elapsed() < EXPIRE_EVERY)
        {
            return Ok(());
        }
        self.expired = Some(Instant::now());
        let expired = self
            .queue
            .expire(self.config.rollup_id, self.oldest())
            .await?;
        if expired > 0 {
            info!(
                expired,
                rollup = self.config.name,
                "rejected what was parked"
            );
        }
        Ok(())
    }
}

/// The place that a cursor stands at: what lies before it is in a block or in none for ever.
fn place(cursor: Cursor) -> Place {
    Place {
        height: cursor.height,
        index: cursor.index,
    }
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
        let (config, client, early) = (
            RollupConfig::example("alpha"),
            Client::start(5).await,
            Early::default(),
        );
        let rollup = config.rollup_id;
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
        early.hear(vec![skip(hash, place, "balance")]).unwrap();
        change(&client, hash);
        let upstream = Upstream::new(&client.url).unwrap();
        let (queue_of_tracker, retry) = (Arc::clone(&queue), Duration::from_secs(600));
        let mut tracker = Tracker::new(
            queue_of_tracker,
            Arc::new(config),
            upstream,
            Arc::new(early),
            retry,
        );
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
