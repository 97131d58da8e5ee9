//! How fast transactions are taken in, beside geth: wallets' transfers in JSON-RPC batches over many
//! connections, to the composer of a whole network that executes them meanwhile, to the same one while the
//! chain stands still, and to the pool of a geth of its own, without blocks and with them. Load generator,
//! network and clients share the machine.
//!
//! Transfers are signed before. All of them go to an account that nobody else pays: each acknowledged
//! one must have arrived there once, or still be on its way.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, TxKind, U256, keccak256, utils::Unit};
use alloy_signer_local::PrivateKeySigner;
use clap::Args;
use counterpoint_service::to_f64;
use eyre::{WrapErr, bail, ensure, eyre};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_blocking};

use super::load::{Latency, memory_mb};
use crate::{
    devnet::{
        Devnet, Info, Options,
        clients::Geth,
        plan::url,
        ports,
        process::{Process, Spec},
        setup::{Layout, write_secret},
        tools,
    },
    keys,
};

/// What each sender gets, in ether: room for all that may wait at the fee that is offered.
const ALLOWANCE: u64 = 4_000;
/// Offered per gas, in wei: more than a hundred full blocks, each an eighth dearer, can ask.
const MAX_FEE: u128 = 1_000_000_000_000_000;
/// Where all transfers go.
const PAYEE: Address = Address::repeat_byte(0x43);
/// How long preparations may take, and how long is waited for what is on its way.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(100);
/// How often memory is looked at under load.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench composer --seconds 6\n  \
                        counterpoint bench composer --soak-minutes 60")]
pub(crate) struct ComposerArgs {
    /// Connections, each with a batch on its way.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Transfers of a batch.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    batch: u32,
    /// Accounts that send, spread over the connections.
    #[arg(long, default_value_t = 960, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    senders: u32,
    /// Transfers sent as fast as they are acknowledged. What waits at the composer is bounded, by
    /// sender too.
    #[arg(long, default_value_t = 60_000)]
    transfers: u64,
    /// How long half of that rate is measured, in seconds.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Soak instead: so many minutes of --soak-rate, and the composer's memory after each.
    #[arg(long, value_name = "MINUTES")]
    soak_minutes: Option<u32>,
    /// Transfers per second of a soak; less than half of what blocks hold, or fees rise for ever.
    #[arg(long, default_value_t = 500)]
    soak_rate: u32,
    /// Where the network lies; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    parent: Option<PathBuf>,
}

pub(super) async fn run(args: &ComposerArgs) -> eyre::Result<Value> {
    let parent = args.parent.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&parent)
        .wrap_err_with(|| format!("no directory can be made in {}", parent.display()))?;
    let options = Options {
        rollups: 1,
        ..Options::new(directory.path().join("network"), std::env::current_exe()?)
    };
    let mut devnet = Devnet::start(&options, &say).await?;
    let measured = match args.soak_minutes {
        Some(minutes) => soak(args, &mut devnet, minutes).await,
        None => measure(args, &mut devnet, directory.path(), &options.dir).await,
    };
    devnet.stop().await?;
    directory.close()?;
    measured
}

fn say(step: &str) {
    eprintln!("bench: {step}");
}

async fn measure(
    args: &ComposerArgs,
    devnet: &mut Devnet,
    directory: &Path,
    network: &Path,
) -> eyre::Result<Value> {
    let (info, pid) = (devnet.info(), pid_of(devnet, "composer")?);
    let mut wallets = Wallets::fund(args, &info).await?;
    say("signing");
    let batches = wallets.sign(args.transfers).await?;
    let composer = info.rollups[0].composer_rpc.clone();

    say("the composer, as fast as it acknowledges");
    let memory = Memory::watch(pid);
    let full = load(&composer, batches.clone(), None).await?;
    say("the composer, at half of that rate");
    let every = Duration::from_secs_f64(2.0 / full.per_second()) * args.batch;
    let count = args.seconds * 1_000_000 / u64::try_from(every.as_micros())?.max(1);
    let signed = wallets.sign(count * u64::from(args.batch)).await?;
    let half = load(&composer, signed, Some(every)).await?;
    let memory = memory.stop();
    say("what was acknowledged arrives");
    let acknowledged = full.acknowledged + half.acknowledged;
    settle(&info, acknowledged).await?;
    say("the composer while the chain stands still, as geth's own pool will");
    let signed = wallets.sign(args.transfers).await?;
    devnet.kill("val-0-cometbft").await?;
    let still = load(&composer, signed, None).await?;
    devnet.launch("val-0-cometbft").await?;
    let arrived = settle(&info, acknowledged + still.acknowledged).await?;

    say("geth's own pool");
    let layout = Layout {
        dir: std::fs::canonicalize(network)?,
    };
    let genesis = layout.rollup_genesis(&info.rollups[0].name);
    let mut pool = Pool::start(directory, &genesis, &wallets, Blocks::None).await?;
    let geth = load(&pool.url, batches.clone(), None).await;
    pool.process.stop(Duration::from_secs(10)).await?;
    say("a geth that makes a block each second");
    let mut pool = Pool::start(directory, &genesis, &wallets, Blocks::EachSecond).await?;
    let building = load(&pool.url, batches, None).await;
    pool.process.stop(Duration::from_secs(10)).await?;
    let (geth, building) = (geth?, building?);
    let ratio =
        |ours: &Run, geth: &Run| (ours.per_second() / geth.per_second() * 100.0).round() / 100.0;
    Ok(json!({
        "load": "composer",
        "connections": args.connections,
        "batch": args.batch,
        "senders": args.senders,
        "full": full.report(),
        "half": half.report(),
        "memory_mb": memory,
        "transfers": arrived,
        "still": still.report(),
        "geth": geth.report(),
        "geth_making_blocks": building.report(),
        "ratio": ratio(&full, &geth),
        "ratio_both_executing": ratio(&full, &building),
        "ratio_none_executing": ratio(&still, &geth),
    }))
}

