//! Atomic bundles by hand: made of raw transactions, signed, sealed, and revealed once the seal is proven.

mod build;
mod composer;
mod file;
mod send;
mod sign;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use counterpoint_core::{light::TrustedState, primitive::Hash};
use counterpoint_service::files::read_trust;
use eyre::{WrapErr, bail};

use self::{
    build::BuildArgs,
    file::BundleFile,
    send::SendArgs,
    sign::SignArgs,
    verify::{Verifier, shown},
};
use super::{NodeArgs, Output, show};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint bundle build --leg alpha=swap.hex --leg beta=buy.hex --out bundle.json\n  counterpoint bundle sign bundle.json --evm-key me.hex\n  counterpoint bundle send bundle.json"
)]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// CometBFT's genesis file, which trust starts from; that of the development network unless given.
    #[arg(long, value_name = "FILE", global = true)]
    trust: Option<PathBuf>,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    what: BundleCommand,
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Make a bundle file of raw signed transactions. Keep it to yourself until the bundle is sealed.
    #[command(
        after_help = "Example:\n  counterpoint bundle build --leg alpha=0x02f8… --leg beta=buy.hex --out bundle.json"
    )]
    Build(Box<BuildArgs>),
    /// Sign each transaction's place in the bundle, as its sender; without a key, print what to sign.
    #[command(
        after_help = "Examples:\n  counterpoint bundle sign bundle.json --evm-key me.hex\n  counterpoint bundle sign bundle.json\n  counterpoint bundle sign bundle.json --signature 0x…"
    )]
    Sign(SignArgs),
    /// Seal the bundle, prove the seal, and only then reveal the transactions; wait for the outcome.
    #[command(
        after_help = "Examples:\n  counterpoint bundle send bundle.json\n  counterpoint bundle send bundle.json --key me.key --node http://127.0.0.1:9090"
    )]
    Send(SendArgs),
    /// Prove that every transaction of a bundle is sealed by its own sender: before that, reveal none.
    #[command(after_help = "Example:\n  counterpoint bundle check bundle.json")]
    Check {
        /// The bundle file.
        file: PathBuf,
    },
    /// How far a bundle is, proven.
    #[command(after_help = "Example:\n  counterpoint bundle status bundle.json")]
    Status {
        /// The bundle file, or the bundle's identifier.
        bundle: String,
    },
}

pub(crate) async fn run(args: BundleArgs) -> eyre::Result<()> {
    match args.what {
        BundleCommand::Build(ref build) => build::run(build, &args).await,
        BundleCommand::Sign(ref sign) => sign::run(sign, args.output),
        BundleCommand::Send(ref send) => send::run(send, &args).await,
        BundleCommand::Check { ref file } => {
            let file = BundleFile::read(file)?;
            let (bundle, mut verifier) = (file.bundle()?, args.verifier()?);
            match verifier.sealed(&file, &bundle).await? {
                Some((record, height)) => show(
                    &shown(bundle.id(), &record, height, Some(&file)),
                    args.output,
                ),
                None => bail!(
                    "bundle 0x{} is not sealed, as of height {}: reveal nothing",
                    bundle.id(),
                    verifier.height()
                ),
            }
        }
        BundleCommand::Status { ref bundle } => {
            let (id, file) = match bundle.parse::<Hash>() {
                Ok(id) => (id, None),
                Err(_) => {
                    let file = BundleFile::read(bundle.as_ref())?;
                    (file.bundle()?.id(), Some(file))
                }
            };
            match args.verifier()?.record(id).await? {
                Some((record, height)) => {
                    show(&shown(id, &record, height, file.as_ref()), args.output)
                }
                None => bail!("the chain knows no bundle 0x{id}"),
            }
        }
    }
}

impl BundleArgs {
    /// Where trust in the chain starts from.
    fn trusted(&self) -> eyre::Result<TrustedState> {
        let genesis = match &self.trust {
            Some(genesis) => genesis.clone(),
            None => {
                let info = self.node.info();
                info.wrap_err("nothing to verify proofs by: give --trust")?
                    .sequencer_genesis
            }
        };
        read_trust(&genesis)
    }

    fn verifier(&self) -> eyre::Result<Verifier> {
        Ok(Verifier::new(self.node.client()?, self.trusted()?))
    }
}
