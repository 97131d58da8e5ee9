//! A scripted conductor, and an execution client that has what a test gives it.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256};
use axum::{Json, Router, extract::State, routing::post};
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
use tokio::net::TcpListener;
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
    head: u64,
    receipts: Mutex<BTreeMap<String, Value>>,
}

impl Client {
    /// One whose last block is `head`.
    pub(crate) async fn start(head: u64) -> Self {
        let receipts = Mutex::default();
        let known = Arc::new(Known { head, receipts });
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
}

async fn answer(State(known): State<Arc<Known>>, Json(call): Json<Value>) -> Json<Value> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let result = match call["method"].as_str().unwrap() {
        "eth_getBlockByNumber" => json!({
            "number": format!("{:#x}", known.head), "timestamp": format!("{:#x}", now.as_secs()),
            "gasUsed": "0x0", "gasLimit": "0x1c9c380", "baseFeePerGas": "0x7", "extraData": "0x",
        }),
        "eth_getTransactionCount" => json!("0x0"),
        "eth_getBalance" => json!("0xffffffffffffffff"),
        "eth_getTransactionReceipt" => {
            let hash = call["params"][0].as_str().unwrap();
            let receipts = known.receipts.lock().unwrap();
            receipts.get(hash).cloned().unwrap_or_default()
        }
        _ => Value::Null,
    };
    Json(json!({ "jsonrpc": "2.0", "id": 1, "result": result }))
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
