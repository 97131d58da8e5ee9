//! The ABCI shell around the state machine: what a validator runs beside CometBFT.
//!
//! ```text
//! CometBFT ─ABCI─▶ service/{consensus, mempool, info, snapshot} ─▶ machine ─▶ store
//!                              ▲                                               │
//! users ──gRPC──▶ grpc ──▶ mempool      headers ◀─ CometBFT's RPC ──▶ grpc ◀───┘
//! ```

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod bundles;
mod clock;
mod config;
mod disk;
mod grpc;
mod headers;
mod health;
mod mempool;
mod metric;
mod retention;
mod service;
#[cfg(test)]
mod simulation;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;
mod upgrade;

use std::{
    future::ready,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

pub use config::{Args, Config, MempoolType};
use counterpoint_abci::{Server, ServerError};
use counterpoint_core::primitive::Height;
use counterpoint_explorer::{Explorer, Root};
use counterpoint_machine::AppVersion;
use counterpoint_proto::{
    FILE_DESCRIPTOR_SET,
    sequencer::{bundles_server::BundlesServer, sequencer_server::SequencerServer},
};
use counterpoint_service::{
    ConfigError, Probes, Readiness,
    connection::{self, Incoming},
    disk::DISK,
    probes,
    sequencer::Client,
};
use eyre::WrapErr;
use futures::FutureExt;
pub use metric::ALL as METRICS;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::{
    bundles::Bundles,
    grpc::Sequencer,
    headers::Headers,
    health::Health,
    mempool::{Gossip, Limits, Mempool},
    retention::Retention,
    service::{Consensus, Parts, StateSync},
    snapshot::Snapshots,
    store::Store,
    upgrade::{Guard, Missing},
};

/// Connections that CometBFT opens: consensus, mempool, info and snapshots.
const ABCI_CONNECTIONS: usize = 4;
/// Longest gRPC request, in bytes: a transaction and its envelope.
const MAX_REQUEST_BYTES: usize = 2 << 20;
/// Most calls at a time of one gRPC connection.
const MAX_CALLS: u32 = 64;
/// How long a call may take, up to the head of its answer. So what is held of calls that are still
/// being sent is at most what the network can carry in this time.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Longest HTTP/2 frame that a client may send, in bytes: batches are long, and each frame costs.
const FRAME_BYTES: u32 = 256 << 10;
/// Bytes that a peer may send ahead of being read, by call and by connection.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 2 << 20);
/// A gRPC peer that says nothing is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    run_up_to(AppVersion::NEWEST, args)
}

/// Runs the service as a build that follows the rules up to `newest`.
#[must_use]
pub fn run_up_to(newest: AppVersion, args: &Args) -> ExitCode {
    let work = async move |config: Config, metrics, shutdown| {
        let data_dir = config.data_dir.clone();
        let done = work(newest, config, metrics, shutdown).await;
        done.map_err(|fault| disk::explain(fault, &data_dir))
    };
    counterpoint_service::run("app", args.config.as_deref(), args, work)
}

