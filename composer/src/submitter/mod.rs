//! From the queue to the sequencer: one account, a few batches at a time, exactly once.
//!
//! ```text
//! queue ─fill─▶ signed, on disk ─▶ sent, and sent again ─┬─▶ in a verified block: its items are sequenced
//!   ▲                                                    └─▶ provably in none:    they are queued again
//!   └────────────────────────────────────────────────────────────────────┘
//! ```
//! A batch ends by proof only, never on a node's word (`fate`). All its versions have the same nonce
//! and items, so whichever gets into a block, only one can.
//!
//! Batches on their way have consecutive nonces, so they are ordered as they were signed, and the
//! oldest is always looked for first: what is trusted never passes a batch that is still to be
//! found. A sender is in one of them only.

mod fate;
mod pace;
mod price;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterpoint_core::{
    key::SecretKey,
    light::{LightError, TrustedState, VerifiedHeader},
    primitive::{Hash, Height, Nonce, RollupId},
    transaction::{SignedTransaction, TransactionBody, TransactionHead},
};
use counterpoint_proto::sequencer::get_transaction_response::{Included, Status};
use counterpoint_service::{
    Readiness,
    sequencer::{Client, ClientError, Inclusion, NodeId, VerifyError, verify_inclusion},
    traces::{self, Attribute, Hop},
};
use eyre::eyre;
use metrics::{counter, gauge, histogram};
pub(crate) use price::{Prices, Weight, units};
use tracing::{debug, info, warn};

use self::{
    fate::{Fate, Found, Places, find_run, has_run, list, sealed, search},
    pace::spacing,
    price::Spending,
};
use crate::{
    bundle::{actions, fill},
    chain::{Chain, VALID_HEIGHTS, View},
    metric,
    queue::{Batch, Item, Queue, Rejection},
    trust::Trust,
};

/// Readiness: a sequencer node answers.
pub(crate) const SEQUENCER: &str = "sequencer";
/// Readiness: the account can pay for many more batches.
pub(crate) const FUNDS: &str = "funds";
/// Readiness: inclusion costs no more than the operator pays.
pub(crate) const PRICE: &str = "price";

/// Most batches on their way: as many as begin until a block of 200 ms and its proof are here.
const MAX_OPEN: usize = 6;
/// How long a young batch waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// Pause while there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// Pause between two looks for a batch.
const POLL: Duration = Duration::from_millis(20);
/// Time after which a batch is sent again, and looked for at every node.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Heights that the oldest batch waits before it offers a greater tip.
const PATIENT_HEIGHTS: u64 = 10;
/// How long a batch whose nonce is used is looked for by its hash before lists are searched.
const SEARCH_AFTER: Duration = Duration::from_secs(2);
/// How old what is known of the chain may be: within it, prices hardly move and batches do not expire.
const MAX_AGE: Duration = Duration::from_secs(10);
/// Pause between two looks at all nodes.
const LOOK_WIDELY: Duration = Duration::from_millis(200);
/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// Sends batches until it is dropped; a batch on its way is taken up again at the next start.
#[derive(Debug)]
pub(crate) struct Submitter {
    queue: Arc<Queue>,
    client: Client,
    chain: Chain,
    trust: Trust,
    key: SecretKey,
    /// Most base units per byte.
    max_price: u64,
    readiness: Readiness,
    /// When the last batch began, and what it asked for.
    begun: Option<(Instant, Weight)>,
    /// What was sent of the batches on their way, by nonce.
    sent: BTreeMap<u64, Sent>,
    /// The nonce of the oldest batch, and since when it is known to be used.
    used: Option<(u64, Instant)>,
    /// When all nodes were asked for a batch.
    looked_widely: Option<Instant>,
    spending: Spending,
}

/// When a batch was sent, and whether it was refused the last time.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: Instant,
    last: Instant,
    /// The height at which this version was signed, or taken up again.
    since: Height,
    refused: bool,
}

