//! Early receipts against geth's own, under load, through kill −9 of the conductor.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use alloy_rpc_types_eth::TransactionReceipt;
use alloy_signer_local::PrivateKeySigner;
use counterpoint_core::action::{Action, SubmitData};
use counterpoint_proto::conductor::{
    Receipt, SubscribeReceiptsRequest, conductor_client::ConductorClient, event::Event,
    subscribe_receipts_request::From as FromPlace,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Network, receipt, sequence, sign_transfer, wait_for};

/// Init code that logs once, and then creates nothing; and code that reverts at once.
const LOGS: &str = "602a60005260076020600aa160006000f3";
const REVERTS: &str = "60006000fd";
/// Accounts that send for as long as the conductor is killed.
const SENDERS: usize = 3;
/// How long each waits between two of its transactions.
const PAUSE: Duration = Duration::from_millis(100);
/// Receipts that come in between two kills.
const MORE: usize = 15;
/// Transactions for the last conductor alone, or for a client that is away.
const EACH: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn early_receipts_are_the_final_ones() {
    let mut network = Network::start(1, 1).await;
    let heard = Arc::new(Heard::default());
    let mut listening = tokio::spawn(listen(
        network.info.rollups[0].conductor_grpc.clone(),
        network.info.rollups[0].el_rpc.clone(),
        Arc::clone(&heard),
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let mut sending = Vec::new();
    for account in 0..SENDERS {
        let sender = Sender::of(&network, account);
        sending.push(tokio::spawn(sender.send_until(Arc::clone(&stop))));
    }
    more_receipts(&heard, &mut listening).await;
    for _ in 0..3 {
        network.devnet.kill("alpha-conductor").await.unwrap();
        network.devnet.launch("alpha-conductor").await.unwrap();
        // Of what ran before it listened again, the listener may never hear.
        more_receipts(&heard, &mut listening).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut hashes = Vec::new();
    for sending in sending {
        hashes.extend(sending.await.unwrap());
    }
    // What runs now is in the memory of the last conductor, and its listener is there.
    let last = Sender::of(&network, SENDERS).send(EACH).await;
    hashes.extend(last.clone());
    let geth = network.geth(0);
    for hash in &hashes {
        let last = receipt(&geth, *hash).await;
        if let Some(early) = heard.of(hash) {
            check(&early, &last);
        }
    }
    for hash in &last {
        wait_for("the receipt of each of the last", || async {
            assert!(!listening.is_finished(), "the listener has failed");
            heard.of(hash)
        })
        .await;
        assert!(is_same_by_rpc(&network, *hash).await, "{hash} is forgotten");
    }
    assert!(
        heard.early.load(Ordering::Relaxed),
        "none came before geth had it"
    );
    listening.abort();
    network.stop().await;
}

/// Waits until the listener has heard of so many more; fails as it fails.
async fn more_receipts(heard: &Heard, listening: &mut JoinHandle<()>) {
    let before = heard.count();
    let more = wait_for("more early receipts", || async {
        (heard.count() >= before + MORE).then_some(())
    });
    tokio::select! {
        () = more => {}
        ended = listening => ended.unwrap(),
    }
}

/// Blocks are executed ahead of the client, and committed when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_come_while_the_client_is_away() {
    let change = |options: &mut counterpoint::devnet::Options| options.slot_secs = vec![10];
    let mut network = Network::start_with(1, 1, change).await;
    network.devnet.kill("alpha-geth").await.unwrap();
    let committed = head(&network).await;
    let rollup = network.info.rollups[0].clone();
    let mut sender = Sender::of(&network, 0);
    let mut raw = Vec::new();
    for _ in 0..EACH {
        raw.push(sender.sign().await);
    }
    let data = raw.iter().map(|raw| raw.0.clone()).collect();
    let data = SubmitData::new(rollup.rollup_id, data).unwrap();
    let inclusion = sequence(&network, vec![Action::SubmitData(data)]).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    for raw in &raw {
        let hash = keccak256(raw);
        let early = wait_for("an early receipt", || async {
            let receipt = call(&rollup.conductor_rpc, "eth_getTransactionReceipt", hash).await;
            (!receipt.is_null()).then_some(receipt)
        })
        .await;
        let number = early["blockNumber"].as_str().unwrap();
        let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap();
        let ahead = committed + 1..=committed + 3;
        assert!(ahead.contains(&number), "{number} after {committed}");
    }
    network.devnet.launch("alpha-geth").await.unwrap();
    let geth = network.geth(0);
    for raw in &raw {
        let hash = keccak256(raw);
        receipt(&geth, hash).await;
        assert!(is_same_by_rpc(&network, hash).await);
    }
    network.stop().await;
}

/// A wallet that waits for its receipt has it long before the slot ends, and it is geth's.
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_gets_its_receipt_before_its_block() {
    let change = |options: &mut counterpoint::devnet::Options| options.slot_secs = vec![10];
    let network = Network::start_with(1, 1, change).await;
    let rollup = network.info.rollups[0].clone();
    let (mut early, mut hashes) = (0, Vec::new());
    let mut sender = Sender::of(&network, 0);
    for _ in 0..3 {
        let raw = sender.sign().await;
        let hash = keccak256(&raw);
        let answer = network.rpc(0, "eth_sendRawTransactionSync", json!([raw, "0xea60"]));
        let told = answer.await.unwrap();
        let transaction = call(&rollup.composer_rpc, "eth_getTransactionByHash", hash).await;
        let known = call(&rollup.el_rpc, "eth_getTransactionReceipt", hash).await;
        early += u32::from(known.is_null() && told["blockHash"].is_null());
        let status = network.status(0, hash).await;
        assert_eq!(status["status"], "executed");
        assert_eq!(hex_number(&told["blockNumber"]), status["blockNumber"]);
        hashes.push((hash, told, transaction));
    }
    assert!(early > 0, "none came before its block");
    for (hash, told, transaction) in hashes {
        receipt(&network.geth(0), hash).await;
        let theirs = call(&rollup.el_rpc, "eth_getTransactionReceipt", hash).await;
        assert_eq!(with_block(told, &theirs), theirs);
        let theirs = call(&rollup.el_rpc, "eth_getTransactionByHash", hash).await;
        assert!(transaction["blockNumber"].is_null() || transaction == theirs);
    }
    network.stop().await;
}

fn hex_number(number: &Value) -> Value {
    let digits = number.as_str().unwrap().trim_start_matches("0x");
    json!(u64::from_str_radix(digits, 16).unwrap())
}

/// What was told of an open block, with the hash that the block got.
fn with_block(mut told: Value, last: &Value) -> Value {
    told["blockHash"] = last["blockHash"].clone();
    for log in told
        .get_mut("logs")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        log["blockHash"] = last["blockHash"].clone();
    }
    told
}

/// The last block that the conductor has committed.
async fn head(network: &Network) -> u64 {
    let url = format!("{}/status", network.info.rollups[0].conductor_http);
    let status: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    status["progress"]["number"].as_u64().unwrap()
}

/// What the stream told.
#[derive(Default)]
struct Heard {
    receipts: Mutex<BTreeMap<B256, Receipt>>,
    /// Whether one came before geth had its block.
    early: AtomicBool,
}

impl Heard {
    fn count(&self) -> usize {
        self.receipts.lock().unwrap().len()
    }

    fn of(&self, hash: &B256) -> Option<Receipt> {
        self.receipts.lock().unwrap().get(hash).cloned()
    }

    /// What is told again must be the same, but for the hash of the block.
    fn hear(&self, receipt: Receipt) {
        let hash = B256::from_slice(&receipt.tx_hash);
        let anonymous = Receipt {
            block_hash: bytes::Bytes::new(),
            ..receipt
        };
        let mut receipts = self.receipts.lock().unwrap();
        let before = receipts.insert(hash, anonymous.clone());
        assert!(before.is_none_or(|before| before == anonymous), "{hash}");
    }
}

/// Reads the stream, over every end of it, from the block where it was.
async fn listen(conductor: String, geth: String, heard: Arc<Heard>) {
    let mut block = 1;
    loop {
        let mut from = FromPlace::Number(block);
        while let Ok(mut client) = ConductorClient::connect(conductor.clone()).await {
            let request = SubscribeReceiptsRequest { from: Some(from) };
            let Ok(stream) = client.subscribe_receipts(request).await else {
                // A conductor that starts again has forgotten what it committed.
                from = FromPlace::Number(0);
                continue;
            };
            let mut stream = stream.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                for event in message.events {
                    match event.event.unwrap() {
                        Event::Opened(opened) => block = opened.number,
                        Event::Receipt(receipt) => {
                            if !heard.early.load(Ordering::Relaxed) {
                                let hash = B256::from_slice(&receipt.tx_hash);
                                let known = call(&geth, "eth_getTransactionReceipt", hash).await;
                                heard.early.fetch_or(known.is_null(), Ordering::Relaxed);
                            }
                            heard.hear(receipt);
                        }
                        Event::Skip(skip) => panic!("skipped: {skip:?}"),
                        Event::Closed(_) => {}
                    }
                }
            }
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An account that sends transfers, creations that log, and creations that fail, in turn.
struct Sender {
    http: reqwest::Client,
    url: String,
    chain_id: u64,
    signer: PrivateKeySigner,
    nonce: u64,
}

impl Sender {
    fn of(network: &Network, account: usize) -> Self {
        let rollup = &network.info.rollups[0];
        Self {
            http: reqwest::Client::new(),
            url: rollup.composer_rpc.clone(),
            chain_id: rollup.evm_chain_id,
            signer: network.signer(account),
            nonce: 0,
        }
    }

    async fn sign(&mut self) -> Bytes {
        let code = [None, Some(LOGS), Some(REVERTS)][(self.nonce % 3) as usize];
        let signer = self.signer.clone();
        let raw = sign_transfer(
            signer,
            self.chain_id,
            self.nonce,
            |mut request| match code {
                None => request,
                Some(code) => {
                    request.to = Some(TxKind::Create);
                    request
                        .with_value(U256::ZERO)
                        .with_gas_limit(200_000)
                        .with_input(hex::decode(code).unwrap())
                }
            },
        );
        self.nonce += 1;
        raw.await
    }

    /// Sends the next one until it is acknowledged.
    async fn send_next(&mut self) -> B256 {
        let raw = self.sign().await;
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw],
        });
        wait_for("an acknowledgement", || async {
            let answer = self.http.post(&self.url).json(&request).send().await.ok()?;
            let answer: Value = answer.json().await.ok()?;
            answer.get("result").is_some().then_some(())
        })
        .await;
        keccak256(&raw)
    }

    async fn send(mut self, count: u64) -> Vec<B256> {
        let mut hashes = Vec::new();
        for _ in 0..count {
            hashes.push(self.send_next().await);
        }
        hashes
    }

    async fn send_until(mut self, stop: Arc<AtomicBool>) -> Vec<B256> {
        let mut hashes = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            hashes.push(self.send_next().await);
            tokio::time::sleep(PAUSE).await;
        }
        hashes
    }
}

