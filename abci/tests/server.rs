//! The server on a real socket, with a scripted peer.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

use std::{path::PathBuf, time::Duration};

use bytes::BytesMut;
use counterpoint_abci::{
    BoxError, ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, MempoolRequest,
    MempoolResponse, Server, ServerError, SnapshotRequest, SnapshotResponse, frame,
    proto::abci::{
        Request, RequestCommit, RequestEcho, RequestFlush, RequestInfo, RequestInitChain,
        RequestInsertTx, Response, ResponseInfo, ResponseInsertTx, request, response,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    path: PathBuf,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ServerError>>,
    _directory: tempfile::TempDir,
}

async fn consensus(request: ConsensusRequest) -> Result<ConsensusResponse, BoxError> {
    match request {
        ConsensusRequest::Commit(_) => Err("disk is gone".into()),
        _ => panic!("a bug in a handler"),
    }
}

async fn mempool(request: MempoolRequest) -> Result<MempoolResponse, BoxError> {
    match request {
        MempoolRequest::InsertTx(request) => {
            // Long enough for a server that writes each answer to have written the last one.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let code = u32::from(request.tx[0]);
            Ok(ResponseInsertTx { code }.into())
        }
        other => Err(format!("unexpected {other:?}").into()),
    }
}

async fn info(request: InfoRequest) -> Result<InfoResponse, BoxError> {
    match request {
        InfoRequest::Info(_) => Ok(ResponseInfo {
            data: "test".into(),
            ..Default::default()
        }
        .into()),
        InfoRequest::Query(_) => Err("no queries".into()),
    }
}

async fn snapshot(_: SnapshotRequest) -> Result<SnapshotResponse, BoxError> {
    Err("no snapshots".into())
}

fn start() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("abci.sock");
    let server = Server::bind(
        &path,
        service_fn(consensus),
        service_fn(mempool),
        service_fn(info),
        service_fn(snapshot),
    );
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(server.unwrap().run(shutdown.clone()));
    Fixture {
        path,
        shutdown,
        running,
        _directory: directory,
    }
}

fn encode(values: Vec<request::Value>) -> BytesMut {
    let mut bytes = BytesMut::new();
    for value in values {
        frame::encode(&Request { value: Some(value) }, &mut bytes);
    }
    bytes
}

fn insert(code: u8) -> request::Value {
    request::Value::InsertTx(RequestInsertTx {
        tx: vec![code].into(),
    })
}

async fn read(stream: &mut UnixStream, buffer: &mut BytesMut) -> Option<response::Value> {
    loop {
        if let Some(response) = frame::decode::<Response>(buffer).unwrap() {
            return response.value;
        }
        let read = timeout(PATIENCE, stream.read_buf(buffer))
            .await
            .expect("an answer in time");
        if read.unwrap() == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_order_by_one_write() {
    let fixture = start();
    let mut stream = UnixStream::connect(&fixture.path).await.unwrap();
    let echo = request::Value::Echo(RequestEcho {
        message: "hello".into(),
    });
    let mut batch = vec![echo, request::Value::Info(RequestInfo::default())];
    batch.extend((1..=50).map(insert));
    batch.push(request::Value::Flush(RequestFlush {}));
    stream.write_all(&encode(batch)).await.unwrap();
    let mut buffer = BytesMut::with_capacity(1 << 20);
    stream.readable().await.unwrap();
    stream.read_buf(&mut buffer).await.unwrap();
    let mut codes = Vec::new();
    let mut others = 0;
    while let Some(response) = frame::decode::<Response>(&mut buffer).unwrap() {
        match response.value.unwrap() {
            response::Value::InsertTx(response) => codes.push(response.code),
            _ => others += 1,
        }
    }
    assert_eq!(
        codes,
        (1..=50).collect::<Vec<_>>(),
        "one read sees the whole batch"
    );
    assert_eq!(others, 3);
    fixture.shutdown.cancel();
    fixture.running.await.unwrap().unwrap();
    assert!(!fixture.path.exists(), "the socket is removed");
}

#[tokio::test]
async fn garbage_ends_its_connection_and_no_other() {
    let fixture = start();
    let mut good = UnixStream::connect(&fixture.path).await.unwrap();
    for garbage in [&[0xff; 6][..], &[3, 0xff, 0xff, 0xff], &[0]] {
        let mut bad = UnixStream::connect(&fixture.path).await.unwrap();
        bad.write_all(garbage).await.unwrap();
        let mut buffer = BytesMut::new();
        let answer = read(&mut bad, &mut buffer).await;
        assert!(
            matches!(answer, Some(response::Value::Exception(_))),
            "{answer:?}"
        );
        assert_eq!(read(&mut bad, &mut buffer).await, None);
    }
    good.write_all(&encode(vec![insert(7)])).await.unwrap();
    let answer = read(&mut good, &mut BytesMut::new()).await.unwrap();
    assert_eq!(
        answer,
        response::Value::InsertTx(ResponseInsertTx { code: 7 })
    );
}

#[tokio::test]
async fn a_fault_ends_the_server() {
    let fixture = start();
    let mut stream = UnixStream::connect(&fixture.path).await.unwrap();
    let commit = request::Value::Commit(RequestCommit {});
    stream.write_all(&encode(vec![commit])).await.unwrap();
    let error = timeout(PATIENCE, fixture.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ServerError::Service(_)));
}

#[tokio::test]
async fn a_panic_ends_the_server() {
    let fixture = start();
    let mut stream = UnixStream::connect(&fixture.path).await.unwrap();
    let request = request::Value::InitChain(RequestInitChain::default());
    stream.write_all(&encode(vec![request])).await.unwrap();
    let error = timeout(PATIENCE, fixture.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, ServerError::Panic(_)));
}

#[tokio::test]
async fn a_socket_is_taken_over_only_when_it_is_stale() {
    let fixture = start();
    let bind = |path: &std::path::Path| {
        Server::bind(
            path,
            service_fn(consensus),
            service_fn(mempool),
            service_fn(info),
            service_fn(snapshot),
        )
        .map(|_| ())
    };
    assert!(matches!(bind(&fixture.path), Err(ServerError::InUse(_))));
    let file = fixture.path.with_extension("txt");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(ServerError::NotASocket(_))));
    let stale = fixture.path.with_extension("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    bind(&stale).unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_its_connection() {
    let fixture = start();
    let mut stream = UnixStream::connect(&fixture.path).await.unwrap();
    // A length of four gigabytes, of which nothing is waited for.
    stream
        .write_all(&[0xff, 0xff, 0xff, 0xff, 0x0f])
        .await
        .unwrap();
    let mut buffer = BytesMut::new();
    let answer = read(&mut stream, &mut buffer).await;
    assert!(matches!(answer, Some(response::Value::Exception(_))));
    assert!(read(&mut stream, &mut buffer).await.is_none());
}
