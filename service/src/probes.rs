//! `/livez`, `/readyz`, `/metrics`, `/version` and `/status` on every service.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Json, Router, body::Body, http::StatusCode, routing::get};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::Patient;

/// Most connections at a time: probes need few, and pages some.
const MAX_CONNECTIONS: usize = 512;
/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a connection that could not be accepted, for want of files for instance.
const RETRY: Duration = Duration::from_millis(50);

/// Named conditions that must all hold before a service takes work; each starts as not met.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    /// Requires `conditions`, none of which is met yet.
    #[must_use]
    pub fn of(conditions: &[&'static str]) -> Self {
        let waiting = |name: &&'static str| (*name, Some("not yet".to_owned()));
        Self(Arc::new(RwLock::new(
            conditions.iter().map(waiting).collect(),
        )))
    }

    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(condition, None);
    }

    /// The condition does not hold, and why.
    pub fn unmet(&self, condition: &'static str, reason: impl Into<String>) {
        let reason = Some(reason.into());
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(condition, reason);
    }

    /// Does `work`; while it takes longer than `patience`, the condition does not hold.
    pub async fn watch<T>(
        &self,
        condition: &'static str,
        patience: Duration,
        reason: &str,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let result = match tokio::time::timeout(patience, &mut work).await {
            Ok(result) => result,
            Err(_) => {
                warn!(condition, reason, "not ready");
                self.unmet(condition, reason);
                work.await
            }
        };
        self.met(condition);
        result
    }

    /// The conditions that do not hold, with their reasons.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        let conditions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let unmet = |(name, reason): (&&'static str, &Option<String>)| {
            reason.clone().map(|reason| (*name, reason))
        };
        conditions.iter().filter_map(unmet).collect()
    }
}

/// Reads a service's own status.
type Status = Arc<dyn Fn() -> Value + Send + Sync>;

/// The HTTP server of a service's probes.
#[derive(Clone)]
pub struct Probes {
    readiness: Readiness,
    metrics: PrometheusHandle,
    status: Status,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}

impl Probes {
    /// Probes that show `readiness` and what `status` says when asked.
    #[must_use]
    pub fn new(
        readiness: Readiness,
        metrics: PrometheusHandle,
        status: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        Self {
            readiness,
            metrics,
            status: Arc::new(status),
        }
    }

    /// The routes, for a service that adds its own.
    pub fn router(self) -> Router {
        let Self {
            readiness,
            metrics,
            status,
        } = self;
        let version = json!({ "name": "counterpoint", "version": env!("CARGO_PKG_VERSION") });
        Router::new()
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(move || async move { ready(&readiness) }))
            .route("/metrics", get(move || async move { metrics.render() }))
            .route("/version", get(move || async move { Json(version) }))
            .route("/status", get(move || async move { Json(status()) }))
    }
}

/// Serves `routes` until told to stop; what was begun is answered.
///
/// # Errors
/// The socket cannot be opened.
pub async fn serve(
    listen: SocketAddr,
    routes: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| in_use(listen, &error))?;
    let (places, connections) = (
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        TaskTracker::new(),
    );
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                // Those beyond are closed without a word.
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let stream = Patient::new(stream, place);
                    connections.spawn(serve_one(stream, routes.clone(), shutdown.clone()));
                }
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Serves a connection until it ends; told to stop, it answers what was begun.
async fn serve_one<T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: T,
    routes: Router,
    shutdown: CancellationToken,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        routes.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}

/// Says which address could not be opened; the system's own text does not.
#[must_use]
pub fn in_use(listen: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("failed to listen on {listen}: {error}; choose a free port"),
    )
}

fn ready(readiness: &Readiness) -> (StatusCode, Json<Value>) {
    let reasons = readiness.reasons();
    let ready = reasons.is_empty();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(json!({ "ready": ready, "reasons": reasons })))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_loses_its_connection() {
        let (mut peer, ours) = tokio::io::duplex(1_024);
        let routes = Router::new().route("/livez", get(|| async { "ok" }));
        let served = tokio::spawn(serve_one(ours, routes, CancellationToken::new()));
        let ask = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
        peer.write_all(ask).await.unwrap();
        let mut answer = [0; 1_024];
        let length = peer.read(&mut answer).await.unwrap();
        assert!(answer[..length].ends_with(b"ok"));
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn slow_work_shows_while_it_lasts() {
        let readiness = Readiness::of(&["peer"]);
        let second = Duration::from_secs(1);
        let work = |seconds| tokio::time::sleep(second * seconds);
        readiness.watch("peer", second * 5, "slow", work(4)).await;
        assert!(readiness.reasons().is_empty());
        let slow = readiness.watch("peer", second * 5, "slow", work(10));
        let look = async {
            work(9).await;
            readiness.reasons()
        };
        let (_, seen) = tokio::join!(slow, look);
        assert_eq!(seen["peer"], "slow");
        assert!(readiness.reasons().is_empty());
    }
}
