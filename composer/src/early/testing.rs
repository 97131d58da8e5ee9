//! A scripted conductor, and an execution client that has what a test gives it.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use counterpoint_core::primitive::Height;
use counterpoint_proto::conductor::{
    self as proto, Event, GetReceiptRequest, GetReceiptResponse, SubscribeReceiptsRequest,
    SubscribeReceiptsResponse,
    conductor_server::{Conductor, ConductorServer},
    event::Event as Told,
    subscribe_receipts_request::From as FromPlace,
};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::queue::Place;

/// The first place of the first height.
pub(crate) fn height_one() -> Place {
    Place {
        height: Height::new(1),
        index: 0,
    }
}

fn event(event: Told) -> Event {
    Event { event: Some(event) }
}

fn place_of(place: Place) -> Option<proto::Place> {
    Some(proto::Place {
        height: place.height.get(),
        index: place.index,
    })
}

pub(crate) fn opened(number: u64) -> Event {
    event(Told::Opened(proto::Opened {
        number,
        timestamp: 100 + number,
        height: number,
    }))
}

pub(crate) fn closed(number: u64, hash: B256) -> Event {
    event(Told::Closed(proto::Closed {
        number,
        hash: bytes::Bytes::copy_from_slice(hash.as_slice()),
        height: number,
    }))
}

pub(crate) fn skip(hash: B256, place: Place, reason: &str) -> Event {
    event(Told::Skip(proto::Skip {
        tx_hash: bytes::Bytes::copy_from_slice(hash.as_slice()),
        place: place_of(place),
        block_number: 6,
        reason: reason.into(),
    }))
}

/// A call in block 6 that logs once.
pub(crate) fn receipt(hash: B256) -> Event {
    let address = || bytes::Bytes::from_static(&[7; 20]);
    event(Told::Receipt(proto::Receipt {
        tx_hash: bytes::Bytes::copy_from_slice(hash.as_slice()),
        place: place_of(height_one()),
        block_number: 6,
        block_timestamp: 106,
        from: address(),
        to: address(),
        transaction_type: 2,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 42_000,
        effective_gas_price: "9".into(),
        logs: vec![proto::Log {
            address: address(),
            topics: vec![bytes::Bytes::from_static(&[8; 32])],
            data: bytes::Bytes::from_static(b"data"),
            index: 3,
        }],
        ..proto::Receipt::default()
    }))
}

/// An execution client.
pub(crate) struct Client {
    pub(crate) url: String,
    known: Arc<Known>,
}

struct Known {
    head: AtomicU64,
    receipts: Mutex<BTreeMap<String, Value>>,
    /// Nonces and balances of those that do not have the usual ones.
    accounts: Mutex<BTreeMap<Address, (u64, u64)>>,
    /// Requests, and accounts asked for.
    asked: Mutex<(usize, Vec<Address>)>,
    away: AtomicBool,
    /// Whether accounts are not told.
    silent: watch::Sender<bool>,
}

impl Client {
    /// One whose last block is `head`.
    pub(crate) async fn start(head: u64) -> Self {
        let known = Arc::new(Known {
            head: AtomicU64::new(head),
            receipts: Mutex::default(),
            accounts: Mutex::default(),
            asked: Mutex::default(),
            away: AtomicBool::new(false),
            silent: watch::Sender::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&known);
        let routes = Router::new().route("/", post(answer)).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, known }
    }

    /// From now on it has the receipt of a transaction.
    pub(crate) fn executed(&self, hash: B256, block: u64) {
        let receipt = json!({
            "transactionHash": hash, "blockNumber": format!("{block:#x}"), "status": "0x1",
        });
        let mut receipts = self.known.receipts.lock().unwrap();
        receipts.insert(hash.to_string(), receipt);
    }

    /// Another block, after which an account has this nonce and balance.
    pub(crate) fn advance(&self, address: Address, nonce: u64, balance: u64) {
        let mut accounts = self.known.accounts.lock().unwrap();
        accounts.insert(address, (nonce, balance));
        self.known.head.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether it answers at all.
    pub(crate) fn set_away(&self, away: bool) {
        self.known.away.store(away, Ordering::SeqCst);
    }

    /// Whether it keeps everybody waiting who asks for accounts.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.known.silent.send_replace(silent);
    }

