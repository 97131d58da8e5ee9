//! What an answer of the client means, and what to do next.
//!
//! The head only moves forward, one block at a time, and safe and finalized move with it: a BFT
//! decision is final. A client may come back with fewer blocks than it had; then its ancestors are
//! sent again. VALID does not prove that a block was executed, so after a recovery the head is read
//! back.

use std::time::Duration;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceState, PayloadStatusEnum};
use tracing::{debug, info, warn};

use super::{BlockId, EngineError, ExecutionClient, client::methods};
use crate::{chain_spec::Specification, evm::RollupBlock};

/// First pause before a client is asked again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How often a client may take all it lacks without moving its head before we call it jammed.
const JAM_ROUNDS: u32 = 8;
/// How often a client that lacks nothing may say that it does, which takes half a minute: it could
/// be busy with itself.
const SYNC_ROUNDS: u32 = 20;

/// Why a rollup is halted.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The client calls our block invalid: one of us is wrong, and nothing may change until
    /// somebody knows who.
    #[error("execution client calls block {number} ({hash}) invalid: {reason}")]
    Invalid {
        /// The block's number.
        number: u64,
        /// The block's hash.
        hash: B256,
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
    /// It can never work like this.
    #[error(transparent)]
    Configuration(EngineError),
    /// A block that must be sent again cannot be read.
    #[error("failed to read a block to send it again")]
    Source(#[source] crate::evm::StoreError),
}

/// Whether the client has the block, or must be given earlier ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is the client's head.
    Done,
    /// The client lacks ancestors.
    NeedsAncestors,
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
        let mut stuck = 0;
        loop {
            match self.try_submit(hash, block).await {
                Ok(Progress::Done) => return Ok(()),
                Ok(Progress::NeedsAncestors) if stuck >= SYNC_ROUNDS => {
                    let at = number.saturating_sub(1);
                    return Err(DriverError::Jammed { at });
                }
                Ok(Progress::NeedsAncestors) => {
                    stuck += 1;
                    self.resend(number, source).await?;
                    back_off(&mut pause).await;
                }
                Err(error) => {
                    stuck = 0;
                    wait_or_halt(error, &mut pause).await?;
                }
            }
        }
    }

    /// One round of newPayload and forkchoiceUpdated. Blocks only come in the order of numbers, so
    /// head, safe and finalized move forward together.
    async fn try_submit(&self, hash: B256, block: &RollupBlock) -> Result<Progress, Failure> {
        let number = block.header.number;
        let judge = |status: PayloadStatusEnum| match status {
            PayloadStatusEnum::Valid => Ok(Progress::Done),
            PayloadStatusEnum::Syncing | PayloadStatusEnum::Accepted => {
                Ok(Progress::NeedsAncestors)
            }
            PayloadStatusEnum::Invalid {
                validation_error: reason,
            } => Err(Failure::Halt(DriverError::Invalid {
                number,
                hash,
                reason,
            })),
        };
        let fork = self.specification.fork_at(block.header.timestamp).fork;
        debug!(number, method = methods(fork).new_payload, "submitting");
        let status = self.client.new_payload(block, hash, fork).await?;
        if judge(status.status)? == Progress::NeedsAncestors {
            return Ok(Progress::NeedsAncestors);
        }
        let state = ForkchoiceState {
            head_block_hash: hash,
            safe_block_hash: hash,
            finalized_block_hash: hash,
        };
        let updated = match self.client.forkchoice(state).await {
            Err(error @ EngineError::Rpc { .. }) => return Err(Failure::of_forkchoice(error)),
            updated => updated?,
        };
        judge(updated.payload_status.status)
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
            match self.try_submit(hash, &block).await {
                Ok(_) | Err(Failure::Forkchoice(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
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
