//! The consensus connection: strictly one request after another, off the runtime's workers.
//!
//! Prepare and Process may run several times at a height, once per round. What they executed is
//! kept under the block's hash, and FinalizeBlock takes it from there. Nothing of a block reaches
//! the disk before Commit.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use counterpoint_abci::{
    BoxError, ConsensusRequest, ConsensusResponse,
    proto::abci::{
        ExecTxResult, RequestFinalizeBlock, RequestInitChain, RequestPrepareProposal,
        RequestProcessProposal, ResponseCommit, ResponseExtendVote, ResponseFinalizeBlock,
        ResponseInitChain, ResponsePrepareProposal, ResponseProcessProposal,
        ResponseVerifyVoteExtension, response_process_proposal::ProposalStatus,
        response_verify_vote_extension::VerifyStatus,
    },
};
use counterpoint_core::{
    genesis::SequencerGenesis,
    primitive::{Address, Hash, Height},
    slot::HeaderTime,
    transaction::SignedTransaction,
};
use counterpoint_machine::{
    Block, BlockContext, Execution, ProcessError, Room, finalize, init_chain, prepare, process,
    tree,
};
use counterpoint_service::to_f64;
use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Answer, in_place};
use crate::{
    mempool::Mempool,
    metric,
    snapshot::Snapshots,
    store::{Decided, Store, Tip},
};

/// Most proposals of one height whose execution is kept; rounds rarely pass two.
const MAX_EXECUTIONS: usize = 8;

/// Most verified transactions that are kept for further rounds of a height.
const MAX_VERIFIED: usize = 100_000;

/// Answers the consensus connection.
#[derive(Clone, Debug)]
pub(crate) struct Consensus(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    store: Store,
    mempool: Arc<Mempool>,
    snapshots: Arc<Snapshots>,
    committed: watch::Sender<Height>,
    /// The lowest height that CometBFT must keep; 0 for all.
    retain: watch::Receiver<Height>,
    /// What proposals of this height do, by block hash.
    executions: HashMap<Hash, Executed>,
    /// Transactions of these proposals, whose signatures need no second look.
    verified: HashMap<Hash, SignedTransaction>,
    decided: Option<(Decided, Vec<Address>)>,
}

#[derive(Debug)]
struct Executed {
    execution: Execution,
    /// Hashes of the block's items.
    items: Vec<Hash>,
    signers: Vec<Address>,
}

impl Consensus {
    /// A service over `store` that tells `committed` of every height, and CometBFT what `retain`
    /// says.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        mempool: Arc<Mempool>,
        snapshots: Arc<Snapshots>,
        committed: watch::Sender<Height>,
        retain: watch::Receiver<Height>,
    ) -> Self {
        let (executions, verified, decided) = Default::default();
        Self(Arc::new(Mutex::new(State {
            store,
            mempool,
            snapshots,
            committed,
            retain,
            executions,
            verified,
            decided,
        })))
    }

    /// Answers one request.
    #[must_use]
    pub(crate) fn call(&self, request: ConsensusRequest) -> Answer<ConsensusResponse> {
        let state = Arc::clone(&self.0);
        in_place(move || {
            // A panic before this ended the server, so nobody sees half a change.
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(request)
        })
    }
}

impl State {
    fn answer(&mut self, request: ConsensusRequest) -> Result<ConsensusResponse, BoxError> {
        Ok(match request {
            ConsensusRequest::InitChain(request) => self.init_chain(&request)?.into(),
            ConsensusRequest::PrepareProposal(request) => self.prepare(&request)?.into(),
            ConsensusRequest::ProcessProposal(request) => self.process(&request)?.into(),
            ConsensusRequest::ExtendVote(_) => ResponseExtendVote::default().into(),
            ConsensusRequest::VerifyVoteExtension(request) => {
                let empty = request.vote_extension.is_empty();
                let status = if empty {
                    VerifyStatus::Accept
                } else {
                    VerifyStatus::Reject
                };
                ResponseVerifyVoteExtension {
                    status: status.into(),
                }
                .into()
            }
            ConsensusRequest::FinalizeBlock(request) => self.finalize(&request)?.into(),
            ConsensusRequest::Commit(_) => self.commit()?.into(),
        })
    }

