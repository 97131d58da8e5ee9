use serde_json::{Value, json};

use super::{
    testing::{hash as hash_of, *},
    *,
};
use crate::queue::testing::raw;

fn numbers(heads: &[Value]) -> Vec<&str> {
    heads
        .iter()
        .map(|head| head["number"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn what_the_client_has_already_is_not_told() {
    let server = Server::start(Limits::default()).await;
    let (mut before, mut after) = (server.connect().await, server.connect().await);
    before.subscribe(json!(["newHeads"])).await;
    while !server.client.asked().contains(&LATEST.into()) {
        tokio::task::yield_now().await;
    }
    server.client.head(5);
    // The feed has still to tell of them.
    after.subscribe(json!(["newHeads"])).await;
    server.client.head(6);
    assert_eq!(after.told().await["number"], "0x6");
    assert_eq!(before.told().await["number"], "0x1");
}

#[tokio::test]
async fn every_head_is_told_once_however_many_come() {
    let server = Server::start(Limits::default()).await;
    let mut one = server.connect().await;
    let mut other = server.connect().await;
    let id = one.subscribe(json!(["newHeads"])).await;
    other.subscribe(json!(["newHeads"])).await;
    // The feed has looked: what comes now is new to it.
    while !server.client.asked().contains(&LATEST.into()) {
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
    queue.finish(0, stage);
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

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so() {
    let server = Server::start(Limits::default()).await;
    let mut socket = server.connect().await;
    socket.subscribe(json!(["newHeads"])).await;
    while server.client.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    server.client.lengthen(1 << 20);
    server.client.head(150);
    let blocks = |asked: Vec<String>| {
        let blocks = asked
            .iter()
            .filter(|method| *method == "eth_getBlockByNumber");
        blocks.count()
    };
    while blocks(server.client.asked()) < 150 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut told = 0;
    let code = loop {
        match socket.next().await {
            Ok(_) => told += 1,
            Err(code) => break code,
        }
    };
    assert_eq!(code, 1008);
    assert!(told < 150);
}

#[tokio::test]
async fn subscriptions_are_bounded_and_those_of_others_are_not_ended() {
    let limits = Limits {
        max_subscriptions: 2,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let (mut one, mut other) = (server.connect().await, server.connect().await);
    let heads = json!(["newHeads"]);
    let id = one.subscribe(heads.clone()).await;
    one.subscribe(heads.clone()).await;
    let refused = one.call("eth_subscribe", heads.clone()).await;
    assert_eq!(refused["error"]["code"], -32_005);
    let foreign = other.call("eth_unsubscribe", json!([id])).await;
    assert_eq!(foreign["error"]["code"], -32_000);
    one.call("eth_unsubscribe", json!([id])).await;
    one.subscribe(heads).await;
    for (params, code, message) in [
        (
            json!([]),
            -32_602,
            "expected subscription name as first argument",
        ),
        (
            json!(["peers"]),
            -32_601,
            "no \"peers\" subscription in eth namespace",
        ),
        (
            json!(["newHeads", 1]),
            -32_602,
            "too many arguments, want at most 1",
        ),
        (
            json!(["logs", { "topics": 1 }]),
            -32_602,
            "invalid argument 0: ",
        ),
    ] {
        let answer = other.call("eth_subscribe", params).await;
        let (got, text) = (
            &answer["error"]["code"],
            answer["error"]["message"].as_str(),
        );
        assert!(
            *got == code && text.unwrap().starts_with(message),
            "{answer}"
        );
    }
    // In a batch, subscriptions begin after its answer.
    let call = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "eth_subscribe", "params": ["syncing"] });
    other.send(json!([call(1), call(2)]).to_string()).await;
    let answers = other.next().await.unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 2);
    assert_eq!(
        (other.told().await, other.told().await),
        (json!(false), json!(false))
    );
}

#[tokio::test]
async fn a_connection_ends_with_a_reason() {
    let limits = Limits {
        max_body_bytes: 1_000,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut socket = server.connect().await;
    socket.send("x".repeat(2_000)).await;
    assert_eq!(socket.next().await, Err(1009));
    let mut socket = server.connect().await;
    socket.send("{").await;
    assert_eq!(socket.next().await.unwrap()["error"]["code"], -32_700);
    server.served.shutdown.cancel();
    assert_eq!(socket.next().await, Err(1001));
}

#[tokio::test]
async fn filters_tell_what_is_new_and_end() {
    let server = Server::start(Limits::default()).await;
    let result = async |method: &str, params: Value| {
        let mut answer = server.call(method, params).await;
        assert_eq!(answer.get("error"), None, "{answer}");
        answer["result"].take()
    };
    server.client.head(5);
    let log = |index| json!({ "address": "0x".to_owned() + &"7".repeat(40), "logIndex": index });
    let blocks = result("eth_newBlockFilter", json!([])).await;
    let logs = result("eth_newFilter", json!([{}])).await;
    let arrivals = result("eth_newPendingTransactionFilter", json!([])).await;
    for id in [&blocks, &logs, &arrivals] {
        assert_eq!(result("eth_getFilterChanges", json!([id])).await, json!([]));
    }
    server.client.log(6, log(0));
    server.client.log(7, log(1));
    server.client.head(7);
    let raw = alloy_primitives::Bytes::from(raw(1, 0, 100));
    let hash = result("eth_sendRawTransaction", json!([raw])).await;
    let changes = result("eth_getFilterChanges", json!([blocks])).await;
    assert_eq!(changes, json!([hash_of(6), hash_of(7)]));
    let changes = result("eth_getFilterChanges", json!([logs])).await;
    assert_eq!(changes, json!([log(0), log(1)]));
    let changes = result("eth_getFilterChanges", json!([arrivals])).await;
    assert_eq!(changes, json!([hash]));
    // A client that comes back with less tells nothing twice.
    server.client.head(6);
    for id in [&blocks, &logs, &arrivals] {
        assert_eq!(result("eth_getFilterChanges", json!([id])).await, json!([]));
        assert_eq!(result("eth_uninstallFilter", json!([id])).await, true);
        assert_eq!(result("eth_uninstallFilter", json!([id])).await, false);
        let gone = server.call("eth_getFilterChanges", json!([id])).await;
        let error = json!({ "code": -32_000, "message": "filter not found" });
        assert_eq!(gone["error"], error);
    }
    let asked = server.client.asked();
    assert!(!asked.iter().any(|method| method.contains("Filter")));
}

#[tokio::test]
async fn http_answers_as_geth_does() {
    let limits = Limits {
        max_body_bytes: 1_000,
        max_batch: 3,
        max_batch_answer_bytes: 50,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let error = |id: Value, code: i64, message: &str| json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } });
    let call = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "eth_chainId" });
    let quiet = json!({ "jsonrpc": "2.0", "method": "eth_chainId" });
    let chain = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "result": "0x1" });
    let too_large = |id: u64| error(json!(id), -32_003, "response too large");
    for (body, expect) in [
        (
            json!({}).to_string(),
            error(json!(null), -32_600, "invalid request"),
        ),
        ("{".into(), error(json!(null), -32_700, "parse error")),
        (String::new(), error(json!(null), -32_700, "parse error")),
        ("[]".into(), error(json!(null), -32_600, "empty batch")),
        (
            json!([call(1), 7]).to_string(),
            json!([chain(1), error(json!(null), -32_600, "invalid request")]),
        ),
        (json!([call(1), quiet]).to_string(), json!([chain(1)])),
        (
            json!([quiet, call(2), call(3), call(4)]).to_string(),
            json!([error(json!(2), -32_600, "batch too large")]),
        ),
        (
            json!([call(1), call(2), call(3)]).to_string(),
            json!([chain(1), chain(2), too_large(3)]),
        ),
    ] {
        let (status, answer) = server.post("/alpha", body.clone()).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((status, &answer), (200, &expect), "{body}");
    }
    assert_eq!(
        server.post("/", quiet.to_string()).await,
        (200, String::new())
    );
    assert_eq!(server.post("/", &b"\"\xff\""[..]).await.0, 200);
    for (method, params, code, message) in [
        (
            "eth_sendRawTransaction",
            json!([]),
            -32_602,
            "missing value for required argument 0",
        ),
        (
            "eth_sendRawTransaction",
            json!(["0x", 1]),
            -32_602,
            "too many arguments, want at most 1",
        ),
        ("eth_chainId", json!({}), -32_602, "non-array args"),
        (
            "eth_subscribe",
            json!(["newHeads"]),
            -32_601,
            "notifications not supported",
        ),
        (
            "eth_nothing",
            json!([]),
            -32_601,
            "the method eth_nothing does not exist/is not available",
        ),
    ] {
        let answer = server.call(method, params).await;
        assert_eq!(answer["error"], json!({ "code": code, "message": message }));
    }
    let long = format!("\"{}\"", "x".repeat(1_000));
    let (status, text) = server.post("/", long).await;
    assert_eq!(
        (status, text.as_str()),
        (413, "content length too large (1002>1000)\n")
    );
    let (status, text) = server.post("/beta", "{}").await;
    assert!(
        status == 404 && text.contains("no rollup is served"),
        "{text}"
    );
    let url = format!("http://{}/", server.address);
    let http = reqwest::Client::new();
    let send = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(send(http.get(&url)).await, (200, String::new()));
    assert_eq!(send(http.put(&url)).await.0, 405);
    let (status, text) = send(http.post(&url).body("{}")).await;
    assert!(
        status == 415 && text.contains("only application/json is supported"),
        "{text}"
    );
    let json_type = ("content-type", "application/json; charset=utf-8");
    let zipped = http
        .post(&url)
        .header(json_type.0, json_type.1)
        .header("content-encoding", "gzip");
    assert_eq!(send(zipped.body("{}")).await.0, 415);
    assert_eq!(
        send(http.post(&url).header(json_type.0, json_type.1).body("{}"))
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn answers_are_compressed_and_web_pages_may_call() {
    let server = Server::start(Limits::default()).await;
    let url = format!("http://{}/", server.address);
    let discover = json!({ "jsonrpc": "2.0", "id": 1, "method": "rpc.discover" }).to_string();
    let post = |encoding: &'static str| {
        let request = reqwest::Client::new()
            .post(&url)
            .header("content-type", "application/json");
        request
            .header("accept-encoding", encoding)
            .header("origin", "https://app.example")
            .body(discover.clone())
            .send()
    };
    for encoding in ["gzip", "deflate", "br"] {
        let response = post(encoding).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], encoding);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert!(response.bytes().await.unwrap().len() < 8_000);
    }
    let plain = post("identity").await.unwrap();
    assert!(plain.text().await.unwrap().contains("\"openrpc\""));
    let asked = reqwest::Client::new()
        .request(reqwest::Method::OPTIONS, &url)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-api-key");
    let asked = asked.send().await.unwrap();
    assert_eq!(
        asked.headers()["access-control-allow-headers"],
        "content-type,x-api-key"
    );

    let limits = Limits {
        cors_origins: vec!["https://app.example".into()],
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let connect = async |origin: &'static str| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let url = format!("ws://{}/", server.address);
        let mut request = url.into_client_request().unwrap();
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
        tokio_tungstenite::connect_async(request).await.is_ok()
    };
    assert!(connect("https://app.example").await);
    assert!(!connect("https://evil.example").await);
    server.connect().await;
}

