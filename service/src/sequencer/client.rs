//! Questions to several nodes, none of which is trusted.

use std::{
    error::Error,
    fmt,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterpoint_core::{
    light::{LightError, TrustedState},
    primitive::{Address, Hash, Height, RollupId},
    registry::RollupConfig,
    state::Key,
};
use counterpoint_proto::sequencer::{
    Bundle, GetAccountRequest, GetAccountResponse, GetBlockRequest, GetBlockResponse,
    GetBundleRequest, GetChainRequest, GetChainResponse, GetFeesRequest, GetFeesResponse,
    GetHeaderRequest, GetHeaderResponse, GetInfoRequest, GetInfoResponse, GetRollupBlockRequest,
    GetRollupRequest, GetRollupResponse, GetStateProofRequest, GetStateProofResponse,
    GetTransactionRequest, ListRollupsRequest, RollupBlock, ScheduledBundle, StreamBundlesRequest,
    StreamRollupBlocksRequest, StreamScheduledRequest, SubmitTransactionRequest,
    SubmitTransactionResponse, bundles_client::BundlesClient, get_rollup_request,
    get_transaction_response, sequencer_client::SequencerClient,
};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use metrics::counter;
use prost::Message;
use serde_json::json;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tracing::{error, info, warn};

use super::{
    endpoints::{Standing, Standings},
    evidence::{Evidence, Record, Wrong},
    metric,
    verify::{Headers, VerifyError, verify_pivot},
};

/// How long a node may take to answer before another one is asked.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take among others that are asked the same.
const SOON: Duration = Duration::from_secs(1);
/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A node that must be left alone for longer has lied.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes: a rollup's whole share of the largest block, and its proofs.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Why the sequencer could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No endpoint is configured.
    #[error("no sequencer endpoint is configured")]
    NoEndpoint,
    /// Every node has served bad proofs, and is left alone for a while.
    #[error("every sequencer endpoint has served bad proofs and is left alone for a while")]
    NobodyLeft,
    /// The node served what does not hold.
    #[error("sequencer {url} served a bad proof")]
    BadProof {
        /// The node.
        url: String,
        /// What does not hold.
        source: Box<VerifyError>,
    },
    /// Two headers of one height were signed: nobody can say which chain is right.
    #[error(transparent)]
    Fork(Fork),
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

/// Proof that validators signed two headers of one height.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sequencer has forked at height {height}; both headers are kept: {evidence}")]
pub struct Fork {
    /// The height at which the chain contradicts what was verified.
    pub height: Height,
    /// The file with both headers.
    pub evidence: String,
}

impl ClientError {
    /// Whether the node answered that there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code() == Code::NotFound)
    }
}

/// One of the nodes, as an answer came from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

/// Asks several sequencer nodes: the one that has served best first, the others if it does not
/// answer. Clones share what they know of the nodes.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nodes: Vec<Node>,
    standings: Mutex<Standings>,
    headers: Headers,
    evidence: Option<Evidence>,
}

#[derive(Clone, Debug)]
struct Node {
    url: String,
    client: SequencerClient<Channel>,
    bundles: BundlesClient<Channel>,
}

impl Client {
    /// A client of the nodes at `urls`; connections open when they are needed.
    ///
    /// # Errors
    /// [`ClientError`] if there is no URL, or one is malformed.
    pub fn new(urls: &[String]) -> Result<Self, ClientError> {
        Self::build(urls, None)
    }

    /// The same, which keeps proofs of what nodes have done wrong.
    ///
    /// # Errors
    /// [`ClientError`] if there is no URL, or one is malformed.
    pub fn with_evidence(urls: &[String], evidence: Evidence) -> Result<Self, ClientError> {
        Self::build(urls, Some(evidence))
    }

    fn build(urls: &[String], evidence: Option<Evidence>) -> Result<Self, ClientError> {
        if urls.is_empty() {
            return Err(ClientError::NoEndpoint);
        }
        let nodes: Vec<Node> = urls
            .iter()
            .map(|url| Node::new(url))
            .collect::<Result<_, _>>()?;
        for name in metric::METRICS.alarms {
            for url in urls {
                counter!(*name, "endpoint" => url.clone()).increment(0);
            }
        }
        Ok(Self(Arc::new(Shared {
            standings: Mutex::new(Standings::new(nodes.len())),
            nodes,
            headers: Headers::default(),
            evidence,
        })))
    }

