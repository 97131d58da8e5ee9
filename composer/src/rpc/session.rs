//! One WebSocket connection: calls, and what its subscriptions tell.
//!
//! Everything is written by one task, in order: an answer before the first notification of what it
//! began. While a reader is slow nothing is kept for it; it reads on from what all share, and loses
//! its connection if that has gone on without it.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, WebSocket, close_code},
};
use counterpoint_service::to_f64;
use futures::{
    Stream, StreamExt, future,
    stream::{self, FuturesUnordered},
};
use metrics::{counter, gauge};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::StreamMap;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_util::sync::CancellationToken;

use super::{
    RpcError,
    dispatch::{Context, Reply},
    limits::Seat,
    message::notification,
    random_id,
    subscribe::{Begun, Broken},
};
use crate::metric;

/// Pause between two signs of life that are asked for; without one in between the connection ends.
const PING: Duration = Duration::from_secs(30);
/// Most calls of a connection that are worked on; more are read when one is answered.
const MAX_CALLS: usize = 32;

/// The subscriptions of a connection that have not ended, by id.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    ids: Mutex<HashSet<String>>,
    limit: usize,
}

impl Subscriptions {
    /// None yet, and never more than `limit`.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            ids: Mutex::default(),
            limit,
        }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a new one.
    pub(crate) fn begin(&self) -> Result<String, RpcError> {
        let mut ids = self.ids();
        if ids.len() >= self.limit {
            counter!(metric::REFUSED, "reason" => "subscriptions").increment(1);
            return Err(RpcError::overloaded("too many subscriptions"));
        }
        let id = random_id().map_err(RpcError::internal)?;
        ids.insert(id.clone());
        gauge!(metric::SUBSCRIPTIONS).increment(1.0);
        Ok(id)
    }

    /// Ends one.
    pub(crate) fn end(&self, id: &str) -> Result<(), RpcError> {
        if !self.ids().remove(id) {
            return Err(RpcError::not_found("subscription"));
        }
        gauge!(metric::SUBSCRIPTIONS).decrement(1.0);
        Ok(())
    }

    fn has(&self, id: &str) -> bool {
        self.ids().contains(id)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        gauge!(metric::SUBSCRIPTIONS).decrement(to_f64(self.ids().len() as u64));
    }
}

