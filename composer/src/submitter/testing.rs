//! A sequencer in memory, really signed and proven, and nodes of it that lie.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitBundle},
    atomic::AtomicBundle,
    block::{
        ENV_VERSION, LeafProof, Preamble, RollupEnv, RollupItem, RollupLeaf, TransactionProof,
        data_leaf, merkle::Tree,
    },
    fees::FeeParams,
    key::SecretKey,
    light::{encode_signed_header, encode_validators},
    primitive::{Address, Amount, EvmAddress, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::{Slot, SlotSecs},
    state::{
        Account, AtomicRollup, BundleRecord, BundleStatus, EMPTY_TREE, Key, Leaf, LegRecord,
        RollupRecord, StateProof, TreePath, branch_hash, key_hash,
    },
    transaction::SignedTransaction,
};
use counterpoint_proto::sequencer::{
    GetAccountRequest, GetAccountResponse, GetBlockRequest, GetBlockResponse, GetChainRequest,
    GetChainResponse, GetFeesRequest, GetFeesResponse, GetHeaderRequest, GetHeaderResponse,
    GetInfoRequest, GetInfoResponse, GetRollupBlockRequest, GetRollupRequest, GetRollupResponse,
    GetStateProofRequest, GetStateProofResponse, GetTransactionRequest, GetTransactionResponse,
    ListRollupsRequest, ListRollupsResponse, RollupBlock, StreamRollupBlocksRequest,
    SubmitTransactionRequest, SubmitTransactionResponse,
    get_transaction_response::{Included, Pending, Status as Found, Unknown},
    sequencer_server::{Sequencer, SequencerServer},
};
use counterpoint_service::sequencer::testing::{CHAIN, four, header};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use super::fate::seal_key;
use crate::queue::testing::checked;

/// How long a block takes.
const INTERVAL: Duration = Duration::from_millis(20);

/// The key that pays.
pub(crate) fn payer() -> SecretKey {
    SecretKey::from_seed([9; 32])
}

/// The chain, shared by all nodes.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<Ledger>>);

/// What the chain has.
#[derive(Default)]
pub(crate) struct Ledger {
    blocks: BTreeMap<u64, Block>,
    /// Encoded records after each height.
    states: BTreeMap<u64, BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) account: Account,
    pub(crate) base_fee: u64,
    pub(crate) fees: FeeParams,
    pub(crate) rollups: BTreeMap<RollupId, RollupRecord>,
    pub(crate) former: BTreeMap<RollupId, RollupRecord>,
    /// What an atomic bundle has sealed: it gets into no list.
    pub(crate) sealed: BTreeSet<(RollupId, Bytes)>,
    /// Atomic bundles, as far as they have come.
    pub(crate) bundles: BTreeMap<Hash, BundleRecord>,
    /// Who sealed what for which of them.
    pub(crate) seals: BTreeMap<(RollupId, Hash, EvmAddress), Hash>,
    pool: BTreeMap<u64, SignedTransaction>,
    /// The least tip that gets into a block.
    pub(crate) least_tip: u64,
    /// Whether nothing gets into a block.
    pub(crate) jammed: bool,
    /// Whether what gets into a block fails.
    pub(crate) failing: bool,
    /// Transactions that were handed in, but for repetitions.
    pub(crate) handed_in: Vec<SignedTransaction>,
}

struct Block {
    transactions: Vec<(Hash, u32)>,
    items: Tree,
    leaves: Vec<RollupLeaf>,
    lists: BTreeMap<RollupId, (Vec<RollupItem>, RollupConfig)>,
    header: GetHeaderResponse,
    hash: Hash,
}

impl World {
    /// A chain of some blocks with these rollups, and its account rich.
    pub(crate) fn new(names: &[&str]) -> Self {
        let world = Self::default();
        {
            let mut ledger = world.ledger();
            ledger.account.balance = Amount::new(1 << 100);
            ledger.base_fee = 8;
            for name in names {
                let config = RollupConfig {
                    evm_chain_id: 1,
                    ..RollupConfig::example(name)
                };
                let record = RollupRecord {
                    config_hash: config.hash(),
                    config,
                    first_opening: Some(1),
                    pending: None,
                    deposit: Amount::ZERO,
                    paid_until: Height::new(u64::MAX),
                };
                ledger.rollups.insert(RollupId::from_name(name), record);
            }
            for _ in 0..5 {
                ledger.push();
            }
        }
        world
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap()
    }