    /// The headers that were verified with what these nodes sent.
    pub(super) fn headers(&self) -> Headers {
        self.0.headers.clone()
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
        Ok(self.submit_to_any(transaction).await?.1)
    }

    /// The same, and who took or refused it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn submit_to_any(
        &self,
        transaction: Bytes,
    ) -> Result<(NodeId, SubmitTransactionResponse), ClientError> {
        self.ask_until(is_passing, |mut client| {
            let request = SubmitTransactionRequest {
                transaction: transaction.clone(),
            };
            async move { client.submit_transaction(request).await }
        })
        .await
    }

    /// Hands the same transaction in to every node, in case the one that took it keeps it to itself.
    /// Whoever does not answer soon is passed over.
    pub async fn submit_to_all(&self, transaction: &Bytes) {
        self.submit_to_each(transaction, |_| {}).await;
    }

    /// The same; `heard` is told of each answer as it comes.
    pub async fn submit_to_each(
        &self,
        transaction: &Bytes,
        mut heard: impl FnMut(SubmitTransactionResponse),
    ) {
        let submit = |node| {
            let request = SubmitTransactionRequest {
                transaction: transaction.clone(),
            };
            let ask = |mut client: SequencerClient<Channel>| async move {
                client.submit_transaction(request).await
            };
            self.ask_soon(node, ask)
        };
        let mut asked: FuturesUnordered<_> = self.order().into_iter().map(submit).collect();
        while let Some(answer) = asked.next().await {
            if let Ok(answer) = answer {
                heard(answer);
            }
        }
    }

    /// All nodes, in the operator's order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.0.nodes.len()).map(NodeId)
    }

    /// What one node says that attesters of some rollups are to execute now; a hint, no more.
    ///
    /// # Errors
    /// What the node answers, if it does not stream.
    pub async fn scheduled(
        &self,
        node: NodeId,
        rollups: &[RollupId],
    ) -> Result<Streaming<ScheduledBundle>, Status> {
        let Some(Node { bundles, .. }) = self.0.nodes.get(node.0) else {
            return Err(Status::internal("no such node"));
        };
        let id = |id: &RollupId| Bytes::copy_from_slice(id.as_bytes());
        let rollup_ids = rollups.iter().map(id).collect();
        let mut client = bundles.clone();
        let opened = client.stream_scheduled(StreamScheduledRequest { rollup_ids });
        Ok(in_time(opened).await?.into_inner())
    }

    /// What each node says became of a transaction, of those that need not be left alone and answer
    /// soon; verify it before you rely on it.
    pub async fn locate_at_all(
        &self,
        hash: &Hash,
    ) -> Vec<(NodeId, get_transaction_response::Status)> {
        let locate = |node| async move {
            let request = GetTransactionRequest {
                tx_hash: Bytes::copy_from_slice(hash.as_bytes()),
            };
            let ask = |mut client: SequencerClient<Channel>| async move {
                client.get_transaction(request).await
            };
            let answer = self.ask_soon(node, ask).await.ok()?;
            Some((node, answer.status?))
        };
        let asked = self.order().into_iter();
        let asked = asked.filter(|node| self.wait(*node).is_zero()).map(locate);
        let answers = join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    async fn ask_soon<T, A>(
        &self,
        node: NodeId,
        question: impl FnOnce(SequencerClient<Channel>) -> A,
    ) -> Result<T, Status>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let late = |_| {
            Err(Status::deadline_exceeded(format!(
                "no answer within {SOON:?}"
            )))
        };
        let answer = tokio::time::timeout(SOON, self.ask_node(node, question)).await;
        let answer = answer.unwrap_or_else(late);
        if let Err(status) = &answer
            && is_passing(status)
        {
            self.failed(node, &status.message());
        }
        answer
    }

    /// What became of a transaction; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn transaction(
        &self,
        hash: &Hash,
    ) -> Result<get_transaction_response::Status, ClientError> {
        Ok(self.locate(hash).await?.1)
    }

    /// The same, and who said so.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn locate(
        &self,
        hash: &Hash,
    ) -> Result<(NodeId, get_transaction_response::Status), ClientError> {
        let tx_hash = Bytes::copy_from_slice(hash.as_bytes());
        let (node, answer) = self
            .ask_all(|mut client| {
                let request = GetTransactionRequest {
                    tx_hash: tx_hash.clone(),
                };
                async move { client.get_transaction(request).await }
            })
            .await?;
        let status = answer.status;
        let status = status.ok_or_else(|| self.malformed(node, "transaction status"))?;
        Ok((node, status))
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
    /// [`ClientError::is_not_found`] if no node knows of such a rollup.
    pub async fn rollup(&self, name: &str) -> Result<RollupConfig, ClientError> {
        let (node, answer) = self
            .ask_all(|mut client| {
                let key = Some(get_rollup_request::Key::Name(name.to_owned()));
                async move { client.get_rollup(GetRollupRequest { key }).await }
            })
            .await?;
        self.config(node, &answer.borsh_config)
    }

    /// The registration of the rollup called `name`, as the best node sees it.
    ///
    /// # Errors
    /// [`ClientError::is_not_found`] if it knows of no such rollup.
    pub async fn registration(&self, name: &str) -> Result<GetRollupResponse, ClientError> {
        self.ask(|mut client| {
            let key = Some(get_rollup_request::Key::Name(name.to_owned()));
            async move { client.get_rollup(GetRollupRequest { key }).await }
        })
        .await
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
        let (node, answer) = self
            .ask_all(|mut client| {
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
            .map(|rollup| self.config(node, &rollup.borsh_config))
            .collect()
    }

    /// One rollup's part of one block, and who served it; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn rollup_block(
        &self,
        height: Height,
        rollup_id: &RollupId,
    ) -> Result<(NodeId, RollupBlock), ClientError> {
        let rollup_id = Bytes::copy_from_slice(rollup_id.as_bytes());
        self.ask_all(|mut client| {
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

    /// A block in brief, as the node sees it.
    ///
    /// # Errors
    /// [`ClientError`] if no node has it.
    pub async fn block(&self, height: Height) -> Result<GetBlockResponse, ClientError> {
        let height = height.get();
        self.ask(|mut client| async move { client.get_block(GetBlockRequest { height }).await })
            .await
    }

    /// The signed header of a height; verify it before you rely on it.
    ///
    /// # Errors
    /// [`ClientError`] if no node has it.
    pub async fn signed_header(&self, height: Height) -> Result<GetHeaderResponse, ClientError> {
        let height = height.get();
        self.ask(|mut client| async move { client.get_header(GetHeaderRequest { height }).await })
            .await
    }

    /// Registrations of rollups in the order of their identifiers, at most `limit` after one.
    ///
    /// # Errors
    /// [`ClientError`] if no node answers.
    pub async fn registrations(
        &self,
        after: Option<RollupId>,
        limit: u32,
    ) -> Result<Vec<GetRollupResponse>, ClientError> {
        let after = after
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .unwrap_or_default();
        let answer = self.ask(|mut client| {
            let after = after.clone();
            let request = ListRollupsRequest { after, limit };
            async move { client.list_rollups(request).await }
        });
        Ok(answer.await?.rollups)
    }

    /// What has become of an atomic bundle, as the best node sees it.
    ///
    /// # Errors
    /// What the node answers, if it knows of none.
    pub async fn bundle(&self, id: &Hash) -> Result<Bundle, Status> {
        let bundle_id = Bytes::copy_from_slice(id.as_bytes());
        let mut client = self.best_for_bundles()?;
        let asked = client.get_bundle(GetBundleRequest { bundle_id });
        Ok(in_time(asked).await?.into_inner())
    }

    /// Each stage that bundles reach from a height on, as the best node sees it.
    ///
    /// # Errors
    /// What the node answers, if it does not stream.
    pub async fn bundles(&self, from: Height) -> Result<Streaming<Bundle>, Status> {
        let request = StreamBundlesRequest {
            from_height: from.get(),
            ..StreamBundlesRequest::default()
        };
        let mut client = self.best_for_bundles()?;
        Ok(in_time(client.stream_bundles(request)).await?.into_inner())
    }

    fn best_for_bundles(&self) -> Result<BundlesClient<Channel>, Status> {
        let first = self.order().first().and_then(|id| self.0.nodes.get(id.0));
        let node = first.ok_or_else(|| Status::internal("no such node"))?;
        Ok(node.bundles.clone())
    }

    /// One rollup's part of every block from a height on, from one node; verify each before you rely
    /// on it.
    pub(super) async fn stream(
        &self,
        node: NodeId,
        from: Height,
        rollup_id: &RollupId,
    ) -> Result<Streaming<RollupBlock>, Status> {
        let request = StreamRollupBlocksRequest {
            from_height: from.get(),
            rollup_id: Bytes::copy_from_slice(rollup_id.as_bytes()),
        };
        let open = |mut client: SequencerClient<Channel>| async move {
            client.stream_rollup_blocks(request).await
        };
        self.ask_node(node, open).await
    }

    /// The signed header of a height, from one node; verify it before you rely on it.
    pub(super) async fn header(
        &self,
        node: NodeId,
        height: Height,
    ) -> Result<GetHeaderResponse, Status> {
        let request = GetHeaderRequest {
            height: height.get(),
        };
        let ask =
            |mut client: SequencerClient<Channel>| async move { client.get_header(request).await };
        self.ask_node(node, ask).await
    }

    /// [`Self::rollup_block`] of one node.
    pub(super) async fn rollup_block_of(
        &self,
        node: NodeId,
        height: Height,
        rollup_id: &RollupId,
    ) -> Result<RollupBlock, Status> {
        let request = GetRollupBlockRequest {
            height: height.get(),
            rollup_id: Bytes::copy_from_slice(rollup_id.as_bytes()),
        };
        let ask = |mut client: SequencerClient<Channel>| async move {
            client.get_rollup_block(request).await
        };
        self.ask_node(node, ask).await
    }

    /// [`Self::state_proof`] of one node.
    pub(super) async fn state_proof_of(
        &self,
        node: NodeId,
        key: &Key<'_>,
    ) -> Result<GetStateProofResponse, Status> {
        let request = GetStateProofRequest {
            key: Bytes::from(key.encode()),
        };
        let ask = |mut client: SequencerClient<Channel>| async move {
            client.get_state_proof(request).await
        };
        self.ask_node(node, ask).await
    }

    /// The chain of the nodes, if all that answer follow another one than `chain_id`: then not they
    /// are wrong, but we.
    pub async fn other_chain(&self, chain_id: &str) -> Option<String> {
        let mut other = None;
        for node in self.order() {
            let ask = |mut client: SequencerClient<Channel>| async move {
                client.get_info(GetInfoRequest {}).await
            };
            match self.ask_node(node, ask).await {
                Ok(info) if info.chain_id == chain_id => return None,
                Ok(info) => other = Some(info.chain_id),
                Err(_) => {}
            }
        }
        other
    }

    /// Verifies headers between what is trusted and `target`, which is too
    /// [distant](LightError::Distant), until it may be tried again.
    ///
    /// # Errors
    /// [`ClientError`] if no node has a header that is needed; what was verified stays.
    pub async fn bridge(
        &self,
        trusted: &mut TrustedState,
        target: Height,
    ) -> Result<(), ClientError> {
        self.advance(trusted, trusted.pivot(target)).await
    }

    /// Verifies the header of a height, and on the way to it as few others as can be. Nodes are asked
    /// one after another.
    ///
    /// # Errors
    /// [`ClientError`] if no node has a header that is needed; what was verified stays.
    pub async fn advance(
        &self,
        trusted: &mut TrustedState,
        height: Height,
    ) -> Result<(), ClientError> {
        let mut wanted = vec![(height, None)];
        while let Some((height, known)) = wanted.pop() {
            let (node, answer) = match known {
                Some(known) => known,
                None => self.any_header(height).await?,
            };
            match verify_pivot(trusted, height, &answer) {
                Ok(_) => {}
                Err(VerifyError::Header(LightError::Distant { .. })) => {
                    let pivot = trusted.pivot(height);
                    wanted.push((height, Some((node, answer))));
                    wanted.push((pivot, None));
                }
                Err(error) => {
                    let header = &answer.signed_header;
                    let convicted = self.convict(node, trusted, height, error, header, &answer);
                    match convicted.await {
                        fork @ ClientError::Fork(_) => return Err(fork),
                        _ => wanted.push((height, None)),
                    }
                }
            }
        }
        Ok(())
    }

    async fn any_header(&self, height: Height) -> Result<(NodeId, GetHeaderResponse), ClientError> {
        let mut last = ClientError::NobodyLeft;
        for node in self.order() {
            // One that has lied just now must not be asked for ever.
            if self.wait(node) > MAX_WAIT {
                continue;
            }
            match self.header(node, height).await {
                Ok(answer) => return Ok((node, answer)),
                Err(status) => {
                    self.failed(node, &status.message());
                    last = self.status_error(node, status);
                }
            }
        }
        Err(last)
    }

    /// All nodes, the best first.
    pub(super) fn order(&self) -> Vec<NodeId> {
        let order = self.standings().order(Instant::now());
        order.into_iter().map(NodeId).collect()
    }

    /// The best node, once there is one that need not be left alone.
    pub(super) async fn best(&self) -> NodeId {
        loop {
            let first = self.order().first().copied().unwrap_or(NodeId(0));
            let wait = self.wait(first);
            if wait.is_zero() {
                return first;
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn wait(&self, node: NodeId) -> Duration {
        self.standings().wait(node.0, Instant::now())
    }

    /// The URL of a node.
    #[must_use]
    pub fn url(&self, node: NodeId) -> &str {
        self.0.nodes.get(node.0).map_or("", |node| &node.url)
    }

    /// A node gave what was wanted of it, and it held.
    pub(super) fn served(&self, node: NodeId) {
        self.standings().served(node.0);
    }

    /// A node was away, slow, or had nothing to say: others come first for a while.
    pub fn failed(&self, node: NodeId, reason: &dyn fmt::Display) {
        let (url, reason) = (self.url(node), reason.to_string());
        info!(url, reason, "sequencer node passed over");
        counter!(metric::FAILURES, "endpoint" => url.to_owned()).increment(1);
        self.standings().failed(node.0, Instant::now(), reason);
    }

    /// Judges an answer that does not hold: it proves a fork, or its node is dropped for long. Either
    /// way the proof is kept.
    pub async fn convict(
        &self,
        node: NodeId,
        trusted: &TrustedState,
        height: Height,
        error: VerifyError,
        signed_header: &Bytes,
        answer: &impl Message,
    ) -> ClientError {
        if let VerifyError::Header(LightError::Fork { .. }) = error {
            let headers = vec![signed_header.to_vec()];
            return ClientError::Fork(self.fork(node, trusted, height, headers).await);
        }
        self.report(node, trusted, height, &error, answer);
        let (url, source) = (self.url(node).to_owned(), Box::new(error));
        ClientError::BadProof { url, source }
    }

    /// A node served what does not hold: it is dropped for long, and the answer is kept.
    pub(super) fn report(
        &self,
        node: NodeId,
        trusted: &TrustedState,
        height: Height,
        error: &VerifyError,
        answer: &impl Message,
    ) {
        let url = self.url(node);
        let reason = format!("bad proof at height {height}: {}", chain(error));
        warn!(url, reason, "sequencer node dropped");
        counter!(metric::BAD_PROOFS, "endpoint" => url.to_owned()).increment(1);
        self.standings()
            .lied(node.0, Instant::now(), reason.clone());
        let record = self.record(node, trusted, height, reason);
        self.keep(&record.with_answer(answer));
    }

    /// Keeps signed headers that contradict what was verified, and with them the verified header and
    /// the other one of its height, wherever a node still has them.
    pub(super) async fn fork(
        &self,
        node: NodeId,
        trusted: &TrustedState,
        height: Height,
        mut signed_headers: Vec<Vec<u8>>,
    ) -> Fork {
        for other in self.order() {
            if let Ok(answer) = self.header(other, trusted.height()).await {
                let header = answer.signed_header.to_vec();
                if !signed_headers.contains(&header) {
                    signed_headers.push(header);
                }
            }
        }
        let reason = "two headers of one height were signed".to_owned();
        let record = self.record(node, trusted, height, reason);
        let path = self.keep(&Record {
            wrong: Wrong::Fork,
            signed_headers,
            ..record
        });
        let evidence = path.map_or("nowhere".into(), |path| path.display().to_string());
        Fork { height, evidence }
    }

    fn record(
        &self,
        node: NodeId,
        trusted: &TrustedState,
        height: Height,
        reason: String,
    ) -> Record {
        Record {
            version: 1,
            wrong: Wrong::BadProof,
            chain_id: trusted.chain_id().to_owned(),
            height: height.get(),
            trusted_height: trusted.height().get(),
            trusted_hash: trusted.header().map_or(Hash::ZERO, |header| header.hash),
            endpoint: self.url(node).to_owned(),
            reason,
            signed_headers: Vec::new(),
            answer: Vec::new(),
        }
    }

    fn keep(&self, record: &Record) -> Option<PathBuf> {
        match self.0.evidence.as_ref()?.keep(record) {
            Ok(path) => {
                warn!(path = %path.display(), "kept evidence");
                Some(path)
            }
            Err(error) => {
                error!(%error, "failed to keep evidence");
                None
            }
        }
    }

    /// How each node serves, for a service's status.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let (standings, now) = (self.standings().clone(), Instant::now());
        let of = |(node, one): (&Node, &Standing)| {
            json!({
                "url": node.url,
                "bad_proofs": one.bad_proofs,
                "bad_proof": one.bad_proof,
                "trouble": one.trouble,
                "asked_again_in_secs": one.wait(now).as_secs(),
            })
        };
        self.0.nodes.iter().zip(standings.all()).map(of).collect()
    }

    fn standings(&self) -> MutexGuard<'_, Standings> {
        // What is behind this lock is whole at every moment.
        let standings = &self.0.standings;
        standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T, A>(
        &self,
        question: impl Fn(SequencerClient<Channel>) -> A,
    ) -> Result<T, ClientError>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        Ok(self.ask_until(is_passing, question).await?.1)
    }

    /// Asks one node after another, whatever the reason why one does not answer.
    async fn ask_all<T, A>(
        &self,
        question: impl Fn(SequencerClient<Channel>) -> A,
    ) -> Result<(NodeId, T), ClientError>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.ask_until(|_| true, question).await
    }

    async fn ask_until<T, A>(
        &self,
        goes_on: impl Fn(&Status) -> bool,
        question: impl Fn(SequencerClient<Channel>) -> A,
    ) -> Result<(NodeId, T), ClientError>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut last = ClientError::NoEndpoint;
        let mut order = self.order().into_iter();
        let (mut asked, mut newest) = (FuturesUnordered::new(), None);
        loop {
            if let Some(node) = order.next() {
                let answer = self.ask_node(node, &question);
                asked.push(async move { (node, answer.await) });
                newest = Some(node);
            }
            let next = if order.len() == 0 {
                asked.next().await
            } else {
                match tokio::time::timeout(SOON, asked.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // It is not given up, but the next one is asked beside it.
                        if let Some(slow) = newest.take() {
                            self.failed(slow, &format!("no answer within {SOON:?}"));
                        }
                        continue;
                    }
                }
            };
            match next {
                None => return Err(last),
                Some((node, Ok(answer))) => {
                    self.served(node);
                    return Ok((node, answer));
                }
                Some((node, Err(status))) => {
                    let passing = goes_on(&status);
                    if is_passing(&status) {
                        self.failed(node, &status.message());
                    }
                    last = self.status_error(node, status);
                    if !passing {
                        return Err(last);
                    }
                }
            }
        }
    }

    async fn ask_node<T, A>(
        &self,
        node: NodeId,
        question: impl FnOnce(SequencerClient<Channel>) -> A,
    ) -> Result<T, Status>
    where
        A: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let Some(Node { client, .. }) = self.0.nodes.get(node.0) else {
            return Err(Status::internal("no such node"));
        };
        Ok(in_time(question(client.clone())).await?.into_inner())
    }

    pub(super) fn status_error(&self, node: NodeId, status: Status) -> ClientError {
        ClientError::Status {
            url: self.url(node).to_owned(),
            status: Box::new(status),
        }
    }

    fn config(&self, node: NodeId, bytes: &[u8]) -> Result<RollupConfig, ClientError> {
        borsh::from_slice(bytes).map_err(|_| self.malformed(node, "rollup configuration"))
    }

    fn malformed(&self, node: NodeId, what: &'static str) -> ClientError {
        let reason = format!("malformed {what}");
        self.failed(node, &reason);
        ClientError::Malformed {
            url: self.url(node).to_owned(),
            what,
        }
    }
}

/// The answer, unless it takes too long.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {TIMEOUT:?}"));
    tokio::time::timeout(TIMEOUT, answer).await.map_err(late)?
}

/// Whether another node may answer.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal
    )
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
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
        let bundles = BundlesClient::new(channel.clone());
        let client = SequencerClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            url: url.to_owned(),
            client,
            bundles,
        })
    }
}
