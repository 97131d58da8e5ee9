//! Thin mode: the client has the state, we have the rules.
//!
//! ```text
//! item ─▶ rules, revm ── eth_getProof, eth_getCode at the parent ──▶ client's socket
//!            │ receipts, all of the block but the state root
//!            └─▶ testing_buildBlockV1 ─ compared with ours, its root taken ─▶ newPayload as ever
//! ```
//! What is read decides what is skipped for ever, so it is proven against the parent's state root. The
//! parent must be the client's head: a block is executed only when the one before it is committed.
//!
//! # Specification
//! `docs/adr/0009-thin-mode.md`.

mod ipc;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_consensus::constants::EMPTY_ROOT_HASH;
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_rpc_types_engine::{ExecutionPayloadV3, PayloadAttributes};
use alloy_rpc_types_eth::EIP1186AccountProofResponse as AccountProof;
use alloy_trie::{Nibbles, proof::verify_proof};
use counterpoint_service::Readiness;
use revm::database::BundleState;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::ipc::{Call, Ipc, Rpc};
use crate::{
    board::{CLIENT, LATE},
    chain_spec::Specification,
    commit::{keep_evidence, source},
    engine::{Driver, DriverError, EngineError, ExecutionClient},
    evm::{
        Account, Accounts, Batch, Parent, RollupBlock, StateError, StateSource, StateUpdate, Store,
        block_hash,
    },
    progress::read_block,
};

/// Builds a block of given transactions on top of the head.
const BUILD: &str = "testing_buildBlockV1";
/// How often the client may refuse a question while it has the parent.
const REFUSALS: u32 = 5;
/// How long we wait before we ask again.
const PAUSE: Duration = Duration::from_millis(500);
/// Code that is kept from block to block, in bytes.
const MAX_CODE_BYTES: usize = 64 << 20;
/// What a client answers that does not know a method.
const UNKNOWN_METHOD: i64 = -32_601;

/// Reads the client's state, and has it work out the next root.
#[derive(Debug)]
pub struct Thin<C, R> {
    rpc: R,
    driver: Arc<Driver<C>>,
    /// Blocks; it holds no state.
    store: Arc<dyn Store>,
    /// Where evidence is kept.
    data_dir: PathBuf,
    readiness: Readiness,
    shutdown: CancellationToken,
    codes: Codes,
    /// Where we wait for the client: who executes a block blocks.
    runtime: Handle,
}

/// Code by its hash.
#[derive(Debug, Default)]
struct Codes(Mutex<(HashMap<B256, Bytes>, usize)>);

impl Codes {
    fn get(&self, hash: &B256) -> Option<Bytes> {
        let codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.0.get(hash).cloned()
    }

    /// Keeps it; when there is too much, all else is forgotten.
    fn keep(&self, hash: B256, code: Bytes) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.1.saturating_add(code.len()) > MAX_CODE_BYTES {
            *codes = Default::default();
        }
        codes.1 += code.len();
        codes.0.insert(hash, code);
    }
}

