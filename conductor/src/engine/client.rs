use std::{fmt, path::Path, time::Duration};

use alloy_primitives::{B256, Bytes};
use alloy_rpc_types_engine::{
    ExecutionPayloadV3, ForkchoiceState, ForkchoiceUpdated, PayloadStatus,
};
use counterpoint_core::chain_spec::Fork;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::evm::RollupBlock;

/// How long the client may take: on a loaded machine it takes seconds for a full block.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes; those that we ask for are short.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How much of an answer that makes no sense is shown.
const MAX_EXCERPT_BYTES: usize = 200;

/// A block of the client, as far as we look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// Why the client could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It is not there, or too slow.
    #[error("execution client at {url} does not answer: {reason}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It refuses our token.
    #[error(
        "execution client refuses the JWT ({0}): give both the same secret file, and check the clocks"
    )]
    Unauthorized(String),
    /// It answers with an error of JSON-RPC.
    #[error("{method}: error {code}: {message}")]
    Rpc {
        /// What was asked.
        method: &'static str,
        /// The error's code.
        code: i64,
        /// The error's text.
        message: String,
    },
    /// It answers with something else.
    #[error("{method}: malformed answer: {reason}")]
    Malformed {
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The secret cannot be read.
    #[error("jwt_file {path}: {reason}")]
    Secret {
        /// Where it should be.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// What the conductor asks of an execution client; a scripted one stands in for it in tests.
pub trait ExecutionClient: fmt::Debug + Send + Sync {
    /// Hands in a payload.
    fn new_payload(
        &self,
        block: &RollupBlock,
        hash: B256,
        fork: Fork,
    ) -> impl Future<Output = Result<PayloadStatus, EngineError>> + Send;

    /// Moves the head.
    fn forkchoice(
        &self,
        state: ForkchoiceState,
    ) -> impl Future<Output = Result<ForkchoiceUpdated, EngineError>> + Send;

    /// A block by number, or the latest.
    fn block(
        &self,
        number: Option<u64>,
    ) -> impl Future<Output = Result<Option<BlockId>, EngineError>> + Send;

    /// The last block that it calls finalized, if it has called one so.
    fn finalized(&self) -> impl Future<Output = Result<Option<BlockId>, EngineError>> + Send;

    /// EIP-155 chain id.
    fn chain_id(&self) -> impl Future<Output = Result<u64, EngineError>> + Send;

    /// The Engine API methods that it knows.
    fn capabilities(&self) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;
}

/// Moves the head, in all forks.
pub(crate) const FORKCHOICE: &str = "engine_forkchoiceUpdatedV3";

/// Which method takes a fork's payloads; the client refuses any other.
pub(crate) fn new_payload(fork: Fork) -> &'static str {
    match fork {
        Fork::Cancun => "engine_newPayloadV3",
        Fork::Prague | Fork::Osaka => "engine_newPayloadV4",
    }
}

/// Speaks the Engine API over HTTP.
pub struct EngineClient {
    http: reqwest::Client,
    url: String,
    secret: jsonwebtoken::EncodingKey,
}

impl fmt::Debug for EngineClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineClient")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Value,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    message: String,
}

