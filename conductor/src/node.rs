//! The loop of one conductor.

use std::{mem, sync::Arc, time::Instant};

use counterpoint_service::{disk, probes, sequencer::METRICS};
use eyre::{OptionExt, WrapErr};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use crate::{
    Config,
    attester::{Attester, Hints, Tip, Tips, Voter},
    board::Board,
    commit::{Committer, Executed, WAITING},
    derivation::{Derivation, Derived, Source},
    engine::{Driver, EngineClient, ExecutionClient},
    evm::{DiskStore, StateSource, Store},
    exit,
    legs::Auditor,
    metric,
    mode::{Mode, give_up_state},
    pending::Pending,
    progress::Progress,
    rebuild::refill,
    receipts::{self, Receipts},
    start::meet,
    thin::{Ipc, Thin},
};

pub(crate) async fn work(
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    metric::ALL.describe();
    METRICS.describe();
    let board = Board::new();
    let routes = board.routes(metrics);
    let probes = probes::serve(config.http_listen, routes, shutdown.clone());
    let watched = disk::watch(&board.readiness, || disk::look(&config.data_dir));
    let conduct = async {
        let conducted = shutdown.run_until_cancelled(conduct(&config, &board, &shutdown));
        let conducted = tokio::select! {
            conducted = conducted => conducted,
            () = watched => None,
        };
        // A rollup that has left needs no conductor.
        shutdown.cancel();
        conducted.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, conduct)?;
    Ok(())
}

/// Conducts until the rollup has left.
async fn conduct(config: &Config, board: &Board, shutdown: &CancellationToken) -> eyre::Result<()> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&config.data_dir, config.cache_bytes())?);
    if exit::is_written(&config.data_dir) {
        return Ok(());
    }
    let peers = meet(config, board, store.as_ref()).await?;
    if config.mode == Mode::Embedded {
        refill(config, &store, &peers).await?;
    }
    let progress = peers.progress(store.as_ref())?;
    let (source, client) = peers.split(board.readiness.clone());
    info!(head = progress.header.number, hash = %progress.hash, "starting from");
    let pending = Arc::new(Pending::new(Arc::clone(&store)));
    let driver = Arc::new(Driver::new(client, source.specification.clone()));
    let states: Arc<dyn StateSource> = match config.mode {
        Mode::Embedded => Arc::new(Arc::clone(&pending) as Arc<dyn Store>),
        Mode::Thin => {
            let thin = thin(config, board, shutdown, Arc::clone(&driver), &pending)?;
            thin.probe(&source.specification).await?;
            tokio::task::block_in_place(|| give_up_state(store.as_ref()))?;
            Arc::new(thin)
        }
    };
    let voter = config.voter(&source, progress.trusted.chain_id())?;
    let (auditor, audit) = Auditor::new(
        source.sequencer.clone(),
        source.rollup.rollup_id,
        progress.trusted.clone(),
        Arc::clone(&store),
        config.data_dir.clone(),
    );
    let mut committer = Committer {
        store,
        pending: Arc::clone(&pending),
        driver,
        client_head: 0,
        data_dir: config.data_dir.clone(),
        board: board.clone(),
        voter: voter.clone(),
        audit,
    };
    committer.recover(progress.head()).await?;
    let receipts = Arc::new(Receipts::after(progress.header.number, &progress.extra));
    board.attach(Arc::clone(&receipts));
    let serving = serve(config, Arc::clone(&receipts), shutdown.clone());
    let (tips, followed) = watch::channel(None);
    let attesting = attest(voter, &source, &states, &progress, followed);
    let pipeline = Pipeline {
        source,
        mode: config.mode,
        states,
        pending,
        receipts,
        tip: progress,
        tips,
    };
    let conducting = async {
        let left = pipeline.run(committer).await?;
        exit::export(&config.data_dir, left).await?;
        shutdown.cancel();
        Ok(())
    };
    tokio::try_join!(serving, conducting, attesting, auditor.run())?;
    Ok(())
}

/// Attests the legs of the rollup, if that is asked for, as long as there are tips.
fn attest(
    voter: Option<Voter>,
    source: &Source,
    states: &Arc<dyn StateSource>,
    progress: &Progress,
    tips: Tips,
) -> impl Future<Output = eyre::Result<()>> + use<> {
    let rollup_id = source.rollup.rollup_id;
    let attester = voter.map(|voter| Attester {
        voter,
        rollup_id,
        specification: source.specification.clone(),
        states: Arc::clone(states),
        trusted: progress.trusted.clone(),
        vouched: None,
    });
    async move {
        let Some(attester) = attester else {
            return Ok(());
        };
        info!(attester = %attester.voter.key(), "attesting");
        attester.voter.tell_again(&rollup_id)?;
        let mut hints = Hints::follow(attester.voter.sequencer(), &[rollup_id]);
        match hints.pop() {
            Some(hints) => attester.run(hints, tips).await,
            None => Ok(()),
        }
    }
}

