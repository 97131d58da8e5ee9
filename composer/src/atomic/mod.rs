//! Atomic bundles (`docs/spec/atomic.md`): taken in, sealed, revealed and followed until they are over.
//!
//! ```text
//! rpc ─ judge, budget ─▶ store (fsync, then acknowledged) ─▶ keeper ─ SubmitBundle, RevealLegs ─▶ sequencer
//!                          ▲                                   │
//!                          └────── records, proven ◀───────────┘
//! ```
//! An account of their own pays for them, so that bundles can cost no more than it holds, and never hold
//! up a batch. Legs are taken only once the seal is proven, since whoever has them before could run one
//! alone.

mod budget;
mod judge;
mod keeper;
mod show;
mod simulate;
mod store;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use alloy_primitives::{B256, Bytes};
use counterpoint_core::{
    action::RevealLegs,
    atomic::{AtomicBundle, BundleDocument},
    key::SecretKey,
    primitive::{Address, Amount, Hash, Height, RollupId},
    state::{Account, BundleRecord, BundleStatus, Key, RollupRecord},
};
use counterpoint_service::sequencer::{Client, ClientError, proven_record};
use eyre::WrapErr;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use self::{
    budget::{Budget, Prices},
    judge::{Refusal, Rollups},
    keeper::Keeper,
    store::{Entry, Store, StoreError},
};
use crate::{
    chain::Chain,
    early::Early,
    queue::unix_secs,
    rpc::{Payer, RpcError},
    upstream::Upstream,
};

/// Most calls that read, and most that send, which are worked on at the same time.
const MAX_CALLS: usize = 64;

/// What bundles may cost, and whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BundleSettings {
    /// Key file of the sequencer account that pays for bundles and for nothing else.
    pub key_file: PathBuf,
    /// Whether callers without an API key may send and reveal.
    #[serde(default)]
    pub public: bool,
    /// Most base units that what one caller sends may cost in an hour.
    #[serde(default = "default_hourly_units")]
    pub max_units_per_hour: u64,
    /// Most base units of tips that one bundle may ask for, over all its attempts.
    #[serde(default)]
    pub max_tips: u64,
}

/// About a hundred plain bundles.
fn default_hourly_units() -> u64 {
    50_000_000
}

/// A rollup's clients, if it is served here.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) upstream: Upstream,
    pub(crate) early: Arc<Early>,
}

/// All bundles that this composer has to do with.
#[derive(Debug)]
pub(crate) struct Bundles {
    settings: BundleSettings,
    payer: Address,
    /// Most base units per byte.
    max_price: u64,
    store: Arc<Store>,
    client: Client,
    chain: Chain,
    sites: BTreeMap<RollupId, Site>,
    budget: Mutex<Budget>,
    /// Who asks takes no place of who sends.
    reads: Semaphore,
    writes: Semaphore,
}

