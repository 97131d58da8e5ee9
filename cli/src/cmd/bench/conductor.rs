//! The conductor's work on a block beside its client's: the same blocks, one after the other, on top
//! of as many accounts as wanted. What takes turns in one run shares the machine's mood.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_consensus::{Header, SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, TxKind, U256, keccak256, utils::Unit};
use alloy_rpc_types_engine::ForkchoiceState;
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use clap::Args;
use counterpoint_conductor::{
    chain_spec::{Specification, dev_genesis},
    derive::{Rules, screen},
    engine::{EngineClient, ExecutionClient},
    evm::{BlockBuilder, BlockInputs, BuiltBlock, DiskStore, Outcome, RollupBlock, Store, Table},
};
use counterpoint_core::chain_spec::Fork;
use counterpoint_service::to_f64;
use eyre::{bail, ensure, eyre};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::load::Latency;
use crate::{
    devnet::{
        plan::{RollupPlan, url},
        ports,
        process::{Process, Spec},
        setup::{self, GENESIS_MARGIN_SECS, Layout},
        tools,
    },
    keys,
};

const ROLLUP: &str = "bench";
const CHAIN_ID: u64 = 412_777;
/// Accounts that send in turn.
const SENDERS: usize = 1_000;
/// Gas limit of a transfer.
const TRANSFER_GAS: u64 = 21_000;
/// Gas limit of a call.
const CALL_GAS: u64 = 60_000;
/// Adds one to the slot that the call names, and logs.
const CONTRACT_CODE: &str = "0x5f35805460010190555f5fa000";
/// Blocks before those that are measured.
const WARM_UP: u64 = 3;
/// How long geth may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench conductor --accounts 100000 --blocks 10")]
pub(crate) struct ConductorArgs {
    /// Accounts of the genesis file.
    #[arg(long, default_value_t = 1_000_000)]
    accounts: u64,
    /// Transfers in a block; each number is measured by itself.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 1_000, 5_000])]
    transfers: Vec<u64>,
    /// Calls in a block that each write to a slot of their own, the same way.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000])]
    calls: Vec<u64>,
    /// Blocks of each kind.
    #[arg(long, default_value_t = 30)]
    blocks: u64,
    /// Leaves geth out, which needs minutes to take in millions of accounts.
    #[arg(long)]
    without_geth: bool,
    /// What conductor and geth each may cache, in MiB.
    #[arg(long, default_value_t = 256)]
    cache_mb: u64,
    /// Where everything lies; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    parent: Option<PathBuf>,
}

pub(super) async fn run(args: &ConductorArgs) -> eyre::Result<Value> {
    let parent = args.parent.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::tempdir_in(parent)?;
    let layout = Layout {
        dir: dir.path().into(),
    };
    std::fs::create_dir_all(layout.dir.join(ROLLUP))?;
    let senders: Vec<_> = (0..SENDERS).map(sender).collect::<eyre::Result<_>>()?;
    let genesis = layout.rollup_genesis(ROLLUP);
    write_genesis(args, &genesis, &senders)?;

    let started = Instant::now();
    let store = DiskStore::open(&layout.dir.join("conductor"), args.cache_mb << 20)?;
    let store: Arc<dyn Store> = Arc::new(store);
    let specification = Specification::load(&genesis, store.as_ref())?;
    let (import_secs, import_memory) = (started.elapsed().as_secs_f64(), memory()?);

    let geth = match args.without_geth {
        true => None,
        false => Some(Arc::new(Geth::start(args, &layout, &genesis).await?)),
    };
    let header = specification.genesis_header().clone();
    let mut chain = Chain {
        store,
        parent: (header.clone(), header.hash_slow()),
        specification,
        senders: senders.into_iter().map(|key| (key, 0)).collect(),
        accounts: args.accounts,
        sent: 0,
    };
    let transfers = args.transfers.iter().copied().map(Kind::Transfers);
    let calls = args.calls.iter().copied().map(Kind::Calls);
    let mut kinds = Vec::new();
    for kind in transfers.chain(calls) {
        kinds.push(chain.measure(kind, args.blocks, geth.as_ref()).await?);
    }
    if let Some(mut geth) = geth.and_then(Arc::into_inner) {
        geth.process.stop(PATIENCE).await?;
    }
    Ok(json!({
        "load": "conductor",
        "accounts": args.accounts,
        "cache_mb": args.cache_mb,
        "import_secs": import_secs.round(),
        "import_memory_mb": import_memory,
        "memory_mb": memory()?,
        "blocks": kinds,
    }))
}

