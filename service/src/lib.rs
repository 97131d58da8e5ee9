//! What the three services share, so that each of them is only its own work.
//!
//! [`run`] loads the configuration, starts telemetry and waits for a signal; [`probes`] answers
//! Kubernetes and Prometheus; [`sequencer`] reads the sequencer and believes only signatures.

pub mod config;
pub mod files;
pub mod probes;
mod run;
pub mod sequencer;
mod telemetry;

pub use config::ConfigError;
pub use probes::{Probes, Readiness};
pub use run::{EXIT_CONFIG, LogFormat, Settings, run};

/// A count as a metric takes it: rounded beyond 2^53, which nothing that is counted comes near.
#[expect(clippy::cast_precision_loss, reason = "a metric may be rounded")]
#[must_use]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}
