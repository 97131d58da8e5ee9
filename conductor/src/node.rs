//! The loop of one conductor.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use alloy_primitives::B256;
use axum::{
    Json, Router,
    extract::{self, State},
    http::StatusCode,
    routing::get,
};
use counterpoint_core::{light::TrustedState, primitive::RollupId, registry::RollupConfig};
use counterpoint_service::{
    Probes, Readiness, files, probes,
    sequencer::{Client, ClientError, Follower, VerifiedBlock},
    to_f64,
};
use eyre::{WrapErr, bail, eyre};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Config,
    assembly::{Assembler, Closed, Skip},
    chain_spec::Specification,
    engine::{Driver, DriverError, EngineClient, EngineError, ExecutionClient},
    evm::{DiskStore, RollupBlock, Store, StoreError},
    metric,
    progress::{Progress, read_block},
};

/// Readiness: the client took the last block.
const CLIENT: &str = "execution_client";
/// Readiness: verified blocks arrive.
const SEQUENCER: &str = "sequencer";
/// Skips that are remembered for those who ask.
const MAX_SKIPS: usize = 10_000;
/// How long a block, or the client's answer to one, may take until readiness shows it.
const LATE: Duration = Duration::from_secs(10);
/// How long a start waits for peers between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// What `/status` and `/skips` show.
#[derive(Debug, Default)]
struct Shown {
    status: Value,
    skipped: BTreeMap<&'static str, u64>,
    recent: VecDeque<Skip>,
}

/// Shared with the HTTP server.
type Board = Arc<Mutex<Shown>>;

pub(crate) async fn work(
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    metric::ALL.describe();
    let readiness = Readiness::of(&[CLIENT, SEQUENCER]);
    let board = Board::default();
    let routes = routes(&board, readiness.clone(), metrics);
    let probes = probes::serve(config.http_listen, routes, shutdown.clone());
    let conduct = async {
        let conducted = shutdown
            .run_until_cancelled(conduct(&config, &readiness, &board))
            .await;
        conducted.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, conduct)?;
    Ok(())
}

fn routes(board: &Board, readiness: Readiness, metrics: PrometheusHandle) -> Router {
    let shown = Arc::clone(board);
    let status = move || {
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        json!({ "progress": shown.status, "skipped": shown.skipped })
    };
    let skips = Router::new()
        .route("/skips/{hash}", get(skip))
        .with_state(Arc::clone(board));
    Probes::new(readiness, metrics, status)
        .router()
        .merge(skips)
}

/// Why a transaction is in no block, if it was skipped not long ago.
async fn skip(
    State(board): State<Board>,
    extract::Path(hash): extract::Path<B256>,
) -> (StatusCode, Json<Value>) {
    let shown = board.lock().unwrap_or_else(PoisonError::into_inner);
    match shown.recent.iter().rev().find(|skip| skip.hash == hash) {
        Some(skip) => (
            StatusCode::OK,
            Json(json!({ "hash": hash, "reason": skip.reason })),
        ),
        None => (
            StatusCode::NOT_FOUND,
            Json(json!({ "hash": hash, "reason": null })),
        ),
    }
}

async fn conduct(config: &Config, readiness: &Readiness, board: &Board) -> eyre::Result<()> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(
        &config.data_dir,
        config.cache_mb.saturating_mul(1 << 20),
    )?);
    let specification = tokio::task::block_in_place(|| {
        info!("reading rollup_genesis; the first time its accounts are imported");
        Specification::load(&config.rollup_genesis, store.as_ref())
    })?;
    let genesis = files::read_trust(&config.sequencer_genesis)?;
    let sequencer = Client::new(&config.sequencers)?;
    let client = EngineClient::new(&config.engine_url, &config.jwt_file)?;

    let rollup = registered(&sequencer, &config.rollup, &genesis).await?;
    check_registration(&rollup, &config.rollup, &specification)?;
    check_client(&client, &specification, readiness).await?;

    let progress = Progress::open(
        store.as_ref(),
        &specification,
        rollup.first_height,
        &genesis,
    )?;
    info!(head = progress.header.number, hash = %progress.hash, "starting from");
    let driver = Driver::new(client, specification.clone());
    let mut conductor = Conductor {
        specification,
        store,
        progress,
        driver,
        client_head: 0,
        data_dir: &config.data_dir,
        readiness,
        board,
    };
    conductor.recover().await?;
    conductor.follow(sequencer, &rollup).await
}

