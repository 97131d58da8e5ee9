//! A wallet's way into the sequencer.
//!
//! ```text
//! wallet ─ JSON-RPC ─▶ rpc ─checked─▶ queue (fsync, then acknowledged)
//!            reads │                   │  ▲
//!                  ▼                   ▼  │ verified inclusion
//!           execution client      submitter ─ signed batch ─▶ sequencer
//!                  ▲                   │ sequenced
//!                  └──── receipts ── tracker
//! ```

mod bundle;
mod config;
mod queue;
mod rpc;
mod submitter;
mod tracker;
mod upstream;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

pub use config::{Args, Config, RollupSettings};
use counterpoint_core::{key::SecretKey, light::TrustedState, registry::RollupConfig};
use counterpoint_service::{Probes, Readiness, probes, sequencer::Client};
use eyre::{WrapErr, bail, eyre};
use futures::future::try_join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    queue::Queue,
    rpc::{Rollup, Served},
    submitter::Submitter,
    tracker::Tracker,
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
    let key = read_key(&config)?;
    let genesis = std::fs::read(&config.sequencer_genesis).wrap_err_with(|| {
        format!(
            "failed to read sequencer_genesis {}",
            config.sequencer_genesis.display()
        )
    })?;
    let genesis = TrustedState::from_genesis(&genesis)?;
    let client = Client::new(&config.sequencers)?;
    let queue = Arc::new(Queue::open(&config.data_dir)?);
    let readiness = Readiness::of(&[submitter::SEQUENCER, submitter::FUNDS]);

    let shown = Arc::clone(&queue);
    let status = move || json!({ "live_transactions": shown.live() });
    let probes = Probes::new(readiness.clone(), metrics, status).router();
    let probes = probes::serve(config.http_listen, probes, shutdown.clone());
    let compose = async {
        let served = serve(&config, key, genesis, client, queue, readiness, &shutdown);
        shutdown.run_until_cancelled(served).await.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, compose)?;
    Ok(())
}

async fn serve(
    config: &Config,
    key: SecretKey,
    genesis: TrustedState,
    client: Client,
    queue: Arc<Queue>,
    readiness: Readiness,
    shutdown: &CancellationToken,
) -> eyre::Result<()> {
    let mut rollups = BTreeMap::new();
    let mut trackers = Vec::new();
    for settings in &config.rollups {
        let registered = registered(&client, &settings.name).await?;
        let upstream = Upstream::new(&settings.execution_url)?;
        let id = registered.rollup_id;
        trackers.push(Tracker::new(Arc::clone(&queue), id, upstream.clone()).run());
        let conductor = settings.conductor_url.clone();
        let rollup = Rollup::new(registered, Arc::clone(&queue), upstream, conductor);
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
    });
    let submitter = Submitter::new(queue, client, genesis, key, readiness);
    tokio::try_join!(
        async {
            Ok(probes::serve(config.rpc_listen, rpc::routes(served), shutdown.clone()).await?)
        },
        submitter.run(),
        try_join_all(trackers),
    )?;
    Ok(())
}

/// Asks until the sequencer answers; that the rollup is unknown is an answer.
async fn registered(client: &Client, name: &str) -> eyre::Result<RollupConfig> {
    loop {
        match client.rollup(name).await {
            Ok(rollup) => return Ok(rollup),
            Err(error) if error.is_not_found() => {
                bail!("no rollup {name} is registered at the sequencer: register it first");
            }
            Err(error) => warn!(%error, "waiting for the sequencer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn read_key(config: &Config) -> eyre::Result<SecretKey> {
    let path = &config.key_file;
    let text = std::fs::read_to_string(path)
        .wrap_err_with(|| format!("failed to read key_file {}", path.display()))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| {
        eyre!(
            "key_file {} must hold 64 hexadecimal digits",
            path.display()
        )
    })?;
    Ok(SecretKey::from_seed(seed))
}
