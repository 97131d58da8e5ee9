//! The sequencer beside an application that does nothing: the same CometBFT, the same settings, the
//! same transactions from the same senders, one after the other in one run.
//!
//! Both are kept saturated: as many bytes wait as a few blocks take, and whatever is included is
//! made up for at once. Blocks are measured by CometBFT itself.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use counterpoint_core::{
    action::{Action, RegisterRollup, SubmitData, Transfer},
    fees::FeeParams,
    key::SecretKey,
    primitive::{Amount, EvmAddress, Hash, Height, Nonce, RollupId},
    slot::SlotSecs,
    transaction::{MAX_TX_BYTES, SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::{files::read_key, sequencer::Client, to_f64};
use eyre::{WrapErr, bail, eyre};
use serde_json::{Value, json};
use tendermint::Time;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    commits::{Pending, Sender},
    load::{Latency, memory_mb, open_loop},
};
use crate::devnet::{Application, Devnet, Info, Options};

/// Blocks' worth of transactions that wait at any time.
const BLOCKS_WAITING: u64 = 4;
/// Accounts that send.
const ACCOUNTS: u8 = 16;
/// What each account gets: enough for hours of load.
const ALLOWANCE: Amount = Amount::new(10_000_000_000_000);
/// Heights that a transaction stays valid.
const VALID_HEIGHTS: u64 = 590;
/// Pause before an account looks again whether there is room for more.
const POLL: Duration = Duration::from_millis(10);
/// How often the memory of the application is looked at.
const MEMORY_SAMPLES: u32 = 12;
/// How long load runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long a transaction that prepares the load may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The rollup that all data is for.
const ROLLUP: &str = "bench";
/// Most blocks that CometBFT tells of at once.
const BLOCKS_PER_ANSWER: u64 = 20;
/// Bytes of a transaction that carries data, beside its items: body, signature, lengths.
const ENVELOPE_BYTES: usize = 512;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  cargo build --release -p counterpoint-abci --example noop\n  \
                  counterpoint bench sequencer --noop target/release/examples/noop"
)]
pub(crate) struct SequencerArgs {
    /// The no-op application to compare with.
    #[arg(long, value_name = "FILE")]
    noop: PathBuf,
    /// How many validators.
    #[arg(long, default_value_t = 1)]
    validators: usize,
    /// Most bytes of a block.
    #[arg(long, default_value_t = 1_000_000)]
    block_bytes: u64,
    /// Bytes of a transaction.
    #[arg(long, default_value_t = 65_536)]
    tx_bytes: usize,
    /// Bytes of an item; a transaction carries as many as fit.
    #[arg(long, default_value_t = 8_192)]
    item_bytes: usize,
    /// How long to measure under load, in seconds; idle blocks take a third of it.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Where the networks lie; a temporary directory unless given. A file system in memory shows
    /// what is not the disk.
    #[arg(long, value_name = "DIR")]
    parent: Option<PathBuf>,
}

impl SequencerArgs {
    fn items_per_tx(&self) -> eyre::Result<usize> {
        let count = self.tx_bytes.saturating_sub(ENVELOPE_BYTES) / (self.item_bytes + 4);
        if !(1..=SubmitData::MAX_ITEMS).contains(&count) || self.tx_bytes > MAX_TX_BYTES {
            bail!(
                "--tx-bytes {} must hold 1..={} items of --item-bytes {}, and be at most {}",
                self.tx_bytes,
                SubmitData::MAX_ITEMS,
                self.item_bytes,
                MAX_TX_BYTES
            );
        }
        Ok(count)
    }
}

