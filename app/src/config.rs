use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::Parser;
use counterpoint_abci::ListenAddress;
use counterpoint_service::{ConfigError, LogFormat, Settings};
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
    /// Where CometBFT connects, as its `proxy_app` says: unix://PATH or tcp://IP:PORT.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abci_listen: Option<ListenAddress>,
    /// Whether `abci_listen` may be reached from other machines: whoever connects rules the node.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abci_remote: Option<bool>,
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
    /// Whose mempool holds transactions, as CometBFT's `mempool.type` says: app or flood.
    #[arg(long, value_name = "TYPE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mempool: Option<String>,
    /// Whether peers' gossip is passed on: not in a full mesh, where everybody has it already.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_gossip: Option<bool>,
    /// How long a proposer waits for votes of attesters on bundles that it may release, in milliseconds:
    /// 0 for not at all, at most 200, and less than half of CometBFT's timeout_propose.
    #[arg(long, value_name = "MILLISECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_grace_ms: Option<u64>,
    /// Most streams that one address may read, one for each rollup of a conductor or an attester: 64 unless
    /// set; more where many conductors come from behind one address.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readers_per_address: Option<NonZeroUsize>,
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
    /// Whether the explorer's page is served at `http_listen`, under /explorer/.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explorer: Option<bool>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where CometBFT connects.
    pub abci_listen: ListenAddress,
    /// Whether that may be reached from other machines.
    #[serde(default)]
    pub abci_remote: bool,
    /// Address of the gRPC API.
    pub grpc_listen: SocketAddr,
    /// Address of probes and metrics.
    pub http_listen: SocketAddr,
    /// This node's own CometBFT RPC.
    pub cometbft_rpc: String,
    /// Directory of the database.
    pub data_dir: PathBuf,
    /// Whose mempool holds transactions.
    #[serde(default)]
    pub mempool: MempoolType,
    /// Whether peers' gossip is passed on.
    #[serde(default = "relay_gossip")]
    pub relay_gossip: bool,
    /// How long a proposer waits for attesters, in milliseconds; 0 for not at all.
    #[serde(default = "attestation_grace_ms")]
    pub attestation_grace_ms: u64,
    /// Most streams that one address may read.
    #[serde(default = "readers_per_address")]
    pub readers_per_address: NonZeroUsize,
    /// Heights from one snapshot to the next; 0 for none.
    #[serde(default = "snapshot_interval")]
    pub snapshot_interval: u64,
    /// How many snapshots are kept.
    #[serde(default = "snapshots_kept")]
    pub snapshots_kept: NonZeroUsize,
    /// How many heights are kept; 0 for all.
    #[serde(default)]
    pub retain_heights: u64,
    /// Whether the explorer's page is served beside the probes.
    #[serde(default)]
    pub explorer: bool,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// Whose mempool holds transactions: what CometBFT's `mempool.type` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MempoolType {
    /// Ours.
    #[default]
    App,
    /// CometBFT's.
    Flood,
}

fn relay_gossip() -> bool {
    true
}

fn attestation_grace_ms() -> u64 {
    100
}

fn readers_per_address() -> NonZeroUsize {
    const { NonZeroUsize::new(64).unwrap() }
}

/// Longest wait for attesters, in milliseconds: the other validators wait for the proposal meanwhile.
const MAX_ATTESTATION_GRACE_MS: u64 = 200;

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

    fn check(&self) -> Result<(), ConfigError> {
        let grace = self.attestation_grace_ms;
        if grace > MAX_ATTESTATION_GRACE_MS {
            let reason = "validators give up waiting for a proposal that takes longer";
            return Err(ConfigError::Invalid(format!(
                "attestation_grace_ms {grace} is more than {MAX_ATTESTATION_GRACE_MS}: {reason}"
            )));
        }
        let address = &self.abci_listen;
        if address.is_local() || self.abci_remote {
            return Ok(());
        }
        let reason = "whoever reaches it rules the node; say abci_remote = true if you mean it";
        Err(ConfigError::Invalid(format!(
            "abci_listen {address}: {reason}"
        )))
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

    #[test]
    fn nobody_waits_for_attesters_too_long() {
        let example: toml::Table = include_str!("../example.toml").parse().unwrap();
        let mut config: Config = example.try_into().unwrap();
        for (grace, fine) in [(0, true), (200, true), (201, false)] {
            config.attestation_grace_ms = grace;
            assert_eq!(config.check().is_ok(), fine, "{grace}");
        }
    }

    #[test]
    fn other_machines_reach_abci_only_if_that_is_meant() {
        let example: toml::Table = include_str!("../example.toml").parse().unwrap();
        let mut config: Config = example.try_into().unwrap();
        for (address, remote, fine) in [
            ("unix:///run/abci.sock", false, true),
            ("tcp://127.0.0.1:26658", false, true),
            ("tcp://0.0.0.0:26658", false, false),
            ("tcp://0.0.0.0:26658", true, true),
        ] {
            (config.abci_listen, config.abci_remote) = (address.parse().unwrap(), remote);
            assert_eq!(config.check().is_ok(), fine, "{address}");
        }
    }
}