impl<C: ExecutionClient, R: Rpc> Thin<C, R> {
    /// Asks `rpc`, which is the same client as the driver's. Blocks that were executed are in `store`;
    /// evidence is kept in `data_dir`.
    #[must_use]
    pub fn new(
        rpc: R,
        driver: Arc<Driver<C>>,
        store: Arc<dyn Store>,
        data_dir: PathBuf,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            rpc,
            driver,
            store,
            data_dir,
            readiness,
            shutdown,
            codes: Codes::default(),
            runtime: Handle::current(),
        }
    }

    /// Asks for what `calls` say, at a parent that the client must have, until it answers with
    /// something that `read` understands.
    async fn ask<T>(
        &self,
        parent: &Parent,
        calls: &[Call],
        read: impl Fn(Vec<Value>) -> Result<T, EngineError>,
    ) -> Result<T, StateError> {
        let mut refusals = 0;
        loop {
            let failure = match self.rpc.ask(calls).await.and_then(&read) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            warn!(error = %failure, "execution client failed, asking again");
            refusals += u32::from(!matches!(failure, EngineError::Unreachable { .. }));
            if refusals >= REFUSALS {
                return Err(StateError::Client {
                    number: parent.number,
                    source: failure,
                });
            }
            tokio::time::sleep(PAUSE).await;
            self.bring_back(parent).await?;
        }
    }

    /// Makes sure that the client has a block, which it may have lost in a crash.
    async fn bring_back(&self, parent: &Parent) -> Result<(), StateError> {
        let there = self.driver.block(Some(parent.number)).await?;
        if there.is_some_and(|block| block.hash == parent.hash) || parent.number == 0 {
            return Ok(());
        }
        let (hash, block) = read_block(self.store.as_ref(), parent.number)?;
        let source = source(&self.store);
        Ok(self.driver.submit(hash, &block, &source).await?)
    }

    /// Waits for the client where the EVM can do nothing else.
    fn wait<T>(&self, work: impl Future<Output = Result<T, StateError>>) -> Result<T, StateError> {
        let reason = "the execution client does not give its state";
        let watched = self.readiness.watch(CLIENT, LATE, reason, work);
        let done = self.shutdown.run_until_cancelled(watched);
        self.runtime
            .block_on(done)
            .unwrap_or(Err(StateError::Stopped))
    }

    /// Waits for the client, and demands that it can build as we need it.
    ///
    /// # Errors
    /// It says what is missing, and what to do about it.
    pub async fn probe(&self, specification: &Specification) -> eyre::Result<()> {
        let away = |error: &EngineError| matches!(error, EngineError::Unreachable { .. });
        while let Err(error) = self.rpc.ask(&[("eth_chainId", json!([]))]).await
            && away(&error)
        {
            self.readiness.unmet(CLIENT, error.to_string());
            warn!(%error, "waiting for testing_ipc");
            tokio::time::sleep(PAUSE).await;
        }
        probe(&self.rpc, specification).await
    }

    /// The state root of the client's own block of this number, if it has one: then we have lost it.
    async fn theirs(&self, parent: &Parent, number: u64) -> Result<Option<B256>, StateError> {
        let method = "eth_getBlockByNumber";
        let call = (method, json!([format!("{number:#x}"), false]));
        self.ask(parent, &[call], |answers| {
            let block: Option<Rooted> = single(method, answers)?;
            Ok(block.map(|block| block.state_root))
        })
        .await
    }

    /// Has the client build `block`, and compares each field; gives the state root.
    async fn build(&self, parent: &Parent, block: &RollupBlock) -> Result<B256, StateError> {
        let call = (BUILD, build_params(block));
        let built: Built = self
            .ask(parent, &[call], |answers| single(BUILD, answers))
            .await?;
        let mut ours = block.clone();
        let theirs = &built.execution_payload;
        ours.header.state_root = theirs.payload_inner.payload_inner.state_root;
        let fields = differences(&ours, &built);
        if fields.is_empty() {
            return Ok(ours.header.state_root);
        }
        let number = block.header.number;
        let halt = DriverError::BuiltOtherwise { number, fields };
        keep_evidence(&self.data_dir, &ours, &halt).map_err(|error| {
            StateError::Store(crate::evm::StoreError::new(format_args!("{error:#}")))
        })?;
        Err(halt.into())
    }
}

