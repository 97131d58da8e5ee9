//! The read and write API: `counterpoint.sequencer.v1`.

mod bundles;
mod stream;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use bytes::Bytes;
use counterpoint_core::{
    primitive::{Address, Hash, Height, RollupId},
    state::{Approval, RollupRecord},
};
use counterpoint_machine::{fees::Prices, query};
use counterpoint_proto::sequencer::{
    GetAccountRequest, GetAccountResponse, GetBlockRequest, GetBlockResponse, GetChainRequest,
    GetChainResponse, GetFeesRequest, GetFeesResponse, GetHeaderRequest, GetHeaderResponse,
    GetInfoRequest, GetInfoResponse, GetRollupBlockRequest, GetRollupRequest, GetRollupResponse,
    GetStateProofRequest, GetStateProofResponse, GetTransactionRequest, GetTransactionResponse,
    ListRollupsRequest, ListRollupsResponse, RollupBlock, StreamRollupBlocksRequest,
    SubmitTransactionRequest, SubmitTransactionResponse, get_chain_response::Proposal,
    get_fees_response::Forecast, get_rollup_request, get_transaction_response, sequencer_server,
};
use counterpoint_service::connection::Peer;
use stream::{BlockStream, Reader};
use tendermint_rpc::{Client, HttpClient};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::error;

use crate::{
    bundles::Bundles,
    mempool::{Gossip, Mempool, Prospect, Verdict, code},
    store::{Slice, StateSnapshot, Store, Tip},
};

/// Most readers of streams at a time.
const MAX_STREAMS: usize = 256;
/// How far above the tip a reader may ask for blocks: further ones would hold a seat for nothing.
const MAX_AHEAD: u64 = 1_000;
/// Requests with real work that are worked on at the same time; consensus needs the rest.
const MAX_WORKING: usize = 4;
/// Requests with real work that wait for their turn.
const MAX_WAITING: usize = 1_024;
/// Transactions that are on their way to CometBFT's mempool at the same time.
const MAX_FORWARDED: usize = 64;
/// Longest key of the state that is looked for, in bytes: the longest there is, and some more.
const MAX_KEY_BYTES: usize = 96;
/// How many blocks ahead the base fee is foretold.
const FORECASTS: [u32; 6] = [1, 2, 5, 10, 20, 50];
/// How many rollups one answer lists unless told otherwise, and at the most.
const LIST_LIMIT: (u32, u32) = (100, 1_000);
/// How many hashes of items and how many leaves are told of a block in brief.
const SHOWN: (usize, usize) = (256, 64);

/// Serves reads from the store and takes transactions in.
#[derive(Clone, Debug)]
pub(crate) struct Sequencer {
    store: Store,
    mempool: Arc<Mempool>,
    bundles: Bundles,
    rpc: HttpClient,
    streamable: watch::Receiver<Height>,
    seats: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    working: Arc<Semaphore>,
    forwarding: Arc<Semaphore>,
    patience: Duration,
    shutdown: CancellationToken,
}

