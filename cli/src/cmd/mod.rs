//! One file per subcommand.

pub(crate) mod bench;
pub(crate) mod bundle;
pub(crate) mod child;
pub(crate) mod config;
pub(crate) mod devnet;
pub(crate) mod doctor;
pub(crate) mod genesis;
pub(crate) mod help;
pub(crate) mod key;
pub(crate) mod query;
pub(crate) mod ready;
pub(crate) mod signing_state;
pub(crate) mod testnet;
pub(crate) mod tx;

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use counterpoint_service::sequencer::Client;

/// The variable that names the development network's directory; `devnet env` sets it.
pub(crate) const DIR_VARIABLE: &str = "COUNTERPOINT_DEVNET";

/// Which sequencer node to ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArgs {
    /// gRPC endpoint of a sequencer node; taken from devnet.json unless given.
    #[arg(long, value_name = "URL", global = true)]
    node: Option<String>,
    /// Directory of the development network to ask.
    #[arg(long, value_name = "DIR", default_value = ".devnet", env = DIR_VARIABLE, hide_env_values = true, global = true)]
    pub(crate) dir: PathBuf,
}

impl NodeArgs {
    /// A client of the node.
    pub(crate) fn client(&self) -> eyre::Result<Client> {
        let urls = match &self.node {
            Some(url) => vec![url.clone()],
            None => {
                let info = self.info()?;
                info.validators
                    .into_iter()
                    .map(|validator| validator.grpc)
                    .collect()
            }
        };
        Ok(Client::new(&urls)?)
    }

    /// The development network's description.
    pub(crate) fn info(&self) -> eyre::Result<crate::devnet::Info> {
        use eyre::WrapErr;
        let path = self.dir.join("devnet.json");
        let bytes = std::fs::read(&path).wrap_err_with(|| {
            format!(
                "failed to read {}: start `devnet`, name its directory by --dir, or a node by --node",
                path.display()
            )
        })?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Shows a JSON object, as a table for people.
pub(crate) fn show(value: &serde_json::Value, output: Output) -> eyre::Result<()> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
        Output::Text => table(value),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn table(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(rows) => rows.iter().map(|row| table(row) + "\n").collect(),
        serde_json::Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or_default();
            let line = |(name, field): (&String, &serde_json::Value)| {
                let text = field
                    .as_str()
                    .map_or_else(|| field.to_string(), str::to_owned);
                format!("{name:width$}  {text}\n")
            };
            fields.iter().map(line).collect()
        }
        serde_json::Value::String(text) => format!("{text}\n"),
        value => format!("{value}\n"),
    }
}
