//! Open-loop load: every request has its time, whether the last one was answered or not, and its
//! latency counts from then. So a stall is measured, not waited out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use clap::{Args, Subcommand};
use counterpoint_core::{
    action::{Action, SubmitData},
    primitive::{Amount, Height, Nonce, RollupId},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use eyre::eyre;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::NodeArgs;
use crate::keys;

/// How long the last request may take after the load has ended.
const DRAIN: Duration = Duration::from_secs(60);
/// Pause between two looks for a result.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How long to load, in seconds.
    #[arg(long, default_value_t = 20, global = true)]
    seconds: u64,
    #[command(subcommand)]
    load: Load,
}

#[derive(Clone, Debug, Subcommand)]
enum Load {
    /// Transfers by JSON-RPC, up to the receipt from the execution client.
    #[command(after_help = "Example:\n  counterpoint bench transfers --rate 50 --seconds 20")]
    Transfers {
        /// The rollup.
        #[arg(long, default_value = "alpha")]
        rollup: String,
        /// Transfers per second.
        #[arg(long, default_value_t = 20)]
        rate: u64,
    },
    /// Items of random bytes by gRPC, up to their block.
    #[command(after_help = "Example:\n  counterpoint bench sequencing --bytes-per-second 2000000")]
    Sequencing {
        /// The rollup.
        #[arg(long, default_value = "alpha")]
        rollup: String,
        /// Bytes per second.
        #[arg(long, default_value_t = 1_000_000)]
        bytes_per_second: u64,
        /// Bytes per item; each is a transaction of its own.
        #[arg(long, default_value_t = 65_536)]
        item_bytes: u64,
    },
}

pub(crate) async fn run(args: BenchArgs) -> eyre::Result<()> {
    let duration = Duration::from_secs(args.seconds);
    let result = match args.load.clone() {
        Load::Transfers { rollup, rate } => transfers(&args, &rollup, rate, duration).await?,
        Load::Sequencing {
            rollup,
            bytes_per_second,
            item_bytes,
        } => sequencing(&args, &rollup, bytes_per_second, item_bytes, duration).await?,
    };
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}

/// Latencies in microseconds, shared by the tasks that measure them.
#[derive(Clone)]
struct Latency(Arc<Mutex<Histogram<u64>>>);

impl Latency {
    fn new() -> eyre::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Histogram::new_with_bounds(
            1,
            120_000_000,
            3,
        )?))))
    }

    fn record(&self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(micros);
    }

    fn report(&self) -> Value {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |quantile| histogram.value_at_quantile(quantile) / 1_000;
        json!({
            "count": histogram.len(),
            "p50_ms": millis(0.5), "p95_ms": millis(0.95), "p99_ms": millis(0.99),
            "max_ms": histogram.max() / 1_000,
        })
    }
}

/// Runs `request` at its times, counted from the start of the load.
async fn open_loop<F>(
    count: u64,
    every: Duration,
    mut request: impl FnMut(u64, Instant) -> F,
) -> Vec<eyre::Report>
where
    F: Future<Output = eyre::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for at in 0..count {
        let due = start + every * u32::try_from(at).unwrap_or(u32::MAX);
        tokio::time::sleep_until(due.into()).await;
        tasks.spawn(request(at, due));
    }
    let drained = tokio::time::timeout(DRAIN, tasks.join_all()).await;
    match drained {
        Ok(results) => results.into_iter().filter_map(Result::err).collect(),
        Err(_) => vec![eyre!("some requests had no result after {DRAIN:?}")],
    }
}

