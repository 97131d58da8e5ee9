//! Requests of HTTP: who calls, what for, and the answers of geth to what is no call.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{FromRequestParts, Path, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::any,
};
use futures::StreamExt;
use metrics::counter;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tower_http::{
    CompressionLevel,
    compression::CompressionLayer,
    cors::{AllowHeaders, AllowOrigin, CorsLayer},
};

use super::{
    RpcError, Served,
    dispatch::Context,
    limits::Gate,
    message::refusal,
    session::{self, Subscriptions},
};
use crate::metric;

/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long browsers may remember what they may send.
const CORS_AGE: Duration = Duration::from_secs(600);
/// Types of bodies that geth reads.
const JSON_TYPES: [&str; 3] = [
    "application/json",
    "application/json-rpc",
    "application/jsonrequest",
];

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// An answer to what is not read on.
type Refused = Box<Response>;

/// The routes of the server.
pub(super) fn routes(served: Arc<Served>) -> Router {
    let origins = &served.gate.limits.cors_origins;
    let cors = CorsLayer::new()
        .allow_origin(allowed(origins))
        .allow_methods([Method::POST, Method::GET])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(CORS_AGE);
    let routes = Router::new()
        .route("/", any(at_root))
        .route("/{rollup}", any(at_rollup))
        .route("/{rollup}/{key}", any(at_key))
        .fallback(async || not_served())
        .with_state(Arc::clone(&served))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
    if origins.is_empty() {
        routes
    } else {
        routes.layer(cors)
    }
}

fn allowed(origins: &[String]) -> AllowOrigin {
    if origins.iter().any(|origin| origin == "*") {
        return AllowOrigin::any();
    }
    let values = origins.iter().filter_map(|origin| origin.parse().ok());
    AllowOrigin::list(values.collect::<Vec<HeaderValue>>())
}

async fn at_root(State(served): State<Arc<Served>>, request: Request) -> Response {
    let name = served.default.clone();
    answer(&served, name.as_deref(), None, request).await
}

async fn at_rollup(
    State(served): State<Arc<Served>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    answer(&served, Some(&name), None, request).await
}

