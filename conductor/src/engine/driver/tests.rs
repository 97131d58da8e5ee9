use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use alloy_consensus::{Block, BlockBody, Header};
use alloy_rpc_types_engine::{ForkchoiceUpdated, PayloadStatus};
use counterpoint_core::chain_spec::Fork;

use super::*;
use crate::{evm::StoreError, testing::specification};

/// What a scripted client does instead of its work, once.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    Say(PayloadStatusEnum),
    Fail(i64),
    HangUp,
}

/// A client that keeps to the Engine API, except where its script says otherwise.
#[derive(Debug)]
pub(crate) struct MockClient(Mutex<State>);

#[derive(Debug)]
pub(crate) struct State {
    known: BTreeMap<B256, u64>,
    pub(crate) head: BlockId,
    pub(crate) payloads: Vec<u64>,
    forkchoices: Vec<ForkchoiceState>,
    pub(crate) on_payload: VecDeque<Script>,
    on_forkchoice: VecDeque<Script>,
    /// Says VALID and executes nothing.
    jammed: bool,
}

impl MockClient {
    pub(crate) fn new() -> Self {
        let genesis = BlockId {
            number: 0,
            hash: specification().genesis_header().hash_slow(),
        };
        Self(Mutex::new(State {
            known: BTreeMap::from([(genesis.hash, 0)]),
            head: genesis,
            payloads: Vec::new(),
            forkchoices: Vec::new(),
            on_payload: VecDeque::new(),
            on_forkchoice: VecDeque::new(),
            jammed: false,
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn follow(script: Script) -> Result<PayloadStatus, EngineError> {
    match script {
        Script::Say(status) => Ok(PayloadStatus::from_status(status)),
        Script::Fail(code) => Err(EngineError::Rpc {
            method: "engine_newPayloadV4",
            code,
            message: "scripted".into(),
        }),
        Script::HangUp => Err(EngineError::Unreachable {
            url: "http://client".into(),
            reason: "hung up".into(),
        }),
    }
}

impl ExecutionClient for MockClient {
    async fn new_payload(
        &self,
        block: &RollupBlock,
        hash: B256,
        _: Fork,
    ) -> Result<PayloadStatus, EngineError> {
        let mut state = self.state();
        state.payloads.push(block.header.number);
        if let Some(script) = state.on_payload.pop_front() {
            return follow(script);
        }
        if !state.known.contains_key(&block.header.parent_hash) {
            return follow(Script::Say(PayloadStatusEnum::Syncing));
        }
        state.known.insert(hash, block.header.number);
        follow(Script::Say(PayloadStatusEnum::Valid))
    }

    async fn forkchoice(&self, choice: ForkchoiceState) -> Result<ForkchoiceUpdated, EngineError> {
        let mut state = self.state();
        state.forkchoices.push(choice);
        if let Some(script) = state.on_forkchoice.pop_front() {
            return follow(script).map(ForkchoiceUpdated::new);
        }
        let hash = choice.head_block_hash;
        let status = match state.known.get(&hash).copied() {
            Some(number) => {
                if !state.jammed {
                    state.head = BlockId { number, hash };
                }
                PayloadStatusEnum::Valid
            }
            None => PayloadStatusEnum::Syncing,
        };
        follow(Script::Say(status)).map(ForkchoiceUpdated::new)
    }

    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, EngineError> {
        let head = self.state().head;
        let number = number.unwrap_or(head.number);
        Ok(Some(BlockId { number, ..head }))
    }

    async fn chain_id(&self) -> Result<u64, EngineError> {
        Ok(crate::testing::CHAIN_ID)
    }

    async fn capabilities(&self) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }
}

/// The `number`-th block of a chain without transactions.
fn block(number: u64) -> (B256, RollupBlock) {
    let parent_hash = match number {
        1 => specification().genesis_header().hash_slow(),
        _ => block(number - 1).0,
    };
    let header = Header {
        number,
        parent_hash,
        timestamp: 1_700_000_000 + number,
        ..Header::default()
    };
    (header.hash_slow(), Block::new(header, BlockBody::default()))
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a source")]
fn source(number: u64) -> Result<(B256, RollupBlock), StoreError> {
    Ok(block(number))
}

fn driver() -> Driver<MockClient> {
    Driver::new(MockClient::new(), specification())
}

async fn submit(driver: &Driver<MockClient>, number: u64) -> Result<(), DriverError> {
    let (hash, block) = block(number);
    driver.submit(hash, &block, &source).await
}

#[tokio::test(start_paused = true)]
async fn a_block_becomes_head_safe_and_finalized() {
    let driver = driver();
    submit(&driver, 1).await.unwrap();
    submit(&driver, 2).await.unwrap();
    let state = driver.client.state();
    assert_eq!(state.head.number, 2);
    let last = state.forkchoices.last().unwrap();
    let hash = block(2).0;
    assert_eq!(
        (
            last.head_block_hash,
            last.safe_block_hash,
            last.finalized_block_hash
        ),
        (hash, hash, hash)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lost_blocks_gets_them_again_oldest_first() {
    let driver = driver();
    submit(&driver, 4).await.unwrap();
    let state = driver.client.state();
    assert_eq!(state.payloads, [4, 1, 2, 3, 4]);
    assert_eq!(state.head.number, 4);
}

#[tokio::test(start_paused = true)]
async fn what_can_pass_is_tried_again() {
    let driver = driver();
    {
        let mut state = driver.client.state();
        let syncing = Script::Say(PayloadStatusEnum::Syncing);
        state.on_payload = vec![Script::HangUp, syncing, Script::Fail(-38_003)].into();
        state.on_forkchoice = vec![Script::HangUp, Script::Fail(-38_002)].into();
    }
    submit(&driver, 1).await.unwrap();
    assert_eq!(driver.client.state().payloads.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn invalid_halts_and_changes_nothing() {
    let invalid = Script::Say(PayloadStatusEnum::Invalid {
        validation_error: "bad state root".into(),
    });
    let driver = driver();
    driver.client.state().on_payload.push_back(invalid.clone());
    let error = submit(&driver, 1).await.unwrap_err().to_string();
    assert!(error.ends_with("invalid: bad state root"), "{error}");
    assert!(driver.client.state().forkchoices.is_empty());
    driver.client.state().on_forkchoice.push_back(invalid);
    assert!(matches!(
        submit(&driver, 1).await,
        Err(DriverError::Invalid { .. })
    ));
    assert_eq!(driver.client.state().head.number, 0);
}

#[tokio::test(start_paused = true)]
async fn what_can_never_work_is_a_mistake_of_configuration() {
    for code in [-38_005, -32_601, -32_602] {
        let driver = driver();
        driver
            .client
            .state()
            .on_payload
            .push_back(Script::Fail(code));
        let error = submit(&driver, 1).await;
        assert!(
            matches!(error, Err(DriverError::Configuration(_))),
            "{code}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_jammed_client_is_recognised() {
    let driver = driver();
    driver.client.state().jammed = true;
    let error = driver.resend(5, &source).await.unwrap_err();
    assert!(matches!(error, DriverError::Jammed { at: 0 }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lacks_nothing_and_syncs_for_ever_is_jammed() {
    let driver = driver();
    submit(&driver, 1).await.unwrap();
    let started = tokio::time::Instant::now();
    let syncing = Script::Say(PayloadStatusEnum::Syncing);
    driver.client.state().on_payload = vec![syncing; 1_000].into();
    let error = submit(&driver, 2).await.unwrap_err();
    assert!(matches!(error, DriverError::Jammed { at: 1 }), "{error}");
    assert!(started.elapsed() > Duration::from_secs(30), "too soon");
}
