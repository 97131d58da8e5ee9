//! From the store to the chain: seals what was sent, reveals what was revealed, and follows both by
//! proven records until they are over.
//!
//! A bundle is known by its identifier, and the chain takes it once: a transaction that comes twice
//! costs its fee and does nothing. So that this does not happen either, every transaction is on disk
//! before it is sent, and a step is signed again only when the one before provably cannot work any more:
//! its nonce is unused after its last height, or used while the state shows nothing of the step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use counterpoint_core::{
    action::{Action, SubmitBundle},
    key::SecretKey,
    light::TrustedState,
    primitive::{Amount, Hash, Height, Nonce},
    state::{Account, BundleRecord, Key},
    transaction::{SignedTransaction, TransactionBody, TransactionError, TransactionHead},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::sequencer::{Client, ClientError, proven_record};
use metrics::{counter, gauge};
use tracing::{info, warn};

use super::{
    budget::{Cost, Prices},
    store::{Entry, Signed, Step, Store, is_final},
};
use crate::{
    chain::{Chain, VALID_HEIGHTS, View},
    metric,
    queue::{LogError, unix_secs},
    submitter::units,
};

/// Pause between two looks while a bundle is not over.
const TICK: Duration = Duration::from_millis(100);
/// Pause while there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Time after which a transaction is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Most transactions on their way: far fewer than a mempool keeps of one account.
const MAX_OPEN: u64 = 16;
/// Bundles that are looked at in a round.
const MAX_LOOKS: usize = 64;
/// Most failures of a step, one after another; each one that gets into a block has been paid for.
const MAX_FAILURES: u32 = 4;
/// How long after its last second a bundle may still be sealed: clocks differ.
const CLOCKS_SECS: u64 = 60;

/// Works until it is dropped.
pub(super) struct Keeper {
    store: Arc<Store>,
    client: Client,
    chain: Chain,
    key: SecretKey,
    max_price: u64,
    trusted: TrustedState,
    /// When a transaction was sent the last time, by nonce.
    sent: BTreeMap<u64, Instant>,
    /// The last bundle that was looked at.
    looked: Option<Hash>,
}

/// The paying account, as a height left it.
#[derive(Clone, Copy)]
struct Purse {
    nonce: u64,
    balance: Amount,
    height: Height,
}

/// What ends a round: a broken disk or a fork, or a peer that may come back.
enum Failure {
    Fatal(eyre::Report),
    Passing(ClientError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Fork(_) => Self::Fatal(error.into()),
            _ => Self::Passing(error),
        }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::Fatal(error.into())
    }
}

impl Keeper {
    pub(super) fn new(
        store: Arc<Store>,
        client: Client,
        chain: Chain,
        key: SecretKey,
        max_price: u64,
    ) -> Self {
        let trusted = chain.view().trusted.clone();
        Self {
            store,
            client,
            chain,
            key,
            max_price,
            trusted,
            sent: BTreeMap::new(),
            looked: None,
        }
    }

    /// # Errors
    /// The store cannot be written any more, or the chain has forked.
    pub(super) async fn run(mut self) -> eyre::Result<()> {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    warn!(%error, "no news of bundles, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
            let pause = if self.store.live() > 0 { TICK } else { IDLE };
            let _ = tokio::time::timeout(pause, self.store.changed()).await;
        }
    }

    async fn round(&mut self) -> Result<(), Failure> {
        gauge!(metric::BUNDLES).set(units(self.store.live() as u128));
        if self.store.live() == 0 {
            return Ok(());
        }
        let view = self.chain.view();
        if view.trusted.height() > self.trusted.height() {
            self.trusted = view.trusted.clone();
        }
        let purse = self.purse().await?;
        gauge!(metric::BUNDLES_BALANCE).set(units(purse.balance.get()));
        for id in self.next_looks() {
            self.look(id).await?;
        }
        for signed in self.store.on_their_way() {
            self.settle(&signed, purse).await?;
        }
        self.sign(&view, purse).await?;
        self.send(purse).await
    }

    async fn purse(&mut self) -> Result<Purse, Failure> {
        let key = Key::Account(self.key.public_key().address());
        let proven = proven_record::<Account>(&self.client, &mut self.trusted, &key).await?;
        let account = proven.record.unwrap_or_default();
        Ok(Purse {
            nonce: account.nonce.get(),
            balance: account.balance,
            height: proven.height,
        })
    }

    /// Everyone's turn comes.
    fn next_looks(&mut self) -> Vec<Hash> {
        let ids = self.store.live_ids();
        let after = self
            .looked
            .map_or(0, |last| ids.partition_point(|id| *id <= last));
        let next = ids
            .iter()
            .cycle()
            .skip(after)
            .take(ids.len().min(MAX_LOOKS));
        let next: Vec<Hash> = next.copied().collect();
        self.looked = next.last().copied();
        next
    }