    fn init_chain(&self, request: &RequestInitChain) -> Result<ResponseInitChain, BoxError> {
        let tip = self.store.tip()?;
        if tip.height.get() > 0 {
            let height = tip.height;
            let what = "is to start, but data_dir holds another one at height";
            let chain_id = &request.chain_id;
            return Err(format!("chain {chain_id} {what} {height}: use an empty data_dir").into());
        }
        let initial = Height::new(u64::try_from(request.initial_height)?.max(1));
        let genesis = SequencerGenesis::parse(&request.app_state_bytes)
            .map_err(|error| format!("genesis: {:#}", eyre::Report::new(error)))?;
        let time = header_time(request.time.as_ref())?;
        let changes = init_chain(&genesis, &request.chain_id, initial, time)
            .map_err(|error| format!("genesis: {:#}", eyre::Report::new(error)))?;
        let tip = Tip {
            height: Height::new(0),
            app_hash: Hash::ZERO,
            initial,
        };
        let (app_hash, tree) = tree::update(&self.store, 0, &changes)?;
        self.store.init(Tip { app_hash, ..tip }, &changes, &tree)?;
        info!(
            chain_id = request.chain_id,
            rollups = genesis.rollups.len(),
            "chain initialised"
        );
        let app_hash = Bytes::copy_from_slice(app_hash.as_bytes());
        Ok(ResponseInitChain {
            app_hash,
            validators: request.validators.clone(),
            ..ResponseInitChain::default()
        })
    }

    fn prepare(
        &self,
        request: &RequestPrepareProposal,
    ) -> Result<ResponsePrepareProposal, BoxError> {
        let start = Instant::now();
        let ctx = context(
            request.height,
            request.time.as_ref(),
            &request.proposer_address,
        )?;
        let max_bytes = u64::try_from(request.max_tx_bytes)?;
        let state = self.store.state();
        let salt = state.tip()?.app_hash.as_bytes()[..8].try_into()?;
        let room = Room::new(&state, max_bytes)?;
        let candidates = self.mempool.select(room, u64::from_be_bytes(salt));
        let txs = prepare(&state, &ctx, candidates, max_bytes)?;
        histogram!(metric::PREPARE_SECONDS).record(start.elapsed());
        Ok(ResponsePrepareProposal { txs })
    }

    fn process(
        &mut self,
        request: &RequestProcessProposal,
    ) -> Result<ResponseProcessProposal, BoxError> {
        let ctx = context(
            request.height,
            request.time.as_ref(),
            &request.proposer_address,
        )?;
        let block_hash = hash(&request.hash)?;
        let verdict = if self.executions.contains_key(&block_hash) {
            Ok(())
        } else {
            self.execute(&ctx, &request.txs)
                .map(|executed| self.remember(block_hash, executed))
        };
        let status = match verdict {
            Ok(()) => ProposalStatus::Accept,
            Err(ProcessError::Refused(refusal)) => {
                let error = format!("{:#}", eyre::Report::new(refusal));
                warn!(height = %ctx.height, proposer = %ctx.proposer, error, "proposal rejected");
                counter!(metric::REJECTED_PROPOSALS).increment(1);
                ProposalStatus::Reject
            }
            Err(ProcessError::Store(fault)) => return Err(fault.into()),
        };
        Ok(ResponseProcessProposal {
            status: status.into(),
        })
    }

    fn remember(&mut self, block_hash: Hash, executed: Executed) {
        if self.executions.len() >= MAX_EXECUTIONS {
            self.executions.clear();
        }
        self.executions.insert(block_hash, executed);
    }

    fn execute(&mut self, ctx: &BlockContext, items: &[Bytes]) -> Result<Executed, ProcessError> {
        let start = Instant::now();
        let known = |hash: &Hash| {
            let verified = self.verified.get(hash).cloned();
            verified.or_else(|| self.mempool.get(hash))
        };
        let block = Block::decode(items, known)?;
        if self.verified.len() >= MAX_VERIFIED {
            self.verified.clear();
        }
        let transactions = block.transactions();
        self.verified
            .extend(transactions.iter().map(|tx| (tx.hash(), tx.clone())));
        let execution = process(&self.store.state(), ctx, &block)?;
        let signers: BTreeSet<Address> =
            transactions.iter().map(SignedTransaction::signer).collect();
        histogram!(metric::EXECUTE_SECONDS).record(start.elapsed());
        Ok(Executed {
            execution,
            items: block.item_hashes(),
            signers: signers.into_iter().collect(),
        })
    }

