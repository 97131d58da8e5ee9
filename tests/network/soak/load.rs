//! Senders that are told when a transaction is due, whether the last one was answered or not, and
//! that ask again until there is an answer; and rivals, which order other transactions of theirs.

use std::time::Duration;

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256, utils::Unit};
use alloy_signer_local::PrivateKeySigner;
use counterpoint_core::{
    action::{Action, SubmitData},
    key::SecretKey,
    primitive::{Amount, Height, Nonce, RollupId},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::sequencer::Client;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    ROLLUPS,
    book::{Book, Entry, Kind},
};
use crate::support::{Network, PATIENCE, receipt, sign_transfer};

/// Senders of each rollup.
pub(super) const SENDERS: usize = 10;
/// Of so many transactions one has a rival.
const RIVAL_EVERY: u64 = 40;
/// Pause before a call that was not answered is made again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a sequencer transaction is valid, in heights.
const VALID: u64 = 300;
/// Where transfers go, and those of rivals.
pub(super) const SINK: Address = Address::repeat_byte(0x77);
pub(super) const RIVAL_SINK: Address = Address::repeat_byte(0x78);

/// Senders at work.
pub(super) struct Load {
    pacer: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

/// When a transaction is due, and whether it has a rival.
struct Ticket {
    due: Duration,
    has_rival: bool,
}

/// An item for one rollup.
type Item = (RollupId, Bytes);

impl Load {
    /// Gives the senders of every rollup money, and starts them.
    pub(super) async fn start(network: &Network, book: &Book, rate: u32) -> Self {
        let (orders, rivals) = mpsc::unbounded_channel();
        let mut tasks = vec![tokio::spawn(order_all(Orderer::new(network), rivals))];
        let mut tickets = Vec::new();
        for rollup in 0..ROLLUPS {
            fund(network, book, rollup).await;
        }
        // In turn: neighbours send on different rollups.
        for at in 0..SENDERS * ROLLUPS {
            let (rollup, signer) = (at % ROLLUPS, key(at / ROLLUPS));
            let sender = Sender::new(network, book, rollup, signer, orders.clone());
            let (ticket, told) = mpsc::unbounded_channel();
            tickets.push(ticket);
            tasks.push(tokio::spawn(sender.run(told)));
        }
        let pacer = tokio::spawn(pace(book.clone(), rate, tickets));
        Self { pacer, tasks }
    }

    /// Nothing more becomes due; waits until all that was has an answer.
    pub(super) async fn stop(self) {
        self.pacer.abort();
        let _ = self.pacer.await;
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// The key of a sender, the same on every rollup.
pub(super) fn key(sender: usize) -> PrivateKeySigner {
    let digest = keccak256(format!("counterpoint/soak/sender/{sender}"));
    PrivateKeySigner::from_bytes(&digest).unwrap()
}

/// Hands out tickets at a fixed rate; what is late is made up for.
async fn pace(book: Book, rate: u32, tickets: Vec<mpsc::UnboundedSender<Ticket>>) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for count in 0_u64.. {
        ticks.tick().await;
        let sender = usize::try_from(count).unwrap() % tickets.len();
        let ticket = Ticket {
            due: book.now(),
            has_rival: count % RIVAL_EVERY == RIVAL_EVERY - 1,
        };
        tickets[sender].send(ticket).unwrap();
    }
}

/// Gives every sender of a rollup what it will need, and waits until all of them have it.
async fn fund(network: &Network, book: &Book, rollup: usize) {
    let (orders, _) = mpsc::unbounded_channel();
    let mut funder = Sender::new(network, book, rollup, network.signer(0), orders);
    let mut last = B256::ZERO;
    for sender in 0..SENDERS {
        let value = U256::from(1_000) * Unit::ETHER.wei();
        let to = key(sender).address();
        let (raw, hash) = funder.sign(Kind::Funding, to, value, book.now()).await;
        funder.insist(&raw, hash).await;
        funder.next += 1;
        last = hash;
    }
    receipt(&network.geth(rollup), last).await;
}

/// One account of one rollup.
struct Sender {
    book: Book,
    rollup: usize,
    rollup_id: RollupId,
    chain_id: u64,
    signer: PrivateKeySigner,
    next: u64,
    http: reqwest::Client,
    url: String,
    orders: mpsc::UnboundedSender<Item>,
}

impl Sender {
    fn new(
        network: &Network,
        book: &Book,
        rollup: usize,
        signer: PrivateKeySigner,
        orders: mpsc::UnboundedSender<Item>,
    ) -> Self {
        let info = &network.info.rollups[rollup];
        let timeout = Duration::from_secs(5);
        Self {
            book: book.clone(),
            rollup,
            rollup_id: info.rollup_id,
            chain_id: info.evm_chain_id,
            signer,
            next: 0,
            http: reqwest::Client::builder().timeout(timeout).build().unwrap(),
            url: info.composer_rpc.clone(),
            orders,
        }
    }

