//! Connections: how many there are, and how slow they may be.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use counterpoint_service::probes::in_use;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    Served,
    http::{Peer, routes},
    limits::Seat,
};

/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a reader may take nothing of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection without a seat may take to ask for something, and how many such there are;
/// those beyond are closed without a word.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REFUSALS: usize = 64;
/// Pause after a connection that could not be accepted, for want of files for instance.
const RETRY: Duration = Duration::from_millis(50);
/// What a connection is told for which there is no place.
const NO_SEAT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 85\r\nconnection: close\r\n\r\n\
    {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32005,\"message\":\"too many connections\"}}\n";

/// Serves rollups until told to stop; calls that were begun are answered.
///
/// # Errors
/// The socket cannot be opened.
pub(crate) async fn serve(listen: SocketAddr, served: Arc<Served>) -> io::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| in_use(listen, &error))?;
    accept(listener, served).await;
    Ok(())
}

/// Serves who connects to a listener, until told to stop.
pub(super) async fn accept(listener: TcpListener, served: Arc<Served>) {
    let shutdown: CancellationToken = served.shutdown.clone();
    let routes = routes(Arc::clone(&served));
    let connections = TaskTracker::new();
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(RETRY).await;
                continue;
            }
        };
        let gate = &served.gate;
        let Some(seat) = gate.connections.take(gate.holder(peer.ip())) else {
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(refuse(stream, place));
            }
            continue;
        };
        let _gone = stream.set_nodelay(true);
        let stream = Stream::new(stream, seat);
        connections.spawn(serve_one(stream, peer, routes.clone(), shutdown.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Tells a caller that there is no seat, once it has asked for something.
async fn refuse(mut stream: TcpStream, _place: OwnedSemaphorePermit) {
    let _silent = timeout(REFUSAL_TIMEOUT, stream.read(&mut [0; 4_096])).await;
    let _gone = stream.try_write(NO_SEAT);
}

/// Serves a connection until it ends; told to stop, it answers what was begun.
async fn serve_one(
    stream: Stream<TcpStream>,
    peer: SocketAddr,
    routes: Router,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        routes.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "a connection broke");
    }
}

/// A connection that breaks when its reader takes nothing for too long. It has its seat with it
/// wherever it goes, over WebSocket too.
#[derive(Debug)]
struct Stream<T> {
    inner: T,
    stalled: Option<Pin<Box<Sleep>>>,
    _seat: Seat,
}

impl<T: AsyncWrite + Unpin> Stream<T> {
    fn new(inner: T, seat: Seat) -> Self {
        Self {
            inner,
            stalled: None,
            _seat: seat,
        }
    }

    /// Lets a write pass, unless none has passed for too long.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.inner), cx) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.watch(cx, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch(cx, |inner, cx| inner.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::rpc::{Gate, Limits};

    #[test]
    fn who_finds_no_seat_is_told_in_full() {
        let answer = String::from_utf8(NO_SEAT.to_vec()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_loses_its_connection() {
        let gate = Gate::new(Limits::default()).unwrap();
        let seat = gate.connections.take(None).unwrap();
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut stream = Stream::new(ours, seat);
        stream.write_all(&[0; 64]).await.unwrap();
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
