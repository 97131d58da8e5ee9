use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::{LogFormat, bar::AboveBars};

/// Upper bounds of every histogram, in seconds: from a database write to a stalled block.
const SECONDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.04, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Starts logs on standard error, `RUST_LOG` choosing the level, colours only on a terminal of somebody
/// who has not set `NO_COLOR`.
pub(crate) fn logs(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBars::default)
        .with_ansi(std::io::stderr().is_terminal() && !plain);
    // A second start in one process, as in tests, keeps the first.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Starts the metrics recorder; a second start in one process renders nothing.
pub(crate) fn metrics() -> PrometheusHandle {
    let bounds = Matcher::Suffix("_seconds".into());
    let builder = PrometheusBuilder::new();
    let builder = match builder.set_buckets_for_metric(bounds, &SECONDS) {
        Ok(builder) => builder,
        // Only an empty list of bounds is refused.
        Err(_) => PrometheusBuilder::new(),
    };
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    let _ = metrics::set_global_recorder(recorder);
    handle
}