/// Demands that a client can build as we need it, by an empty block that nobody keeps.
///
/// # Errors
/// It says what is missing, and what to do about it.
pub(crate) async fn probe(rpc: &impl Rpc, specification: &Specification) -> eyre::Result<()> {
    let block = |tag: &str| ("eth_getBlockByNumber", json!([tag, false]));
    let blocks = rpc.ask(&[block("0x0"), block("latest")]).await?;
    let [genesis, head]: [Head; 2] = blocks
        .into_iter()
        .map(|block| value("eth_getBlockByNumber", block))
        .collect::<Result<Vec<_>, _>>()?
        .try_into()
        .map_err(|_| eyre::eyre!("two blocks were asked for"))?;
    let expected = specification.genesis_header();
    eyre::ensure!(
        genesis.hash == expected.hash_slow(),
        "testing_ipc belongs to a client with genesis {}, rollup_genesis gives {}",
        genesis.hash,
        expected.hash_slow()
    );
    let attributes = PayloadAttributes {
        timestamp: head.timestamp.to::<u64>().saturating_add(1),
        prev_randao: B256::ZERO,
        suggested_fee_recipient: Address::ZERO,
        withdrawals: Some(Vec::new()),
        parent_beacon_block_root: Some(B256::ZERO),
        ..PayloadAttributes::default()
    };
    let extra = Bytes::from_static(b"probe");
    let build = (BUILD, json!([head.hash, attributes, [], extra]));
    let built = match rpc.ask(&[build]).await {
        Ok(mut built) => value::<Built>(BUILD, built.pop().unwrap_or_default())?,
        Err(EngineError::Rpc {
            code: UNKNOWN_METHOD,
            ..
        }) => eyre::bail!(
            "the client does not know {BUILD}, which thin mode needs: use geth 1.17.1 or newer, \
             or mode = \"embedded\""
        ),
        Err(error) => return Err(error.into()),
    };
    let payload = built.execution_payload.payload_inner.payload_inner;
    eyre::ensure!(
        payload.parent_hash == head.hash
            && payload.extra_data == extra
            && payload.transactions.is_empty(),
        "the client has built another block than it was asked for: thin mode cannot use it"
    );
    eyre::ensure!(
        payload.gas_limit == expected.gas_limit,
        "the client builds blocks of {} gas, the rollup's have {}: start geth with \
         --miner.gaslimit {}",
        payload.gas_limit,
        expected.gas_limit,
        expected.gas_limit
    );
    Ok(())
}

/// What we ask the client to build: all that a block starts from.
fn build_params(block: &RollupBlock) -> Value {
    let header = &block.header;
    let withdrawals = block.body.withdrawals.clone().unwrap_or_default();
    let attributes = PayloadAttributes {
        timestamp: header.timestamp,
        prev_randao: header.mix_hash,
        suggested_fee_recipient: header.beneficiary,
        withdrawals: Some(withdrawals.into_inner()),
        parent_beacon_block_root: header.parent_beacon_block_root,
        ..PayloadAttributes::default()
    };
    let raw = block.body.transactions.iter();
    let raw: Vec<Bytes> = raw.map(|tx| tx.encoded_2718().into()).collect();
    json!([header.parent_hash, attributes, raw, header.extra_data])
}

/// The fields of a payload that are not ours. The hash stands for those that it has not got.
fn differences(ours: &RollupBlock, built: &Built) -> String {
    let hash = ours.header.hash_slow();
    let ours = json!(ExecutionPayloadV3::from_block_unchecked(hash, ours));
    let theirs = json!(built.execution_payload);
    let fields = ours.as_object().into_iter().flatten();
    let fields = fields.filter(|(name, value)| theirs[name] != **value);
    let mut fields: Vec<_> = fields.map(|(name, _)| name.as_str()).collect();
    if built.execution_requests.iter().flatten().next().is_some() {
        fields.push("executionRequests");
    }
    fields.join(", ")
}

impl<C: ExecutionClient, R: Rpc> StateSource for Thin<C, R> {
    fn accounts(
        &self,
        parent: &Parent,
        addresses: &[Address],
    ) -> Result<Vec<Option<Account>>, StateError> {
        let calls: Vec<_> = addresses
            .iter()
            .map(|address| proof_of(parent, address, &[]))
            .collect();
        self.wait(self.ask(parent, &calls, |answers| {
            let proven =
                |(address, answer)| account(parent.state_root, address, value(PROOF, answer)?);
            addresses.iter().zip(answers).map(proven).collect()
        }))
    }

