//! `rebuild`: a store from the client's own blocks, when the conductor's is lost.
//!
//! Every block is executed once more and must have the client's hash, so state and history become
//! the client's, to the last bit. Whether they are the sequencer's is another question: before
//! anything is written, the last block is compared with the lists that it covers, which are proven,
//! and what follows is derived as ever. `verify` answers the whole of it, if an archive still has
//! every list.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_eips::eip2718::Encodable2718;
use counterpoint_core::{cursor::ExtraData, light::TrustedState};
use counterpoint_service::sequencer::Follower;
use eyre::{WrapErr, eyre};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Config,
    assembly::Closed,
    board::Board,
    chain_spec::Specification,
    derive::Rules,
    engine::{DriverError, ExecutionClient},
    evm::{BlockBuilder, BlockInputs, DiskStore, Outcome, RollupBlock, Store},
    progress::Progress,
    start::{Peers, meet},
};

/// How many blocks pass from one line in the log to the next.
const SAY_EVERY: u64 = 1_000;

pub(crate) async fn work(config: Config, shutdown: CancellationToken) -> eyre::Result<()> {
    let rebuilt = shutdown.run_until_cancelled(rebuild(&config)).await;
    let stopped = || Err(eyre!("stopped; start it again and it goes on where it was"));
    rebuilt.unwrap_or_else(stopped)
}

async fn rebuild(config: &Config) -> eyre::Result<()> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&config.data_dir, config.cache_bytes())?);
    let peers = meet(config, &Board::new(), store.as_ref()).await?;
    let first = peers.rollup.first_height;
    let mut tip = Progress::open(store.as_ref(), &peers.specification, first, &peers.trusted)?;
    let head = peers
        .client
        .block(None)
        .await?
        .map_or(0, |head| head.number);
    if tip.header.number >= head {
        info!(number = tip.header.number, head, "the store lacks nothing");
        return Ok(());
    }
    let last = theirs(&peers, head).await?.header;
    let before = match head - 1 {
        0 => ExtraData::genesis(first),
        number => ExtraData::decode(&theirs(&peers, number).await?.header.extra_data)?,
    };
    let proven = prove(&peers, &before, &last).await;
    proven.wrap_err_with(|| format!("block {head} of the client"))?;
    let proven = last.hash_slow();
    while tip.header.number < head {
        let number = tip.header.number + 1;
        let theirs = theirs(&peers, number).await?;
        let closed = tokio::task::block_in_place(|| {
            execute(&store, &tip, &theirs, &peers.specification, &peers.trusted)
        })?;
        let other = number == head && closed.built.hash != proven;
        eyre::ensure!(
            !other,
            "the client's block {head} changed meanwhile: start again"
        );
        let (progress, _, batch) = Progress::after(closed, &peers.specification)?;
        tokio::task::block_in_place(|| store.commit(batch))?;
        tip = progress;
        if number.is_multiple_of(SAY_EVERY) {
            info!(number, head, "rebuilt");
        }
    }
    info!(number = tip.header.number, hash = %tip.hash, "the store has all that the client has");
    Ok(())
}

async fn theirs(peers: &Peers, number: u64) -> eyre::Result<RollupBlock> {
    let block = peers.client.whole_block(number).await?;
    block.ok_or_else(|| eyre!("the client has no block {number}"))
}

