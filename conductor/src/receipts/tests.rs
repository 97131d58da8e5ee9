use std::{sync::Arc, time::Duration};

use alloy_consensus::TxEip1559;
use alloy_primitives::{TxKind, U256, hex};
use counterpoint_core::block::RollupItem;
use counterpoint_proto::conductor::{
    SubscribeReceiptsRequest, SubscribeReceiptsResponse, conductor_server::Conductor,
    event::Event as Wire, subscribe_receipts_request::From as FromPlace,
};
use serde_json::json;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{grpc::Server, *};
use crate::testing::{Rollup, SlicePlan, paid, sign, transfer, whole};

/// Init code that logs once, with a topic and a word, and then creates nothing.
const LOGS: &str = "602a60005260076020600aa160006000f3";

/// Blocks with one skip each, from number 1 and height 2 on.
fn filled(blocks: u8, limit: usize) -> Receipts {
    let receipts = Receipts::with_limit(0, &ExtraData::genesis(Height::new(2)), limit);
    for number in 1..=blocks {
        block(&receipts, number);
    }
    receipts
}

fn block(receipts: &Receipts, number: u8) {
    let height = Height::new(u64::from(number) + 1);
    receipts.record(Event::Opened {
        number: number.into(),
        timestamp: 100 + u64::from(number),
        height,
    });
    receipts.record(skip(number, height));
    receipts.record(Event::Closed {
        hash: B256::repeat_byte(number),
        height,
    });
}

fn skip(byte: u8, height: Height) -> Event {
    Event::Skipped(Skip {
        hash: B256::repeat_byte(byte),
        place: Place { height, index: 0 },
        reason: SkipReason::Nonce,
    })
}

#[test]
fn readers_begin_where_they_ask_to() {
    let receipts = filled(3, usize::MAX);
    let position = |start| receipts.position(start);
    assert_eq!(position(Start::Now), Ok(9));
    assert_eq!(position(Start::Number(1)), Ok(0));
    assert_eq!(position(Start::Number(3)), Ok(6));
    assert_eq!(position(Start::Number(4)), Ok(9));
    assert_eq!(
        position(Start::Number(5)),
        Err(ReadError::Ahead { latest: 4 })
    );
    assert_eq!(position(Start::Height(Height::new(3))), Ok(3));
    assert_eq!(position(Start::Height(Height::new(9))), Ok(6));
    let gone = ReadError::Gone { oldest: 1 };
    assert_eq!(position(Start::Height(Height::new(1))), Err(gone));
    receipts.record(Event::Opened {
        number: 4,
        timestamp: 104,
        height: Height::new(5),
    });
    assert_eq!(position(Start::Number(4)), Ok(9));
    assert_eq!(
        position(Start::Number(5)),
        Err(ReadError::Ahead { latest: 4 })
    );
}

#[test]
fn what_has_no_room_is_forgotten_oldest_first() {
    let size = skip(0, Height::new(0)).size();
    let receipts = filled(20, 7 * size);
    assert_eq!(receipts.find(&B256::repeat_byte(18)), None);
    let found = receipts.find(&B256::repeat_byte(19)).unwrap();
    assert_eq!((found.block.number, found.block.timestamp), (19, 119));
    assert_eq!(found.block.hash, Some(B256::repeat_byte(19)));
    let gone = ReadError::Gone { oldest: 19 };
    assert_eq!(receipts.position(Start::Number(18)), Err(gone));
    assert_eq!(receipts.position(Start::Height(Height::new(3))), Err(gone));
    let first = receipts.position(Start::Number(19)).unwrap();
    assert_eq!(receipts.read(first).unwrap().len(), 6);
    assert_eq!(receipts.read(0), Err(gone));
    let log = receipts.log();
    assert!(log.bytes <= 7 * size && log.by_item.len() <= 3 && log.blocks.len() <= 3);
}

#[test]
fn an_event_greater_than_all_room_is_there_until_the_next() {
    let receipts = filled(2, 1);
    assert_eq!(receipts.read(5).unwrap().len(), 1);
    let gone = ReadError::Gone { oldest: 3 };
    assert_eq!(receipts.position(Start::Number(2)), Err(gone));
}

/// A block with a creation that logs, a transfer, and the same transfer once more.
fn rollup() -> (Rollup, B256, B256) {
    let mut rollup = Rollup::new();
    (rollup.config.gas_limit, rollup.config.max_tx_gas) = (30_000_000, 7_500_000);
    let create = TxEip1559 {
        to: TxKind::Create,
        value: U256::ZERO,
        gas_limit: 200_000,
        input: hex::decode(LOGS).unwrap().into(),
        ..transfer(1)
    };
    let (moved, created) = (sign(1, transfer(0)), sign(1, create));
    let hash = |raw: &[u8]| alloy_primitives::keccak256(raw);
    let hashes = (hash(&moved), hash(&created));
    let open = SlicePlan {
        opens: true,
        closes: false,
        items: vec![
            RollupItem::Transaction(moved.clone()),
            RollupItem::Transaction(created),
            RollupItem::Transaction(moved),
            paid(9, 0),
        ],
    };
    rollup.push(open).unwrap();
    (rollup, hashes.0, hashes.1)
}

fn ask(receipts: &Receipts, method: &str, hash: B256) -> serde_json::Value {
    let call = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": [hash] });
    rpc::answer(receipts, call.to_string().as_bytes())["result"].take()
}

