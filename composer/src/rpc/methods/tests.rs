use counterpoint_core::primitive::Height;

use std::time::Duration;

use super::{
    sync::{MAX_WAIT, WAIT, wait},
    *,
};
use crate::{
    early::testing::{Client, closed, height_one, receipt, skip},
    queue::{Place, Stage, testing::raw},
    rpc::{dispatch::Context, testing::context},
};

/// A rollup with an execution client that is five blocks old, and a conductor that a test plays.
struct Fixture {
    rollup: Arc<Rollup>,
    client: Client,
    raw: Bytes,
    hash: B256,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = RollupConfig {
            evm_chain_id: 1,
            min_tip_wei: 1,
            ..RollupConfig::example("alpha")
        };
        let queue = Arc::new(Queue::open(directory.path()).unwrap());
        let client = Client::start(5).await;
        let upstream = Upstream::new(&client.url).unwrap();
        let raw = Bytes::from(raw(1, 0, 100));
        let admission = Admission::open(&config, Arc::clone(&queue));
        let config = Arc::new(config);
        Self {
            rollup: Arc::new(Rollup::new(
                config,
                queue,
                upstream,
                Arc::default(),
                None,
                admission,
            )),
            client,
            hash: alloy_primitives::keccak256(&raw),
            raw,
            _directory: directory,
        }
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        call(&context(&self.rollup), method, params).await
    }

    async fn ask(&self, method: &str) -> Value {
        self.call(method, json!([self.hash])).await.unwrap()
    }

    /// Sends the transaction and waits for its receipt, in a task of its own.
    fn send(&self) -> tokio::task::JoinHandle<Result<Value, Value>> {
        let (context, params) = (context(&self.rollup), json!([self.raw, 60_000]));
        tokio::spawn(async move { call(&context, "eth_sendRawTransactionSync", params).await })
    }

    async fn acknowledged(&self) {
        while self.ask("counterpoint_getTransactionStatus").await["status"] == "unknown" {
            tokio::task::yield_now().await;
        }
    }

    async fn sequence(&self) {
        let places = vec![(0, Some(0))];
        let queue = &self.rollup.queue;
        queue.included(0, Height::new(1), places).await.unwrap();
    }
}

/// What a call is answered, as a wallet sees it.
async fn call(context: &Context, method: &str, params: Value) -> Result<Value, Value> {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let reply = context.answer(call.to_string().as_bytes()).await;
    let mut answer: Value = serde_json::from_str(&reply.text.unwrap()).unwrap();
    match answer.get_mut("error") {
        Some(error) => Err(error.take()),
        None => Ok(answer["result"].take()),
    }
}

#[tokio::test]
async fn who_waits_for_a_receipt_gets_it_as_soon_as_the_conductor_tells_it() {
    let fixture = Fixture::new().await;
    let sent = fixture.send();
    fixture.acknowledged().await;
    let told = vec![receipt(fixture.hash)];
    fixture.rollup.early.hear(told).unwrap();
    let early = sent.await.unwrap().unwrap();
    assert_eq!(
        (&early["blockHash"], &early["gasUsed"]),
        (&json!(null), &json!("0x5208"))
    );
    let asked = fixture.ask("counterpoint_getTransactionReceipt").await;
    assert_eq!(asked, early);
    let status = fixture.ask("counterpoint_getTransactionStatus").await;
    assert_eq!(
        (&status["status"], &status["blockNumber"]),
        (&json!("executed"), &json!(6))
    );
}

