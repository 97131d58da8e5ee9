use std::{net::SocketAddr, num::NonZero, path::PathBuf};

use clap::{Parser, Subcommand};
use counterpoint_service::{
    ConfigError, LogFormat, Settings,
    traces::{CollectorUrl, TraceSettings, default_sample_every},
};
use serde::{Deserialize, Serialize};

use crate::{
    Doctor, Mode, Range, Snapshot,
    attester::{self, Voter},
    derivation::Source,
};

/// Drives one rollup's execution client from the sequencer's verified blocks.
///
/// Every flag is also a key of the file, and an environment variable such as
/// COUNTERPOINT_CONDUCTOR_ENGINE_URL. Exit codes: 0 stopped, 1 fault or halt, 78 bad configuration.
#[derive(Clone, Debug, Default, Parser, Serialize)]
#[command(
    version,
    after_help = "Example:\n  counterpoint-conductor --config conductor.toml --rollup alpha"
)]
pub struct Args {
    /// TOML file with the keys below.
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// What to do instead of running the service.
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<Command>,
    /// Name of the rollup in the sequencer's registry.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollup: Option<String>,
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
    /// The rollup's genesis file, the same that its client was initialised with.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollup_genesis: Option<PathBuf>,
    /// Authenticated port of the execution client.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_url: Option<String>,
    /// File with the JWT secret that the client was given.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_file: Option<PathBuf>,
    /// Who has the rollup's state: the conductor as well (embedded), or its client alone (thin).
    #[arg(long, value_enum, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Socket of the client, geth's --ipcpath; thin mode reads the state and builds blocks there.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub testing_ipc: Option<PathBuf>,
    /// Directory of the conductor's store.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Memory for what was read of the state, in MiB.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_mb: Option<u64>,
    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<SocketAddr>,
    /// Address where early receipts are served by gRPC; nothing is served without one.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_listen: Option<SocketAddr>,
    /// Address where early receipts are served by JSON-RPC; nothing is served without one.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_listen: Option<SocketAddr>,
    /// Key file of this conductor as an attester; it is none without one. Needs embedded mode.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attester_key_file: Option<PathBuf>,
    /// Directory of what was said with that key; it must outlive the key's use.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub votes_dir: Option<PathBuf>,
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

/// What a conductor can do beside its service, with the same configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Derive blocks once more, from the rollup's genesis on, and compare them with the client's.
    ///
    /// A conductor may run meanwhile. The sequencer's nodes must still serve every height of the
    /// rollup. Exit code 0: they are the same; 1: they are not, and the first that differs is kept in
    /// `evidence` in the data directory.
    #[command(
        after_help = "Example:\n  counterpoint conductor verify --config conductor.toml --from 1000 --to 2000"
    )]
    Verify(Range),
    /// Fill an empty store, or one that is behind, from the client's own blocks.
    ///
    /// Each is executed once more and must come out as it is; the last one is compared with the
    /// sequencer's proven lists. The conductor must not run. Needed when its store is lost and no
    /// node of the sequencer has every list.
    #[command(after_help = "Example:\n  counterpoint conductor rebuild --config conductor.toml")]
    Rebuild,
    /// Check that files, client and sequencer fit together, and say what to do where they do not.
    ///
    /// A conductor may run meanwhile. Exit code 0: all is well, as far as it can be told; 1: it is not.
    #[command(
        after_help = "Example:\n  counterpoint conductor doctor --config conductor.toml --output json"
    )]
    Doctor(Doctor),
    /// Write the store to a file, or fill an empty store from one: a second node in minutes.
    #[command(
        subcommand,
        after_help = "Example:\n  counterpoint conductor snapshot export --config conductor.toml alpha.snapshot"
    )]
    Snapshot(Snapshot),
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the rollup in the sequencer's registry.
    pub rollup: String,
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
    /// The rollup's genesis file.
    pub rollup_genesis: PathBuf,
    /// Authenticated port of the execution client.
    pub engine_url: String,
    /// File with the JWT secret.
    pub jwt_file: PathBuf,
    /// Who has the rollup's state.
    #[serde(default)]
    pub mode: Mode,
    /// Socket of the client, for thin mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub testing_ipc: Option<PathBuf>,
    /// Directory of the conductor's store.
    pub data_dir: PathBuf,
    /// Memory for what was read of the state, in MiB.
    #[serde(default = "default_cache_mb")]
    pub cache_mb: u64,
    /// Address of probes and metrics.
    pub http_listen: SocketAddr,
    /// Address where early receipts are served by gRPC.
    pub grpc_listen: Option<SocketAddr>,
    /// Address where early receipts are served by JSON-RPC.
    pub rpc_listen: Option<SocketAddr>,
    /// Key file of this conductor as an attester.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attester_key_file: Option<PathBuf>,
    /// Directory of what was said with that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes_dir: Option<PathBuf>,
    /// Collector of traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_url: Option<CollectorUrl>,
    /// One transaction in so many is traced.
    #[serde(default = "default_sample_every")]
    pub otlp_sample_every: NonZero<u64>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
}

impl Config {
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_mb.saturating_mul(1 << 20)
    }

    /// The key and the votes of this conductor as an attester, if it is one.
    pub(crate) fn voter(&self, source: &Source, chain_id: &str) -> eyre::Result<Option<Voter>> {
        let (Some(key), Some(votes)) = (&self.attester_key_file, &self.votes_dir) else {
            return Ok(None);
        };
        let sequencer = source.sequencer.clone();
        attester::open(key, votes, chain_id, sequencer).map(Some)
    }
}

/// Holds the upper levels of a trie of millions of accounts.
fn default_cache_mb() -> u64 {
    256
}

impl Settings for Config {
    fn log_format(&self) -> LogFormat {
        self.log_format
    }

    fn traces(&self) -> Option<TraceSettings> {
        Some(TraceSettings {
            url: self.otlp_url.clone()?,
            sample_every: self.otlp_sample_every,
            resource: vec![("rollup", self.rollup.clone())],
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let thin = self.mode == Mode::Thin;
        let wrong = match (&self.attester_key_file, &self.votes_dir) {
            (Some(_), None) => "votes_dir: must be set beside attester_key_file",
            (None, Some(_)) => "attester_key_file: must be set beside votes_dir",
            // The client has the state of another block while a leg must be executed.
            (Some(_), Some(_)) if thin => {
                "attester_key_file: an attester needs mode = \"embedded\""
            }
            _ if thin && self.testing_ipc.is_none() => "testing_ipc: must be set if mode is thin",
            _ => return Ok(()),
        };
        Err(ConfigError::Invalid(wrong.to_owned()))
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
