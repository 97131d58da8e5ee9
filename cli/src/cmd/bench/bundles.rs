//! Atomic bundles on a running network, one after another: from the moment the seal is handed in to the
//! release, the early receipts of all legs, and the heads of all clients. In between the bundle is revealed
//! as soon as a node tells that it is sealed.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use clap::Args;
use counterpoint_core::{
    action::{Action, RevealLegs, SubmitBundle},
    atomic::{
        AtomicBundle, BundleTerms, EvmSignature, LegSeal, OnAbort, SealedTx, auth_digest, keccak,
    },
    key::SecretKey,
    primitive::{Amount, Hash, Height, Nonce},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::{
    Bundle, BundleStage, StreamBundlesRequest, bundles_client::BundlesClient,
};
use counterpoint_service::{files::read_key, sequencer::Client};
use eyre::{OptionExt, ensure, eyre};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Channel};

use super::{
    super::NodeArgs,
    hops::Hops,
    load::{Fsyncs, Latency},
    plot::draw,
    transfers::Rpc,
};
use crate::{
    devnet::{Info, info::RollupInfo},
    keys,
};

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks for a result.
const POLL: Duration = Duration::from_millis(5);
/// Rollups that a bundle touches.
const LEGS: usize = 2;
/// From when a slot was closed until a node has an attester's statement about the next one.
pub(super) const ATTESTATION: &str = "conductor_attestation_seconds";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench bundles --count 50")]
pub(crate) struct BundlesArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How many bundles.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Transfers of each leg.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=8))]
    transfers: u64,
    /// Where to draw the distributions, as an SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What is measured of each bundle, from the moment its seal is handed in.
struct Measured {
    sealed: Latency,
    released: Latency,
    receipts: Latency,
    heads: Latency,
}

pub(super) async fn run(args: &BundlesArgs) -> eyre::Result<Value> {
    let info = args.node.info()?;
    let sender = Sender::new(&info, args.node.client()?).await?;
    let mut rollups: Vec<RollupInfo> = info.rollups.into_iter().take(LEGS).collect();
    ensure!(rollups.len() == LEGS, "bundles need {LEGS} rollups");
    rollups.sort_by_key(|rollup| rollup.rollup_id);
    let measured = Measured {
        sealed: Latency::new()?,
        released: Latency::new()?,
        receipts: Latency::new()?,
        heads: Latency::new()?,
    };
    let mut before = Vec::new();
    for rollup in &rollups {
        before.push(Hops::read(&rollup.conductor_http).await?);
    }
    let syncing = Fsyncs::watch(&args.node.dir)?;
    for _ in 0..args.count {
        let mut legs = Vec::new();
        for rollup in &rollups {
            legs.push((rollup, sender.nonce(rollup).await?));
        }
        let sealed = sender.seal(&legs, args.transfers)?;
        follow(&sender, sealed, &rollups, &measured).await?;
    }
    let synced = syncing.stop().await?;
    let mut attestations = serde_json::Map::new();
    for (rollup, before) in rollups.iter().zip(&before) {
        let now = Hops::read(&rollup.conductor_http).await?;
        attestations.insert(rollup.name.clone(), now.hop(before, ATTESTATION));
    }
    if let Some(path) = &args.plot {
        let lines = [
            ("fsync", &synced),
            ("sealed", &measured.sealed),
            ("released", &measured.released),
            ("early receipts of both legs", &measured.receipts),
            ("in both heads", &measured.heads),
        ];
        std::fs::write(path, draw(&lines))?;
    }
    Ok(json!({
        "bundles": args.count,
        "legs": LEGS,
        "transfers_per_leg": args.transfers,
        "fsync": synced.report(),
        "sealed": measured.sealed.report(),
        "released": measured.released.report(),
        "early_receipts": measured.receipts.report(),
        "heads": measured.heads.report(),
        "attestation": attestations,
    }))
}

/// Who hands bundles in, and pays.
pub(super) struct Sender {
    client: Client,
    bundles: BundlesClient<Channel>,
    chain_id: String,
    payer: SecretKey,
    signer: PrivateKeySigner,
}

