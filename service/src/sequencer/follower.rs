//! Blocks ahead of their execution, in bounded memory.

use std::{sync::Arc, time::Duration};

use counterpoint_core::{
    block::RollupItem,
    light::TrustedState,
    primitive::{Height, RollupId},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

use super::{
    Client, FollowError, VerifiedBlock, Verifier,
    reader::{Reader, SILENCE},
};

/// Most blocks that are verified and wait.
const AHEAD: usize = 256;
/// Most bytes of them, in KiB; a greater block waits alone.
const AHEAD_KIB: u32 = 32 << 10;
/// What a block takes beside its items, in KiB: header, configuration, validators.
const OVERHEAD_KIB: usize = 8;

/// Follows one rollup through every sequencer block. A task of its own downloads and verifies while
/// earlier blocks are executed; it ends with the follower.
#[derive(Debug)]
pub struct Follower {
    ahead: mpsc::Receiver<Result<Ahead, FollowError>>,
    trusted: TrustedState,
    ended: Option<FollowError>,
    task: JoinHandle<()>,
}

/// A block that waits, what is trusted with it, and its share of the memory.
type Ahead = (VerifiedBlock, TrustedState, OwnedSemaphorePermit);

impl Follower {
    /// Follows `rollup_id` from height `next` on, which lies above `trusted`.
    #[must_use]
    pub fn new(client: Client, rollup_id: RollupId, trusted: TrustedState, next: Height) -> Self {
        Self::with_silence(client, rollup_id, trusted, next, SILENCE)
    }

    /// The same for one who has verified, maybe in an earlier life, that the height before `next`
    /// closed a block. Then the end of the rollup is proven even where that height was pruned.
    #[must_use]
    pub fn after_block(
        client: Client,
        rollup_id: RollupId,
        trusted: TrustedState,
        next: Height,
    ) -> Self {
        let verifier = Verifier::new(rollup_id, trusted, next);
        Self::start(Reader::new(client, verifier, SILENCE).after_block())
    }

    /// The same with another time that a block may take until another node is asked.
    #[must_use]
    pub fn with_silence(
        client: Client,
        rollup_id: RollupId,
        trusted: TrustedState,
        next: Height,
        silence: Duration,
    ) -> Self {
        let verifier = Verifier::new(rollup_id, trusted, next);
        Self::start(Reader::new(client, verifier, silence))
    }

    fn start(reader: Reader) -> Self {
        let (sender, ahead) = mpsc::channel(AHEAD);
        Self {
            ahead,
            trusted: reader.trusted().clone(),
            ended: None,
            task: tokio::spawn(read(reader, sender)),
        }
    }

    /// What is trusted after the last block that was yielded.
    #[must_use]
    pub fn trusted(&self) -> &TrustedState {
        &self.trusted
    }

    /// Blocks that wait.
    #[cfg(test)]
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// The next block, verified. It may be dropped while waiting without losing one.
    ///
    /// # Errors
    /// [`FollowError`] if there is none: the chain has forked, or the rollup has left. Everything
    /// else is tried again elsewhere.
    pub async fn next(&mut self) -> Result<VerifiedBlock, FollowError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        match self.ahead.recv().await.unwrap_or(Err(FollowError::Failed)) {
            Ok((block, trusted, _room)) => {
                self.trusted = trusted;
                Ok(block)
            }
            Err(error) => {
                self.ended = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads until there is no more to be read, or nobody listens.
async fn read(mut reader: Reader, sender: mpsc::Sender<Result<Ahead, FollowError>>) {
    let room = Arc::new(Semaphore::new(AHEAD_KIB as usize));
    loop {
        let block = match reader.next().await {
            Ok(block) => block,
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let share = share_kib(block.list.items()).min(AHEAD_KIB);
        let Ok(share) = Arc::clone(&room).acquire_many_owned(share).await else {
            return;
        };
        let trusted = reader.trusted().clone();
        if sender.send(Ok((block, trusted, share))).await.is_err() {
            return;
        }
    }
}

fn share_kib(items: &[RollupItem]) -> u32 {
    let bytes = |item: &RollupItem| match item {
        RollupItem::Transaction(raw) | RollupItem::Leg { raw, .. } => raw.len(),
        RollupItem::Deposit { .. } => 0,
    };
    let each = size_of::<RollupItem>();
    let total: usize = items.iter().map(|item| bytes(item) + each).sum();
    u32::try_from(total / 1_024 + OVERHEAD_KIB).unwrap_or(u32::MAX)
}
