//! Sequencer nodes that lie, and a small chain for them to lie about. For tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test's own data"
)]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use counterpoint_core::{
    block::{
        ENV_VERSION, LeafProof, Preamble, RollupEnv, RollupItem, RollupLeaf, data_leaf,
        merkle::Tree,
    },
    light::{
        TrustedHeader, decode_signed_header, encode_signed_header, encode_validators, testing,
    },
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
    slot::{Slot, SlotSecs},
};
use counterpoint_proto::sequencer::{
    GetAccountRequest, GetAccountResponse, GetBlockRequest, GetBlockResponse, GetChainRequest,
    GetChainResponse, GetFeesRequest, GetFeesResponse, GetHeaderRequest, GetHeaderResponse,
    GetInfoRequest, GetInfoResponse, GetRollupBlockRequest, GetRollupRequest, GetRollupResponse,
    GetStateProofRequest, GetStateProofResponse, GetTransactionRequest, GetTransactionResponse,
    ListRollupsRequest, ListRollupsResponse, RollupBlock, StreamRollupBlocksRequest,
    SubmitTransactionRequest, SubmitTransactionResponse,
    sequencer_client::SequencerClient,
    sequencer_server::{Sequencer, SequencerServer},
};
pub use testing::{CHAIN, Validators, genesis, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, server::TcpIncoming},
};

/// The rollup whose lists are read.
#[must_use]
pub fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

/// A chain that is really signed, with lists for the rollups alpha and beta.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    headers: BTreeMap<u64, GetHeaderResponse>,
    pub(super) alpha: BTreeMap<u64, RollupBlock>,
    beta: BTreeMap<u64, RollupBlock>,
    /// What the state has under a key.
    pub proofs: BTreeMap<Vec<u8>, GetStateProofResponse>,
}

/// What a chain is made of.
pub struct Plan {
    /// The validators of a height.
    pub set: fn(u64) -> Validators,
    /// Alpha's configuration.
    pub config: RollupConfig,
    /// Alpha's items of a height.
    pub items: fn(u64) -> Vec<Bytes>,
    /// The last height at which alpha has a leaf; it closes its last block.
    pub last_leaf: u64,
    /// Root of the state before each block.
    pub app_hash: Hash,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").finish_non_exhaustive()
    }
}

/// The same four validators at every height.
#[must_use]
pub fn four(_: u64) -> Validators {
    Validators::new(&[(1, 10), (2, 10), (3, 10), (4, 10)])
}

/// Three short items.
#[must_use]
pub fn three(height: u64) -> Vec<Bytes> {
    let item = |index| Bytes::from(format!("item {index} of height {height}"));
    (0..3).map(item).collect()
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            set: four,
            config: RollupConfig::example("alpha"),
            items: three,
            last_leaf: u64::MAX,
            app_hash: Hash::new([6; 32]),
        }
    }
}

impl Chain {
    /// A chain of `length` blocks.
    #[must_use]
    pub fn new(plan: &Plan, length: u64) -> Self {
        let mut chain = Self::default();
        chain.grow(plan, length);
        chain
    }

    /// Adds blocks up to a height. After [`Self::cut`] they make another branch if the plan is
    /// another one.
    pub fn grow(&mut self, plan: &Plan, length: u64) {
        for height in self.tip() + 1..=length {
            self.push(plan, height);
        }
    }

    /// Forgets blocks above a height.
    pub fn cut(&mut self, height: u64) {
        self.headers.split_off(&(height + 1));
        self.alpha.split_off(&(height + 1));
        self.beta.split_off(&(height + 1));
    }

    /// The last height.
    #[must_use]
    pub fn tip(&self) -> u64 {
        self.headers.keys().next_back().copied().unwrap_or_default()
    }

    /// What a node answers about a header.
    #[must_use]
    pub fn header(&self, height: u64) -> GetHeaderResponse {
        self.headers[&height].clone()
    }

    /// What a node answers about alpha's list.
    #[must_use]
    pub fn block(&self, height: u64) -> RollupBlock {
        self.alpha[&height].clone()
    }

    /// What a node answers about beta's list.
    #[must_use]
    pub fn other_block(&self, height: u64) -> RollupBlock {
        self.beta[&height].clone()
    }

    /// A header by which trust can start.
    #[must_use]
    pub fn root(&self, height: u64) -> TrustedHeader {
        let signed = decode_signed_header(&self.headers[&height].signed_header).unwrap();
        TrustedHeader {
            height: Height::new(height),
            hash: Hash::new(signed.header.hash().as_bytes().try_into().unwrap()),
        }
    }

