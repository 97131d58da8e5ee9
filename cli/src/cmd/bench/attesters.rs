//! Attesters alone, of a network of its own without clients: in each round bundles for disjoint pairs of all
//! rollups, revealed when all are sealed.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use clap::Args;
use counterpoint_proto::sequencer::BundleStage;
use counterpoint_service::sequencer::Client;
use eyre::{WrapErr, ensure};
use serde_json::{Value, json};

use super::{
    bundles::{ATTESTATION, Sender, until},
    hops::Hops,
    load::{Fsyncs, Latency},
};
use crate::devnet::{Devnet, Info, Options};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench attesters --rollups 8")]
pub(crate) struct AttestersArgs {
    /// Rollups, two for each bundle.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=32))]
    rollups: u32,
    /// Processes that attest every rollup; most of them must agree.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=15))]
    attesters: u32,
    /// How often all of them get a bundle.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Transfers of each leg.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=8))]
    transfers: u64,
    /// Where the network lies; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    parent: Option<PathBuf>,
}

pub(super) async fn run(args: &AttestersArgs) -> eyre::Result<Value> {
    ensure!(args.rollups.is_multiple_of(2), "--rollups must be even");
    let parent = args.parent.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&parent)
        .wrap_err_with(|| format!("no directory can be made in {}", parent.display()))?;
    let options = Options {
        validators: 4,
        rollups: usize::try_from(args.rollups)?,
        without_clients: true,
        // One would be the conductors, which there are none of.
        attesters: usize::try_from(args.attesters)? + 1,
        ..Options::new(directory.path().to_owned(), std::env::current_exe()?)
    };
    let mut devnet = Devnet::start(&options, &|step| eprintln!("bench: {step}")).await?;
    let measured = measure(args, &devnet.info(), &options).await;
    devnet.stop().await?;
    directory.close()?;
    measured
}

async fn measure(args: &AttestersArgs, info: &Info, options: &Options) -> eyre::Result<Value> {
    let client = Client::new(&[info.validators[0].grpc.clone()])?;
    let sender = Sender::new(info, client).await?;
    let mut rollups: Vec<_> = info.rollups.iter().collect();
    rollups.sort_by_key(|rollup| rollup.rollup_id);
    let mut before = Vec::new();
    for attester in &info.attesters {
        before.push(Hops::read(&attester.http).await?);
    }
    let (released, mut slots, mut nonce) = (Latency::new()?, Vec::new(), 0);
    let syncing = Fsyncs::watch(&options.dir)?;
    for _ in 0..args.rounds {
        let mut bundles = Vec::new();
        for pair in rollups.chunks(2) {
            let legs: Vec<_> = pair.iter().map(|rollup| (*rollup, nonce)).collect();
            bundles.push(sender.seal(&legs, args.transfers)?);
        }
        let mut stages = sender.stages(&bundles).await?;
        for bundle in &bundles {
            sender.submit(bundle).await?;
        }
        until(&mut stages, BundleStage::Sealed, bundles.len()).await?;
        let began = Instant::now();
        for bundle in &bundles {
            sender.reveal(bundle).await?;
        }
        let heights = until(&mut stages, BundleStage::Released, bundles.len()).await?;
        released.record(began);
        slots.push(heights.into_iter().collect::<BTreeSet<_>>().len());
        nonce += args.transfers;
    }
    let fsync = syncing.stop().await?;
    let mut attestations = serde_json::Map::new();
    for (attester, before) in info.attesters.iter().zip(&before) {
        let now = Hops::read(&attester.http).await?;
        attestations.insert(attester.name.clone(), now.hop(before, ATTESTATION));
    }
    Ok(json!({
        "load": "attesters",
        "rollups": args.rollups,
        "bundles_per_round": args.rollups / 2,
        "attesters": args.attesters,
        "transfers_per_leg": args.transfers,
        "rounds": args.rounds,
        "rounds_released_in_one_slot": slots.iter().filter(|slots| **slots == 1).count(),
        "revealed_to_all_released": released.report(),
        "attestation": attestations,
        "fsync": fsync.report(),
    }))
}