/// Executes a block of the client on top of `tip`; it must come out as it is.
fn execute(
    store: &Arc<dyn Store>,
    tip: &Progress,
    theirs: &RollupBlock,
    specification: &Specification,
    genesis: &TrustedState,
) -> eyre::Result<Closed> {
    let header = &theirs.header;
    let number = header.number;
    let extra = ExtraData::decode(&header.extra_data)
        .wrap_err_with(|| format!("block {number} of the client has foreign extra data"))?;
    let withdrawals = theirs.body.withdrawals.clone().unwrap_or_default();
    let inputs = BlockInputs {
        number,
        timestamp: header.timestamp,
        prev_randao: header.mix_hash,
        beacon_root: header.parent_beacon_block_root.unwrap_or_default(),
        fee_recipient: header.beneficiary,
        gas_limit: header.gas_limit,
        withdrawals: withdrawals.into_inner(),
    };
    // What the owner chose at that time is not known, and does not change what a block holds.
    let rules = Rules {
        chain_id: specification.chain_id(),
        max_tx_gas: u64::MAX,
        min_tip_wei: 0,
        allow_unprotected: true,
    };
    let parent = (&tip.header, tip.hash);
    let store = Arc::clone(store);
    let mut builder = BlockBuilder::begin(store, specification, rules, parent, inputs)?;
    let raw = theirs.body.transactions.iter();
    let raw: Vec<bytes::Bytes> = raw.map(|tx| tx.encoded_2718().into()).collect();
    for (at, tx) in theirs.body.transactions.iter().enumerate() {
        let outcome = builder.execute(&raw[at], raw[at + 1..].iter())?;
        let included = matches!(outcome, Outcome::Included(_));
        eyre::ensure!(
            included,
            "transaction {} of block {number}: {outcome:?}",
            tx.tx_hash()
        );
    }
    let built = builder.finish(header.extra_data.clone())?;
    let (theirs, ours) = (header.hash_slow(), built.hash);
    let divergence = DriverError::Divergence {
        number,
        theirs,
        ours,
    };
    eyre::ensure!(ours == theirs, divergence);
    Ok(Closed {
        built,
        extra,
        trusted: genesis.clone(),
        left: None,
    })
}

/// Compares a block with the lists of all heights that it covers; `before` is told by its parent.
pub(crate) async fn prove(peers: &Peers, before: &ExtraData, last: &Header) -> eyre::Result<()> {
    let extra = ExtraData::decode(&last.extra_data)?;
    let (first, end) = (before.next_opening, extra.next_opening);
    eyre::ensure!(first < end, "covers no height: {first} to {end}");
    let (sequencer, id) = (peers.sequencer.clone(), peers.rollup.rollup_id);
    let mut follower = Follower::new(sequencer, id, peers.trusted.clone(), first);
    for height in first.get()..end.get() {
        let block = follower.next().await?;
        let env = &block.list.leaf().env;
        let opens = height == first.get();
        let same = env.number == last.number
            && env.slot.get() == last.timestamp
            && env.opens == opens
            && env.closes == (height + 1 == end.get());
        eyre::ensure!(
            same,
            "is not what height {height} of the sequencer makes: {env:?}"
        );
        let beacon_root = last.parent_beacon_block_root.unwrap_or_default();
        let same = env.prev_randao == last.mix_hash.0 && env.beacon_root == beacon_root.0;
        eyre::ensure!(!opens || same, "has other roots than height {height}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;
    use crate::{
        evm::MemStore,
        testing::{Rollup, config, paid, specification, specification_in, trusted, whole},
    };

    /// A fresh store, and what it holds.
    fn empty() -> (Arc<dyn Store>, Progress) {
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let first = config().first_height;
        let specification = specification_in(store.as_ref());
        let tip = Progress::open(store.as_ref(), &specification, first, &trusted());
        (store, tip.unwrap())
    }

    #[test]
    fn a_block_comes_out_as_it_was_or_not_at_all() {
        let mut rollup = Rollup::new();
        let made = rollup.push(whole(vec![paid(1, 0), paid(2, 0)]));
        let made = made.unwrap().unwrap();
        let again = |block: &RollupBlock| {
            let (store, tip) = empty();
            execute(&store, &tip, block, &specification(), &trusted())
        };
        let rebuilt = again(&made.built.block).unwrap();
        assert_eq!(rebuilt.built.hash, made.built.hash);
        assert_eq!(rebuilt.built.update.root, made.built.update.root);
        assert_eq!(rebuilt.extra, made.extra);

        let mut other = made.built.block.clone();
        other.header.state_root = B256::ZERO;
        let differs = again(&other).unwrap_err().to_string();
        assert!(
            differs.starts_with("execution client has block 1 as"),
            "{differs}"
        );
        let mut twice = made.built.block.clone();
        twice.body.transactions.swap(0, 1);
        assert!(again(&twice).is_err());
        let first = twice.body.transactions[0].clone();
        twice.body.transactions.push(first);
        let skipped = again(&twice).unwrap_err().to_string();
        assert!(skipped.ends_with("Skipped(Nonce)"), "{skipped}");
    }
}