async fn soak(args: &ComposerArgs, devnet: &mut Devnet, minutes: u32) -> eyre::Result<Value> {
    let (info, pid) = (devnet.info(), pid_of(devnet, "composer")?);
    let mut wallets = Wallets::fund(args, &info).await?;
    let every = Duration::from_secs(1) * args.batch / args.soak_rate;
    let (mut memory, mut acknowledged, mut last) = (Vec::new(), 0, None);
    for minute in 1..=minutes {
        let signed = wallets.sign(60 * u64::from(args.soak_rate)).await?;
        let run = load(&info.rollups[0].composer_rpc, signed, Some(every)).await?;
        acknowledged += run.acknowledged;
        memory.push(memory_mb(pid)?);
        say(&format!(
            "minute {minute}: {} MB",
            memory.last().unwrap_or(&0)
        ));
        last = Some(run.report());
    }
    Ok(json!({
        "load": "composer soak",
        "rate": args.soak_rate,
        "memory_mb": memory,
        "last_minute": last,
        "transfers": settle(&info, acknowledged).await?,
    }))
}

fn pid_of(devnet: &mut Devnet, name: &str) -> eyre::Result<u32> {
    let status = devnet.status();
    let part = status.into_iter().find(|part| part.name == name);
    let pid = part.and_then(|part| part.pid);
    pid.ok_or_else(|| eyre!("{name} does not run"))
}

