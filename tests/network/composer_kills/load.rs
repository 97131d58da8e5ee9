//! Senders that ask until they are answered, and the ledger of what they were told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_network::TransactionBuilder;
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_signer_local::PrivateKeySigner;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};

use crate::support::{Network, PATIENCE, sign_transfer};

/// Pause of a sender between two of its transactions: the rollup executes all of them in time.
const PACE: Duration = Duration::from_millis(30);
/// Pause before a call that was not answered is made again.
const AGAIN: Duration = Duration::from_millis(50);
/// Transactions of a JSON-RPC batch.
const BATCH: u64 = 10;
/// Of so many transactions one is replaced.
const REPLACED: u64 = 5;

/// A sender's transactions with one nonce.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// Those of which one may run.
    pub(super) open: BTreeSet<B256>,
    /// Whether one of them must.
    pub(super) is_acknowledged: bool,
}

/// What senders know, by account and nonce.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<(usize, u64), Entry>,
    /// The raw bytes of all that was ever sent.
    pub(super) raw: BTreeMap<B256, Bytes>,
}

/// Senders at work.
pub(super) struct Load {
    ledger: Arc<Mutex<Ledger>>,
    senders: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts senders with each of the accounts, every other one in batches.
    pub(super) fn start(network: &Network, accounts: std::ops::Range<usize>) -> Self {
        let (ledger, stop): (Arc<Mutex<Ledger>>, Arc<AtomicBool>) = Default::default();
        let send = |account| {
            let sender = Sender {
                account,
                signer: network.signer(account),
                chain_id: network.info.rollups[0].evm_chain_id,
                http: reqwest::Client::builder()
                    .timeout(Duration::from_secs(5))
                    .build()
                    .unwrap(),
                url: network.info.rollups[0].composer_rpc.clone(),
                ledger: Arc::clone(&ledger),
                stop: Arc::clone(&stop),
            };
            tokio::spawn(async move {
                if account % 2 == 0 {
                    sender.send_singly().await;
                } else {
                    sender.send_batches().await;
                }
            })
        };
        let senders = accounts.map(send).collect();
        Self {
            ledger,
            senders,
            stop,
        }
    }

    /// What has a definite answer, oldest first.
    pub(super) fn acknowledged(&self) -> Vec<B256> {
        let ledger = lock(&self.ledger);
        let entries = ledger.entries.values();
        let certain = entries.filter(|entry| entry.is_acknowledged && entry.open.len() == 1);
        certain.flat_map(|entry| entry.open.clone()).collect()
    }

    /// Has senders come to an end, and gives what they know.
    pub(super) async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.await.unwrap();
        }
        std::mem::take(&mut *lock(&self.ledger))
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap()
}

struct Sender {
    account: usize,
    signer: PrivateKeySigner,
    chain_id: u64,
    http: reqwest::Client,
    url: String,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    async fn send_singly(self) {
        for nonce in 0.. {
            let raw = self.sign(nonce, 100).await;
            if !self.insist(nonce, raw).await {
                return;
            }
            if nonce % REPLACED == 0 {
                self.replace(nonce).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn send_batches(self) {
        for first in (0..).step_by(usize::try_from(BATCH).unwrap()) {
            let mut open = BTreeMap::new();
            for nonce in first..first + BATCH {
                open.insert(nonce, self.sign(nonce, 100).await);
            }
            let deadline = Instant::now() + PATIENCE;
            while !open.is_empty() {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let calls: Vec<Value> = open.values().map(call).collect();
                let answers = self.post(&json!(calls)).await.unwrap_or_default();
                let answers = answers.as_array().cloned().unwrap_or_default();
                let told: Vec<u64> = open.keys().copied().collect();
                for (nonce, answer) in told.into_iter().zip(&answers) {
                    if self.hear(nonce, &open[&nonce], answer) == Verdict::Taken {
                        open.remove(&nonce);
                    }
                }
                assert!(Instant::now() < deadline, "never acknowledged: {answers:?}");
                tokio::time::sleep(AGAIN).await;
            }
            tokio::time::sleep(PACE * u32::try_from(BATCH).unwrap()).await;
        }
    }

    /// Sends a transaction until it is acknowledged; gives whether it was, before the end.
    async fn insist(&self, nonce: u64, raw: Bytes) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.stop.load(Ordering::Relaxed) {
            let answer = self.post(&call(&raw)).await.unwrap_or_default();
            if self.hear(nonce, &raw, &answer) == Verdict::Taken {
                return true;
            }
            assert!(Instant::now() < deadline, "never acknowledged: {answer}");
            tokio::time::sleep(AGAIN).await;
        }
        false
    }

    /// Tries to replace what was just acknowledged, until there is an answer.
    async fn replace(&self, nonce: u64) {
        let raw = self.sign(nonce, 150).await;
        let mut was_lost = false;
        while !self.stop.load(Ordering::Relaxed) {
            let answer = self.post(&call(&raw)).await.unwrap_or_default();
            match self.hear(nonce, &raw, &answer) {
                Verdict::Taken => return,
                Verdict::Refused => {
                    if !was_lost {
                        let hash = keccak256(&raw);
                        let mut ledger = lock(&self.ledger);
                        let entry = ledger.entries.entry((self.account, nonce)).or_default();
                        entry.open.remove(&hash);
                    }
                    return;
                }
                Verdict::Lost => was_lost = true,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A transfer of one wei that the ledger knows from now on.
    async fn sign(&self, nonce: u64, max_fee_gwei: u128) -> Bytes {
        let gwei = 1_000_000_000;
        let raw = sign_transfer(self.signer.clone(), self.chain_id, nonce, |request| {
            request
                .with_max_fee_per_gas(max_fee_gwei * gwei)
                .with_max_priority_fee_per_gas(max_fee_gwei * gwei / 100)
        })
        .await;
        let hash = keccak256(&raw);
        let mut ledger = lock(&self.ledger);
        ledger.raw.insert(hash, raw.clone());
        let entry = ledger.entries.entry((self.account, nonce)).or_default();
        entry.open.insert(hash);
        raw
    }

    /// Notes what an answer says of a transaction.
    fn hear(&self, nonce: u64, raw: &Bytes, answer: &Value) -> Verdict {
        let hash = keccak256(raw);
        if answer.get("result") == Some(&json!(hash)) {
            let entry = Entry {
                open: BTreeSet::from([hash]),
                is_acknowledged: true,
            };
            lock(&self.ledger)
                .entries
                .insert((self.account, nonce), entry);
            return Verdict::Taken;
        }
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        let is_final = ["nonce too low", "replacement transaction underpriced"];
        if !is_final.iter().any(|text| message.starts_with(text)) {
            return Verdict::Lost;
        }
        let ledger = lock(&self.ledger);
        let entry = &ledger.entries[&(self.account, nonce)];
        if entry.is_acknowledged {
            Verdict::Refused
        } else {
            // An earlier attempt was taken in and its answer lost: the chain will show it.
            Verdict::Taken
        }
    }

    async fn post(&self, body: &Value) -> Option<Value> {
        let answer = self.http.post(&self.url).json(body).send().await.ok()?;
        answer.json().await.ok()
    }
}

/// What is known of a transaction after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
    /// There was no answer, or one that asks to come back.
    Lost,
}

fn call(raw: &Bytes) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw] })
}
