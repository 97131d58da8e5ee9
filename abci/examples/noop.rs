//! An application that does nothing: the ceiling that benchmarks of a real one compare with.
//!
//! `made-up` blocks are filled inside PrepareProposal, so nothing is gossiped. `inserted` blocks
//! carry bundles that entered at this node by gRPC, where a sequencer takes transactions, were
//! reaped, flooded and inserted elsewhere: what a real mempool costs under the same load, without an
//! application behind it.
//!
//! ```text
//! cargo run --release -p counterpoint-abci --example noop -- --socket /tmp/noop.sock inserted
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use counterpoint_abci::{
    ConsensusRequest, InfoRequest, ListenAddress, MempoolRequest, Server, SnapshotRequest,
    proto::abci::{
        ExecTxResult, ResponseApplySnapshotChunk, ResponseCheckTx, ResponseCommit,
        ResponseExtendVote, ResponseFinalizeBlock, ResponseInfo, ResponseInitChain,
        ResponseInsertTx, ResponseListSnapshots, ResponseLoadSnapshotChunk, ResponseOfferSnapshot,
        ResponsePrepareProposal, ResponseProcessProposal, ResponseQuery, ResponseReapTxs,
        ResponseVerifyVoteExtension, response_apply_snapshot_chunk, response_offer_snapshot,
        response_process_proposal, response_verify_vote_extension,
    },
};
use counterpoint_proto::sequencer::{SubmitTransactionRequest, SubmitTransactionResponse};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, body::Body, codegen::http, server::NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Parser)]
struct Args {
    /// Unix socket that CometBFT's `proxy_app` names.
    #[arg(long)]
    socket: PathBuf,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Clone, Copy, Subcommand)]
enum Mode {
    /// Blocks are made up inside PrepareProposal.
    MadeUp {
        /// Bytes per block.
        #[arg(long, default_value_t = 1_000_000)]
        block_bytes: usize,
        /// Bytes per item.
        #[arg(long, default_value_t = 65_536)]
        item_bytes: usize,
    },
    /// Blocks carry bundles that were inserted, gossiped and reaped.
    Inserted {
        /// Where bundles enter, as the sequencer's SubmitTransaction.
        #[arg(long, default_value = "127.0.0.1:9090")]
        grpc_listen: SocketAddr,
    },
}

/// Most bundles that wait: beyond it new ones are refused.
const MAX_WAITING: usize = 4_096;

/// Bundles that wait: what a mempool without rules holds.
#[derive(Default)]
struct Pool {
    waiting: BTreeMap<u64, Bytes>,
    keys: BTreeMap<Bytes, u64>,
    to_reap: VecDeque<Bytes>,
    next: u64,
}

impl Pool {
    fn insert(&mut self, tx: &Bytes) -> bool {
        if self.waiting.len() >= MAX_WAITING || self.keys.contains_key(tx) {
            return false;
        }
        // The frame that carried it must not live as long as it does.
        let tx = Bytes::copy_from_slice(tx);
        self.keys.insert(tx.clone(), self.next);
        self.waiting.insert(self.next, tx);
        self.next += 1;
        true
    }

    fn remove(&mut self, tx: &Bytes) {
        if let Some(key) = self.keys.remove(tx) {
            self.waiting.remove(&key);
        }
    }
}

struct Noop {
    mode: Mode,
    pool: Mutex<Pool>,
}

