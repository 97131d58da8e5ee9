//! What an answer of the client means, and what to do next.
//!
//! The head only moves forward, one block at a time, and safe and finalized move with it: a BFT
//! decision is final. A client may come back with fewer blocks than it had; then its ancestors are
//! sent again. VALID does not prove that a block was executed, so the head is read back: a block is
//! done when it is there.

use std::time::Duration;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceState, PayloadStatus, PayloadStatusEnum};
use tracing::{debug, info, warn};

use super::{BlockId, EngineError, ExecutionClient, client::new_payload};
use crate::{chain_spec::Specification, evm::RollupBlock};

/// First pause before a client is asked again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How often a client may take blocks without moving its head to them before we call it jammed.
const JAM_ROUNDS: u32 = 8;
/// The Engine API's code for a safe or finalized block that the client does not know.
const UNKNOWN_FINALIZED: i64 = -38_002;
/// How often a client that lacks nothing may say that it does, which takes half a minute: it could
/// be busy with itself.
const SYNC_ROUNDS: u32 = 20;

/// Why a rollup is halted.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The client calls our block invalid: one of us is wrong, and nothing may change until
    /// somebody knows who.
    #[error(
        "execution client calls block {number} ({hash}) invalid{}: {reason}",
        earlier(*.latest_valid)
    )]
    Invalid {
        /// The block's number.
        number: u64,
        /// The block's hash.
        hash: B256,
        /// The last block that it calls valid, if that is not the parent: then it objects to an
        /// ancestor.
        latest_valid: Option<B256>,
        /// What the client said.
        reason: String,
    },
    /// The client has another block than the sequencer's order leads to.
    #[error("execution client has block {number} as {theirs}, the sequencer's order gives {ours}")]
    Divergence {
        /// The block's number.
        number: u64,
        /// The client's hash.
        theirs: B256,
        /// Our hash.
        ours: B256,
    },
    /// The client takes blocks and does not execute them.
    #[error(
        "execution client is given blocks and stays at {at}: it is jammed after a crash; \
         stop it, remove its chain data, initialise it with the rollup's genesis and start it again"
    )]
    Jammed {
        /// Where its head stays.
        at: u64,
    },
    /// The client builds another block of the same transactions: one of us is wrong.
    #[error("execution client builds block {number} with another {fields}")]
    BuiltOtherwise {
        /// The block's number.
        number: u64,
        /// Where it differs.
        fields: String,
    },
    /// It can never work like this.
    #[error(transparent)]
    Configuration(EngineError),
    /// A block that must be sent again cannot be read.
    #[error("failed to read a block to send it again")]
    Source(#[source] crate::evm::StoreError),
}

fn earlier(latest_valid: Option<B256>) -> String {
    latest_valid.map_or_else(String::new, |hash| format!(", and all after {hash}"))
}

/// Whether the client has the block, or must be given earlier ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is the client's head.
    Done,
    /// The client lacks ancestors.
    NeedsAncestors,
    /// The client takes the block, and its head is this one.
    Elsewhere(BlockId),
}

/// Hands blocks to one client, in order.
#[derive(Debug)]
pub struct Driver<C> {
    client: C,
    specification: Specification,
}

/// Reads a block that was executed before.
pub(crate) type BlockSource<'a> =
    &'a (dyn Fn(u64) -> Result<(B256, RollupBlock), crate::evm::StoreError> + Send + Sync);

impl<C: ExecutionClient> Driver<C> {
    /// A driver of one client.
    #[must_use]
    pub fn new(client: C, specification: Specification) -> Self {
        Self {
            client,
            specification,
        }
    }

    /// The client, to look at what it was asked.
    #[cfg(test)]
    pub(crate) fn client(&self) -> &C {
        &self.client
    }

    /// A block of the client by number, or its latest; a client that is away is waited for.
    ///
    /// # Errors
    /// [`DriverError::Configuration`] if it can never answer.
    pub async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, DriverError> {
        let mut pause = MIN_PAUSE;
        loop {
            match self.client.block(number).await {
                Ok(block) => return Ok(block),
                Err(error) => wait_or_halt(error.into(), &mut pause).await?,
            }
        }
    }

