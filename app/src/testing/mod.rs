//! A node without sockets: tests speak to its services as CometBFT does.

pub(crate) mod attest;
pub(crate) mod sync;

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use counterpoint_abci::{
    BoxError, ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, MempoolRequest,
    MempoolResponse, SnapshotRequest, SnapshotResponse,
    proto::{
        abci::{
            CheckTxType, Misbehavior, RequestCheckTx, RequestCommit, RequestFinalizeBlock,
            RequestInfo, RequestInitChain, RequestInsertTx, RequestPrepareProposal,
            RequestProcessProposal, RequestReapTxs, ResponseFinalizeBlock, ResponseInfo,
            ResponseInitChain, Validator, ValidatorUpdate,
            response_process_proposal::ProposalStatus,
        },
        crypto::{PublicKey as ProtoPublicKey, public_key},
        types::{BlockParams, ConsensusParams, EvidenceParams},
    },
};
use counterpoint_core::{
    action::{Action, SubmitData, Transfer},
    authority::Authority,
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    primitive::{Address, Amount, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::HeaderTime,
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_machine::{
    AppVersion, Block, BlockContext, Outcome, finalize, process, query, tree::Pages,
};
use prost_types::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    bundles::Bundles,
    mempool::{Gossip, Limits, Mempool},
    service::{self, Consensus, Parts, StateSync},
    snapshot::{Settings, Snapshots},
    store::{Decided, StateSnapshot, Store, Tip},
    upgrade::Guard,
};

pub(crate) const CHAIN_ID: &str = "counterpoint-test";
pub(crate) const RICH: u128 = 1_000_000_000_000;
/// Heights from one snapshot to the next.
pub(crate) const SNAPSHOT_INTERVAL: u64 = 5;
const GENESIS_SECS: i64 = 1_800_000_000;

/// One node.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) mempool: Arc<Mempool>,
    pub(crate) bundles: Bundles,
    pub(crate) snapshots: Arc<Snapshots>,
    /// The heights that the other tasks of a node are told of.
    pub(crate) commits: watch::Receiver<Height>,
    pub(crate) retain: watch::Sender<Height>,
    pub(crate) consensus: Consensus,
    state_sync: StateSync,
    /// What snapshots are wanted of.
    states: Mutex<mpsc::Receiver<StateSnapshot>>,
}

/// A proposal, with what the header says of it.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) height: i64,
    pub(crate) hash: Hash,
    pub(crate) items: Vec<Bytes>,
    /// The seed of the key that proposes it.
    pub(crate) proposer: u8,
    /// Seeds of keys that it has evidence against.
    pub(crate) accused: Vec<u8>,
}

impl Proposal {
    fn misbehavior(&self) -> Vec<Misbehavior> {
        misbehavior(&self.accused)
    }
}

fn misbehavior(accused: &[u8]) -> Vec<Misbehavior> {
    let case = |seed: &u8| Misbehavior {
        validator: Some(Validator {
            address: Bytes::copy_from_slice(address(*seed).as_bytes()),
            power: 10,
        }),
        ..Misbehavior::default()
    };
    accused.iter().map(case).collect()
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn address(seed: u8) -> Address {
    key(seed).public_key().address()
}

pub(crate) fn rollup() -> RollupId {
    RollupId::from_name("alpha")
}

/// A chain with one rollup, on which accounts 1 to 5 are rich.
pub(crate) fn genesis() -> SequencerGenesis {
    let account = |seed| GenesisAccount {
        address: address(seed),
        balance: Amount::new(RICH),
    };
    let rollup = RollupConfig {
        genesis_time: u64::try_from(GENESIS_SECS).unwrap() - 100,
        owner: address(1),
        max_items_per_block: 1_000,
        ..RollupConfig::example("alpha")
    };
    SequencerGenesis {
        accounts: (1..=5).map(account).collect(),
        rollups: vec![rollup],
        authority: Some(Authority::new(1, vec![address(1)]).unwrap()),
        ..SequencerGenesis::default()
    }
}

/// The validators of the chain, as CometBFT names them: seeds from 101 on.
fn validators() -> Vec<ValidatorUpdate> {
    let validator = |seed| ValidatorUpdate {
        pub_key: Some(ProtoPublicKey {
            sum: Some(public_key::Sum::Ed25519(Bytes::copy_from_slice(
                key(seed).public_key().as_bytes(),
            ))),
        }),
        power: 10,
    };
    (101..=104).map(validator).collect()
}

fn consensus_params() -> ConsensusParams {
    ConsensusParams {
        block: Some(BlockParams {
            max_bytes: 4 << 20,
            max_gas: -1,
        }),
        evidence: Some(EvidenceParams {
            max_bytes: 1 << 20,
            ..EvidenceParams::default()
        }),
        ..ConsensusParams::default()
    }
}

pub(crate) fn sign(seed: u8, nonce: u64, tip: u64, action: Action) -> Bytes {
    let body = TransactionBody {
        chain_id: CHAIN_ID.into(),
        signer: key(seed).public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: tip,
        max_fee: Amount::new(RICH),
        valid_until: Height::new(500),
        actions: vec![action],
    };
    let tx = SignedTransaction::sign(body, &key(seed)).unwrap();
    tx.as_bytes().clone()
}

pub(crate) fn transfer(seed: u8, nonce: u64, tip: u64) -> Bytes {
    let to = address(seed + 1);
    let amount = Amount::new(1_000);
    sign(seed, nonce, tip, Action::Transfer(Transfer { to, amount }))
}

pub(crate) fn data(seed: u8, nonce: u64, item: &'static [u8]) -> Bytes {
    let items = vec![Bytes::from_static(item)];
    let data = SubmitData::new(rollup(), items).unwrap();
    sign(seed, nonce, 1, Action::SubmitData(data))
}

/// A transaction with `count` items of one byte.
pub(crate) fn batch(seed: u8, nonce: u64, tip: u64, count: usize) -> Bytes {
    let items = vec![Bytes::from_static(b"x"); count];
    let data = SubmitData::new(rollup(), items).unwrap();
    sign(seed, nonce, tip, Action::SubmitData(data))
}

fn time(height: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: GENESIS_SECS + (height - 1) / 3,
        nanos: 0,
    })
}

