//! `counterpoint attester`: an attester without an execution client, for several rollups at once.
//!
//! For a user who trusts nobody's execution but his own, and for whoever attests many rollups with one
//! key. Each rollup's blocks are derived as a conductor derives them, into a store of their own; what is
//! said about all of them shares one disk and one fsync.

use std::{
    collections::BTreeMap,
    mem,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Parser;
use counterpoint_core::primitive::RollupId;
use counterpoint_service::{
    LogFormat, Probes, Readiness, Settings,
    disk::{self, DISK},
    probes,
    sequencer::{Client, Evidence, METRICS, TrustRoot},
};
use eyre::WrapErr;
use futures::future::try_join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing::{info, info_span};

use super::{Attester, Hints, Tip, Voter, open};
use crate::{
    board::{LAG, LATE, SEQUENCER, since},
    derivation::{Derivation, Source},
    evm::{DiskStore, Store},
    legs::alarm,
    metric,
    pending::Pending,
    progress::Progress,
    receipts::Receipts,
    start::origin,
};

/// Bytes of receipts that are kept of each rollup; nobody reads them.
const RECEIPTS_BYTES: usize = 1 << 20;

/// Executes legs of atomic bundles on several rollups and signs what comes of them.
///
/// Rollups are listed in the file; every flag is also a key of it, and an environment variable such
/// as COUNTERPOINT_ATTESTER_KEY_FILE. Exit codes: 0 stopped, 1 fault, 78 bad configuration.
#[derive(Clone, Debug, Default, Parser, Serialize)]
#[command(
    version,
    after_help = "Example:\n  counterpoint attester --config attester.toml"
)]
pub struct Args {
    /// TOML file with the keys below and the rollups.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// gRPC endpoints of sequencer nodes; none of them is trusted.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequencers: Option<Vec<String>>,
    /// CometBFT's genesis file of the sequencer: what trust starts from.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequencer_genesis: Option<PathBuf>,
    /// A height to trust instead, if the genesis is more than 30 days old; with --trust-hash.
    #[arg(long, value_name = "HEIGHT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_height: Option<u64>,
    /// Hash of the header at that height, from a source that you trust: 64 hexadecimal digits.
    #[arg(long, value_name = "HASH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_hash: Option<String>,
    /// Key file of the attester: 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Directory of what was said with the key.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub votes_dir: Option<PathBuf>,
    /// Directory of the rollups' stores.
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Memory for what was read of all states, in MiB.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_mb: Option<u64>,
    /// Address of probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<SocketAddr>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// gRPC endpoints of sequencer nodes.
    pub sequencers: Vec<String>,
    /// CometBFT's genesis file of the sequencer.
    pub sequencer_genesis: PathBuf,
    /// A height to trust instead of the genesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_height: Option<u64>,
    /// Hash of the header at that height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_hash: Option<String>,
    /// Key file of the attester.
    pub key_file: PathBuf,
    /// Directory of what was said with the key.
    pub votes_dir: PathBuf,
    /// Directory of the rollups' stores.
    pub data_dir: PathBuf,
    /// Memory for what was read of all states, in MiB.
    #[serde(default = "cache_mb")]
    pub cache_mb: u64,
    /// Address of probes and metrics.
    pub http_listen: SocketAddr,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// The rollups whose legs are executed.
    pub rollups: Vec<RollupFiles>,
}

/// A rollup whose legs are executed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RollupFiles {
    /// Its name in the sequencer's registry.
    pub name: String,
    /// Its genesis file.
    pub genesis: PathBuf,
}

fn cache_mb() -> u64 {
    256
}

impl Settings for Config {
    fn log_format(&self) -> LogFormat {
        self.log_format
    }
}

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    counterpoint_service::run("attester", args.config.as_deref(), args, work)
}

async fn work(
    config: Config,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    metric::ALL.describe();
    METRICS.describe();
    let evidence = Evidence::open(&config.data_dir)?;
    evidence.refuse_fork()?;
    let sequencer = Client::with_evidence(&config.sequencers, evidence)?;
    let shown = Shown::new(sequencer.clone());
    let routes = shown.routes(metrics);
    let probes = probes::serve(config.http_listen, routes, shutdown.clone());
    let readiness = shown.readiness.clone();
    let watched = disk::watch(&readiness, || {
        disk::look(&config.votes_dir).or_else(|| disk::look(&config.data_dir))
    });
    let attest = async {
        let attested = shutdown.run_until_cancelled(attest(&config, sequencer, shown));
        let attested = tokio::select! {
            attested = attested => attested,
            () = watched => None,
        };
        // Nothing is left to do once all rollups have left.
        shutdown.cancel();
        attested.unwrap_or(Ok(()))
    };
    tokio::try_join!(async { Ok(probes.await?) }, attest)?;
    Ok(())
}

async fn attest(config: &Config, sequencer: Client, shown: Shown) -> eyre::Result<()> {
    let root = TrustRoot::read(
        &config.sequencer_genesis,
        config.trust_height,
        config.trust_hash.as_deref(),
    )?;
    let (key, votes) = (&config.key_file, &config.votes_dir);
    let voter = open(key, votes, root.chain_id(), sequencer.clone())?;
    info!(attester = %voter.key(), rollups = config.rollups.len(), "attesting");
    let ids = config.rollups.iter();
    let ids: Vec<_> = ids.map(|files| RollupId::from_name(&files.name)).collect();
    let hints = Hints::follow(&sequencer, &ids);
    let each = config.rollups.iter().zip(hints).map(|(files, hints)| {
        let span = info_span!("attester.rollup", name = files.name);
        let rollup = Rollup {
            config,
            files,
            root: &root,
            voter: &voter,
            shown: &shown,
        };
        let done = async move {
            let name = &files.name;
            rollup
                .run(hints)
                .await
                .wrap_err_with(|| format!("rollup {name}"))
        };
        done.instrument(span)
    });
    try_join_all(each).await?;
    Ok(())
}

