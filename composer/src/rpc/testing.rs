//! Callers, and an execution client that tests play.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::B256;
use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use counterpoint_core::registry::RollupConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Gate, Limits, Rollup, Served, dispatch::Context, server::accept};
use crate::{admission::Admission, early::Early, queue::Queue, upstream::Upstream};

/// A caller without limits that matter.
pub(crate) fn context(rollup: &Arc<Rollup>) -> Context {
    let gate = Gate::new(Limits::default()).unwrap();
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Context {
        rollup: Arc::clone(rollup),
        caller: gate.caller(peer, &HeaderMap::new(), None).unwrap(),
        gate: Arc::new(gate),
        bundles: None,
        subscriptions: None,
    }
}

/// An execution client that has the blocks and logs that a test gives it, and remembers what it was
/// asked.
#[derive(Debug, Default)]
pub(crate) struct Client {
    state: Mutex<ClientState>,
}

#[derive(Debug, Default)]
struct ClientState {
    head: u64,
    logs: BTreeMap<u64, Vec<Value>>,
    asked: Vec<Value>,
    syncing: Value,
    /// What every block carries, to make it long.
    extra: String,
    /// Methods that are answered with an error.
    broken: Vec<&'static str>,
}

impl Client {
    pub(crate) async fn start() -> (String, Arc<Self>) {
        let client = Arc::new(Self::default());
        client.state.lock().unwrap().syncing = json!(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&client);
        let routes = Router::new().route("/", post(answer)).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (url, client)
    }

    /// From now on this is its last block.
    pub(crate) fn head(&self, head: u64) {
        self.state.lock().unwrap().head = head;
    }

    /// A block has a log.
    pub(crate) fn log(&self, block: u64, log: Value) {
        let mut state = self.state.lock().unwrap();
        state.logs.entry(block).or_default().push(log);
    }

    /// Every block is at least so long.
    pub(crate) fn lengthen(&self, bytes: usize) {
        self.state.lock().unwrap().extra = "00".repeat(bytes / 2);
    }

    pub(crate) fn syncing(&self, syncing: Value) {
        self.state.lock().unwrap().syncing = syncing;
    }

    /// From now on a method is answered with an error.
    pub(crate) fn break_method(&self, method: &'static str) {
        self.state.lock().unwrap().broken.push(method);
    }

    /// The methods that it was asked for, and [`LATEST`].
    pub(crate) fn asked(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let name = |call: &Value| match call["method"].as_str().unwrap() {
            "eth_getBlockByNumber" if call["params"][0] == "latest" => LATEST.to_owned(),
            method => method.to_owned(),
        };
        state.asked.iter().map(name).collect()
    }
}

/// The question about the last block, which is asked again and again.
pub(crate) const LATEST: &str = "the last block";

/// A timestamp with which the client lags behind nobody.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{:#x}", now.as_secs())
}

/// The hash of a block.
pub(crate) fn hash(number: u64) -> B256 {
    B256::with_last_byte(number.try_into().unwrap())
}

/// A number as it is asked for.
fn number(value: &Value) -> u64 {
    let text = value.as_str().unwrap().trim_start_matches("0x");
    u64::from_str_radix(text, 16).unwrap()
}

async fn answer(State(client): State<Arc<Client>>, Json(request): Json<Value>) -> Json<Value> {
    Json(match request {
        Value::Array(calls) => calls.iter().map(|call| client.answer(call)).collect(),
        call => client.answer(&call),
    })
}

