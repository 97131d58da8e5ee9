use alloy_consensus::{Block as Body, BlockBody, Header};
use alloy_rpc_types_engine::PayloadStatusEnum;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{engine::Driver, testing::specification};

const STATUS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"status":"INVALID","latestValidHash":"0x0101010101010101010101010101010101010101010101010101010101010101","validationError":"bad root"}}"#;
const ERROR: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-38002,"message":"unknown safe"}}"#;

#[test]
fn answers_are_told_apart() {
    let status: PayloadStatus = read_answer("m", STATUS.as_bytes()).unwrap();
    assert!(status.is_invalid());
    let refused = read_answer::<PayloadStatus>("m", ERROR.as_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "m: error -38002: unknown safe");
    for garbage in [
        "",
        "null",
        "[]",
        "{}",
        "{\"result\":7}",
        &"[".repeat(10_000),
    ] {
        let broken = read_answer::<PayloadStatus>("m", garbage.as_bytes());
        assert!(
            matches!(broken, Err(EngineError::Malformed { .. })),
            "{garbage}"
        );
    }
}

proptest! {
    #[test]
    fn damaged_answers_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length: prop::sample::Index,
    ) {
        for answer in [STATUS, ERROR] {
            let mut body = answer.as_bytes().to_vec();
            for (at, byte) in &damage {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            for body in [&body[..], &body[..length.index(body.len())]] {
                let _ = read_answer::<PayloadStatus>("m", body);
                let _ = read_answer::<ForkchoiceUpdated>("m", body);
                let _ = read_answer::<Option<Block>>("m", body);
            }
        }
    }
}

/// What a scripted server does with one request.
enum Reply {
    /// An answer of JSON-RPC.
    Result(Value),
    /// A status, and any text.
    Text(u16, &'static str),
    /// Promises more than it sends.
    BreaksOff,
    /// A status, and text without end.
    Giant(u16),
    Silence,
}

/// A server that follows a script, one connection per request, and hands out what it was asked:
/// the head of each request, and its body.
async fn serve(script: Vec<Reply>) -> (EngineClient, mpsc::UnboundedReceiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let jwt = directory.path().join("jwt.hex");
    std::fs::write(&jwt, "11".repeat(32)).unwrap();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for reply in script {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked.send(request(&mut stream).await).unwrap();
            answer(&mut stream, reply).await;
        }
    });
    (EngineClient::new(&url, &jwt).unwrap(), requests)
}

async fn request(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
        let text = String::from_utf8_lossy(&bytes);
        let body = text
            .split_once("\r\n\r\n")
            .map(|(head, body)| (head.to_lowercase(), body));
        if let Some((head, body)) = body
            && let Ok(body) = serde_json::from_str(body)
        {
            return (head, body);
        }
    }
}

async fn answer(stream: &mut TcpStream, reply: Reply) {
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
    };
    let text = match reply {
        Reply::Result(ref result) => {
            let body = json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string();
            head(200, body.len()) + &body
        }
        Reply::Text(status, body) => head(status, body.len()) + body,
        Reply::BreaksOff => head(200, 1_000) + "{\"jsonrpc\":",
        Reply::Giant(status) => head(status, usize::MAX >> 1),
        Reply::Silence => return std::future::pending().await,
    };
    stream.write_all(text.as_bytes()).await.unwrap();
    if matches!(reply, Reply::Giant(_)) {
        // Until the client has had enough.
        while stream.write_all(&[b' '; 1 << 16]).await.is_ok() {}
    }
}

fn a_block() -> (B256, RollupBlock) {
    let header = Header {
        number: 1,
        parent_hash: specification().genesis_header().hash_slow(),
        parent_beacon_block_root: Some(B256::repeat_byte(7)),
        base_fee_per_gas: Some(7),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        ..Header::default()
    };
    let body = BlockBody {
        withdrawals: Some(Vec::new().into()),
        ..BlockBody::default()
    };
    (header.hash_slow(), Body::new(header, body))
}

fn valid(hash: B256) -> Value {
    json!({ "status": "VALID", "latestValidHash": hash, "validationError": null })
}