/// What one rollup's blocks are derived with.
struct Rollup<'a> {
    config: &'a Config,
    files: &'a RollupFiles,
    root: &'a TrustRoot,
    voter: &'a Voter,
    shown: &'a Shown,
}

impl Rollup<'_> {
    async fn run(self, hints: Hints) -> eyre::Result<()> {
        let (files, voter) = (self.files, self.voter);
        let directory = self.config.data_dir.join(&files.name);
        let cache = self.config.cache_mb.saturating_mul(1 << 20);
        let cache = cache / (self.config.rollups.len() as u64).max(1);
        let store: Arc<dyn Store> = Arc::new(DiskStore::open(&directory, cache)?);
        let sequencer = voter.sequencer();
        let origin = origin(
            (&files.name, &files.genesis),
            self.root,
            sequencer,
            store.as_ref(),
        );
        let origin = origin.await?;
        let tip = origin.progress(store.as_ref())?;
        let pending = Arc::new(Pending::new(Arc::clone(&store)));
        let states = Arc::new(Arc::clone(&pending) as Arc<dyn Store>);
        let (tips, followed) = watch::channel(None);
        let rollup_id = origin.rollup.rollup_id;
        let attester = Attester {
            voter: voter.clone(),
            rollup_id,
            specification: origin.specification.clone(),
            states: states.clone(),
            trusted: origin.trusted.clone(),
            vouched: None,
        };
        voter.tell_again(&rollup_id)?;
        let source = Source {
            specification: origin.specification,
            rollup: origin.rollup,
            sequencer: sequencer.clone(),
            readiness: self.shown.readiness.clone(),
        };
        let receipts = Receipts::with_limit(tip.header.number, &tip.extra, RECEIPTS_BYTES);
        let derivation = Derivation::new(source.clone(), states, &tip, Arc::new(receipts));
        let deriving = self.derive(source, derivation, &directory, (tip, tips), &pending);
        tokio::try_join!(deriving, attester.run(hints, followed))?;
        info!("the rollup has left");
        Ok(())
    }

    /// Derives blocks until the rollup has left.
    async fn derive(
        &self,
        source: Source,
        mut derivation: Derivation,
        directory: &std::path::Path,
        (mut tip, tips): (Progress, watch::Sender<Option<Arc<Tip>>>),
        pending: &Pending,
    ) -> eyre::Result<()> {
        while tip.left.is_none() {
            let Some(mut derived) = derivation.next(&tip).await? else {
                return Ok(());
            };
            let legs = mem::take(&mut derived.closed.legs);
            let next = derived.tip(derivation.arrived());
            let (progress, block, batch) = Progress::after(derived.closed, &source.specification)?;
            tips.send_replace(None);
            pending.push(Arc::new(batch));
            let next = Arc::new(next);
            tips.send_replace(Some(Arc::clone(&next)));
            alarm(directory, &block, &legs)?;
            for leg in &legs {
                self.voter
                    .confirm(progress.head(), leg, &next.config)
                    .await?;
            }
            tokio::task::block_in_place(|| pending.commit_oldest())?;
            self.shown
                .show(&self.files.name, &progress, next.config.slot_secs.get());
            tip = progress;
        }
        Ok(())
    }
}

/// How far each rollup is.
#[derive(Clone, Debug)]
struct Shown {
    readiness: Readiness,
    rollups: Arc<Mutex<BTreeMap<String, serde_json::Value>>>,
    sequencer: Client,
}

impl Shown {
    fn new(sequencer: Client) -> Self {
        Self {
            readiness: Readiness::of(&[SEQUENCER, LAG, DISK]),
            rollups: Arc::default(),
            sequencer,
        }
    }

    fn routes(&self, metrics: PrometheusHandle) -> axum::Router {
        let shown = self.clone();
        let status = move || {
            let rollups = shown.rollups.lock().unwrap_or_else(PoisonError::into_inner);
            json!({ "rollups": *rollups, "sequencers": shown.sequencer.status() })
        };
        Probes::new(self.readiness.clone(), metrics, status).router()
    }

    fn show(&self, name: &str, progress: &Progress, slot_secs: u8) {
        let lag_secs = since(progress.header.timestamp);
        if lag_secs > LATE.as_secs().saturating_add(5 * u64::from(slot_secs)) {
            let reason = format!("{name} lags by {lag_secs} s");
            self.readiness.unmet(LAG, reason);
        } else {
            self.readiness.met(LAG);
        }
        let status = json!({
            "number": progress.header.number,
            "hash": progress.hash,
            "lag_secs": lag_secs,
        });
        let mut rollups = self.rollups.lock().unwrap_or_else(PoisonError::into_inner);
        rollups.insert(name.to_owned(), status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_key_and_no_other() {
        let example: toml::Table = include_str!("../../attester.example.toml").parse().unwrap();
        let config: Config = example.clone().try_into().unwrap();
        assert_eq!(toml::Table::try_from(config).unwrap(), example);
    }
}
