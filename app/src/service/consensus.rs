//! The consensus connection: strictly one request after another.
//!
//! Prepare and Process may run several times at a height, once per round. What they executed is
//! kept under the block's hash, and FinalizeBlock takes it from there. Nothing of a block reaches
//! the disk before Commit, which answers at once: the block is written while CometBFT gets on with
//! its own part, and whatever is asked next waits for it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterpoint_abci::{
    BoxError, ConsensusRequest, ConsensusResponse,
    proto::abci::{
        ExecTxResult, RequestFinalizeBlock, RequestInitChain, RequestPrepareProposal,
        RequestProcessProposal, RequestVerifyVoteExtension, ResponseCommit, ResponseExtendVote,
        ResponseFinalizeBlock, ResponseInitChain, ResponsePrepareProposal, ResponseProcessProposal,
        ResponseVerifyVoteExtension, response_process_proposal::ProposalStatus,
        response_verify_vote_extension::VerifyStatus,
    },
};
use counterpoint_core::{
    genesis::SequencerGenesis,
    primitive::{Address, Hash, Height},
    transaction::{RawTransaction, SignedTransaction},
    vote_extension,
};
use counterpoint_machine::{
    Block, BlockContext, Execution, ParamsUpdate, ProcessError, Room, finalize, init_chain,
    prepare, process,
    tree::{self, Pages},
};
use counterpoint_service::to_f64;
use metrics::{counter, gauge, histogram};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    Answer,
    convert::{chain_start, context, hash, params_update, power_update},
};
use crate::{
    mempool::{Mempool, verify},
    metric,
    snapshot::Snapshots,
    store::{Decided, Store, Tip},
    upgrade::Guard,
};

/// Most proposals of one height whose execution is kept; rounds rarely pass two.
const MAX_EXECUTIONS: usize = 8;

/// Most verified transactions that are kept for further rounds of a height.
const MAX_VERIFIED: usize = 100_000;

/// Answers the consensus connection.
#[derive(Clone, Debug)]
pub(crate) struct Consensus(Arc<Mutex<State>>);

/// What the consensus connection works on and tells.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) mempool: Arc<Mempool>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// Is told of every committed height.
    pub(crate) committed: watch::Sender<Height>,
    /// The lowest height that CometBFT must keep; 0 for all.
    pub(crate) retain: watch::Receiver<Height>,
    /// Says when the next block needs newer rules.
    pub(crate) guard: Guard,
    /// How long a proposer waits for attesters.
    pub(crate) attestation_grace: Duration,
}

#[derive(Debug)]
struct State {
    parts: Arc<Parts>,
    /// What proposals of this height do, by block hash.
    executions: HashMap<Hash, Executed>,
    /// Transactions of these proposals, by signature, which need no second look.
    verified: HashMap<[u8; 64], SignedTransaction>,
    decided: Option<(Decided, Vec<Address>)>,
    /// The last decided block on its way to the disk.
    writing: Option<JoinHandle<Result<(), BoxError>>>,
}

#[derive(Debug)]
struct Executed {
    execution: Execution,
    /// Hashes of the block's items.
    items: Vec<Hash>,
    signers: Vec<Address>,
}

impl Consensus {
    /// A service over `parts`.
    #[must_use]
    pub(crate) fn new(parts: Parts) -> Self {
        let (executions, verified, decided, writing) = Default::default();
        Self(Arc::new(Mutex::new(State {
            parts: Arc::new(parts),
            executions,
            verified,
            decided,
            writing,
        })))
    }

    /// Answers one request.
    #[must_use]
    pub(crate) fn call(&self, request: ConsensusRequest) -> Answer<ConsensusResponse> {
        let this = self.clone();
        Box::pin(async move {
            if matches!(request, ConsensusRequest::PrepareProposal(_)) {
                // The last block is written, and nothing is locked while we wait.
                let parts = Arc::clone(&this.settled()?.parts);
                let grace = parts.attestation_grace;
                parts.mempool.wait_for_votes(grace).await?;
            }
            this.settled()?.answer(request)
        })
    }

