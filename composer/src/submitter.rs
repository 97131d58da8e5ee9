//! From the queue to the sequencer: one account, one batch at a time, exactly once.
//!
//! A batch is signed, written down, and only then sent. It is never dissolved: until its inclusion
//! is *verified*, the same nonce and items are signed again with a later `valid_until`. Whichever
//! version gets into a block, only one can, because they share a nonce.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use counterpoint_core::{
    block::{RollupItem, VerifiedList},
    key::SecretKey,
    light::{LightError, TrustedState},
    primitive::{Amount, Hash, Height, Nonce, RollupId},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::{GetInfoResponse, get_transaction_response::Status};
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
/// How long a young batch waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// Pause between two looks for a batch.
const POLL: Duration = Duration::from_millis(20);
/// Looks after which a batch is sent again.
const RESEND_AFTER: u32 = 50;
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
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// The queue cannot be written any more.
    pub(crate) async fn run(mut self) -> eyre::Result<()> {
        loop {
            let step = match self.queue.open_batch() {
                Some(batch) => self.settle(batch).await,
                None => self.begin().await,
            };
            match step {
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

    /// Signs the next batch.
    async fn begin(&mut self) -> Result<(), Failure> {
        let (info, nonce) = self.look().await?;
        // Ready before the first transaction comes.
        self.readiness.met(SEQUENCER);
        if tokio::time::timeout(QUIET, self.queue.wait())
            .await
            .is_err()
        {
            return self.renew_trust().await;
        }
        tokio::time::sleep(LINGER).await;
        let nonce = self.queue.next_nonce().unwrap_or(nonce);
        let info = self.client.info().await.unwrap_or(info);
        let shares = &self.shares;
        let items = self
            .queue
            .take(nonce, |waiting| fill(waiting, shares))
            .await;
        if items.is_empty() {
            // All that waits is for rollups that are not served any more.
            tokio::time::sleep(RETRY).await;
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
        self.sign(batch, &items, info.height).await?;
        Ok(())
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

    /// The chain's tip and the nonce after all that the account has sent; checks on the way whether
    /// it can pay.
    async fn look(&self) -> Result<(GetInfoResponse, u64), Failure> {
        let address = self.key.public_key().address();
        let info = self.client.info().await?;
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
        Ok((info, account.pending_nonce))
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

    /// Sends a batch until one of its versions is verifiably in a block.
    async fn settle(&mut self, mut batch: Batch) -> Result<(), Failure> {
        let started = std::time::Instant::now();
        loop {
            self.send(&batch.newest).await?;
            for _ in 0..RESEND_AFTER {
                for hash in &batch.hashes {
                    if let Some((inclusion, trusted)) = self.find(hash).await? {
                        histogram!(metric::INCLUSION_SECONDS).record(started.elapsed());
                        let lost = self.place(&batch, &inclusion).await?;
                        // Only now: nothing below what is trusted can be verified any more.
                        self.trust.advance(trusted).map_err(Failure::Fatal)?;
                        return all_placed(batch.nonce, &inclusion, lost);
                    }
                }
                tokio::time::sleep(POLL).await;
            }
            let height = self.client.info().await?.height;
            if !is_valid_at(&batch.newest, height) {
                info!(nonce = batch.nonce, "batch expired, signing it again");
                let items = self.queue.items(&batch.seqs);
                batch = self.sign(batch, &items, height).await?;
            }
        }
    }

    async fn send(&self, variant: &Bytes) -> Result<(), Failure> {
        let (node, answer) = self.client.submit_to_any(variant.clone()).await?;
        if answer.code != 0 {
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
            self.look().await?;
        }
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
