use std::{fmt, future::Future, path::Path, process::ExitCode, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{config, config::ConfigError, telemetry, traces};

/// Exit code for a bad configuration (`EX_CONFIG` of sysexits).
pub const EXIT_CONFIG: u8 = 78;

/// How long tasks may take to stop; Kubernetes kills after 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What every configuration has.
pub trait Settings: DeserializeOwned + Serialize + fmt::Debug {
    /// How log lines look.
    fn log_format(&self) -> LogFormat;

    /// Where traces go, if they are asked for.
    fn traces(&self) -> Option<traces::TraceSettings> {
        None
    }

    /// Checks what a single key cannot show.
    ///
    /// # Errors
    /// [`ConfigError`] says what must not be together.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// Loads a configuration and checks it as far as that goes without doing anything.
///
/// # Errors
/// [`ConfigError`] names the key and says what to do.
pub fn settings<C: Settings>(
    service: &str,
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<C, ConfigError> {
    let settings: C = config::load(service, file, flags)?;
    config::check(&settings)?;
    settings.check()?;
    Ok(settings)
}

/// Runs a service to its end: configuration, telemetry, work until SIGTERM or SIGINT.
///
/// `work` gets the configuration, the metrics and a token that is cancelled by the signal, after
/// which it has 25 s left.
pub fn run<C, F, W>(service: &str, file: Option<&Path>, flags: impl Serialize, work: F) -> ExitCode
where
    C: Settings,
    F: FnOnce(C, PrometheusHandle, CancellationToken) -> W,
    W: Future<Output = eyre::Result<()>>,
{
    let config: C = match settings(service, file, flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("counterpoint {service}: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    telemetry::logs(config.log_format());
    info!(service, ?config, "starting");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("counterpoint {service}: failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let metrics = telemetry::metrics();
    let result = runtime.block_on(async {
        tokio::spawn(upkeep(metrics.clone()));
        let traces = config.traces();
        let traces = traces.map(|settings| traces::start(service, settings));
        let traces = traces.transpose()?;
        let result = until_stopped(|shutdown| work(config, metrics, shutdown)).await;
        if let Some(traces) = traces {
            traces.finish().await;
        }
        result
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(report) => {
            error!(error = %format!("{report:#}"), "failed");
            eprintln!("counterpoint {service}: {report:#}");
            if report.downcast_ref::<ConfigError>().is_some() {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Works until that ends, or a signal comes; then it has [`GRACE`] left.
async fn until_stopped<W>(work: impl FnOnce(CancellationToken) -> W) -> eyre::Result<()>
where
    W: Future<Output = eyre::Result<()>>,
{
    let shutdown = CancellationToken::new();
    let work = work(shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = stop_signal() => info!("stopping"),
    }
    shutdown.cancel();
    tokio::time::timeout(GRACE, work)
        .await
        .unwrap_or_else(|_| Err(eyre::eyre!("did not stop within {GRACE:?}")))
}

/// Histograms keep samples until somebody folds them.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        metrics.run_upkeep();
    }
}

async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
