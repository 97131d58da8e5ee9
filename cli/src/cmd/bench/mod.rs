//! Load, measured: `sequencer` compares with an application that does nothing, in the same run on
//! the same machine; `transfers` loads a running network from wallets to its client's head;
//! `bundles` and `attesters` take atomic bundles to their release;
//! `composer` takes transactions in beside geth's own pool; `conductor` makes blocks beside a client that
//! executes the same ones; `catch-up` wipes both and waits until they are back.

mod attesters;
mod bundles;
mod catch_up;
mod commits;
mod composer;
mod conductor;
mod hops;
mod load;
mod plot;
mod sequencer;
mod transfers;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint bench transfers --rate 50 --senders 10 --seconds 20"
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Blocks and bytes per second of a network of its own, beside the no-op application's.
    Sequencer(sequencer::SequencerArgs),
    /// Transfers by JSON-RPC into a running network, up to the execution client's head.
    Transfers(transfers::TransfersArgs),
    /// Atomic bundles on a running network: to their release, early receipts and heads.
    Bundles(bundles::BundlesArgs),
    /// Bundles for disjoint pairs of rollups at once, on a network of its own with attesters and no clients.
    Attesters(attesters::AttestersArgs),
    /// Transactions taken in per second by a network of its own, beside geth's own pool.
    Composer(composer::ComposerArgs),
    /// Blocks on top of many accounts, made by us and executed by geth.
    Conductor(conductor::ConductorArgs),
    /// The way of a conductor and its client from nothing to the tip of a network of its own.
    CatchUp(catch_up::CatchUpArgs),
}

pub(crate) async fn run(args: BenchArgs) -> eyre::Result<()> {
    let result = match args.load {
        Load::Sequencer(args) => sequencer::run(&args).await?,
        Load::Transfers(args) => transfers::run(&args).await?,
        Load::Bundles(args) => bundles::run(&args).await?,
        Load::Attesters(args) => attesters::run(&args).await?,
        Load::Composer(args) => composer::run(&args).await?,
        Load::Conductor(args) => conductor::run(&args).await?,
        Load::CatchUp(args) => catch_up::run(&args).await?,
    };
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}