impl Submitter {
    /// A submitter that pays with `key`, which nobody else may use, at most `max_price` per byte.
    #[must_use]
    pub(crate) fn new(
        queue: Arc<Queue>,
        client: Client,
        chain: Chain,
        trust: Trust,
        key: SecretKey,
        max_price: u64,
        readiness: Readiness,
    ) -> Self {
        Self {
            queue,
            client,
            chain,
            trust,
            key,
            max_price,
            readiness,
            begun: None,
            sent: BTreeMap::new(),
            used: None,
            looked_widely: None,
            spending: Spending::default(),
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// The queue cannot be written any more, or the chain has forked.
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
        let view = self.chain.view();
        let age = view.seen.elapsed();
        if age > MAX_AGE {
            let secs = age.as_secs();
            return Err(Failure::Passing(eyre!(
                "no sequencer node has proven the state for {secs} s"
            )));
        }
        self.renew_trust(&view)?;
        self.report(&view);
        self.reject_stranded(&view).await?;
        self.begin(&view).await?;
        while self.settle(&view).await? {}
        self.pause().await;
        Ok(())
    }

    /// Waits until there may be something to do.
    async fn pause(&mut self) {
        let idle = self.queue.open_batches().is_empty();
        if idle && !self.queue.has_queued() {
            tokio::select! {
                () = self.queue.changed() => {}
                () = self.chain.changed() => {}
                // That nothing changes is news, too.
                () = tokio::time::sleep(IDLE) => {}
            }
        } else if !self.queue.has_queued() {
            let _ = tokio::time::timeout(POLL, self.queue.changed()).await;
        } else {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Trusts what the chain's watcher has verified. Only while no batch is on its way, which may be
    /// in a block below.
    fn renew_trust(&mut self, view: &View) -> Result<(), Failure> {
        let newer = view.trusted.height() > self.trust.state().height();
        if newer && self.queue.open_batches().is_empty() {
            let trusted = view.trusted.clone();
            self.trust.advance(trusted).map_err(Failure::Fatal)?;
        }
        Ok(())
    }

    /// Says what the account has and whether it will do.
    fn report(&self, view: &View) {
        let (prices, balance) = (self.prices(view), view.account.balance);
        let per_minute = self.spending.per_minute(Instant::now());
        gauge!(metric::BALANCE).set(units(balance.get()));
        gauge!(metric::BASE_FEE).set(units(view.base_fee.into()));
        gauge!(metric::SPENDING).set(per_minute);
        match prices.low(balance, per_minute) {
            Some(reason) => {
                let address = self.key.public_key().address();
                let reason = format!(
                    "account {address} holds {balance} base units, which {reason}: send it more"
                );
                self.readiness.unmet(FUNDS, reason);
            }
            None => self.readiness.met(FUNDS),
        }
        if prices.too_dear() {
            let (base_fee, most) = (view.base_fee, self.max_price);
            let reason = format!(
                "the base fee is {base_fee} units per byte, max_price {most}: batches wait"
            );
            self.readiness.unmet(PRICE, reason);
        } else {
            self.readiness.met(PRICE);
        }
    }

    /// Nothing becomes of what waits for a rollup that has left.
    async fn reject_stranded(&self, view: &View) -> Result<(), Failure> {
        for (rollup, terms) in &view.rollups {
            if terms.has_left() {
                let why = Rejection::RollupLeft;
                let rejected = self.queue.reject_all(*rollup, why).await;
                rejected.map_err(|error| Failure::Fatal(error.into()))?;
            }
        }
        Ok(())
    }

    fn prices(&self, view: &View) -> Prices {
        Prices::new(view.base_fee, &view.fees, self.max_price)
    }

    fn is_refused(&self) -> bool {
        self.sent.values().any(|sent| sent.refused)
    }

    fn may_begin(&self, view: &View) -> bool {
        let spaced = self
            .begun
            .is_none_or(|(begun, last)| begun.elapsed() >= spacing(last, view.interval));
        let dear = self.prices(view).too_dear();
        spaced && !dear && !self.is_refused() && self.queue.open_batches().len() < MAX_OPEN
    }

    /// Signs and sends the next batch, if there may be one.
    async fn begin(&mut self, view: &View) -> Result<(), Failure> {
        if !(self.may_begin(view) && self.queue.has_queued()) {
            return Ok(());
        }
        let begun = Instant::now();
        tokio::time::sleep(LINGER).await;
        let own = view.account.nonce.get();
        let nonce = self.queue.next_nonce().unwrap_or(own);
        let valid_until = self.valid_until(view);
        let shares = view.shares(valid_until);
        let items = self
            .queue
            .take(nonce, |waiting| fill(waiting, &shares))
            .await;
        self.begun = Some((begun, weight(&items)));
        if items.is_empty() {
            return Ok(());
        }
        debug!(nonce, items = items.len(), "batch");
        for item in &items {
            item.record_age(metric::BATCHED_SECONDS);
            traces::end(Hop::Queue, item.tx.tx_hash(), Vec::new);
            traces::begin(Hop::Sequence, item.tx.tx_hash());
        }
        counter!(metric::BATCHES).increment(1);
        let batch = Batch {
            nonce,
            seqs: items.iter().map(|item| item.seq).collect(),
            hashes: Vec::new(),
            newest: Bytes::new(),
        };
        let batch = self.sign(batch, &items, 0, valid_until, view).await?;
        self.send(&batch, view).await
    }

    /// The last height for a version that is signed now.
    fn valid_until(&self, view: &View) -> Height {
        let height = view.height.max(self.trust.state().height());
        Height::new(height.get().saturating_add(VALID_HEIGHTS))
    }

    /// Signs a version of a batch, and writes it down.
    async fn sign(
        &self,
        mut batch: Batch,
        items: &[Item],
        tip_per_byte: u64,
        valid_until: Height,
        view: &View,
    ) -> Result<Batch, Failure> {
        let body = TransactionBody {
            chain_id: self.trust.state().chain_id().to_owned(),
            signer: self.key.public_key(),
            nonce: Nonce::new(batch.nonce),
            tip_per_byte,
            max_fee: self.prices(view).max_fee(weight(items)),
            valid_until,
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

    async fn send(&mut self, batch: &Batch, view: &View) -> Result<(), Failure> {
        let last = Instant::now();
        let before = self.sent.get(&batch.nonce).copied();
        let version = batch.newest.clone();
        if before.is_some() {
            // Whoever took it may keep it to itself.
            let (client, version) = (self.client.clone(), version.clone());
            tokio::spawn(async move { client.submit_to_all(&version).await });
        }
        let (_, answer) = self.client.submit_to_any(version).await?;
        let refused = answer.code != 0;
        let sent = Sent {
            first: before.map_or(last, |sent| sent.first),
            last,
            since: before.map_or(view.height, |sent| sent.since),
            refused,
        };
        self.sent.insert(batch.nonce, sent);
        if refused {
            // It may be in a block already: only a proof ends the search.
            let (code, log) = (answer.code, answer.log);
            warn!(code, log, "sequencer refused a batch");
            let reason = format!("a batch is refused with code {code}: {log}");
            self.readiness.unmet(SEQUENCER, reason);
        }
        Ok(())
    }

    /// Looks for the oldest batch, and sends again what was not seen for long. Gives whether the
    /// oldest has come to its end, so that the next one may have, too.
    async fn settle(&mut self, view: &View) -> Result<bool, Failure> {
        let open = self.queue.open_batches();
        let Some(oldest) = open.first() else {
            return Ok(false);
        };
        if let Some((inclusion, trusted)) = self.find(oldest).await? {
            let (places, sealed) = self
                .places(oldest, &inclusion.header, &trusted, view)
                .await?;
            let lost = self
                .place(oldest, &inclusion.header, trusted, places)
                .await?;
            let lost = lost.saturating_sub(sealed.len());
            let rejected = self.queue.reject(&sealed, Rejection::Sealed).await;
            rejected.map_err(|error| Failure::Fatal(error.into()))?;
            all_placed(oldest.nonce, &inclusion, lost)?;
            return Ok(true);
        }
        let account = view.account.nonce.get();
        match Fate::of(oldest.nonce, last_height(oldest), account, view.height) {
            Fate::Unused => {
                let expired = open.iter().filter(|one| last_height(one) <= view.height);
                let nonces: Vec<u64> = expired.map(|one| one.nonce).collect();
                info!(?nonces, height = %view.height, "batches expired, their items wait again");
                self.dissolve(nonces, account).await?;
                return Ok(true);
            }
            Fate::Used(until) => {
                if self.is_used_for_long(oldest.nonce) {
                    self.search(oldest, until, view).await?;
                    return Ok(true);
                }
            }
            Fate::Open => {}
        }
        for (at, batch) in open.into_iter().enumerate() {
            self.send_again(batch, at == 0, view).await?;
        }
        Ok(false)
    }

    fn is_used_for_long(&mut self, nonce: u64) -> bool {
        let since = match self.used {
            Some((known, since)) if known == nonce => since,
            _ => self.used.insert((nonce, Instant::now())).1,
        };
        since.elapsed() >= SEARCH_AFTER
    }

    /// Finds out by lists what took the nonce of a batch that no node knows by its hash.
    async fn search(&mut self, batch: &Batch, until: Height, view: &View) -> Result<(), Failure> {
        let nonce = batch.nonce;
        info!(nonce, %until, "looking for a batch in the lists");
        let items = self.by_rollup(batch);
        let first = items.keys().next().and_then(|id| view.rollups.get(id));
        let first = first.map_or(Height::new(0), |terms| terms.config().first_height);
        let trusted = self.trust.state();
        if let Some(found) = search(&self.client, &items, first, trusted, until).await? {
            let Found {
                header,
                trusted,
                places,
            } = found;
            self.place(batch, &header, trusted, places).await?;
            return Ok(());
        }
        self.dissolve(vec![nonce], view.account.nonce.get()).await?;
        let address = self.key.public_key().address();
        Err(Failure::Passing(eyre!(
            "nonce {nonce} of account {address} went to a transaction that is none of this composer's, \
             whose items wait again: no other program may use its key"
        )))
    }

    async fn dissolve(&mut self, nonces: Vec<u64>, next_nonce: u64) -> Result<(), Failure> {
        for nonce in &nonces {
            self.sent.remove(nonce);
        }
        counter!(metric::DISSOLVED).increment(nonces.len() as u64);
        let written = self.queue.dissolved(nonces, next_nonce).await;
        written.map_err(|error| Failure::Fatal(error.into()))
    }

    /// Sends a batch that was not sent for long; if it is the oldest and blocks are full, with a
    /// greater tip.
    async fn send_again(
        &mut self,
        batch: Arc<Batch>,
        is_oldest: bool,
        view: &View,
    ) -> Result<(), Failure> {
        let sent = self.sent.get(&batch.nonce).copied();
        let expired = last_height(&batch) <= view.height;
        if expired || sent.is_some_and(|sent| sent.last.elapsed() < RESEND_AFTER) {
            return Ok(());
        }
        let due =
            |sent: Sent| view.height.get() >= sent.since.get().saturating_add(PATIENT_HEIGHTS);
        let tip = TransactionHead::read(&batch.newest).map_or(0, |head| head.tip_per_byte);
        let raised = self.prices(view).raised(tip);
        if let Some(tip) = raised.filter(|_| is_oldest && sent.is_some_and(due)) {
            let items = self.queue.items(&batch.seqs);
            let until = self.valid_until(view).max(last_height(&batch));
            if self.fits(&items, until, view) {
                info!(nonce = batch.nonce, tip, "blocks are full, offering more");
                let batch = Batch::clone(&batch);
                let batch = self.sign(batch, &items, tip, until, view).await?;
                if let Some(sent) = self.sent.get_mut(&batch.nonce) {
                    sent.since = view.height;
                }
                return self.send(&batch, view).await;
            }
        }
        self.send(&batch, view).await
    }

    /// Whether a batch stays within every rollup's share up to a height.
    fn fits(&self, items: &[Item], until: Height, view: &View) -> bool {
        let mut lines = BTreeMap::<_, Vec<_>>::new();
        for item in items {
            lines.entry(item.rollup).or_default().push(vec![item]);
        }
        fill(lines, &view.shares(until)).len() == items.len()
    }

    /// Where a block holds a version of the batch, and what to trust from there on.
    async fn find(&mut self, batch: &Batch) -> Result<Option<(Inclusion, TrustedState)>, Failure> {
        let sent = self.sent.get(&batch.nonce);
        let late = sent.is_none_or(|sent| sent.first.elapsed() >= RESEND_AFTER);
        let looked = self.looked_widely;
        let widely = late && looked.is_none_or(|at| at.elapsed() >= LOOK_WIDELY);
        if widely {
            self.looked_widely = Some(Instant::now());
        }
        for hash in batch.hashes.iter().rev() {
            let answers = if widely {
                self.client.locate_at_all(hash).await
            } else {
                vec![self.client.locate(hash).await?]
            };
            for (node, status) in answers {
                let Status::Included(included) = status else {
                    continue;
                };
                match self.verify(hash, node, &included).await {
                    Ok(found) => return Ok(Some(found)),
                    Err(ClientError::Fork(fork)) => return Err(Failure::Fatal(fork.into())),
                    Err(error) => debug!(%error, "a node shows a batch where it is not"),
                }
            }
        }
        Ok(None)
    }

    async fn verify(
        &self,
        hash: &Hash,
        node: NodeId,
        included: &Included,
    ) -> Result<(Inclusion, TrustedState), ClientError> {
        let mut trusted = self.trust.state().clone();
        let height = Height::new(included.height);
        loop {
            match verify_inclusion(&mut trusted, hash, included) {
                Ok(inclusion) => return Ok((inclusion, trusted)),
                Err(VerifyError::Header(LightError::Distant { .. })) => {
                    self.client.bridge(&mut trusted, height).await?;
                }
                Err(error) => {
                    let (client, header) = (&self.client, &included.signed_header);
                    let convicted = client.convict(node, &trusted, height, error, header, included);
                    return Err(convicted.await);
                }
            }
        }
    }

    fn by_rollup(&self, batch: &Batch) -> BTreeMap<RollupId, Vec<Item>> {
        let mut by_rollup: BTreeMap<RollupId, Vec<Item>> = BTreeMap::new();
        for item in self.queue.items(&batch.seqs) {
            by_rollup.entry(item.rollup).or_default().push(item);
        }
        by_rollup
    }

    /// Finds each item in its rollup's verified list of that height; gives those that are in none
    /// because they are sealed, too.
    async fn places(
        &self,
        batch: &Batch,
        header: &VerifiedHeader,
        trusted: &TrustedState,
        view: &View,
    ) -> Result<(Places, Vec<Item>), Failure> {
        let (mut places, mut all_sealed) = (Vec::new(), Vec::new());
        for (rollup, mut items) in self.by_rollup(batch) {
            let list = list(&self.client, &rollup, header, trusted).await?;
            if !has_run(&items, list.items()) {
                let sealed = sealed(&self.client, rollup, &items, &view.trusted).await?;
                places.extend(sealed.iter().map(|seq| (*seq, None)));
                all_sealed.extend(items.extract_if(.., |item| sealed.contains(&item.seq)));
            }
            places.extend(find_run(&items, list.items()));
        }
        Ok((places, all_sealed))
    }

    /// Tells metrics and traces where the transactions of a batch are.
    fn tell_places(&self, batch: &Batch, height: Height, places: &Places) {
        let indexes: BTreeMap<u64, u32> = places
            .iter()
            .filter_map(|(seq, index)| Some((*seq, (*index)?)))
            .collect();
        for item in self.queue.items(&batch.seqs) {
            let Some(index) = indexes.get(&item.seq) else {
                continue;
            };
            item.record_age(metric::SEQUENCED_SECONDS);
            let hash = item.tx.tx_hash();
            traces::end(Hop::Sequence, hash, || {
                vec![
                    Attribute::Number("batch", batch.nonce),
                    Attribute::Number("height", height.get()),
                    Attribute::Number("index", u64::from(*index)),
                ]
            });
            traces::begin(Hop::Track, hash);
        }
    }

    /// Writes the places down, and trusts the header. Gives how many items are in no list, since the
    /// batch failed.
    async fn place(
        &mut self,
        batch: &Batch,
        header: &VerifiedHeader,
        trusted: TrustedState,
        places: Places,
    ) -> Result<usize, Failure> {
        let (nonce, height) = (batch.nonce, header.height());
        if let Some(sent) = self.sent.remove(&nonce) {
            histogram!(metric::INCLUSION_SECONDS).record(sent.first.elapsed());
        }
        let view = self.chain.view();
        let cost = self
            .prices(&view)
            .cost(weight(&self.queue.items(&batch.seqs)));
        self.spending.paid(cost, Instant::now());
        self.tell_places(batch, height, &places);
        let lost = places.iter().filter(|(_, index)| index.is_none()).count();
        let items = places.len() - lost;
        info!(nonce, %height, items, "sequenced");
        counter!(metric::SEQUENCED).increment(items as u64);
        let written = self.queue.included(nonce, height, places).await;
        written.map_err(|error| Failure::Fatal(error.into()))?;
        // Only now: nothing below what is trusted can be verified any more.
        self.trust.advance(trusted).map_err(Failure::Fatal)?;
        Ok(lost)
    }
}

/// The greatest height at which a version of a batch may be included: that of the newest one.
fn last_height(batch: &Batch) -> Height {
    TransactionHead::read(&batch.newest).map_or(Height::new(u64::MAX), |head| head.valid_until)
}

/// What a batch of these items asks of a block.
fn weight(items: &[Item]) -> Weight {
    let mut rollups: Vec<RollupId> = items.iter().map(|item| item.rollup).collect();
    rollups.sort_unstable();
    rollups.dedup();
    let bytes: usize = items.iter().map(|item| item.raw.len()).sum();
    Weight {
        actions: rollups.len() as u64,
        items: items.len() as u64,
        bytes: bytes as u64,
    }
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

/// What ends a step: a broken disk, or a peer that may come back.
#[derive(Debug)]
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

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
