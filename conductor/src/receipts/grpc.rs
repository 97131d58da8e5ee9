//! `counterpoint.conductor.v1`: receipts as they come.
//!
//! A stream reads from the log, and two messages at most wait for its reader. One that lets
//! them wait too long is told where to resume, and gives its place to another.

use std::{sync::Arc, time::Duration};

use alloy_primitives::B256;
use bytes::Bytes;
use counterpoint_core::primitive::Height;
use counterpoint_proto::{
    FILE_DESCRIPTOR_SET,
    conductor::{
        self as proto, GetReceiptRequest, GetReceiptResponse, SubscribeReceiptsRequest,
        SubscribeReceiptsResponse,
        conductor_server::{Conductor, ConductorServer},
        get_receipt_response::Outcome,
        subscribe_receipts_request::From as FromPlace,
    },
};
use counterpoint_service::{
    connection::{Incoming, Limits, Peer},
    probes,
};
use metrics::{counter, gauge};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Event, Place, ReadError, Receipts, Start, Told};
use crate::metric;

/// Most readers at a time.
const MAX_READERS: usize = 64;
/// Messages that wait for one reader.
const BUFFER: usize = 2;
/// How long a reader may keep its stream waiting before it is told to come back, and then before it
/// is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest request, in bytes: a digest.
const MAX_REQUEST_BYTES: usize = 1_024;
/// Most calls at a time of one connection.
const MAX_CALLS: u32 = 64;
/// How long a call may take, up to the head of its answer.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// A peer that says nothing is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Serves receipts until told to stop.
pub(crate) async fn serve(
    listen: std::net::SocketAddr,
    receipts: Arc<Receipts>,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| probes::in_use(listen, &error))?;
    let incoming = Incoming::new(listener, Limits::default(), metric::CONNECTIONS);
    let server = Server::new(receipts, shutdown.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ConductorServer<Server>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()?;
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_CALLS)
        .timeout(CALL_PATIENCE)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(ConductorServer::new(server).max_decoding_message_size(MAX_REQUEST_BYTES))
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await?;
    Ok(())
}

#[derive(Debug)]
pub(super) struct Server {
    receipts: Arc<Receipts>,
    readers: Arc<Semaphore>,
    patience: Duration,
    shutdown: CancellationToken,
}

impl Server {
    pub(super) fn new(receipts: Arc<Receipts>, shutdown: CancellationToken) -> Self {
        Self {
            receipts,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            patience: PATIENCE,
            shutdown,
        }
    }
}

type Message = Result<SubscribeReceiptsResponse, Status>;

#[tonic::async_trait]
impl Conductor for Server {
    async fn get_receipt(
        &self,
        request: Request<GetReceiptRequest>,
    ) -> Result<Response<GetReceiptResponse>, Status> {
        let hash = B256::try_from(request.get_ref().tx_hash.as_ref())
            .map_err(|_| Status::invalid_argument("tx_hash must have 32 bytes"))?;
        let outcome = match self.receipts.find(&hash).map(event) {
            Some(proto::event::Event::Receipt(receipt)) => Outcome::Receipt(receipt),
            Some(proto::event::Event::Skip(skip)) => Outcome::Skip(skip),
            _ => {
                return Err(Status::not_found(
                    "no such item ran not long ago: ask the execution client",
                ));
            }
        };
        let outcome = Some(outcome);
        Ok(Response::new(GetReceiptResponse { outcome }))
    }

    type SubscribeReceiptsStream = ReceiverStream<Message>;

