//! A wallet's way into the sequencer.
//!
//! ```text
//! wallet ─ JSON-RPC ─▶ rpc ─▶ intake ─checked─▶ queue (fsync, then acknowledged)
//!            reads │                              │  ▲
//!                  ▼                              ▼  │ verified inclusion
//!           execution client                 submitter ─ signed batch ─▶ sequencer
//!                  ▲                              │ sequenced
//!                  └─────────── receipts ───── tracker
//!           conductor ─ early receipts ─▶ early ─▶ rpc
//! ```

mod bundle;
mod config;
mod early;
mod followers;
mod intake;
mod metric;
mod queue;
mod rpc;
mod submitter;
mod tracker;
mod trust;
mod upstream;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

pub use config::{Args, Config, RollupSettings};
use counterpoint_core::{
    key::SecretKey, light::TrustedState, primitive::RollupId, registry::RollupConfig,
};
use counterpoint_service::{
    Probes, Readiness, files, probes,
    sequencer::{Client, ClientError, Evidence, METRICS, TrustRoot},
};
use eyre::{WrapErr, bail};
use futures::{
    FutureExt,
    future::{join_all, try_join_all},
};
use metrics_exporter_prometheus::PrometheusHandle;
pub use rpc::Limits;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    bundle::{Share, Shares},
    early::{Early, Follower},
    queue::Queue,
    rpc::{Gate, Rollup, Served},
    submitter::Submitter,
    tracker::Tracker,
    trust::{Trust, verify_block},
    upstream::Upstream,
};

/// How long a start waits for the sequencer between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    counterpoint_service::run("composer", args.config.as_deref(), args, work)
}

async fn work(
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    metric::ALL.describe();
    let key = files::read_key(&config.key_file)?;
    METRICS.describe();
    let root = TrustRoot::read(
        &config.sequencer_genesis,
        config.trust_height,
        config.trust_hash.as_deref(),
    )?;
    let queue = Arc::new(Queue::open(&config.data_dir)?);
    let evidence = Evidence::open(&config.data_dir)?;
    evidence.refuse_fork()?;
    let client = Client::with_evidence(&config.sequencers, evidence)?;
    let readiness = Readiness::of(&[submitter::SEQUENCER, submitter::FUNDS]);

    let (shown, asked) = (Arc::clone(&queue), client.clone());
    let status = move || json!({ "live_transactions": shown.live(), "sequencers": asked.status() });
    let probes = Probes::new(readiness.clone(), metrics, status).router();
    let probes = probes::serve(config.http_listen, probes, shutdown.clone());
    let compose = async {
        let served = async {
            let trust = Trust::open(&config.data_dir, &root, &client).await?;
            serve(&config, key, trust, client, queue, readiness, &shutdown).await
        };
        shutdown.run_until_cancelled(served).await.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, compose)?;
    Ok(())
}

async fn serve(
    config: &Config,
    key: SecretKey,
    mut trust: Trust,
    client: Client,
    queue: Arc<Queue>,
    readiness: Readiness,
    shutdown: &CancellationToken,
) -> eyre::Result<()> {
    let names: BTreeSet<&str> = config.rollups.iter().map(|one| one.name.as_str()).collect();
    eyre::ensure!(
        names.len() == config.rollups.len(),
        "rollups: a name is listed twice"
    );
    let (mut rollups, mut shares) = (BTreeMap::new(), Shares::new());
    let (mut trackers, mut followers) = (Vec::new(), Vec::new());
    for settings in &config.rollups {
        let (registered, trusted) = registered(&client, &settings.name, trust.state()).await?;
        if queue.open_batches().is_empty() {
            // What is on its way may be in a block below this one.
            trust.advance(trusted)?;
        }
        let upstream = Upstream::new(&settings.execution_url)?;
        let id = registered.rollup_id;
        shares.insert(id, Share::of(&registered));
        let early = Arc::new(Early::default());
        if let Some(url) = &settings.conductor_grpc_url {
            let (name, early) = (settings.name.clone(), Arc::clone(&early));
            followers.push(
                Follower::new(name, url, early, upstream.clone())?
                    .run()
                    .boxed(),
            );
        }
        let (shared, told) = (Arc::clone(&queue), Arc::clone(&early));
        trackers.push(Tracker::new(shared, id, upstream.clone(), told).run());
        let conductor = settings.conductor_url.clone();
        let rollup = Rollup::new(registered, Arc::clone(&queue), upstream, early, conductor);
        let rollup = Arc::new(rollup);
        followers.push(Arc::clone(&rollup).run().boxed());
        rollups.insert(settings.name.clone(), rollup);
    }
    if let Some(default) = &config.default_rollup {
        let listed = rollups.contains_key(default);
        eyre::ensure!(
            listed,
            "default_rollup {default} is not among the rollups listed"
        );
    }
    let served = Arc::new(Served {
        rollups,
        default: config.default_rollup.clone(),
        gate: Arc::new(Gate::new(config.limits.clone())?),
        shutdown: shutdown.clone(),
    });
    let submitter = Submitter::new(queue, client, trust, key, shares, readiness);
    tokio::try_join!(
        async { Ok(rpc::serve(config.rpc_listen, served).await?) },
        submitter.run(),
        try_join_all(trackers),
        async { Ok(join_all(followers).await) },
    )?;
    Ok(())
}

/// Waits until a rollup takes items, and gives its configuration as a verified block proves it,
/// and what is trusted with that block.
async fn registered(
    client: &Client,
    name: &str,
    trusted: &TrustedState,
) -> eyre::Result<(RollupConfig, TrustedState)> {
    loop {
        let asked = async { Ok((client.rollup(name).await?, client.info().await?.height)) };
        match asked.await {
            Ok((rollup, height)) if rollup.first_height.get() <= height => {
                let id = RollupId::from_name(name);
                let verified = verify_block(client, id, trusted, height).await;
                return verified.wrap_err_with(|| format!("rollup {name}"));
            }
            Ok((rollup, height)) => {
                let first = rollup.first_height;
                info!(rollup = name, %first, height, "waiting for the rollup to start");
            }
            Err(error) if ClientError::is_not_found(&error) => {
                bail!("no rollup {name} is registered at the sequencer: register it first");
            }
            Err(error) => warn!(%error, "waiting for the sequencer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
