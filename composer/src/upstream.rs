//! A rollup's execution client, asked by JSON-RPC in bounded time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use counterpoint_core::cursor::ExtraData;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last block is taken for the last.
const HEAD_AGE: Duration = Duration::from_millis(200);
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
    /// Asked for by every sender, so it is kept for a moment.
    head: Arc<Mutex<Option<Asked>>>,
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

/// When the client was asked for its last block, and what it said.
type Asked = (Instant, Result<Head, UpstreamError>);

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
            head: Arc::default(),
        })
    }

    /// Passes a call on.
    ///
    /// # Errors
    /// [`UpstreamError`] says whether the client or the call is at fault.
    pub(crate) async fn call(&self, method: &str, params: &Value) -> Result<Value, UpstreamError> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut answer = self.post(&request).await?;
        if let Some(error) = answer.get_mut("error").filter(|error| !error.is_null()) {
            return Err(UpstreamError::Rpc(error.take()));
        }
        let missing = || UpstreamError::Malformed("no result".into());
        answer
            .get_mut("result")
            .map(Value::take)
            .ok_or_else(missing)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
    ) -> Result<T, UpstreamError> {
        let answer = self.call(method, &params).await?;
        serde_json::from_value(answer).map_err(|error| UpstreamError::Malformed(error.to_string()))
    }

    async fn post(&self, request: &Value) -> Result<Value, UpstreamError> {
        let unreachable = |error: reqwest::Error| UpstreamError::Unreachable(error.to_string());
        let mut response = self
            .http
            .post(&self.url)
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

    /// A sender's account after the last executed block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn account(&self, address: Address) -> Result<Account, UpstreamError> {
        let (nonce, balance) = tokio::try_join!(
            self.read::<U64>("eth_getTransactionCount", json!([address, "latest"])),
            self.read::<U256>("eth_getBalance", json!([address, "latest"])),
        )?;
        Ok(Account {
            nonce: nonce.to(),
            balance,
        })
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

    /// The last executed block, at most [`HEAD_AGE`] ago.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn recent_head(&self) -> Result<Head, UpstreamError> {
        let mut kept = self.head.lock().await;
        match kept.as_ref() {
            Some((since, head)) if since.elapsed() < HEAD_AGE => head.clone(),
            _ => {
                // A failure is kept too: a client that hangs is not asked by one after the other.
                let head = self.head().await;
                *kept = Some((Instant::now(), head.clone()));
                head
            }
        }
    }

    /// The last executed block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn head(&self) -> Result<Head, UpstreamError> {
        let latest = json!(["latest", false]);
        let header: Header = self.read("eth_getBlockByNumber", latest).await?;
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
