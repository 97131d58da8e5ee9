//! A man in the middle of the Engine API: relays the conductor's calls to its client, and holds one
//! of them at the step where a test wants something to die.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::support::PATIENCE;

/// Where a call can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The conductor has sent a payload, the client has not got it. The block before is committed.
    PayloadSent,
    /// The client has judged the payload, the conductor does not know.
    PayloadAnswered,
    /// The conductor has heard of VALID and sent the forkchoice, the client has not got it.
    ForkchoiceSent,
    /// The client has moved its head, the conductor has not committed the block.
    ForkchoiceAnswered,
    /// A rebuild has asked for a block with all that is in it.
    BlockAsked,
}

impl Step {
    /// Those of a block on its way.
    pub(crate) const ALL: [Self; 4] = [
        Self::PayloadSent,
        Self::PayloadAnswered,
        Self::ForkchoiceSent,
        Self::ForkchoiceAnswered,
    ];
}

/// What becomes of the next call at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// So many calls pass before.
    Waits(Step, usize),
    Holds(Step),
}

#[derive(Debug)]
struct Shared {
    /// The client's authenticated port.
    client: String,
    http: reqwest::Client,
    gate: watch::Sender<Gate>,
}

/// Stands between one conductor and one client; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(client: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            client: client.to_owned(),
            http: reqwest::Client::new(),
            gate: watch::Sender::new(Gate::Open),
        });
        let routes = Router::new()
            .fallback(relay)
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            url,
            shared,
            serving,
        }
    }

    /// Waits until a call is held at `step`. All others pass.
    pub(crate) async fn hold(&self, step: Step) {
        self.hold_after(step, 0).await;
    }

    /// The same when so many have passed there.
    pub(crate) async fn hold_after(&self, step: Step, calls: usize) {
        self.shared.gate.send_replace(Gate::Waits(step, calls));
        let mut gate = self.shared.gate.subscribe();
        let held = gate.wait_for(|gate| *gate == Gate::Holds(step));
        let held = tokio::time::timeout(PATIENCE, held).await;
        held.unwrap_or_else(|_| panic!("no call came to {step:?}"))
            .unwrap();
    }

    /// Lets go of the call, if who made it still waits for its answer.
    pub(crate) fn release(&self) {
        self.shared.gate.send_replace(Gate::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    async fn pass(&self, step: Step) {
        let holds = self.gate.send_if_modified(|gate| match gate {
            Gate::Waits(awaited, 0) if *awaited == step => {
                *gate = Gate::Holds(step);
                true
            }
            Gate::Waits(awaited, calls) if *awaited == step => {
                *calls -= 1;
                false
            }
            _ => false,
        });
        if holds {
            let mut gate = self.gate.subscribe();
            gate.wait_for(|gate| *gate == Gate::Open).await.unwrap();
        }
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> reqwest::Result<Response> {
        let mut request = self.http.post(&self.client).body(body);
        for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await?;
        Ok((answer.status(), answer.bytes().await?).into_response())
    }
}

/// The connection of a caller that dies is closed, and with it what it asked for.
async fn relay(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let method = request["method"].as_str().unwrap_or_default();
    if method == "eth_getBlockByNumber" && request["params"][1] == true {
        shared.pass(Step::BlockAsked).await;
    }
    let steps = if method.starts_with("engine_newPayload") {
        Some((Step::PayloadSent, Step::PayloadAnswered))
    } else if method.starts_with("engine_forkchoiceUpdated") {
        Some((Step::ForkchoiceSent, Step::ForkchoiceAnswered))
    } else {
        None
    };
    if let Some((sent, _)) = steps {
        shared.pass(sent).await;
    }
    let answer = shared.forward(&headers, body).await;
    if let Some((_, answered)) = steps {
        shared.pass(answered).await;
    }
    answer.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}