/// How a connection ends, for who is at its other end: code and reason.
type Ending = (u16, String);
/// What a subscription tells, or that it has ended, under the method of its notifications.
type Event = (&'static str, Option<Result<String, Broken>>);

/// Serves a connection until it ends.
pub(crate) async fn run(
    mut socket: WebSocket,
    context: Context,
    subscriptions: Arc<Subscriptions>,
    shutdown: CancellationToken,
    _seat: Seat,
) {
    let session = Session {
        context,
        subscriptions,
        events: StreamMap::new(),
    };
    if let Err(Some((code, reason))) = session.run(&mut socket, shutdown).await {
        let reason = reason.into();
        let frame = CloseFrame { code, reason };
        let _gone = socket.send(Message::Close(Some(frame))).await;
    }
}

struct Session {
    context: Context,
    subscriptions: Arc<Subscriptions>,
    events: StreamMap<String, Pin<Box<dyn Stream<Item = Event> + Send>>>,
}

impl Session {
    /// Serves the connection; the error says how it is to be closed, if it is not closed yet.
    async fn run(
        mut self,
        socket: &mut WebSocket,
        shutdown: CancellationToken,
    ) -> Result<Infallible, Option<Ending>> {
        let mut calls = FuturesUnordered::new();
        let mut ping = interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_alive = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Err(ending(close_code::AWAY, "going away")),
                message = socket.recv(), if calls.len() < MAX_CALLS => {
                    is_alive = true;
                    let Some(body) = read(message)? else { continue };
                    calls.push(self.answer(body)?);
                }
                Some(reply) = calls.next(), if !calls.is_empty() => {
                    self.reply(socket, reply).await?;
                }
                Some((id, event)) = self.events.next(), if !self.events.is_empty() => {
                    self.tell(socket, id, event).await?;
                }
                _ = ping.tick() => {
                    // While calls are worked on, signs of life may wait behind them.
                    if !is_alive && calls.is_empty() {
                        return Err(ending(close_code::POLICY, "no sign of life"));
                    }
                    is_alive = false;
                    send(socket, Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    /// Works on a message while others are read, if there is room for it.
    fn answer(
        &self,
        body: Bytes,
    ) -> Result<impl Future<Output = Reply> + Send + use<>, Option<Ending>> {
        let bodies = Arc::clone(&self.context.gate.bodies);
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let room = bodies.try_acquire_many_owned(length);
        let room = room.map_err(|_| ending(close_code::AGAIN, "overloaded, try again later"))?;
        let context = self.context.clone();
        Ok(async move {
            let reply = context.answer(&body).await;
            drop(room);
            reply
        })
    }

    /// Sends an answer; only then does what it began begin.
    async fn reply(&mut self, socket: &mut WebSocket, reply: Reply) -> Result<(), Option<Ending>> {
        if let Some(text) = reply.text {
            send(socket, Message::text(text)).await?;
        }
        for (id, Begun { method, told }) in reply.begun {
            let events = told.map(Some).chain(stream::once(future::ready(None)));
            let events = events.map(move |event| (method, event)).boxed();
            self.events.insert(id, events);
        }
        Ok(())
    }

    /// Sends what a subscription tells, unless it was ended.
    async fn tell(
        &mut self,
        socket: &mut WebSocket,
        id: String,
        (method, event): Event,
    ) -> Result<(), Option<Ending>> {
        if !self.subscriptions.has(&id) {
            self.events.remove(&id);
            return Ok(());
        }
        match event {
            None => {
                let _ended = self.subscriptions.end(&id);
                Ok(())
            }
            Some(Ok(told)) => {
                let text = notification(method, &id, &told);
                send(socket, Message::text(text)).await
            }
            Some(Err(broken)) => {
                counter!(metric::REFUSED, "reason" => "slow").increment(1);
                let code = match broken {
                    Broken::Slow => close_code::POLICY,
                    Broken::NoBundle | Broken::NoLogs | Broken::NoStatus => close_code::ERROR,
                };
                Err(ending(code, broken))
            }
        }
    }
}

fn ending(code: u16, reason: impl fmt::Display) -> Option<Ending> {
    Some((code, reason.to_string()))
}

/// Sends a message. One that a reader does not take for long ends the connection below this.
async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Option<Ending>> {
    socket.send(message).await.map_err(|_| None)
}

/// A message that may be a call.
fn read(message: Option<Result<Message, axum::Error>>) -> Result<Option<Bytes>, Option<Ending>> {
    match message {
        None | Some(Ok(Message::Close(_))) => Err(None),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Text(text))) => Ok(Some(text.into())),
        Some(Ok(Message::Binary(bytes))) => Ok(Some(bytes)),
        Some(Err(error)) => Err(match error.into_inner().downcast_ref() {
            Some(WsError::Capacity(_)) => ending(close_code::SIZE, "message too big"),
            Some(WsError::Utf8(_)) => ending(close_code::INVALID, "text is not UTF-8"),
            Some(WsError::Protocol(error)) => ending(close_code::PROTOCOL, error),
            _ => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause, resume};

    use super::*;
    use crate::rpc::{Limits, testing::Server};

    /// Time passes beyond the next sign of life that is asked for, of every connection: clocks of
    /// connections differ by what timers are rounded to.
    async fn next_ping() {
        pause();
        advance(PING + Duration::from_millis(10)).await;
        resume();
    }

    #[tokio::test]
    async fn who_gives_no_sign_of_life_loses_the_connection() {
        let server = Server::start(Limits::default()).await;
        let (mut alive, mut dead) = (server.connect().await, server.connect().await);
        for socket in [&mut alive, &mut dead] {
            socket.call("eth_chainId", serde_json::json!([])).await;
        }
        for _ in 0..3 {
            next_ping().await;
            // Reading answers a ping; the answer to a call comes after it.
            let answer = alive.call("eth_chainId", serde_json::json!([])).await;
            assert_eq!(answer["result"], "0x1");
        }
        assert_eq!(dead.next().await, Err(close_code::POLICY));
    }
}
