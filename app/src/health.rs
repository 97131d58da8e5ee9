//! Whether this node may be relied on: blocks keep coming, and CometBFT stands where the app does.

use std::time::Duration;

use anyhow::Context;
use counterpoint_core::primitive::Height;
use counterpoint_service::Readiness;
use tendermint_rpc::{Client, HttpClient, HttpClientUrl, client::CompatMode};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Readiness: a block was committed not long ago.
pub(crate) const FRESH: &str = "blocks";
/// Readiness: CometBFT answers.
pub(crate) const REACHABLE: &str = "cometbft";
/// Readiness: CometBFT has caught up with its peers, and the app with CometBFT.
pub(crate) const CAUGHT_UP: &str = "caught_up";

/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How old the last block may be.
const MAX_AGE: Duration = Duration::from_secs(30);
/// How long CometBFT may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the node's own CometBFT. Its version is fixed: the node reports an older one, which
/// detection refuses.
///
/// # Errors
/// `url` is none.
pub(crate) fn rpc_client(url: &str) -> anyhow::Result<HttpClient> {
    let parsed: HttpClientUrl = url
        .parse()
        .with_context(|| format!("cometbft_rpc {url} is not a URL like http://127.0.0.1:26657"))?;
    Ok(HttpClient::builder(parsed)
        .compat_mode(CompatMode::V0_38)
        .timeout(TIMEOUT)
        .build()?)
}

/// Looks again and again until told to stop.
pub(crate) async fn watch(
    rpc: HttpClient,
    mut committed: watch::Receiver<Height>,
    readiness: Readiness,
    shutdown: CancellationToken,
) {
    // What was committed before the start says nothing about now.
    let mut last_block: Option<Instant> = None;
    loop {
        if committed.has_changed().unwrap_or(false) {
            last_block = Some(Instant::now());
        }
        committed.mark_unchanged();
        match last_block.map(|last| last.elapsed()) {
            Some(age) if age <= MAX_AGE => readiness.met(FRESH),
            Some(age) => readiness.unmet(FRESH, format!("no block for {} s", age.as_secs())),
            None => readiness.unmet(FRESH, "no block since the start"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = look(&rpc, &committed, &readiness) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(PERIOD) => {}
        }
    }
}

async fn look(rpc: &HttpClient, committed: &watch::Receiver<Height>, readiness: &Readiness) {
    let sync = match rpc.status().await {
        Ok(status) => status.sync_info,
        Err(error) => {
            readiness.unmet(REACHABLE, error.to_string());
            readiness.unmet(CAUGHT_UP, "cometbft does not answer");
            return;
        }
    };
    readiness.met(REACHABLE);
    // Read in this order: the app may go on, and then it is not behind.
    let (theirs, height) = (sync.latest_block_height.value(), *committed.borrow());
    // CometBFT stores a block before the app commits it.
    if sync.catching_up {
        readiness.unmet(
            CAUGHT_UP,
            format!("cometbft catches up, at height {theirs}"),
        );
    } else if theirs > height.get() + 1 {
        let reason = format!("app is at height {height}, cometbft at {theirs}");
        readiness.unmet(CAUGHT_UP, reason);
    } else {
        readiness.met(CAUGHT_UP);
    }
}