    /// Returns once every block that Commit has answered is written.
    ///
    /// # Errors
    /// It could not be written: the node is of no use any more.
    pub(crate) fn settle(&self) -> Result<(), BoxError> {
        self.settled().map(drop)
    }

    fn settled(&self) -> Result<MutexGuard<'_, State>, BoxError> {
        // A panic before this ended the server, so nobody sees half a change.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writing) = state.writing.take() {
            writing.join().map_err(|_| "a block's writer panicked")??;
        }
        Ok(state)
    }
}

impl State {
    fn answer(&mut self, request: ConsensusRequest) -> Result<ConsensusResponse, BoxError> {
        self.parts.guard.check()?;
        Ok(match request {
            ConsensusRequest::InitChain(request) => self.init_chain(&request)?.into(),
            ConsensusRequest::PrepareProposal(request) => self.prepare(&request)?.into(),
            ConsensusRequest::ProcessProposal(request) => self.process(&request)?.into(),
            ConsensusRequest::ExtendVote(_) => ResponseExtendVote {
                vote_extension: Bytes::from_static(&vote_extension::EMPTY),
            }
            .into(),
            ConsensusRequest::VerifyVoteExtension(request) => verify_extension(&request).into(),
            ConsensusRequest::FinalizeBlock(request) => self.finalize(&request)?.into(),
            ConsensusRequest::Commit(_) => self.commit()?.into(),
        })
    }

    fn init_chain(&self, request: &RequestInitChain) -> Result<ResponseInitChain, BoxError> {
        let tip = self.parts.store.tip()?;
        if tip.height.get() > 0 {
            let height = tip.height;
            let what = "is to start, but data_dir holds another one at height";
            let chain_id = &request.chain_id;
            return Err(format!("chain {chain_id} {what} {height}: use an empty data_dir").into());
        }
        let invalid = |error: eyre::Report| format!("genesis: {error:#}");
        let genesis = SequencerGenesis::parse(&request.app_state_bytes)
            .map_err(|error| invalid(error.into()))?;
        let start = chain_start(request)?;
        let changes = init_chain(&genesis, &start).map_err(|error| invalid(error.into()))?;
        let tip = Tip {
            height: Height::new(0),
            app_hash: Hash::ZERO,
            initial: start.initial_height,
        };
        let (app_hash, pages) = tree::update(&Pages::new(), &changes)?;
        self.parts
            .store
            .init(Tip { app_hash, ..tip }, &changes, &pages)?;
        info!(
            chain_id = request.chain_id,
            rollups = genesis.rollups.len(),
            "chain initialised"
        );
        let version = ParamsUpdate {
            app_version: Some(start.version.number()),
            ..ParamsUpdate::default()
        };
        Ok(ResponseInitChain {
            app_hash: Bytes::copy_from_slice(app_hash.as_bytes()),
            consensus_params: params_update(&version)?,
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
            &request.misbehavior,
        )?;
        let max_bytes = u64::try_from(request.max_tx_bytes)?;
        let state = self.parts.store.state();
        let salt = state.tip()?.app_hash.as_bytes()[..8].try_into()?;
        let room = Room::new(&state, max_bytes)?;
        let salt = u64::from_be_bytes(salt);
        let candidates = self.parts.mempool.select(room, salt, &request.txs);
        let messages = self.parts.mempool.attester_messages();
        let txs = prepare(&state, &ctx, &messages, candidates, max_bytes)?;
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
            &request.misbehavior,
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
        self.verify_strangers(items);
        let block = Block::decode(items, |item| self.known(item))?;
        let transactions = block.transactions();
        self.note_verified(transactions.to_vec());
        let execution = process(&self.parts.store.state(), ctx, &block)?;
        let signers: BTreeSet<Address> =
            transactions.iter().map(SignedTransaction::signer).collect();
        histogram!(metric::EXECUTE_SECONDS).record(start.elapsed());
        Ok(Executed {
            execution,
            items: block.item_hashes(),
            signers: signers.into_iter().collect(),
        })
    }

    /// The transaction that has exactly these bytes, if it was verified before.
    fn known(&self, item: &Bytes) -> Option<SignedTransaction> {
        let signature: &[u8; 64] = item.last_chunk()?;
        let earlier = self.verified.get(signature);
        let earlier = earlier.filter(|tx| tx.as_bytes() == item).cloned();
        earlier.or_else(|| self.parts.mempool.find(item))
    }

    /// Verifies what neither the mempool nor an earlier round has brought, in batches. A forged one
    /// is left to [`Block::decode`], which says where it stands.
    fn verify_strangers(&mut self, items: &[Bytes]) {
        let unknown = items
            .iter()
            .skip(1)
            .filter(|item| self.known(item).is_none());
        let decode = |item: &Bytes| RawTransaction::new(item.clone()).decode().ok();
        let unverified = unknown.filter_map(decode).collect();
        self.note_verified(verify(unverified).sound);
    }

    fn note_verified(&mut self, txs: Vec<SignedTransaction>) {
        if self.verified.len() >= MAX_VERIFIED {
            self.verified.clear();
        }
        self.verified
            .extend(txs.into_iter().map(|tx| (*tx.signature().as_bytes(), tx)));
    }

    fn finalize(
        &mut self,
        request: &RequestFinalizeBlock,
    ) -> Result<ResponseFinalizeBlock, BoxError> {
        let ctx = context(
            request.height,
            request.time.as_ref(),
            &request.proposer_address,
            &request.misbehavior,
        )?;
        let block_hash = hash(&request.hash)?;
        let tip = self.parts.store.tip()?;
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
        let (app_hash, pages) = tree::update(&self.parts.store, &outcome.changes)?;
        let result = |(code, log): &(u32, String)| ExecTxResult {
            code: *code,
            log: log.clone(),
            ..ExecTxResult::default()
        };
        let updates = outcome.validators.iter().map(power_update);
        let response = ResponseFinalizeBlock {
            tx_results: outcome.codes.iter().map(result).collect(),
            app_hash: Bytes::copy_from_slice(app_hash.as_bytes()),
            validator_updates: updates.collect::<Result<_, _>>()?,
            consensus_param_updates: params_update(&outcome.params)?,
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
                pages,
            },
            signers,
        ));
        Ok(response)
    }

    fn commit(&mut self) -> Result<ResponseCommit, BoxError> {
        let (decided, signers) = self.decided.take().ok_or("Commit without FinalizeBlock")?;
        let parts = Arc::clone(&self.parts);
        let writer = thread::Builder::new().name("commit".into());
        self.writing = Some(writer.spawn(move || parts.write(decided, &signers))?);
        let retain_height = i64::try_from(self.parts.retain.borrow().get())?;
        Ok(ResponseCommit { retain_height })
    }
}