#[tokio::test]
async fn who_does_not_wait_sees_the_block_once_it_can_be_read() {
    let fixture = Fixture::new().await;
    let sent = fixture.send();
    fixture.acknowledged().await;
    for told in [receipt(fixture.hash), closed(6, B256::repeat_byte(9))] {
        fixture.rollup.early.hear(vec![told]).unwrap();
        let pending = fixture.ask("eth_getTransactionByHash").await;
        assert_eq!(
            (&pending["hash"], &pending["blockNumber"]),
            (&json!(fixture.hash), &json!(null))
        );
        assert_eq!(fixture.ask("eth_getTransactionReceipt").await, json!(null));
    }
    fixture.client.executed(fixture.hash, 6);
    let receipt = fixture.ask("eth_getTransactionReceipt").await;
    assert_eq!(receipt["transactionHash"], json!(fixture.hash));
    sent.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_ran_early_still_counts_until_the_client_has_it() {
    let fixture = Fixture::new().await;
    let sent = fixture.send();
    fixture.acknowledged().await;
    fixture.sequence().await;
    fixture
        .rollup
        .early
        .hear(vec![receipt(fixture.hash)])
        .unwrap();
    sent.await.unwrap().unwrap();
    let sender = fixture.rollup.queue.items(&[0])[0].sender;
    let next = fixture
        .call("eth_getTransactionCount", json!([sender, "pending"]))
        .await;
    assert_eq!(next, Ok(json!("0x1")));
}

#[tokio::test]
async fn a_skip_at_its_place_is_the_end_and_has_a_reason() {
    let fixture = Fixture::new().await;
    let sent = fixture.send();
    fixture.acknowledged().await;
    let elsewhere = Place {
        index: 1,
        ..height_one()
    };
    let tell = |place| {
        fixture
            .rollup
            .early
            .hear(vec![skip(fixture.hash, place, "fee")])
    };
    fixture.sequence().await;
    tell(elsewhere).unwrap();
    let status = fixture.ask("counterpoint_getTransactionStatus").await;
    assert_eq!(status["status"], "sequenced");
    tell(height_one()).unwrap();
    let status = fixture.ask("counterpoint_getTransactionStatus").await;
    assert_eq!(
        (&status["status"], &status["reason"]),
        (&json!("rejected"), &json!("fee"))
    );
    assert_eq!(fixture.ask("eth_getTransactionByHash").await, json!(null));
    let error = sent.await.unwrap().unwrap_err();
    assert_eq!(
        (&error["code"], &error["data"]),
        (&json!(5), &json!(fixture.hash))
    );
    assert_eq!(
        error["message"],
        "The transaction was ordered but not processed: fee"
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_hash() {
    let fixture = Fixture::new().await;
    for timeout in [json!(30), json!("0x1e")] {
        let params = json!([fixture.raw, timeout]);
        let error = fixture
            .call("eth_sendRawTransactionSync", params)
            .await
            .unwrap_err();
        assert_eq!(
            (&error["code"], &error["data"]),
            (&json!(4), &json!(fixture.hash))
        );
        let message =
            "The transaction was added to the transaction pool but wasn't processed in 30ms";
        assert_eq!(error["message"], message);
    }
    let error = fixture
        .call("eth_sendRawTransactionSync", json!(["0x01"]))
        .await
        .unwrap_err();
    assert_eq!(
        error["code"], -32_000,
        "what is not taken is not waited for: {error}"
    );
}

#[tokio::test]
async fn without_a_conductor_the_clients_receipt_is_awaited() {
    let fixture = Fixture::new().await;
    let sent = fixture.send();
    fixture.acknowledged().await;
    fixture.client.executed(fixture.hash, 6);
    let execution = crate::queue::Execution {
        block_number: 6,
        success: true,
    };
    let stage = Stage::Executed(height_one(), execution);
    fixture.rollup.queue.finish(0, stage);
    assert_eq!(sent.await.unwrap().unwrap()["blockNumber"], "0x6");
}

#[test]
fn a_wait_out_of_bounds_is_not_heard() {
    for (asked, expect) in [
        (json!(1), Duration::from_millis(1)),
        (json!("0xea60"), MAX_WAIT),
        (json!(null), WAIT),
        (json!(0), WAIT),
        (json!(-5), WAIT),
        (json!(60_001), WAIT),
        (json!("soon"), WAIT),
        (json!([1]), WAIT),
    ] {
        assert_eq!(wait(asked.clone()), expect, "{asked}");
    }
}

#[tokio::test]
async fn the_client_knows_the_status_of_what_the_queue_has_forgotten() {
    let fixture = Fixture::new().await;
    let status = fixture.ask("counterpoint_getTransactionStatus").await;
    assert_eq!(status["status"], "unknown");
    fixture.client.executed(fixture.hash, 6);
    let status = fixture.ask("counterpoint_getTransactionStatus").await;
    assert_eq!(
        (&status["status"], &status["blockNumber"]),
        (&json!("executed"), &json!(6))
    );
}
