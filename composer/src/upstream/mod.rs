//! A rollup's execution client, asked by JSON-RPC in bounded time.
//!
//! ```text
//! new head ─▶ accounts that were used lately, read anew ─▶ known to all: intake, tracker
//! ```
//! Its last block and the accounts of senders are kept, so that who sends waits for neither.

mod accounts;
mod heads;

use std::{sync::Arc, time::Duration};

pub(crate) use accounts::Account;
use accounts::Accounts;
use alloy_primitives::{Address, B256, U64, U256};
use heads::Heads;
pub(crate) use heads::{BlockEnd, Head};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take that intake waits for: a wallet is told soon.
const INTAKE_TIMEOUT: Duration = Duration::from_secs(2);
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
    accounts: Arc<Accounts>,
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

/// A call as it is sent.
#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'static str,
    id: usize,
    method: &'a str,
    params: P,
}

impl<'a, P> Call<'a, P> {
    fn new(id: usize, method: &'a str, params: P) -> Self {
        Self {
            jsonrpc: "2.0",
            id,
            method,
            params,
        }
    }
}

/// An answer as it comes; nothing is looked at before it is asked for.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(default)]
    id: Value,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Value>,
}

/// A member that is there, be it null.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl<'a> Answer<'a> {
    fn result(self) -> Result<&'a RawValue, UpstreamError> {
        match (self.result, self.error) {
            (_, Some(error)) => Err(UpstreamError::Rpc(error)),
            (Some(result), None) => Ok(result),
            (None, None) => Err(UpstreamError::Malformed("no result".into())),
        }
    }
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
        let (heads, accounts) = Default::default();
        Ok(Self {
            http,
            url: url.to_owned(),
            heads,
            accounts,
        })
    }

    /// Passes a call on, and gives the result as it comes.
    ///
    /// # Errors
    /// [`UpstreamError`] says whether the client or the call is at fault.
    pub(crate) async fn pass_on(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<Box<RawValue>, UpstreamError> {
        let body = self.post(&Call::new(1, method, params), TIMEOUT).await?;
        Ok(result(&body)?.to_owned())
    }

    /// Asks for what is looked at here.
    ///
    /// # Errors
    /// [`UpstreamError`] says whether the client or the call is at fault.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<T, UpstreamError> {
        self.call_within(TIMEOUT, method, params).await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        method: &str,
        params: &impl Serialize,
    ) -> Result<T, UpstreamError> {
        let body = self.post(&Call::new(1, method, params), timeout).await?;
        decode(result(&body)?)
    }

    async fn post(
        &self,
        request: &impl Serialize,
        timeout: Duration,
    ) -> Result<Vec<u8>, UpstreamError> {
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
        Ok(body)
    }

    /// Accounts after the last executed block, all by one request.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn accounts(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Account>, UpstreamError> {
        let asked = addresses.iter().flat_map(|address| {
            let methods = ["eth_getTransactionCount", "eth_getBalance"];
            methods.map(|method| (method, (address, "latest")))
        });
        let calls: Vec<_> = (0..)
            .zip(asked)
            .map(|(id, (method, params))| Call::new(id, method, params))
            .collect();
        let body = self.post(&calls, INTAKE_TIMEOUT).await?;
        let Ok(mut answers) = serde_json::from_slice::<Vec<Answer<'_>>>(&body) else {
            result(&body)?;
            return Err(UpstreamError::Malformed("no list of answers".into()));
        };
        // A server may answer the calls of a batch in any order.
        answers.sort_by_key(|answer| answer.id.as_u64());
        if answers.len() != calls.len() {
            return Err(UpstreamError::Malformed("some calls have no answer".into()));
        }
        let mut answers = answers.into_iter().map(Answer::result);
        let mut next = || answers.next().unwrap_or(Ok(RawValue::NULL));
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
        self.call("eth_getTransactionReceipt", &[hash]).await
    }

    /// All receipts of a block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn receipts(&self, number: u64) -> Result<Vec<Receipt>, UpstreamError> {
        self.call("eth_getBlockReceipts", &[U64::from(number)])
            .await
    }
}

/// The result of a single call.
fn result(body: &[u8]) -> Result<&RawValue, UpstreamError> {
    let answer: Result<Answer<'_>, _> = serde_json::from_slice(body);
    answer.map_err(|error| malformed(&error))?.result()
}

fn decode<T: DeserializeOwned>(value: &RawValue) -> Result<T, UpstreamError> {
    serde_json::from_str(value.get()).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> UpstreamError {
    UpstreamError::Malformed(error.to_string())
}