    /// Makes `block` the client's head, over restarts and lost connections, sending ancestors
    /// again where the client lacks them. It may be called again with the same block.
    ///
    /// # Errors
    /// [`DriverError`] halts the rollup; a client that is away is waited for.
    pub async fn submit(
        &self,
        hash: B256,
        block: &RollupBlock,
        source: BlockSource<'_>,
    ) -> Result<(), DriverError> {
        let number = block.header.number;
        let mut pause = MIN_PAUSE;
        let (mut stuck, mut syncing) = (0, 0);
        loop {
            match self.try_submit(hash, block).await {
                Ok(Progress::Done) => return Ok(()),
                Ok(Progress::NeedsAncestors) if syncing >= SYNC_ROUNDS => {
                    self.check_parent(block).await?;
                    let at = number.saturating_sub(1);
                    return Err(DriverError::Jammed { at });
                }
                Ok(Progress::NeedsAncestors) => {
                    syncing += 1;
                    self.check_parent(block).await?;
                }
                Ok(Progress::Elsewhere(head)) if stuck >= JAM_ROUNDS => {
                    self.check_parent(block).await?;
                    return Err(stuck_at(head, number, hash));
                }
                Ok(Progress::Elsewhere(_)) => stuck += 1,
                Err(failure) => {
                    syncing = 0;
                    wait_or_halt(failure, &mut pause).await?;
                    continue;
                }
            }
            self.resend(number, source).await?;
            back_off(&mut pause).await;
        }
    }

    /// A client on another branch can never get to the block.
    async fn check_parent(&self, block: &RollupBlock) -> Result<(), DriverError> {
        let number = block.header.number.saturating_sub(1);
        let ours = block.header.parent_hash;
        match self.block(Some(number)).await? {
            Some(BlockId { hash: theirs, .. }) if theirs != ours => Err(DriverError::Divergence {
                number,
                theirs,
                ours,
            }),
            _ => Ok(()),
        }
    }

    async fn try_submit(&self, hash: B256, block: &RollupBlock) -> Result<Progress, Failure> {
        let number = block.header.number;
        match self.try_hand_in(hash, block).await {
            // A client that knows the block and refuses to move to it may be there all the same.
            Ok(Progress::Done) | Err(Failure::Forkchoice(_)) => self.read_back(number, hash).await,
            other => other,
        }
    }

    /// Whether the client's head is the block, or came from it.
    async fn read_back(&self, number: u64, hash: B256) -> Result<Progress, Failure> {
        let lost = || EngineError::Malformed {
            method: "eth_getBlockByNumber",
            reason: "there is no latest block".into(),
        };
        let head = self.client.block(None).await?.ok_or_else(lost)?;
        let ours = if head.number > number {
            self.client.block(Some(number)).await?
        } else {
            Some(head)
        };
        if ours.is_some_and(|block| block.hash == hash) {
            return Ok(Progress::Done);
        }
        Ok(Progress::Elsewhere(head))
    }

    /// Hands in a block and asks the client to move there.
    async fn try_hand_in(&self, hash: B256, block: &RollupBlock) -> Result<Progress, Failure> {
        let number = block.header.number;
        let fork = self.specification.fork_at(block.header.timestamp).fork;
        debug!(number, method = new_payload(fork), "submitting");
        let status = self.client.new_payload(block, hash, fork).await?;
        if judge(block, hash, status)? == Progress::NeedsAncestors {
            return Ok(Progress::NeedsAncestors);
        }
        let updated = match self.forkchoice(hash).await {
            Err(error @ EngineError::Rpc { .. }) => return Err(Failure::of_forkchoice(error)),
            updated => updated?,
        };
        judge(block, hash, updated)
    }

    /// Moves head, safe and finalized to a block. A client that cannot finalize it yet moves its
    /// head alone: what it has finalized stays as it says, and is never taken back to none.
    async fn forkchoice(&self, head: B256) -> Result<PayloadStatus, EngineError> {
        let choose = |finalized: B256| {
            self.client.forkchoice(ForkchoiceState {
                head_block_hash: head,
                safe_block_hash: finalized,
                finalized_block_hash: finalized,
            })
        };
        let unknown = match choose(head).await {
            Err(
                error @ EngineError::Rpc {
                    code: UNKNOWN_FINALIZED,
                    ..
                },
            ) => error,
            updated => return Ok(updated?.payload_status),
        };
        let Some(theirs) = self.client.finalized().await? else {
            return Err(unknown);
        };
        choose(theirs.hash).await?;
        Ok(choose(head).await?.payload_status)
    }

