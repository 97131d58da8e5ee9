//! One trace for each sampled transaction, from a wallet's call to the head, told by OTLP over HTTP.
//!
//! ```text
//! composer   submit ─┬─ queue          what a wallet waits for; what waits for a batch
//!                    ├─ sequence       from a batch to its verified place ──┐
//!                    └─ track          from there until the client has it   │
//! conductor                             execute ─── head  ◀── parent ───────┘
//! ```
//! Nothing about traces travels between services, nor on the chain: trace, spans and whether they are
//! sampled follow from the transaction's hash, so that every service comes to the same ones.
//!
//! Nobody waits for a collector. Spans go into a bounded queue, and what has no room there, or is not
//! taken, is counted and gone. Starts that never come to an end are forgotten, oldest first.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZero,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use metrics::counter;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{ConfigError, Metrics};

/// Spans that wait for the collector.
const MAX_WAITING: usize = 8_192;
/// Most spans of one request, so that it stays below 1 MiB.
const MAX_BATCH: usize = 1_024;
/// Starts of hops that have not ended.
const MAX_OPEN: usize = 16_384;
/// Pause between two requests, so that spans go together.
const EVERY: Duration = Duration::from_secs(1);
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is left may take when the service stops.
const FLUSH: Duration = Duration::from_secs(2);
/// Most bytes of a collector's answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

const SPANS: &str = "trace_spans_total";

/// What becomes of spans.
pub const METRICS: Metrics = Metrics {
    gauges: &[],
    counters: &[(
        SPANS,
        "spans of traces, by outcome: sent, dropped for want of room, failed at the collector",
    )],
    histograms: &[],
    alarms: &[SPANS],
    from_zero: &[],
};

static TRACES: OnceLock<Traces> = OnceLock::new();

/// A collector of traces, as `http://HOST:4318`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CollectorUrl(String);

impl TryFrom<String> for CollectorUrl {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        let is_http = |url: &reqwest::Url| url.scheme() == "http" && url.has_host();
        if reqwest::Url::parse(&url).is_ok_and(|url| is_http(&url)) {
            return Ok(Self(url));
        }
        Err(format!(
            "{url} must be http://HOST:PORT of a collector; one nearby can pass on over TLS"
        ))
    }
}

impl From<CollectorUrl> for String {
    fn from(url: CollectorUrl) -> Self {
        url.0
    }
}

/// One transaction in so many is traced unless the operator says otherwise.
#[must_use]
pub fn default_sample_every() -> NonZero<u64> {
    NonZero::new(1_000).unwrap_or(NonZero::<u64>::MIN)
}

/// Where traces go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector.
    pub url: CollectorUrl,
    /// One transaction in so many is traced.
    pub sample_every: NonZero<u64>,
    /// What all spans of this service have in common.
    pub resource: Vec<(&'static str, String)>,
}

/// A part of a transaction's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// From a wallet's call until its transaction is on disk.
    Submit = 1,
    /// From there until a batch takes it.
    Queue = 2,
    /// From there until its place is verified.
    Sequence = 3,
    /// From there until the execution client has it.
    Track = 4,
    /// In a conductor, from its verified list until it has run.
    Execute = 5,
    /// In a conductor, from the complete block until it is the client's head, and stored.
    Head = 6,
}

impl Hop {
    /// The name of its span.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Submit => "composer.intake.submit",
            Self::Queue => "composer.queue.wait",
            Self::Sequence => "composer.submitter.sequence",
            Self::Track => "composer.tracker.track",
            Self::Execute => "conductor.assembler.execute",
            Self::Head => "conductor.committer.head",
        }
    }

    /// The hop that led to it.
    fn parent(self) -> Option<Self> {
        match self {
            Self::Submit => None,
            Self::Queue | Self::Sequence | Self::Track => Some(Self::Submit),
            Self::Execute => Some(Self::Sequence),
            Self::Head => Some(Self::Execute),
        }
    }

    /// The identifier of its span in the trace of a transaction.
    fn span_id(self, hash: &[u8; 32]) -> SpanId {
        let mut id = [0; 8];
        id.copy_from_slice(&hash[16..24]);
        id[7] ^= self as u8;
        SpanId::from_bytes(id)
    }
}

/// Something that a span says about its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A count, a height, a number of a block.
    Number(&'static str, u64),
    /// Anything else.
    Text(&'static str, String),
}

impl From<Attribute> for KeyValue {
    fn from(attribute: Attribute) -> Self {
        match attribute {
            Attribute::Number(key, number) => {
                Self::new(key, i64::try_from(number).unwrap_or(i64::MAX))
            }
            Attribute::Text(key, text) => Self::new(key, text),
        }
    }
}

/// A hop of a transaction begins, unless it has before.
pub fn begin(hop: Hop, hash: &[u8; 32]) {
    if let Some(traces) = sampling(hash) {
        traces.open().begin((hop, *hash));
    }
}

/// A hop that began here ends. One that began before this service started is not told of.
pub fn end(hop: Hop, hash: &[u8; 32], attributes: impl FnOnce() -> Vec<Attribute>) {
    if let Some(traces) = sampling(hash) {
        let begun = traces.open().end(&(hop, *hash));
        if let Some(begun) = begun {
            traces.tell(span(hop, hash, begun, attributes()));
        }
    }
}

/// A hop that began at a known time ends.
pub fn record(
    hop: Hop,
    hash: &[u8; 32],
    begun: SystemTime,
    attributes: impl FnOnce() -> Vec<Attribute>,
) {
    if let Some(traces) = sampling(hash) {
        traces.tell(span(hop, hash, begun, attributes()));
    }
}

fn sampling(hash: &[u8; 32]) -> Option<&'static Traces> {
    let traces = TRACES.get()?;
    is_sampled(hash, traces.sample_every).then_some(traces)
}

