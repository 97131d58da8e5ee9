//! Blocks to the client, and then to the store, one after another.
//!
//! ```text
//! derive N+1 ─▶ [ N ] ─▶ newPayload, forkchoice ─VALID─▶ store
//!                └ waits, bounded        └ INVALID: halt; N and all after it are forgotten
//! ```
//! The client gets a block before the store does: after a crash in between it is built again, bit
//! by bit the same. While it validates one, the next is executed on top of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use alloy_primitives::B256;
use counterpoint_core::{registry::RollupConfig, slot::HeaderTime};
use counterpoint_service::{
    to_f64,
    traces::{self, Attribute, Hop},
};
use eyre::WrapErr;
use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::{
    attester::Voter,
    board::{Board, CLIENT, LATE},
    engine::{BlockId, Driver, DriverError, ExecutionClient},
    evm::{RollupBlock, Store, StoreError},
    legs::{Audit, ExecutedLeg, alarm},
    metric,
    pending::Pending,
    progress::{Progress, read_block},
};

/// Blocks that wait until the client has taken the one before. With that one and the one that is
/// being executed, three blocks at the most are not committed.
pub(crate) const WAITING: usize = 1;

/// A block that is executed; the state after it waits in [`Pending`].
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) block: RollupBlock,
    /// Where the rollup stands with it.
    pub(crate) progress: Progress,
    /// The configuration under which it ended.
    pub(crate) config: RollupConfig,
    /// The time of the sequencer's header that ends it.
    pub(crate) time: HeaderTime,
    /// When the list that ends it was there, verified.
    pub(crate) arrived: Instant,
    /// Legs that were released into it.
    pub(crate) legs: Vec<ExecutedLeg>,
}

/// Hands blocks to the client and writes those that it takes.
#[derive(Debug)]
pub(crate) struct Committer<C> {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) driver: Arc<Driver<C>>,
    /// The client's head when we started; nothing up to it is handed in again.
    pub(crate) client_head: u64,
    /// Where evidence is kept.
    pub(crate) data_dir: PathBuf,
    pub(crate) board: Board,
    /// Says what became of legs, if this conductor is an attester.
    pub(crate) voter: Option<Voter>,
    /// Compares legs with what was attested.
    pub(crate) audit: Audit,
}

impl<C: ExecutionClient> Committer<C> {
    /// Compares our head with the client's, and gives it what it lost.
    pub(crate) async fn recover(&mut self, ours: BlockId) -> eyre::Result<()> {
        let source = source(&self.store);
        self.driver.resend(ours.number + 1, &source).await?;
        if let Some(theirs) = self.driver.block(Some(ours.number)).await? {
            eyre::ensure!(
                theirs.hash == ours.hash,
                "the client has block {} as {}, we executed {}: one of them is not of this rollup",
                ours.number,
                theirs.hash,
                ours.hash
            );
        }
        if let Some(latest) = self.driver.block(None).await? {
            self.client_head = latest.number;
        }
        self.board.readiness.met(CLIENT);
        Ok(())
    }

    /// Commits what comes in, until no more can come.
    pub(crate) async fn run(&self, mut blocks: mpsc::Receiver<Executed>) -> eyre::Result<()> {
        while let Some(executed) = blocks.recv().await {
            gauge!(metric::WAITING).set(to_f64(blocks.len() as u64 + 1));
            self.commit(executed).await?;
            gauge!(metric::WAITING).set(to_f64(blocks.len() as u64));
        }
        Ok(())
    }