#[tokio::test]
async fn each_fork_has_its_method_and_each_request_its_token() {
    let (hash, block) = a_block();
    let replies = (0..3).map(|_| Reply::Result(valid(hash))).collect();
    let (client, mut requests) = serve(replies).await;
    for fork in [Fork::Cancun, Fork::Prague, Fork::Osaka] {
        let status = client.new_payload(&block, hash, fork).await.unwrap();
        assert_eq!(status.status, PayloadStatusEnum::Valid);
        let (head, body) = requests.recv().await.unwrap();
        let root = json!(B256::repeat_byte(7));
        let params = body["params"].as_array().unwrap();
        assert_eq!(params[0]["blockHash"], json!(hash));
        let (method, rest) = match fork {
            Fork::Cancun => ("engine_newPayloadV3", vec![json!([]), root]),
            _ => ("engine_newPayloadV4", vec![json!([]), root, json!([])]),
        };
        assert_eq!((&body["method"], &params[1..]), (&json!(method), &rest[..]));
        let token = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: bearer "));
        assert_eq!(token.unwrap().split('.').count(), 3);
    }
}

#[tokio::test]
async fn a_refused_token_says_so() {
    let (client, _requests) = serve(vec![Reply::Text(401, "token is stale\n")]).await;
    let refused = client.chain_id().await.unwrap_err().to_string();
    assert!(refused.contains("JWT (token is stale)"), "{refused}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    for status in [200, 401, 500] {
        let (client, _requests) = serve(vec![Reply::Giant(status)]).await;
        let error = client.chain_id().await.unwrap_err().to_string();
        assert!(error.contains("longer than"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_answer_of_a_client_can_pass() {
    let script = vec![
        Reply::BreaksOff,
        Reply::Text(503, "<html>starting</html>"),
        Reply::Text(200, "ok"),
        Reply::Text(400, ERROR),
    ];
    let (client, _requests) = serve(script).await;
    let mut errors = Vec::new();
    for _ in 0..4 {
        errors.push(client.chain_id().await.unwrap_err());
    }
    assert!(matches!(errors[0], EngineError::Unreachable { .. }));
    let busy = errors[1].to_string();
    assert!(busy.contains("503") && busy.contains("starting"), "{busy}");
    assert!(matches!(errors[2], EngineError::Malformed { .. }));
    // A status does not hide what the client says.
    assert!(matches!(errors[3], EngineError::Rpc { code: -38_002, .. }));
}

/// Time stands still but for those who wait for nothing else.
#[tokio::test(start_paused = true)]
async fn a_silent_client_is_waited_for_so_long_only() {
    let (client, _requests) = serve(vec![Reply::Silence]).await;
    let silent = client.chain_id().await;
    assert!(matches!(silent, Err(EngineError::Unreachable { .. })));
}

#[tokio::test]
async fn the_driver_gets_a_block_through_a_bad_connection() {
    let (hash, block) = a_block();
    let head = json!({ "number": "0x1", "hash": hash });
    let script = vec![
        Reply::BreaksOff,
        Reply::Text(503, "busy"),
        Reply::Result(valid(hash)),
        Reply::BreaksOff,
        Reply::Result(valid(hash)),
        Reply::Result(json!({ "payloadStatus": valid(hash), "payloadId": null })),
        Reply::Result(head),
    ];
    let (client, mut requests) = serve(script).await;
    let driver = Driver::new(client, specification());
    let source = |_| -> Result<_, crate::evm::StoreError> { unreachable!("nothing is resent") };
    driver.submit(hash, &block, &source).await.unwrap();
    let mut methods = Vec::new();
    while let Ok((_, body)) = requests.try_recv() {
        methods.push(body["method"].as_str().unwrap().to_owned());
    }
    let (payload, choice) = ("engine_newPayloadV4", FORKCHOICE);
    let expected = [
        payload,
        payload,
        payload,
        choice,
        payload,
        choice,
        "eth_getBlockByNumber",
    ];
    assert_eq!(methods, expected);
}