impl EngineClient {
    /// A client of the authenticated port at `url`.
    ///
    /// # Errors
    /// [`EngineError::Secret`] if the file does not hold 32 bytes in hexadecimal.
    pub fn new(url: &str, jwt_file: &Path) -> Result<Self, EngineError> {
        let broken = |reason: String| EngineError::Secret {
            path: jwt_file.display().to_string(),
            reason,
        };
        let text = std::fs::read_to_string(jwt_file).map_err(|error| broken(error.to_string()))?;
        let digits = text.trim().trim_start_matches("0x");
        let bytes: B256 = digits
            .parse()
            .map_err(|_| broken("must hold 32 bytes as 64 hexadecimal digits".to_owned()))?;
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| EngineError::Unreachable {
                url: url.into(),
                reason: error.to_string(),
            })?;
        let secret = jsonwebtoken::EncodingKey::from_secret(bytes.as_slice());
        Ok(Self {
            http,
            url: url.to_owned(),
            secret,
        })
    }

    /// A block with all that is in it, as far as the client can be believed; its hash proves it.
    ///
    /// # Errors
    /// [`EngineError`] if the client cannot be asked.
    pub async fn whole_block(&self, number: u64) -> Result<Option<RollupBlock>, EngineError> {
        let params = json!([format!("{number:#x}"), true]);
        let block: Option<alloy_rpc_types_eth::Block> =
            self.call("eth_getBlockByNumber", params).await?;
        Ok(block.map(RollupBlock::from))
    }

    /// Asks anything.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, EngineError> {
        let unreachable = |error: &dyn fmt::Display| EngineError::Unreachable {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let malformed = |reason: String| EngineError::Malformed { method, reason };
        let claims = json!({ "iat": jsonwebtoken::get_current_timestamp() });
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &self.secret)
            .map_err(|error| EngineError::Unauthorized(error.to_string()))?;
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut response = self
            .http
            .post(&self.url)
            .bearer_auth(token)
            .json(&request)
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&error))?
        {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(malformed(format!("longer than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        if status == reqwest::StatusCode::UNAUTHORIZED {
            return Err(EngineError::Unauthorized(excerpt(&body)));
        }
        // Some clients send errors of JSON-RPC with a status of their own.
        let answer = read_answer(method, &body);
        if !status.is_success() && !matches!(answer, Err(EngineError::Rpc { .. })) {
            return Err(unreachable(&format_args!("{status}: {}", excerpt(&body))));
        }
        answer
    }

    async fn block_at(&self, tag: &str) -> Result<Option<BlockId>, EngineError> {
        let params = json!([tag, false]);
        let block: Option<Block> = self.call("eth_getBlockByNumber", params).await?;
        Ok(block.map(|block| BlockId {
            number: block.number.to(),
            hash: block.hash,
        }))
    }
}

/// The start of a text that may be anything.
fn excerpt(body: &[u8]) -> String {
    let start = body.get(..MAX_EXCERPT_BYTES).unwrap_or(body);
    String::from_utf8_lossy(start).trim().to_owned()
}

/// What a body of JSON-RPC says.
fn read_answer<T: DeserializeOwned>(method: &'static str, body: &[u8]) -> Result<T, EngineError> {
    let malformed = |error: serde_json::Error| EngineError::Malformed {
        method,
        reason: error.to_string(),
    };
    let answer: Answer = serde_json::from_slice(body).map_err(malformed)?;
    match answer.error {
        Some(RpcError { code, message }) => Err(EngineError::Rpc {
            method,
            code,
            message,
        }),
        None => serde_json::from_value(answer.result).map_err(malformed),
    }
}

impl ExecutionClient for EngineClient {
    async fn new_payload(
        &self,
        block: &RollupBlock,
        hash: B256,
        fork: Fork,
    ) -> Result<PayloadStatus, EngineError> {
        let payload = ExecutionPayloadV3::from_block_unchecked(hash, block);
        let beacon_root = block.header.parent_beacon_block_root.unwrap_or_default();
        let mut params = vec![json!(payload), json!([]), json!(beacon_root)];
        if fork >= Fork::Prague {
            params.push(json!(Vec::<Bytes>::new()));
        }
        self.call(new_payload(fork), Value::Array(params)).await
    }

    async fn forkchoice(&self, state: ForkchoiceState) -> Result<ForkchoiceUpdated, EngineError> {
        self.call(FORKCHOICE, json!([state, null])).await
    }

    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, EngineError> {
        let tag = number.map_or_else(|| "latest".to_owned(), |number| format!("{number:#x}"));
        self.block_at(&tag).await
    }

    async fn finalized(&self) -> Result<Option<BlockId>, EngineError> {
        match self.block_at("finalized").await {
            // Clients answer with an error where they have none.
            Err(EngineError::Rpc { .. }) => Ok(None),
            answer => answer,
        }
    }

    async fn chain_id(&self) -> Result<u64, EngineError> {
        let id: alloy_primitives::U64 = self.call("eth_chainId", json!([])).await?;
        Ok(id.to())
    }

    async fn capabilities(&self) -> Result<Vec<String>, EngineError> {
        let forks = [Fork::Cancun, Fork::Prague];
        let ours = forks.map(new_payload).into_iter().chain([FORKCHOICE]);
        let ours: Vec<_> = ours.collect();
        self.call("engine_exchangeCapabilities", json!([ours]))
            .await
    }
}

#[derive(Deserialize)]
struct Block {
    number: alloy_primitives::U64,
    hash: B256,
}

#[cfg(test)]
mod tests;