impl Client {
    fn answer(&self, call: &Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.asked.push(call.clone());
        let method = call["method"].as_str().unwrap();
        if state.broken.contains(&method) {
            let error = json!({ "code": -32_000, "message": "broken" });
            return json!({ "jsonrpc": "2.0", "id": call["id"], "error": error });
        }
        let params = &call["params"];
        let result = match method {
            "eth_blockNumber" => json!(format!("{:#x}", state.head)),
            "eth_syncing" => state.syncing.clone(),
            "eth_getBlockByNumber" => {
                let number = match params[0].as_str() {
                    Some("latest") => state.head,
                    _ => number(&params[0]),
                };
                if number > state.head {
                    return json!({ "jsonrpc": "2.0", "id": call["id"], "result": null });
                }
                let bloom = if state.logs.contains_key(&number) {
                    "0x01"
                } else {
                    "0x00"
                };
                json!({
                    "number": format!("{number:#x}"), "hash": hash(number), "logsBloom": bloom,
                    "timestamp": now(), "gasUsed": "0x0", "gasLimit": "0x1c9c380",
                    "baseFeePerGas": "0x7", "extraData": format!("0x{}", state.extra), "size": "0x1", "transactions": [],
                    "uncles": [],
                })
            }
            "eth_getLogs" => {
                let filter = &params[0];
                let logs = state
                    .logs
                    .iter()
                    .filter(|(block, _)| match &filter["blockHash"] {
                        Value::Null => (number(&filter["fromBlock"])..=number(&filter["toBlock"]))
                            .contains(block),
                        asked => *asked == json!(hash(**block)),
                    });
                logs.flat_map(|(_, logs)| logs.clone()).collect()
            }
            "eth_getTransactionCount" => json!("0x0"),
            "eth_getBalance" => json!("0xffffffffffffffff"),
            _ => Value::Null,
        };
        json!({ "jsonrpc": "2.0", "id": call["id"], "result": result })
    }
}

/// A server of one rollup, at `/` and `/alpha`, with an execution client that a test plays.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: Arc<Client>,
    pub(crate) rollup: Arc<Rollup>,
    pub(crate) served: Arc<Served>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = RollupConfig {
            evm_chain_id: 1,
            min_tip_wei: 1,
            ..RollupConfig::example("alpha")
        };
        let queue = Arc::new(Queue::open(directory.path()).unwrap());
        let (url, client) = Client::start().await;
        let upstream = Upstream::new(&url).unwrap();
        let early = Arc::new(Early::default());
        let admission = Admission::open(&config, Arc::clone(&queue));
        let rollup = Rollup::new(config.into(), queue, upstream, early, None, admission);
        let rollup = Arc::new(rollup);
        let served = Arc::new(Served {
            rollups: BTreeMap::from([("alpha".into(), Arc::clone(&rollup))]),
            default: Some("alpha".into()),
            gate: Arc::new(Gate::new(limits).unwrap()),
            bundles: None,
            shutdown: CancellationToken::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = vec![
            tokio::spawn(accept(listener, Arc::clone(&served))),
            tokio::spawn(Arc::clone(&rollup).run()),
        ];
        Self {
            address,
            client,
            rollup,
            served,
            tasks,
            _directory: directory,
        }
    }

    /// Sends a body as it is, and gives status and answer.
    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let request = reqwest::Client::new()
            .post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// What a call is answered.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let (status, answer) = self.post("/", call.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// A WebSocket.
    pub(crate) async fn connect(&self) -> Socket {
        let url = format!("ws://{}/alpha", self.address);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Socket(socket)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

type Connection =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A WebSocket of a caller.
pub(crate) struct Socket(pub(crate) Connection);

impl Socket {
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        use futures::SinkExt;
        let message = tokio_tungstenite::tungstenite::Message::text(text.into());
        self.0.send(message).await.unwrap();
    }

    /// The next text, or the code of the frame that ends the connection.
    pub(crate) async fn next(&mut self) -> Result<Value, u16> {
        use futures::StreamExt;
        use tokio_tungstenite::tungstenite::Message;
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
                Some(Ok(_)) => {}
                _ => return Err(0),
            }
        }
    }

    /// Calls, and gives what comes next.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        self.send(call.to_string()).await;
        self.next().await.unwrap()
    }

    /// Begins a subscription.
    pub(crate) async fn subscribe(&mut self, params: Value) -> String {
        let answer = self.call("eth_subscribe", params).await;
        answer["result"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    /// What the next notification tells.
    pub(crate) async fn told(&mut self) -> Value {
        let mut told = self.next().await.unwrap();
        assert!(told["params"]["subscription"].is_string(), "{told}");
        told["params"]["result"].take()
    }
}