fn sender(at: usize) -> eyre::Result<PrivateKeySigner> {
    let secret = keccak256(format!("counterpoint/bench/sender/{at}"));
    Ok(PrivateKeySigner::from_bytes(&secret)?)
}

/// An account that nobody has the key of.
fn account(at: u64) -> Address {
    Address::from_word(keccak256(at.to_be_bytes()))
}

/// What a block is full of.
#[derive(Clone, Copy)]
enum Kind {
    Transfers(u64),
    Calls(u64),
}

impl Kind {
    fn count(self) -> u64 {
        let (Self::Transfers(count) | Self::Calls(count)) = self;
        count
    }

    fn gas(self) -> u64 {
        match self {
            Self::Transfers(count) => count * TRANSFER_GAS,
            Self::Calls(count) => count * CALL_GAS,
        }
    }
}

fn contract() -> Address {
    Address::repeat_byte(0xc0)
}

/// Writes a genesis file without having it in memory.
fn write_genesis(
    args: &ConductorArgs,
    path: &Path,
    senders: &[PrivateKeySigner],
) -> eyre::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let balance = U256::from(1_000_000) * Unit::ETHER.wei();
    let funded = senders.iter().map(|sender| (sender.address(), balance));
    let transfers = args.transfers.iter().copied().map(Kind::Transfers);
    let kinds = transfers.chain(args.calls.iter().copied().map(Kind::Calls));
    let most = kinds.map(Kind::gas).max().unwrap_or_default();
    // Twice what is used, so that the base fee stays about where it is.
    let gas_limit = (2 * most).max(30_000_000);
    let genesis = dev_genesis(CHAIN_ID, gas_limit, now - GENESIS_MARGIN_SECS, funded)?;
    let text = serde_json::to_string(&genesis)?;
    let start = "\"alloc\":{";
    let (head, tail) = text
        .split_once(start)
        .ok_or_else(|| eyre!("a genesis without alloc"))?;
    let mut file = BufWriter::new(File::create(path)?);
    write!(file, "{head}{start}")?;
    let contract = contract();
    write!(
        file,
        "\"{contract}\":{{\"balance\":\"0x0\",\"code\":\"{CONTRACT_CODE}\"}},"
    )?;
    for at in 0..args.accounts {
        write!(file, "\"{}\":{{\"balance\":\"0x1\"}},", account(at))?;
    }
    write!(file, "{tail}")?;
    Ok(file.flush()?)
}

/// A client with the same genesis.
struct Geth {
    process: Process,
    client: EngineClient,
}

