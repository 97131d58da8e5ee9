//! From the queue to the sequencer: one account, a few batches at a time, exactly once.
//!
//! A batch is signed, written down, and only then sent. It is never dissolved: until its inclusion
//! is *verified*, the same nonce and items are signed again with a later `valid_until`. Whichever
//! version gets into a block, only one can, because they share a nonce.
//!
//! Batches on their way have consecutive nonces, so they are ordered as they were signed, and the
//! oldest is always looked for first: what is trusted never passes a batch that is still to be
//! found. A sender is in one of them only.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterpoint_core::{
    block::{RollupItem, VerifiedList},
    key::SecretKey,
    light::{LightError, TrustedState},
    primitive::{Amount, Hash, Height, Nonce, RollupId},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::{
    Readiness,
    sequencer::{Client, ClientError, Inclusion, VerifyError, verify_inclusion, verify_list},
    to_f64,
};
use eyre::eyre;
use metrics::{counter, gauge, histogram};
use tracing::{debug, info, warn};

use crate::{
    bundle::{Shares, actions, fill},
    metric,
    queue::{Batch, Item, Queue},
    trust::Trust,
};

/// Readiness: a sequencer node answers.
pub(crate) const SEQUENCER: &str = "sequencer";
/// Readiness: the account can pay for many more batches.
pub(crate) const FUNDS: &str = "funds";

/// Heights that a version of a batch stays valid; short, so that a lost one is soon replaced. The
/// next version lasts longer by more than this, and so takes the place of one that waits still.
const VALID_HEIGHTS: u64 = 100;
/// Without a batch for so long, what is trusted is renewed.
const QUIET: Duration = Duration::from_secs(24 * 3_600);
/// How far ahead of the tip the sequencer lets `valid_until` lie.
const MAX_VALID_HEIGHTS: u64 = 600;
/// Most batches on their way: as many as begin until a block of 200 ms and its proof are here.
const MAX_OPEN: usize = 6;
/// Time between the beginnings of two batches, so that many transactions share one.
const SPACING: Duration = Duration::from_millis(50);
/// How long a young batch waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// Pause between two looks for a batch.
const POLL: Duration = Duration::from_millis(20);
/// Time after which a batch is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// The sequencer's code for a nonce that is not the account's next one.
const NONCE_USED: u32 = 3;
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// Below this the account is refilled by somebody, or intake will soon stop: a thousand batches of
/// the greatest size at the base fee, in base units.
const LOW_FUNDS: u128 = 1_000 * 8 * 1_000_000;

/// Sends batches until it is dropped; a batch on its way is taken up again at the next start.
#[derive(Debug)]
pub(crate) struct Submitter {
    queue: Arc<Queue>,
    client: Client,
    trust: Trust,
    key: SecretKey,
    shares: Shares,
    readiness: Readiness,
    /// When the last batch began.
    begun: Option<Instant>,
    /// What was sent of the batches on their way, by nonce.
    sent: BTreeMap<u64, Sent>,
}

/// When a batch was sent, and whether it was refused the last time.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: Instant,
    last: Instant,
    refused: bool,
}