    /// Makes blocks until it is dropped.
    pub(crate) fn run(&self) -> Ticking {
        let world = self.clone();
        Ticking(tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                world.ledger().push();
            }
        }))
    }
}

/// Blocks being made.
pub(crate) struct Ticking(JoinHandle<()>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ledger {
    pub(crate) fn tip(&self) -> u64 {
        self.blocks.keys().next_back().copied().unwrap_or_default()
    }

    /// Every transaction in a rollup's lists, in order.
    pub(crate) fn ordered(&self, rollup: RollupId) -> Vec<Bytes> {
        let lists = self
            .blocks
            .values()
            .filter_map(|block| block.lists.get(&rollup));
        let items = lists.flat_map(|(items, _)| items);
        let raw = |item: &RollupItem| match item {
            RollupItem::Transaction(raw) => raw.clone(),
            _ => unreachable!(),
        };
        items.map(raw).collect()
    }

    /// Forgets what waits, as a node does that starts again.
    pub(crate) fn forget(&mut self) {
        self.pool.clear();
    }

    fn records(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let address = payer().public_key().address();
        let mut records = BTreeMap::from([
            (
                Key::Account(address).encode(),
                borsh::to_vec(&self.account).unwrap(),
            ),
            (
                Key::BaseFee.encode(),
                borsh::to_vec(&self.base_fee).unwrap(),
            ),
            (Key::FeeParams.encode(), borsh::to_vec(&self.fees).unwrap()),
        ]);
        for (id, record) in &self.rollups {
            records.insert(Key::Rollup(*id).encode(), borsh::to_vec(record).unwrap());
        }
        for (id, record) in &self.former {
            records.insert(
                Key::FormerRollup(*id).encode(),
                borsh::to_vec(record).unwrap(),
            );
        }
        for (id, record) in &self.bundles {
            records.insert(Key::Bundle(*id).encode(), borsh::to_vec(record).unwrap());
        }
        for ((rollup, tx_hash, sender), id) in &self.seals {
            let seal = Key::Seal(*rollup, *tx_hash, *sender).encode();
            records.insert(seal, borsh::to_vec(id).unwrap());
        }
        for (id, raw) in &self.sealed {
            let known = AtomicRollup {
                epochs: 0,
                seals: 1,
                queued: 0,
            };
            let known = borsh::to_vec(&known).unwrap();
            records.insert(Key::AtomicRollup(*id).encode(), known);
            let sealed = checked(*id, raw.clone());
            let seal = seal_key(*id, &sealed.tx, sealed.sender).encode();
            records.insert(seal, borsh::to_vec(&Hash::ZERO).unwrap());
        }
        records
    }

    /// What goes into the next block.
    fn choose(&mut self, height: u64) -> Vec<SignedTransaction> {
        self.pool
            .retain(|_, tx| tx.body().valid_until.get() >= height);
        let (mut chosen, mut nonce) = (Vec::new(), self.account.nonce.get());
        while let Some(tx) = self.pool.get(&nonce) {
            if self.jammed || tx.body().tip_per_byte < self.least_tip || !self.fits(tx) {
                break;
            }
            chosen.extend(self.pool.remove(&nonce));
            nonce += 1;
        }
        self.pool.retain(|waiting, _| *waiting >= nonce);
        chosen
    }

    /// Whether a transaction alone is within the shares of its rollups.
    fn fits(&self, tx: &SignedTransaction) -> bool {
        tx.body().actions.iter().all(|action| match action {
            Action::SubmitData(data) => {
                let record = self.rollups.get(&data.rollup_id());
                record.is_none_or(|record| {
                    data.items().len() <= record.config.max_items_per_block as usize
                })
            }
            _ => true,
        })
    }

    pub(crate) fn push(&mut self) {
        let height = self.tip() + 1;
        let app_hash = self
            .states
            .get(&(height - 1))
            .map_or(EMPTY_TREE, |state| prove(state, &[]).0);
        let mut lists: BTreeMap<RollupId, (Vec<RollupItem>, RollupConfig)> = self
            .rollups
            .iter()
            .map(|(id, record)| (*id, (Vec::new(), record.config.clone())))
            .collect();
        let (mut items, mut transactions) = (Vec::new(), Vec::new());
        for tx in self.choose(height) {
            self.account.nonce = self.account.nonce.next().unwrap();
            let known = |action: &Action| match action {
                Action::SubmitData(data) => lists.contains_key(&data.rollup_id()),
                Action::SubmitBundle(submit) => !self.bundles.contains_key(&submit.bundle.id()),
                Action::RevealLegs(legs) => self
                    .bundles
                    .get(&legs.bundle_id())
                    .is_some_and(|record| record.status == BundleStatus::Sealed),
                _ => false,
            };
            let code = if self.failing || !tx.body().actions.iter().all(known) {
                19
            } else {
                0
            };
            if code == 0 {
                self.execute(&tx, height);
            }
            for action in &tx.body().actions {
                if let (0, Action::SubmitData(data)) = (code, action) {
                    let list = &mut lists.get_mut(&data.rollup_id()).unwrap().0;
                    let sealed = |raw: &&Bytes| {
                        let key = (data.rollup_id(), Bytes::clone(raw));
                        self.sealed.contains(&key)
                    };
                    let items = data.items().iter().filter(|raw| !sealed(raw));
                    list.extend(items.cloned().map(RollupItem::Transaction));
                }
            }
            transactions.push((tx.hash(), code));
            items.push(tx.as_bytes().clone());
        }
        let leaf = |(id, (list, config)): (&RollupId, &(Vec<RollupItem>, RollupConfig))| {
            let env = RollupEnv {
                version: ENV_VERSION,
                slot: Slot::of(None, SlotSecs::ONE),
                number: height,
                opens: true,
                closes: true,
                beacon_root: [0; 32],
                prev_randao: [0; 32],
                config_hash: config.hash(),
            };
            RollupLeaf::new(*id, env, list.iter().map(RollupItem::leaf).collect())
        };
        let leaves: Vec<RollupLeaf> = lists.iter().map(leaf).collect();
        items.insert(0, Preamble::new(&leaves).encode());
        let digests = items.iter().map(|item| data_leaf(&Hash::digest(&[item])));
        let items = Tree::new(digests.collect());
        let previous = self
            .blocks
            .get(&(height - 1))
            .map_or(Hash::ZERO, |block| block.hash);
        let set = four(height);
        let mut made = header(height, previous, &set, &set);
        made.data_hash = Some(items.root().as_bytes().to_vec().try_into().unwrap());
        made.app_hash = app_hash.as_bytes().to_vec().try_into().unwrap();
        let hash = Hash::new(made.hash().as_bytes().try_into().unwrap());
        let header = GetHeaderResponse {
            signed_header: encode_signed_header(set.sign(made, &[0, 1, 2, 3])).into(),
            validators: encode_validators(set.set()).into(),
        };
        let block = Block {
            transactions,
            items,
            leaves,
            lists,
            header,
            hash,
        };
        self.blocks.insert(height, block);
        let records = self.records();
        self.states.insert(height, records);
    }

    /// What a transaction does for atomic bundles.
    fn execute(&mut self, tx: &SignedTransaction, height: u64) {
        for action in &tx.body().actions {
            match action {
                Action::SubmitBundle(SubmitBundle { bundle }) => {
                    let submitter = tx.body().signer.address();
                    self.seal(bundle, submitter, height);
                }
                Action::RevealLegs(legs) => {
                    let record = self.bundles.get_mut(&legs.bundle_id()).unwrap();
                    record.status = BundleStatus::Queued;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn seal(&mut self, bundle: &AtomicBundle, submitter: Address, height: u64) {
        let (id, terms) = (bundle.id(), bundle.terms());
        let mut legs = Vec::new();
        for leg in &terms.legs {
            for tx in &leg.txs {
                let signer = bundle.signer(&tx.tx_hash, &tx.auth).unwrap();
                self.seals.insert((leg.rollup_id, tx.tx_hash, signer), id);
            }
            legs.push(LegRecord {
                rollup_id: leg.rollup_id,
                txs: leg.txs.len().try_into().unwrap(),
                bytes: 0,
                gas: 0,
                max_gas: 0,
            });
        }
        let record = BundleRecord {
            submitter,
            height: Height::new(height),
            valid_from: terms.valid_from,
            valid_until: terms.valid_until,
            tip_per_attempt: terms.tip_per_attempt,
            attempts_left: terms.max_attempts,
            answered: false,
            legs,
            status: BundleStatus::Sealed,
            release: None,
        };
        self.bundles.insert(id, record);
    }

    fn submit(&mut self, bytes: &Bytes) -> (u32, &'static str) {
        let tx = SignedTransaction::decode(bytes).unwrap();
        let (body, next) = (tx.body(), self.tip() + 1);
        let located = self.locate(&tx.hash(), true).is_some();
        if located {
            return (0, "");
        }
        let until = body.valid_until.get();
        match () {
            () if body.nonce < self.account.nonce => return (3, "wrong nonce"),
            () if until < next => return (5, "expired"),
            () if until > next + 600 => return (6, "too far ahead"),
            () => {}
        }
        if let Some(old) = self.pool.get(&body.nonce.get()) {
            let old = old.body();
            let worse = body.tip_per_byte < old.tip_per_byte || body.valid_until < old.valid_until;
            let dearer =
                body.tip_per_byte >= old.tip_per_byte + old.tip_per_byte.div_ceil(10).max(1);
            if old.actions != body.actions || worse || !dearer {
                return (64, "the nonce is taken");
            }
        }
        self.handed_in.push(tx.clone());
        self.pool.insert(body.nonce.get(), tx);
        (0, "")
    }

    /// A foreign transaction takes the account's next nonce.
    pub(crate) fn steal_nonce(&mut self) {
        self.pool.clear();
        self.account.nonce = Nonce::new(self.account.nonce.get() + 1);
    }

    fn locate(&self, hash: &Hash, pending: bool) -> Option<Found> {
        for (height, block) in &self.blocks {
            let place = block
                .transactions
                .iter()
                .position(|(known, _)| known == hash);
            if let Some(place) = place {
                let index = u32::try_from(place + 1).unwrap();
                let proof = TransactionProof {
                    path: block.items.path(index).unwrap(),
                };
                return Some(Found::Included(Included {
                    height: *height,
                    index,
                    code: block.transactions[place].1,
                    log: String::new(),
                    borsh_proof: borsh::to_vec(&proof).unwrap().into(),
                    signed_header: block.header.signed_header.clone(),
                    validators: block.header.validators.clone(),
                }));
            }
        }
        let waits = self.pool.values().any(|tx| tx.hash() == *hash);
        (pending && waits).then_some(Found::Pending(Pending {}))
    }

    fn rollup_block(&self, height: u64, rollup: RollupId) -> Option<RollupBlock> {
        let block = self.blocks.get(&height)?;
        let (list, config) = block.lists.get(&rollup)?;
        let place = block
            .leaves
            .iter()
            .position(|leaf| leaf.rollup_id == rollup)?;
        let leaves = Tree::new(block.leaves.iter().map(RollupLeaf::leaf).collect());
        let proof = LeafProof {
            leaf: block.leaves[place].clone(),
            leaf_path: leaves.path(u32::try_from(place).unwrap()).unwrap(),
            preamble: Preamble::new(&block.leaves),
            preamble_path: block.items.path(0).unwrap(),
        };
        Some(RollupBlock {
            height,
            borsh_leaf_proof: borsh::to_vec(&proof).unwrap().into(),
            borsh_list: borsh::to_vec(list).unwrap().into(),
            signed_header: block.header.signed_header.clone(),
            validators: block.header.validators.clone(),
            borsh_config: borsh::to_vec(config).unwrap().into(),
        })
    }

    fn state_proof(&self, key: &[u8], until: u64) -> GetStateProofResponse {
        let height = self.tip().min(until) - 1;
        let state = &self.states[&height];
        let (_, path) = prove(state, key);
        let proof = StateProof::new(state.get(key).cloned(), path);
        let header = &self.blocks[&(height + 1)].header;
        GetStateProofResponse {
            height,
            borsh_proof: borsh::to_vec(&proof).unwrap().into(),
            signed_header: header.signed_header.clone(),
            validators: header.validators.clone(),
        }
    }
}

/// The root of a state, and the path to a key.
fn prove(state: &BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> (Hash, TreePath) {
    let leaf = |(key, value): (&Vec<u8>, &Vec<u8>)| Leaf {
        key: key_hash(key),
        value: Hash::digest(&[value]),
    };
    let mut leaves: Vec<Leaf> = state.iter().map(leaf).collect();
    leaves.sort_by_key(|leaf| leaf.key);
    let (key, mut rest, mut siblings) = (key_hash(key), &leaves[..], Vec::new());
    while rest.len() > 1 {
        let (left, right) = split(rest, siblings.len());
        let (on, off) = if bit(&key, siblings.len()) {
            (right, left)
        } else {
            (left, right)
        };
        siblings.push(root(off, siblings.len() + 1));
        rest = on;
    }
    let leaf = rest.first().copied();
    (root(&leaves, 0), TreePath { leaf, siblings })
}

fn root(leaves: &[Leaf], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY_TREE,
        [leaf] => leaf.hash(),
        _ => {
            let (left, right) = split(leaves, depth);
            branch_hash(&root(left, depth + 1), &root(right, depth + 1))
        }
    }
}

fn split(leaves: &[Leaf], depth: usize) -> (&[Leaf], &[Leaf]) {
    leaves.split_at(leaves.partition_point(|leaf| !bit(&leaf.key, depth)))
}

fn bit(hash: &Hash, depth: usize) -> bool {
    hash.as_bytes()[depth / 8] >> (7 - depth % 8) & 1 == 1
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// It never says where a transaction is.
    Forgets,
    /// It shows every transaction in the wrong block.
    Forges,
    /// It takes transactions and does nothing with them.
    Keeps,
    /// It stands still since this height.
    Stale(u64),
    /// It never answers.
    Hangs,
    /// It refuses every transaction.
    Refuses,
}

/// A node that listens until it is dropped.
pub(crate) struct Node {
    pub(crate) url: String,
    fault: Arc<Mutex<Fault>>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    pub(crate) async fn start(world: &World, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fault = Arc::new(Mutex::new(fault));
        let server = Server {
            world: world.clone(),
            fault: Arc::clone(&fault),
        };
        let served = tonic::transport::Server::builder()
            .add_service(SequencerServer::new(server))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { served.await.unwrap() });
        Self { url, fault, task }
    }

    pub(crate) fn turn(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

#[derive(Clone)]
struct Server {
    world: World,
    fault: Arc<Mutex<Fault>>,
}

impl Server {
    async fn fault(&self) -> Fault {
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::Hangs {
            std::future::pending::<()>().await;
        }
        fault
    }

    /// How far the node is.
    async fn tip(&self) -> u64 {
        match self.fault().await {
            Fault::Stale(height) => height,
            _ => self.world.ledger().tip(),
        }
    }
}

fn id(bytes: &[u8]) -> RollupId {
    RollupId::new(bytes.try_into().unwrap())
}

#[tonic::async_trait]
impl Sequencer for Server {
    type StreamRollupBlocksStream = ReceiverStream<Result<RollupBlock, Status>>;

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse {
            chain_id: CHAIN.into(),
            height: self.tip().await,
            ..GetInfoResponse::default()
        }))
    }

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        let fault = self.fault().await;
        let bytes = request.into_inner().transaction;
        let (code, log) = match fault {
            Fault::Keeps | Fault::Stale(_) => (0, ""),
            Fault::Refuses => (32_000, "full"),
            _ => self.world.ledger().submit(&bytes),
        };
        Ok(Response::new(SubmitTransactionResponse {
            code,
            log: log.into(),
            tx_hash: Bytes::new(),
        }))
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        let fault = self.fault().await;
        let hash = Hash::new(request.into_inner().tx_hash[..].try_into().unwrap());
        let ledger = self.world.ledger();
        let found = ledger.locate(&hash, fault != Fault::Keeps);
        let status = match (fault, found) {
            (Fault::Forgets | Fault::Stale(_), _) => None,
            (Fault::Forges, _) => {
                let (height, block) = ledger.blocks.iter().next_back().unwrap();
                let proof = TransactionProof {
                    path: block.items.path(0).unwrap(),
                };
                Some(Found::Included(Included {
                    height: *height,
                    borsh_proof: borsh::to_vec(&proof).unwrap().into(),
                    signed_header: block.header.signed_header.clone(),
                    validators: block.header.validators.clone(),
                    ..Included::default()
                }))
            }
            (_, found) => found,
        };
        let status = Some(status.unwrap_or(Found::Unknown(Unknown {})));
        Ok(Response::new(GetTransactionResponse { status }))
    }

    async fn get_account(
        &self,
        _: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        Err(Status::unimplemented("never asked"))
    }

    async fn get_rollup(
        &self,
        _: Request<GetRollupRequest>,
    ) -> Result<Response<GetRollupResponse>, Status> {
        Err(Status::unimplemented("never asked"))
    }

    async fn list_rollups(
        &self,
        _: Request<ListRollupsRequest>,
    ) -> Result<Response<ListRollupsResponse>, Status> {
        Err(Status::unimplemented("never asked"))
    }

    async fn get_fees(
        &self,
        _: Request<GetFeesRequest>,
    ) -> Result<Response<GetFeesResponse>, Status> {
        Err(Status::unimplemented("never asked"))
    }

    async fn get_chain(
        &self,
        _: Request<GetChainRequest>,
    ) -> Result<Response<GetChainResponse>, Status> {
        Err(Status::unimplemented("never asked"))
    }

    async fn get_state_proof(
        &self,
        request: Request<GetStateProofRequest>,
    ) -> Result<Response<GetStateProofResponse>, Status> {
        let tip = self.tip().await;
        let ledger = self.world.ledger();
        if !ledger.states.contains_key(&(tip - 1)) {
            return Err(Status::unavailable("no state here"));
        }
        let key = request.into_inner().key;
        Ok(Response::new(ledger.state_proof(&key, tip)))
    }

    async fn get_header(
        &self,
        request: Request<GetHeaderRequest>,
    ) -> Result<Response<GetHeaderResponse>, Status> {
        let tip = self.tip().await;
        let height = request.into_inner().height;
        let ledger = self.world.ledger();
        let block = ledger.blocks.get(&height).filter(|_| height <= tip);
        let none = || Status::not_found("no such header");
        block
            .map(|block| Response::new(block.header.clone()))
            .ok_or_else(none)
    }

    async fn get_block(
        &self,
        _: Request<GetBlockRequest>,
    ) -> Result<Response<GetBlockResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn get_rollup_block(
        &self,
        request: Request<GetRollupBlockRequest>,
    ) -> Result<Response<RollupBlock>, Status> {
        let tip = self.tip().await;
        let GetRollupBlockRequest { height, rollup_id } = request.into_inner();
        let block = self.world.ledger().rollup_block(height, id(&rollup_id));
        let none = || Status::not_found("no such block");
        block
            .filter(|_| height <= tip)
            .map(Response::new)
            .ok_or_else(none)
    }

    async fn stream_rollup_blocks(
        &self,
        request: Request<StreamRollupBlocksRequest>,
    ) -> Result<Response<Self::StreamRollupBlocksStream>, Status> {
        let StreamRollupBlocksRequest {
            rollup_id,
            from_height,
        } = request.into_inner();
        let (sender, blocks) = mpsc::channel(4);
        let this = self.clone();
        tokio::spawn(async move {
            for height in from_height.. {
                while this.tip().await < height {
                    tokio::time::sleep(INTERVAL).await;
                }
                let block = this.world.ledger().rollup_block(height, id(&rollup_id));
                let block = block.ok_or_else(|| Status::not_found("rollup has no leaf"));
                let last = block.is_err();
                if sender.send(block).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(blocks)))
    }
}