pub(super) async fn run(args: &SequencerArgs) -> eyre::Result<Value> {
    args.items_per_tx()?;
    let noop = Application::Noop(args.noop.clone());
    let noop = measure(args, noop).await?;
    let ours = measure(args, Application::Sequencer).await?;
    let ratio = |of: fn(&Measured) -> f64| (of(&ours) / of(&noop) * 100.0).round() / 100.0;
    Ok(json!({
        "load": "sequencer",
        "validators": args.validators,
        "block_bytes": args.block_bytes,
        "tx_bytes": args.tx_bytes,
        "item_bytes": args.item_bytes,
        "noop": noop.report(),
        "sequencer": ours.report(),
        "items_per_second": (ours.loaded.megabytes_per_second() * 1e6 / to_f64(args.tx_bytes as u64)
            * to_f64(args.items_per_tx()? as u64)).round(),
        "ratio": {
            "idle_interval": ratio(|run| run.idle.interval_ms()),
            "megabytes_per_second": ratio(|run| run.loaded.megabytes_per_second()),
            "blocks_per_second": ratio(|run| 1_000.0 / run.loaded.interval_ms()),
        },
    }))
}

/// What one application did.
struct Measured {
    idle: Blocks,
    loaded: Blocks,
    /// Of ours: from when a transaction was due until its block was committed, at half the load.
    half: Option<Latency>,
}

impl Measured {
    fn report(&self) -> Value {
        json!({
            "idle": self.idle.report(),
            "loaded": self.loaded.report(),
            "half_load": self.half.as_ref().map(Latency::report),
        })
    }
}

/// Blocks between two moments, by their headers.
struct Blocks {
    count: u64,
    bytes: u64,
    span: Duration,
    /// What the first validator's application holds in memory, in MB, as time goes by.
    memory: Vec<u64>,
}

impl Blocks {
    fn interval_ms(&self) -> f64 {
        self.span.as_secs_f64() * 1_000.0 / to_f64(self.count)
    }

    fn megabytes_per_second(&self) -> f64 {
        to_f64(self.bytes) / 1e6 / self.span.as_secs_f64()
    }

    fn report(&self) -> Value {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "blocks_per_second": round(1_000.0 / self.interval_ms()),
            "interval_ms": round(self.interval_ms()),
            "megabytes_per_second": round(self.megabytes_per_second()),
            "memory_mb": self.memory,
        })
    }
}

/// The same load beside each application: those who send do not know which one it is.
async fn measure(args: &SequencerArgs, application: Application) -> eyre::Result<Measured> {
    let is_ours = application == Application::Sequencer;
    let mut network = Network::start(args, application).await?;
    let idle = network.blocks(args.seconds / 3).await?;
    if is_ours {
        prepare(&network.info).await?;
    }
    let waiting = (BLOCKS_WAITING * args.block_bytes).div_ceil(args.tx_bytes as u64);
    let flow = Arc::new(Flow::new(
        usize::try_from(waiting)?,
        network.api.height().await?,
        u64::from(is_ours),
    ));
    let mut load = JoinSet::new();
    load.spawn(Arc::clone(&flow).watch(network.api.clone()));
    for (at, key) in accounts().enumerate() {
        let validator = &network.info.validators[at % network.info.validators.len()];
        let account = Account {
            client: Client::new(std::slice::from_ref(&validator.grpc))?,
            chain_id: network.info.chain_id.clone(),
            data: data(args)?,
            key,
        };
        load.spawn(account.send_for_ever(Arc::clone(&flow)));
    }
    let measured = async {
        tokio::time::sleep(WARM_UP).await;
        network.blocks(args.seconds).await
    };
    let loaded = tokio::select! {
        loaded = measured => loaded?,
        Some(ended) = load.join_next() => return Err(ended?),
    };
    load.shutdown().await;
    let half = if is_ours {
        Some(network.half_load(args, &loaded).await?)
    } else {
        None
    };
    network.stop().await?;
    Ok(Measured { idle, loaded, half })
}

/// Keeps as many transactions waiting as there are permits: one that is included makes room for the
/// next.
struct Flow {
    room: Semaphore,
    height: AtomicU64,
    /// Items of each block that nobody sent.
    own_items: u64,
}

impl Flow {
    fn new(waiting: usize, height: u64, own_items: u64) -> Self {
        Self {
            room: Semaphore::new(waiting),
            height: AtomicU64::new(height),
            own_items,
        }
    }

    /// Follows the blocks until it is dropped; gives the reason if it cannot go on.
    async fn watch(self: Arc<Self>, api: Api) -> eyre::Report {
        match self.follow(&api).await {
            Ok(never) => match never {},
            Err(error) => error.wrap_err("blocks cannot be watched"),
        }
    }

