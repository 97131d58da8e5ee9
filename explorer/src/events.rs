//! Server-sent events: each new block, and whether the nodes answer.
//!
//! An event's id is a height. A browser that has lost its connection says the last one it saw, and is
//! told of those after it. Whoever does not read in time is let go, and comes again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Explorer,
    answer::Trouble,
    ledger::{Brief, FRESH},
};

/// Events that wait for one listener.
const BUFFER: usize = 16;
/// How long a listener may take to read one.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing happens is kept open by a word from time to time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What a browser waits before it comes again.
const RETRY: Duration = Duration::from_secs(2);
/// How often listeners are told how far the parts are.
const PARTS: Duration = Duration::from_secs(2);

/// The listener is gone, or too slow.
struct Gone;

/// Tells of blocks above the one that the browser saw last, or that the question names.
pub(crate) fn open(
    explorer: &Explorer,
    headers: &HeaderMap,
    after: Option<u64>,
) -> Result<Response, Trouble> {
    let place = Arc::clone(&explorer.0.listeners);
    let place = place.try_acquire_owned().map_err(|_| Trouble::Busy)?;
    let last = headers.get("last-event-id").map(|id| {
        let id = id.to_str().ok().and_then(|id| id.parse().ok());
        id.ok_or_else(|| Trouble::Question("Last-Event-ID must be a height".into()))
    });
    let after = last.transpose()?.or(after);
    let (sender, receiver) = mpsc::channel(BUFFER);
    let explorer = explorer.clone();
    tokio::spawn(async move {
        let shutdown = explorer.0.shutdown.clone();
        let told = feed(&explorer, after, &sender);
        shutdown.run_until_cancelled(told).await;
        drop(place);
    });
    let events = ReceiverStream::new(receiver).map(Ok::<_, Infallible>);
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // nginx would keep events back until there are many.
    Ok(([("x-accel-buffering", "no")], events).into_response())
}

async fn feed(
    explorer: &Explorer,
    after: Option<u64>,
    sender: &mpsc::Sender<Event>,
) -> Result<(), Gone> {
    let ledger = &explorer.0.ledger;
    let mut trouble = ledger.trouble();
    // Whoever comes after a time in which nobody listened is not told of all of it as news.
    let _told_as_trouble = ledger.refresh(FRESH).await;
    let (_listening, missed, mut news) = ledger.listen(after);
    send(
        sender,
        Event::default().retry(RETRY).event("hello").data("{}"),
    )
    .await?;
    for brief in missed {
        send(sender, block(&brief)).await?;
    }
    let mut parts = tokio::time::interval(PARTS);
    loop {
        let event = tokio::select! {
            brief = news.recv() => match brief {
                Ok(brief) => block(&brief),
                // It has fallen behind: it comes again and says where it stands.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Err(Gone),
            },
            _ = trouble.changed() => {
                let trouble = trouble.borrow_and_update().clone();
                Event::default().event("trouble").data(json!({ "trouble": trouble }).to_string())
            }
            _ = parts.tick() => {
                let Some(host) = explorer.host() else { continue };
                let parts = json!({ "parts": host.parts().await });
                Event::default().event("parts").data(parts.to_string())
            }
            () = sender.closed() => return Err(Gone),
        };
        send(sender, event).await?;
    }
}

fn block(brief: &Brief) -> Event {
    let text = serde_json::to_string(brief).unwrap_or_default();
    let id = brief.height.to_string();
    Event::default().event("block").id(id).data(text)
}

async fn send(sender: &mpsc::Sender<Event>, event: Event) -> Result<(), Gone> {
    let sent = sender.send_timeout(event, PATIENCE).await;
    sent.map_err(|_| Gone)
}