#[test]
fn a_receipt_is_there_before_its_block_and_gets_the_hash_with_it() {
    let (mut rollup, moved, created) = rollup();
    let early = ask(&rollup.receipts, "eth_getTransactionReceipt", created);
    assert_eq!(early["blockHash"], json!(null));
    assert_eq!(early["transactionIndex"], "0x1");
    assert_eq!(early["logs"][0]["topics"].as_array().unwrap().len(), 1);
    let close = SlicePlan {
        opens: false,
        closes: true,
        items: vec![],
    };
    let closed = rollup.push(close).unwrap().unwrap();
    let late = ask(&rollup.receipts, "eth_getTransactionReceipt", created);
    let hash = json!(closed.built.hash);
    assert_eq!(
        (&late["blockHash"], &late["logs"][0]["blockHash"]),
        (&hash, &hash)
    );
    assert_eq!(late["cumulativeGasUsed"], early["cumulativeGasUsed"]);
    let outcome = ask(&rollup.receipts, "counterpoint_getReceipt", moved);
    assert_eq!(
        outcome["status"], "included",
        "its second occurrence hides nothing"
    );
    assert_eq!(
        (&outcome["height"], &outcome["index"]),
        (&json!(2), &json!(0))
    );
}

#[test]
fn a_skip_has_a_reason_and_no_receipt() {
    let (rollup, ..) = rollup();
    let skipped = rollup.skips().last().unwrap().hash;
    let outcome = ask(&rollup.receipts, "counterpoint_getReceipt", skipped);
    assert_eq!(outcome["reason"], "balance");
    assert_eq!(outcome["blockNumber"], "0x1");
    let none = json!(null);
    assert_eq!(
        ask(&rollup.receipts, "eth_getTransactionReceipt", skipped),
        none
    );
    assert_eq!(
        ask(&rollup.receipts, "counterpoint_getReceipt", B256::ZERO),
        none
    );
}

#[test]
fn bad_calls_get_errors() {
    let receipts = filled(0, usize::MAX);
    let code = |body: &str| rpc::answer(&receipts, body.as_bytes())["error"]["code"].as_i64();
    assert_eq!(code("{"), Some(-32_700));
    assert_eq!(code(&"[".repeat(50_000)), Some(-32_700));
    assert_eq!(code("[]"), Some(-32_600));
    assert_eq!(code("7"), Some(-32_600));
    assert_eq!(code(r#"{"method":"eth_call"}"#), Some(-32_601));
    assert_eq!(
        code(r#"{"method":"counterpoint_getReceipt","params":["0x1"]}"#),
        Some(-32_602)
    );
    let batch = rpc::answer(&receipts, br#"[{"method":"eth_call"},1]"#);
    assert_eq!(batch.as_array().unwrap().len(), 2);
}

type Stream = ReceiverStream<Result<SubscribeReceiptsResponse, Status>>;

async fn subscribe(receipts: &Arc<Receipts>, from: FromPlace) -> Result<Stream, Status> {
    let server = Server::new(Arc::clone(receipts), CancellationToken::new());
    let from = Some(from);
    let request = Request::new(SubscribeReceiptsRequest { from });
    Ok(server.subscribe_receipts(request).await?.into_inner())
}

/// What the next message tells.
async fn message(stream: &mut Stream) -> Vec<Wire> {
    let message = stream.next().await.unwrap().unwrap();
    let events = message.events.into_iter();
    events.map(|event| event.event.unwrap()).collect()
}

#[tokio::test]
async fn a_stream_tells_what_happened_and_then_what_happens() {
    let (mut rollup, _, created) = rollup();
    let receipts = Arc::clone(&rollup.receipts);
    let mut stream = subscribe(&receipts, FromPlace::Number(1)).await.unwrap();
    let first = message(&mut stream).await;
    let Wire::Receipt(receipt) = &first[2] else {
        panic!("{first:?}");
    };
    assert_eq!(receipt.tx_hash, created.as_slice());
    assert_eq!((receipt.block_number, receipt.transaction_index), (1, 1));
    assert!(receipt.block_hash.is_empty() && receipt.success);
    assert_eq!(receipt.contract_address.len(), 20);
    assert!(matches!(&first[3], Wire::Skip(skip) if skip.reason == "nonce"));
    let close = SlicePlan {
        opens: false,
        closes: true,
        items: vec![],
    };
    let closed = rollup.push(close).unwrap().unwrap();
    let last = message(&mut stream).await;
    assert!(matches!(&last[..], [Wire::Closed(end)] if end.hash == closed.built.hash.as_slice()));
    let mut again = subscribe(&receipts, FromPlace::Height(2)).await.unwrap();
    let again = message(&mut again).await;
    assert!(matches!(&again[2], Wire::Receipt(again)
        if again.block_hash == closed.built.hash.as_slice() && again.logs == receipt.logs));
    rollup.push(whole(vec![])).unwrap();
    let opened = message(&mut stream).await;
    assert!(matches!(&opened[0], Wire::Opened(block) if block.number == 2));
}

#[tokio::test]
async fn what_is_not_here_is_refused() {
    let receipts = Arc::new(filled(20, 1));
    for from in [
        FromPlace::Number(3),
        FromPlace::Height(3),
        FromPlace::Number(30),
    ] {
        let status = subscribe(&receipts, from).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{from:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_where_to_resume() {
    let receipts = Arc::new(filled(255, usize::MAX));
    let mut stream = subscribe(&receipts, FromPlace::Number(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut told = 0;
    let status = loop {
        match stream.next().await.unwrap() {
            Ok(message) => told += message.events.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    // Three events of each block: the reader has all before that one, and the beginning of it.
    let resume = format!("resume from block {}", told / 3 + 1);
    assert!(status.message().ends_with(&resume), "{status} after {told}");
    assert!(stream.next().await.is_none());
}