    async fn follow(&self, api: &Api) -> eyre::Result<Infallible> {
        let mut seen = self.height.load(Ordering::Relaxed);
        loop {
            let height = api.height().await?;
            if height == seen {
                tokio::time::sleep(POLL).await;
                continue;
            }
            let mut included = 0;
            for meta in api.blocks(seen + 1, height).await? {
                included += number(&meta["num_txs"])?.saturating_sub(self.own_items);
            }
            self.room.add_permits(usize::try_from(included)?);
            self.height.store(height, Ordering::Relaxed);
            seen = height;
        }
    }
}

/// CometBFT's own interface.
#[derive(Clone)]
struct Api {
    url: String,
    http: reqwest::Client,
}

impl Api {
    async fn ask(&self, question: &str) -> eyre::Result<Value> {
        let url = format!("{}/{question}", self.url);
        let answer: Value = self.http.get(&url).send().await?.json().await?;
        let missing = || eyre!("{url} answers {answer}");
        answer.get("result").cloned().ok_or_else(missing)
    }

    async fn height(&self) -> eyre::Result<u64> {
        let status = self.ask("status").await?;
        number(&status["sync_info"]["latest_block_height"])
    }

    /// What CometBFT tells of some blocks, each but once.
    async fn blocks(&self, from: u64, to: u64) -> eyre::Result<Vec<Value>> {
        let (mut metas, mut next) = (Vec::new(), from);
        while next <= to {
            let end = to.min(next + BLOCKS_PER_ANSWER - 1);
            let question = format!("blockchain?minHeight={next}&maxHeight={end}");
            let mut answer = self.ask(&question).await?;
            match answer["block_metas"].take() {
                Value::Array(some) => metas.extend(some),
                _ => bail!("CometBFT does not tell of blocks {next} to {end}"),
            }
            next = end + 1;
        }
        Ok(metas)
    }
}

/// A network that is measured, in a directory of its own.
struct Network {
    devnet: Devnet,
    info: Info,
    api: Api,
    directory: tempfile::TempDir,
}

impl Network {
    async fn start(args: &SequencerArgs, application: Application) -> eyre::Result<Self> {
        let parent = args.parent.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::tempdir_in(&parent)
            .wrap_err_with(|| format!("no directory can be made in {}", parent.display()))?;
        let options = Options {
            validators: args.validators,
            block_interval_ms: 0,
            max_block_bytes: args.block_bytes,
            // Full blocks one after another must not drive the price up.
            fees: Some(FeeParams {
                target_block_bytes: args.block_bytes,
                ..FeeParams::default()
            }),
            application,
            ..Options::new(directory.path().to_owned(), std::env::current_exe()?)
        };
        let devnet = Devnet::start(&options, &|step| eprintln!("bench: {step}")).await?;
        let info = devnet.info();
        let api = Api {
            url: info.validators[0].cometbft_rpc.clone(),
            http: reqwest::Client::new(),
        };
        Ok(Self {
            devnet,
            info,
            api,
            directory,
        })
    }

    async fn stop(mut self) -> eyre::Result<()> {
        self.devnet.stop().await?;
        Ok(self.directory.close()?)
    }

    /// The blocks of the next `seconds`.
    async fn blocks(&mut self, seconds: u64) -> eyre::Result<Blocks> {
        let from = self.api.height().await?;
        let mut memory = Vec::new();
        for _ in 0..MEMORY_SAMPLES {
            tokio::time::sleep(Duration::from_secs(seconds) / MEMORY_SAMPLES).await;
            memory.push(self.memory()?);
        }
        let to = self.api.height().await?;
        eyre::ensure!(to > from, "no block in {seconds} s");
        let (mut bytes, mut first, mut last) = (0, None, None);
        for meta in self.api.blocks(from, to).await? {
            let height = number(&meta["header"]["height"])?;
            let time = Time::parse_from_rfc3339(meta["header"]["time"].as_str().unwrap_or(""))?;
            if height == from {
                first = Some(time);
                continue;
            }
            if height == to {
                last = Some(time);
            }
            bytes += number(&meta["block_size"])?;
        }
        let (Some(first), Some(last)) = (first, last) else {
            bail!("CometBFT does not tell of blocks {from} to {to}");
        };
        Ok(Blocks {
            count: to - from,
            bytes,
            span: last.duration_since(first)?,
            memory,
        })
    }

