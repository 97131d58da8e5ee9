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
    /// The same with a `latestValidHash`.
    SayUpTo(PayloadStatusEnum, B256),
    Fail(i64),
    HangUp,
    Work,
    /// Works, and hangs up before the answer.
    WorkAndHangUp,
}

/// A client that keeps to the Engine API, except where its script says otherwise.
#[derive(Debug)]
pub(crate) struct MockClient(Mutex<State>);

#[derive(Debug)]
pub(crate) struct State {
    /// Blocks by hash: number and parent.
    known: BTreeMap<B256, (u64, B256)>,
    pub(crate) head: BlockId,
    finalized: Option<BlockId>,
    pub(crate) payloads: Vec<u64>,
    forkchoices: Vec<ForkchoiceState>,
    pub(crate) on_payload: VecDeque<Script>,
    on_forkchoice: VecDeque<Script>,
    /// Says VALID and executes nothing.
    jammed: bool,
}

impl State {
    /// The block of a number below the head.
    fn canonical(&self, number: u64) -> Option<BlockId> {
        let mut at = self.head;
        while at.number > number {
            let hash = self.known.get(&at.hash)?.1;
            at = BlockId {
                number: at.number - 1,
                hash,
            };
        }
        (at.number == number).then_some(at)
    }

    fn take_payload(&mut self, block: &RollupBlock, hash: B256) -> PayloadStatusEnum {
        let (number, parent) = (block.header.number, block.header.parent_hash);
        if !self.known.contains_key(&parent) {
            return PayloadStatusEnum::Syncing;
        }
        self.known.insert(hash, (number, parent));
        PayloadStatusEnum::Valid
    }

    fn choose(&mut self, choice: ForkchoiceState) -> PayloadStatusEnum {
        let hash = choice.head_block_hash;
        let Some((number, _)) = self.known.get(&hash).copied() else {
            return PayloadStatusEnum::Syncing;
        };
        let place = |hash: B256| self.known.get(&hash).map(|(number, _)| *number);
        let (safe, finalized) = (
            place(choice.safe_block_hash),
            place(choice.finalized_block_hash),
        );
        if !self.jammed {
            assert!(safe >= finalized && finalized.is_some(), "{choice:?}");
            let before = self.finalized.map(|before| before.number);
            assert!(finalized >= before, "{choice:?} after {before:?}");
            self.head = BlockId { number, hash };
            self.finalized = finalized.map(|number| BlockId {
                number,
                hash: choice.finalized_block_hash,
            });
        }
        PayloadStatusEnum::Valid
    }
}