impl Geth {
    async fn start(args: &ConductorArgs, layout: &Layout, genesis: &Path) -> eyre::Result<Self> {
        let program = tools::GETH.install(&|step| eprintln!("{step}"))?;
        setup::write_secret(&layout.jwt(ROLLUP), &hex::encode(keys::random()?))?;
        let port = || ports::free()?.local_addr();
        let rollup = RollupPlan {
            name: ROLLUP.into(),
            evm_chain_id: CHAIN_ID,
            slot_secs: 1,
            el_rpc: port()?.port(),
            engine: port()?.port(),
            conductor_http: 0,
            conductor_grpc: 0,
            conductor_rpc: 0,
        };
        let geth = layout.geth(&rollup);
        geth.init(&program, genesis)?;
        let cache = ["--cache".to_owned(), args.cache_mb.to_string()];
        let spec = Spec {
            name: "geth".into(),
            program,
            args: geth
                .args(Some(rollup.el_rpc))
                .into_iter()
                .chain(cache)
                .collect(),
            log: layout.dir.join("geth.log"),
        };
        let mut process = Process::new(spec, &std::env::current_exe()?);
        process.start()?;
        let client = EngineClient::new(&url(rollup.engine), &layout.jwt(ROLLUP))?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.chain_id().await {
            if process.pid().is_none() || Instant::now() > deadline {
                bail!("geth does not come up: {error}\n{}", process.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { process, client })
    }

    /// Hands a block in and makes it the head.
    async fn take(&self, made: &Made, steps: &Steps) -> eyre::Result<()> {
        let Made { block, hash, fork } = made;
        let (number, start) = (block.header.number, Instant::now());
        let status = self.client.new_payload(block, *hash, *fork).await?;
        let tail = || self.process.log_tail();
        ensure!(status.is_valid(), "block {number}: {status:?}\n{}", tail());
        steps.new_payload.record(start);
        let head = Instant::now();
        let state = ForkchoiceState {
            head_block_hash: *hash,
            safe_block_hash: *hash,
            finalized_block_hash: *hash,
        };
        let updated = self.client.forkchoice(state).await?;
        ensure!(
            updated.is_valid(),
            "block {number}: {updated:?}\n{}",
            tail()
        );
        steps.forkchoice.record(head);
        Ok(())
    }
}

/// A rollup that grows.
struct Chain {
    store: Arc<dyn Store>,
    specification: Specification,
    parent: (Header, B256),
    senders: Vec<(PrivateKeySigner, u64)>,
    accounts: u64,
    sent: u64,
}

/// What is measured of every block.
#[derive(Clone)]
struct Steps {
    /// Rules and senders as one core would do them, which nothing else contains.
    recover_one_core: Latency,
    /// Rules, senders and execution.
    execute: Latency,
    /// State root and header.
    root: Latency,
    /// Both.
    build: Latency,
    commit: Latency,
    new_payload: Latency,
    forkchoice: Latency,
}

/// A block that was made and committed.
struct Made {
    block: RollupBlock,
    hash: B256,
    fork: Fork,
}

impl Chain {
    async fn measure(
        &mut self,
        kind: Kind,
        blocks: u64,
        geth: Option<&Arc<Geth>>,
    ) -> eyre::Result<Value> {
        let warm = Steps::new()?;
        self.take_turns(kind, WARM_UP, geth, &warm).await?;
        let steps = Steps::new()?;
        self.take_turns(kind, blocks, geth, &steps).await?;
        let geth = match geth {
            Some(geth) => {
                let per_second =
                    |span: Duration| (to_f64(kind.count() * blocks) / span.as_secs_f64()).round();
                let ready = per_second(self.feed_ready(kind, blocks, geth).await?);
                let pipelined = per_second(self.feed_as_made(kind, blocks, geth).await?);
                let ratio = steps.build.quantile_ms(0.5) / steps.new_payload.quantile_ms(0.5);
                let round = |ratio: f64| (ratio * 100.0).round() / 100.0;
                Some(json!({
                    "new_payload": steps.new_payload.report(),
                    "forkchoice": steps.forkchoice.report(),
                    "ready_per_second": ready,
                    "pipelined_per_second": pipelined,
                    "pipelined_to_ready": round(pipelined / ready),
                    "ratio": round(ratio),
                }))
            }
            None => None,
        };
        let (name, count) = match kind {
            Kind::Transfers(count) => ("transfers", count),
            Kind::Calls(count) => ("calls", count),
        };
        Ok(json!({
            name: count,
            "recover_one_core": steps.recover_one_core.report(),
            "recover_execute": steps.execute.report(),
            "root": steps.root.report(),
            "recover_execute_root": steps.build.report(),
            "commit": steps.commit.report(),
            "geth": geth,
        }))
    }

    /// One block after the other, made by us and then taken by geth.
    async fn take_turns(
        &mut self,
        kind: Kind,
        blocks: u64,
        geth: Option<&Arc<Geth>>,
        steps: &Steps,
    ) -> eyre::Result<()> {
        for _ in 0..blocks {
            let items = self.items(kind)?;
            let base_fee = self.parent.0.base_fee_per_gas.unwrap_or_default();
            let start = Instant::now();
            for item in &items {
                screen(item, &rules(), base_fee).map_err(|reason| eyre!("{}", reason.name()))?;
            }
            steps.recover_one_core.record(start);
            let made = tokio::task::block_in_place(|| self.make(&items, steps))?;
            if let Some(geth) = geth {
                geth.take(&made, steps).await?;
            }
        }
        Ok(())
    }

    /// How long geth takes for blocks that were all made before.
    async fn feed_ready(&mut self, kind: Kind, blocks: u64, geth: &Geth) -> eyre::Result<Duration> {
        let (steps, mut ready) = (Steps::new()?, Vec::new());
        for _ in 0..blocks {
            let items = self.items(kind)?;
            ready.push(tokio::task::block_in_place(|| self.make(&items, &steps))?);
        }
        let start = Instant::now();
        for made in &ready {
            geth.take(made, &steps).await?;
        }
        Ok(start.elapsed())
    }

    /// How long geth takes when each block is made while it works on the one before.
    async fn feed_as_made(
        &mut self,
        kind: Kind,
        blocks: u64,
        geth: &Arc<Geth>,
    ) -> eyre::Result<Duration> {
        let steps = Steps::new()?;
        let lists = (0..blocks).map(|_| self.items(kind));
        let lists: Vec<_> = lists.collect::<eyre::Result<_>>()?;
        let start = Instant::now();
        let mut taking = JoinSet::new();
        for items in &lists {
            let made = tokio::task::block_in_place(|| self.make(items, &steps))?;
            if let Some(taken) = taking.join_next().await {
                taken??;
            }
            let (geth, steps) = (Arc::clone(geth), steps.clone());
            taking.spawn(async move { geth.take(&made, &steps).await });
        }
        while let Some(taken) = taking.join_next().await {
            taken??;
        }
        Ok(start.elapsed())
    }

    /// Makes the next block and commits it.
    fn make(&mut self, items: &[Bytes], steps: &Steps) -> eyre::Result<Made> {
        let BuiltBlock {
            hash,
            block,
            update,
        } = self.build(items, steps)?;
        let (committed, mut batch) = (Instant::now(), update.batch);
        let mut stored = hash.to_vec();
        alloy_rlp::Encodable::encode(&block, &mut stored);
        let number = block.header.number;
        batch.insert((Table::Blocks, number.to_be_bytes().to_vec()), Some(stored));
        self.store.commit(batch)?;
        steps.commit.record(committed);
        let fork = self.specification.fork_at(block.header.timestamp).fork;
        self.parent = (block.header.clone(), hash);
        Ok(Made { block, hash, fork })
    }

    fn build(&self, items: &[Bytes], steps: &Steps) -> eyre::Result<BuiltBlock> {
        let (header, hash) = &self.parent;
        let inputs = BlockInputs {
            number: header.number + 1,
            timestamp: header.timestamp + 1,
            prev_randao: *hash,
            beacon_root: *hash,
            fee_recipient: Address::repeat_byte(0xfe),
            gas_limit: header.gas_limit,
            withdrawals: Vec::new(),
        };
        let start = Instant::now();
        let (store, parent) = (Arc::clone(&self.store), (header, *hash));
        let mut builder = BlockBuilder::begin(
            Arc::new(store),
            &self.specification,
            rules(),
            parent,
            inputs,
        )?;
        for (at, item) in items.iter().enumerate() {
            let outcome = builder.execute(item, items[at + 1..].iter())?;
            ensure!(
                matches!(outcome, Outcome::Included(_)),
                "transaction {at} is not included: {outcome:?}"
            );
        }
        steps.execute.record(start);
        let executed = Instant::now();
        let built = builder.finish(alloy_primitives::Bytes::new())?;
        steps.root.record(executed);
        steps.build.record(start);
        Ok(built)
    }

    /// Signed transactions to accounts, or slots, all over the state.
    fn items(&mut self, kind: Kind) -> eyre::Result<Vec<Bytes>> {
        let item = |_| {
            let turn = usize::try_from(self.sent)? % self.senders.len();
            let place = self.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (gas_limit, to, value, input) = match kind {
                Kind::Transfers(_) => {
                    let to = account(place % self.accounts.max(1));
                    (TRANSFER_GAS, to, U256::from(1), Vec::new())
                }
                Kind::Calls(_) => {
                    let slot = U256::from(place).to_be_bytes_vec();
                    (CALL_GAS, contract(), U256::ZERO, slot)
                }
            };
            self.sent += 1;
            let (key, nonce) = &mut self.senders[turn];
            let mut tx = TxEip1559 {
                chain_id: CHAIN_ID,
                nonce: *nonce,
                gas_limit,
                max_fee_per_gas: 1_000_000_000_000,
                max_priority_fee_per_gas: 1_000_000_000,
                to: TxKind::Call(to),
                value,
                input: input.into(),
                ..TxEip1559::default()
            };
            *nonce += 1;
            let signature = key.sign_transaction_sync(&mut tx)?;
            let tx = TxEnvelope::from(tx.into_signed(signature));
            Ok(Bytes::from(tx.encoded_2718()))
        };
        (0..kind.count()).map(item).collect()
    }
}

impl Steps {
    fn new() -> eyre::Result<Self> {
        Ok(Self {
            recover_one_core: Latency::new()?,
            execute: Latency::new()?,
            root: Latency::new()?,
            build: Latency::new()?,
            commit: Latency::new()?,
            new_payload: Latency::new()?,
            forkchoice: Latency::new()?,
        })
    }
}

fn rules() -> Rules {
    Rules {
        chain_id: CHAIN_ID,
        max_tx_gas: 1_000_000,
        min_tip_wei: 1,
        allow_unprotected: false,
    }
}

/// What this process has in memory, in MB.
fn memory() -> eyre::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or_else(|| eyre!("no VmRSS"))?.parse()?;
    Ok(kib / 1_024)
}