impl Submitter {
    /// A submitter that pays with `key`, which nobody else may use, for the rollups in `shares`.
    #[must_use]
    pub(crate) fn new(
        queue: Arc<Queue>,
        client: Client,
        trust: Trust,
        key: SecretKey,
        shares: Shares,
        readiness: Readiness,
    ) -> Self {
        Self {
            queue,
            client,
            trust,
            key,
            shares,
            readiness,
            begun: None,
            sent: BTreeMap::new(),
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// The queue cannot be written any more.
    pub(crate) async fn run(mut self) -> eyre::Result<()> {
        loop {
            match self.step().await {
                Ok(()) if self.is_refused() => {}
                Ok(()) => self.readiness.met(SEQUENCER),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    warn!(
                        error = format!("{error:#}"),
                        "submitting failed, trying again"
                    );
                    self.readiness.unmet(SEQUENCER, format!("{error:#}"));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Sends what there is to send, and looks for what was sent.
    async fn step(&mut self) -> Result<(), Failure> {
        if self.queue.open_batches().is_empty() {
            self.idle().await?;
        }
        self.begin().await?;
        while self.settle().await? {}
        let pause = tokio::time::sleep(POLL);
        if self.may_begin() {
            tokio::select! {
                () = self.queue.changed() => {}
                () = pause => {}
            }
        } else {
            pause.await;
        }
        Ok(())
    }

    fn may_begin(&self) -> bool {
        let spaced = self.begun.is_none_or(|begun| begun.elapsed() >= SPACING);
        spaced && !self.is_refused() && self.queue.open_batches().len() < MAX_OPEN
    }

    fn is_refused(&self) -> bool {
        self.sent.values().any(|sent| sent.refused)
    }

    /// Waits for work while no batch is on its way.
    async fn idle(&mut self) -> Result<(), Failure> {
        self.look().await?;
        // Ready before the first transaction comes.
        self.readiness.met(SEQUENCER);
        let work = tokio::time::timeout(QUIET, self.queue.wait()).await;
        if work.is_err() {
            self.renew_trust().await?;
        }
        Ok(())
    }

    /// Signs and sends the next batch, if there may be one.
    async fn begin(&mut self) -> Result<(), Failure> {
        if !(self.may_begin() && self.queue.has_queued()) {
            return Ok(());
        }
        self.begun = Some(Instant::now());
        tokio::time::sleep(LINGER).await;
        let height = self.client.info().await?.height;
        let nonce = match self.queue.next_nonce() {
            Some(nonce) => nonce,
            None => self.look().await?,
        };
        let shares = &self.shares;
        let items = self
            .queue
            .take(nonce, |waiting| fill(waiting, shares))
            .await;
        if items.is_empty() {
            if self.queue.open_batches().is_empty() {
                // All that waits is for rollups that are not served any more.
                tokio::time::sleep(RETRY).await;
            }
            return Ok(());
        }
        debug!(nonce, items = items.len(), "batch");
        counter!(metric::BATCHES).increment(1);
        let batch = Batch {
            nonce,
            seqs: items.iter().map(|item| item.seq).collect(),
            hashes: Vec::new(),
            newest: Bytes::new(),
        };
        let batch = self.sign(batch, &items, height).await?;
        self.send(&batch).await
    }

    /// Verifies a header of now, since what is trusted must not grow too old. Only while no batch is
    /// on its way, which may be in a block below.
    async fn renew_trust(&mut self) -> Result<(), Failure> {
        let tip = Height::new(self.client.info().await?.height);
        let mut trusted = self.trust.state().clone();
        if tip > trusted.height() {
            self.client.advance(&mut trusted, tip).await?;
            self.trust.advance(trusted).map_err(Failure::Fatal)?;
        }
        Ok(())
    }

    /// The nonce after all that the account has sent; checks on the way whether it can pay.
    async fn look(&self) -> Result<u64, Failure> {
        let address = self.key.public_key().address();
        let account = self.client.account(&address).await?;
        let balance: Amount = account.balance.parse().unwrap_or_default();
        let units = u64::try_from(balance.get()).unwrap_or(u64::MAX);
        gauge!(metric::BALANCE).set(to_f64(units));
        if balance.get() < LOW_FUNDS {
            let reason = format!("account {address} holds {balance} base units: send it more");
            self.readiness.unmet(FUNDS, reason);
        } else {
            self.readiness.met(FUNDS);
        }
        Ok(account.pending_nonce)
    }

    /// Signs a version of a batch that is valid from `height` on, and writes it down.
    async fn sign(&self, mut batch: Batch, items: &[Item], height: u64) -> Result<Batch, Failure> {
        let body = TransactionBody {
            chain_id: self.trust.state().chain_id().to_owned(),
            signer: self.key.public_key(),
            nonce: Nonce::new(batch.nonce),
            tip_per_byte: 0,
            // What a batch costs is the chain's rule; a bound of ours could only strand it.
            max_fee: Amount::new(u128::MAX),
            valid_until: Height::new(height.saturating_add(VALID_HEIGHTS)),
            actions: actions(items).map_err(|error| Failure::Fatal(error.into()))?,
        };
        let tx = SignedTransaction::sign(body, &self.key)
            .map_err(|error| Failure::Fatal(error.into()))?;
        batch.hashes.push(tx.hash());
        batch.newest = tx.as_bytes().clone();
        let written = self.queue.signed(batch.clone()).await;
        written.map_err(|error| Failure::Fatal(error.into()))?;
        Ok(batch)
    }

    /// Looks for the oldest batch, and sends again what was not seen for long. Gives whether the
    /// oldest was found, so that the next one may be, too.
    async fn settle(&mut self) -> Result<bool, Failure> {
        let open = self.queue.open_batches();
        let Some(oldest) = open.first() else {
            return Ok(false);
        };
        for hash in &oldest.hashes {
            if let Some((inclusion, trusted)) = self.find(hash).await? {
                if let Some(sent) = self.sent.remove(&oldest.nonce) {
                    histogram!(metric::INCLUSION_SECONDS).record(sent.first.elapsed());
                }
                let lost = self.place(oldest, &inclusion).await?;
                // Only now: nothing below what is trusted can be verified any more.
                self.trust.advance(trusted).map_err(Failure::Fatal)?;
                all_placed(oldest.nonce, &inclusion, lost)?;
                return Ok(true);
            }
        }
        for batch in open {
            self.send_again(batch).await?;
        }
        Ok(false)
    }

    /// Sends a batch that was not sent for long, signed again if it has expired.
    async fn send_again(&mut self, mut batch: Batch) -> Result<(), Failure> {
        let sent = self.sent.get(&batch.nonce);
        if sent.is_some_and(|sent| sent.last.elapsed() < RESEND_AFTER) {
            return Ok(());
        }
        let height = self.client.info().await?.height;
        if !is_valid_at(&batch.newest, height) {
            info!(nonce = batch.nonce, "batch expired, signing it again");
            let items = self.queue.items(&batch.seqs);
            batch = self.sign(batch, &items, height).await?;
        }
        self.send(&batch).await
    }

    async fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        let last = Instant::now();
        let version = batch.newest.clone();
        let (node, answer) = self.client.submit_to_any(version).await?;
        let refused = answer.code != 0;
        let first = self.sent.get(&batch.nonce).map_or(last, |sent| sent.first);
        let sent = Sent {
            first,
            last,
            refused,
        };
        self.sent.insert(batch.nonce, sent);
        if refused {
            // It may be in a block already: only a proof ends the search.
            let (code, log) = (answer.code, answer.log);
            warn!(code, log, "sequencer refused a batch");
            let reason = format!("a batch is refused with code {code}: {log}");
            self.readiness.unmet(SEQUENCER, reason);
            if code == NONCE_USED {
                // A version is in a block that this node may have pruned, or never had.
                self.client
                    .failed(node, &"it does not know where a batch is");
            }
        }
        self.look().await?;
        Ok(())
    }

    /// Where a block holds the transaction, and what to trust from there on.
    async fn find(&self, hash: &Hash) -> Result<Option<(Inclusion, TrustedState)>, Failure> {
        let (node, Status::Included(included)) = self.client.locate(hash).await? else {
            return Ok(None);
        };
        let mut trusted = self.trust.state().clone();
        let height = Height::new(included.height);
        loop {
            match verify_inclusion(&mut trusted, hash, &included) {
                Ok(inclusion) => return Ok(Some((inclusion, trusted))),
                Err(VerifyError::Header(LightError::Distant { .. })) => {
                    self.client.bridge(&mut trusted, height).await?;
                }
                Err(error) => {
                    let header = &included.signed_header;
                    let client = &self.client;
                    let convicted =
                        client.convict(node, &trusted, height, error, header, &included);
                    return Err(convicted.await.into());
                }
            }
        }
    }

    /// Finds each item in its rollup's verified list of that height, and writes the places down.
    /// Gives how many are in none, since the batch failed.
    async fn place(&self, batch: &Batch, inclusion: &Inclusion) -> Result<usize, Failure> {
        let height = inclusion.header.height();
        let mut by_rollup: BTreeMap<RollupId, Vec<Item>> = BTreeMap::new();
        for item in self.queue.items(&batch.seqs) {
            by_rollup.entry(item.rollup).or_default().push(item);
        }
        let mut places = Vec::new();
        for (rollup, items) in by_rollup {
            let list = self.list(&rollup, inclusion).await?;
            places.extend(find_run(&items, list.items()));
        }
        let lost = places.iter().filter(|(_, index)| index.is_none()).count();
        let (nonce, items) = (batch.nonce, places.len() - lost);
        info!(nonce, %height, items, "sequenced");
        counter!(metric::SEQUENCED).increment(items as u64);
        let written = self.queue.included(nonce, height, places).await;
        written.map_err(|error| Failure::Fatal(error.into()))?;
        Ok(lost)
    }

    /// A rollup's list at the inclusion's height, verified. That a node has none proves nothing: it
    /// may be a block behind, or lie.
    async fn list(
        &self,
        rollup: &RollupId,
        inclusion: &Inclusion,
    ) -> Result<VerifiedList, Failure> {
        let height = inclusion.header.height();
        let (node, block) = self.client.rollup_block(height, rollup).await?;
        match verify_list(rollup, &inclusion.header, &block) {
            Ok(list) => Ok(list),
            Err(error) => {
                let (client, trusted) = (&self.client, self.trust.state());
                let header = &block.signed_header;
                let convicted = client.convict(node, trusted, height, error, header, &block);
                Err(convicted.await.into())
            }
        }
    }
}

/// Where a batch's items of one rollup stand in its list: next to each other and in order, or not
/// at all.
fn find_run(items: &[Item], list: &[RollupItem]) -> Vec<(u64, Option<u32>)> {
    let equal = |item: &Item, entry: &RollupItem| matches!(entry, RollupItem::Transaction(raw) if *raw == item.raw);
    let start = list.windows(items.len().max(1)).position(|window| {
        items
            .iter()
            .zip(window)
            .all(|(item, entry)| equal(item, entry))
    });
    let place = |(offset, item): (usize, &Item)| {
        let index = start.and_then(|start| u32::try_from(start + offset).ok());
        (item.seq, index)
    };
    items.iter().enumerate().map(place).collect()
}

/// Whether a batch that is in a block did all that it should.
fn all_placed(nonce: u64, inclusion: &Inclusion, lost: usize) -> Result<(), Failure> {
    if lost == 0 {
        return Ok(());
    }
    let (code, log) = (inclusion.code, &inclusion.log);
    let reason = eyre!("batch {nonce} failed with code {code}: {log}; {lost} items wait again");
    Err(Failure::Passing(reason))
}

/// Whether the next blocks can hold a version of a batch, the tip being at `height`.
fn is_valid_at(version: &Bytes, height: u64) -> bool {
    let limit = height.saturating_add(MAX_VALID_HEIGHTS);
    SignedTransaction::decode(version)
        .is_ok_and(|tx| (height..=limit).contains(&tx.body().valid_until.get()))
}

/// What ends a step: a broken disk, or a peer that may come back.
enum Failure {
    Fatal(eyre::Report),
    Passing(eyre::Report),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Fork(_) => Self::Fatal(error.into()),
            _ => Self::Passing(error.into()),
        }
    }
}
