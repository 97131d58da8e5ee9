//! The loop between CometBFT's connections and the application's services.
//!
//! CometBFT connects through a unix socket or TCP; whatever the way, the rules are the same.
//! CometBFT sends a request and a Flush together and waits for both answers, so whatever has
//! arrived is answered by **one** write. Requests of one connection are answered in order. An error
//! or a panic in a service ends the server, and so the process: a node that half lives would keep
//! answering Info and never vote.

use std::{
    future::poll_fn,
    io,
    os::unix::{fs::FileTypeExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    pin::Pin,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, info};

use crate::{
    address::ListenAddress,
    frame::{self, FrameError},
    proto::abci::{Request, Response, response},
    service::{
        BoxError, ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, MempoolRequest,
        MempoolResponse, Routed, SnapshotRequest, SnapshotResponse, route,
    },
};

/// How much is read at a time, in bytes; frames of blocks are far longer and grow the buffer.
const READ_BYTES: usize = 64 << 10;

/// Most connections at a time: CometBFT opens four.
const MAX_CONNECTIONS: usize = 16;

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something else already listens there.
    #[error("another process listens on {0}; stop it or choose another address")]
    InUse(ListenAddress),
    /// The path is taken by a file that is no socket.
    #[error("{} exists and is not a socket; move it away or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The address cannot be opened.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: ListenAddress,
        /// Why not.
        source: io::Error,
    },
    /// A service reported a fault.
    #[error("the application failed")]
    Service(#[source] BoxError),
    /// A service panicked.
    #[error("the application panicked")]
    Panic(#[source] JoinError),
}

/// Serves one application to one CometBFT.
#[derive(Debug)]
pub struct Server<C, M, I, S> {
    listener: Listener,
    address: ListenAddress,
    services: Services<C, M, I, S>,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection, whatever carries it.
trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

#[derive(Clone, Debug)]
struct Services<C, M, I, S> {
    consensus: C,
    mempool: M,
    info: I,
    snapshot: S,
}

impl<C, M, I, S> Server<C, M, I, S>
where
    C: Service<ConsensusRequest, Response = ConsensusResponse, Error = BoxError>,
    C: Clone + Send + 'static,
    C::Future: Send,
    M: Service<MempoolRequest, Response = MempoolResponse, Error = BoxError>,
    M: Clone + Send + 'static,
    M::Future: Send,
    I: Service<InfoRequest, Response = InfoResponse, Error = BoxError>,
    I: Clone + Send + 'static,
    I::Future: Send,
    S: Service<SnapshotRequest, Response = SnapshotResponse, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    /// Opens the address; a stale unix socket is replaced. A connection's requests are answered one
    /// after another, by one task: services that work where they stand need a thread for each.
    ///
    /// # Errors
    /// [`ServerError`] if the address is in use, is a file that is no socket or cannot be opened.
    pub async fn bind(
        address: &ListenAddress,
        consensus: C,
        mempool: M,
        info: I,
        snapshot: S,
    ) -> Result<Self, ServerError> {
        let services = Services {
            consensus,
            mempool,
            info,
            snapshot,
        };
        Ok(Self {
            listener: Listener::bind(address).await?,
            address: address.clone(),
            services,
        })
    }

    /// Where the server listens; the port too if it was left to the system.
    ///
    /// # Errors
    /// The system does not know.
    pub fn local_address(&self) -> io::Result<ListenAddress> {
        match &self.listener {
            Listener::Unix(_) => Ok(self.address.clone()),
            Listener::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
        }
    }

    /// Serves until told to stop; each connection finishes the batch it has in hand.
    ///
    /// # Errors
    /// [`ServerError`] if a service fails or panics: the process must end.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let mut connections = JoinSet::new();
        info!(address = %self.address, "abci server listening");
        let mut result = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                Some(ended) = connections.join_next() => {
                    if let Err(error) = outcome(ended) {
                        break Err(error);
                    }
                }
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    let stream = accepted.map_err(|source| listen_error(&self.address, source))?;
                    connections.spawn(self.services.clone().serve(stream, shutdown.clone()));
                }
            }
        };
        while result.is_ok()
            && let Some(ended) = connections.join_next().await
        {
            result = outcome(ended);
        }
        if let ListenAddress::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        result
    }
}