    /// Waits until so many requests for accounts have come.
    pub(crate) async fn until_asked(&self, requests: usize) {
        while self.asked().0 < requests {
            tokio::task::yield_now().await;
        }
    }

    /// How many requests for accounts there were, and each account asked for.
    pub(crate) fn asked(&self) -> (usize, Vec<Address>) {
        self.known.asked.lock().unwrap().clone()
    }
}

async fn answer(
    State(known): State<Arc<Known>>,
    Json(request): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    if known.away.load(Ordering::SeqCst) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let Value::Array(calls) = request else {
        return Ok(Json(answer_one(&known, &request)));
    };
    known.asked.lock().unwrap().0 += 1;
    let _ = known.silent.subscribe().wait_for(|silent| !silent).await;
    let answers = calls.iter().map(|call| answer_one(&known, call));
    // In any order, as the specification lets it.
    Ok(Json(Value::Array(answers.rev().collect())))
}

fn answer_one(known: &Known, call: &Value) -> Value {
    let address = || {
        call["params"][0]
            .as_str()
            .unwrap()
            .parse::<Address>()
            .unwrap()
    };
    let account = || {
        let accounts = known.accounts.lock().unwrap();
        accounts.get(&address()).copied().unwrap_or((0, u64::MAX))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let result = match call["method"].as_str().unwrap() {
        "eth_getBlockByNumber" => json!({
            "number": format!("{:#x}", known.head.load(Ordering::SeqCst)),
            "timestamp": format!("{:#x}", now.as_secs()),
            "gasUsed": "0x0", "gasLimit": "0x1c9c380", "baseFeePerGas": "0x7", "extraData": "0x",
        }),
        "eth_getTransactionCount" => {
            known.asked.lock().unwrap().1.push(address());
            json!(format!("{:#x}", account().0))
        }
        "eth_getBalance" => json!(format!("{:#x}", account().1)),
        "eth_getTransactionReceipt" => {
            let hash = call["params"][0].as_str().unwrap();
            let receipts = known.receipts.lock().unwrap();
            receipts.get(hash).cloned().unwrap_or_default()
        }
        _ => Value::Null,
    };
    json!({ "jsonrpc": "2.0", "id": call["id"], "result": result })
}

/// What one subscription gets: an error at once, or messages and how they end.
pub(crate) type Script = Result<(Vec<Event>, Status), Status>;

/// A conductor that answers each subscription by the next script, and after the last one tells
/// nothing more.
pub(crate) struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    asked: Arc<Mutex<Vec<u64>>>,
}

impl Scripted {
    /// Its address, and the blocks that it is asked for.
    pub(crate) async fn start(scripts: Vec<Script>) -> (String, Arc<Mutex<Vec<u64>>>) {
        let asked = Arc::default();
        let conductor = Self {
            scripts: Mutex::new(scripts.into()),
            asked: Arc::clone(&asked),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(ConductorServer::new(conductor))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        (url, asked)
    }
}

type Message = Result<SubscribeReceiptsResponse, Status>;

#[tonic::async_trait]
impl Conductor for Scripted {
    async fn get_receipt(
        &self,
        _: Request<GetReceiptRequest>,
    ) -> Result<Response<GetReceiptResponse>, Status> {
        Err(Status::unimplemented("scripted"))
    }

    type SubscribeReceiptsStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

    async fn subscribe_receipts(
        &self,
        request: Request<SubscribeReceiptsRequest>,
    ) -> Result<Response<Self::SubscribeReceiptsStream>, Status> {
        let Some(FromPlace::Number(number)) = request.get_ref().from else {
            return Err(Status::invalid_argument("no number"));
        };
        self.asked.lock().unwrap().push(number);
        let script = self.scripts.lock().unwrap().pop_front();
        let Some(script) = script else {
            return Ok(Response::new(stream::pending().boxed()));
        };
        let (events, end) = script?;
        let messages = events.into_iter().map(|event| {
            Ok(SubscribeReceiptsResponse {
                events: vec![event],
            })
        });
        let all: Vec<Message> = messages.chain([Err(end)]).collect();
        Ok(Response::new(stream::iter(all).boxed()))
    }
}

/// The address in receipts.
pub(crate) const SOMEBODY: Address = Address::repeat_byte(7);