    fn push(&mut self, plan: &Plan, height: u64) {
        let previous = match height {
            1 => Hash::ZERO,
            _ => self.root(height - 1).hash,
        };
        let beta = RollupConfig::example("beta");
        let mut slices = vec![slice(
            plan,
            height,
            &beta,
            vec![Bytes::from_static(b"beta")],
        )];
        if height <= plan.last_leaf {
            slices.push(slice(plan, height, &plan.config, (plan.items)(height)));
        }
        slices.sort_by_key(|(leaf, _, _)| leaf.rollup_id);
        let leaves: Vec<RollupLeaf> = slices.iter().map(|(leaf, ..)| leaf.clone()).collect();
        let preamble = Preamble::new(&leaves);
        let items = [preamble.encode(), Bytes::from_static(b"a transaction")];
        let digests = items.iter().map(|item| data_leaf(&Hash::digest(&[item])));
        let data = Tree::new(digests.collect());
        let (set, next) = ((plan.set)(height), (plan.set)(height + 1));
        let mut header = header(height, previous, &set, &next);
        header.data_hash = Some(tendermint_hash(&data.root()));
        header.app_hash = plan.app_hash.as_bytes().to_vec().try_into().unwrap();
        let everybody: Vec<usize> = (0..set.infos().len()).collect();
        let signed_header = Bytes::from(encode_signed_header(set.sign(header, &everybody)));
        let validators = Bytes::from(encode_validators(set.set()));
        let rollups = Tree::new(leaves.iter().map(RollupLeaf::leaf).collect());
        for (place, (leaf, list, config)) in slices.into_iter().enumerate() {
            let id = leaf.rollup_id;
            let proof = LeafProof {
                leaf,
                leaf_path: rollups.path(u32::try_from(place).unwrap()).unwrap(),
                preamble: preamble.clone(),
                preamble_path: data.path(0).unwrap(),
            };
            let block = RollupBlock {
                height,
                borsh_leaf_proof: borsh::to_vec(&proof).unwrap().into(),
                borsh_list: borsh::to_vec(&list).unwrap().into(),
                signed_header: signed_header.clone(),
                validators: validators.clone(),
                borsh_config: borsh::to_vec(&config).unwrap().into(),
            };
            let of = if id == alpha() {
                &mut self.alpha
            } else {
                &mut self.beta
            };
            of.insert(height, block);
        }
        let answer = GetHeaderResponse {
            signed_header,
            validators,
        };
        self.headers.insert(height, answer);
    }
}

fn tendermint_hash(hash: &Hash) -> tendermint::Hash {
    tendermint::Hash::Sha256(*hash.as_bytes())
}

fn slice(
    plan: &Plan,
    height: u64,
    config: &RollupConfig,
    raw: Vec<Bytes>,
) -> (RollupLeaf, Vec<RollupItem>, RollupConfig) {
    let items: Vec<RollupItem> = raw.into_iter().map(RollupItem::Transaction).collect();
    let env = RollupEnv {
        version: ENV_VERSION,
        slot: Slot::of(None, SlotSecs::ONE),
        number: height,
        opens: true,
        closes: height == plan.last_leaf,
        beacon_root: [0; 32],
        prev_randao: [0; 32],
        config_hash: config.hash(),
    };
    let leaves = items.iter().map(RollupItem::leaf).collect();
    let leaf = RollupLeaf::new(config.rollup_id, env, leaves);
    (leaf, items, config.clone())
}

/// Where a node has its blocks from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Made up.
    Chain(Arc<Chain>),
    /// Another node.
    Node(SequencerClient<Channel>),
}

/// Changes one message of a stream.
pub type Alter = Arc<dyn Fn(&mut RollupBlock) + Send + Sync>;

/// How a node lies, from a height on.
#[derive(Clone, Default)]
pub enum Lie {
    /// It does not.
    #[default]
    None,
    /// It changes blocks.
    Alter(Alter),
    /// It changes headers that are asked for alone.
    Header(Arc<dyn Fn(&mut GetHeaderResponse) + Send + Sync>),
    /// It sends nothing more.
    Silent,
    /// It sends the block before once more.
    Repeat,
    /// It leaves a block out.
    Skip,
    /// It says that the rollup has no leaf.
    Deny,
}

