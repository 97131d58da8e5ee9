//! The server on real sockets, with a scripted peer.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

use std::{net::Ipv4Addr, path::PathBuf, pin::Pin, time::Duration};

use bytes::BytesMut;
use counterpoint_abci::{
    BoxError, ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, ListenAddress,
    MempoolRequest, MempoolResponse, Server, ServerError, SnapshotRequest, SnapshotResponse, frame,
    proto::abci::{
        Request, RequestCommit, RequestEcho, RequestFlush, RequestInfo, RequestInitChain,
        RequestInsertTx, Response, ResponseInfo, ResponseInsertTx, request, response,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    address: ListenAddress,
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

async fn bind(
    address: &ListenAddress,
) -> Result<
    impl Future<
        Output = (
            ListenAddress,
            CancellationToken,
            JoinHandle<Result<(), ServerError>>,
        ),
    >,
    ServerError,
> {
    let server = Server::bind(
        address,
        service_fn(consensus),
        service_fn(mempool),
        service_fn(info),
        service_fn(snapshot),
    );
    let server = server.await?;
    Ok(async {
        let (address, shutdown) = (server.local_address().unwrap(), CancellationToken::new());
        let running = tokio::spawn(server.run(shutdown.clone()));
        (address, shutdown, running)
    })
}

async fn start_at(address: ListenAddress, directory: tempfile::TempDir) -> Fixture {
    let (address, shutdown, running) = bind(&address).await.unwrap().await;
    Fixture {
        address,
        shutdown,
        running,
        _directory: directory,
    }
}

async fn start() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("abci.sock");
    start_at(ListenAddress::Unix(path), directory).await
}

async fn start_tcp() -> Fixture {
    let address = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    start_at(address, tempfile::tempdir().unwrap()).await
}

trait Stream: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Stream for T {}

impl Fixture {
    async fn connect(&self) -> Pin<Box<dyn Stream>> {
        match &self.address {
            ListenAddress::Unix(path) => Box::pin(UnixStream::connect(path).await.unwrap()),
            ListenAddress::Tcp(address) => Box::pin(TcpStream::connect(address).await.unwrap()),
        }
    }

    fn path(&self) -> PathBuf {
        match &self.address {
            ListenAddress::Unix(path) => path.clone(),
            ListenAddress::Tcp(address) => panic!("{address} is no path"),
        }
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

async fn read(stream: &mut Pin<Box<dyn Stream>>, buffer: &mut BytesMut) -> Option<response::Value> {
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
    let fixture = start().await;
    answers_a_batch_by_one_write(&fixture).await;
    fixture.shutdown.cancel();
    let path = fixture.path();
    fixture.running.await.unwrap().unwrap();
    assert!(!path.exists(), "the socket is removed");
    let fixture = start_tcp().await;
    answers_a_batch_by_one_write(&fixture).await;
    fixture.shutdown.cancel();
    fixture.running.await.unwrap().unwrap();
}

async fn answers_a_batch_by_one_write(fixture: &Fixture) {
    let mut stream = fixture.connect().await;
    let echo = request::Value::Echo(RequestEcho {
        message: "hello".into(),
    });
    let mut batch = vec![echo, request::Value::Info(RequestInfo::default())];
    batch.extend((1..=50).map(insert));
    batch.push(request::Value::Flush(RequestFlush {}));
    stream.write_all(&encode(batch)).await.unwrap();
    let mut buffer = BytesMut::with_capacity(1 << 20);
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
}

#[tokio::test]
async fn garbage_ends_its_connection_and_no_other() {
    let fixture = start().await;
    let mut good = fixture.connect().await;
    for garbage in [&[0xff; 6][..], &[3, 0xff, 0xff, 0xff], &[0]] {
        let mut bad = fixture.connect().await;
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
    let fixture = start().await;
    let mut stream = fixture.connect().await;
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
    let fixture = start().await;
    let mut stream = fixture.connect().await;
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
async fn an_address_is_taken_over_only_when_it_is_stale() {
    let refused = async |address: &ListenAddress| bind(address).await.err();
    for fixture in [start().await, start_tcp().await] {
        let error = refused(&fixture.address).await;
        assert!(matches!(error, Some(ServerError::InUse(_))), "{error:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("precious.txt");
    std::fs::write(&file, "precious").unwrap();
    let error = refused(&ListenAddress::Unix(file)).await;
    assert!(matches!(error, Some(ServerError::NotASocket(_))));
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    bind(&ListenAddress::Unix(stale)).await.map(drop).unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_its_connection() {
    let fixture = start().await;
    let mut stream = fixture.connect().await;
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
