//! Wallets to head: many senders, each transfer acknowledged, sequenced and executed.
//!
//! The head is watched block by block, which costs the client one question each; where a transfer
//! stands at the composer is asked for a sample only, so that asking is not the load. Transfers are signed
//! before. Beside it the disk is asked for an fsync now and then: what an acknowledgement costs at the
//! least.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, TxKind, U256, keccak256, utils::Unit};
use alloy_signer_local::PrivateKeySigner;
use clap::Args;
use eyre::{bail, eyre};
use serde_json::{Value, json};

use super::{
    super::NodeArgs,
    hops::Hops,
    load::{Fsyncs, Latency, open_loop},
    plot::draw,
};

/// How long the last transfer may take after the load has ended.
const DRAIN: Duration = Duration::from_secs(60);
/// Pause between two looks for a result.
const POLL: Duration = Duration::from_millis(5);
/// Transfers of one account that wait at the most while senders are funded.
const FUNDED_AT_ONCE: u64 = 128;
/// Transfers per second whose way through the composer is followed.
const SAMPLES_PER_SECOND: u64 = 10;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint bench transfers --rate 50 --senders 10 --seconds 20"
)]
pub(crate) struct TransfersArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// The rollup.
    #[arg(long, default_value = "alpha")]
    rollup: String,
    /// Transfers per second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Accounts that send in turn; each waits for its last acknowledgement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    senders: u32,
    /// How long to load, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Where to draw the distributions, as an SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What is measured of each transfer, from the moment it was due.
#[derive(Clone)]
struct Measured {
    acknowledged: Latency,
    sequenced: Latency,
    receipt: Latency,
    executed: Latency,
}

pub(super) async fn run(args: &TransfersArgs) -> eyre::Result<Value> {
    let info = args.node.info()?;
    let rollup = info.rollups.iter().find(|one| one.name == args.rollup);
    let rollup = rollup.ok_or_else(|| eyre!("the network has no rollup {}", args.rollup))?;
    let composer = Rpc::new(&rollup.composer_rpc);
    let client = Rpc::new(&rollup.el_rpc);
    let funder: PrivateKeySigner = info.accounts[0].private_key.parse()?;
    let senders = fund(
        &composer,
        &client,
        rollup.evm_chain_id,
        funder,
        args.senders,
    )
    .await?;
    let measured = Measured {
        acknowledged: Latency::new()?,
        sequenced: Latency::new()?,
        receipt: Latency::new()?,
        executed: Latency::new()?,
    };
    let waiting = Waiting::default();
    let watcher = tokio::spawn(watch(client, waiting.clone(), measured.executed.clone()));
    let count = u64::from(args.rate) * u64::from(args.seconds);
    for sender in &senders {
        sender
            .lock()
            .await
            .prepare(count.div_ceil(senders.len() as u64))?;
    }
    let sample_every = (u64::from(args.rate) / SAMPLES_PER_SECOND).max(1);
    let before = Hops::read(&rollup.conductor_http).await?;
    let syncing = Fsyncs::watch(&args.node.dir)?;
    let started = Instant::now();
    let every = Duration::from_secs(1) / args.rate;
    let mut errors = open_loop(count, every, |at, due| {
        let sender = Arc::clone(&senders[usize::try_from(at).unwrap_or(0) % senders.len()]);
        let (composer, waiting, measured) = (composer.clone(), waiting.clone(), measured.clone());
        async move {
            let hash = sender.lock().await.send(&composer, &waiting, due).await?;
            measured.acknowledged.record(due);
            if at.is_multiple_of(sample_every) {
                follow(&composer, hash, due, &measured).await?;
            }
            Ok(())
        }
    })
    .await;
    let synced = syncing.stop().await?;
    let deadline = Instant::now() + DRAIN;
    while waiting.len() > 0 && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    watcher.abort();
    if waiting.len() > 0 {
        errors.push(eyre!(
            "{} transfers are in no block after {DRAIN:?}",
            waiting.len()
        ));
    }
    let fsync_ms = synced.quantile_ms(0.5);
    let fsyncs = measured.acknowledged.quantile_ms(0.5) / fsync_ms.max(0.01);
    if let Some(path) = &args.plot {
        let lines = [
            ("fsync", &synced),
            ("acknowledged", &measured.acknowledged),
            ("ordered, with proof", &measured.sequenced),
            ("early receipt", &measured.receipt),
            ("in the head", &measured.executed),
        ];
        std::fs::write(path, draw(&lines))?;
    }
    let hops = Hops::read(&rollup.conductor_http).await?.since(&before);
    let executed = measured.executed.report();
    let done = executed["count"].as_f64().unwrap_or_default();
    Ok(json!({
        "load": "transfers",
        "offered_per_second": args.rate,
        "senders": args.senders,
        "executed": executed["count"],
        "executed_per_second": (done / seconds).round(),
        "submit_to_acknowledged": measured.acknowledged.report(),
        "acknowledged_p50_in_fsyncs": (fsyncs * 10.0).round() / 10.0,
        "fsync": synced.report(),
        "submit_to_sequenced": measured.sequenced.report(),
        "submit_to_early_receipt": measured.receipt.report(),
        "submit_to_head": executed,
        "conductor": hops,
        "errors": errors.len(),
        "first_error": errors.first().map(|error| format!("{error:#}")),
    }))
}

