//! What the three services share, so that each of them is only its own work.
//!
//! [`run`] loads the configuration, starts telemetry and waits for a signal; [`probes`] answers
//! Kubernetes and Prometheus; [`connection`] bounds who is connected to a gRPC API; [`Patient`] ends
//! connections that are stuck; [`disk`] says whether there is room; [`doctor`] looks for what is wrong;
//! [`sequencer`] reads the sequencer and believes only signatures; [`traces`] tells a transaction's way to a collector.

mod bar;
pub mod config;
pub mod connection;
pub mod disk;
pub mod doctor;
pub mod files;
mod metric;
mod patient;
pub mod probes;
mod run;
pub mod sequencer;
mod telemetry;
pub mod traces;

pub use bar::{Bar, Reading};
pub use config::{ConfigError, load as load_config};
pub use metric::{Metrics, to_f64};
pub use patient::Patient;
pub use probes::{Probes, Readiness};
pub use run::{EXIT_CONFIG, LogFormat, Settings, run, settings};

/// Services live long and handle buffers of every size on many threads: this allocator costs them a
/// fraction of what the system's does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