impl MockClient {
    pub(crate) fn new() -> Self {
        let genesis = BlockId {
            number: 0,
            hash: specification().genesis_header().hash_slow(),
        };
        Self(Mutex::new(State {
            known: BTreeMap::from([(genesis.hash, (0, B256::ZERO))]),
            head: genesis,
            finalized: None,
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

/// Answers as the script says, or by doing the work.
fn follow(
    script: Option<Script>,
    work: impl FnOnce() -> PayloadStatusEnum,
) -> Result<PayloadStatus, EngineError> {
    let hung_up = || EngineError::Unreachable {
        url: "http://client".into(),
        reason: "hung up".into(),
    };
    match script.unwrap_or(Script::Work) {
        Script::Say(status) => Ok(PayloadStatus::from_status(status)),
        Script::SayUpTo(status, latest) => Ok(PayloadStatus::new(status, Some(latest))),
        Script::Fail(code) => Err(EngineError::Rpc {
            method: "engine_newPayloadV4",
            code,
            message: "scripted".into(),
        }),
        Script::HangUp => Err(hung_up()),
        Script::Work => Ok(PayloadStatus::from_status(work())),
        Script::WorkAndHangUp => {
            work();
            Err(hung_up())
        }
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
        let script = state.on_payload.pop_front();
        follow(script, || state.take_payload(block, hash))
    }

    async fn forkchoice(&self, choice: ForkchoiceState) -> Result<ForkchoiceUpdated, EngineError> {
        let mut state = self.state();
        state.forkchoices.push(choice);
        let script = state.on_forkchoice.pop_front();
        follow(script, || state.choose(choice)).map(ForkchoiceUpdated::new)
    }

    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, EngineError> {
        let state = self.state();
        Ok(state.canonical(number.unwrap_or(state.head.number)))
    }

    async fn finalized(&self) -> Result<Option<BlockId>, EngineError> {
        Ok(self.state().finalized)
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

#[tokio::test(start_paused = true)]
async fn valid_for_nothing_is_no_progress() {
    let driver = driver();
    submit(&driver, 1).await.unwrap();
    driver.client.state().jammed = true;
    let error = submit(&driver, 2).await.unwrap_err();
    assert!(matches!(error, DriverError::Jammed { at: 1 }), "{error}");
    driver.client.state().jammed = false;
    submit(&driver, 2).await.unwrap();
    assert_eq!(driver.client.state().head.number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lies_once_is_asked_until_the_block_is_there() {
    let valid = || Script::Say(PayloadStatusEnum::Valid);
    let driver = driver();
    // Neither is true: the block is unknown, and the head stays.
    driver.client.state().on_payload = vec![valid()].into();
    driver.client.state().on_forkchoice = vec![valid(), valid()].into();
    submit(&driver, 1).await.unwrap();
    let state = driver.client.state();
    assert_eq!((state.head.number, state.head.hash), (1, block(1).0));
    assert_eq!(state.payloads, [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn valid_up_to_another_block_is_not_believed() {
    let driver = driver();
    let other = Script::SayUpTo(PayloadStatusEnum::Valid, B256::repeat_byte(9));
    driver.client.state().on_payload = vec![other.clone()].into();
    driver.client.state().on_forkchoice = vec![other].into();
    submit(&driver, 1).await.unwrap();
    let state = driver.client.state();
    assert_eq!(state.payloads.len(), 3);
    assert_eq!(state.head.hash, block(1).0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_changes_nothing() {
    let driver = driver();
    driver.client.state().on_payload = vec![Script::WorkAndHangUp].into();
    driver.client.state().on_forkchoice = vec![Script::WorkAndHangUp].into();
    submit(&driver, 1).await.unwrap();
    submit(&driver, 2).await.unwrap();
    let state = driver.client.state();
    assert_eq!(state.payloads, [1, 1, 1, 2]);
    assert_eq!(state.head.number, 2);
}

#[tokio::test(start_paused = true)]
async fn invalid_once_and_valid_after_a_restart_is_the_same_block() {
    let driver = driver();
    let status = PayloadStatusEnum::Invalid {
        validation_error: "out of memory".into(),
    };
    let parent = block(1).1.header.parent_hash;
    driver.client.state().on_payload = vec![Script::SayUpTo(status.clone(), parent)].into();
    let error = submit(&driver, 1).await.unwrap_err().to_string();
    assert!(error.ends_with("invalid: out of memory"), "{error}");
    submit(&driver, 1).await.unwrap();
    submit(&driver, 2).await.unwrap();
    assert_eq!(driver.client.state().head.hash, block(2).0);
    // It objects to a block before: that is the one to look at.
    driver.client.state().on_payload = vec![Script::SayUpTo(status, block(1).0)].into();
    let error = submit(&driver, 3).await.unwrap_err().to_string();
    let expected = format!("invalid, and all after {}: out of memory", block(1).0);
    assert!(error.ends_with(&expected), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_head_on_another_branch_halts() {
    let foreign = BlockId {
        number: 1,
        hash: B256::repeat_byte(9),
    };
    let driver = driver();
    let genesis = driver.client.state().head.hash;
    driver
        .client
        .state()
        .known
        .insert(foreign.hash, (1, genesis));
    driver.client.state().head = foreign;
    // It stays there whatever it is told.
    driver.client.state().jammed = true;
    let error = submit(&driver, 1).await.unwrap_err();
    let expected = format!(
        "{}",
        DriverError::Divergence {
            number: 1,
            theirs: foreign.hash,
            ours: block(1).0,
        }
    );
    assert_eq!(error.to_string(), expected);
    // A block on top of ours it can never take.
    let error = submit(&driver, 2).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_client_leaves_another_branch_for_a_sibling() {
    let driver = driver();
    let (genesis, foreign) = (driver.client.state().head.hash, B256::repeat_byte(9));
    driver.client.state().known.insert(foreign, (1, genesis));
    driver.client.state().head = BlockId {
        number: 1,
        hash: foreign,
    };
    submit(&driver, 1).await.unwrap();
    assert_eq!(driver.client.state().head.hash, block(1).0);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_cannot_finalize_yet_is_finalized_behind_its_head() {
    let driver = driver();
    submit(&driver, 1).await.unwrap();
    driver.client.state().on_forkchoice = vec![Script::Fail(-38_002)].into();
    submit(&driver, 2).await.unwrap();
    let state = driver.client.state();
    let (one, two) = (block(1).0, block(2).0);
    let told = state.forkchoices.iter().map(|told| {
        assert_eq!(told.safe_block_hash, told.finalized_block_hash);
        (told.head_block_hash, told.finalized_block_hash)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [(one, one), (two, two), (two, one), (two, two)]
    );
    assert_eq!(state.payloads, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_to_move_does_not_matter_where_the_head_is_ours() {
    let driver = driver();
    submit(&driver, 1).await.unwrap();
    // As geth does where it has the block and more.
    driver.client.state().on_forkchoice = vec![Script::Fail(-38_006)].into();
    submit(&driver, 1).await.unwrap();
    driver.client.state().on_forkchoice = vec![Script::Fail(-38_006); 100].into();
    let error = submit(&driver, 2).await.unwrap_err();
    assert!(matches!(error, DriverError::Jammed { at: 1 }), "{error}");
}

proptest::proptest! {
    /// Whatever a client that loses nothing says on the way: each block is there once, in order.
    /// The client itself demands that what is finalized never goes back and never is none.
    #[test]
    fn blocks_come_in_order_whatever_is_said(
        payload in proptest::collection::vec(0_usize..7, 0..20),
        forkchoice in proptest::collection::vec(0_usize..7, 0..20),
    ) {
        let script = |choice: usize| match choice {
            0 => Script::Say(PayloadStatusEnum::Valid),
            1 => Script::Say(PayloadStatusEnum::Syncing),
            2 => Script::Say(PayloadStatusEnum::Accepted),
            3 => Script::Fail(-38_002),
            4 => Script::HangUp,
            5 => Script::WorkAndHangUp,
            _ => Script::Work,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let driver = driver();
            {
                let mut state = driver.client.state();
                state.on_payload = payload.into_iter().map(script).collect();
                state.on_forkchoice = forkchoice.into_iter().map(script).collect();
            }
            for number in 1..=4 {
                match submit(&driver, number).await {
                    // A client that keeps lying so long is given up, and has lost nothing.
                    Err(DriverError::Jammed { .. }) => return,
                    submitted => submitted.unwrap(),
                }
                let state = driver.client.state();
                assert_eq!((state.head.number, state.head.hash), (number, block(number).0));
            }
        });
    }
}
