//! JSON-RPC over a client's own socket: no port that others could reach, and no limit to a request.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::UnixStream,
    sync::Mutex,
};

use crate::engine::EngineError;

/// How long the client may take: on a loaded machine it takes seconds for a full block.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes. A block of the greatest length takes a quarter of it, in hexadecimal.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A question: method and parameters.
pub type Call = (&'static str, Value);

/// Asks several things at once; a scripted client stands in for it in tests.
pub trait Rpc: std::fmt::Debug + Send + Sync {
    /// The results, in the order of the calls.
    ///
    /// # Errors
    /// [`EngineError`] if the client is away, or answers one of them with an error.
    fn ask(&self, calls: &[Call]) -> impl Future<Output = Result<Vec<Value>, EngineError>> + Send;
}

/// One connection to a client's socket; it is made anew after a failure.
#[derive(Debug)]
pub struct Ipc {
    path: PathBuf,
    stream: Mutex<Option<BufStream<UnixStream>>>,
}

impl Ipc {
    /// The client that listens at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let (path, stream) = (path.to_owned(), Mutex::default());
        Self { path, stream }
    }

    /// Sends a line, and waits for another: geth ends each answer with one.
    async fn exchange(&self, line: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut connection = self.stream.lock().await;
        // Whatever ends this early leaves no connection with half an answer in it.
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => BufStream::new(UnixStream::connect(&self.path).await?),
        };
        stream.write_all(&line).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        let mut limited = (&mut stream).take(MAX_ANSWER_BYTES);
        limited.read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            let reason = match answer.len() as u64 {
                MAX_ANSWER_BYTES => "the answer is too long",
                _ => "the connection was closed",
            };
            return Err(io::Error::other(reason));
        }
        *connection = Some(stream);
        Ok(answer)
    }
}

#[derive(Deserialize)]
struct Answer {
    id: usize,
    #[serde(default)]
    result: Value,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
}

impl Rpc for Ipc {
    async fn ask(&self, calls: &[Call]) -> Result<Vec<Value>, EngineError> {
        let Some((first, _)) = calls.first() else {
            return Ok(Vec::new());
        };
        let unreachable = |reason: String| EngineError::Unreachable {
            url: self.path.display().to_string(),
            reason,
        };
        let malformed = |reason: String| EngineError::Malformed {
            method: first,
            reason,
        };
        let request = |(id, (method, params)): (usize, &Call)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let requests: Vec<_> = calls.iter().enumerate().map(request).collect();
        let mut line =
            serde_json::to_vec(&requests).map_err(|error| malformed(error.to_string()))?;
        line.push(b'\n');
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(line)).await;
        let answer = answer.map_err(|_| unreachable(format!("nothing within {TIMEOUT:?}")))?;
        let answer = answer.map_err(|error| unreachable(error.to_string()))?;
        let answers = serde_json::from_slice(&answer);
        in_order(
            calls,
            answers.map_err(|error| malformed(error.to_string()))?,
        )
    }
}

/// Puts answers into the order of the calls.
fn in_order(calls: &[Call], answers: Vec<Answer>) -> Result<Vec<Value>, EngineError> {
    let mut results = vec![None; calls.len()];
    for answer in answers {
        let Some(((method, _), place)) = calls.get(answer.id).zip(results.get_mut(answer.id))
        else {
            continue;
        };
        if let Some(RpcError { code, message }) = answer.error {
            return Err(EngineError::Rpc {
                method,
                code,
                message,
            });
        }
        *place = Some(answer.result);
    }
    let missing = |((method, _), result): (&Call, Option<Value>)| {
        let reason = "there is no answer to it".into();
        result.ok_or(EngineError::Malformed { method, reason })
    };
    calls.iter().zip(results).map(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(answer: &'static [u8]) -> Result<Vec<Value>, EngineError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.ipc");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = tokio::spawn(async move {
            let stream = listener.accept().await.unwrap().0;
            let mut stream = BufStream::new(stream);
            let mut line = Vec::new();
            stream.read_until(b'\n', &mut line).await.unwrap();
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
        });
        let calls = [("one", json!([])), ("two", json!([]))];
        let answers = Ipc::new(&path).ask(&calls).await;
        serving.await.unwrap();
        answers
    }

    #[tokio::test]
    async fn answers_come_in_the_order_of_the_calls() {
        let answers = asked(b"[{\"id\":1,\"result\":7},{\"id\":0,\"result\":null}]\n").await;
        assert_eq!(answers.unwrap(), [Value::Null, json!(7)]);
    }

    #[tokio::test]
    async fn bad_answers_are_errors() {
        for (answer, error) in [
            (&b""[..], "the connection was closed"),
            (b"[{\"id\":0,\"res", "the connection was closed"),
            (b"{}\n", "malformed answer"),
            (
                b"[{\"id\":0,\"result\":1}]\n",
                "two: malformed answer: there is no answer to it",
            ),
            (b"[{\"id\":9,\"result\":1}]\n", "there is no answer to it"),
            (
                b"[{\"id\":0,\"error\":{\"code\":-32601,\"message\":\"unknown\"}}]\n",
                "one: error -32601: unknown",
            ),
        ] {
            let told = asked(answer).await.unwrap_err().to_string();
            assert!(told.contains(error), "{told}");
        }
        let away = Ipc::new(Path::new("/nowhere"))
            .ask(&[("one", json!([]))])
            .await;
        assert!(matches!(away, Err(EngineError::Unreachable { .. })));
    }
}