impl Listener {
    async fn bind(address: &ListenAddress) -> Result<Self, ServerError> {
        let bound = match address {
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                UnixListener::bind(path).map(Self::Unix)
            }
            ListenAddress::Tcp(at) => TcpListener::bind(at).await.map(Self::Tcp),
        };
        bound.map_err(|source| listen_error(address, source))
    }

    async fn accept(&self) -> io::Result<Pin<Box<dyn Stream>>> {
        match self {
            Self::Unix(listener) => Ok(Box::pin(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one write: holding it back until the last one is acknowledged would
                // cost every block a round of delayed acknowledgements.
                stream.set_nodelay(true)?;
                Ok(Box::pin(stream))
            }
        }
    }
}

fn listen_error(address: &ListenAddress, source: io::Error) -> ServerError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::InUse(address),
        _ => ServerError::Listen { address, source },
    }
}

/// What the end of a connection means for the server.
fn outcome(ended: Result<Result<(), BoxError>, JoinError>) -> Result<(), ServerError> {
    ended
        .map_err(ServerError::Panic)?
        .map_err(ServerError::Service)
}

impl<C, M, I, S> Services<C, M, I, S>
where
    C: Service<ConsensusRequest, Response = ConsensusResponse, Error = BoxError>,
    M: Service<MempoolRequest, Response = MempoolResponse, Error = BoxError>,
    I: Service<InfoRequest, Response = InfoResponse, Error = BoxError>,
    S: Service<SnapshotRequest, Response = SnapshotResponse, Error = BoxError>,
{
    /// Answers one connection until it closes. What the peer does wrong ends the connection only.
    async fn serve(
        mut self,
        mut stream: Pin<Box<dyn Stream>>,
        shutdown: CancellationToken,
    ) -> Result<(), BoxError> {
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            input.reserve(READ_BYTES);
            let read = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                read = stream.read_buf(&mut input) => read,
            };
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "abci connection lost");
                    return Ok(());
                }
            }
            let healthy = self.answer(&mut input, &mut output).await?;
            let written = stream.write_all(&output).await;
            output.clear();
            if written.is_err() || !healthy {
                return Ok(());
            }
        }
    }

    /// Answers every whole request in `input`; says whether the connection can go on.
    async fn answer(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<bool, BoxError> {
        loop {
            let request = match frame::decode::<Request>(input) {
                Ok(Some(Request {
                    value: Some(request),
                })) => request,
                Ok(None) => return Ok(true),
                Ok(Some(Request { value: None })) => {
                    refuse("request has no known type", output);
                    return Ok(false);
                }
                Err(error) => {
                    refuse(&describe(&error), output);
                    return Ok(false);
                }
            };
            let value = match route(request) {
                Routed::Immediate(value) => value,
                Routed::Consensus(request) => call(&mut self.consensus, request).await?.into(),
                Routed::Mempool(request) => call(&mut self.mempool, request).await?.into(),
                Routed::Info(request) => call(&mut self.info, request).await?.into(),
                Routed::Snapshot(request) => call(&mut self.snapshot, request).await?.into(),
            };
            frame::encode(&Response { value: Some(value) }, output);
        }
    }
}

async fn call<T, R>(service: &mut T, request: R) -> Result<T::Response, BoxError>
where
    T: Service<R, Error = BoxError>,
{
    poll_fn(|ctx| service.poll_ready(ctx)).await?;
    service.call(request).await
}

/// Tells the peer what was wrong; it gets no other answer on this connection.
fn refuse(reason: &str, output: &mut BytesMut) {
    tracing::warn!(reason, "abci connection closed");
    let exception = crate::proto::abci::ResponseException {
        error: reason.to_owned(),
    };
    let value = Some(response::Value::Exception(exception));
    frame::encode(&Response { value }, output);
}

fn describe(error: &FrameError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Unlinks a socket that nobody serves any more.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket(path.into()));
    }
    if StdUnixStream::connect(path).is_ok() {
        return Err(ServerError::InUse(ListenAddress::Unix(path.into())));
    }
    std::fs::remove_file(path)
        .map_err(|source| listen_error(&ListenAddress::Unix(path.into()), source))
}