/// A bundle, and what its seals hide.
pub(super) struct Sealed {
    bundle: AtomicBundle,
    raws: Vec<Vec<Bytes>>,
}

impl Sender {
    pub(super) async fn new(info: &Info, client: Client) -> eyre::Result<Self> {
        let account = info.accounts.first().ok_or_eyre("no account")?;
        let node = info.validators.first().ok_or_eyre("no validator")?;
        Ok(Self {
            client,
            bundles: BundlesClient::connect(node.grpc.clone()).await?,
            chain_id: info.chain_id.clone(),
            payer: read_key(&info.faucet_key)?,
            signer: account.private_key.parse()?,
        })
    }

    /// So many transfers on each rollup, from a nonce on.
    pub(super) fn seal(&self, legs: &[(&RollupInfo, u64)], transfers: u64) -> eyre::Result<Sealed> {
        let (mut seals, mut raws) = (Vec::new(), Vec::new());
        for (rollup, nonce) in legs {
            let leg = (*nonce..nonce + transfers).map(|nonce| self.transfer(rollup, nonce));
            let leg = leg.collect::<eyre::Result<Vec<_>>>()?;
            let sealed = |raw: &Bytes| SealedTx {
                tx_hash: keccak(raw),
                auth: EvmSignature::EMPTY,
            };
            seals.push(LegSeal {
                rollup_id: rollup.rollup_id,
                txs: leg.iter().map(sealed).collect(),
            });
            raws.push(leg);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut terms = BundleTerms {
            chain_id: self.chain_id.clone(),
            session_salt: Hash::new(keys::random()?),
            callers: Vec::new(),
            legs: seals,
            messages: Vec::new(),
            valid_from: now.saturating_sub(60),
            valid_until: now.saturating_add(600),
            on_abort: OnAbort::FailFast,
            max_attempts: 8,
            extra_attesters: Vec::new(),
            tip_per_attempt: Amount::new(1),
        };
        let id = terms.bundle_id();
        for tx in terms.legs.iter_mut().flat_map(|leg| &mut leg.txs) {
            let digest = auth_digest(&self.chain_id, &id, &tx.tx_hash);
            let signature = sign_hash(&self.signer, &digest)?;
            tx.auth = EvmSignature::new(signature.as_bytes());
        }
        let bundle = AtomicBundle::new(terms)?;
        Ok(Sealed { bundle, raws })
    }

    /// The next nonce that a client knows.
    async fn nonce(&self, rollup: &RollupInfo) -> eyre::Result<u64> {
        let client = Rpc::new(&rollup.el_rpc);
        let params = json!([self.signer.address(), "latest"]);
        let nonce = client.call("eth_getTransactionCount", params).await?;
        Ok(serde_json::from_value::<U256>(nonce)?.to())
    }

    fn transfer(&self, rollup: &RollupInfo, nonce: u64) -> eyre::Result<Bytes> {
        let mut tx = TxEip1559 {
            chain_id: rollup.evm_chain_id,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(Address::repeat_byte(0x77)),
            value: U256::from(1),
            ..TxEip1559::default()
        };
        let signature = self.signer.sign_transaction_sync(&mut tx)?;
        Ok(TxEnvelope::from(tx.into_signed(signature))
            .encoded_2718()
            .into())
    }

    /// What becomes of bundles from now on.
    pub(super) async fn stages(&self, bundles: &[Sealed]) -> eyre::Result<Streaming<Bundle>> {
        let id = |sealed: &Sealed| Bytes::copy_from_slice(sealed.bundle.id().as_bytes());
        let request = StreamBundlesRequest {
            bundle_ids: bundles.iter().map(id).collect(),
            ..StreamBundlesRequest::default()
        };
        let stages = self.bundles.clone().stream_bundles(request).await?;
        Ok(stages.into_inner())
    }

    /// Hands the seals of a bundle in.
    pub(super) async fn submit(&self, sealed: &Sealed) -> eyre::Result<()> {
        let bundle = sealed.bundle.clone();
        self.pay(Action::SubmitBundle(SubmitBundle { bundle }))
            .await
    }

    /// Tells what they hide.
    pub(super) async fn reveal(&self, sealed: &Sealed) -> eyre::Result<()> {
        let reveal = RevealLegs::new(sealed.bundle.id(), sealed.raws.clone())?;
        self.pay(Action::RevealLegs(reveal)).await
    }

    async fn pay(&self, action: Action) -> eyre::Result<()> {
        let account = self
            .client
            .account(&self.payer.public_key().address())
            .await?;
        let height = self.client.info().await?.height;
        let body = TransactionBody {
            chain_id: self.chain_id.clone(),
            signer: self.payer.public_key(),
            nonce: Nonce::new(account.pending_nonce),
            tip_per_byte: 0,
            max_fee: Amount::new(u128::MAX),
            valid_until: Height::new(height.saturating_add(300)),
            actions: vec![action],
        };
        let signed = SignedTransaction::sign(body, &self.payer)?;
        let answer = self.client.submit(signed.as_bytes().clone()).await?;
        ensure!(answer.code == 0, "refused: {}", answer.log);
        Ok(())
    }
}

/// Takes a bundle all its way.
async fn follow(
    sender: &Sender,
    sealed: Sealed,
    rollups: &[RollupInfo],
    measured: &Measured,
) -> eyre::Result<()> {
    let bundles = [sealed];
    let [sealed] = &bundles;
    let mut stages = sender.stages(&bundles).await?;
    let began = Instant::now();
    sender.submit(sealed).await?;
    until(&mut stages, BundleStage::Sealed, 1).await?;
    measured.sealed.record(began);
    sender.reveal(sealed).await?;
    let mut watching = JoinSet::new();
    for (rollup, leg) in rollups.iter().zip(&sealed.raws) {
        // The last one of a leg stands for all.
        let last = leg.last().ok_or_eyre("a leg is empty")?;
        let hash = B256::new(*keccak(last).as_bytes());
        let early = Rpc::new(&rollup.conductor_rpc);
        watching.spawn(async move { receipt(&early, hash).await.map(|()| false) });
        let head = Rpc::new(&rollup.el_rpc);
        watching.spawn(async move { receipt(&head, hash).await.map(|()| true) });
    }
    until(&mut stages, BundleStage::Released, 1).await?;
    measured.released.record(began);
    let mut early = watching.len() / 2;
    while let Some(found) = watching.join_next().await {
        if !found?? {
            early -= 1;
            if early == 0 {
                measured.receipts.record(began);
            }
        }
    }
    measured.heads.record(began);
    Ok(())
}

fn sign_hash(
    signer: &PrivateKeySigner,
    digest: &Hash,
) -> eyre::Result<alloy_primitives::Signature> {
    use alloy_consensus::crypto::secp256k1;
    let (secret, digest) = (signer.to_bytes(), B256::new(*digest.as_bytes()));
    Ok(secp256k1::sign_message(secret, digest)?)
}

/// Waits until so many bundles have come so far; gives the heights that brought them there.
pub(super) async fn until(
    stages: &mut Streaming<Bundle>,
    wanted: BundleStage,
    count: usize,
) -> eyre::Result<Vec<u64>> {
    let mut heights = Vec::new();
    let reached = async {
        while heights.len() < count {
            let told = stages.message().await?;
            let told = told.ok_or_eyre("the node has closed its stream")?;
            if told.stage() == wanted {
                heights.push(told.height);
            }
            ensure!(
                told.stage() != BundleStage::Aborted,
                "a bundle was aborted: {}",
                told.reason
            );
        }
        Ok(heights)
    };
    let late = |_| Err(eyre!("bundles are not {wanted:?} after {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(late)
}

/// Waits until a receipt is there.
async fn receipt(rpc: &Rpc, hash: B256) -> eyre::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let found = rpc.call("eth_getTransactionReceipt", json!([hash])).await;
        if found.is_ok_and(|receipt| receipt["status"] == "0x1") {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(eyre!("{hash} has no receipt after {PATIENCE:?}"))
}
