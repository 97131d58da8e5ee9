//! A rollup's execution client, asked by JSON-RPC in bounded time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use counterpoint_core::cursor::ExtraData;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take that intake waits for: a wallet is told soon.
const INTAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last block is taken for the last without asking again.
const HEAD_AGE: Duration = Duration::from_millis(200);
/// How long it is while the client is being asked again.
const MAX_HEAD_AGE: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Why a client could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// It is away, or too slow.
    #[error("the rollup's execution client does not answer, try again later")]
    Unreachable(String),
    /// It answered with an error, which is passed on as it is.
    #[error("the rollup's execution client answered with an error: {0}")]
    Rpc(Value),
    /// It answered with something else.
    #[error("the rollup's execution client sent a malformed answer")]
    Malformed(String),
}

/// One execution client.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    http: reqwest::Client,
    url: String,
    heads: Arc<Heads>,
}

/// The last executed block: asked for by every sender, so it is kept for a moment.
#[derive(Debug, Default)]
struct Heads {
    kept: Mutex<Kept>,
    /// Held by who asks: answers are remembered in the order in which they were given.
    asking: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    last: Option<Answered>,
    /// When the client was asked for that.
    asked: Option<Instant>,
    /// The greatest number ever seen.
    known: u64,
}

/// What intake must know of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its next nonce, as executed.
    pub(crate) nonce: u64,
    /// What it holds, in wei.
    pub(crate) balance: U256,
}

/// A receipt, as far as we look at it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// The transaction.
    pub(crate) transaction_hash: B256,
    /// The block.
    pub(crate) block_number: U64,
    /// 1 if the transaction succeeded.
    pub(crate) status: U64,
}

/// When the client answered about its last block, and what it said.
type Answered = (Instant, Result<Head, UpstreamError>);

/// The last executed block, as far as we look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Its number.
    pub(crate) number: u64,
    /// Its timestamp, in seconds.
    pub(crate) timestamp: u64,
    /// The base fee of the block after it, in wei.
    pub(crate) next_base_fee: u64,
    /// How far execution has come; nothing while it is the genesis block.
    pub(crate) progress: Option<ExtraData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    number: U64,
    timestamp: U64,
    gas_used: U64,
    gas_limit: U64,
    base_fee_per_gas: U64,
    extra_data: Bytes,
}

