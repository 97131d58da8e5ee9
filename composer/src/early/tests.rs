use std::{sync::Arc, time::Duration};

use serde_json::json;
use tonic::Status;

use super::{testing::*, *};
use crate::upstream::Upstream;

const A: B256 = B256::repeat_byte(1);
const B: B256 = B256::repeat_byte(2);
const BLOCK: B256 = B256::repeat_byte(9);

#[test]
fn a_receipt_has_the_clients_shape_and_gets_the_hash_with_its_block() {
    let early = Early::default();
    early.hear(vec![opened(6), receipt(A)]).unwrap();
    let told = early.receipt(&A).unwrap();
    assert_eq!((told.place, told.block_number), (height_one(), 6));
    let shown = serde_json::to_value(&told.receipt).unwrap();
    assert_eq!(shown["blockHash"], json!(null));
    assert_eq!(shown["logs"][0]["blockHash"], json!(null));
    assert_eq!(shown["logs"][0]["blockTimestamp"], "0x6a");
    assert_eq!(shown["logs"][0]["address"], json!(SOMEBODY));
    assert_eq!(
        (&shown["type"], &shown["status"]),
        (&json!("0x2"), &json!("0x1"))
    );
    assert_eq!(shown["contractAddress"], json!(null));
    early.hear(vec![closed(6, BLOCK)]).unwrap();
    let shown = serde_json::to_value(early.receipt(&A).unwrap().receipt).unwrap();
    assert_eq!(shown["blockHash"], json!(BLOCK));
    assert_eq!(shown["logs"][0]["blockHash"], json!(BLOCK));
}

#[test]
fn a_skip_is_about_one_place_and_says_nothing_of_what_ran() {
    let early = Early::default();
    let elsewhere = Place {
        index: 1,
        ..height_one()
    };
    early.hear(vec![skip(A, height_one(), "nonce")]).unwrap();
    assert_eq!(early.skip(&A, height_one()).as_deref(), Some("nonce"));
    assert_eq!(early.skip(&A, elsewhere), None);
    assert_eq!(early.skip(&B, height_one()), None);
    early.hear(vec![receipt(A)]).unwrap();
    assert_eq!(early.skip(&A, height_one()), None);
}

#[test]
fn what_has_no_room_is_forgotten_oldest_first() {
    let early = Early::with_limit(5_000);
    for byte in 0..=255 {
        let hash = B256::repeat_byte(byte);
        let skipped = skip(hash, height_one(), "nonce");
        let events = vec![receipt(hash), skipped, closed(byte.into(), hash)];
        // Told twice, it takes no more room.
        early.hear(events.clone()).unwrap();
        early.hear(events).unwrap();
    }
    let told = early.told();
    assert!(told.bytes <= 5_000 && told.bytes > 2_500, "{}", told.bytes);
    let kept = told.receipts.len() + told.skips.len() + told.blocks.len();
    assert!(kept == told.line.len() && kept < 40, "{kept}");
    drop(told);
    assert!(early.receipt(&A).is_none() && early.receipt(&B256::repeat_byte(255)).is_some());
    let mut told = early.told();
    told.shrink(0);
    assert_eq!((told.bytes, told.line.len()), (0, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    let broken = |change: fn(&mut proto::Receipt)| {
        let Some(proto::event::Event::Receipt(mut told)) = receipt(A).event else {
            panic!("no receipt");
        };
        change(&mut told);
        let event = Some(proto::event::Event::Receipt(told));
        Early::default().hear(vec![proto::Event { event }])
    };
    assert!(broken(|_| ()).is_ok());
    assert!(broken(|told| told.tx_hash.truncate(31)).is_err());
    assert!(broken(|told| told.from.clear()).is_err());
    assert!(broken(|told| told.to.truncate(1)).is_err());
    assert!(broken(|told| told.place = None).is_err());
    assert!(broken(|told| told.transaction_type = 300).is_err());
    assert!(broken(|told| told.effective_gas_price = "-1".into()).is_err());
    assert!(broken(|told| told.logs[0].topics.push(bytes::Bytes::new())).is_err());
    assert!(broken(|told| told.logs[0].topics.resize(5, told.tx_hash.clone())).is_err());
}

#[tokio::test]
async fn a_stream_is_read_on_where_it_broke() {
    let scripts = vec![
        Ok((
            vec![opened(6), receipt(A)],
            Status::resource_exhausted("reader is too slow; resume from block 6"),
        )),
        Ok((
            vec![opened(6), receipt(A), closed(6, BLOCK)],
            Status::unavailable("the conductor stops"),
        )),
        // It has forgotten what its client has.
        Err(Status::out_of_range("begin at block 6 or later")),
        Ok((
            vec![
                opened(7),
                closed(7, BLOCK),
                proto::Event {
                    event: Some(proto::event::Event::Skip(proto::Skip::default())),
                },
            ],
            Status::unavailable("never told"),
        )),
        Ok((vec![receipt(B)], Status::unavailable("the last one"))),
    ];
    let (url, asked) = Scripted::start(scripts).await;
    let client = Client::start(5).await;
    let upstream = Upstream::new(&client.url).unwrap();
    let early = Arc::new(Early::default());
    let follower = Follower::new("alpha".into(), &url, Arc::clone(&early), upstream).unwrap();
    let following = tokio::spawn(follower.run());
    let mut told = early.watch();
    while early.receipt(&B).is_none() {
        let more = tokio::time::timeout(Duration::from_secs(60), told.changed());
        more.await.expect("more is told").unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), [6, 6, 7, 6, 6]);
    assert_eq!(early.receipt(&A).unwrap().receipt.block_hash, Some(BLOCK));
    following.abort();
}

#[tokio::test]
async fn a_url_that_is_none_is_named() {
    let upstream = Upstream::new("http://127.0.0.1:1").unwrap();
    let made = Follower::new("alpha".into(), "no url", Arc::default(), upstream);
    let error = made.unwrap_err().to_string();
    assert_eq!(
        error,
        "rollup alpha: conductor_grpc_url no url is not a URL"
    );
}