impl Noop {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn propose(&self, height: i64, max_bytes: i64) -> Vec<Bytes> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        match self.mode {
            Mode::MadeUp {
                block_bytes,
                item_bytes,
            } => (0..block_bytes.min(max_bytes) / item_bytes)
                .map(|place| item(&[height.to_be_bytes(), place.to_be_bytes()], item_bytes))
                .collect(),
            Mode::Inserted { .. } => {
                let mut room = max_bytes;
                let fits = |tx: &&Bytes| {
                    let cost = tx.len() + 8;
                    let fits = cost <= room;
                    room = room.saturating_sub(cost);
                    fits
                };
                self.pool()
                    .waiting
                    .values()
                    .take_while(fits)
                    .cloned()
                    .collect()
            }
        }
    }

    fn consensus(&self, request: ConsensusRequest) -> counterpoint_abci::ConsensusResponse {
        match request {
            ConsensusRequest::InitChain(_) => ResponseInitChain::default().into(),
            ConsensusRequest::PrepareProposal(request) => {
                let txs = self.propose(request.height, request.max_tx_bytes);
                ResponsePrepareProposal { txs }.into()
            }
            ConsensusRequest::ProcessProposal(_) => {
                let status = response_process_proposal::ProposalStatus::Accept.into();
                ResponseProcessProposal { status }.into()
            }
            ConsensusRequest::ExtendVote(_) => ResponseExtendVote::default().into(),
            ConsensusRequest::VerifyVoteExtension(_) => {
                let status = response_verify_vote_extension::VerifyStatus::Accept.into();
                ResponseVerifyVoteExtension { status }.into()
            }
            ConsensusRequest::FinalizeBlock(request) => {
                request.txs.iter().for_each(|tx| self.pool().remove(tx));
                let tx_results = vec![ExecTxResult::default(); request.txs.len()];
                let app_hash = Bytes::from_static(&[0; 32]);
                ResponseFinalizeBlock {
                    tx_results,
                    app_hash,
                    ..Default::default()
                }
                .into()
            }
            ConsensusRequest::Commit(_) => ResponseCommit::default().into(),
        }
    }

    fn mempool(&self, request: MempoolRequest) -> counterpoint_abci::MempoolResponse {
        match request {
            MempoolRequest::CheckTx(request) => {
                let mut pool = self.pool();
                if pool.insert(&request.tx) {
                    pool.to_reap.push_back(Bytes::copy_from_slice(&request.tx));
                }
                ResponseCheckTx::default().into()
            }
            MempoolRequest::InsertTx(request) => {
                self.pool().insert(&request.tx);
                ResponseInsertTx::default().into()
            }
            MempoolRequest::ReapTxs(_) => {
                let txs = self.pool().to_reap.drain(..).collect();
                ResponseReapTxs { txs }.into()
            }
        }
    }

    /// A bundle that entered at this node.
    fn enter(&self, tx: &Bytes) -> SubmitTransactionResponse {
        let mut pool = self.pool();
        let entered = pool.insert(tx);
        if entered {
            pool.to_reap.push_back(Bytes::copy_from_slice(tx));
        }
        SubmitTransactionResponse {
            code: u32::from(!entered),
            ..Default::default()
        }
    }
}

/// Takes bundles as the sequencer takes transactions, and nothing else.
#[derive(Clone)]
struct Intake(Arc<Noop>);

impl NamedService for Intake {
    const NAME: &'static str = "counterpoint.sequencer.v1.Sequencer";
}

impl Service<http::Request<Body>> for Intake {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let app = Arc::clone(&self.0);
        let enter = service_fn(move |request: Request<SubmitTransactionRequest>| {
            let answer = app.enter(&request.into_inner().transaction);
            async move { Ok(Response::new(answer)) }
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
        Box::pin(async move { Ok(grpc.unary(enter, request).await) })
    }
}

/// An item that starts with `salt`, so that no two are equal.
fn item(salt: &[[u8; 8]; 2], bytes: usize) -> Bytes {
    let mut item = salt.concat();
    item.resize(bytes.max(salt.len() * 8), 0xab);
    item.into()
}

fn snapshot(request: SnapshotRequest) -> counterpoint_abci::SnapshotResponse {
    match request {
        SnapshotRequest::ListSnapshots(_) => ResponseListSnapshots::default().into(),
        SnapshotRequest::OfferSnapshot(_) => {
            let result = response_offer_snapshot::Result::Reject.into();
            ResponseOfferSnapshot { result }.into()
        }
        SnapshotRequest::LoadSnapshotChunk(_) => ResponseLoadSnapshotChunk::default().into(),
        SnapshotRequest::ApplySnapshotChunk(_) => {
            let result = response_apply_snapshot_chunk::Result::Abort.into();
            ResponseApplySnapshotChunk {
                result,
                ..Default::default()
            }
            .into()
        }
    }
}

#[tokio::main]
async fn main() -> eyre::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let app = Arc::new(Noop {
        mode: args.mode,
        pool: Mutex::default(),
    });
    if let Mode::Inserted { grpc_listen } = args.mode {
        let intake = Intake(Arc::clone(&app));
        let server = tonic::transport::Server::builder()
            .max_frame_size(256 << 10)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .add_service(intake);
        tokio::spawn(server.serve(grpc_listen));
    }
    let (consensus, mempool) = (Arc::clone(&app), app);
    let server = Server::bind(
        &ListenAddress::Unix(args.socket),
        service_fn(move |request| {
            let response = consensus.consensus(request);
            async move { Ok(response) }
        }),
        service_fn(move |request| {
            let response = mempool.mempool(request);
            async move { Ok(response) }
        }),
        service_fn(|request| async move {
            Ok(match request {
                InfoRequest::Info(_) => ResponseInfo::default().into(),
                InfoRequest::Query(_) => ResponseQuery::default().into(),
            })
        }),
        service_fn(|request| async move { Ok(snapshot(request)) }),
    )
    .await?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(server.run(shutdown).await?)
}
