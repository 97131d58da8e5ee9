//! Whether this node may be relied on: blocks keep coming, CometBFT stands where the app does, the
//! clock is right and there is room on the disk.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use counterpoint_core::primitive::Height;
use counterpoint_service::{
    Readiness,
    disk::{self, DISK},
    to_f64,
};
use metrics::gauge;
use tendermint_rpc::{Client, HttpClient, HttpClientUrl, client::CompatMode};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{clock::Clock, metric, store::Store};

/// Readiness: a block was committed not long ago.
pub(crate) const FRESH: &str = "blocks";
/// Readiness: CometBFT answers.
pub(crate) const REACHABLE: &str = "cometbft";
/// Readiness: CometBFT has caught up with its peers, and the app with CometBFT.
pub(crate) const CAUGHT_UP: &str = "caught_up";
/// Readiness: the clock agrees with the validators'.
pub(crate) const CLOCK: &str = "clock";

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

/// Looks at the node again and again.
#[derive(Debug)]
pub(crate) struct Health {
    store: Store,
    data_dir: PathBuf,
    rpc: HttpClient,
    committed: watch::Receiver<Height>,
    readiness: Readiness,
    clock: Clock,
    /// Conditions that the log says are not met.
    alarms: BTreeSet<&'static str>,
    /// What was committed before the start says nothing about now.
    last_block: Option<Instant>,
}

impl Health {
    /// Looks at the node that `store` in `data_dir` and `rpc` belong to.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        data_dir: PathBuf,
        rpc: HttpClient,
        committed: watch::Receiver<Height>,
        readiness: Readiness,
    ) -> Self {
        Self {
            store,
            data_dir,
            rpc,
            committed,
            readiness,
            clock: Clock::default(),
            alarms: BTreeSet::new(),
            last_block: None,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // A clock that was behind when the node ended is seen before CometBFT panics again.
        self.note_time()?;
        loop {
            self.look_at_blocks()?;
            self.look_at_clock();
            self.look_at_disk();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                catching_up = self.look_at_cometbft() => if catching_up {
                    self.clock.forget();
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(PERIOD) => {}
            }
        }
    }

    fn look_at_blocks(&mut self) -> anyhow::Result<()> {
        if self.committed.has_changed().unwrap_or(false) {
            self.committed.mark_unchanged();
            self.last_block = Some(Instant::now());
            self.note_time()?;
        }
        match self.last_block.map(|last| last.elapsed()) {
            Some(age) if age <= MAX_AGE => self.readiness.met(FRESH),
            Some(age) => self
                .readiness
                .unmet(FRESH, format!("no block for {} s", age.as_secs())),
            None => self.readiness.unmet(FRESH, "no block since the start"),
        }
        Ok(())
    }

    fn note_time(&mut self) -> anyhow::Result<()> {
        let tip = self.store.tip()?.height;
        if let Some(time) = self.store.time(tip)? {
            self.clock.note(time, SystemTime::now());
        }
        Ok(())
    }

    fn look_at_clock(&mut self) {
        if let Some(behind) = self.clock.behind_ms() {
            let millis = behind.clamp(i32::MIN.into(), i32::MAX.into());
            let millis = i32::try_from(millis).unwrap_or_default();
            gauge!(metric::CLOCK_BEHIND).set(f64::from(millis) / 1_000.0);
        }
        let wrong = self.clock.wrong();
        self.judge(CLOCK, wrong.map(|wrong| wrong.to_string()));
    }

    fn look_at_disk(&mut self) {
        let reason = match disk::free_bytes(&self.data_dir) {
            Ok(free) => {
                gauge!(metric::FREE_BYTES).set(to_f64(free));
                disk::low(&self.data_dir, free)
            }
            Err(error) => Some(error.to_string()),
        };
        self.judge(DISK, reason);
    }

    /// Says whether a condition holds. Somebody must act if not, so the log has each change.
    fn judge(&mut self, condition: &'static str, unmet: Option<String>) {
        match unmet {
            Some(reason) => {
                if self.alarms.insert(condition) {
                    warn!(condition, reason, "not ready");
                }
                self.readiness.unmet(condition, reason);
            }
            None => {
                if self.alarms.remove(condition) {
                    info!(condition, "ready again");
                }
                self.readiness.met(condition);
            }
        }
    }

    /// Compares CometBFT with the app; says whether it catches up with its peers.
    async fn look_at_cometbft(&self) -> bool {
        let readiness = &self.readiness;
        let sync = match self.rpc.status().await {
            Ok(status) => status.sync_info,
            Err(error) => {
                readiness.unmet(REACHABLE, error.to_string());
                readiness.unmet(CAUGHT_UP, "cometbft does not answer");
                return false;
            }
        };
        readiness.met(REACHABLE);
        // Read in this order: the app may go on, and then it is not behind.
        let (theirs, height) = (sync.latest_block_height.value(), *self.committed.borrow());
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
        sync.catching_up
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tempfile::tempdir;

    use super::*;
    use crate::testing::{Node, Template};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_clock_shows_until_it_is_set() {
        let directory = tempdir().unwrap();
        let node = Node::start(directory.path()).await;
        let template = Template::of(&node).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let commit = |height, seconds| {
            node.store.commit(template.block(height, seconds)).unwrap();
        };
        commit(3, now.as_secs() + 30);
        let (committed, commits) = watch::channel(Height::new(3));
        let readiness = Readiness::of(&[CLOCK, FRESH]);
        let mut health = Health::new(
            node.store.clone(),
            directory.path().into(),
            rpc_client("http://127.0.0.1:1").unwrap(),
            commits,
            readiness.clone(),
        );
        // The last block of the run before is enough.
        health.note_time().unwrap();
        health.look_at_clock();
        let reasons = readiness.reasons();
        assert!(
            reasons[CLOCK].contains("behind the validators'"),
            "{reasons:?}"
        );
        assert!(reasons.contains_key(FRESH));
        for height in 4..12 {
            assert!(
                readiness.reasons().contains_key(CLOCK),
                "at height {height}"
            );
            commit(height, now.as_secs());
            committed.send_replace(Height::new(height));
            health.look_at_blocks().unwrap();
            health.look_at_clock();
        }
        assert!(readiness.reasons().is_empty(), "{:?}", readiness.reasons());
        assert!(!health.look_at_cometbft().await);
        assert!(readiness.reasons().contains_key(REACHABLE));
    }
}
