//! What is on its way, and when it is committed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use counterpoint_core::{key::SecretKey, primitive::Address};
use counterpoint_service::sequencer::Client;
use eyre::Report;

use super::load::Latency;

/// Pause between two looks whether a block was committed.
const WATCH: Duration = Duration::from_millis(2);
/// Pause between two looks whether anything still waits.
const POLL: Duration = Duration::from_millis(10);
/// How long a transaction may be on its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// An account of which nothing waits.
pub(super) struct Sender {
    pub(super) key: SecretKey,
    pub(super) next: u64,
}

impl Sender {
    pub(super) async fn settled(client: &Client, key: SecretKey) -> eyre::Result<Self> {
        let address = key.public_key().address();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let account = client.account(&address).await?;
            if account.nonce == account.pending_nonce {
                let next = account.nonce;
                return Ok(Self { key, next });
            }
            eyre::ensure!(
                Instant::now() < deadline,
                "what waits of {address} is not included"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Transactions on their way, by sender: nonce, and when each was due.
#[derive(Clone, Default)]
pub(super) struct Pending {
    waiting: Arc<Mutex<Waiting>>,
    height: Arc<AtomicU64>,
}

type Waiting = BTreeMap<(usize, u64), Instant>;

impl Pending {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last height that was seen, once it is watched.
    pub(super) fn height(&self) -> u64 {
        self.height.load(Ordering::Relaxed)
    }

    pub(super) fn push(&self, sender: usize, nonce: u64, due: Instant) {
        self.waiting().insert((sender, nonce), due);
    }

    /// Records what is committed as blocks come; gives the reason if it cannot go on.
    pub(super) async fn watch(
        self,
        client: Client,
        addresses: Vec<Address>,
        latency: Latency,
    ) -> Report {
        match self.follow(client, &addresses, latency).await {
            Ok(never) => match never {},
            Err(error) => error.wrap_err("blocks cannot be watched"),
        }
    }

    async fn follow(
        &self,
        client: Client,
        addresses: &[Address],
        latency: Latency,
    ) -> eyre::Result<std::convert::Infallible> {
        let mut seen = 0;
        loop {
            let height = client.info().await?.height;
            if height == seen {
                tokio::time::sleep(WATCH).await;
                continue;
            }
            seen = height;
            self.height.store(height, Ordering::Relaxed);
            for (sender, address) in addresses.iter().enumerate() {
                let nonce = client.account(address).await?.nonce;
                let mut waiting = self.waiting();
                let rest = waiting.split_off(&(sender, nonce));
                let done = waiting.split_off(&(sender, 0));
                waiting.extend(rest);
                done.values().for_each(|due| latency.record(*due));
            }
        }
    }

    /// Returns once nothing is on its way.
    pub(super) async fn drained(&self) -> eyre::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.waiting().is_empty() {
            eyre::ensure!(
                Instant::now() < deadline,
                "some transactions are in no block"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}