fn at(seconds: u64) -> HeaderTime {
    HeaderTime { seconds, nanos: 0 }
}

/// Blocks for tests that only care about what is stored.
pub(crate) struct Template {
    outcome: Outcome,
    items: Vec<Hash>,
    tip: Tip,
}

impl Template {
    /// Takes a fresh node to the first height at which its rollup has a leaf.
    pub(crate) async fn of(node: &Node) -> Self {
        node.advance().await;
        node.advance().await;
        let (outcome, items) = node.execute(&node.prepare(0).await);
        let tip = node.store.tip().unwrap();
        Self {
            outcome,
            items,
            tip,
        }
    }

    /// A block without transactions.
    pub(crate) fn block(&self, height: u64, seconds: u64) -> Decided {
        Decided {
            tip: Tip {
                height: Height::new(height),
                ..self.tip
            },
            time: at(seconds),
            items: self.items.clone(),
            outcome: self.outcome.clone(),
            pages: Pages::new(),
        }
    }
}

impl Node {
    /// Opens what `path` holds, as a process does when it starts.
    pub(crate) fn open(path: &Path) -> Self {
        Self::open_with(path, Gossip::Relayed, AppVersion::NEWEST)
    }

    /// The same, beside CometBFT's own mempool.
    pub(crate) fn open_flood(path: &Path) -> Self {
        Self::open_with(path, Gossip::Flood, AppVersion::NEWEST)
    }

    /// The same, by a proposer that waits so long for attesters.
    pub(crate) fn open_patient(path: &Path, grace: Duration) -> Self {
        Self::open_waiting(path, Gossip::Relayed, AppVersion::NEWEST, grace)
    }

    /// The same, by software that knows the rules of tests.
    pub(crate) fn open_later(path: &Path) -> Self {
        Self::open_with(path, Gossip::Relayed, AppVersion::Test)
    }

    fn open_with(path: &Path, gossip: Gossip, newest: AppVersion) -> Self {
        Self::open_waiting(path, gossip, newest, Duration::ZERO)
    }

    fn open_waiting(
        path: &Path,
        gossip: Gossip,
        newest: AppVersion,
        attestation_grace: Duration,
    ) -> Self {
        let store = Store::open(path).unwrap();
        let mempool = Mempool::new(store.clone(), Limits::default(), gossip);
        let mempool = Arc::new(mempool);
        let settings = Settings {
            interval: SNAPSHOT_INTERVAL,
            kept: NonZeroUsize::new(2).unwrap(),
        };
        let (snapshots, states) = Snapshots::open(path.join("snapshots"), settings).unwrap();
        let (committed, commits) = watch::channel(Height::new(0));
        let (retain, retained) = watch::channel(Height::new(0));
        let (guard, _) = Guard::new(newest);
        let state_sync = StateSync::new(
            store.clone(),
            Arc::clone(&mempool),
            Arc::clone(&snapshots),
            committed.clone(),
            guard.clone(),
        );
        let bundles = Bundles::new();
        let consensus = Consensus::new(Parts {
            store: store.clone(),
            mempool: Arc::clone(&mempool),
            snapshots: Arc::clone(&snapshots),
            committed,
            retain: retained,
            guard,
            attestation_grace,
        });
        Self {
            store,
            mempool,
            bundles,
            snapshots,
            commits,
            retain,
            consensus,
            state_sync,
            states: Mutex::new(states),
        }
    }