/// Asks the composer until a transaction is in a verified list, and until its outcome is final.
async fn follow(composer: &Rpc, hash: B256, due: Instant, measured: &Measured) -> eyre::Result<()> {
    let mut ordered = false;
    loop {
        let status = composer
            .call("counterpoint_getTransactionStatus", json!([hash]))
            .await?;
        let executed = match status["status"].as_str() {
            Some("executed") => true,
            Some("sequenced") => false,
            Some("queued" | "submitted") => {
                tokio::time::sleep(POLL).await;
                continue;
            }
            _ => bail!("transfer {hash} went wrong: {status}"),
        };
        if !ordered {
            measured.sequenced.record(due);
            ordered = true;
        }
        if executed {
            measured.receipt.record(due);
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Transfers that no block holds yet, and when they were due.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<HashMap<B256, Instant>>>);

impl Waiting {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<B256, Instant>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn len(&self) -> usize {
        self.with(|waiting| waiting.len())
    }
}

/// Takes every transfer off the list once a block of the client holds it.
async fn watch(client: Rpc, waiting: Waiting, executed: Latency) -> eyre::Result<()> {
    let mut next = number(&client.call("eth_blockNumber", json!([])).await?)? + 1;
    loop {
        let block = json!([format!("{next:#x}"), false]);
        let block = client.call("eth_getBlockByNumber", block).await?;
        if block.is_null() {
            tokio::time::sleep(POLL).await;
            continue;
        }
        for hash in block["transactions"].as_array().into_iter().flatten() {
            let hash: B256 = serde_json::from_value(hash.clone())?;
            if let Some(due) = waiting.with(|waiting| waiting.remove(&hash)) {
                executed.record(due);
            }
        }
        next += 1;
    }
}

/// One account, which sends in the order of its nonces.
struct Sender {
    signer: PrivateKeySigner,
    chain_id: u64,
    /// Of the next transfer that is signed.
    nonce: u64,
    /// Signed and not acknowledged, in the order of their nonces.
    prepared: VecDeque<Vec<u8>>,
}

impl Sender {
    fn new(signer: PrivateKeySigner, chain_id: u64, nonce: u64) -> Self {
        Self {
            signer,
            chain_id,
            nonce,
            prepared: VecDeque::new(),
        }
    }

    /// Signs so many transfers of one wei to nobody in particular.
    fn prepare(&mut self, count: u64) -> eyre::Result<()> {
        for _ in 0..count {
            let raw = self.sign(Address::repeat_byte(0x42), U256::from(1))?;
            self.prepared.push_back(raw);
        }
        Ok(())
    }

    /// Sends the next of the transfers that are prepared.
    async fn send(
        &mut self,
        composer: &Rpc,
        waiting: &Waiting,
        due: Instant,
    ) -> eyre::Result<B256> {
        let raw = self.prepared.front();
        let raw = raw.ok_or_else(|| eyre!("no transfer is prepared"))?;
        let hash = keccak256(raw);
        waiting.with(|waiting| waiting.insert(hash, due));
        let raw = format!("0x{}", hex::encode(raw));
        if let Err(error) = composer.call("eth_sendRawTransaction", json!([raw])).await {
            waiting.with(|waiting| waiting.remove(&hash));
            return Err(error);
        }
        self.prepared.pop_front();
        Ok(hash)
    }

    /// Signs a transfer, behind those before it.
    fn sign(&mut self, to: Address, value: U256) -> eyre::Result<Vec<u8>> {
        let mut tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 1_000_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(to),
            value,
            ..TxEip1559::default()
        };
        let signature = self.signer.sign_transaction_sync(&mut tx)?;
        self.nonce += 1;
        Ok(TxEnvelope::from(tx.into_signed(signature)).encoded_2718())
    }
}

/// Gives ten ether to each of `count` accounts, the same ones in every run.
async fn fund(
    composer: &Rpc,
    client: &Rpc,
    chain_id: u64,
    funder: PrivateKeySigner,
    count: u32,
) -> eyre::Result<Vec<Arc<tokio::sync::Mutex<Sender>>>> {
    let nonce = pending_nonce(composer, funder.address()).await?;
    let mut funder = Sender::new(funder, chain_id, nonce);
    let mut senders = Vec::new();
    for at in 0..count {
        let signer =
            PrivateKeySigner::from_bytes(&keccak256(format!("counterpoint/bench/sender/{at}")))?;
        let raw = funder.sign(signer.address(), U256::from(10) * Unit::ETHER.wei())?;
        let raw = format!("0x{}", hex::encode(raw));
        composer
            .call("eth_sendRawTransaction", json!([raw]))
            .await?;
        if funder.nonce.is_multiple_of(FUNDED_AT_ONCE) {
            executed(client, &funder).await?;
        }
        let nonce = pending_nonce(composer, signer.address()).await?;
        senders.push(Sender::new(signer, chain_id, nonce));
    }
    executed(client, &funder).await?;
    let shared = |sender| Arc::new(tokio::sync::Mutex::new(sender));
    Ok(senders.into_iter().map(shared).collect())
}

/// Waits until all that a sender has sent is executed.
async fn executed(client: &Rpc, sender: &Sender) -> eyre::Result<()> {
    let deadline = Instant::now() + DRAIN;
    let count = json!([sender.signer.address(), "latest"]);
    while number(
        &client
            .call("eth_getTransactionCount", count.clone())
            .await?,
    )? < sender.nonce
    {
        eyre::ensure!(Instant::now() < deadline, "not executed after {DRAIN:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn pending_nonce(composer: &Rpc, address: Address) -> eyre::Result<u64> {
    let count = json!([address, "pending"]);
    number(&composer.call("eth_getTransactionCount", count).await?)
}

/// A quantity of JSON-RPC.
fn number(value: &Value) -> eyre::Result<u64> {
    let digits = value.as_str().unwrap_or_default().trim_start_matches("0x");
    Ok(u64::from_str_radix(digits, 16)?)
}

/// A JSON-RPC endpoint.
#[derive(Clone)]
pub(super) struct Rpc {
    http: reqwest::Client,
    url: String,
}

impl Rpc {
    pub(super) fn new(url: &str) -> Self {
        let (http, url) = (reqwest::Client::new(), url.to_owned());
        Self { http, url }
    }

    pub(super) async fn call(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let response = self.http.post(&self.url).json(&request).send().await?;
        let mut answer: Value = response.json().await?;
        match answer.get("error") {
            Some(error) => Err(eyre!("{method}: {error}")),
            None => Ok(answer["result"].take()),
        }
    }
}