    fn slot(
        &self,
        parent: &Parent,
        address: &Address,
        account: &Account,
        slot: &U256,
    ) -> Result<U256, StateError> {
        if account.storage_root == EMPTY_ROOT_HASH {
            return Ok(U256::ZERO);
        }
        let slot = B256::from(*slot);
        let call = proof_of(parent, address, &[slot]);
        self.wait(self.ask(parent, &[call], |answers| {
            storage(account.storage_root, slot, single(PROOF, answers)?)
        }))
    }

    fn code(
        &self,
        parent: &Parent,
        address: &Address,
        code_hash: &B256,
    ) -> Result<Bytes, StateError> {
        if let Some(code) = self.codes.get(code_hash) {
            return Ok(code);
        }
        let method = "eth_getCode";
        let call = (method, json!([address, parent.hash]));
        let code = self.wait(self.ask(parent, &[call], |answers| {
            let code: Bytes = single(method, answers)?;
            match keccak256(&code) == *code_hash {
                true => Ok(code),
                false => Err(unproven(method, "it has another hash")),
            }
        }))?;
        self.codes.keep(*code_hash, code.clone());
        Ok(code)
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        Ok(block_hash(self.store.as_ref(), number)?)
    }

    fn close(
        &self,
        parent: &Parent,
        _: &Accounts,
        _: &BundleState,
        block: &RollupBlock,
    ) -> Result<StateUpdate, StateError> {
        let root = self.wait(async {
            match self.theirs(parent, block.header.number).await? {
                // Whether the rest of it is ours is judged by who commits it.
                Some(root) => Ok(root),
                None => self.build(parent, block).await,
            }
        })?;
        let batch = Batch::new();
        Ok(StateUpdate { root, batch })
    }
}

const PROOF: &str = "eth_getProof";

fn proof_of(parent: &Parent, address: &Address, slots: &[B256]) -> Call {
    (PROOF, json!([address, slots, parent.hash]))
}

/// An account, if the proof leads to the state root.
fn account(
    state_root: B256,
    address: &Address,
    proof: AccountProof,
) -> Result<Option<Account>, EngineError> {
    // A client gives zeros for what is not there.
    let there = proof.code_hash != B256::ZERO;
    let account = there.then_some(Account {
        nonce: proof.nonce,
        balance: proof.balance,
        storage_root: proof.storage_hash,
        code_hash: proof.code_hash,
    });
    let leaf = account.as_ref().map(alloy_rlp::encode);
    let key = Nibbles::unpack(keccak256(address));
    match verify_proof(state_root, key, leaf, &proof.account_proof) {
        Ok(()) => Ok(account),
        Err(error) => Err(unproven(PROOF, error)),
    }
}

/// A slot, if the proof leads to the account's storage root.
fn storage(storage_root: B256, slot: B256, proof: AccountProof) -> Result<U256, EngineError> {
    let [proven] = proof.storage_proof.as_slice() else {
        return Err(unproven(PROOF, "one slot was asked for"));
    };
    let leaf = (!proven.value.is_zero()).then(|| alloy_rlp::encode(proven.value));
    let key = Nibbles::unpack(keccak256(slot));
    match verify_proof(storage_root, key, leaf, &proven.proof) {
        Ok(()) => Ok(proven.value),
        Err(error) => Err(unproven(PROOF, error)),
    }
}

fn unproven(method: &'static str, reason: impl std::fmt::Display) -> EngineError {
    EngineError::Malformed {
        method,
        reason: reason.to_string(),
    }
}

fn value<T: DeserializeOwned>(method: &'static str, answer: Value) -> Result<T, EngineError> {
    serde_json::from_value(answer).map_err(|error| unproven(method, error))
}

fn single<T: DeserializeOwned>(
    method: &'static str,
    answers: Vec<Value>,
) -> Result<T, EngineError> {
    value(method, answers.into_iter().next().unwrap_or_default())
}

/// A block, as far as a probe looks at it.
#[derive(Deserialize)]
struct Head {
    hash: B256,
    timestamp: U64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rooted {
    state_root: B256,
}

/// What the client has built.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    execution_payload: ExecutionPayloadV3,
    #[serde(default)]
    execution_requests: Option<Vec<Bytes>>,
}

#[cfg(test)]
mod tests;