    /// A node in an empty directory, its chain initialised.
    pub(crate) async fn start(path: &Path) -> Self {
        Self::start_with(path, Gossip::Relayed).await
    }

    pub(crate) async fn start_with(path: &Path, gossip: Gossip) -> Self {
        let node = Self::open_with(path, gossip, AppVersion::NEWEST);
        node.init_example().await;
        node
    }

    /// Initialises the chain of [`genesis`].
    pub(crate) async fn init_example(&self) {
        let app_state = serde_json::to_vec(&genesis()).unwrap();
        self.init(app_state).await.unwrap();
    }

    pub(crate) async fn init(&self, app_state: Vec<u8>) -> Result<ResponseInitChain, BoxError> {
        let request = RequestInitChain {
            time: time(1),
            chain_id: CHAIN_ID.into(),
            initial_height: 1,
            app_state_bytes: app_state.into(),
            validators: validators(),
            consensus_params: Some(consensus_params()),
        };
        let request = ConsensusRequest::InitChain(request);
        match self.consensus.call(request).await? {
            ConsensusResponse::InitChain(response) => Ok(response),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) async fn info(&self) -> ResponseInfo {
        let request = InfoRequest::Info(RequestInfo::default());
        match service::info(&self.store, &self.consensus, request)
            .await
            .unwrap()
        {
            InfoResponse::Info(response) => response,
            InfoResponse::Query(other) => panic!("unexpected {other:?}"),
        }
    }

    /// Proposes the next block as the proposer of `round`.
    pub(crate) async fn prepare(&self, round: u8) -> Proposal {
        self.prepare_accusing(round, &[], &[]).await
    }

    /// Proposes the next block from what CometBFT's own mempool lists.
    pub(crate) async fn prepare_from(&self, round: u8, listed: &[Bytes]) -> Proposal {
        self.prepare_accusing(round, listed, &[]).await
    }

    /// Proposes the next block, with evidence against keys.
    pub(crate) async fn prepare_accusing(
        &self,
        round: u8,
        listed: &[Bytes],
        accused: &[u8],
    ) -> Proposal {
        let proposer = 101 + round % 4;
        let height = self.info().await.last_block_height + 1;
        let request = RequestPrepareProposal {
            max_tx_bytes: 1 << 20,
            txs: listed.to_vec(),
            height,
            time: time(height),
            proposer_address: Bytes::copy_from_slice(address(proposer).as_bytes()),
            misbehavior: misbehavior(accused),
            ..RequestPrepareProposal::default()
        };
        let request = ConsensusRequest::PrepareProposal(request);
        let items = match self.consensus.call(request).await.unwrap() {
            ConsensusResponse::PrepareProposal(response) => response.txs,
            other => panic!("unexpected {other:?}"),
        };
        let mut parts: Vec<&[u8]> = items.iter().map(AsRef::as_ref).collect();
        let head = [&height.to_be_bytes()[..], &[round]].concat();
        parts.push(&head);
        let hash = Hash::digest(&parts);
        Proposal {
            height,
            hash,
            items,
            proposer,
            accused: accused.to_vec(),
        }
    }

    pub(crate) async fn process(&self, proposal: &Proposal) -> ProposalStatus {
        let request = RequestProcessProposal {
            txs: proposal.items.clone(),
            hash: Bytes::copy_from_slice(proposal.hash.as_bytes()),
            height: proposal.height,
            time: time(proposal.height),
            proposer_address: Bytes::copy_from_slice(address(proposal.proposer).as_bytes()),
            misbehavior: proposal.misbehavior(),
            ..RequestProcessProposal::default()
        };
        let request = ConsensusRequest::ProcessProposal(request);
        match self.consensus.call(request).await.unwrap() {
            ConsensusResponse::ProcessProposal(response) => response.status(),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) async fn finalize(
        &self,
        proposal: &Proposal,
    ) -> Result<ResponseFinalizeBlock, BoxError> {
        let request = RequestFinalizeBlock {
            txs: proposal.items.clone(),
            hash: Bytes::copy_from_slice(proposal.hash.as_bytes()),
            height: proposal.height,
            time: time(proposal.height),
            proposer_address: Bytes::copy_from_slice(address(proposal.proposer).as_bytes()),
            misbehavior: proposal.misbehavior(),
            ..RequestFinalizeBlock::default()
        };
        let request = ConsensusRequest::FinalizeBlock(request);
        match self.consensus.call(request).await? {
            ConsensusResponse::FinalizeBlock(response) => Ok(response),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Commits and waits until the block is written; gives the height from which CometBFT must keep blocks.
    pub(crate) async fn commit(&self) -> Result<i64, BoxError> {
        let request = ConsensusRequest::Commit(RequestCommit {});
        match self.consensus.call(request).await? {
            ConsensusResponse::Commit(response) => {
                self.consensus.settle()?;
                Ok(response.retain_height)
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Makes the snapshot that is wanted, if one is.
    pub(crate) fn make_snapshot(&self) {
        if let Ok(state) = self.states.lock().unwrap().try_recv() {
            let stop = CancellationToken::new();
            self.snapshots.make(&state, &stop).unwrap();
        }
    }

    /// Asks the snapshot connection.
    pub(crate) async fn sync(&self, request: SnapshotRequest) -> SnapshotResponse {
        self.state_sync.call(request).await.unwrap()
    }

    /// Takes one block down the whole way; gives it and the app hash.
    pub(crate) async fn advance(&self) -> (Proposal, Bytes) {
        let proposal = self.prepare(0).await;
        assert_eq!(self.process(&proposal).await, ProposalStatus::Accept);
        let app_hash = self.replay(&proposal).await;
        (proposal, app_hash)
    }

    /// Takes a decided block in as CometBFT replays it.
    pub(crate) async fn replay(&self, proposal: &Proposal) -> Bytes {
        let response = self.finalize(proposal).await.unwrap();
        assert_eq!(response.tx_results.len(), proposal.items.len());
        self.commit().await.unwrap();
        response.app_hash
    }

    /// The next nonce of an account, what waits counted.
    pub(crate) fn next_nonce(&self, seed: u8) -> u64 {
        let account = query::account(&self.store.state(), address(seed)).unwrap();
        let next = account.map_or(Nonce::new(0), |account| account.nonce);
        self.mempool.next_nonce(&address(seed), next).get()
    }

    async fn pool(&self, request: MempoolRequest) -> MempoolResponse {
        service::mempool(&self.mempool, request).await.unwrap()
    }

    /// CheckTx; gives code and text.
    pub(crate) async fn check(&self, tx: &Bytes) -> (u32, String) {
        self.check_as(CheckTxType::New, tx).await
    }

    pub(crate) async fn recheck(&self, tx: &Bytes) -> u32 {
        self.check_as(CheckTxType::Recheck, tx).await.0
    }

    async fn check_as(&self, kind: CheckTxType, tx: &Bytes) -> (u32, String) {
        let request = RequestCheckTx {
            tx: tx.clone(),
            r#type: kind.into(),
        };
        match self.pool(MempoolRequest::CheckTx(request)).await {
            MempoolResponse::CheckTx(response) => (response.code, response.log),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// What a block does, worked out beside the node.
    pub(crate) fn execute(&self, proposal: &Proposal) -> (Outcome, Vec<Hash>) {
        let seconds = time(proposal.height).unwrap().seconds;
        let ctx = BlockContext {
            height: Height::new(u64::try_from(proposal.height).unwrap()),
            time: at(u64::try_from(seconds).unwrap()),
            proposer: address(proposal.proposer),
            misbehaved: proposal.accused.iter().map(|seed| address(*seed)).collect(),
        };
        let block = Block::decode(&proposal.items, |_| None).unwrap();
        let execution = process(&self.store.state(), &ctx, &block).unwrap();
        let outcome = finalize(execution, proposal.hash).unwrap();
        (outcome, block.item_hashes())
    }

    /// InsertTx, and a look at what was inserted; gives the code.
    pub(crate) async fn insert(&self, item: &Bytes) -> u32 {
        let request = RequestInsertTx { tx: item.clone() };
        let response = self.pool(MempoolRequest::InsertTx(request)).await;
        self.mempool.take_in_all().unwrap();
        match response {
            MempoolResponse::InsertTx(response) => response.code,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) async fn reap(&self) -> Vec<Bytes> {
        let request = MempoolRequest::ReapTxs(RequestReapTxs::default());
        match self.pool(request).await {
            MempoolResponse::ReapTxs(response) => response.txs,
            other => panic!("unexpected {other:?}"),
        }
    }
}