impl Bundles {
    /// What there is to do with bundles, and the work on those that were taken in.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn open(
        settings: BundleSettings,
        key: SecretKey,
        data_dir: &Path,
        client: Client,
        chain: Chain,
        max_price: u64,
        sites: BTreeMap<RollupId, Site>,
    ) -> eyre::Result<(Arc<Self>, impl Future<Output = eyre::Result<()>> + use<>)> {
        let store = Arc::new(Store::open(data_dir).wrap_err("bundles")?);
        let payer = key.public_key().address();
        let (shared, asked) = (Arc::clone(&store), client.clone());
        let keeper = Keeper::new(shared, asked, chain.clone(), key, max_price);
        let bundles = Self {
            budget: Mutex::new(Budget::new(settings.max_units_per_hour)),
            settings,
            payer,
            max_price,
            store,
            client,
            chain,
            sites,
            reads: Semaphore::new(MAX_CALLS),
            writes: Semaphore::new(MAX_CALLS),
        };
        Ok((Arc::new(bundles), keeper.run()))
    }

    /// `counterpoint_sendBundle`: hashes and auths. Once answered, nothing loses it.
    pub(crate) async fn send(&self, params: &Value, caller: Payer) -> Result<Value, RpcError> {
        self.is_let_in(&caller)?;
        let _seat = seat(&self.writes)?;
        let bundle = read_bundle(params)?;
        let id = bundle.id();
        if let Some(known) = self.store.get(&id)
            && known.refused.is_none()
        {
            same_auths(&known.bundle, &bundle)?;
            return Ok(json!({ "bundleId": show::hex(id) }));
        }
        self.judge(&bundle).await?;
        judge::auths(&bundle)?;
        let (tips, most) = (bundle.tips(), Amount::new(self.settings.max_tips.into()));
        if tips > most {
            return Err(RpcError::transaction(format!(
                "tips: {tips} base units over all attempts, and this composer pays at most {most} for a \
                 bundle: lower tipPerAttempt, or submit it from an account of your own"
            )));
        }
        let is_on_chain = self.record(id).await?.is_some();
        if !is_on_chain {
            let prices = self.prices();
            let cost = prices
                .about(prices.seal(&bundle))
                .saturating_add(tips.get());
            self.affords(cost).await?;
            self.spend(caller, cost)?;
        }
        let store = Arc::clone(&self.store);
        run_to_end(async move { store.accept(bundle).await }).await?;
        Ok(json!({ "bundleId": show::hex(id) }))
    }

    /// `counterpoint_revealBundle`: the raw transactions of a bundle whose seal is proven. Once answered,
    /// nothing loses them.
    pub(crate) async fn reveal(&self, params: &Value, caller: Payer) -> Result<Value, RpcError> {
        self.is_let_in(&caller)?;
        let _seat = seat(&self.writes)?;
        let id: Hash = argument(params, 0)?;
        let entry = self.store.get(&id).ok_or_else(|| {
            RpcError::transaction(format!("no bundle {} was sent here", show::hex(id)))
        })?;
        let legs = read_legs(id, params, 1)?;
        if entry.legs.as_ref() == Some(&legs) {
            return Ok(json!({ "bundleId": show::hex(id) }));
        }
        match entry.status() {
            _ if entry.refused.is_some() => return Err(unrevealed(&entry, "is refused")),
            None => {
                return Err(unrevealed(
                    &entry,
                    "is not sealed yet: verify its seal first",
                ));
            }
            Some(BundleStatus::Sealed) => {}
            Some(_) => return Err(unrevealed(&entry, "has its legs, or is over")),
        }
        judge::legs(&entry.bundle, &legs, &self.rollups(&entry.bundle).await?.0)?;
        let prices = self.prices();
        let cost = prices.about(prices.reveal(&legs));
        self.affords(cost).await?;
        self.spend(caller, cost)?;
        let store = Arc::clone(&self.store);
        run_to_end(async move { store.reveal(legs).await }).await?;
        Ok(json!({ "bundleId": show::hex(id) }))
    }

    /// `counterpoint_getBundle`: how far a bundle is; null if nobody knows it.
    pub(crate) async fn get(&self, params: &Value) -> Result<Value, RpcError> {
        let _seat = seat(&self.reads)?;
        let id: Hash = argument(params, 0)?;
        let options: Option<Options> = argument(params, 1)?;
        let mut shown = self.shown(id).await?;
        if shown.is_null() {
            return Ok(shown);
        }
        if shown["releasedAt"].is_number() {
            self.add_receipts(&mut shown).await;
        }
        if options.is_some_and(|options| options.proof) {
            let proof = self.client.state_proof(&Key::Bundle(id)).await;
            shown["proof"] = show::proof(&proof.map_err(RpcError::internal)?);
        }
        Ok(shown)
    }

    /// How far a bundle is, without receipts; null if nobody knows it.
    pub(crate) async fn shown(&self, id: Hash) -> Result<Value, RpcError> {
        if let Some(entry) = self.store.get(&id) {
            return Ok(show::entry(&entry, &self.sites));
        }
        Ok(match self.record(id).await? {
            Some((record, height)) => show::record(id, &record, height, &self.sites),
            None => Value::Null,
        })
    }

    /// Wakes whenever more is known of a bundle; nothing if it was not sent here.
    pub(crate) fn follow(&self, id: Hash) -> Option<watch::Receiver<()>> {
        self.store.get(&id).map(|_| self.store.follow(id))
    }

    /// `counterpoint_simulateBundle`: what the rollups' clients say of the legs now.
    pub(crate) async fn simulate(&self, params: &Value) -> Result<Value, RpcError> {
        let _seat = seat(&self.reads)?;
        let bundle = read_bundle(params)?;
        let legs = read_legs(bundle.id(), params, 1)?;
        let rollups = self.judge(&bundle).await?;
        judge::legs(&bundle, &legs, &rollups)?;
        Ok(simulate::run(&bundle, &legs, &self.sites).await)
    }

    /// Receipts of the legs on rollups that are served here, as early as their conductors tell them.
    async fn add_receipts(&self, shown: &mut Value) {
        let legs = shown["legs"].as_array_mut();
        for leg in legs.into_iter().flatten() {
            let name = leg["rollup"].as_str().unwrap_or_default();
            let Some(site) = self.sites.get(&RollupId::from_name(name)) else {
                continue;
            };
            let txs = leg["transactions"].as_array_mut();
            for tx in txs.into_iter().flatten() {
                if let Ok(hash) = serde_json::from_value(tx["hash"].clone()) {
                    tx["receipt"] = site.receipt(hash).await;
                }
            }
        }
    }

    fn is_let_in(&self, caller: &Payer) -> Result<(), RpcError> {
        if self.settings.public || matches!(caller, Payer::Key(_)) {
            return Ok(());
        }
        Err(RpcError::transaction(
            "this composer pays for bundles of callers with an API key only",
        ))
    }

    /// Refuses a bundle that can never be scheduled; gives what the state has of its rollups.
    async fn judge(&self, bundle: &AtomicBundle) -> Result<Rollups, RpcError> {
        let (rollups, height) = self.rollups(bundle).await?;
        let view = self.chain.view();
        let chain_id = view.trusted.chain_id();
        judge::bundle(bundle, chain_id, &rollups, height, unix_secs())?;
        Ok(rollups)
    }

    /// What the state has of the rollups that a bundle touches, and how new it is.
    async fn rollups(&self, bundle: &AtomicBundle) -> Result<(Rollups, Height), RpcError> {
        let mut trusted = self.chain.view().trusted.clone();
        let (mut rollups, mut height) = (Rollups::new(), Height::new(0));
        for id in bundle.rollups() {
            let key = Key::Rollup(id);
            let proven = proven_record::<RollupRecord>(&self.client, &mut trusted, &key).await;
            let proven = proven.map_err(away)?;
            height = height.max(proven.height);
            rollups.extend(proven.record.map(|record| (id, record)));
        }
        Ok((rollups, height))
    }

    /// What the state has of a bundle.
    async fn record(&self, id: Hash) -> Result<Option<(BundleRecord, Height)>, RpcError> {
        let mut trusted = self.chain.view().trusted.clone();
        let proven = proven_record(&self.client, &mut trusted, &Key::Bundle(id)).await;
        let proven = proven.map_err(away)?;
        Ok(proven.record.map(|record| (record, proven.height)))
    }

    fn prices(&self) -> Prices {
        let view = self.chain.view();
        Prices {
            fees: view.fees.clone(),
            base_fee: view.base_fee,
            max_price: self.max_price,
        }
    }

    /// Whether the account can pay for what waits, and for this.
    async fn affords(&self, cost: u128) -> Result<(), RpcError> {
        let mut trusted = self.chain.view().trusted.clone();
        let key = Key::Account(self.payer);
        let proven = proven_record::<Account>(&self.client, &mut trusted, &key);
        let account = proven.await.map_err(away)?.record.unwrap_or_default();
        let (prices, waiting) = (self.prices(), self.store.to_seal());
        let due = |bundle: &AtomicBundle| prices.about(prices.seal(bundle)) + bundle.tips().get();
        let waiting = waiting.iter().map(due);
        let due = waiting.fold(cost, u128::saturating_add);
        if account.balance.get() >= due {
            return Ok(());
        }
        Err(RpcError::overloaded(
            "the composer's account for bundles is nearly empty, try again later",
        ))
    }

    fn spend(&self, caller: Payer, cost: u128) -> Result<(), RpcError> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.settings.max_units_per_hour;
        budget.spend(caller, cost, Instant::now()).map_err(|wait| {
            let when = match wait {
                Some(wait) => format!("try again in {} s", wait.as_secs() + 1),
                None => "which is more than that".into(),
            };
            RpcError::overloaded(format!(
                "budget: this composer pays at most {most} base units an hour for one caller's bundles, \
                 and this costs {cost}: {when}"
            ))
        })
    }
}