impl Sequencer {
    /// A service over `store`; heights up to `streamable` have signed headers. `rpc` leads to
    /// CometBFT's own mempool, if that is in use. Streams end with `shutdown`.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        mempool: Arc<Mempool>,
        bundles: Bundles,
        rpc: HttpClient,
        streamable: watch::Receiver<Height>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            store,
            mempool,
            bundles,
            rpc,
            streamable,
            seats: Arc::new(Semaphore::new(MAX_STREAMS)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            working: Arc::new(Semaphore::new(MAX_WORKING)),
            forwarding: Arc::new(Semaphore::new(MAX_FORWARDED)),
            patience: stream::PATIENCE,
            shutdown,
        }
    }

    /// Does work that reads the disk or verifies, off the runtime's workers and in bounded numbers.
    async fn off_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let busy = |_| Status::resource_exhausted("the node is busy; try again, or ask another");
        let place = Arc::clone(&self.waiting)
            .try_acquire_owned()
            .map_err(busy)?;
        let turn = Arc::clone(&self.working)
            .acquire_owned()
            .await
            .map_err(internal)?;
        // Work goes on when its caller hangs up, and so it keeps its places.
        let done = tokio::task::spawn_blocking(move || {
            let _places = (place, turn);
            work()
        });
        done.await.map_err(internal)
    }

    /// Takes a transaction into our own mempool.
    async fn submit(&self, transaction: Bytes) -> Result<(Hash, Verdict), Status> {
        let mempool = Arc::clone(&self.mempool);
        let submitted = self.off_worker(move || mempool.submit(&transaction));
        submitted.await?.map_err(internal)
    }

    /// Hands a transaction to CometBFT's mempool, once it is worth its time.
    async fn forward(&self, transaction: Bytes) -> Result<(Hash, Verdict), Status> {
        let (mempool, bytes) = (Arc::clone(&self.mempool), transaction.clone());
        let examined = self.off_worker(move || mempool.examine(&bytes));
        let (tx_hash, prospect) = examined.await?.map_err(internal)?;
        let verdict = match prospect {
            Prospect::Included => Verdict::default(),
            Prospect::Refused(verdict) => verdict,
            Prospect::Sound => self.broadcast(&tx_hash, transaction).await?,
        };
        Ok((tx_hash, verdict))
    }

    async fn broadcast(&self, tx_hash: &Hash, transaction: Bytes) -> Result<Verdict, Status> {
        let _place = self.forwarding.acquire().await.map_err(internal)?;
        let error = match self.rpc.broadcast_tx_sync(transaction).await {
            Ok(answer) => {
                return Ok(Verdict {
                    code: answer.code.value(),
                    log: answer.log,
                });
            }
            Err(error) => error.to_string(),
        };
        // CometBFT has no codes for these.
        if error.contains("already exists in cache") && self.is_known(tx_hash)? {
            Ok(Verdict::default())
        } else if error.contains("mempool is full") {
            let (code, log) = (code::FULL, error);
            Ok(Verdict { code, log })
        } else {
            let reason = format!("cometbft does not take it now: {error}");
            Err(Status::unavailable(reason))
        }
    }

    /// Whether the mempool or, by now, a block holds a transaction.
    fn is_known(&self, tx_hash: &Hash) -> Result<bool, Status> {
        let pending = self.mempool.is_pending(tx_hash);
        Ok(pending || self.store.place(tx_hash).map_err(internal)?.is_some())
    }

    /// The state of one committed height.
    fn state(&self) -> Result<(StateSnapshot, Tip), Status> {
        let state = self.store.state();
        let tip = state.tip().map_err(internal)?;
        if tip.initial.get() == 0 {
            return Err(Status::unavailable("the chain is not initialised yet"));
        }
        Ok((state, tip))
    }

    /// A place for a reader of a stream, and what ends it.
    fn seat(&self, peer: Option<Peer>) -> Result<Reader, Status> {
        let peer = peer.ok_or_else(|| internal("request without a connection"))?;
        let crowded = |_| Status::resource_exhausted("too many readers; ask another node");
        let of_address = peer.readers.try_acquire_owned().map_err(crowded)?;
        let of_all = Arc::clone(&self.seats).try_acquire_owned();
        Ok(Reader {
            patience: self.patience,
            cut: peer.cut,
            places: [of_address, of_all.map_err(crowded)?],
            shutdown: self.shutdown.clone(),
        })
    }

    /// Refuses heights that no stream begins at.
    fn check_within_reach(&self, height: Height, tip: Height) -> Result<(), Status> {
        self.check_served(height)?;
        if height.get() > tip.get().saturating_add(MAX_AHEAD) {
            let reason = format!("height {height} is too far ahead, the tip is {tip}");
            return Err(Status::out_of_range(reason));
        }
        Ok(())
    }

    /// Refuses heights below the lowest one that is here.
    fn check_served(&self, height: Height) -> Result<(), Status> {
        let lowest = self.store.lowest().map_err(internal)?;
        if height >= lowest {
            return Ok(());
        }
        Err(Status::out_of_range(format!(
            "the lowest height that this node serves is {lowest}, not {height}: ask an archive node"
        )))
    }

    fn prove(&self, key: &[u8]) -> Result<GetStateProofResponse, Status> {
        let soon = || Status::unavailable("no state here is committed to by a signed header yet");
        let (state, next) = self.store.provable().map_err(internal)?.ok_or_else(soon)?;
        let proof = state.prove(key).map_err(internal)?;
        let header = self.store.header(next).map_err(internal)?;
        let validators = self.store.validators(next).map_err(internal)?;
        Ok(GetStateProofResponse {
            height: next.get() - 1,
            borsh_proof: encode(&proof)?,
            signed_header: header.ok_or_else(soon)?,
            validators: validators.ok_or_else(soon)?.0,
        })
    }

    /// What a block holds, in bounded length.
    fn brief(&self, height: Height) -> Result<GetBlockResponse, Status> {
        let contents = self.store.contents(height).map_err(internal)?;
        let header = self.store.header(height).map_err(internal)?;
        let validators = self.store.validators(height).map_err(internal)?;
        let (Some((items, mut leaves)), Some(signed_header), Some((validators, _))) =
            (contents, header, validators)
        else {
            let reason = format!("no signed header of height {height} yet");
            return Err(Status::not_found(reason));
        };
        let count = |count: usize| u32::try_from(count).map_err(internal);
        let rollups = count(leaves.len())?;
        leaves.sort_by_key(|leaf| Reverse(leaf.list_len));
        let hash = |hash: &Hash| Bytes::copy_from_slice(hash.as_bytes());
        Ok(GetBlockResponse {
            signed_header,
            validators,
            items: count(items.len().saturating_sub(1))?,
            item_hashes: items.iter().skip(1).take(SHOWN.0).map(hash).collect(),
            rollups,
            borsh_leaves: leaves
                .iter()
                .take(SHOWN.1)
                .map(encode)
                .collect::<Result<_, _>>()?,
        })
    }

    /// One rollup's part of a block, complete. `context` says whether validators and configuration
    /// come along even if they have not changed.
    fn block(
        &self,
        height: Height,
        id: &RollupId,
        context: Context,
        last_config: &mut Option<Hash>,
    ) -> Result<RollupBlock, Status> {
        self.check_served(height)?;
        let block = self.read_block(height, id, context, last_config);
        // It may have been pruned while it was read.
        block.or_else(|status| self.check_served(height).and(Err(status)))
    }

    fn read_block(
        &self,
        height: Height,
        id: &RollupId,
        context: Context,
        last_config: &mut Option<Hash>,
    ) -> Result<RollupBlock, Status> {
        let slice = self.store.slice(height, id).map_err(internal)?;
        let Some(Slice {
            mut block,
            config_hash,
        }) = slice
        else {
            let reason = format!("rollup {id} has no leaf at height {height}");
            return Err(Status::not_found(reason));
        };
        let no_header = || Status::unavailable(format!("no signed header of height {height} yet"));
        block.signed_header = self
            .store
            .header(height)
            .map_err(internal)?
            .ok_or_else(no_header)?;
        let (validators, changed) = self
            .store
            .validators(height)
            .map_err(internal)?
            .ok_or_else(no_header)?;
        if changed || context == Context::Always {
            block.validators = validators;
        }
        if *last_config != Some(config_hash) {
            let config = self.store.config(&config_hash).map_err(internal)?;
            block.borsh_config = config.ok_or_else(|| {
                Status::not_found(format!("configuration {config_hash} is not here"))
            })?;
            *last_config = Some(config_hash);
        }
        Ok(block)
    }
}

