//! Questions to an explorer of a small chain whose headers are really signed.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream, to_bytes},
    http::{Method, Request, header},
};
use counterpoint_service::sequencer::{
    Client,
    testing::{Chain, Lie, Plan, Running, Scripted, Source},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::MAX_LISTENERS;

const LENGTH: u64 = 100;

/// An explorer, and the node that it asks.
struct Site {
    explorer: Explorer,
    _node: Running,
}

impl Site {
    async fn start() -> Self {
        let chain = Arc::new(Chain::new(&Plan::default(), LENGTH));
        let node = Scripted::new(Source::Chain(chain), Lie::None, 0)
            .start()
            .await;
        let client = Client::new(std::slice::from_ref(&node.url)).unwrap();
        let explorer = Explorer::new(client, Root::Lowest, CancellationToken::new());
        tokio::spawn(explorer.clone().run());
        Self {
            explorer,
            _node: node,
        }
    }

    async fn ask(&self, method: Method, path: &str, last: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        self.explorer.router().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.ask(Method::GET, path, None).await;
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn events(&self, query: &str, last: Option<&str>) -> Events {
        let path = format!("/explorer/api/events{query}");
        let answer = self.ask(Method::GET, &path, last).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        Events(answer.into_body().into_data_stream())
    }
}

struct Events(BodyDataStream);

impl Events {
    /// The identifiers of so many blocks.
    async fn blocks(&mut self, count: usize) -> Vec<u64> {
        let (mut text, mut ids) = (String::new(), Vec::new());
        while ids.len() < count {
            let part = self.0.next().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&part).unwrap());
            let found = text.lines().filter_map(|line| line.strip_prefix("id: "));
            ids = found.map(|id| id.parse().unwrap()).collect();
        }
        ids
    }
}

#[tokio::test]
async fn every_answer_keeps_the_page_to_itself() {
    let site = Site::start().await;
    for path in [
        "/explorer/",
        "/explorer/app.js",
        "/explorer/nothing",
        "/explorer/api/blocks",
        "/explorer/api/blocks/x",
        "/explorer/api/nothing",
        "/explorer/api/events",
    ] {
        let answer = site.ask(Method::GET, path, None).await;
        let headers = answer.headers();
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{path}");
        assert!(headers.contains_key(header::CACHE_CONTROL), "{path}");
    }
    let post = site.ask(Method::POST, "/explorer/api/blocks", None).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn blocks_are_listed_from_the_tip_or_below_a_height() {
    let site = Site::start().await;
    let heights = async |query: &str| {
        let (status, answer) = site.get(&format!("/explorer/api/blocks{query}")).await;
        assert_eq!(status, StatusCode::OK);
        let blocks = answer["blocks"].as_array().unwrap().clone();
        blocks
            .iter()
            .map(|block| block["height"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(heights("?limit=3").await, [100, 99, 98]);
    assert_eq!(heights("?before=50&limit=2").await, [49, 48]);
    assert_eq!(heights("?before=3").await, [2, 1]);
    assert_eq!(heights("?before=1").await, [0; 0]);
    assert_eq!(heights("?before=18446744073709551615&limit=1").await, [100]);
    let (_, block) = site.get("/explorer/api/blocks/7").await;
    let brief = &block["block"];
    assert_eq!(
        (&brief["signed"], &brief["rollups"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(brief["lists"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_item_comes_with_its_proof() {
    let site = Site::start().await;
    let (status, list) = site
        .get("/explorer/api/rollups/alpha/lists/9?from=1&limit=1")
        .await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let [item] = &list["items"].as_array().unwrap()[..] else {
        unreachable!("one was asked for")
    };
    assert_eq!((&item["index"], &item["bytes"]), (&json!(1), &json!(18)));
    let (_, proof) = site
        .get("/explorer/api/rollups/alpha/lists/9/1/proof")
        .await;
    let raw = hex::encode(b"item 1 of height 9");
    assert_eq!(proof["item"]["raw"], raw.as_str());
    assert_eq!(proof["item_path"]["index"], 1);
    assert_eq!(proof["signed"]["header"]["height"], "9");
    let (status, answer) = site
        .get("/explorer/api/rollups/alpha/lists/9/3/proof")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["error"], "the list of height 9 has no item 3");
}

#[tokio::test]
async fn a_listener_goes_on_where_it_stopped() {
    let site = Site::start().await;
    let after = site.events("?after=96", None).await.blocks(4).await;
    assert_eq!(after, [97, 98, 99, 100]);
    // What a browser says that comes again is newer than the address that it was given once.
    let again = site.events("?after=3", Some("98")).await.blocks(2).await;
    assert_eq!(again, [99, 100]);
    let wrong = site
        .ask(Method::GET, "/explorer/api/events", Some("x"))
        .await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn listeners_have_places_until_they_go() {
    let site = Site::start().await;
    let mut listeners = Vec::new();
    for _ in 0..MAX_LISTENERS {
        listeners.push(site.events("", None).await);
    }
    let full = site.ask(Method::GET, "/explorer/api/events", None).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(full.headers().contains_key(header::RETRY_AFTER));
    // Who asks a question needs no such place.
    assert_eq!(site.get("/explorer/api/overview").await.0, StatusCode::OK);
    listeners.pop();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while site.explorer.0.listeners.available_permits() == 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "a place is free again"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    site.events("", None).await;
}

#[tokio::test]
async fn questions_beyond_their_places_are_refused_at_once() {
    let site = Site::start().await;
    let places = site.explorer.0.questions.acquire_many(32).await.unwrap();
    let (status, answer) = site.get("/explorer/api/blocks").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer["error"].as_str().unwrap().contains("try again"));
    drop(places);
    assert_eq!(site.get("/explorer/api/blocks").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_node_that_is_away_is_said_to_be() {
    let site = Site::start().await;
    let client = Client::new(&["http://127.0.0.1:1".into()]).unwrap();
    let explorer = Explorer::new(client, Root::Lowest, CancellationToken::new());
    let site = Site { explorer, ..site };
    for path in [
        "overview",
        "blocks",
        "blocks/1",
        "rollups",
        "validators",
        "trust",
    ] {
        let (status, answer) = site.get(&format!("/explorer/api/{path}")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer["error"], "no sequencer node answers at the moment");
    }
}