    /// Learns what the state has of a bundle; gives the height that left it.
    async fn look(&mut self, id: Hash) -> Result<Height, Failure> {
        let key = Key::Bundle(id);
        let proven = proven_record::<BundleRecord>(&self.client, &mut self.trusted, &key).await?;
        let Some(entry) = self.store.get(&id) else {
            return Ok(proven.height);
        };
        let Some(record) = proven.record else {
            // What a node that stands still does not know says nothing.
            if proven.height >= self.chain.view().height {
                self.give_up_if_late(id, &entry).await?;
            }
            return Ok(proven.height);
        };
        if entry.known.is_none() && !self.is_sealed(&entry).await? {
            let why = "somebody else submitted a bundle with this identifier and other auths: \
                       reveal nothing, choose another salt";
            self.end(id, Some(why.into())).await?;
            return Ok(proven.height);
        }
        let status = record.status;
        self.store.learn(&id, record, proven.height);
        if is_final(status) {
            self.end(id, None).await?;
        }
        Ok(proven.height)
    }

    /// Whether the state has a seal of every transaction by the signer of its auth: the identifier does
    /// not depend on who signs.
    async fn is_sealed(&mut self, entry: &Entry) -> Result<bool, Failure> {
        let (id, terms) = (entry.bundle.id(), entry.bundle.terms());
        for seal in &terms.legs {
            for tx in &seal.txs {
                let Some(signer) = entry.bundle.signer(&tx.tx_hash, &tx.auth) else {
                    return Ok(false);
                };
                let key = Key::Seal(seal.rollup_id, tx.tx_hash, signer);
                let proven = proven_record::<Hash>(&self.client, &mut self.trusted, &key).await?;
                if proven.record != Some(id) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn give_up_if_late(&mut self, id: Hash, entry: &Entry) -> Result<(), Failure> {
        let on_its_way = self
            .store
            .on_their_way()
            .iter()
            .any(|signed| signed.id == id);
        let end = entry.bundle.terms().valid_until.saturating_add(CLOCKS_SECS);
        if on_its_way || unix_secs() <= end {
            return Ok(());
        }
        let why = match &entry.trouble {
            Some(trouble) => format!("its time passed before it could be sealed: {trouble}"),
            None => "its time passed before it could be sealed".into(),
        };
        self.end(id, Some(why)).await
    }

    async fn end(&mut self, id: Hash, why: Option<String>) -> Result<(), Failure> {
        let outcome = if why.is_some() { "refused" } else { "over" };
        counter!(metric::BUNDLES_OVER, "outcome" => outcome).increment(1);
        info!(bundle_id = %id, why, "bundle is over");
        Ok(self.store.over(id, why).await?)
    }

    /// Finds out whether a transaction has come to its end, and what of.
    async fn settle(&mut self, signed: &Signed, purse: Purse) -> Result<(), Failure> {
        if signed.nonce >= purse.nonce {
            let until = TransactionHead::read(&signed.tx).map(|head| head.valid_until);
            if until.is_none_or(|until| until <= purse.height) {
                self.settled(signed.nonce);
            }
            return Ok(());
        }
        // A state as new as the one in which the nonce is used says whether the step was taken.
        if self.look(signed.id).await? < purse.height {
            return Ok(());
        }
        let entry = self
            .store
            .get(&signed.id)
            .filter(|entry| entry.refused.is_none());
        if entry.and_then(|entry| entry.step()) == Some(signed.step) {
            let why = self.reason(signed).await?;
            self.fail(signed, why).await?;
        }
        self.settled(signed.nonce);
        Ok(())
    }

    fn settled(&mut self, nonce: u64) {
        self.sent.remove(&nonce);
        self.store.settled(nonce);
    }

    /// Why a transaction that used its nonce did nothing. That it did nothing is proven by then; why, is
    /// a node's word.
    async fn reason(&mut self, signed: &Signed) -> Result<String, Failure> {
        let other = || "another transaction of the account took its nonce".to_owned();
        let Ok(tx) = SignedTransaction::decode(&signed.tx) else {
            return Ok(other());
        };
        Ok(match self.client.locate(&tx.hash()).await?.1 {
            Status::Included(included) => format!("code {}: {}", included.code, included.log),
            Status::Pending(_) | Status::Unknown(_) => other(),
        })
    }

    /// A step failed in a block, and was paid for.
    async fn fail(&mut self, signed: &Signed, why: String) -> Result<(), Failure> {
        let (id, step) = (signed.id, signed.step);
        warn!(bundle_id = %id, ?step, why, "a step of a bundle failed");
        let mut failures = 0;
        self.store.update(&id, |entry| {
            entry.failures += 1;
            failures = entry.failures;
            entry.wait(why.clone());
        });
        // What is sealed ends on the chain, and nowhere else.
        if step == Step::Seal && failures >= MAX_FAILURES {
            return self.end(id, Some(why)).await;
        }
        Ok(())
    }

    /// Signs what is to be done next, with consecutive nonces.
    async fn sign(&mut self, view: &View, purse: Purse) -> Result<(), Failure> {
        let open = self.store.on_their_way();
        let mut taken: BTreeSet<u64> = open.iter().map(|signed| signed.nonce).collect();
        let busy: BTreeSet<Hash> = open.iter().map(|signed| signed.id).collect();
        let now = unix_secs();
        let prices = Prices {
            fees: view.fees.clone(),
            base_fee: view.base_fee,
            max_price: self.max_price,
        };
        if prices.too_dear() {
            return Ok(());
        }
        let mut balance = purse.balance.get();
        for id in self.store.live_ids() {
            let Some(nonce) = (purse.nonce..purse.nonce.saturating_add(MAX_OPEN))
                .find(|nonce| !taken.contains(nonce))
            else {
                break;
            };
            let entry = self.store.get(&id).filter(|_| !busy.contains(&id));
            let Some((entry, step)) = entry.and_then(|entry| Some((entry.clone(), entry.step()?)))
            else {
                continue;
            };
            let waits = entry.not_before.is_some_and(|at| at > Instant::now());
            let hopeless =
                entry.failures >= MAX_FAILURES || entry.bundle.terms().valid_until <= now;
            if waits || hopeless {
                continue;
            }
            let Some((action, cost, locked)) = action(&entry, step, &prices) else {
                continue;
            };
            let due = prices.about(cost).saturating_add(locked);
            let Some(left) = balance.checked_sub(due) else {
                let why = "the composer's account for bundles is nearly empty";
                self.store
                    .update(&id, |entry| entry.trouble = Some(why.into()));
                continue;
            };
            balance = left;
            let max_fee = prices.max_fee(cost);
            let tx = self.transaction(nonce, action, max_fee, view, purse);
            let tx = tx.map_err(|error| Failure::Fatal(error.into()))?;
            let tx = tx.as_bytes().clone();
            self.store
                .signed(Signed {
                    nonce,
                    id,
                    step,
                    tx,
                })
                .await?;
            taken.insert(nonce);
        }
        Ok(())
    }

    fn transaction(
        &self,
        nonce: u64,
        action: Action,
        max_fee: Amount,
        view: &View,
        purse: Purse,
    ) -> Result<SignedTransaction, TransactionError> {
        // Tips buy a place while blocks are full, and nothing else.
        let is_full = view.base_fee > view.fees.min_base_fee;
        let body = TransactionBody {
            chain_id: view.trusted.chain_id().to_owned(),
            signer: self.key.public_key(),
            nonce: Nonce::new(nonce),
            tip_per_byte: u64::from(is_full),
            max_fee,
            valid_until: Height::new(purse.height.get().saturating_add(VALID_HEIGHTS)),
            actions: vec![action],
        };
        SignedTransaction::sign(body, &self.key)
    }

    /// Sends what was not sent for a while.
    async fn send(&mut self, purse: Purse) -> Result<(), Failure> {
        for signed in self.store.on_their_way() {
            let last = self.sent.get(&signed.nonce);
            let recent = last.is_some_and(|last| last.elapsed() < RESEND_AFTER);
            if recent || signed.nonce < purse.nonce {
                continue;
            }
            let (_, answer) = self.client.submit_to_any(signed.tx.clone()).await?;
            self.sent.insert(signed.nonce, Instant::now());
            if answer.code != 0 {
                let why = format!("refused with code {}: {}", answer.code, answer.log);
                warn!(bundle_id = %signed.id, step = ?signed.step, why, "sequencer refused a step");
                self.store.update(&signed.id, |entry| entry.wait(why));
                // Its nonce is free for another one: of both, only one can be in a block.
                self.settled(signed.nonce);
            }
        }
        Ok(())
    }
}

/// What a step does, what it costs and what it locks.
fn action(entry: &Entry, step: Step, prices: &Prices) -> Option<(Action, Cost, u128)> {
    Some(match step {
        Step::Seal => {
            let bundle = entry.bundle.clone();
            let (cost, tips) = (prices.seal(&bundle), bundle.tips().get());
            (Action::SubmitBundle(SubmitBundle { bundle }), cost, tips)
        }
        Step::Reveal => {
            let legs = entry.legs.clone()?;
            let cost = prices.reveal(&legs);
            (Action::RevealLegs(legs), cost, 0)
        }
    })
}