    async fn run(mut self, mut tickets: mpsc::UnboundedReceiver<Ticket>) {
        while let Some(ticket) = tickets.recv().await {
            let one = U256::from(1);
            let (raw, hash) = self.sign(Kind::Own, SINK, one, ticket.due).await;
            if ticket.has_rival {
                let (rival, _) = self.sign(Kind::Rival, RIVAL_SINK, one, ticket.due).await;
                self.orders.send((self.rollup_id, rival)).unwrap();
            }
            self.insist(&raw, hash).await;
            self.next += 1;
        }
    }

    /// A transfer with the next nonce, which the book knows from now on.
    async fn sign(&self, kind: Kind, to: Address, value: U256, due: Duration) -> (Bytes, B256) {
        let change = |request: alloy_rpc_types_eth::TransactionRequest| {
            request.with_to(to).with_value(value)
        };
        let raw = sign_transfer(self.signer.clone(), self.chain_id, self.next, change).await;
        let entry = Entry {
            rollup: self.rollup,
            kind,
            sender: self.signer.address(),
            nonce: self.next,
            to,
            value,
            due,
            acknowledged: None,
            ordered: None,
            executed: None,
        };
        let hash = self.book.enter(&raw, entry);
        (raw, hash)
    }

    /// Sends a transaction again and again until it is acknowledged, or its nonce is used.
    async fn insist(&self, raw: &Bytes, hash: B256) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let answer = self.post(raw).await.unwrap_or_default();
            if answer["result"] == json!(hash) {
                return self.book.acknowledged(&hash);
            }
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            if message.starts_with("nonce too low") {
                return;
            }
            let name = &self.url;
            assert!(Instant::now() < deadline, "{name} never answered: {answer}");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn post(&self, raw: &Bytes) -> Option<Value> {
        let method = "eth_sendRawTransaction";
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [raw] });
        let answer = self.http.post(&self.url).json(&call).send().await.ok()?;
        answer.json().await.ok()
    }
}

/// Orders items for rollups from an account of its own, as another composer would.
struct Orderer {
    client: Client,
    chain_id: String,
    key: SecretKey,
    next: u64,
}

impl Orderer {
    fn new(network: &Network) -> Self {
        let nodes = network.info.validators.iter();
        let nodes: Vec<String> = nodes.map(|node| node.grpc.clone()).collect();
        Self {
            client: Client::new(&nodes).unwrap(),
            chain_id: network.info.chain_id.clone(),
            key: network.faucet(),
            next: 0,
        }
    }

    /// Sends an item until it is in a block.
    async fn order(&mut self, (rollup_id, item): Item) {
        let deadline = Instant::now() + 4 * PATIENCE;
        // All versions have the same nonce: one of them gets into a block.
        let mut versions: Vec<(u64, SignedTransaction)> = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "an item is in no block");
            tokio::time::sleep(AGAIN).await;
            let Ok(info) = self.client.info().await else {
                continue;
            };
            if versions.last().is_none_or(|(last, _)| *last < info.height) {
                let last = info.height + VALID;
                versions.push((last, self.sign(rollup_id, item.clone(), last)));
            }
            for (_, tx) in &versions {
                if let Ok(Status::Included(_)) = self.client.transaction(&tx.hash()).await {
                    self.next += 1;
                    return;
                }
                self.client.submit_to_all(tx.as_bytes()).await;
            }
        }
    }

    fn sign(&self, rollup_id: RollupId, item: Bytes, valid_until: u64) -> SignedTransaction {
        let data = SubmitData::new(rollup_id, vec![item.0]).unwrap();
        let body = TransactionBody {
            chain_id: self.chain_id.clone(),
            signer: self.key.public_key(),
            nonce: Nonce::new(self.next),
            tip_per_byte: 0,
            max_fee: Amount::new(u128::MAX),
            valid_until: Height::new(valid_until),
            actions: vec![Action::SubmitData(data)],
        };
        SignedTransaction::sign(body, &self.key).unwrap()
    }
}

async fn order_all(mut orderer: Orderer, mut items: mpsc::UnboundedReceiver<Item>) {
    while let Some(item) = items.recv().await {
        orderer.order(item).await;
    }
}