/// Whether a transaction is one of those in so many. As the W3C's trace context has it, the last
/// seven bytes of a trace's identifier are random, and the greatest are sampled: a collector that
/// samples on its own keeps whole traces.
fn is_sampled(hash: &[u8; 32], every: NonZero<u64>) -> bool {
    let random = hash[9..16]
        .iter()
        .fold(0_u64, |random, byte| random << 8 | u64::from(*byte));
    random >= (1 << 56) - (1 << 56) / every
}

fn span(hop: Hop, hash: &[u8; 32], begun: SystemTime, attributes: Vec<Attribute>) -> SpanData {
    let mut trace_id = [0; 16];
    trace_id.copy_from_slice(&hash[..16]);
    let id = |hop: Hop| hop.span_id(hash);
    let tx_hash = Attribute::Text("tx_hash", format!("0x{}", hex::encode(hash)));
    let attributes = [tx_hash].into_iter().chain(attributes);
    SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(trace_id),
            id(hop),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: hop.parent().map_or(SpanId::INVALID, id),
        parent_span_is_remote: hop == Hop::Execute,
        span_kind: match hop {
            Hop::Submit => SpanKind::Server,
            _ => SpanKind::Internal,
        },
        name: hop.name().into(),
        start_time: begun,
        end_time: SystemTime::now().max(begun),
        attributes: attributes.map(KeyValue::from).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("counterpoint").build(),
    }
}

/// What begins and ends hops.
#[derive(Debug)]
struct Traces {
    sample_every: NonZero<u64>,
    spans: mpsc::Sender<SpanData>,
    open: Mutex<Open>,
}

impl Traces {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            counter!(SPANS, "outcome" => "dropped").increment(1);
        }
    }
}

/// When hops began that have not ended; the oldest give way.
#[derive(Debug, Default)]
struct Open {
    begun: HashMap<(Hop, [u8; 32]), SystemTime>,
    order: VecDeque<(Hop, [u8; 32])>,
}

impl Open {
    fn begin(&mut self, key: (Hop, [u8; 32])) {
        if self.begun.contains_key(&key) {
            return;
        }
        self.begun.insert(key, SystemTime::now());
        self.order.push_back(key);
        if self.order.len() > MAX_OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.begun.remove(&oldest);
        }
    }

    fn end(&mut self, key: &(Hop, [u8; 32])) -> Option<SystemTime> {
        self.begun.remove(key)
    }
}

/// Sends spans until it is told to stop.
#[derive(Debug)]
pub(crate) struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Sends what is left, unless that takes too long.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(FLUSH, self.task).await;
    }
}

/// Starts tracing in this process; a second start, as in tests, changes nothing.
///
/// # Errors
/// [`ConfigError`] if the collector's URL is not one.
pub(crate) fn start(service: &str, settings: TraceSettings) -> Result<Exporter, ConfigError> {
    METRICS.describe();
    for outcome in ["sent", "dropped", "failed"] {
        counter!(SPANS, "outcome" => outcome).increment(0);
    }
    let (traces, exporter) = tracing_of(service, settings)?;
    let _ = TRACES.set(traces);
    Ok(exporter)
}

fn tracing_of(service: &str, settings: TraceSettings) -> Result<(Traces, Exporter), ConfigError> {
    let exporter = exporter(service, &settings)?;
    let (spans, waiting) = mpsc::channel(MAX_WAITING);
    let stop = CancellationToken::new();
    let task = tokio::spawn(export(waiting, exporter, stop.clone()));
    let traces = Traces {
        sample_every: settings.sample_every,
        spans,
        open: Mutex::default(),
    };
    Ok((traces, Exporter { stop, task }))
}

fn exporter(service: &str, settings: &TraceSettings) -> Result<SpanExporter, ConfigError> {
    let invalid = |why: String| ConfigError::Invalid(format!("otlp_url: {why}"));
    let url = settings.url.0.trim_end_matches('/');
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    let client = client.map_err(|error| invalid(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Http(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{url}/v1/traces"))
        .with_timeout(PATIENCE)
        .with_retry_policy(RetryPolicy::disabled())
        .build();
    let mut exporter = exporter.map_err(|error| invalid(error.to_string()))?;
    let attributes = settings.resource.iter();
    let attributes = attributes.map(|(key, value)| KeyValue::new(*key, Value::from(value.clone())));
    let resource = Resource::builder_empty()
        .with_service_name(format!("counterpoint-{service}"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes)
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

async fn export(
    mut waiting: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    stop: CancellationToken,
) {
    let mut taken = true;
    loop {
        let stopping = stop.run_until_cancelled(tokio::time::sleep(EVERY)).await;
        let stopping = stopping.is_none();
        while !waiting.is_empty() {
            let mut batch = Vec::new();
            let count = waiting.recv_many(&mut batch, MAX_BATCH).await as u64;
            let outcome = match exporter.export(batch).await {
                Ok(()) => {
                    taken = true;
                    "sent"
                }
                Err(error) => {
                    // Once, until it goes well again.
                    if std::mem::take(&mut taken) {
                        warn!(%error, "the collector of traces takes none");
                    } else {
                        debug!(%error, "the collector of traces takes none");
                    }
                    "failed"
                }
            };
            counter!(SPANS, "outcome" => outcome).increment(count);
        }
        if stopping {
            return;
        }
    }
}

/// The HTTP client that the other parts of a service use.
#[derive(Debug)]
struct Http(reqwest::Client);

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err("the answer is too long".into());
            }
            body.extend_from_slice(&chunk);
        }
        let response = Response::builder().status(answer.status());
        Ok(response.body(body.freeze())?)
    }
}

#[cfg(test)]
mod tests;
