//! How fast a conductor comes from nothing to the tip: its store and its client's data are wiped on
//! a running network, whose rollup has a history of empty blocks.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use counterpoint_service::to_f64;
use eyre::{WrapErr, ensure, eyre};
use serde_json::{Value, json};

use crate::devnet::{Devnet, Options, clients::init_geth, setup::Layout, tools};

/// How long the way back may take.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint bench catch-up --history-secs 120")]
pub(crate) struct CatchUpArgs {
    /// Seconds of history before everything is wiped.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    history_secs: u32,
    /// Milliseconds between blocks of the sequencer.
    #[arg(long, default_value_t = 200)]
    block_interval_ms: u64,
    /// Where the network lies; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    parent: Option<PathBuf>,
}

pub(super) async fn run(args: &CatchUpArgs) -> eyre::Result<Value> {
    let parent = args.parent.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&parent)
        .wrap_err_with(|| format!("no directory can be made in {}", parent.display()))?;
    let options = Options {
        rollups: 1,
        block_interval_ms: args.block_interval_ms,
        ..Options::new(directory.path().to_owned(), std::env::current_exe()?)
    };
    let mut devnet = Devnet::start(&options, &|step| eprintln!("bench: {step}")).await?;
    let measured = measure(args, &mut devnet, &options).await;
    devnet.stop().await?;
    directory.close()?;
    measured
}

async fn measure(
    args: &CatchUpArgs,
    devnet: &mut Devnet,
    options: &Options,
) -> eyre::Result<Value> {
    let rollup = devnet.info().rollups.remove(0);
    let status = format!("{}/status", rollup.conductor_http);
    let (conductor, client) = (
        format!("{}-conductor", rollup.name),
        format!("{}-geth", rollup.name),
    );
    eprintln!("bench: {} s of history", args.history_secs);
    tokio::time::sleep(Duration::from_secs(args.history_secs.into())).await;
    let target = progress(&status)
        .await
        .ok_or_else(|| eyre!("{status} does not answer"))?;

    devnet.kill(&conductor).await?;
    devnet.kill(&client).await?;
    let layout = Layout {
        dir: options.dir.clone(),
    };
    fs::remove_dir_all(layout.dir.join(&rollup.name).join("conductor"))?;
    fs::remove_dir_all(layout.geth_data(&rollup.name))?;
    let geth = tools::GETH.install(&|step| eprintln!("bench: {step}"))?;
    init_geth(
        &geth,
        &layout.geth_data(&rollup.name),
        &layout.rollup_genesis(&rollup.name),
    )?;
    devnet.launch(&client).await?;
    devnet.launch(&conductor).await?;

    let first = reach(
        &status,
        Place {
            number: 1,
            height: 0,
        },
    )
    .await?;
    let began = Instant::now();
    let last = reach(&status, target).await?;
    let seconds = began.elapsed().as_secs_f64();
    let blocks = to_f64(last.number.saturating_sub(first.number));
    let heights = to_f64(last.height.saturating_sub(first.height));
    let round = |value: f64| (value * 10.0).round() / 10.0;
    Ok(json!({
        "load": "catch-up",
        "block_interval_ms": args.block_interval_ms,
        "blocks": blocks,
        "heights": heights,
        "seconds": round(seconds),
        "blocks_per_second": round(blocks / seconds),
        "heights_per_second": round(heights / seconds),
        // A block covers a slot of one second.
        "times_real_time": round(blocks / seconds),
    }))
}

/// Where a conductor stands.
#[derive(Clone, Copy)]
struct Place {
    number: u64,
    height: u64,
}

async fn progress(status: &str) -> Option<Place> {
    let answer: Value = reqwest::get(status).await.ok()?.json().await.ok()?;
    let progress = &answer["progress"];
    Some(Place {
        number: progress["number"].as_u64()?,
        height: progress["next_opening"].as_u64()?,
    })
}

/// Waits until the conductor has come so far.
async fn reach(status: &str, target: Place) -> eyre::Result<Place> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(place) = progress(status).await
            && place.number >= target.number
        {
            return Ok(place);
        }
        ensure!(
            Instant::now() < deadline,
            "block {} was not reached in {PATIENCE:?}",
            target.number
        );
        tokio::time::sleep(POLL).await;
    }
}
