//! Connections: how many there are, and how slow they may be.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use counterpoint_service::{Patient, probes::in_use};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
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
        let stream = Patient::new(stream, seat);
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
    stream: Patient<TcpStream, Seat>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_seat_is_told_in_full() {
        let answer = String::from_utf8(NO_SEAT.to_vec()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
