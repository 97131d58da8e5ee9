//! `devnet.json`: what a user of the network must know.

use std::{
    fmt::{Display, Write as _},
    path::PathBuf,
};

use counterpoint_core::primitive::RollupId;
use serde::{Deserialize, Serialize};

use super::{
    plan::{Plan, accounts, url},
    setup::Layout,
};

/// A network from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The sequencer's chain id.
    pub chain_id: String,
    /// Validators, and nodes that joined later.
    pub validators: Vec<ValidatorInfo>,
    /// Where wallets connect.
    pub composer: ComposerInfo,
    /// Rollups.
    pub rollups: Vec<RollupInfo>,
    /// Attesters of every rollup beside the conductors.
    #[serde(default)]
    pub attesters: Vec<AttesterInfo>,
    /// Keys with money on every rollup.
    pub accounts: Vec<AccountInfo>,
    /// File with a sequencer account that has money.
    pub faucet_key: PathBuf,
    /// What trust in the sequencer starts from.
    pub sequencer_genesis: PathBuf,
}

/// One validator.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ValidatorInfo {
    /// Its name.
    pub name: String,
    /// CometBFT's RPC.
    pub cometbft_rpc: String,
    /// The application's gRPC.
    pub grpc: String,
    /// The application's probes.
    pub http: String,
}

/// The composer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ComposerInfo {
    /// JSON-RPC.
    pub rpc: String,
    /// Probes.
    pub http: String,
    /// The explorer's page.
    #[serde(default)]
    pub explorer: String,
}

/// One rollup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollupInfo {
    /// Its name.
    pub name: String,
    /// Its identifier at the sequencer.
    pub rollup_id: RollupId,
    /// EIP-155 chain id.
    pub evm_chain_id: u64,
    /// Where wallets connect.
    pub composer_rpc: String,
    /// geth's own RPC.
    pub el_rpc: String,
    /// geth's authenticated port.
    pub engine: String,
    /// The secret of that port.
    pub jwt_path: PathBuf,
    /// The conductor's probes.
    pub conductor_http: String,
    /// The conductor's receipts by gRPC.
    pub conductor_grpc: String,
    /// The conductor's receipts by JSON-RPC.
    pub conductor_rpc: String,
}

/// An attester of every rollup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttesterInfo {
    /// Its name.
    pub name: String,
    /// Its probes.
    pub http: String,
}

/// An account on every rollup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its address.
    pub address: String,
    /// Its key; everybody knows it.
    pub private_key: String,
}

impl Info {
    pub(super) fn new(plan: &Plan, layout: &Layout) -> Self {
        let validators = plan.nodes().map(|validator| ValidatorInfo {
            name: validator.name.clone(),
            cometbft_rpc: url(validator.rpc),
            grpc: url(validator.grpc),
            http: url(validator.http),
        });
        let composer_rpc = url(plan.composer.rpc);
        let rollups = plan.rollups.iter().map(|rollup| RollupInfo {
            name: rollup.name.clone(),
            rollup_id: RollupId::from_name(&rollup.name),
            evm_chain_id: rollup.evm_chain_id,
            composer_rpc: format!("{composer_rpc}/{}", rollup.name),
            el_rpc: url(rollup.el_rpc),
            engine: url(rollup.engine),
            jwt_path: layout.jwt(&rollup.name),
            conductor_http: url(rollup.conductor_http),
            conductor_grpc: url(rollup.conductor_grpc),
            conductor_rpc: url(rollup.conductor_rpc),
        });
        let accounts = accounts().into_iter().map(|account| AccountInfo {
            address: account.address().to_string(),
            private_key: format!("0x{}", hex::encode(account.to_bytes())),
        });
        let attesters = plan.attesters.iter().map(|attester| AttesterInfo {
            name: attester.name.clone(),
            http: url(attester.http),
        });
        Self {
            chain_id: plan.chain_id.clone(),
            validators: validators.collect(),
            rollups: rollups.collect(),
            accounts: accounts.collect(),
            attesters: attesters.collect(),
            composer: ComposerInfo {
                http: url(plan.composer.http),
                explorer: format!("{}/explorer/", url(plan.composer.http)),
                rpc: composer_rpc,
            },
            faucet_key: layout.faucet_key(),
            sequencer_genesis: layout.sequencer_genesis(),
        }
    }

    /// Assignments for a POSIX shell: the addresses that the guides speak of, and the first account.
    #[must_use]
    pub fn shell(&self) -> String {
        let mut lines = String::new();
        let mut set = |name: &str, value: &dyn Display| {
            let name = name.to_uppercase().replace('-', "_");
            let _ = writeln!(lines, "export {name}={}", quoted(value));
        };
        set("chain_id", &self.chain_id);
        set("genesis", &self.sequencer_genesis.display());
        if let Some(first) = self.validators.first() {
            set("grpc", &first.grpc);
            set("rpc", &first.cometbft_rpc);
            set("probes", &first.http);
        }
        for rollup in &self.rollups {
            set(&rollup.name, &rollup.composer_rpc);
        }
        set("explorer", &self.composer.explorer);
        if let Some(first) = self.accounts.first() {
            set("account", &first.address);
            set("key", &first.private_key);
        }
        set("faucet", &self.faucet_key.display());
        lines
    }
}

/// As one word of a POSIX shell.
pub(crate) fn quoted(value: &dyn Display) -> String {
    format!("'{}'", value.to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_back_what_it_is_told() {
        let info = Info {
            chain_id: "it's $HOME".into(),
            validators: Vec::new(),
            composer: ComposerInfo {
                explorer: String::new(),
                rpc: String::new(),
                http: String::new(),
            },
            rollups: Vec::new(),
            attesters: Vec::new(),
            accounts: Vec::new(),
            faucet_key: "faucet.key".into(),
            sequencer_genesis: "genesis.json".into(),
        };
        let script = format!("{}printf %s \"$CHAIN_ID $FAUCET\"", info.shell());
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(output.stdout, b"it's $HOME faucet.key");
    }
}