/// What `counterpoint_getBundle` adds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The state's proof of the bundle's record.
    #[serde(default)]
    proof: bool,
}

impl Site {
    async fn receipt(&self, hash: B256) -> Value {
        if let Some(told) = self.early.receipt(&hash) {
            return serde_json::to_value(told.receipt).unwrap_or_default();
        }
        let method = "eth_getTransactionReceipt";
        let receipt = self.upstream.call(method, &json!([hash])).await;
        receipt.unwrap_or_default()
    }
}

fn seat(seats: &Semaphore) -> Result<SemaphorePermit<'_>, RpcError> {
    let taken = seats.try_acquire();
    taken.map_err(|_| RpcError::overloaded("too many calls about bundles, try again later"))
}

/// Writes on even if nobody waits for the answer any more.
async fn run_to_end(
    write: impl Future<Output = Result<(), StoreError>> + Send + 'static,
) -> Result<(), RpcError> {
    let written = tokio::spawn(write).await.map_err(RpcError::internal)?;
    written.map_err(|error| match error {
        StoreError::Full => RpcError::overloaded(error.to_string()),
        StoreError::Log(error) => RpcError::internal(error),
    })
}

fn argument<T: DeserializeOwned>(params: &Value, at: usize) -> Result<T, RpcError> {
    let value = params.get(at).unwrap_or(&Value::Null);
    T::deserialize(value)
        .map_err(|error| RpcError::invalid_params(format!("invalid argument {at}: {error}")))
}

