//! Four validators and three rollups under load at a fixed rate, while processes of every kind are
//! killed and links break and slow down, for as long as is asked for; then an audit of every
//! transaction that was ever sent. `just soak` runs it for long and keeps a report with plots.
//!
//! ```text
//! load ──── due, acknowledged ──▶ Book ◀── ordered ──── verified lists (`watch`)
//!                                  │  ◀── executed ──── blocks of the clients
//! faults, by a seed                ▼
//!                        audit ──▶ report
//! ```
//! What the client's chain must hold follows from the verified lists alone: every transaction here
//! pays, so one runs if and only if its nonce is its sender's next. That is the proof of a skip, too.

mod audit;
mod book;
mod faults;
mod load;
mod plot;
mod report;
mod watch;

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use book::Book;
use counterpoint::devnet::Detours;
use load::Load;
use watch::Watch;

use crate::{links::Links, support::Network};

const VALIDATORS: usize = 4;
const ROLLUPS: usize = 3;

/// What a run is asked for; the short one of the test suite unless the environment says otherwise.
struct Asked {
    length: Duration,
    seed: u64,
    /// Transactions per second, over all rollups.
    rate: u32,
    /// Where the report goes.
    directory: Option<PathBuf>,
}

impl Asked {
    fn read() -> Self {
        let number = |name: &str, default: u64| {
            let value = env::var(format!("COUNTERPOINT_SOAK_{name}")).ok();
            value.map_or(default, |value| value.parse().unwrap())
        };
        Self {
            length: Duration::from_secs(number("SECONDS", 20)),
            seed: number("SEED", 1),
            rate: u32::try_from(number("RATE", 15)).unwrap(),
            directory: env::var_os("COUNTERPOINT_SOAK_DIRECTORY").map(PathBuf::from),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_of_a_soak_is_accounted_for() {
    let asked = Asked::read();
    let directory = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(directory.path()).unwrap();
    let links = Links::start(VALIDATORS, &dir).await;
    let detours = Detours {
        peers: links.addresses(),
        ..Detours::default()
    };
    let change = |options: &mut counterpoint::devnet::Options| options.detours = detours;
    let mut network = Network::start_in(directory, VALIDATORS, ROLLUPS, change).await;
    let book = Book::start();
    let watch = Watch::start(&network, &book);
    let load = Load::start(&network, &book, asked.rate).await;
    let end = Instant::now() + asked.length;
    let faults = faults::strike(&mut network, &links, &book, asked.seed, end).await;
    load.stop().await;
    let audit = audit::run(&mut network, &watch, &book).await;
    let report = report::Report::new(&asked, &book, &audit, &faults);
    eprintln!("{}", report.json());
    if let Some(directory) = &asked.directory {
        report.write(directory);
    }
    network.agree().await;
    network.stop().await;
}