impl Parts {
    /// Writes a block and tells everybody. A node that ends before is given the block once more.
    fn write(&self, decided: Decided, signers: &[Address]) -> Result<(), BoxError> {
        let start = Instant::now();
        let (tip, transactions) = (decided.tip, decided.items.len().saturating_sub(1));
        self.store.commit(decided)?;
        let height = tip.height;
        // Nothing else is committed meanwhile, so the state is the one of `height`.
        self.snapshots.committed(height, &self.store);
        histogram!(metric::COMMIT_SECONDS).record(start.elapsed());
        gauge!(metric::HEIGHT).set(to_f64(height.get()));
        counter!(metric::SEQUENCED).increment(u64::try_from(transactions)?);
        info!(%height, transactions, app_hash = %tip.app_hash, "committed");
        self.mempool.advance(height, signers)?;
        self.committed.send_replace(height);
        // This block is done, only the next one may not be ours to judge.
        self.guard.look(&self.store)?;
        Ok(())
    }
}

fn verify_extension(request: &RequestVerifyVoteExtension) -> ResponseVerifyVoteExtension {
    let status = match vote_extension::verify(&request.vote_extension) {
        Ok(()) => VerifyStatus::Accept,
        Err(error) => {
            let validator = hex::encode(&request.validator_address);
            warn!(height = request.height, validator, %error, "vote extension rejected");
            VerifyStatus::Reject
        }
    };
    ResponseVerifyVoteExtension {
        status: status.into(),
    }
}