async fn transfers(
    args: &BenchArgs,
    rollup: &str,
    rate: u64,
    duration: Duration,
) -> eyre::Result<Value> {
    let info = args.node.info()?;
    let rollup = info.rollups.iter().find(|one| one.name == rollup);
    let rollup = rollup.ok_or_else(|| eyre!("the network has no such rollup"))?;
    let wallet = Wallet {
        http: reqwest::Client::new(),
        url: rollup.composer_rpc.clone(),
        chain_id: rollup.evm_chain_id,
        signer: info.accounts[0].private_key.parse()?,
    };
    let first = wallet.nonce().await?;
    let (acknowledged, sequenced, executed) = (Latency::new()?, Latency::new()?, Latency::new()?);
    let count = rate * duration.as_secs();
    let every = Duration::from_secs(1) / u32::try_from(rate)?;
    // One sender's nonces must arrive in order, so intake is one after another; waiting is not.
    let turn = Arc::new(tokio::sync::Mutex::new(0_u64));
    let started = Instant::now();
    let errors = open_loop(count, every, |at, due| {
        let (wallet, turn) = (wallet.clone(), Arc::clone(&turn));
        let (acknowledged, sequenced, executed) =
            (acknowledged.clone(), sequenced.clone(), executed.clone());
        async move {
            let raw = wallet.sign(first + at)?;
            let hash = loop {
                let mut next = turn.lock().await;
                if *next == at {
                    let sent = wallet.call("eth_sendRawTransaction", json!([raw])).await;
                    *next += 1;
                    break sent?;
                }
                drop(next);
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            acknowledged.record(due);
            let mut was_sequenced = false;
            loop {
                let status = wallet
                    .call("counterpoint_getTransactionStatus", json!([hash]))
                    .await?;
                let stage = status["status"].as_str().unwrap_or_default();
                if !was_sequenced && matches!(stage, "sequenced" | "executed") {
                    sequenced.record(due);
                    was_sequenced = true;
                }
                match stage {
                    "executed" => break,
                    "rejected" => return Err(eyre!("rejected: {status}")),
                    _ => tokio::time::sleep(POLL).await,
                }
            }
            executed.record(due);
            Ok(())
        }
    })
    .await;
    let seconds = started.elapsed().as_secs_f64();
    let done = executed.report()["count"].as_u64().unwrap_or_default();
    Ok(json!({
        "load": "transfers",
        "offered_per_second": rate,
        "executed_per_second": f64::from(u32::try_from(done)?) / seconds,
        "submit_to_acknowledged": acknowledged.report(),
        "submit_to_sequenced": sequenced.report(),
        "submit_to_receipt": executed.report(),
        "errors": errors.len(),
        "first_error": errors.first().map(|error| format!("{error:#}")),
    }))
}

/// A wallet with one account.
#[derive(Clone)]
struct Wallet {
    http: reqwest::Client,
    url: String,
    chain_id: u64,
    signer: PrivateKeySigner,
}

impl Wallet {
    async fn call(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let response = self.http.post(&self.url).json(&request).send().await?;
        let mut answer: Value = response.json().await?;
        match answer.get("error") {
            Some(error) => Err(eyre!("{method}: {error}")),
            None => Ok(answer["result"].take()),
        }
    }

    async fn nonce(&self) -> eyre::Result<u64> {
        let count = json!([self.signer.address(), "pending"]);
        let nonce = self.call("eth_getTransactionCount", count).await?;
        let digits = nonce.as_str().unwrap_or_default().trim_start_matches("0x");
        Ok(u64::from_str_radix(digits, 16)?)
    }

    fn sign(&self, nonce: u64) -> eyre::Result<String> {
        let mut tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(Address::repeat_byte(0x42)),
            value: U256::from(1),
            ..TxEip1559::default()
        };
        let signature = self.signer.sign_transaction_sync(&mut tx)?;
        let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
        Ok(format!("0x{}", hex::encode(raw)))
    }
}

async fn sequencing(
    args: &BenchArgs,
    rollup: &str,
    bytes_per_second: u64,
    item_bytes: u64,
    duration: Duration,
) -> eyre::Result<Value> {
    let client = args.node.client()?;
    let key = Arc::new(keys::read(&args.node.info()?.faucet_key)?);
    let address = key.public_key().address();
    let (info, account) = (client.info().await?, client.account(&address).await?);
    let rollup_id = RollupId::from_name(rollup);
    let count = bytes_per_second * duration.as_secs() / item_bytes;
    let every = duration / u32::try_from(count.max(1))?;
    let latency = Latency::new()?;
    let (length, first) = (usize::try_from(item_bytes)?, account.pending_nonce);
    let started = Instant::now();
    let errors = open_loop(count, every, |at, due| {
        let (client, latency, key) = (client.clone(), latency.clone(), Arc::clone(&key));
        let (chain_id, height) = (info.chain_id.clone(), info.height);
        async move {
            let mut item = at.to_be_bytes().to_vec();
            item.resize(length, 0xab);
            let data = SubmitData::new(rollup_id, vec![Bytes::from(item)])?;
            let body = TransactionBody {
                chain_id,
                signer: key.public_key(),
                nonce: Nonce::new(first + at),
                tip_per_byte: 0,
                max_fee: Amount::new(u128::MAX),
                valid_until: Height::new(height + 500),
                actions: vec![Action::SubmitData(data)],
            };
            let tx = SignedTransaction::sign(body, &key)?;
            let answer = client.submit(tx.as_bytes().clone()).await?;
            eyre::ensure!(
                answer.code == 0,
                "refused with code {}: {}",
                answer.code,
                answer.log
            );
            while !matches!(client.transaction(&tx.hash()).await?, Status::Included(_)) {
                tokio::time::sleep(POLL).await;
            }
            latency.record(due);
            Ok(())
        }
    })
    .await;
    let seconds = started.elapsed().as_secs_f64();
    let blocks = client.info().await?.height - info.height;
    let done = latency.report()["count"].as_u64().unwrap_or_default();
    let megabytes = f64::from(u32::try_from(done * item_bytes / 1_000)?) / 1_000.0;
    Ok(json!({
        "load": "sequencing",
        "offered_megabytes_per_second": f64::from(u32::try_from(bytes_per_second / 1_000)?) / 1_000.0,
        "sequenced_megabytes_per_second": megabytes / seconds,
        "blocks_per_second": f64::from(u32::try_from(blocks)?) / seconds,
        "submit_to_sequenced": latency.report(),
        "errors": errors.len(),
        "first_error": errors.first().map(|error| format!("{error:#}")),
    }))
}