async fn at_key(
    State(served): State<Arc<Served>>,
    Path((name, key)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(&served, Some(&name), Some(key), request).await
}

async fn answer(
    served: &Served,
    name: Option<&str>,
    key: Option<String>,
    request: Request,
) -> Response {
    let Some(rollup) = name.and_then(|name| served.rollups.get(name)) else {
        return not_served();
    };
    let Some(Peer(peer)) = request.extensions().get().copied() else {
        return fail(StatusCode::BAD_REQUEST, &RpcError::internal("nobody calls"));
    };
    let headers = request.headers();
    let key = key.or_else(|| key_of(headers));
    let caller = match served.gate.caller(peer.ip(), headers, key.as_deref()) {
        Ok(caller) => caller,
        Err(error) => {
            counter!(metric::REFUSED, "reason" => "key").increment(1);
            return fail(StatusCode::UNAUTHORIZED, &error);
        }
    };
    let context = Context {
        rollup: Arc::clone(rollup),
        gate: Arc::clone(&served.gate),
        bundles: served.bundles.clone(),
        caller,
        subscriptions: None,
    };
    if headers.contains_key(header::UPGRADE) {
        upgrade(served, context, request).await
    } else {
        call(&context, request).await
    }
}

/// The key in a header: `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
fn key_of(headers: &HeaderMap) -> Option<String> {
    let bearer = headers.get(header::AUTHORIZATION);
    let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    bearer.or(key).map(|key| key.trim().to_owned())
}

/// Answers what is sent in a body.
async fn call(context: &Context, request: Request) -> Response {
    let is_empty = request.body().is_end_stream();
    // Load balancers ask like that whether somebody is there.
    if request.method() == Method::GET && is_empty && request.uri().query().is_none() {
        return StatusCode::OK.into_response();
    }
    if let Err(refused) = check(&context.gate, &request) {
        return *refused;
    }
    let version = request.version();
    let (body, _room) = match read(&context.gate, request).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let reply = context.answer(&body).await;
    let status = if reply.is_limited {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    let mut response = json(status, reply.text.unwrap_or_default());
    if reply.is_limited {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if version == Version::HTTP_10 {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Refuses what geth refuses before it reads the body, and bodies that are compressed.
fn check(gate: &Gate, request: &Request) -> Result<(), Refused> {
    let headers = request.headers();
    if [Method::PUT, Method::DELETE].contains(request.method()) {
        return Err(text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed").into());
    }
    let length = request.body().size_hint().lower();
    if length > gate.limits.max_body_bytes as u64 {
        return Err(too_large(gate, length).into());
    }
    if request.method() == Method::OPTIONS {
        return Err(StatusCode::OK.into_response().into());
    }
    let content = headers.get(header::CONTENT_TYPE);
    let content = content.and_then(|content| content.to_str().ok()?.split(';').next());
    let content = content.unwrap_or_default().trim().to_ascii_lowercase();
    if !JSON_TYPES.contains(&content.as_str()) {
        let reason = "invalid content type, only application/json is supported";
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).into());
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let reason = "invalid content encoding, requests are read uncompressed only";
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).into());
    }
    Ok(())
}

/// Reads a body in bounded time and memory; its room is taken while it is answered.
async fn read(
    gate: &Gate,
    request: Request,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refused> {
    let reading = read_chunks(gate, request.into_body());
    let read = timeout(BODY_TIMEOUT, reading).await;
    read.unwrap_or_else(|_| Err(text(StatusCode::REQUEST_TIMEOUT, "read timeout").into()))
}

async fn read_chunks(
    gate: &Gate,
    body: Body,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refused> {
    let (mut read, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| text(StatusCode::BAD_REQUEST, "read error"))?;
        let length = read.len() + chunk.len();
        if length > gate.limits.max_body_bytes {
            return Err(too_large(gate, length as u64).into());
        }
        let more = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let more = Arc::clone(&gate.bodies).try_acquire_many_owned(more);
        let Ok(more) = more else {
            counter!(metric::REFUSED, "reason" => "memory").increment(1);
            let error = RpcError::overloaded("the composer is overloaded, try again later");
            return Err(fail(StatusCode::SERVICE_UNAVAILABLE, &error).into());
        };
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        read.extend_from_slice(&chunk);
    }
    Ok((read, room))
}

/// Goes on over WebSocket.
async fn upgrade(served: &Served, mut context: Context, request: Request) -> Response {
    let gate = &served.gate;
    let origins = &gate.limits.cors_origins;
    let origin = request.headers().get(header::ORIGIN);
    // Only browsers send an origin, and only they ask nobody before they connect.
    if origin.is_some_and(|origin| !origins.iter().any(|known| known == "*" || origin == known)) {
        return text(StatusCode::FORBIDDEN, "origin not allowed");
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let Some(seat) = gate.websockets.take(Some(context.caller.address)) else {
        let error = RpcError::overloaded("too many connections");
        return fail(StatusCode::TOO_MANY_REQUESTS, &error);
    };
    let subscriptions = Arc::new(Subscriptions::new(gate.limits.max_subscriptions));
    context.subscriptions = Some(Arc::clone(&subscriptions));
    let shutdown = served.shutdown.clone();
    upgrade
        .max_message_size(gate.limits.max_body_bytes)
        .max_frame_size(gate.limits.max_body_bytes)
        .on_upgrade(|socket| session::run(socket, context, subscriptions, shutdown, seat))
}

fn not_served() -> Response {
    let error = RpcError::invalid_request("no rollup is served at this path");
    fail(StatusCode::NOT_FOUND, &error)
}

fn too_large(gate: &Gate, length: u64) -> Response {
    let most = gate.limits.max_body_bytes;
    let reason = format!("content length too large ({length}>{most})");
    text(StatusCode::PAYLOAD_TOO_LARGE, &reason)
}

fn fail(status: StatusCode, error: &RpcError) -> Response {
    json(status, refusal(error))
}

fn json(status: StatusCode, body: String) -> Response {
    let content = [(header::CONTENT_TYPE, "application/json")];
    (status, content, body).into_response()
}

/// A refusal in the shape of geth's, and the end of the connection: a body may still be coming.
fn text(status: StatusCode, reason: &str) -> Response {
    let headers = [(header::CONNECTION, "close")];
    (status, headers, format!("{reason}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::rpc::Limits;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let gate = Gate::new(Limits::default()).unwrap();
        let pending = stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = Request::new(Body::from_stream(pending));
        let refused = read(&gate, request).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn bodies_take_room_until_they_are_answered() {
        let gate = Gate::new(Limits::default()).unwrap();
        let all = gate.bodies.available_permits();
        let (body, room) = read(&gate, Request::new(Body::from("12345")))
            .await
            .unwrap();
        assert_eq!(
            (&body[..], gate.bodies.available_permits()),
            (&b"12345"[..], all - 5)
        );
        drop(room);
        let rest = gate
            .bodies
            .try_acquire_many(u32::try_from(all - 3).unwrap())
            .unwrap();
        let refused = read(&gate, Request::new(Body::from("12345")))
            .await
            .unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(rest);
    }
}
