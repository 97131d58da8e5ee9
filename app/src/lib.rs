//! The ABCI shell around the state machine: what a validator runs beside CometBFT.
//!
//! ```text
//! CometBFT ─ABCI─▶ service/{consensus, mempool, info, snapshot} ─▶ machine ─▶ store
//!                              ▲                                               │
//! users ──gRPC──▶ grpc ──▶ mempool      headers ◀─ CometBFT's RPC ──▶ grpc ◀───┘
//! ```

mod config;
mod grpc;
mod headers;
mod mempool;
mod service;
mod store;

use std::{process::ExitCode, sync::Arc, time::Duration};

pub use config::{Args, Config};
use counterpoint_abci::Server;
use counterpoint_core::primitive::Height;
use counterpoint_proto::{FILE_DESCRIPTOR_SET, sequencer::sequencer_server::SequencerServer};
use counterpoint_service::{Probes, Readiness, probes};
use eyre::WrapErr;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

use crate::{
    grpc::Sequencer,
    headers::Headers,
    mempool::{Limits, Mempool, Relay},
    service::Consensus,
    store::Store,
};

/// Readiness: a block was committed not long ago.
const FRESH: &str = "blocks";
/// How old the last block may be.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Longest gRPC request, in bytes: a transaction and its envelope.
const MAX_REQUEST_BYTES: usize = 2 << 20;

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    counterpoint_service::run("app", args.config.as_deref(), args, work)
}

async fn work(
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let store = Store::open(&config.data_dir).map_err(into_report)?;
    let tip = store.tip().map_err(into_report)?;
    let readiness = Readiness::of(&[FRESH, headers::CONDITION]);
    let (committed, commits) = watch::channel(tip.height);
    let (streamable, stream) = watch::channel(Height::new(0));
    let relay = if config.relay_gossip {
        Relay::Bundles
    } else {
        Relay::Nothing
    };
    let mempool = Arc::new(Mempool::new(store.clone(), Limits::default(), relay));

    let headers = Headers::new(
        store.clone(),
        &config.cometbft_rpc,
        commits.clone(),
        streamable,
        readiness.clone(),
    )
    .map_err(into_report)?;
    let consensus = Consensus::new(store.clone(), Arc::clone(&mempool), committed);
    let (pool, info_store) = (Arc::clone(&mempool), store.clone());
    let abci = Server::bind(
        &config.abci_listen,
        service_fn(move |request| consensus.call(request)),
        service_fn(move |request| service::mempool(&pool, request)),
        service_fn(move |request| service::info(&info_store, request)),
        service_fn(service::snapshot),
    )?;
    let listener = TcpListener::bind(config.grpc_listen)
        .await
        .map_err(|error| probes::in_use(config.grpc_listen, &error))?;
    let sequencer = Sequencer::new(store.clone(), mempool, stream);
    let grpc = serve_grpc(listener, sequencer, shutdown.clone());
    let status = move || {
        let tip = store.tip().unwrap_or_default();
        json!({ "height": tip.height, "app_hash": tip.app_hash })
    };
    let probes = Probes::new(readiness.clone(), metrics, status).router();

    let probes = probes::serve(config.http_listen, probes, shutdown.clone());
    let freshness = watch_freshness(commits, readiness);
    tokio::try_join!(
        async { abci.run(shutdown.clone()).await.wrap_err("abci") },
        async { grpc.await.wrap_err("grpc") },
        async {
            headers
                .run(shutdown.clone())
                .await
                .map_err(into_report)
                .wrap_err("headers")
        },
        async { probes.await.wrap_err("probes") },
        async { Ok(shutdown.run_until_cancelled(freshness).await) },
    )?;
    Ok(())
}

async fn serve_grpc(
    listener: TcpListener,
    sequencer: Sequencer,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SequencerServer<Sequencer>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let sequencer = SequencerServer::new(sequencer).max_decoding_message_size(MAX_REQUEST_BYTES);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(sequencer)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned())
        .await?;
    Ok(())
}

/// Ready while blocks keep coming.
async fn watch_freshness(mut commits: watch::Receiver<Height>, readiness: Readiness) {
    loop {
        match tokio::time::timeout(MAX_AGE, commits.changed()).await {
            Ok(Ok(())) => readiness.met(FRESH),
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => readiness.unmet(FRESH, format!("no block for {MAX_AGE:?}")),
        }
    }
}

fn into_report(error: anyhow::Error) -> eyre::Report {
    eyre::eyre!("{error:#}")
}