    /// What the first validator's application holds in memory, in MB.
    fn memory(&mut self) -> eyre::Result<u64> {
        let name = format!("{}-app", self.info.validators[0].name);
        let status = self.devnet.status();
        let part = status.into_iter().find(|part| part.name == name);
        let pid = part.and_then(|part| part.pid);
        let pid = pid.ok_or_else(|| eyre!("{name} does not run"))?;
        memory_mb(pid)
    }

    /// Half of what was carried under full load, sent at its times whatever comes back.
    async fn half_load(&self, args: &SequencerArgs, loaded: &Blocks) -> eyre::Result<Latency> {
        let client = Client::new(std::slice::from_ref(&self.info.validators[0].grpc))?;
        let mut senders = Vec::new();
        for key in accounts() {
            senders.push(Sender::settled(&client, key).await?);
        }
        let per_second = loaded.megabytes_per_second() * 1e6 / to_f64(args.tx_bytes as u64) / 2.0;
        let every = Duration::from_secs_f64(1.0 / per_second.max(1.0));
        let count = args.seconds * 1_000_000 / u64::try_from(every.as_micros())?.max(1);
        let (latency, pending) = (Latency::new()?, Pending::default());
        let addresses = accounts().map(|key| key.public_key().address()).collect();
        let (data, chain_id) = (data(args)?, self.info.chain_id.clone());
        let start = client.info().await?.height;
        let send = |at: u64, due: Instant| {
            let turn = usize::try_from(at).unwrap_or_default() % senders.len();
            let sender = &mut senders[turn];
            let actions = vec![Action::SubmitData(data.clone())];
            let height = pending.height().max(start);
            let tx = sign(&sender.key, &chain_id, sender.next, height, actions);
            pending.push(turn, sender.next, due);
            sender.next += 1;
            let client = client.clone();
            async move {
                let answer = client.submit(tx?.as_bytes().clone()).await?;
                let (code, log) = (answer.code, answer.log);
                eyre::ensure!(code == 0, "refused with code {code}: {log}");
                Ok(())
            }
        };
        let watch = pending
            .clone()
            .watch(client.clone(), addresses, latency.clone());
        let sent = async {
            let errors = open_loop(count, every, send).await;
            match errors.into_iter().next() {
                Some(error) => Err(error),
                None => pending.drained().await,
            }
        };
        tokio::select! {
            sent = sent => sent?,
            broken = watch => return Err(broken),
        }
        Ok(latency)
    }
}

/// CometBFT writes integers as strings.
fn number(value: &Value) -> eyre::Result<u64> {
    let text = value
        .as_str()
        .ok_or_else(|| eyre!("{value} is not a number in a string"))?;
    Ok(text.parse()?)
}

