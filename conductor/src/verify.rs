//! `verify`: derives blocks once more and compares them with the client's.
//!
//! It begins at the rollup's genesis, in a store of its own beside the conductor's, which may go on
//! meanwhile; the sequencer's nodes must still serve every height.

use std::{fs, path::Path, sync::Arc};

use counterpoint_service::Bar;
use eyre::{WrapErr, eyre};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Config,
    board::Board,
    commit::keep_evidence,
    derivation::Derivation,
    engine::{DriverError, ExecutionClient},
    evm::{DiskStore, RollupBlock, Store},
    progress::Progress,
    receipts::Receipts,
    start::meet,
};

/// How many blocks pass from one line in the log to the next.
const SAY_EVERY: u64 = 1_000;

/// Which blocks are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct Range {
    /// The first block to compare.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub from: u64,
    /// The last block to compare.
    #[arg(long, value_name = "NUMBER")]
    pub to: u64,
}

pub(crate) async fn work(
    config: Config,
    range: Range,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let Range { from, to } = range;
    eyre::ensure!(
        (1..=to).contains(&from),
        "--from is {from}, must lie in 1..={to}, which is --to"
    );
    let scratch = config.data_dir.join("verify");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .wrap_err_with(|| format!("failed to empty {}", scratch.display()))?;
    }
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&scratch, config.cache_bytes())?);
    let verified = shutdown.run_until_cancelled(verify(&config, range, store));
    let verified = verified.await;
    fs::remove_dir_all(&scratch)?;
    verified.unwrap_or_else(|| Err(eyre!("stopped before block {to}")))?;
    info!(
        from,
        to, "the client has the blocks that the sequencer's order gives"
    );
    Ok(())
}

async fn verify(config: &Config, range: Range, store: Arc<dyn Store>) -> eyre::Result<()> {
    let board = Board::new();
    let peers = meet(config, &board, store.as_ref()).await?;
    let mut tip = peers.progress(store.as_ref())?;
    let (source, client) = peers.split(board.readiness.clone());
    let specification = source.specification.clone();
    let head = client.block(None).await?.map_or(0, |head| head.number);
    let to = range.to;
    eyre::ensure!(
        to <= head,
        "--to is {to}, the client has blocks up to {head}"
    );
    let receipts = Arc::new(Receipts::after(0, &tip.extra));
    let mut derivation = Derivation::new(source, Arc::new(Arc::clone(&store)), &tip, receipts);
    let bar = Bar::steps("blocks", range.to);
    while tip.header.number < range.to {
        let next = match tip.left {
            None => derivation.next(&tip).await?,
            Some(_) => None,
        };
        let left_at = tip.header.number;
        let derived = next.ok_or_else(|| eyre!("the rollup has left with block {left_at}"))?;
        let (progress, block, batch) = Progress::after(derived.closed, &specification)?;
        tokio::task::block_in_place(|| store.commit(batch))?;
        tip = progress;
        bar.reach(tip.header.number);
        if tip.header.number >= range.from {
            compare(&config.data_dir, &client, &tip, &block).await?;
        }
        if tip.header.number.is_multiple_of(SAY_EVERY) {
            info!(number = tip.header.number, "derived");
        }
    }
    Ok(())
}

async fn compare(
    data_dir: &Path,
    client: &impl ExecutionClient,
    tip: &Progress,
    block: &RollupBlock,
) -> eyre::Result<()> {
    let (number, ours) = (tip.header.number, tip.hash);
    let theirs = client.block(Some(number)).await?;
    let theirs = theirs.ok_or_else(|| eyre!("the client has no block {number}"))?;
    if theirs.hash == ours {
        return Ok(());
    }
    let differs = DriverError::Divergence {
        number,
        theirs: theirs.hash,
        ours,
    };
    keep_evidence(data_dir, block, &differs)?;
    Err(differs.into())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Bytes;
    use alloy_rpc_types_engine::ForkchoiceState;
    use counterpoint_core::chain_spec::Fork;

    use super::*;
    use crate::{
        engine::MockClient,
        testing::{Rollup, specification, whole},
    };

    #[tokio::test]
    async fn another_block_is_named_and_kept() {
        let mut rollup = Rollup::new();
        let closed = rollup.push(whole(vec![])).unwrap().unwrap();
        let (tip, block, _) = Progress::after(closed, &specification()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut other = block.clone();
        other.header.extra_data = Bytes::new();
        let head = other.header.hash_slow();
        let client = MockClient::new();
        client
            .new_payload(&other, head, Fork::Prague)
            .await
            .unwrap();
        let state = ForkchoiceState::same_hash(head);
        client.forkchoice(state).await.unwrap();
        let differs = compare(directory.path(), &client, &tip, &block).await;
        let differs = differs.unwrap_err().to_string();
        assert!(
            differs.starts_with("execution client has block 1 as"),
            "{differs}"
        );
        let report = directory.path().join("evidence/divergence-1/report.txt");
        assert!(fs::read_to_string(report).unwrap().starts_with(&differs));
    }
}