/// What a process holds, looked at from time to time.
struct Memory {
    seen: Arc<Mutex<Vec<u64>>>,
    watching: tokio::task::JoinHandle<()>,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let shared = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            while let Ok(memory) = memory_mb(pid) {
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(memory);
                tokio::time::sleep(MEMORY_EVERY).await;
            }
        });
        Self { seen, watching }
    }

    fn stop(self) -> Vec<u64> {
        self.watching.abort();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

/// A JSON-RPC batch, ready to be sent.
#[derive(Clone)]
struct Batch(bytes::Bytes);

/// The accounts that send; each belongs to one connection, which sends in the order of nonces.
struct Wallets {
    chain_id: u64,
    batch: usize,
    connections: Vec<Vec<Wallet>>,
}

struct Wallet {
    signer: PrivateKeySigner,
    nonce: u64,
}

impl Wallets {
    /// Pays each from the network's accounts, and waits until all have it.
    async fn fund(args: &ComposerArgs, info: &Info) -> eyre::Result<Self> {
        say("funding senders");
        let rollup = &info.rollups[0];
        let mut connections: Vec<Vec<Wallet>> = Vec::new();
        connections.resize_with(usize::try_from(args.connections)?, Vec::new);
        let mut funders = Vec::new();
        for account in &info.accounts {
            let signer = account.private_key.parse()?;
            funders.push(Wallet { signer, nonce: 0 });
        }
        let mut payments = Vec::new();
        let mut last = Address::ZERO;
        for at in 0..usize::try_from(args.senders.max(args.connections))? {
            let seed = keccak256(format!("counterpoint/bench/wallet/{at}"));
            let signer = PrivateKeySigner::from_bytes(&seed)?;
            let (places, amount) = (funders.len(), U256::from(ALLOWANCE) * Unit::ETHER.wei());
            let funder = &mut funders[at % places];
            payments.push(funder.sign(rollup.evm_chain_id, signer.address(), amount)?);
            last = signer.address();
            let places = connections.len();
            connections[at % places].push(Wallet { signer, nonce: 0 });
        }
        let bodies = payments.chunks(100).map(body).collect();
        let paid = load(&rollup.composer_rpc, vec![bodies], None).await?;
        ensure!(paid.refused == 0, "senders are not paid: {:?}", paid.error);
        let (client, deadline) = (Rpc::new(&rollup.el_rpc), Instant::now() + PATIENCE);
        while client.balance(last).await?.is_zero() {
            ensure!(
                Instant::now() < deadline,
                "senders are not paid in {PATIENCE:?}"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(Self {
            chain_id: rollup.evm_chain_id,
            batch: usize::try_from(args.batch)?,
            connections,
        })
    }

    fn addresses(&self) -> impl Iterator<Item = Address> {
        let wallets = self.connections.iter().flatten();
        wallets.map(|wallet| wallet.signer.address())
    }

    /// Signs about so many transfers, in batches for each connection.
    async fn sign(&mut self, transfers: u64) -> eyre::Result<Vec<Vec<Batch>>> {
        let each = transfers.div_ceil(self.connections.len() as u64);
        let (chain_id, batch) = (self.chain_id, self.batch);
        let signing = std::mem::take(&mut self.connections)
            .into_iter()
            .map(|mut wallets| {
                spawn_blocking(move || -> eyre::Result<_> {
                    let mut signed = Vec::new();
                    for at in 0..usize::try_from(each)? {
                        let places = wallets.len();
                        let wallet = &mut wallets[at % places];
                        signed.push(wallet.sign(chain_id, PAYEE, U256::from(1))?);
                    }
                    Ok((wallets, signed.chunks(batch).map(body).collect()))
                })
            });
        let mut all = Vec::new();
        for signed in signing.collect::<Vec<_>>() {
            let (wallets, batches) = signed.await??;
            self.connections.push(wallets);
            all.push(batches);
        }
        Ok(all)
    }
}

impl Wallet {
    fn sign(&mut self, chain_id: u64, to: Address, value: U256) -> eyre::Result<String> {
        let mut tx = TxEip1559 {
            chain_id,
            nonce: self.nonce,
            gas_limit: 21_000,
            max_fee_per_gas: MAX_FEE,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(to),
            value,
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let signature = self.signer.sign_transaction_sync(&mut tx)?;
        let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
        Ok(format!("0x{}", hex::encode(raw)))
    }
}

fn body(raws: &[String]) -> Batch {
    let calls = raws.iter().enumerate().map(|(id, raw)| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "eth_sendRawTransaction", "params": [raw] })
    });
    Batch(Value::Array(calls.collect()).to_string().into())
}

/// What came back.
struct Run {
    acknowledged: u64,
    refused: u64,
    error: Option<String>,
    /// Of whole batches: from when one was due, or sent, until all of it was answered.
    latency: Latency,
    elapsed: Duration,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Value>,
}

impl Run {
    fn per_second(&self) -> f64 {
        to_f64(self.acknowledged.max(1)) / self.elapsed.as_secs_f64()
    }

    fn report(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "refused": self.refused,
            "first_error": self.error,
            "per_second": self.per_second().round(),
            "batches": self.latency.report(),
        })
    }

    fn count(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer.error {
                None => self.acknowledged += 1,
                Some(error) => {
                    self.refused += 1;
                    self.error.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}

/// Sends what each connection has, one batch after the other: at once, or each when it is due, one
/// of all connections' `every` so often.
async fn load(
    url: &str,
    connections: Vec<Vec<Batch>>,
    every: Option<Duration>,
) -> eyre::Result<Run> {
    // As many connections as tasks ask at the same time.
    let (http, latency) = (reqwest::Client::new(), Latency::new()?);
    let (start, places) = (Instant::now(), u32::try_from(connections.len())?);
    let mut tasks = JoinSet::new();
    for (turn, batches) in (0_u32..).zip(connections) {
        let (http, url, latency) = (http.clone(), url.to_owned(), latency.clone());
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for (round, Batch(body)) in (0_u32..).zip(batches) {
                let due = match every {
                    None => Instant::now(),
                    Some(every) => start + every * (round * places + turn),
                };
                tokio::time::sleep_until(due.into()).await;
                let sent = http.post(&url).header("content-type", "application/json");
                let answer = sent.body(body).send().await?.bytes().await?;
                latency.record(due);
                let answer: Vec<Answer> = serde_json::from_slice(&answer).wrap_err_with(|| {
                    format!("no answers: {}", String::from_utf8_lossy(&answer))
                })?;
                answers.extend(answer);
            }
            eyre::Ok(answers)
        });
    }
    let mut run = Run {
        acknowledged: 0,
        refused: 0,
        error: None,
        latency,
        elapsed: Duration::ZERO,
    };
    while let Some(answers) = tasks.join_next().await {
        run.count(answers??);
    }
    run.elapsed = start.elapsed();
    Ok(run)
}