/// The client as the one who has the state.
fn thin(
    config: &Config,
    board: &Board,
    shutdown: &CancellationToken,
    driver: Arc<Driver<EngineClient>>,
    pending: &Arc<Pending>,
) -> eyre::Result<Thin<EngineClient, Ipc>> {
    let path = config.testing_ipc.as_deref();
    let path = path.ok_or_eyre("testing_ipc: must be set if mode is thin")?;
    Ok(Thin::new(
        Ipc::new(path),
        driver,
        Arc::clone(pending) as Arc<dyn Store>,
        config.data_dir.clone(),
        board.readiness.clone(),
        shutdown.clone(),
    ))
}

/// Serves early receipts where that is asked for.
async fn serve(
    config: &Config,
    receipts: Arc<Receipts>,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let grpc = async {
        match config.grpc_listen {
            Some(listen) => {
                let receipts = Arc::clone(&receipts);
                receipts::serve_grpc(listen, receipts, shutdown.clone()).await
            }
            None => Ok(()),
        }
    };
    let rpc = async {
        match config.rpc_listen {
            Some(listen) => {
                let routes = receipts::rpc_routes(Arc::clone(&receipts));
                let served = probes::serve(listen, routes, shutdown.clone()).await;
                served.wrap_err("json-rpc")
            }
            None => Ok(()),
        }
    };
    tokio::try_join!(grpc, rpc)?;
    Ok(())
}

/// Derives blocks ahead of their commitment.
struct Pipeline {
    source: Source,
    mode: Mode,
    states: Arc<dyn StateSource>,
    pending: Arc<Pending>,
    receipts: Arc<Receipts>,
    /// Where the last executed block leads; its commitment may still be under way.
    tip: Progress,
    /// Tells attesters where that is.
    tips: watch::Sender<Option<Arc<Tip>>>,
}

impl Pipeline {
    /// Derives blocks and has them committed, until the rollup has left and all are.
    async fn run<C>(mut self, committer: Committer<C>) -> eyre::Result<exit::Left>
    where
        C: ExecutionClient + 'static,
    {
        let (sender, blocks) = mpsc::channel(WAITING);
        let committing = tokio::spawn(async move { committer.run(blocks).await });
        let committing = AbortOnDropHandle::new(committing);
        tokio::select! {
            derived = self.derive(&sender) => derived?,
            // It has failed, and says why below.
            () = sender.closed() => {}
        }
        drop(sender);
        committing.await??;
        Ok(exit::Left {
            progress: self.tip,
            sequencer: self.source.sequencer,
        })
    }

    /// Derives blocks until the rollup has left, or nobody takes them any more.
    async fn derive(&mut self, blocks: &mpsc::Sender<Executed>) -> eyre::Result<()> {
        let states = Arc::clone(&self.states);
        let receipts = Arc::clone(&self.receipts);
        let mut derivation = Derivation::new(self.source.clone(), states, &self.tip, receipts);
        while self.tip.left.is_none() {
            let Some(derived) = derivation.next(&self.tip).await? else {
                // So short a notice that no block has told of it.
                self.tip.left = Some(derivation.config().clone());
                return Ok(());
            };
            let executed = self.stage(derived, derivation.arrived())?;
            if blocks.send(executed).await.is_err() {
                return Ok(());
            }
            if self.mode == Mode::Thin {
                // The client has the state after a block once it has the block.
                self.pending.settled().await;
            }
        }
        Ok(())
    }

    /// Makes the block the tip: what comes next is executed on top of it.
    fn stage(&mut self, mut derived: Derived, arrived: Instant) -> eyre::Result<Executed> {
        let legs = mem::take(&mut derived.closed.legs);
        let (tip, config) = (derived.tip(arrived), derived.config);
        let time = tip.time;
        let specification = &self.source.specification;
        let (progress, block, batch) = Progress::after(derived.closed, specification)?;
        self.tips.send_replace(None);
        self.pending.push(Arc::new(batch));
        self.tips.send_replace(Some(Arc::new(tip)));
        self.tip = progress.clone();
        Ok(Executed {
            block,
            progress,
            config,
            time,
            arrived,
            legs,
        })
    }
}