impl fmt::Debug for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lie")
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct Scripted {
    source: Source,
    lie: Lie,
    from: u64,
    streams: Arc<AtomicU64>,
}

/// A node that listens, until it is dropped.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub url: String,
    /// Streams that were opened.
    pub streams: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// A node that lies from a height on.
    #[must_use]
    pub fn new(source: Source, lie: Lie, from: u64) -> Self {
        Self {
            source,
            lie,
            from,
            streams: Arc::default(),
        }
    }

    /// Listens on a port of its own.
    pub async fn start(self) -> Running {
        self.start_at(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Listens.
    #[must_use]
    pub fn start_at(self, listener: TcpListener) -> Running {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let streams = Arc::clone(&self.streams);
        let served = tonic::transport::Server::builder()
            .add_service(SequencerServer::new(self))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { served.await.unwrap() });
        Running { url, streams, task }
    }

    fn node(&self) -> Result<SequencerClient<Channel>, Status> {
        match &self.source {
            Source::Node(client) => Ok(client.clone()),
            Source::Chain(_) => Err(Status::unimplemented("a scripted chain")),
        }
    }

    /// What is sent in place of a block.
    fn script(&self, block: RollupBlock, before: Option<RollupBlock>) -> Told {
        if block.height < self.from {
            return Told::Block(block);
        }
        match &self.lie {
            Lie::Alter(alter) => {
                let mut block = block;
                alter(&mut block);
                Told::Block(block)
            }
            Lie::Silent => Told::Nothing,
            Lie::Repeat => Told::Block(before.unwrap_or(block)),
            Lie::Skip if block.height == self.from => Told::Left,
            Lie::None | Lie::Header(_) | Lie::Skip => Told::Block(block),
            Lie::Deny => Told::Denied,
        }
    }

    async fn feed(self, request: StreamRollupBlocksRequest, sender: mpsc::Sender<Sent>) {
        let mut before = None;
        let mut relayed = match &self.source {
            Source::Chain(_) => None,
            Source::Node(client) => {
                let stream = client.clone().stream_rollup_blocks(request.clone()).await;
                match stream {
                    Ok(stream) => Some(stream.into_inner()),
                    Err(status) => return drop(sender.send(Err(status)).await),
                }
            }
        };
        for height in request.from_height.. {
            let block = match (&self.source, &mut relayed) {
                (Source::Chain(chain), _) => match chain.alpha.get(&height) {
                    Some(block) => block.clone(),
                    None if chain.tip() >= height => {
                        let status = Status::not_found("rollup has no leaf");
                        return drop(sender.send(Err(status)).await);
                    }
                    None => return sender.closed().await,
                },
                (_, Some(stream)) => match stream.message().await {
                    Ok(Some(block)) => block,
                    _ => return,
                },
                (_, None) => return,
            };
            let told = self.script(block.clone(), before.replace(block));
            let sent = match told {
                Told::Block(block) => sender.send(Ok(block)).await,
                Told::Left => Ok(()),
                Told::Nothing => return sender.closed().await,
                Told::Denied => {
                    let status = Status::not_found("rollup has no leaf");
                    return drop(sender.send(Err(status)).await);
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

enum Told {
    Block(RollupBlock),
    Left,
    Nothing,
    Denied,
}

type Sent = Result<RollupBlock, Status>;

#[tonic::async_trait]
impl Sequencer for Scripted {
    type StreamRollupBlocksStream = ReceiverStream<Sent>;

    async fn get_info(
        &self,
        request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        match &self.source {
            Source::Node(client) => client.clone().get_info(request).await,
            Source::Chain(chain) => Ok(Response::new(GetInfoResponse {
                chain_id: CHAIN.into(),
                height: chain.tip(),
                ..GetInfoResponse::default()
            })),
        }
    }

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        self.node()?.submit_transaction(request).await
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        self.node()?.get_transaction(request).await
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        self.node()?.get_account(request).await
    }

    async fn get_rollup(
        &self,
        request: Request<GetRollupRequest>,
    ) -> Result<Response<GetRollupResponse>, Status> {
        self.node()?.get_rollup(request).await
    }

    async fn list_rollups(
        &self,
        request: Request<ListRollupsRequest>,
    ) -> Result<Response<ListRollupsResponse>, Status> {
        self.node()?.list_rollups(request).await
    }

    async fn get_fees(
        &self,
        request: Request<GetFeesRequest>,
    ) -> Result<Response<GetFeesResponse>, Status> {
        self.node()?.get_fees(request).await
    }

    async fn get_chain(
        &self,
        request: Request<GetChainRequest>,
    ) -> Result<Response<GetChainResponse>, Status> {
        self.node()?.get_chain(request).await
    }

    async fn get_state_proof(
        &self,
        request: Request<GetStateProofRequest>,
    ) -> Result<Response<GetStateProofResponse>, Status> {
        let Source::Chain(chain) = &self.source else {
            return self.node()?.get_state_proof(request).await;
        };
        let proof = chain.proofs.get(&request.into_inner().key[..]).cloned();
        let none = || Status::unavailable("no state here");
        proof.map(Response::new).ok_or_else(none)
    }

    async fn get_header(
        &self,
        request: Request<GetHeaderRequest>,
    ) -> Result<Response<GetHeaderResponse>, Status> {
        let height = request.get_ref().height;
        let mut answer = match &self.source {
            Source::Node(client) => client.clone().get_header(request).await?.into_inner(),
            Source::Chain(chain) => {
                let header = chain.headers.get(&height).cloned();
                header.ok_or_else(|| Status::not_found("no such header"))?
            }
        };
        if let Lie::Header(alter) = &self.lie
            && height >= self.from
        {
            alter(&mut answer);
        }
        Ok(Response::new(answer))
    }

    async fn get_block(
        &self,
        request: Request<GetBlockRequest>,
    ) -> Result<Response<GetBlockResponse>, Status> {
        let height = request.get_ref().height;
        let chain = match &self.source {
            Source::Node(client) => return client.clone().get_block(request).await,
            Source::Chain(chain) => chain,
        };
        let none = || Status::not_found("no such block");
        let header = chain.headers.get(&height).ok_or_else(none)?;
        let rollups = [&chain.alpha, &chain.beta];
        let blocks: Vec<_> = rollups
            .iter()
            .filter_map(|blocks| blocks.get(&height))
            .collect();
        let leaf = |block: &&RollupBlock| {
            let proof: LeafProof = borsh::from_slice(&block.borsh_leaf_proof).unwrap();
            borsh::to_vec(&proof.leaf).unwrap().into()
        };
        Ok(Response::new(GetBlockResponse {
            signed_header: header.signed_header.clone(),
            validators: header.validators.clone(),
            items: 0,
            item_hashes: Vec::new(),
            rollups: u32::try_from(blocks.len()).unwrap(),
            borsh_leaves: blocks.iter().map(leaf).collect(),
        }))
    }

    async fn get_rollup_block(
        &self,
        request: Request<GetRollupBlockRequest>,
    ) -> Result<Response<RollupBlock>, Status> {
        let Source::Chain(chain) = &self.source else {
            return self.node()?.get_rollup_block(request).await;
        };
        let block = chain.alpha.get(&request.into_inner().height).cloned();
        let none = || Status::not_found("rollup has no leaf");
        block.map(Response::new).ok_or_else(none)
    }

    async fn stream_rollup_blocks(
        &self,
        request: Request<StreamRollupBlocksRequest>,
    ) -> Result<Response<Self::StreamRollupBlocksStream>, Status> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let (sender, blocks) = mpsc::channel(4);
        tokio::spawn(self.clone().feed(request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(blocks)))
    }
}

/// What a broken line does to what a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It brings a byte at a time, for ever.
    Drips,
    /// It brings bytes that are none of HTTP.
    Garbles,
}

impl Line {
    /// Listens for those who want to speak with the node at `url`.
    pub async fn start(self, url: &str) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = url.trim_start_matches("http://").to_owned();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let streams = Arc::<AtomicU64>::default();
        let opened = Arc::clone(&streams);
        let task = tokio::spawn(async move {
            while let Ok((peer, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(self.carry(peer, node.clone()));
            }
        });
        Running { url, streams, task }
    }

    async fn carry(self, mut peer: TcpStream, node: String) {
        if self == Self::Garbles {
            let _ = peer.write_all(&[0x5a; 4_096]).await;
            return;
        }
        let Ok(node) = TcpStream::connect(node).await else {
            return;
        };
        let (mut from_peer, mut to_peer) = peer.into_split();
        let (mut from_node, mut to_node) = node.into_split();
        let up = tokio::io::copy(&mut from_peer, &mut to_node);
        let down = async {
            let mut byte = [0];
            while from_node.read_exact(&mut byte).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if to_peer.write_all(&byte).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = up => {}
            () = down => {}
        }
    }
}