/// Waits until what was acknowledged has arrived; says what is still on its way, and what is lost.
async fn settle(info: &Info, acknowledged: u64) -> eyre::Result<Value> {
    let client = Rpc::new(&info.rollups[0].el_rpc);
    let (status, deadline) = (
        format!("{}/status", info.composer.http),
        Instant::now() + PATIENCE,
    );
    loop {
        let status: Value = reqwest::get(&status).await?.json().await?;
        let waiting = status["live_transactions"].as_u64();
        let waiting = waiting.ok_or_else(|| eyre!("no live_transactions: {status}"))?;
        let executed: u64 = client.balance(PAYEE).await?.to();
        ensure!(
            executed <= acknowledged,
            "{executed} of {acknowledged} acknowledged transfers were executed: some more than once"
        );
        let lost = acknowledged.saturating_sub(executed + waiting);
        if executed == acknowledged || waiting == 0 || Instant::now() > deadline {
            return Ok(json!({
                "acknowledged": acknowledged,
                "executed": executed,
                "waiting": waiting,
                "lost": lost,
            }));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a geth makes blocks of what is in its pool, as the rollup's one does of what is sequenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocks {
    None,
    EachSecond,
}

/// A geth whose pool has room for everything.
struct Pool {
    process: Process,
    url: String,
}

impl Pool {
    async fn start(
        directory: &Path,
        genesis: &Path,
        wallets: &Wallets,
        blocks: Blocks,
    ) -> eyre::Result<Self> {
        let program = tools::GETH.install(&say)?;
        let directory = tempfile::tempdir_in(directory)?.keep();
        let genesis = paying(&directory, genesis, wallets)?;
        let port = || eyre::Ok(ports::free()?.local_addr()?.port());
        let geth = Geth {
            data: directory.join("pool"),
            jwt: directory.join("pool.jwt"),
            chain_id: wallets.chain_id,
            gas_limit: 30_000_000,
            engine: port()?,
            ipc: directory.join("pool.ipc"),
        };
        write_secret(&geth.jwt, &hex::encode(keys::random()?))?;
        geth.init(&program, &genesis)?;
        let rpc = port()?;
        let room = [
            ("--txpool.pricelimit", "1"),
            ("--txpool.accountslots", "1000000"),
            ("--txpool.globalslots", "1000000"),
            ("--txpool.accountqueue", "1000000"),
            ("--txpool.globalqueue", "1000000"),
            ("--rpc.txfeecap", "0"),
            // A line for each transaction is not what is measured.
            ("--verbosity", "1"),
        ];
        let room = room.into_iter().flat_map(|(flag, value)| [flag, value]);
        let building: &[_] = match blocks {
            Blocks::None => &[],
            Blocks::EachSecond => &["--dev", "--dev.period", "1"],
        };
        let flags = room.chain(building.iter().copied());
        let spec = Spec {
            name: "pool".into(),
            program,
            args: geth
                .args(Some(rpc))
                .into_iter()
                .chain(flags.map(str::to_owned))
                .collect(),
            log: directory.join("pool.log"),
        };
        let mut process = Process::new(spec, &std::env::current_exe()?);
        process.start()?;
        let (url, deadline) = (url(rpc), Instant::now() + PATIENCE);
        let client = Rpc::new(&url);
        while let Err(error) = client.balance(PAYEE).await {
            if process.pid().is_none() || Instant::now() > deadline {
                bail!("geth does not come up: {error}\n{}", process.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { process, url })
    }
}

/// A genesis file that pays the senders too.
fn paying(directory: &Path, genesis: &Path, wallets: &Wallets) -> eyre::Result<PathBuf> {
    let mut genesis: Value = serde_json::from_slice(&std::fs::read(genesis)?)?;
    let balance = U256::from(ALLOWANCE) * Unit::ETHER.wei();
    for address in wallets.addresses() {
        genesis["alloc"][format!("{address:#x}")] = json!({ "balance": format!("{balance:#x}") });
    }
    let path = directory.join("pool.json");
    std::fs::write(&path, genesis.to_string())?;
    Ok(path)
}

/// An execution client's public port.
struct Rpc {
    http: reqwest::Client,
    url: String,
}

impl Rpc {
    fn new(url: &str) -> Self {
        let (http, url) = (reqwest::Client::new(), url.to_owned());
        Self { http, url }
    }

    async fn balance(&self, address: Address) -> eyre::Result<U256> {
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": [address, "latest"],
        });
        let answer = self.http.post(&self.url).json(&request).send().await?;
        let answer: Value = answer.json().await?;
        let balance = answer["result"].as_str();
        let balance = balance.ok_or_else(|| eyre!("eth_getBalance: {answer}"))?;
        Ok(balance.parse()?)
    }
}