fn read_bundle(params: &Value) -> Result<AtomicBundle, RpcError> {
    let document: BundleDocument = argument(params, 0)?;
    document.bundle().map_err(RpcError::invalid_params)
}

fn read_legs(id: Hash, params: &Value, at: usize) -> Result<RevealLegs, RpcError> {
    let legs: Vec<Vec<Bytes>> = argument(params, at)?;
    let legs = legs
        .into_iter()
        .map(|leg| leg.into_iter().map(|raw| raw.0).collect());
    RevealLegs::new(id, legs.collect()).map_err(RpcError::invalid_params)
}

/// The identifier does not depend on auths, but what is sealed does.
fn same_auths(known: &AtomicBundle, given: &AtomicBundle) -> Result<(), RpcError> {
    if known == given {
        return Ok(());
    }
    Err(RpcError::transaction(
        "a bundle with this identifier and other auths was sent before: choose another salt",
    ))
}

fn unrevealed(entry: &Entry, why: &str) -> RpcError {
    let id = show::hex(entry.bundle.id());
    RpcError::transaction(format!("bundle {id} {why}"))
}

/// Nothing is wrong with the call.
fn away(error: ClientError) -> RpcError {
    RpcError::overloaded(format!(
        "no sequencer node proves the state now, try again later: {error}"
    ))
}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        Self::transaction(refusal.to_string()).with_data(refusal.place())
    }
}

/// Whether a subscription to a bundle has told everything.
pub(crate) fn is_over(shown: &Value) -> bool {
    let stage = shown["stage"].as_str().unwrap_or_default();
    show::FINAL.contains(&stage)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
