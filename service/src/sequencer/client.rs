use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use counterpoint_core::{
    primitive::{Address, Hash, Height, RollupId},
    registry::RollupConfig,
    state::Key,
};
use counterpoint_proto::sequencer::{
    GetAccountRequest, GetAccountResponse, GetChainRequest, GetChainResponse, GetFeesRequest,
    GetFeesResponse, GetInfoRequest, GetInfoResponse, GetRollupBlockRequest, GetRollupRequest,
    GetStateProofRequest, GetStateProofResponse, GetTransactionRequest, ListRollupsRequest,
    RollupBlock, StreamRollupBlocksRequest, SubmitTransactionRequest, SubmitTransactionResponse,
    get_rollup_request, get_transaction_response, sequencer_client::SequencerClient,
};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tracing::debug;

/// How long a node may take to answer before another one is asked.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer, in bytes: a rollup's whole share of the largest block, and its proofs.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Why the sequencer could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No endpoint is configured.
    #[error("no sequencer endpoint is configured")]
    NoEndpoint,
    /// An endpoint is not a URL.
    #[error("sequencer endpoint {url} is not a URL like http://127.0.0.1:9090")]
    Url {
        /// What was configured.
        url: String,
        /// Why it is none.
        source: tonic::transport::Error,
    },
    /// The node refuses the question, or no node answers.
    #[error("sequencer {url}: {}", status.message())]
    Status {
        /// The last node asked.
        url: String,
        /// What it said.
        status: Box<Status>,
    },
    /// The answer is not what the protocol says.
    #[error("sequencer {url} answered with a malformed {what}")]
    Malformed {
        /// The node.
        url: String,
        /// Which field.
        what: &'static str,
    },
}

impl ClientError {
    /// Whether the node answered that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code() == Code::NotFound)
    }
}

/// Asks several sequencer nodes, one after another until one answers.
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Arc<[Node]>,
    current: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct Node {
    url: String,
    client: SequencerClient<Channel>,
}

