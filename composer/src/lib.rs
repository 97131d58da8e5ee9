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

mod admission;
mod atomic;
mod bundle;
mod chain;
mod config;
mod disk;
mod early;
mod explorer;
mod followers;
mod intake;
mod metric;
mod queue;
mod rpc;
mod submitter;
mod tracker;
mod trust;
mod upstream;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

pub use atomic::BundleSettings;
pub use config::{Args, Config, RollupSettings};
use counterpoint_core::{key::SecretKey, primitive::RollupId};
use counterpoint_explorer::{Explorer, Root};
use counterpoint_service::{
    Probes, Readiness,
    disk::DISK,
    files, probes,
    sequencer::{self, Client, Evidence, TrustRoot},
};
use futures::{
    FutureExt,
    future::{join_all, pending, try_join_all},
};
pub use metric::ALL as METRICS;
use metrics_exporter_prometheus::PrometheusHandle;
pub use rpc::Limits;
#[cfg(feature = "test-utils")]
pub use rpc::read_body;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission,
    atomic::{Bundles, Site},
    chain::Watcher,
    early::{Early, Follower},
    explorer::Shown,
    queue::Queue,
    rpc::{Gate, Rollup, Served},
    submitter::Submitter,
    tracker::Tracker,
    trust::Trust,
    upstream::Upstream,
};

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
    sequencer::METRICS.describe();
    let root = TrustRoot::read(
        &config.sequencer_genesis,
        config.trust_height,
        config.trust_hash.as_deref(),
    )?;
    let queue = Arc::new(Queue::open(&config.data_dir)?);
    let evidence = Evidence::open(&config.data_dir)?;
    evidence.refuse_fork()?;
    let client = Client::with_evidence(&config.sequencers, evidence)?;
    let readiness = Readiness::of(&[
        submitter::SEQUENCER,
        submitter::FUNDS,
        submitter::PRICE,
        DISK,
    ]);

    let (shown, asked) = (Arc::clone(&queue), client.clone());
    let status = move || json!({ "live_transactions": shown.live(), "sequencers": asked.status() });
    let explorer = config.explorer.then(|| {
        let root = match root.header() {
            Some(header) => Root::Header(header),
            None => Root::Genesis(Box::new(root.genesis().clone())),
        };
        Explorer::new(client.clone(), root, shutdown.clone())
    });
    let mut probes = Probes::new(readiness.clone(), metrics, status).router();
    if let Some(explorer) = &explorer {
        probes = probes.merge(explorer.router());
    }
    let probes = probes::serve(config.http_listen, probes, shutdown.clone());
    let (seen, shown) = (Arc::clone(&queue), readiness.clone());
    let watched = disk::watch(&config.data_dir, &seen, &shown);
    let compose = async {
        let served = async {
            let trust = Trust::open(&config.data_dir, &root, &client).await?;
            let service = Service {
                trust,
                client,
                queue,
                readiness,
                explorer,
            };
            serve(&config, key, service, &shutdown).await
        };
        let ended = tokio::select! {
            ended = shutdown.run_until_cancelled(served) => ended,
            () = watched => None,
        };
        ended.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, compose)?;
    Ok(())
}

/// What was opened before there is anything to serve.
struct Service {
    trust: Trust,
    client: Client,
    queue: Arc<Queue>,
    readiness: Readiness,
    explorer: Option<Explorer>,
}

async fn serve(
    config: &Config,
    key: SecretKey,
    service: Service,
    shutdown: &CancellationToken,
) -> eyre::Result<()> {
    let Service {
        trust,
        client,
        queue,
        readiness,
        explorer,
    } = service;
    let names = config.names();
    let payer = key.public_key().address();
    let watcher = Watcher::start(client.clone(), trust.state(), payer, &names).await?;
    let (chain, watching) = watcher.run();
    let view = chain.view();
    let (mut rollups, mut sites) = (BTreeMap::new(), BTreeMap::new());
    let (mut trackers, mut followers) = (Vec::new(), Vec::new());
    for settings in &config.rollups {
        let id = RollupId::from_name(&settings.name);
        let Some(terms) = view.rollups.get(&id) else {
            continue;
        };
        let upstream = Upstream::new(&settings.execution_url)?;
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
        let (rules, retry) = (
            Arc::clone(terms.config()),
            Duration::from_secs(config.retry_secs),
        );
        trackers.push(Tracker::new(shared, rules, upstream.clone(), told, retry).run());
        let site = Site {
            name: settings.name.clone(),
            upstream: upstream.clone(),
            early: Arc::clone(&early),
        };
        sites.insert(id, site);
        let (conductor, max_price) = (settings.conductor_url.clone(), config.max_price);
        let (registered, shared) = (Arc::clone(terms.config()), Arc::clone(&queue));
        let known = Arc::clone(&registered);
        let admission = Admission::new(known, chain.clone(), Arc::clone(&queue), max_price);
        let rollup = Rollup::new(registered, shared, upstream, early, conductor, admission);
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
    if let Some(explorer) = explorer {
        let shown = Shown::new(rollups.clone(), client.clone());
        explorer.attach(Arc::new(shown));
        followers.push(explorer.run().boxed());
    }
    let max_price = config.max_price;
    let (bundles, keeping) = match &config.bundles {
        None => (None, pending().left_future()),
        Some(settings) => {
            let key = files::read_key(&settings.key_file)?;
            eyre::ensure!(
                key.public_key().address() != payer,
                "bundles: key_file is that of batches: give bundles an account of their own"
            );
            let (settings, client) = (settings.clone(), client.clone());
            let (data_dir, chain) = (&config.data_dir, chain.clone());
            let opened = Bundles::open(settings, key, data_dir, client, chain, max_price, sites)?;
            (Some(opened.0), opened.1.right_future())
        }
    };
    let served = Arc::new(Served {
        rollups,
        default: config.default_rollup.clone(),
        gate: Arc::new(Gate::new(config.limits.clone())?),
        bundles,
        shutdown: shutdown.clone(),
    });
    let sender = Arc::clone(&queue);
    let submitter = Submitter::new(sender, client, chain, trust, key, max_price, readiness);
    let sent = async {
        tokio::try_join!(submitter.run(), try_join_all(trackers), keeping)?;
        Ok(())
    };
    tokio::try_join!(
        async { Ok(rpc::serve(config.rpc_listen, served).await?) },
        disk::outlast(queue, shutdown, sent),
        watching,
        async { Ok(join_all(followers).await) },
    )?;
    Ok(())
}