impl Upstream {
    /// The client at `url`.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub(crate) fn new(url: &str) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            http,
            url: url.to_owned(),
            heads: Arc::default(),
        })
    }

    /// Passes a call on.
    ///
    /// # Errors
    /// [`UpstreamError`] says whether the client or the call is at fault.
    pub(crate) async fn call(&self, method: &str, params: &Value) -> Result<Value, UpstreamError> {
        self.call_within(TIMEOUT, method, params).await
    }

    async fn call_within(
        &self,
        timeout: Duration,
        method: &str,
        params: &Value,
    ) -> Result<Value, UpstreamError> {
        result(self.post(&request(method, params), timeout).await?)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
    ) -> Result<T, UpstreamError> {
        decode(self.call(method, &params).await?)
    }

    async fn post(&self, request: &Value, timeout: Duration) -> Result<Value, UpstreamError> {
        let unreachable = |error: reqwest::Error| UpstreamError::Unreachable(error.to_string());
        let mut response = self
            .http
            .post(&self.url)
            .timeout(timeout)
            .json(request)
            .send()
            .await
            .map_err(unreachable)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(UpstreamError::Malformed("too long".into()));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| UpstreamError::Malformed(error.to_string()))
    }

    /// Accounts after the last executed block, all by one request.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn accounts(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Account>, UpstreamError> {
        let calls = addresses.iter().flat_map(|address| {
            let params = json!([address, "latest"]);
            ["eth_getTransactionCount", "eth_getBalance"].map(|method| request(method, &params))
        });
        let calls = calls.enumerate().map(|(id, mut call)| {
            call["id"] = json!(id);
            call
        });
        let answer = self
            .post(&Value::Array(calls.collect()), INTAKE_TIMEOUT)
            .await?;
        let Value::Array(mut answers) = answer else {
            return Err(refusal(answer));
        };
        // A server may answer the calls of a batch in any order.
        answers.sort_by_key(|answer| answer["id"].as_u64());
        if answers.len() != 2 * addresses.len() {
            return Err(UpstreamError::Malformed("some calls have no answer".into()));
        }
        let mut answers = answers.into_iter().map(result);
        let mut next = || answers.next().unwrap_or(Ok(Value::Null));
        let account = |_| {
            let (nonce, balance): (U64, U256) = (decode(next()?)?, decode(next()?)?);
            Ok(Account {
                nonce: nonce.to(),
                balance,
            })
        };
        addresses.iter().map(account).collect()
    }

    /// A transaction's receipt, if it was executed.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, UpstreamError> {
        self.read("eth_getTransactionReceipt", json!([hash])).await
    }

    /// All receipts of a block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn receipts(&self, number: u64) -> Result<Vec<Receipt>, UpstreamError> {
        let number = U64::from(number);
        self.read("eth_getBlockReceipts", json!([number])).await
    }

    /// The last executed block, of a moment ago. While the client is slow it may be older, up to
    /// [`MAX_HEAD_AGE`]; a failure counts as long.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn recent_head(&self) -> Result<Head, UpstreamError> {
        let kept = self.kept().last.clone();
        match kept {
            Some((since, head)) if since.elapsed() < HEAD_AGE => return head,
            Some((since, head)) if since.elapsed() < MAX_HEAD_AGE => {
                let upstream = self.clone();
                tokio::spawn(async move {
                    if let Ok(_turn) = upstream.heads.asking.try_lock() {
                        let _ = upstream.ask_head().await;
                    }
                });
                return head;
            }
            _ => {}
        }
        let _turn = self.heads.asking.lock().await;
        let kept = self.kept().last.clone();
        match kept {
            Some((since, head)) if since.elapsed() < HEAD_AGE => head,
            _ => self.ask_head().await,
        }
    }

    /// The last executed block, of now: who comes while the client is being asked shares the next
    /// answer.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn fresh_head(&self) -> Result<Head, UpstreamError> {
        let now = Instant::now();
        let _turn = self.heads.asking.lock().await;
        let kept = {
            let kept = self.kept();
            kept.last.clone().filter(|_| kept.asked >= Some(now))
        };
        match kept {
            Some((_, head)) => head,
            None => self.ask_head().await,
        }
    }

    /// The last executed block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn head(&self) -> Result<Head, UpstreamError> {
        let _turn = self.heads.asking.lock().await;
        self.ask_head().await
    }

    /// The number of the newest block that the client ever told of.
    #[must_use]
    pub(crate) fn known_head(&self) -> u64 {
        self.kept().known
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        let kept = self.heads.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_head(&self) -> Result<Head, UpstreamError> {
        let asked = Instant::now();
        let head = self.try_ask_head().await;
        let mut kept = self.kept();
        kept.asked = Some(asked);
        if let Ok(head) = &head {
            kept.known = kept.known.max(head.number);
        }
        kept.last = Some((Instant::now(), head.clone()));
        head
    }

    async fn try_ask_head(&self) -> Result<Head, UpstreamError> {
        let latest = json!(["latest", false]);
        let header = self.call_within(INTAKE_TIMEOUT, "eth_getBlockByNumber", &latest);
        let header: Header = decode(header.await?)?;
        let next_base_fee = calc_next_block_base_fee(
            header.gas_used.to(),
            header.gas_limit.to(),
            header.base_fee_per_gas.to(),
            BaseFeeParams::ethereum(),
        );
        Ok(Head {
            number: header.number.to(),
            timestamp: header.timestamp.to(),
            next_base_fee,
            progress: ExtraData::decode(&header.extra_data).ok(),
        })
    }
}

fn request(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// The result of an answer, or its error.
fn result(mut answer: Value) -> Result<Value, UpstreamError> {
    match answer.get_mut("result").map(Value::take) {
        Some(result) if answer.get("error").is_none_or(Value::is_null) => Ok(result),
        _ => Err(refusal(answer)),
    }
}

fn refusal(mut answer: Value) -> UpstreamError {
    match answer.get_mut("error").map(Value::take) {
        Some(error) if !error.is_null() => UpstreamError::Rpc(error),
        _ => UpstreamError::Malformed("no result".into()),
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, UpstreamError> {
    serde_json::from_value(value).map_err(|error| UpstreamError::Malformed(error.to_string()))
}