#[tokio::test]
async fn callers_have_limits_and_keys_have_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.toml");
    let text = "[[keys]]\nname = 'one'\nkey = 'a secret of sixteen'\ncalls_per_second = 0\n";
    std::fs::write(&keys, text).unwrap();
    let limits = Limits {
        calls_per_second: 1,
        calls_burst: 10,
        max_batch: 10,
        api_keys: Some(keys),
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let call = json!({ "jsonrpc": "2.0", "id": 5, "method": "eth_chainId" });
    let batch = Value::Array(vec![call.clone(); 9]).to_string();
    assert_eq!(server.post("/", batch.clone()).await.0, 200);
    let (status, refused) = server.post("/", batch.clone()).await;
    let refused: Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(
        (status, &refused[0]["error"]["code"], &refused[0]["id"]),
        (429, &json!(-32_005), &json!(5))
    );
    let mut socket = server.connect().await;
    socket.send(batch.clone()).await;
    assert_eq!(socket.next().await.unwrap()[0]["error"]["code"], -32_005);
    assert_eq!(
        server
            .post("/alpha/a%20secret%20of%20sixteen", batch.clone())
            .await
            .0,
        200
    );
    assert_eq!(server.post("/alpha/another", batch.clone()).await.0, 401);
    for (name, value, expect) in [
        ("authorization", "Bearer a secret of sixteen", 200),
        ("x-api-key", "a secret of sixteen", 200),
        ("x-api-key", "a secret of seventeen", 401),
        ("authorization", "Basic a secret of sixteen", 429),
    ] {
        let request = reqwest::Client::new().post(format!("http://{}/", server.address));
        let request = request
            .header("content-type", "application/json")
            .header(name, value);
        let status = request.body(batch.clone()).send().await.unwrap().status();
        assert_eq!(status, expect, "{name}: {value}");
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits {
        max_connections_per_address: 2,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let (_one, other) = (server.connect().await, server.connect().await);
    let (status, refused) = server.post("/", "{}").await;
    assert!(
        status == 503 && refused.contains("too many connections"),
        "{refused}"
    );
    drop(other);
    let is_free = || {
        server
            .served
            .gate
            .connections
            .take(Some([127, 0, 0, 1].into()))
            .is_some()
    };
    while !is_free() {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.post("/", "{}").await.0, 200);
}

/// What must reach nobody, however it is spelled.
const FORBIDDEN: [&str; 30] = [
    "engine_newPayloadV4",
    "engine_forkchoiceUpdatedV3",
    "engine_exchangeCapabilities",
    "admin_addPeer",
    "admin_startHTTP",
    "admin_peers",
    "debug_setHead",
    "debug_traceTransaction",
    "debug_getRawBlock",
    "personal_unlockAccount",
    "personal_sign",
    "miner_start",
    "miner_setGasLimit",
    "txpool_content",
    "txpool_status",
    "testing_buildBlockV1",
    "clique_propose",
    "les_serverInfo",
    "ethash_getWork",
    "shh_post",
    "db_putString",
    "bzz_info",
    "parity_setEngineSigner",
    "trace_block",
    "rpc_modules",
    "eth_sendTransaction",
    "eth_sign",
    "eth_signTransaction",
    "eth_resend",
    "admin_subscribe",
];

/// Spellings of a name that somebody may take for it, each as JSON.
fn spellings(name: &str) -> Vec<String> {
    let (namespace, rest) = name.split_once('_').unwrap();
    let escape =
        |text: &str| -> String { text.bytes().map(|byte| format!("\\u{byte:04x}")).collect() };
    let plain = [
        name.to_owned(),
        name.to_uppercase(),
        name[..1].to_uppercase() + &name[1..],
        format!(" {name}"),
        format!("{name} "),
        format!("\t{name}\n"),
        format!("{name}\0"),
        format!("\0{name}"),
        format!("eth_call\0{name}"),
        format!("eth_call,{name}"),
        format!("{namespace}\u{200b}_{rest}"),
        format!("\u{feff}{name}"),
        format!("{namespace}\u{ff3f}{rest}"),
        name.replace('e', "\u{435}"),
        name.replace('a', "\u{430}"),
        format!("{namespace}.{rest}"),
        format!("{namespace}/{rest}"),
        format!("eth_{name}"),
        format!("eth_../{name}"),
    ];
    let plain = plain.iter().map(|name| json!(name).to_string());
    let escaped = [
        format!("\"{}\"", escape(name)),
        format!("\"{}{}\"", escape(&name[..1]), &name[1..]),
        format!("\"{namespace}\\u005f{rest}\""),
    ];
    plain.chain(escaped).collect()
}

/// Ways to put a call where somebody may overlook it.
fn hidden(name: &str) -> Vec<String> {
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":{name},"params":[]}}"#);
    let good = r#"{"jsonrpc":"2.0","id":2,"method":"eth_chainId","params":[]}"#;
    vec![
        call.clone(),
        format!("[{good},{call},{good}]"),
        format!("[[{call}]]"),
        format!(r#"{{"jsonrpc":"2.0","method":{name},"params":[]}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_chainId","method":{name}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":{name},"method":"eth_chainId"}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"Method":{name},"method":"eth_chainId"}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[{call}]}}"#),
        format!(r#"["2.0",1,{name},[]]"#),
    ]
}

#[tokio::test]
async fn what_is_not_listed_reaches_nobody() {
    let limits = Limits {
        calls_per_second: 0,
        ..Limits::default()
    };
    let server = Server::start(limits).await;
    let mut socket = server.connect().await;
    let http = reqwest::Client::new();
    for name in FORBIDDEN.iter().flat_map(|name| spellings(name)) {
        let spelled: String = serde_json::from_str(&name).unwrap();
        assert!(table::find(&spelled).is_none(), "{name}");
        for body in hidden(&name) {
            let request = http.post(format!("http://{}/", server.address));
            let request = request.header("content-type", "application/json");
            let response = request.body(body.clone()).send().await.unwrap();
            assert_eq!(response.status(), 200, "{body}");
            let text = response.text().await.unwrap();
            socket.send(body.clone()).await;
            if text.is_empty() {
                continue; // A notification has no answer.
            }
            let over_http: Value = serde_json::from_str(&text).unwrap();
            let over_socket = socket.next().await.unwrap();
            assert_eq!(over_http, over_socket, "{body}");
            let is_refused = text.contains(r#""error""#) || over_http["result"] == "0x1";
            assert!(is_refused, "{body}: {text}");
        }
    }
    let asked = server.client.asked();
    let others = asked.iter().filter(|method| *method != LATEST);
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    // What is listed does reach the client.
    server.call("web3_sha3", json!(["0x"])).await;
    assert_eq!(
        server
            .client
            .asked()
            .iter()
            .filter(|method| *method == "web3_sha3")
            .count(),
        1
    );
}