    async fn subscribe_receipts(
        &self,
        request: Request<SubscribeReceiptsRequest>,
    ) -> Result<Response<Self::SubscribeReceiptsStream>, Status> {
        let cut = request
            .extensions()
            .get::<Peer>()
            .map_or_else(CancellationToken::new, |peer| peer.cut.clone());
        let start = match request.get_ref().from {
            None | Some(FromPlace::Number(0)) => Start::Now,
            Some(FromPlace::Number(number)) => Start::Number(number),
            Some(FromPlace::Height(height)) => Start::Height(Height::new(height)),
        };
        let seat = Arc::clone(&self.readers).try_acquire_owned();
        let seat = seat.map_err(|_| {
            Status::resource_exhausted("the conductor has too many readers; try again later")
        })?;
        let next = self.receipts.position(start).map_err(out_of_range)?;
        let (sender, messages) = mpsc::channel(BUFFER);
        let feeder = Feeder {
            receipts: Arc::clone(&self.receipts),
            next,
            sender,
            patience: self.patience,
            cut,
            _seat: Seat::take(seat),
        };
        tokio::spawn(feeder.run(self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// Fills one reader's stream.
struct Feeder {
    receipts: Arc<Receipts>,
    /// The next event to send.
    next: u64,
    sender: mpsc::Sender<Message>,
    patience: Duration,
    /// Ends the reader's connection.
    cut: CancellationToken,
    _seat: Seat,
}

/// Counts a reader while it reads.
struct Seat {
    _place: OwnedSemaphorePermit,
}

impl Seat {
    fn take(place: OwnedSemaphorePermit) -> Self {
        gauge!(metric::READERS).increment(1);
        Self { _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        gauge!(metric::READERS).decrement(1);
    }
}

impl Feeder {
    async fn run(mut self, shutdown: CancellationToken) {
        let sender = self.sender.clone();
        let status = tokio::select! {
            () = sender.closed() => return,
            () = shutdown.cancelled() => Status::unavailable("the conductor stops"),
            status = self.feed() => status,
        };
        // A reader that does not even listen to the reason loses its connection.
        if timeout(self.patience, sender.send(Err(status)))
            .await
            .is_err()
        {
            self.cut.cancel();
        }
    }

    /// Sends event after event; returns why there are no more.
    async fn feed(&mut self) -> Status {
        let mut end = self.receipts.watch();
        loop {
            let next = self.next;
            if end.wait_for(|end| *end > next).await.is_err() {
                return Status::unavailable("the conductor stops");
            }
            let told = match self.receipts.read(next) {
                Ok(told) => told,
                Err(error) => return out_of_range(error),
            };
            self.next = next.saturating_add(told.len() as u64);
            let first = told.first().map(|told| told.block.number);
            let message = SubscribeReceiptsResponse {
                events: told.into_iter().map(wrap).collect(),
            };
            let sent = timeout(self.patience, self.sender.send(Ok(message))).await;
            if !matches!(sent, Ok(Ok(()))) {
                counter!(metric::SLOW_READERS).increment(1);
                let from = first.unwrap_or_default();
                let reason = format!("reader is too slow; resume from block {from}");
                return Status::resource_exhausted(reason);
            }
        }
    }
}

fn out_of_range(error: ReadError) -> Status {
    Status::out_of_range(error.to_string())
}

fn wrap(told: Told) -> proto::Event {
    let event = Some(event(told));
    proto::Event { event }
}

fn event(told: Told) -> proto::event::Event {
    let Told { event, block } = told;
    match event.as_ref() {
        Event::Opened {
            number,
            timestamp,
            height,
        } => proto::event::Event::Opened(proto::Opened {
            number: *number,
            timestamp: *timestamp,
            height: height.get(),
        }),
        Event::Closed { hash, height } => proto::event::Event::Closed(proto::Closed {
            number: block.number,
            hash: copy(hash.as_slice()),
            height: height.get(),
        }),
        Event::Skipped(skip) => proto::event::Event::Skip(proto::Skip {
            tx_hash: copy(skip.hash.as_slice()),
            place: Some(place(skip.place)),
            block_number: block.number,
            reason: skip.reason.name().to_owned(),
        }),
        Event::Included { place: at, receipt } => {
            let logs = (receipt.first_log..)
                .zip(receipt.envelope.logs())
                .map(|(index, log)| proto::Log {
                    address: copy(log.address.as_slice()),
                    topics: log
                        .topics()
                        .iter()
                        .map(|topic| copy(topic.as_slice()))
                        .collect(),
                    data: log.data.data.0.clone(),
                    index,
                });
            proto::event::Event::Receipt(proto::Receipt {
                tx_hash: copy(receipt.hash.as_slice()),
                place: Some(place(*at)),
                block_number: block.number,
                block_timestamp: block.timestamp,
                block_hash: block
                    .hash
                    .map(|hash| copy(hash.as_slice()))
                    .unwrap_or_default(),
                transaction_index: u32::try_from(receipt.index).unwrap_or(u32::MAX),
                from: copy(receipt.from.as_slice()),
                to: receipt.to.map(|to| copy(to.as_slice())).unwrap_or_default(),
                contract_address: receipt
                    .contract
                    .map(|contract| copy(contract.as_slice()))
                    .unwrap_or_default(),
                transaction_type: u32::from(u8::from(receipt.envelope.tx_type())),
                success: receipt.envelope.status(),
                gas_used: receipt.gas_used,
                cumulative_gas_used: receipt.envelope.cumulative_gas_used(),
                effective_gas_price: receipt.effective_gas_price.to_string(),
                logs: logs.collect(),
            })
        }
    }
}

fn place(place: Place) -> proto::Place {
    proto::Place {
        height: place.height.get(),
        index: place.index,
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