    async fn commit(&self, executed: Executed) -> eyre::Result<()> {
        let Executed {
            block,
            progress,
            config,
            time,
            arrived,
            legs,
        } = executed;
        histogram!(metric::ADDED_SECONDS).record(arrived.elapsed());
        let BlockId { number, hash } = progress.head();
        let (started, begun) = (Instant::now(), SystemTime::now());
        match self.known_to_client(number).await? {
            Some(theirs) if theirs == hash => {}
            Some(theirs) => {
                let ours = hash;
                let halt = DriverError::Divergence {
                    number,
                    theirs,
                    ours,
                };
                keep_evidence(&self.data_dir, &block, &halt)?;
                return Err(halt.into());
            }
            None => self.submit(hash, &block).await?,
        }
        histogram!(metric::SUBMIT_SECONDS).record(started.elapsed());
        histogram!(metric::HEAD_SECONDS).record(age(time));
        // Before it is committed: what is committed is never looked at again.
        alarm(&self.data_dir, &block, &legs)?;
        if let Some(voter) = &self.voter {
            for leg in &legs {
                voter.confirm(progress.head(), leg, &config).await?;
            }
        }
        let started = Instant::now();
        tokio::task::block_in_place(|| self.pending.commit_oldest())?;
        histogram!(metric::COMMIT_SECONDS).record(started.elapsed());
        for tx in &block.body.transactions {
            traces::record(Hop::Head, tx.tx_hash(), begun, || {
                vec![Attribute::Number("block_number", number)]
            });
        }
        let transactions = block.body.transactions.len();
        let gas_used = block.header.gas_used;
        let cursor = progress.cursor();
        let (cursor_height, cursor_index) = (cursor.height, cursor.index);
        info!(number, %hash, transactions, gas_used, %cursor_height, cursor_index, "executed");
        counter!(metric::TRANSACTIONS).increment(transactions as u64);
        counter!(metric::LEGS).increment(legs.len() as u64);
        self.audit.hand_in(number, legs);
        self.board.show(&progress, config.slot_secs.get());
        Ok(())
    }

    async fn submit(&self, hash: B256, block: &RollupBlock) -> eyre::Result<()> {
        let source = source(&self.store);
        let number = block.header.number;
        let submitted = self.driver.submit(hash, block, &source);
        let reason = format!("the execution client has not taken block {number} yet");
        let readiness = &self.board.readiness;
        let submitted = readiness.watch(CLIENT, LATE, &reason, submitted).await;
        if let Err(halt) = &submitted {
            keep_evidence(&self.data_dir, block, halt)?;
        }
        Ok(submitted?)
    }

    /// The client's block of this number, if its head was already there when we started: then we
    /// lost blocks that it kept, and must come to the same ones.
    async fn known_to_client(&self, number: u64) -> eyre::Result<Option<B256>> {
        if number > self.client_head {
            return Ok(None);
        }
        let block = self.driver.block(Some(number)).await?;
        Ok(block.map(|block| block.hash))
    }
}

/// How long ago a header was made, by our clock.
fn age(time: HeaderTime) -> Duration {
    let made = SystemTime::UNIX_EPOCH.checked_add(Duration::new(time.seconds, time.nanos));
    let age = made.and_then(|made| made.elapsed().ok());
    age.unwrap_or_default()
}

/// Keeps a block that the client contradicts, for whoever finds out which of us is wrong.
pub(crate) fn keep_evidence(
    data_dir: &Path,
    block: &RollupBlock,
    halt: &DriverError,
) -> eyre::Result<()> {
    let kind = match halt {
        DriverError::Invalid { .. } => "invalid",
        DriverError::Divergence { .. } => "divergence",
        DriverError::BuiltOtherwise { .. } => "built",
        _ => return Ok(()),
    };
    let number = block.header.number;
    let directory = data_dir.join("evidence").join(format!("{kind}-{number}"));
    let report = format!(
        "{halt}\nparent: {}\nstate root: {}\ngas used: {}\ntransactions: {}\nblock.rlp: our block\n",
        block.header.parent_hash,
        block.header.state_root,
        block.header.gas_used,
        block.body.transactions.len(),
    );
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(directory.join("block.rlp"), alloy_rlp::encode(block)))
        .and_then(|()| std::fs::write(directory.join("report.txt"), report))
        .wrap_err_with(|| format!("failed to write {}", directory.display()))?;
    error!(
        evidence = %directory.display(),
        "the execution client contradicts us; docs/runbook/conductor-halted.md says what to do"
    );
    Ok(())
}

/// Reads blocks that were executed before, for those that must be sent again.
pub(crate) fn source(
    store: &Arc<dyn Store>,
) -> impl Fn(u64) -> Result<(B256, RollupBlock), StoreError> + Send + Sync + use<> {
    let store = Arc::clone(store);
    move |number| read_block(store.as_ref(), number)
}

#[cfg(test)]
mod tests;