async fn work(
    newest: AppVersion,
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    metric::ALL.describe();
    let store = Store::open(&config.data_dir).map_err(into_report)?;
    let settings = snapshot::Settings {
        interval: config.snapshot_interval,
        kept: config.snapshots_kept,
    };
    let (snapshots, states) =
        Snapshots::open(config.data_dir.join("snapshots"), settings).map_err(into_report)?;
    let rpc = health::rpc_client(&config.cometbft_rpc)
        .map_err(|error| ConfigError::Invalid(format!("{error:#}")))?;
    let tip = store.tip().map_err(into_report)?;
    let (guard, halted) = Guard::new(newest);
    guard.look(&store).map_err(into_report)?;
    guard.check()?;
    let readiness = Readiness::of(&[
        health::FRESH,
        health::REACHABLE,
        health::CAUGHT_UP,
        health::CLOCK,
        DISK,
        headers::CONDITION,
    ]);
    let (committed, commits) = watch::channel(tip.height);
    let (streamable, stream) = watch::channel(Height::new(0));
    let (retained, retain) = watch::channel(Height::new(0));
    let gossip = match config.mempool {
        MempoolType::Flood => Gossip::Flood,
        MempoolType::App if config.relay_gossip => Gossip::Relayed,
        MempoolType::App => Gossip::Direct,
    };
    let mempool = Arc::new(Mempool::new(store.clone(), Limits::default(), gossip));
    let bundles = Bundles::new();

    let (abci, consensus) = {
        let state_sync = StateSync::new(
            store.clone(),
            Arc::clone(&mempool),
            Arc::clone(&snapshots),
            committed.clone(),
            guard.clone(),
        );
        let consensus = Consensus::new(Parts {
            store: store.clone(),
            mempool: Arc::clone(&mempool),
            snapshots: Arc::clone(&snapshots),
            committed,
            retain,
            guard: guard.clone(),
            attestation_grace: Duration::from_millis(config.attestation_grace_ms),
        });
        let (pool, store) = (Arc::clone(&mempool), store.clone());
        let (calls, infos) = (consensus.clone(), consensus.clone());
        let server = Server::bind(
            &config.abci_listen,
            service_fn(move |request| calls.call(request)),
            service_fn(move |request| service::mempool(&pool, request)),
            service_fn(move |request| service::info(&store, &infos, request)),
            service_fn(move |request| state_sync.call(request)),
        );
        (server.await?, consensus)
    };
    let listener = TcpListener::bind(config.grpc_listen)
        .await
        .map_err(|error| probes::in_use(config.grpc_listen, &error))?;
    let sequencer = Sequencer::new(
        store.clone(),
        Arc::clone(&mempool),
        bundles.clone(),
        rpc.clone(),
        stream.clone(),
        shutdown.clone(),
    );
    let headers = Headers::new(
        store.clone(),
        rpc.clone(),
        commits.clone(),
        streamable,
        readiness.clone(),
    );
    let retention = Retention::new(
        store.clone(),
        Arc::clone(&snapshots),
        config.retain_heights,
        stream.clone(),
        retained,
    );
    let bundles = bundles.run(store.clone(), commits.clone(), shutdown.clone());
    let health = Health::new(
        store.clone(),
        config.data_dir,
        rpc,
        commits,
        readiness.clone(),
    );
    let status = {
        let mempool = Arc::clone(&mempool);
        move || status(&store, &mempool, *stream.borrow())
    };
    let mut probes = Probes::new(readiness, metrics, status).router();
    let exploring = if config.explorer {
        let client = Client::new(&[own_grpc(config.grpc_listen)])?;
        let explorer = Explorer::new(client, Root::Lowest, shutdown.clone());
        probes = probes.merge(explorer.router());
        shutdown
            .clone()
            .run_until_cancelled_owned(explorer.run())
            .left_future()
    } else {
        ready(None).right_future()
    };
    tokio::try_join!(
        async {
            let served = serve_abci(abci.run(shutdown.clone())).await;
            served.wrap_err("abci")?;
            let written = consensus.settle().map_err(|error| eyre::eyre!(error));
            written.wrap_err("abci")
        },
        async {
            let limits = connection::Limits {
                readers_per_address: config.readers_per_address.get(),
                ..connection::Limits::default()
            };
            let incoming = Incoming::new(listener, limits, metric::CONNECTIONS);
            let grpc = serve_grpc(incoming, sequencer, shutdown.clone());
            grpc.await.wrap_err("grpc")
        },
        async {
            let headers = headers.run(shutdown.clone()).await;
            headers.map_err(into_report).wrap_err("headers")
        },
        async {
            let probes = probes::serve(config.http_listen, probes, shutdown.clone());
            probes.await.wrap_err("probes")
        },
        async {
            let made = snapshots.run(states, shutdown.clone()).await;
            made.map_err(into_report).wrap_err("snapshots")
        },
        async {
            let kept = retention.run(shutdown.clone()).await;
            kept.map_err(into_report).wrap_err("retention")
        },
        async {
            let looked = Arc::clone(&mempool).run(shutdown.clone()).await;
            looked.wrap_err("mempool")
        },
        async {
            let read = bundles.await;
            read.map_err(into_report).wrap_err("bundles")
        },
        async {
            let looked = health.run(shutdown.clone()).await;
            looked.map_err(into_report).wrap_err("health")
        },
        async {
            exploring.await;
            Ok(())
        },
        stop_before_upgrade(halted, shutdown.clone()),
    )?;
    Ok(guard.check()?)
}

/// Where this node's own gRPC API is reached from here.
fn own_grpc(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Serves CometBFT on a runtime with a thread for each of its connections: handlers work where they
/// stand, and nothing else waits for the threads that consensus needs.
async fn serve_abci(
    serving: impl Future<Output = Result<(), ServerError>> + Send + 'static,
) -> eyre::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ABCI_CONNECTIONS)
        .thread_name("abci")
        .enable_all()
        .build()?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("abci".into())
        .spawn(move || ended.send(runtime.block_on(serving)))?;
    Ok(end.await.wrap_err("the thread of abci panicked")??)
}

/// Ends the service in order once the chain goes on without it.
async fn stop_before_upgrade(
    mut halted: watch::Receiver<Option<Missing>>,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => {}
        due = halted.wait_for(Option::is_some) => if due.is_ok() {
            shutdown.cancel();
        }
    }
    Ok(())
}

fn status(store: &Store, mempool: &Mempool, provable: Height) -> serde_json::Value {
    let tip = match store.tip() {
        Ok(tip) => tip,
        Err(error) => return json!({ "error": format!("{error:#}") }),
    };
    let (transactions, bytes) = mempool.size();
    json!({
        "height": tip.height,
        "app_hash": tip.app_hash,
        "initial_height": tip.initial,
        "lowest_height": store.lowest().unwrap_or_default(),
        "header_height": provable,
        "mempool": { "transactions": transactions, "bytes": bytes },
    })
}

async fn serve_grpc(
    incoming: Incoming,
    sequencer: Sequencer,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SequencerServer<Sequencer>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()?;
    health.set_serving::<BundlesServer<Sequencer>>().await;
    let bundles = BundlesServer::new(sequencer.clone());
    let sequencer = SequencerServer::new(sequencer).max_decoding_message_size(MAX_REQUEST_BYTES);
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_CALLS)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .timeout(CALL_PATIENCE)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(sequencer)
        .add_service(bundles)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await?;
    Ok(())
}

fn into_report(error: anyhow::Error) -> eyre::Report {
    eyre::eyre!("{error:#}")
}
