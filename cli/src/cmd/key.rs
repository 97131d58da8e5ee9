use std::path::PathBuf;

use clap::Subcommand;
use counterpoint_service::files::read_key;

use crate::keys;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
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

pub(crate) fn run(command: KeyCommand) -> eyre::Result<()> {
    let key = match command {
        KeyCommand::New { file } => keys::create(&file)?,
        KeyCommand::Show { file } => read_key(&file)?,
    };
    println!("address     {}", key.public_key().address());
    println!("public key  {}", key.public_key());
    Ok(())
}
