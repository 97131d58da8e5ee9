//! Atomic bundles on a running network, one after another: from the moment the seal is handed in to the
//! release, the early receipts of all legs, and the heads of all clients. In between the bundle is revealed
//! as soon as a node tells that it is sealed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
use tonic::Streaming;

use super::{super::NodeArgs, hops::Hops, load::Latency, transfers::Rpc};
use crate::{devnet::info::RollupInfo, keys};

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks for a result.
const POLL: Duration = Duration::from_millis(5);
/// Rollups that a bundle touches.
const LEGS: usize = 2;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench bundles --count 50")]
pub(crate) struct BundlesArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How many bundles.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
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
    let mut rollups: Vec<RollupInfo> = info.rollups.into_iter().take(LEGS).collect();
    ensure!(rollups.len() == LEGS, "bundles need {LEGS} rollups");
    rollups.sort_by_key(|rollup| rollup.rollup_id);
    let account = info.accounts.first().ok_or_eyre("no account")?;
    let sender = Sender {
        client: args.node.client()?,
        chain_id: info.chain_id,
        payer: read_key(&info.faucet_key)?,
        signer: account.private_key.parse()?,
        rollups,
    };
    let node = info.validators.first().ok_or_eyre("no validator")?;
    let mut bundles = BundlesClient::connect(node.grpc.clone()).await?;
    let measured = Measured {
        sealed: Latency::new()?,
        released: Latency::new()?,
        receipts: Latency::new()?,
        heads: Latency::new()?,
    };
    let mut before = Vec::new();
    for rollup in &sender.rollups {
        before.push(Hops::read(&rollup.conductor_http).await?);
    }
    for _ in 0..args.count {
        let (bundle, raws) = sender.bundle().await?;
        let request = StreamBundlesRequest {
            bundle_ids: vec![Bytes::copy_from_slice(bundle.id().as_bytes())],
            ..StreamBundlesRequest::default()
        };
        let mut stages = bundles.stream_bundles(request).await?.into_inner();
        sender.follow(bundle, raws, &mut stages, &measured).await?;
    }
    let mut attestations = serde_json::Map::new();
    for (rollup, before) in sender.rollups.iter().zip(&before) {
        let now = Hops::read(&rollup.conductor_http).await?;
        let hop = now.hop(before, "conductor_attestation_seconds");
        attestations.insert(rollup.name.clone(), hop);
    }
    Ok(json!({
        "bundles": args.count,
        "legs": LEGS,
        "sealed": measured.sealed.report(),
        "released": measured.released.report(),
        "early_receipts": measured.receipts.report(),
        "heads": measured.heads.report(),
        "attestation": attestations,
    }))
}

/// Who hands bundles in, and pays.
struct Sender {
    client: Client,
    chain_id: String,
    payer: SecretKey,
    signer: PrivateKeySigner,
    rollups: Vec<RollupInfo>,
}

impl Sender {
    /// A transfer on each rollup.
    async fn bundle(&self) -> eyre::Result<(AtomicBundle, Vec<Vec<Bytes>>)> {
        let (mut legs, mut raws) = (Vec::new(), Vec::new());
        for rollup in &self.rollups {
            let raw = self.transfer(rollup).await?;
            legs.push(LegSeal {
                rollup_id: rollup.rollup_id,
                txs: vec![SealedTx {
                    tx_hash: keccak(&raw),
                    auth: EvmSignature::EMPTY,
                }],
            });
            raws.push(vec![raw]);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut terms = BundleTerms {
            chain_id: self.chain_id.clone(),
            session_salt: Hash::new(keys::random()?),
            callers: Vec::new(),
            legs,
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
        Ok((AtomicBundle::new(terms)?, raws))
    }

    async fn transfer(&self, rollup: &RollupInfo) -> eyre::Result<Bytes> {
        let client = Rpc::new(&rollup.el_rpc);
        let params = json!([self.signer.address(), "latest"]);
        let nonce = client.call("eth_getTransactionCount", params).await?;
        let nonce: U256 = serde_json::from_value(nonce)?;
        let mut tx = TxEip1559 {
            chain_id: rollup.evm_chain_id,
            nonce: nonce.to(),
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

    /// Takes a bundle all its way.
    async fn follow(
        &self,
        bundle: AtomicBundle,
        raws: Vec<Vec<Bytes>>,
        stages: &mut Streaming<Bundle>,
        measured: &Measured,
    ) -> eyre::Result<()> {
        let reveal = RevealLegs::new(bundle.id(), raws.clone())?;
        let began = Instant::now();
        self.submit(Action::SubmitBundle(SubmitBundle { bundle }))
            .await?;
        until(stages, BundleStage::Sealed).await?;
        measured.sealed.record(began);
        self.submit(Action::RevealLegs(reveal)).await?;
        let mut watching = JoinSet::new();
        for (rollup, raws) in self.rollups.iter().zip(&raws) {
            for raw in raws {
                let hash = B256::new(*keccak(raw).as_bytes());
                let early = Rpc::new(&rollup.conductor_rpc);
                watching.spawn(async move { receipt(&early, hash).await.map(|()| false) });
                let head = Rpc::new(&rollup.el_rpc);
                watching.spawn(async move { receipt(&head, hash).await.map(|()| true) });
            }
        }
        until(stages, BundleStage::Released).await?;
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

    async fn submit(&self, action: Action) -> eyre::Result<()> {
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

fn sign_hash(
    signer: &PrivateKeySigner,
    digest: &Hash,
) -> eyre::Result<alloy_primitives::Signature> {
    use alloy_consensus::crypto::secp256k1;
    let (secret, digest) = (signer.to_bytes(), B256::new(*digest.as_bytes()));
    Ok(secp256k1::sign_message(secret, digest)?)
}

/// Waits until a bundle has come so far.
async fn until(stages: &mut Streaming<Bundle>, wanted: BundleStage) -> eyre::Result<()> {
    let reached = async {
        while let Some(told) = stages.message().await? {
            if told.stage() == wanted {
                return Ok(());
            }
            ensure!(
                told.stage() != BundleStage::Aborted,
                "a bundle was aborted: {}",
                told.reason
            );
        }
        Err(eyre!("the node has closed its stream"))
    };
    let late = |_| Err(eyre!("no bundle is {wanted:?} after {PATIENCE:?}"));
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