/// One JSON-RPC call about a transaction.
pub(crate) async fn call(url: &str, method: &str, hash: B256) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [hash] });
    let http = reqwest::Client::new();
    wait_for(method, || async {
        let answer = http.post(url).json(&request).send().await.ok()?;
        let mut answer: Value = answer.json().await.ok()?;
        Some(answer["result"].take())
    })
    .await
}

/// Whether the conductor still has a receipt; then it is geth's, to the last field.
async fn is_same_by_rpc(network: &Network, hash: B256) -> bool {
    let rollup = &network.info.rollups[0];
    let ours = call(&rollup.conductor_rpc, "eth_getTransactionReceipt", hash).await;
    let theirs = call(&rollup.el_rpc, "eth_getTransactionReceipt", hash).await;
    if ours.is_null() {
        return false;
    }
    assert_eq!(ours, theirs);
    true
}

fn check(early: &Receipt, last: &TransactionReceipt) {
    let address = |bytes: &[u8]| (!bytes.is_empty()).then(|| Address::from_slice(bytes));
    assert_eq!(Some(early.block_number), last.block_number);
    assert_eq!(
        Some(u64::from(early.transaction_index)),
        last.transaction_index
    );
    assert_eq!(address(&early.from), Some(last.from));
    assert_eq!(address(&early.to), last.to);
    assert_eq!(address(&early.contract_address), last.contract_address);
    assert_eq!(early.success, last.status());
    assert_eq!(early.gas_used, last.gas_used);
    assert_eq!(early.cumulative_gas_used, last.inner.cumulative_gas_used());
    assert_eq!(
        early.effective_gas_price,
        last.effective_gas_price.to_string()
    );
    assert_eq!(
        early.transaction_type,
        u32::from(last.transaction_type() as u8)
    );
    assert_eq!(early.logs.len(), last.logs().len());
    for (early, last) in early.logs.iter().zip(last.logs()) {
        assert_eq!(early.address, last.address().as_slice());
        let topics = last.topics().iter().map(B256::as_slice);
        assert!(early.topics.iter().map(AsRef::as_ref).eq(topics));
        assert_eq!(early.data, last.data().data.0);
        assert_eq!(Some(early.index), last.log_index);
    }
}
