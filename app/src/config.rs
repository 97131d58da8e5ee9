use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::Parser;
use counterpoint_service::{LogFormat, Settings};
use serde::{Deserialize, Serialize};

/// The sequencer's application: run it beside CometBFT v0.40.0.
///
/// Every flag is also a key of the file, and an environment variable such as
/// COUNTERPOINT_APP_GRPC_LISTEN. Exit codes: 0 stopped, 1 fault, 78 bad configuration.
#[derive(Clone, Debug, Default, Parser, Serialize)]
#[command(
    version,
    after_help = "Example:\n  counterpoint-app --config app.toml --grpc-listen 127.0.0.1:9090"
)]
pub struct Args {
    /// TOML file with the keys below.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Unix socket that CometBFT's `proxy_app` names.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abci_listen: Option<PathBuf>,
    /// Address of the gRPC API.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_listen: Option<SocketAddr>,
    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<SocketAddr>,
    /// This node's own CometBFT RPC, which signed headers are read from.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cometbft_rpc: Option<String>,
    /// Directory of the database.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Whether peers' gossip is passed on: not in a full mesh, where everybody has it already.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_gossip: Option<bool>,
    /// A snapshot of the state is made at every multiple of so many heights; none if 0.
    #[arg(long, value_name = "HEIGHTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_interval: Option<u64>,
    /// How many snapshots are kept: one that a joining node is loading must not go.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots_kept: Option<NonZeroUsize>,
    /// Blocks older than so many heights are pruned, here and by CometBFT, once nobody needs them;
    /// none are if 0.
    #[arg(long, value_name = "HEIGHTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_heights: Option<u64>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Unix socket that CometBFT's `proxy_app` names.
    pub abci_listen: PathBuf,
    /// Address of the gRPC API.
    pub grpc_listen: SocketAddr,
    /// Address of probes and metrics.
    pub http_listen: SocketAddr,
    /// This node's own CometBFT RPC.
    pub cometbft_rpc: String,
    /// Directory of the database.
    pub data_dir: PathBuf,
    /// Whether peers' gossip is passed on.
    #[serde(default = "relay_gossip")]
    pub relay_gossip: bool,
    /// Heights from one snapshot to the next; 0 for none.
    #[serde(default = "snapshot_interval")]
    pub snapshot_interval: u64,
    /// How many snapshots are kept.
    #[serde(default = "snapshots_kept")]
    pub snapshots_kept: NonZeroUsize,
    /// How many heights are kept; 0 for all.
    #[serde(default)]
    pub retain_heights: u64,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
}

fn relay_gossip() -> bool {
    true
}

/// A node that joins asks its peers for at most so many blocks.
fn snapshot_interval() -> u64 {
    5_000
}

fn snapshots_kept() -> NonZeroUsize {
    const { NonZeroUsize::new(16).unwrap() }
}

impl Settings for Config {
    fn log_format(&self) -> LogFormat {
        self.log_format
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
