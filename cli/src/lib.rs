//! The one command of Counterpoint: it embeds the services and brings networks, keys, transactions
//! and queries.
//!
//! [`devnet`] is a library too: end-to-end tests start their networks with it.

mod cmd;
pub mod devnet;
pub mod keys;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Exit code for a command that cannot be carried out.
const EXIT_FAILURE: u8 = 1;

/// A shared sequencer for rollups.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration of a service.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  counterpoint devnet\n  counterpoint query info --node http://127.0.0.1:9090"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole network on this machine, or look after one that runs.
    Devnet(cmd::devnet::DevnetArgs),
    /// Run the sequencer's application beside CometBFT.
    App(counterpoint_app::Args),
    /// Run a composer: JSON-RPC in, batches out.
    Composer(counterpoint_composer::Args),
    /// Run a conductor: drives one rollup's execution client.
    Conductor(Box<counterpoint_conductor::Args>),
    /// Run an attester: executes legs of atomic bundles without an execution client.
    Attester(counterpoint_conductor::attester::Args),
    /// Make and show sequencer account keys.
    Key(cmd::key::KeyArgs),
    /// Sign a transaction, send it and wait until a block holds it.
    Tx(cmd::tx::TxArgs),
    /// Make, sign, send and follow atomic bundles: transactions on several rollups, all or none.
    Bundle(cmd::bundle::BundleArgs),
    /// Read from a sequencer node.
    Query(cmd::query::QueryArgs),
    /// Write genesis files.
    #[command(
        subcommand,
        after_help = "Example:\n  counterpoint genesis rollup --chain-id 777 --fund 0x… omega.json"
    )]
    Genesis(cmd::genesis::GenesisCommand),
    /// Look at a service's configuration before it runs.
    #[command(
        subcommand,
        after_help = "Example:\n  counterpoint config check conductor --config conductor.toml"
    )]
    Config(cmd::config::ConfigCommand),
    /// Look for what is wrong with this machine, or with what a service needs, and say what to do.
    Doctor(cmd::doctor::DoctorArgs),
    /// Ask a service whether it is ready.
    Ready(cmd::ready::ReadyArgs),
    /// Let a validator's CometBFT begin where nothing was signed yet, or a signer go on after it.
    SigningState(cmd::signing_state::SigningStateArgs),
    /// Measure a running network.
    Bench(cmd::bench::BenchArgs),
    /// Write completions for a shell.
    Completions(cmd::help::CompletionsArgs),
    /// Write a page of the manual for every command.
    Man(cmd::help::ManArgs),
    /// Become a part of a development network.
    #[command(hide = true)]
    Child(cmd::child::ChildArgs),
}

/// The command line, for whoever describes it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and carries it out.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::App(args) => return counterpoint_app::run(&args),
        Command::Composer(args) => return counterpoint_composer::run(&args),
        Command::Conductor(args) => return counterpoint_conductor::run(&args),
        Command::Attester(args) => return counterpoint_conductor::attester::run(&args),
        Command::Config(command) => match cmd::config::run(&command) {
            Ok(code) => return code,
            Err(report) => Err(report),
        },
        Command::Devnet(args) => block_on(cmd::devnet::run(args)),
        Command::Key(args) => cmd::key::run(&args),
        Command::Tx(args) => block_on(cmd::tx::run(args)),
        Command::Bundle(args) => block_on(cmd::bundle::run(args)),
        Command::Query(args) => block_on(cmd::query::run(args)),
        Command::Genesis(command) => cmd::genesis::run(command),
        Command::Doctor(args) => block_on(cmd::doctor::run(args)),
        Command::Ready(args) => block_on(cmd::ready::run(args)),
        Command::SigningState(args) => cmd::signing_state::run(&args),
        Command::Bench(args) => block_on(cmd::bench::run(args)),
        Command::Completions(args) => {
            cmd::help::completions(&args, command());
            Ok(())
        }
        Command::Man(args) => cmd::help::man(&args, command()),
        Command::Child(args) => cmd::child::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("counterpoint: {report:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn block_on(work: impl Future<Output = eyre::Result<()>>) -> eyre::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
