use std::path::PathBuf;

use clap::{Args, Subcommand};
use counterpoint_service::files::read_key;
use serde_json::json;

use super::{Output, show};
use crate::keys;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint key new me.key")]
pub(crate) struct KeyArgs {
    /// How to show the result.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    what: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a new key in a new file that only you can read.
    #[command(after_help = "Example:\n  counterpoint key new me.key")]
    New {
        /// Where to put it.
        file: PathBuf,
    },
    /// Show the address and the public key of a key file.
    #[command(after_help = "Example:\n  counterpoint key show .devnet/faucet.key")]
    Show {
        /// The key file.
        file: PathBuf,
    },
}

pub(crate) fn run(args: &KeyArgs) -> eyre::Result<()> {
    let key = match &args.what {
        KeyCommand::New { file } => keys::create(file)?,
        KeyCommand::Show { file } => read_key(file)?,
    };
    let public_key = key.public_key();
    let shown = json!({ "address": public_key.address(), "public_key": public_key.to_string() });
    show(&shown, args.output)
}