impl Client {
    /// A client of the nodes at `urls`; connections open when they are needed.
    ///
    /// # Errors
    /// [`ClientError`] if there is no URL, or one is malformed.
    pub fn new(urls: &[String]) -> Result<Self, ClientError> {
        if urls.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        let nodes = urls
            .iter()
            .map(|url| Node::new(url))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            nodes,
            current: Arc::default(),
        })
    }

    /// Says what chain the nodes follow and how far they are.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers; the same for all questions.
    pub async fn info(&self) -> Result<GetInfoResponse, ClientError> {
        self.ask(|mut client| async move { client.get_info(GetInfoRequest {}).await })
            .await
    }

    /// Hands in a signed transaction.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers; a refusal is an answer.
    pub async fn submit(
        &self,
        transaction: Bytes,
    ) -> Result<SubmitTransactionResponse, ClientError> {
        self.ask(|mut client| {
            let request = SubmitTransactionRequest {
                transaction: transaction.clone(),
            };
            async move { client.submit_transaction(request).await }
        })
        .await
    }

    /// What became of a transaction; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn transaction(
        &self,
        hash: &Hash,
    ) -> Result<get_transaction_response::Status, ClientError> {
        let tx_hash = Bytes::copy_from_slice(hash.as_bytes());
        let answer = self
            .ask(|mut client| {
                let request = GetTransactionRequest {
                    tx_hash: tx_hash.clone(),
                };
                async move { client.get_transaction(request).await }
            })
            .await?;
        answer
            .status
            .ok_or_else(|| self.malformed("transaction status"))
    }

    /// An account, as the node sees it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn account(&self, address: &Address) -> Result<GetAccountResponse, ClientError> {
        let address = Bytes::copy_from_slice(address.as_bytes());
        self.ask(|mut client| {
            let request = GetAccountRequest {
                address: address.clone(),
            };
            async move { client.get_account(request).await }
        })
        .await
    }

    /// The configuration of the rollup called `name`, as the node sees it.
    ///
    /// # Errors
    /// [`ClientError::is_not_found`] if no such rollup is registered.
    pub async fn rollup(&self, name: &str) -> Result<RollupConfig, ClientError> {
        let answer = self
            .ask(|mut client| {
                let key = Some(get_rollup_request::Key::Name(name.to_owned()));
                async move { client.get_rollup(GetRollupRequest { key }).await }
            })
            .await?;
        self.config(&answer.borsh_config)
    }

    /// Rollups in the order of their identifiers, at most `limit` after one.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn rollups(
        &self,
        after: Option<RollupId>,
        limit: u32,
    ) -> Result<Vec<RollupConfig>, ClientError> {
        let after = after
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .unwrap_or_default();
        let answer = self
            .ask(|mut client| {
                let request = ListRollupsRequest {
                    after: after.clone(),
                    limit,
                };
                async move { client.list_rollups(request).await }
            })
            .await?;
        answer
            .rollups
            .iter()
            .map(|rollup| self.config(&rollup.borsh_config))
            .collect()
    }

    /// One rollup's part of one block; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn rollup_block(
        &self,
        height: Height,
        rollup_id: &RollupId,
    ) -> Result<RollupBlock, ClientError> {
        let rollup_id = Bytes::copy_from_slice(rollup_id.as_bytes());
        self.ask(|mut client| {
            let request = GetRollupBlockRequest {
                height: height.get(),
                rollup_id: rollup_id.clone(),
            };
            async move { client.get_rollup_block(request).await }
        })
        .await
    }

    /// What inclusion costs, and will cost.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn fees(&self) -> Result<GetFeesResponse, ClientError> {
        self.ask(|mut client| async move { client.get_fees(GetFeesRequest {}).await })
            .await
    }

    /// Facts about the chain as a whole.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn chain(&self) -> Result<GetChainResponse, ClientError> {
        self.ask(|mut client| async move { client.get_chain(GetChainRequest {}).await })
            .await
    }

    /// What stands under a key of the state; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn state_proof(&self, key: &Key<'_>) -> Result<GetStateProofResponse, ClientError> {
        let key = Bytes::from(key.encode());
        self.ask(|mut client| {
            let request = GetStateProofRequest { key: key.clone() };
            async move { client.get_state_proof(request).await }
        })
        .await
    }

    /// One rollup's part of every block from a height on; verify each before you rely on it.
    pub(super) async fn stream(
        &self,
        from: Height,
        rollup_id: &RollupId,
    ) -> Result<Streaming<RollupBlock>, ClientError> {
        let rollup_id = Bytes::copy_from_slice(rollup_id.as_bytes());
        self.ask(|mut client| {
            let request = StreamRollupBlocksRequest {
                from_height: from.get(),
                rollup_id: rollup_id.clone(),
            };
            async move { client.stream_rollup_blocks(request).await }
        })
        .await
    }

    /// The node that is asked first.
    #[must_use]
    pub fn current_url(&self) -> &str {
        self.nodes.get(self.place(0)).map_or("", |node| &node.url)
    }

    /// Asks another node first from now on.
    pub fn skip_current(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn place(&self, offset: usize) -> usize {
        self.current.load(Ordering::Relaxed).wrapping_add(offset) % self.nodes.len().max(1)
    }

    async fn ask<T, A>(
        &self,
        question: impl Fn(SequencerClient<Channel>) -> A,
    ) -> Result<T, ClientError>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut last = ClientError::NoEndpoint;
        for _ in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(self.place(0)) else {
                break;
            };
            let answer = tokio::time::timeout(TIMEOUT, question(node.client.clone())).await;
            let status = match answer {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {TIMEOUT:?}")),
            };
            let another = matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal
            );
            debug!(url = node.url, %status, "sequencer node failed");
            last = ClientError::Status {
                url: node.url.clone(),
                status: Box::new(status),
            };
            if !another {
                break;
            }
            self.skip_current();
        }
        Err(last)
    }

    fn config(&self, bytes: &[u8]) -> Result<RollupConfig, ClientError> {
        borsh::from_slice(bytes).map_err(|_| self.malformed("rollup configuration"))
    }

    fn malformed(&self, what: &'static str) -> ClientError {
        ClientError::Malformed {
            url: self.current_url().to_owned(),
            what,
        }
    }
}

impl Node {
    fn new(url: &str) -> Result<Self, ClientError> {
        let endpoint =
            Endpoint::from_shared(url.to_owned()).map_err(|source| ClientError::Url {
                url: url.to_owned(),
                source,
            })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(TIMEOUT)
            .keep_alive_timeout(TIMEOUT)
            .connect_lazy();
        let client = SequencerClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            url: url.to_owned(),
            client,
        })
    }
}
