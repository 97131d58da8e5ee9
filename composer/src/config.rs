use std::{collections::BTreeSet, net::SocketAddr, num::NonZero, path::PathBuf};

use clap::Parser;
use counterpoint_service::{
    ConfigError, LogFormat, Settings,
    traces::{CollectorUrl, TraceSettings, default_sample_every},
};
use serde::{Deserialize, Serialize};

use crate::{
    atomic::BundleSettings,
    rpc::{Gate, Limits},
};

/// A wallet's way into the sequencer: JSON-RPC in, durable batches out.
///
/// Rollups are listed in the file; every flag is also a key of it, and an environment variable such
/// as COUNTERPOINT_COMPOSER_RPC_LISTEN. Exit codes: 0 stopped, 1 fault, 78 bad configuration.
#[derive(Clone, Debug, Default, Parser, Serialize)]
#[command(
    version,
    after_help = "Example:\n  counterpoint-composer --config composer.toml"
)]
pub struct Args {
    /// TOML file with the keys below and the rollups.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address of the JSON-RPC server.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_listen: Option<SocketAddr>,
    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<SocketAddr>,
    /// Directory of the durable queue.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// gRPC endpoints of sequencer nodes; none of them is trusted.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequencers: Option<Vec<String>>,
    /// CometBFT's genesis file of the sequencer: what trust starts from.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequencer_genesis: Option<PathBuf>,
    /// A height to trust instead, if the genesis is more than 30 days old; with --trust-hash.
    #[arg(long, value_name = "HEIGHT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_height: Option<u64>,
    /// Hash of the header at that height, from a source that you trust: 64 hexadecimal digits.
    #[arg(long, value_name = "HASH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_hash: Option<String>,
    /// Key file of the sequencer account that pays; no other program may use it.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Most base units per byte that a batch may cost, tip included; above it batches wait.
    #[arg(long, value_name = "UNITS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price: Option<u64>,
    /// The rollup served at `/`, beside its own path.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_rollup: Option<String>,
    /// Seconds from its acknowledgement for which a transaction that cannot run is kept and tried
    /// again: behind a nonce that is missing, or skipped for a reason that can pass. 600 by default.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_secs: Option<u64>,
    /// Whether the explorer's page is served at `http_listen`, under /explorer/.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explorer: Option<bool>,
    /// Collector of traces, by OTLP over HTTP: http://HOST:4318. Nothing is traced without one.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_url: Option<String>,
    /// One transaction in so many is traced, chosen by its hash. 1000 by default.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_sample_every: Option<u64>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address of the JSON-RPC server.
    pub rpc_listen: SocketAddr,
    /// Address of probes and metrics.
    pub http_listen: SocketAddr,
    /// Directory of the durable queue.
    pub data_dir: PathBuf,
    /// gRPC endpoints of sequencer nodes.
    pub sequencers: Vec<String>,
    /// CometBFT's genesis file of the sequencer.
    pub sequencer_genesis: PathBuf,
    /// A height to trust instead of the genesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_height: Option<u64>,
    /// Hash of the header at that height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_hash: Option<String>,
    /// Key file of the sequencer account that pays.
    pub key_file: PathBuf,
    /// Most base units per byte that a batch may cost, tip included.
    #[serde(default = "default_max_price")]
    pub max_price: u64,
    /// The rollup served at `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_rollup: Option<String>,
    /// Seconds for which a transaction that cannot run is kept and tried again.
    #[serde(default = "retry_secs")]
    pub retry_secs: u64,
    /// Whether the explorer's page is served beside the probes.
    #[serde(default)]
    pub explorer: bool,
    /// Collector of traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_url: Option<CollectorUrl>,
    /// One transaction in so many is traced.
    #[serde(default = "default_sample_every")]
    pub otlp_sample_every: NonZero<u64>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What callers may take.
    #[serde(default)]
    pub limits: Limits,
    /// Atomic bundles, which are taken in only if this is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundles: Option<BundleSettings>,
    /// The rollups served.
    pub rollups: Vec<RollupSettings>,
}

/// One rollup that is served.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RollupSettings {
    /// Its name in the sequencer's registry, and its path here.
    pub name: String,
    /// Its execution client's public RPC.
    pub execution_url: String,
    /// Its conductor's probes, which know why a transaction was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conductor_url: Option<String>,
    /// Its conductor's gRPC, which knows receipts before the execution client does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conductor_grpc_url: Option<String>,
}

/// 125 times the least base fee of a chain by default.
fn default_max_price() -> u64 {
    1_000
}

/// Long enough for a wallet to fill a gap, and for a busy hour's base fee to fall.
fn retry_secs() -> u64 {
    600
}

impl Config {
    /// Names of the rollups served.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.rollups.iter().map(|one| one.name.as_str()).collect()
    }
}

impl Settings for Config {
    fn log_format(&self) -> LogFormat {
        self.log_format
    }

    fn traces(&self) -> Option<TraceSettings> {
        Some(TraceSettings {
            url: self.otlp_url.clone()?,
            sample_every: self.otlp_sample_every,
            resource: Vec::new(),
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let (names, invalid) = (self.names(), |reason| Err(ConfigError::Invalid(reason)));
        if names.len() < self.rollups.len() {
            return invalid("rollups: a name is listed twice".to_owned());
        }
        match &self.default_rollup {
            Some(default) if !names.contains(default.as_str()) => invalid(format!(
                "default_rollup {default} is not among the rollups listed"
            )),
            _ => match Gate::new(self.limits.clone()) {
                Ok(_) => Ok(()),
                Err(error) => invalid(format!("{error:#}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_key_and_no_other() {
        let example: toml::Table = include_str!("../example.toml").parse().unwrap();
        let config: Config = example.clone().try_into().unwrap();
        assert_eq!(toml::Table::try_from(config).unwrap(), example);
    }
}