/// Asks until the sequencer answers; that the rollup is unknown is an answer.
async fn registered(
    sequencer: &Client,
    name: &str,
    genesis: &TrustedState,
) -> eyre::Result<RollupConfig> {
    loop {
        let asked = async { Ok((sequencer.info().await?, sequencer.rollup(name).await?)) };
        match asked.await {
            Ok((info, rollup)) => {
                let (theirs, ours) = (info.chain_id, genesis.chain_id());
                eyre::ensure!(
                    theirs == ours,
                    "the sequencer follows chain {theirs}, sequencer_genesis is of {ours}"
                );
                return Ok(rollup);
            }
            Err(error) if ClientError::is_not_found(&error) => {
                bail!("no rollup {name} is registered at the sequencer: register it first");
            }
            Err(error) => warn!(%error, "waiting for the sequencer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a configuration is the one that the genesis file was made for. A node's word at the
/// start, and proven with every block.
fn check_registration(
    rollup: &RollupConfig,
    name: &str,
    specification: &Specification,
) -> eyre::Result<()> {
    let spec = specification.chain_spec();
    let header = specification.genesis_header();
    eyre::ensure!(
        rollup.name == name && rollup.rollup_id == RollupId::from_name(name),
        "asked for rollup {name}, the sequencer told of {} ({})",
        rollup.name,
        rollup.rollup_id
    );
    eyre::ensure!(
        rollup.gas_limit == header.gas_limit,
        "gas_limit: registered {}, rollup_genesis says {}",
        rollup.gas_limit,
        header.gas_limit
    );
    eyre::ensure!(
        rollup.genesis_time == header.timestamp,
        "genesis_time: registered {}, rollup_genesis says {}",
        rollup.genesis_time,
        header.timestamp
    );
    eyre::ensure!(
        rollup.evm_chain_id == spec.evm_chain_id,
        "evm_chain_id: registered {}, rollup_genesis says {}",
        rollup.evm_chain_id,
        spec.evm_chain_id
    );
    eyre::ensure!(
        rollup.chain_spec_hash == spec.hash(),
        "chain_spec_hash: registered {}, rollup_genesis gives {} (genesis block {}): \
         it is not the file that was registered",
        rollup.chain_spec_hash,
        spec.hash(),
        spec.genesis_hash
    );
    Ok(())
}

/// Asks until the client answers, then demands that it is the right one.
async fn check_client(
    client: &EngineClient,
    specification: &Specification,
    readiness: &Readiness,
) -> eyre::Result<()> {
    let (chain_id, methods, genesis) = loop {
        let asked = async {
            Ok((
                client.chain_id().await?,
                client.capabilities().await?,
                client.block(Some(0)).await?,
            ))
        };
        match asked.await {
            Ok(answers) => break answers,
            Err(error @ EngineError::Unreachable { .. }) => {
                readiness.unmet(CLIENT, error.to_string());
                warn!(%error, "waiting for the execution client");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let expected = specification.chain_id();
    eyre::ensure!(
        chain_id == expected,
        "the client has chain id {chain_id}, not {expected}"
    );
    let known = methods.iter().any(|method| method == "engine_newPayloadV4");
    eyre::ensure!(
        known,
        "the client does not know engine_newPayloadV4: install a newer one"
    );
    let genesis = genesis.ok_or_else(|| eyre!("the client has no genesis block: run its init"))?;
    let expected = B256::new(*specification.chain_spec().genesis_hash.as_bytes());
    eyre::ensure!(
        genesis.hash == expected,
        "the client's genesis is {}, rollup_genesis gives {expected}: initialise it with that file",
        genesis.hash
    );
    Ok(())
}

struct Conductor<'a, C> {
    specification: Specification,
    store: Arc<dyn Store>,
    progress: Progress,
    driver: Driver<C>,
    /// The client's head when we started; nothing up to it is handed in again.
    client_head: u64,
    /// Where evidence is kept.
    data_dir: &'a Path,
    readiness: &'a Readiness,
    board: &'a Board,
}

impl<C: ExecutionClient> Conductor<'_, C> {
    /// Compares our head with the client's, and gives it what it lost.
    async fn recover(&mut self) -> eyre::Result<()> {
        let ours = self.progress.head();
        let source = source(&self.store);
        self.driver.resend(ours.number + 1, &source).await?;
        if let Some(theirs) = self.driver.block(Some(ours.number)).await? {
            eyre::ensure!(
                theirs.hash == ours.hash,
                "the client has block {} as {}, we executed {}: one of them is not of this rollup",
                ours.number,
                theirs.hash,
                ours.hash
            );
        }
        if let Some(latest) = self.driver.block(None).await? {
            self.client_head = latest.number;
        }
        self.readiness.met(CLIENT);
        Ok(())
    }

    /// Executes every list from the cursor on.
    async fn follow(&mut self, sequencer: Client, rollup: &RollupConfig) -> eyre::Result<()> {
        let cursor = self.progress.cursor();
        let mut checked = None;
        let mut follower = Follower::new(
            sequencer.clone(),
            rollup.rollup_id,
            self.progress.trusted.clone(),
            cursor.height,
        );
        let mut assembler =
            Assembler::new(Arc::clone(&self.store), self.specification.clone(), cursor);
        loop {
            let before = follower.trusted().clone();
            let next = follower.next();
            let reason = "no verified block arrives";
            let next = self.readiness.watch(SEQUENCER, LATE, reason, next).await;
            let VerifiedBlock { list, config } = next?;
            if checked.as_ref() != Some(&config) {
                check_registration(&config, &rollup.name, &self.specification)?;
                checked = Some(config.clone());
            }
            let height = list.header().height();
            gauge!(metric::SEQUENCER_HEIGHT).set(to_f64(height.get()));
            tokio::task::block_in_place(|| {
                assembler.push(&list, &config, before, follower.trusted(), &self.progress)
            })?;
            while let Some((height, trusted)) = assembler.wanted() {
                let (client, id) = (sequencer.clone(), rollup.rollup_id);
                let mut again = Follower::new(client, id, trusted.clone(), height);
                let reason = "no node serves a list that waited for room";
                let again = again.next();
                let again = self.readiness.watch(SEQUENCER, LATE, reason, again).await;
                let list = again?.list;
                tokio::task::block_in_place(|| assembler.supply(&list))?;
            }
            let closed = tokio::task::block_in_place(|| assembler.close())?;
            self.show_skips(assembler.take_skips());
            if let Some(closed) = closed {
                self.commit(closed).await?;
            }
        }
    }

    /// Hands the block to the client, and only then writes it down: after a crash in between it is
    /// built again, bit by bit the same.
    async fn commit(&mut self, closed: Closed) -> eyre::Result<()> {
        let Closed {
            built,
            extra,
            trusted,
        } = closed;
        let (number, hash) = (built.block.header.number, built.hash);
        let started = std::time::Instant::now();
        if let Some(theirs) = self.known_to_client(number).await? {
            eyre::ensure!(
                theirs == hash,
                DriverError::Divergence {
                    number,
                    theirs,
                    ours: hash
                }
            );
        } else {
            let source = source(&self.store);
            let submitted = self.driver.submit(hash, &built.block, &source);
            let reason = format!("the execution client has not taken block {number} yet");
            let submitted = self.readiness.watch(CLIENT, LATE, &reason, submitted).await;
            if let Err(DriverError::Invalid { .. }) = &submitted {
                keep_evidence(self.data_dir, hash, &built.block)?;
            }
            submitted?;
        }
        histogram!(metric::SUBMIT_SECONDS).record(started.elapsed());
        let (transactions, gas_used) = (
            built.block.body.transactions.len(),
            built.block.header.gas_used,
        );
        let timestamp = built.block.header.timestamp;
        let (specification, store) = (&self.specification, self.store.as_ref());
        self.progress = tokio::task::block_in_place(|| {
            Progress::commit(built, extra, trusted, specification, store)
        })?;
        let (cursor_height, cursor_index) = (extra.cursor.height, extra.cursor.index);
        info!(number, %hash, transactions, gas_used, %cursor_height, cursor_index, "executed");
        self.show(timestamp);
        counter!(metric::TRANSACTIONS).increment(transactions as u64);
        gauge!(metric::BLOCK_NUMBER).set(to_f64(number));
        Ok(())
    }

    /// The client's block of this number, if its head was already there when we started: then we
    /// lost blocks that it kept, and must come to the same ones.
    async fn known_to_client(&self, number: u64) -> eyre::Result<Option<B256>> {
        if number > self.client_head {
            return Ok(None);
        }
        let block = self.driver.block(Some(number)).await?;
        Ok(block.map(|block| block.hash))
    }

    fn show(&self, timestamp: u64) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let lag_secs = now.as_secs().saturating_sub(timestamp);
        gauge!(metric::LAG_SECONDS).set(to_f64(lag_secs));
        let extra = &self.progress.extra;
        let mut shown = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        shown.status = json!({
            "number": self.progress.header.number,
            "hash": self.progress.hash,
            "lag_secs": lag_secs,
            "next_opening": extra.next_opening,
            "cursor": { "height": extra.cursor.height, "index": extra.cursor.index },
        });
    }

    fn show_skips(&self, skips: Vec<Skip>) {
        if skips.is_empty() {
            return;
        }
        let mut shown = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        for skip in skips {
            info!(tx_hash = %skip.hash, reason = skip.reason.name(), "skipped");
            counter!(metric::SKIPPED, "reason" => skip.reason.name()).increment(1);
            *shown.skipped.entry(skip.reason.name()).or_default() += 1;
            if shown.recent.len() >= MAX_SKIPS {
                shown.recent.pop_front();
            }
            shown.recent.push_back(skip);
        }
    }
}

/// Keeps a block that the client calls invalid, for whoever finds out which of us is wrong.
fn keep_evidence(data_dir: &Path, hash: B256, block: &RollupBlock) -> eyre::Result<()> {
    let path = data_dir.join(format!("invalid-{}-{hash}.rlp", block.header.number));
    std::fs::write(&path, alloy_rlp::encode(block))
        .wrap_err_with(|| format!("failed to write {}", path.display()))?;
    error!(path = %path.display(), "kept the block that the execution client calls invalid");
    Ok(())
}

fn source(
    store: &Arc<dyn Store>,
) -> impl Fn(u64) -> Result<(B256, RollupBlock), StoreError> + Send + Sync + use<> {
    let store = Arc::clone(store);
    move |number| read_block(store.as_ref(), number)
}
