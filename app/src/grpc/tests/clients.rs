//! The API on a real socket, with clients that do not behave.

use std::{net::SocketAddr, path::Path};

use counterpoint_core::{action::Action, action::SubmitData, primitive::Nonce};
use counterpoint_proto::sequencer::sequencer_client::SequencerClient;
use counterpoint_service::connection::{self, Incoming};
use tempfile::tempdir;
use tokio::{net::TcpListener, time::sleep};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use super::super::*;
use crate::{
    mempool::Gossip,
    metric, serve_grpc,
    testing::{Node, rollup, sign},
};

/// How long anything may take that must happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the node waits for a reader here.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of the rollup in each block: more than HTTP/2 and the buffers of a stream take together.
const BLOCK_BYTES: usize = 600_000;
const TIP: u64 = 12;

struct Fixture {
    sequencer: Sequencer,
    address: SocketAddr,
    shutdown: CancellationToken,
    _streamable: watch::Sender<Height>,
}

async fn start(path: &Path, limits: connection::Limits) -> Fixture {
    let node = Node::start_with(path, Gossip::Direct).await;
    node.advance().await;
    for nonce in 0..TIP - 1 {
        let items = vec![vec![1; 100_000].into(); BLOCK_BYTES / 100_000];
        let data = SubmitData::new(rollup(), items).unwrap();
        let tx = sign(1, Nonce::new(nonce).get(), 1, Action::SubmitData(data));
        assert_eq!(node.check(&tx).await, (0, String::new()));
        node.advance().await;
    }
    for height in 1..=TIP {
        let validators = Some(&b"validators"[..]);
        let put = node
            .store
            .put_header(Height::new(height), b"header", validators);
        put.unwrap();
    }
    let (streamable, watched) = watch::channel(Height::new(TIP));
    let shutdown = CancellationToken::new();
    let rpc = crate::health::rpc_client("http://127.0.0.1:1").unwrap();
    let mut sequencer = Sequencer::new(
        node.store,
        node.mempool,
        node.bundles,
        rpc,
        watched,
        shutdown.clone(),
    );
    sequencer.patience = PATIENCE;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, limits, metric::CONNECTIONS);
    tokio::spawn(serve_grpc(incoming, sequencer.clone(), shutdown.clone()));
    Fixture {
        sequencer,
        address,
        shutdown,
        _streamable: streamable,
    }
}

impl Fixture {
    async fn connect(&self) -> Result<SequencerClient<Channel>, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        Ok(SequencerClient::new(endpoint.connect().await?))
    }

    async fn stream(&self, client: &mut SequencerClient<Channel>) -> Streaming<RollupBlock> {
        let request = StreamRollupBlocksRequest {
            rollup_id: Bytes::copy_from_slice(rollup().as_bytes()),
            from_height: 2,
        };
        client
            .stream_rollup_blocks(request)
            .await
            .unwrap()
            .into_inner()
    }

    fn readers(&self) -> usize {
        MAX_STREAMS - self.sequencer.seats.available_permits()
    }
}

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_stuck_loses_its_place_and_its_connection() {
    let directory = tempdir().unwrap();
    let fixture = start(directory.path(), connection::Limits::default()).await;
    let mut stuck = fixture.connect().await.unwrap();
    let mut unread = fixture.stream(&mut stuck).await;
    let first = unread.message().await.unwrap().unwrap();
    assert_eq!(first.height, 2);
    // The client's library answers pings, but its user reads no more: HTTP/2 lets nothing pass.
    assert_eq!(fixture.readers(), 1);
    wait_for("the place of a stuck reader", || fixture.readers() == 0).await;
    let mut last = 2;
    let status = loop {
        match unread.message().await {
            Ok(Some(block)) => last = block.height,
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    assert!(last < TIP, "not all of it was buffered: {last}");
    assert_ne!(status.code(), Code::Ok, "{status}");
    // Whoever reads gets everything meanwhile.
    let mut good = fixture.connect().await.unwrap();
    let mut blocks = fixture.stream(&mut good).await;
    for height in 2..=TIP {
        assert_eq!(blocks.message().await.unwrap().unwrap().height, height);
    }
    fixture.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_told_where_to_resume() {
    let directory = tempdir().unwrap();
    let fixture = start(directory.path(), connection::Limits::default()).await;
    let slow = fixture.sequencer.clone();
    let mut request = Request::new(StreamRollupBlocksRequest {
        rollup_id: Bytes::copy_from_slice(rollup().as_bytes()),
        from_height: 2,
    });
    let cut = CancellationToken::new();
    request.extensions_mut().insert(Peer {
        cut: cut.clone(),
        readers: Arc::new(Semaphore::new(1)),
    });
    let answer = sequencer_server::Sequencer::stream_rollup_blocks(&slow, request);
    let mut stream = answer.await.unwrap().into_inner();
    let was_cut = tokio::time::timeout(DEADLINE, cut.cancelled()).await;
    assert!(was_cut.is_ok(), "waited for the connection to be cut");
    let mut buffered = 0;
    let status = loop {
        match tokio_stream::StreamExt::next(&mut stream).await.unwrap() {
            Ok(block) => buffered += block.borsh_list.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("resume from height 3"),
        "{status}"
    );
    assert!((BLOCK_BYTES..2 << 20).contains(&buffered), "{buffered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_places_come_back() {
    let directory = tempdir().unwrap();
    let limits = connection::Limits {
        all: 3,
        per_address: 2,
        readers_per_address: 1,
    };
    let fixture = start(directory.path(), limits).await;
    let info = async |client: &mut SequencerClient<Channel>| {
        client.get_info(GetInfoRequest {}).await.map(|_| ())
    };
    let mut clients = [
        fixture.connect().await.unwrap(),
        fixture.connect().await.unwrap(),
    ];
    for client in &mut clients {
        info(client).await.unwrap();
    }
    let mut reader = fixture.stream(&mut clients[0]).await;
    assert_eq!(reader.message().await.unwrap().unwrap().height, 2);
    let request = StreamRollupBlocksRequest {
        rollup_id: Bytes::copy_from_slice(rollup().as_bytes()),
        from_height: 2,
    };
    let refused = clients[1].stream_rollup_blocks(request).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::ResourceExhausted,
        "one reader of an address is enough"
    );
    drop(reader);
    let third = async || match fixture.connect().await {
        Ok(mut client) => info(&mut client).await.is_ok(),
        Err(_) => false,
    };
    assert!(!third().await, "two connections of one address are enough");
    drop(clients);
    let back = tokio::time::timeout(DEADLINE, async {
        while !third().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(back.await.is_ok(), "waited for a place to come back");
}
