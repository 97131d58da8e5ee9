use serde_json::{Value, json};

use super::{testing::*, *};
use crate::queue::testing::raw;

fn numbers(heads: &[Value]) -> Vec<&str> {
    heads
        .iter()
        .map(|head| head["number"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn every_head_is_told_once_however_many_come() {
    let server = Server::start(Limits::default()).await;
    let mut one = server.connect().await;
    let mut other = server.connect().await;
    let id = one.subscribe(json!(["newHeads"])).await;
    other.subscribe(json!(["newHeads"])).await;
    // The feed has looked: what comes now is new to it.
    while !server.client.asked().contains(&"eth_blockNumber".into()) {
        tokio::task::yield_now().await;
    }
    server.client.head(1);
    let first = one.next().await.unwrap();
    assert_eq!(first["method"], "eth_subscription");
    assert_eq!(first["params"]["subscription"], json!(id));
    let head = &first["params"]["result"];
    assert_eq!(
        (&head["number"], &head["hash"]),
        (&json!("0x1"), &json!(hash(1)))
    );
    assert_eq!((head.get("transactions"), head.get("size")), (None, None));
    assert_eq!(head["withdrawalsRoot"], json!(null));
    server.client.head(40);
    let mut heads = Vec::new();
    for _ in 2..=40 {
        heads.push(one.told().await);
    }
    let expect: Vec<String> = (2..=40).map(|number| format!("{number:#x}")).collect();
    assert_eq!(numbers(&heads), expect);
    let mut same = Vec::new();
    for _ in 1..=40 {
        same.push(other.told().await);
    }
    assert_eq!(same[1..], heads);
    // A client that comes back with less tells nothing twice.
    server.client.head(10);
    server.client.head(41);
    assert_eq!(one.told().await["number"], "0x29");
    let asked = server.client.asked();
    let blocks = asked
        .iter()
        .filter(|method| *method == "eth_getBlockByNumber");
    assert_eq!(blocks.count(), 41, "each is read once for all");
    let ended = one.call("eth_unsubscribe", json!([id])).await;
    assert_eq!(ended["result"], true);
    let again = one.call("eth_unsubscribe", json!([id])).await;
    assert_eq!(again["error"]["message"], "subscription not found");
}

#[tokio::test]
async fn logs_are_told_to_those_who_want_them() {
    let server = Server::start(Limits::default()).await;
    let mut socket = server.connect().await;
    let (here, elsewhere) = (
        "0x".to_owned() + &"7".repeat(40),
        "0x".to_owned() + &"8".repeat(40),
    );
    let log = |address: &str, index| json!({ "address": address, "topics": [hash(9)], "logIndex": index, "data": "0x" });
    socket.subscribe(json!(["logs", { "address": here }])).await;
    socket
        .subscribe(json!(["logs", { "topics": [hash(8)] }]))
        .await;
    while server.client.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    server.client.log(1, log(&elsewhere, "0x0"));
    server.client.log(2, log(&elsewhere, "0x0"));
    server.client.log(2, log(&here, "0x1"));
    server.client.log(4, log(&here, "0x0"));
    server.client.head(4);
    assert_eq!(socket.told().await, log(&here, "0x1"));
    assert_eq!(socket.told().await, log(&here, "0x0"));
    let asked = server.client.asked();
    let logs = asked
        .iter()
        .filter(|method| *method == "eth_getLogs")
        .count();
    assert_eq!(logs, 3, "blocks without logs are not asked for them");
    // What cannot be told ends the connection instead of missing.
    server.client.break_method("eth_getLogs");
    server.client.log(5, log(&here, "0x0"));
    server.client.head(5);
    assert_eq!(socket.next().await, Err(1011));
}

#[tokio::test]
async fn what_is_taken_in_is_told_and_followed_to_its_end() {
    let server = Server::start(Limits::default()).await;
    let mut socket = server.connect().await;
    socket.subscribe(json!(["newPendingTransactions"])).await;
    let raw = alloy_primitives::Bytes::from(raw(1, 0, 100));
    let hash = json!(alloy_primitives::keccak256(&raw));
    let sent = server.call("eth_sendRawTransaction", json!([raw])).await;
    assert_eq!(sent["result"], hash, "{sent}");
    assert_eq!(socket.told().await, hash);
    // Sent again, it is not new.
    server.call("eth_sendRawTransaction", json!([raw])).await;
    let mut other = server.connect().await;
    other
        .subscribe(json!(["newPendingTransactions", true]))
        .await;
    let answer = other
        .call("counterpoint_subscribeStatus", json!([hash]))
        .await;
    let queued = other.next().await.unwrap();
    assert_eq!(queued["method"], "counterpoint_subscription");
    assert_eq!(queued["params"]["subscription"], answer["result"]);
    assert_eq!(queued["params"]["result"]["status"], "queued");
    let places = vec![(0, Some(0))];
    let height = counterpoint_core::primitive::Height::new(1);
    let queue = &server.rollup.queue;
    queue.included(0, height, places).await.unwrap();
    assert_eq!(other.told().await["status"], "sequenced");
    let execution = crate::queue::Execution {
        block_number: 6,
        success: true,
    };
    let place = crate::queue::Place { height, index: 0 };
    let stage = crate::queue::Stage::Executed(place, execution);
    queue.finish(0, stage).await.unwrap();
    assert_eq!(other.told().await["status"], "executed");
    let over = other
        .call("eth_unsubscribe", json!([answer["result"]]))
        .await;
    assert_eq!(over["error"]["message"], "subscription not found");
    let next = alloy_primitives::Bytes::from(crate::queue::testing::raw(2, 0, 100));
    server.call("eth_sendRawTransaction", json!([next])).await;
    let full = other.told().await;
    assert_eq!(
        (&full["nonce"], &full["blockHash"]),
        (&json!("0x0"), &json!(null))
    );
    assert_eq!(socket.told().await, full["hash"]);
}

#[tokio::test]
async fn syncing_is_told_at_once_and_when_it_changes() {
    let server = Server::start(Limits::default()).await;
    let mut socket = server.connect().await;
    socket.subscribe(json!(["syncing"])).await;
    assert_eq!(socket.told().await, false);
    server.client.syncing(json!({ "currentBlock": "0x1" }));
    let status = json!({ "syncing": true, "status": { "currentBlock": "0x1" } });
    assert_eq!(socket.told().await, status);
    server.client.syncing(json!(false));
    assert_eq!(socket.told().await, false);
}