fn rollup(
    state: &StateSnapshot,
    tip: &Tip,
    record: &RollupRecord,
) -> Result<GetRollupResponse, Status> {
    let deposits = query::deposits(state, record.config.rollup_id).map_err(internal)?;
    Ok(GetRollupResponse {
        borsh_config: encode(&record.config)?,
        height: tip.height.get(),
        queued_deposits: deposits.queued.saturating_sub(deposits.emitted),
        emitted_deposits: deposits.emitted,
        borsh_record: encode(record)?,
    })
}

/// Whether a block comes with what has not changed since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    Always,
    Changed,
}

#[tonic::async_trait]
impl sequencer_server::Sequencer for Sequencer {
    type StreamRollupBlocksStream = BlockStream;

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let (state, tip) = self.state()?;
        let prices = Prices::read(&state).map_err(internal)?;
        Ok(Response::new(GetInfoResponse {
            chain_id: query::chain(&state).map_err(internal)?.chain_id,
            height: tip.height.get(),
            app_hash: Bytes::copy_from_slice(tip.app_hash.as_bytes()),
            lowest_height: self.store.lowest().map_err(internal)?.get(),
            version: env!("CARGO_PKG_VERSION").into(),
            base_fee: prices.base_fee,
        }))
    }

    async fn submit_transaction(
        &self,
        request: Request<SubmitTransactionRequest>,
    ) -> Result<Response<SubmitTransactionResponse>, Status> {
        self.state()?;
        let transaction = request.into_inner().transaction;
        let (tx_hash, verdict) = match self.mempool.gossip() {
            Gossip::Relayed | Gossip::Direct => self.submit(transaction).await?,
            Gossip::Flood => self.forward(transaction).await?,
        };
        let tx_hash = Bytes::copy_from_slice(tx_hash.as_bytes());
        let (code, log) = (verdict.code, verdict.log);
        Ok(Response::new(SubmitTransactionResponse {
            code,
            log,
            tx_hash,
        }))
    }

    async fn get_transaction(
        &self,
        request: Request<GetTransactionRequest>,
    ) -> Result<Response<GetTransactionResponse>, Status> {
        use get_transaction_response::{Included, Pending, Status as Found, Unknown};
        let tx_hash = Hash::new(bytes32("tx_hash", &request.into_inner().tx_hash)?);
        let Some(place) = self.store.place(&tx_hash).map_err(internal)? else {
            let waits = self.mempool.is_pending(&tx_hash);
            let found = if waits {
                Found::Pending(Pending {})
            } else {
                Found::Unknown(Unknown {})
            };
            return Ok(Response::new(GetTransactionResponse {
                status: Some(found),
            }));
        };
        let proof = self.store.transaction_proof(&place).map_err(internal)?;
        let header = self.store.header(place.height).map_err(internal)?;
        let validators = self.store.validators(place.height).map_err(internal)?;
        let (Some(proof), Some(signed_header), Some((validators, _))) = (proof, header, validators)
        else {
            let found = if self.check_served(place.height).is_ok() {
                // In a block whose header is still on its way here.
                Some(Found::Pending(Pending {}))
            } else {
                Some(Found::Unknown(Unknown {}))
            };
            return Ok(Response::new(GetTransactionResponse { status: found }));
        };
        let included = Included {
            height: place.height.get(),
            index: place.index,
            code: place.code,
            log: place.log,
            borsh_proof: borsh::to_vec(&proof).map_err(internal)?.into(),
            signed_header,
            validators,
        };
        let status = Some(Found::Included(included));
        Ok(Response::new(GetTransactionResponse { status }))
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let address = request.into_inner().address;
        let address = <[u8; 20]>::try_from(&address[..])
            .map_err(|_| Status::invalid_argument("address must have 20 bytes"))?;
        let address = Address::new(address);
        let (state, tip) = self.state()?;
        let found = query::account(&state, address).map_err(internal)?;
        let account = found.unwrap_or_default();
        Ok(Response::new(GetAccountResponse {
            height: tip.height.get(),
            exists: found.is_some(),
            nonce: account.nonce.get(),
            balance: account.balance.to_string(),
            pending_nonce: self.mempool.next_nonce(&address, account.nonce).get(),
        }))
    }

    async fn get_rollup(
        &self,
        request: Request<GetRollupRequest>,
    ) -> Result<Response<GetRollupResponse>, Status> {
        let id = match request.into_inner().key {
            Some(get_rollup_request::Key::RollupId(id)) => {
                RollupId::new(bytes32("rollup_id", &id)?)
            }
            Some(get_rollup_request::Key::Name(name)) => RollupId::from_name(&name),
            None => return Err(Status::invalid_argument("rollup_id or name must be given")),
        };
        let (state, tip) = self.state()?;
        let record = query::rollup(&state, id).map_err(internal)?;
        let record = record.ok_or_else(|| Status::not_found("no such rollup is registered"))?;
        Ok(Response::new(rollup(&state, &tip, &record)?))
    }

    async fn list_rollups(
        &self,
        request: Request<ListRollupsRequest>,
    ) -> Result<Response<ListRollupsResponse>, Status> {
        let ListRollupsRequest { after, limit } = request.into_inner();
        let after = if after.is_empty() {
            None
        } else {
            Some(RollupId::new(bytes32("after", &after)?))
        };
        let limit = if limit == 0 {
            LIST_LIMIT.0
        } else {
            limit.min(LIST_LIMIT.1)
        };
        let (state, tip) = self.state()?;
        let limit = usize::try_from(limit).map_err(internal)?;
        let records = query::rollups_after(&state, after, limit).map_err(internal)?;
        let rollups = records.iter().map(|record| rollup(&state, &tip, record));
        let rollups = rollups.collect::<Result<_, _>>()?;
        Ok(Response::new(ListRollupsResponse { rollups }))
    }

    async fn get_fees(
        &self,
        _: Request<GetFeesRequest>,
    ) -> Result<Response<GetFeesResponse>, Status> {
        let (state, tip) = self.state()?;
        let prices = Prices::read(&state).map_err(internal)?;
        let forecast = |blocks: u32| {
            let (lowest, highest) = prices.forecast(blocks);
            Forecast {
                blocks,
                lowest,
                highest,
            }
        };
        Ok(Response::new(GetFeesResponse {
            height: tip.height.get(),
            base_fee: prices.base_fee,
            borsh_params: encode(&prices.params)?,
            forecasts: FORECASTS.into_iter().map(forecast).collect(),
        }))
    }

    async fn get_chain(
        &self,
        _: Request<GetChainRequest>,
    ) -> Result<Response<GetChainResponse>, Status> {
        let (state, tip) = self.state()?;
        let chain = query::chain(&state).map_err(internal)?;
        let validators = query::validators(&state).map_err(internal)?;
        let authority = query::authority(&state).map_err(internal)?;
        let upgrade = query::upgrade(&state).map_err(internal)?;
        let consensus = query::consensus(&state).map_err(internal)?;
        let proposals = query::proposals(&state).map_err(internal)?;
        let proposal = |(proposal, approval): &(Hash, Approval)| {
            Ok(Proposal {
                proposal: Bytes::copy_from_slice(proposal.as_bytes()),
                borsh_approval: encode(approval)?,
            })
        };
        Ok(Response::new(GetChainResponse {
            height: tip.height.get(),
            borsh_chain: encode(&chain)?,
            borsh_validators: validators.iter().map(encode).collect::<Result<_, _>>()?,
            borsh_authority: authority.as_ref().map_or(Ok(Bytes::new()), encode)?,
            proposals: proposals
                .iter()
                .map(proposal)
                .collect::<Result<_, Status>>()?,
            borsh_upgrade: upgrade.as_ref().map_or(Ok(Bytes::new()), encode)?,
            borsh_consensus: encode(&consensus)?,
        }))
    }

    async fn get_state_proof(
        &self,
        request: Request<GetStateProofRequest>,
    ) -> Result<Response<GetStateProofResponse>, Status> {
        let key = request.into_inner().key;
        if key.len() > MAX_KEY_BYTES {
            let reason = format!("key has {} bytes, at most {MAX_KEY_BYTES}", key.len());
            return Err(Status::invalid_argument(reason));
        }
        let this = self.clone();
        self.off_worker(move || this.prove(&key))
            .await?
            .map(Response::new)
    }

    async fn get_header(
        &self,
        request: Request<GetHeaderRequest>,
    ) -> Result<Response<GetHeaderResponse>, Status> {
        let height = Height::new(request.into_inner().height);
        self.check_served(height)?;
        let header = self.store.header(height).map_err(internal)?;
        let validators = self.store.validators(height).map_err(internal)?;
        let (Some(signed_header), Some((validators, _))) = (header, validators) else {
            self.check_served(height)?;
            let reason = format!("no signed header of height {height} yet");
            return Err(Status::not_found(reason));
        };
        Ok(Response::new(GetHeaderResponse {
            signed_header,
            validators,
        }))
    }

    async fn get_block(
        &self,
        request: Request<GetBlockRequest>,
    ) -> Result<Response<GetBlockResponse>, Status> {
        let height = Height::new(request.into_inner().height);
        self.check_served(height)?;
        let this = self.clone();
        let read = self.off_worker(move || this.brief(height)).await?;
        // It may have been pruned while it was read.
        let read = read.or_else(|status| self.check_served(height).and(Err(status)));
        read.map(Response::new)
    }

    async fn get_rollup_block(
        &self,
        request: Request<GetRollupBlockRequest>,
    ) -> Result<Response<RollupBlock>, Status> {
        let GetRollupBlockRequest { height, rollup_id } = request.into_inner();
        let id = RollupId::new(bytes32("rollup_id", &rollup_id)?);
        let height = Height::new(height);
        let (_, tip) = self.state()?;
        self.check_served(height)?;
        if height > tip.height {
            let reason = format!(
                "height {height} is not committed yet, the last is {}",
                tip.height
            );
            return Err(Status::not_found(reason));
        }
        let this = self.clone();
        let read = move || this.block(height, &id, Context::Always, &mut None);
        Ok(Response::new(self.off_worker(read).await??))
    }

    async fn stream_rollup_blocks(
        &self,
        request: Request<StreamRollupBlocksRequest>,
    ) -> Result<Response<Self::StreamRollupBlocksStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let StreamRollupBlocksRequest {
            rollup_id,
            from_height,
        } = request.into_inner();
        let id = RollupId::new(bytes32("rollup_id", &rollup_id)?);
        let next = Height::new(from_height);
        let (state, tip) = self.state()?;
        self.check_within_reach(next, tip.height)?;
        query::rollup(&state, id)
            .map_err(internal)?
            .ok_or_else(|| Status::not_found("no such rollup is registered"))?;
        let reader = self.seat(peer)?;
        let (this, mut context, mut last_config) = (self.clone(), Context::Always, None);
        let read = move |height| {
            let block = this.block(height, &id, context, &mut last_config);
            context = Context::Changed;
            block
        };
        let source = stream::Source {
            read,
            working: Arc::clone(&self.working),
            streamable: self.streamable.clone(),
        };
        Ok(Response::new(stream::open(source, next, reader)))
    }
}

fn encode<T: borsh::BorshSerialize>(value: &T) -> Result<Bytes, Status> {
    Ok(borsh::to_vec(value).map_err(internal)?.into())
}

fn bytes32(field: &str, bytes: &[u8]) -> Result<[u8; 32], Status> {
    bytes
        .try_into()
        .map_err(|_| Status::invalid_argument(format!("{field} must have 32 bytes")))
}

/// A broken node says so without telling strangers how.
fn internal(error: impl std::fmt::Display) -> Status {
    error!(%error, "request failed");
    Status::internal("the node is broken; its log says why")
}

#[cfg(test)]
mod tests;