    fn finalize(
        &mut self,
        request: &RequestFinalizeBlock,
    ) -> Result<ResponseFinalizeBlock, BoxError> {
        let ctx = context(
            request.height,
            request.time.as_ref(),
            &request.proposer_address,
        )?;
        let block_hash = hash(&request.hash)?;
        let tip = self.store.tip()?;
        let expected = tip.initial.get().max(tip.height.get() + 1);
        if ctx.height.get() != expected {
            return Err(format!("block {} decided, but {expected} is next", ctx.height).into());
        }
        let Executed {
            execution,
            items,
            signers,
        } = match self.executions.remove(&block_hash) {
            Some(known) => known,
            // Replayed, or decided by others while this node was away.
            None => self.execute(&ctx, &request.txs).map_err(|error| {
                format!(
                    "decided block {}: {:#}",
                    ctx.height,
                    eyre::Report::new(error)
                )
            })?,
        };
        self.executions.clear();
        self.verified.clear();
        let outcome = finalize(execution, block_hash)?;
        let version = ctx.height.get() + 1 - tip.initial.get();
        let (app_hash, tree) = tree::update(&self.store, version, &outcome.changes)?;
        let result = |(code, log): &(u32, String)| ExecTxResult {
            code: *code,
            log: log.clone(),
            ..ExecTxResult::default()
        };
        let response = ResponseFinalizeBlock {
            tx_results: outcome.codes.iter().map(result).collect(),
            app_hash: Bytes::copy_from_slice(app_hash.as_bytes()),
            ..ResponseFinalizeBlock::default()
        };
        let bytes = request.txs.iter().map(Bytes::len).sum::<usize>();
        counter!(metric::SEQUENCED_BYTES).increment(u64::try_from(bytes)?);
        let tip = Tip {
            height: ctx.height,
            app_hash,
            ..tip
        };
        self.decided = Some((
            Decided {
                tip,
                time: ctx.time,
                items,
                outcome,
                tree,
            },
            signers,
        ));
        Ok(response)
    }

    fn commit(&mut self) -> Result<ResponseCommit, BoxError> {
        let (decided, signers) = self.decided.take().ok_or("Commit without FinalizeBlock")?;
        let start = Instant::now();
        let (tip, transactions) = (decided.tip, decided.items.len().saturating_sub(1));
        self.store.commit(decided)?;
        let height = tip.height;
        // Nothing is committed before this answers, so the state is the one of `height`.
        self.snapshots.committed(height, &self.store);
        histogram!(metric::COMMIT_SECONDS).record(start.elapsed());
        gauge!(metric::HEIGHT).set(to_f64(height.get()));
        counter!(metric::SEQUENCED).increment(u64::try_from(transactions)?);
        info!(%height, transactions, app_hash = %tip.app_hash, "committed");
        self.mempool.advance(height, &signers)?;
        self.committed.send_replace(height);
        let retain_height = i64::try_from(self.retain.borrow().get())?;
        Ok(ResponseCommit { retain_height })
    }
}

fn context(
    height: i64,
    time: Option<&prost_types::Timestamp>,
    proposer: &[u8],
) -> Result<BlockContext, BoxError> {
    let proposer =
        <[u8; 20]>::try_from(proposer).map_err(|_| "proposer address has not 20 bytes")?;
    Ok(BlockContext {
        height: Height::new(u64::try_from(height)?),
        time: header_time(time)?,
        proposer: Address::new(proposer),
    })
}

fn header_time(time: Option<&prost_types::Timestamp>) -> Result<HeaderTime, BoxError> {
    let time = time.ok_or("request carries no time")?;
    let (seconds, nanos) = (u64::try_from(time.seconds)?, u32::try_from(time.nanos)?);
    Ok(HeaderTime { seconds, nanos })
}

fn hash(bytes: &[u8]) -> Result<Hash, BoxError> {
    Ok(Hash::new(
        bytes
            .try_into()
            .map_err(|_| "block hash has not 32 bytes")?,
    ))
}
