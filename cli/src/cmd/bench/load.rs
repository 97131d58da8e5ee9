//! Open loop: every request has its time, whether the last one was answered or not, and its latency
//! counts from then. So a stall is measured, not waited out.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Time before a moment at which a timer is not exact enough any more.
const TIMER: Duration = Duration::from_millis(2);
/// Pause between two fsyncs.
const SYNC_EVERY: Duration = Duration::from_millis(50);
/// Bytes that are synced: about a record of a transfer.
const SYNCED: [u8; 192] = [1; 192];
/// Longest latency that is told apart, in microseconds.
const MAX_MICROS: u64 = 120_000_000;

/// Latencies, shared by the tasks that measure them.
#[derive(Clone, Debug)]
pub(super) struct Latency(Arc<Mutex<Histogram<u64>>>);

impl Latency {
    pub(super) fn new() -> eyre::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, MAX_MICROS, 3)?;
        Ok(Self(Arc::new(Mutex::new(histogram))))
    }

    /// Records the time that has passed.
    pub(super) fn record(&self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(MAX_MICROS);
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(micros);
    }

    pub(super) fn quantile_ms(&self, quantile: f64) -> f64 {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        millis(histogram.value_at_quantile(quantile))
    }

    pub(super) fn report(&self) -> Value {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quantile = |quantile| millis(histogram.value_at_quantile(quantile));
        json!({
            "count": histogram.len(),
            "p50_ms": quantile(0.5), "p90_ms": quantile(0.9), "p95_ms": quantile(0.95),
            "p99_ms": quantile(0.99), "max_ms": millis(histogram.max()),
        })
    }

    /// Latencies in milliseconds at evenly spread quantiles, from the least to the greatest.
    pub(super) fn distribution(&self, steps: u32) -> Vec<(f64, f64)> {
        let at = |step| f64::from(step) / f64::from(steps.max(1));
        let quantiles = (0..=steps).map(at);
        quantiles
            .map(|quantile| (quantile, self.quantile_ms(quantile)))
            .collect()
    }
}

/// Milliseconds with two decimals.
#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52")]
fn millis(micros: u64) -> f64 {
    (micros as f64 / 10.0).round() / 100.0
}

/// Asks a disk for an fsync now and then: what a durable answer costs at the least.
pub(super) struct Fsyncs {
    took: Latency,
    running: mpsc::Sender<()>,
    syncing: tokio::task::JoinHandle<eyre::Result<()>>,
}

impl Fsyncs {
    /// Begins, with a file in a directory on that disk.
    pub(super) fn watch(directory: &Path) -> eyre::Result<Self> {
        let (path, took) = (directory.join("bench-fsync"), Latency::new()?);
        let (running, ended) = mpsc::channel();
        let shared = took.clone();
        let syncing = tokio::task::spawn_blocking(move || sync_until(&path, &shared, &ended));
        Ok(Self {
            took,
            running,
            syncing,
        })
    }

    /// Ends, and gives how long they took.
    pub(super) async fn stop(self) -> eyre::Result<Latency> {
        drop(self.running);
        self.syncing.await??;
        Ok(self.took)
    }
}

/// Appends and syncs again and again, as a durable queue does that has nothing else to do.
fn sync_until(path: &Path, took: &Latency, ended: &mpsc::Receiver<()>) -> eyre::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    while ended.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
        let started = Instant::now();
        file.write_all(&SYNCED)?;
        file.sync_data()?;
        took.record(started);
    }
    Ok(std::fs::remove_file(path)?)
}

/// What a process has in memory, in MB.
pub(super) fn memory_mb(pid: u32) -> eyre::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = resident.and_then(|line| line.split_whitespace().next());
    let kilobytes = kilobytes.ok_or_else(|| eyre::eyre!("/proc/{pid}/status has no VmRSS"))?;
    Ok(kilobytes.parse::<u64>()? / 1_024)
}

/// Runs `count` requests at their times, counted from the start, and waits for them all; gives the
/// errors.
pub(super) async fn open_loop<F>(
    count: u64,
    every: Duration,
    mut request: impl FnMut(u64, Instant) -> F,
) -> Vec<eyre::Report>
where
    F: Future<Output = eyre::Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for at in 0..count {
        let due = start + every * u32::try_from(at).unwrap_or(u32::MAX);
        until(due).await;
        tasks.spawn(request(at, due));
    }
    let results = tasks.join_all().await;
    results.into_iter().filter_map(Result::err).collect()
}

/// Waits until a moment, and not a millisecond longer as a timer would.
async fn until(due: Instant) {
    if let Some(early) = due.checked_sub(TIMER) {
        tokio::time::sleep_until(early.into()).await;
    }
    while Instant::now() < due {
        tokio::task::yield_now().await;
    }
}