/// Registers the rollup and gives every sender something to spend.
async fn prepare(info: &Info) -> eyre::Result<()> {
    let client = Client::new(std::slice::from_ref(&info.validators[0].grpc))?;
    let faucet = read_key(&info.faucet_key)?;
    let transfers = accounts().map(|key| {
        Action::Transfer(Transfer {
            to: key.public_key().address(),
            amount: ALLOWANCE,
        })
    });
    let height = client.info().await?.height;
    let register = RegisterRollup {
        name: ROLLUP.into(),
        evm_chain_id: 1,
        chain_spec_hash: Hash::ZERO,
        genesis_time: 0,
        first_height: Height::new(height + 50),
        slot_secs: SlotSecs::new(1)?,
        gas_limit: 30_000_000,
        max_tx_gas: 7_500_000,
        min_tip_wei: 1,
        allow_unprotected: false,
        fee_recipient: EvmAddress::new([0; 20]),
        tip_share_bps: 0,
        max_bytes_per_block: u32::MAX,
        max_items_per_block: u32::MAX,
        attesters: None,
    };
    let actions = transfers
        .chain([Action::RegisterRollup(register)])
        .collect();
    let tx = sign(&faucet, &info.chain_id, 0, height, actions)?;
    let answer = client.submit(tx.as_bytes().clone()).await?;
    eyre::ensure!(
        answer.code == 0,
        "refused with code {}: {}",
        answer.code,
        answer.log
    );
    let included = async {
        loop {
            let status = client.transaction(&tx.hash()).await?;
            let started = client.info().await?.height >= height + 50;
            match status {
                Status::Included(included) if started => return eyre::Ok(included),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    let included = tokio::time::timeout(PATIENCE, included)
        .await
        .wrap_err("the load cannot be prepared")??;
    eyre::ensure!(
        included.code == 0,
        "failed with code {}: {}",
        included.code,
        included.log
    );
    Ok(())
}

/// Those who send.
fn accounts() -> impl Iterator<Item = SecretKey> {
    (1..=ACCOUNTS).map(|seed| SecretKey::from_seed([seed; 32]))
}

/// Opaque items, as many as fit into a transaction. The same ones in each, so that making load
/// costs little beside carrying it.
fn data(args: &SequencerArgs) -> eyre::Result<SubmitData> {
    let item = Bytes::from(vec![0xab; args.item_bytes]);
    let items = vec![item; args.items_per_tx()?];
    Ok(SubmitData::new(RollupId::from_name(ROLLUP), items)?)
}

fn sign(
    key: &SecretKey,
    chain_id: &str,
    nonce: u64,
    height: u64,
    actions: Vec<Action>,
) -> eyre::Result<SignedTransaction> {
    let body = TransactionBody {
        chain_id: chain_id.to_owned(),
        signer: key.public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: 0,
        max_fee: ALLOWANCE,
        valid_until: Height::new(height + VALID_HEIGHTS),
        actions,
    };
    Ok(SignedTransaction::sign(body, key)?)
}

/// One account that sends whenever there is room.
struct Account {
    client: Client,
    chain_id: String,
    data: SubmitData,
    key: SecretKey,
}

impl Account {
    /// Sends until it is dropped; gives the reason if it cannot go on.
    async fn send_for_ever(self, flow: Arc<Flow>) -> eyre::Report {
        match self.send(&flow).await {
            Ok(never) => match never {},
            Err(error) => error.wrap_err("a sender failed"),
        }
    }

    async fn send(self, flow: &Flow) -> eyre::Result<Infallible> {
        let this = Arc::new(self);
        let mut next = 0;
        loop {
            flow.room.acquire().await?.forget();
            let sender = Arc::clone(&this);
            let (nonce, height) = (next, flow.height.load(Ordering::Relaxed));
            let tx = tokio::task::spawn_blocking(move || {
                let actions = vec![Action::SubmitData(sender.data.clone())];
                sign(&sender.key, &sender.chain_id, nonce, height, actions)
            })
            .await??;
            let answer = this.client.submit(tx.as_bytes().clone()).await?;
            eyre::ensure!(
                answer.code == 0,
                "refused with code {}: {}",
                answer.code,
                answer.log
            );
            next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_hold_what_is_asked_for() {
        let args = |tx_bytes, item_bytes| SequencerArgs {
            noop: PathBuf::from("noop"),
            validators: 1,
            block_bytes: 1_000_000,
            tx_bytes,
            item_bytes,
            seconds: 1,
            parent: None,
        };
        for (tx_bytes, item_bytes) in [(65_536, 8_192), (65_536, 110), (1_024, 110)] {
            let args = args(tx_bytes, item_bytes);
            let actions = vec![Action::SubmitData(data(&args).unwrap())];
            let key = SecretKey::from_seed([1; 32]);
            let tx = sign(&key, "a-chain-id", 0, 1, actions).unwrap();
            let free = tx_bytes - tx.as_bytes().len();
            assert!(
                free < ENVELOPE_BYTES + item_bytes + 4,
                "{free} bytes are left"
            );
        }
        assert!(args(1_024, 2_048).items_per_tx().is_err());
        assert!(args(2_000_000, 8_192).items_per_tx().is_err());
    }
}