    /// Sends every block that the client lacks below `until`, oldest first.
    ///
    /// # Errors
    /// [`DriverError`] halts the rollup.
    pub async fn resend(&self, until: u64, source: BlockSource<'_>) -> Result<(), DriverError> {
        let mut pause = MIN_PAUSE;
        let mut stuck = 0;
        loop {
            let latest = self.block(None).await?.map_or(0, |latest| latest.number);
            if latest + 1 >= until {
                return Ok(());
            }
            info!(
                from = latest + 1,
                until, "execution client lacks blocks, sending again"
            );
            let sent = self.send_range(latest + 1, until, source).await;
            let after = match sent {
                Ok(()) => self.client.block(None).await.ok().flatten(),
                Err(error) => {
                    wait_or_halt(error, &mut pause).await?;
                    continue;
                }
            };
            if after.is_some_and(|after| after.number > latest) {
                stuck = 0;
            } else if after.is_some() {
                stuck += 1;
                if stuck >= JAM_ROUNDS {
                    return Err(DriverError::Jammed { at: latest });
                }
                back_off(&mut pause).await;
            }
        }
    }

    /// Sends a range without regard to whether the client's head moves: after a crash it may say
    /// VALID to blocks it knows and refuse forkchoice until one is new to it.
    async fn send_range(
        &self,
        from: u64,
        until: u64,
        source: BlockSource<'_>,
    ) -> Result<(), Failure> {
        for number in from..until {
            let (hash, block) = source(number).map_err(DriverError::Source)?;
            match self.try_hand_in(hash, &block).await {
                Ok(_) | Err(Failure::Forkchoice(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

/// What a status says of a block.
fn judge(block: &RollupBlock, hash: B256, status: PayloadStatus) -> Result<Progress, Failure> {
    let number = block.header.number;
    let latest_valid = status.latest_valid_hash;
    match status.status {
        PayloadStatusEnum::Valid if latest_valid.is_some_and(|valid| valid != hash) => {
            let reason = format!("VALID up to {latest_valid:?}, asked for {hash}");
            let method = "engine_newPayload";
            Err(EngineError::Malformed { method, reason }.into())
        }
        PayloadStatusEnum::Valid => Ok(Progress::Done),
        PayloadStatusEnum::Syncing | PayloadStatusEnum::Accepted => Ok(Progress::NeedsAncestors),
        PayloadStatusEnum::Invalid {
            validation_error: reason,
        } => Err(Failure::Halt(DriverError::Invalid {
            number,
            hash,
            latest_valid: latest_valid.filter(|valid| *valid != block.header.parent_hash),
            reason,
        })),
    }
}

/// What it means that a client takes a block again and again and has another head.
fn stuck_at(head: BlockId, number: u64, ours: B256) -> DriverError {
    if head.number == number {
        let theirs = head.hash;
        return DriverError::Divergence {
            number,
            theirs,
            ours,
        };
    }
    DriverError::Jammed { at: head.number }
}

/// What ends one round: a halt, or a client that must be asked again.
enum Failure {
    Halt(DriverError),
    Again(EngineError),
    /// The client knows the block and does not move to it, as after a crash.
    Forkchoice(EngineError),
}

impl Failure {
    fn of_forkchoice(error: EngineError) -> Self {
        match Self::from(error) {
            Self::Again(error) => Self::Forkchoice(error),
            other => other,
        }
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::Halt(error)
    }
}

/// Which errors can pass. The Engine API's codes: −38002 unknown safe or finalized block, −38005
/// wrong method for the fork, −38006 reorg too deep, −32601 no such method, −32602 bad parameters.
impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rpc {
                code: -38_005 | -32_601 | -32_602,
                ..
            } => Self::Halt(DriverError::Configuration(error)),
            error => Self::Again(error),
        }
    }
}

async fn wait_or_halt(failure: Failure, pause: &mut Duration) -> Result<(), DriverError> {
    match failure {
        Failure::Halt(error) => Err(error),
        Failure::Again(error) | Failure::Forkchoice(error) => {
            warn!(%error, "execution client failed, asking again");
            back_off(pause).await;
            Ok(())
        }
    }
}

async fn back_off(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(MAX_PAUSE);
}

#[cfg(test)]
pub(crate) mod tests;
