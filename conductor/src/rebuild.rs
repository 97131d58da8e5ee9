//! `rebuild`: a store from the client's own blocks, when the conductor's is lost.
//!
//! Every block is executed once more and must have the client's hash, so state and history become
//! the client's, to the last bit. Whether they are the sequencer's is another question: before
//! anything is written, the last block is compared with the lists that it covers, which are proven,
//! and what follows is derived as ever. `verify` answers the whole of it, if an archive still has
//! every list.
//!
//! In thin mode nothing is executed: the client's blocks are kept as they are, as a chain. A store that
//! leaves thin mode is filled from its own blocks.

use std::{path::Path, sync::Arc};

use alloy_consensus::Header;
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::B256;
use counterpoint_core::{cursor::ExtraData, light::TrustedState};
use counterpoint_service::{Bar, sequencer::Follower};
use eyre::{WrapErr, eyre};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Config,
    assembly::Closed,
    board::Board,
    chain_spec::Specification,
    derive::Rules,
    engine::{BlockId, DriverError, ExecutionClient},
    evm::{
        Batch, BlockBuilder, BlockInputs, BuiltBlock, DiskStore, Outcome, RollupBlock, StateUpdate,
        Store, Table,
    },
    mode::{Mode, give_up_state, is_thin, refilled, stage_embedded, stage_refilled},
    progress::{Progress, read_block, stage_block},
    snapshot::check_block,
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
    match config.mode {
        Mode::Thin => tokio::task::block_in_place(|| give_up_state(store.as_ref()))?,
        Mode::Embedded => refill(config, &store, &peers).await?,
    }
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
    let bar = Bar::steps("blocks", head);
    while tip.header.number < head {
        let number = tip.header.number + 1;
        let theirs = theirs(&peers, number).await?;
        let built = tokio::task::block_in_place(|| match config.mode {
            Mode::Embedded => execute(
                &store,
                (&tip.header, tip.hash),
                &theirs,
                &peers.specification,
            ),
            Mode::Thin => adopt(tip.hash, theirs),
        })?;
        let other = number == head && built.hash != proven;
        eyre::ensure!(
            !other,
            "the client's block {head} changed meanwhile: start again"
        );
        let closed = closed(built, &peers.trusted)?;
        let (progress, _, batch) = Progress::after(closed, &peers.specification)?;
        tokio::task::block_in_place(|| store.commit(batch))?;
        tip = progress;
        bar.reach(number);
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

/// Fills a store that was in thin mode, if this one was.
pub(crate) async fn refill(
    config: &Config,
    store: &Arc<dyn Store>,
    peers: &Peers,
) -> eyre::Result<()> {
    if !is_thin(store.as_ref())? {
        return Ok(());
    }
    let (first, specification) = (peers.rollup.first_height, &peers.specification);
    let tip = Progress::open(store.as_ref(), specification, first, &peers.trusted)?;
    let theirs = async |number| theirs(peers, number).await;
    execute_again(
        store,
        specification,
        &config.rollup_genesis,
        tip.head(),
        theirs,
    )
    .await
}

/// Executes the blocks up to `last` once more, from the genesis state on, until the store has the state
/// after it. It goes on where it was; until it is done, the store stays one of thin mode.
async fn execute_again(
    store: &Arc<dyn Store>,
    specification: &Specification,
    genesis: &Path,
    last: BlockId,
    theirs: impl AsyncFn(u64) -> eyre::Result<RollupBlock>,
) -> eyre::Result<()> {
    let BlockId { number: last, hash } = last;
    let done = match refilled(store.as_ref())? {
        Some(done) => done,
        None => tokio::task::block_in_place(|| {
            specification.import_again(genesis, store.as_ref())?;
            let mut batch = Batch::new();
            stage_refilled(&mut batch, 0);
            store.commit(batch)?;
            Ok::<_, eyre::Report>(0)
        })?,
    };
    info!(
        from = done + 1,
        to = last,
        "mode was thin: executing the blocks again for their state"
    );
    let mut parent = stored_or(store, done, &theirs).await?;
    for number in done + 1..=last {
        let (hash, block) = stored_or(store, number, &theirs).await?;
        tokio::task::block_in_place(|| {
            let built = execute(store, (&parent.1.header, parent.0), &block, specification)?;
            let mut batch = built.update.batch;
            stage_block(&mut batch, hash, &block);
            stage_refilled(&mut batch, number);
            Ok::<_, eyre::Report>(store.commit(batch)?)
        })?;
        if number.is_multiple_of(SAY_EVERY) {
            info!(number, last, "executed again");
        }
        parent = (hash, block);
        // A signal may end this here.
        tokio::task::yield_now().await;
    }
    let mut batch = Batch::new();
    stage_embedded(&mut batch);
    store.commit(batch)?;
    info!(number = last, %hash, "the store has the state again");
    Ok(())
}

/// A block of the store; one that began with a snapshot lacks the first ones.
async fn stored_or(
    store: &Arc<dyn Store>,
    number: u64,
    theirs: &impl AsyncFn(u64) -> eyre::Result<RollupBlock>,
) -> eyre::Result<(B256, RollupBlock)> {
    if store.get(Table::Blocks, &number.to_be_bytes())?.is_some() {
        return Ok(read_block(store.as_ref(), number)?);
    }
    let block = theirs(number).await?;
    Ok((block.header.hash_slow(), block))
}

/// Takes a block of the client over as it is, if it follows `parent`.
fn adopt(parent: B256, theirs: RollupBlock) -> eyre::Result<BuiltBlock> {
    let number = theirs.header.number;
    eyre::ensure!(
        theirs.header.parent_hash == parent,
        "block {number} of the client does not follow the one before it"
    );
    check_block(&theirs)?;
    let (root, batch) = (theirs.header.state_root, Batch::new());
    Ok(BuiltBlock {
        hash: theirs.header.hash_slow(),
        block: theirs,
        update: StateUpdate { root, batch },
    })
}

/// What a block of the client leads to.
fn closed(built: BuiltBlock, genesis: &TrustedState) -> eyre::Result<Closed> {
    let header = &built.block.header;
    let number = header.number;
    let extra = ExtraData::decode(&header.extra_data)
        .wrap_err_with(|| format!("block {number} of the client has foreign extra data"))?;
    Ok(Closed {
        built,
        extra,
        trusted: genesis.clone(),
        left: None,
        legs: Vec::new(),
    })
}

/// Executes a block on top of `parent`; it must come out as it is.
fn execute(
    store: &Arc<dyn Store>,
    parent: (&Header, B256),
    theirs: &RollupBlock,
    specification: &Specification,
) -> eyre::Result<BuiltBlock> {
    let header = &theirs.header;
    let number = header.number;
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
    let states = Arc::new(Arc::clone(store));
    let mut builder = BlockBuilder::begin(states, specification, rules, parent, inputs)?;
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
    Ok(built)
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
    use std::fs;

    use super::*;
    use crate::{
        evm::{Entry, MemStore},
        testing::{
            Dying, Rollup, config, genesis, paid, specification, specification_in, trusted, whole,
        },
    };

    fn contents(store: &dyn Store) -> Vec<(Table, Vec<Entry>)> {
        let tables = [
            Table::Accounts,
            Table::Slots,
            Table::Code,
            Table::Nodes,
            Table::Blocks,
            Table::Meta,
            Table::Import,
        ];
        let all = |table| (table, store.scan(table, &[], usize::MAX).unwrap());
        tables.map(all).into()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_while_modes_change_loses_nothing() {
        let mut rollup = Rollup::new();
        for nonce in 0..3 {
            rollup
                .push(whole(vec![paid(1, nonce), paid(2, nonce)]))
                .unwrap();
        }
        let (whole, head) = (contents(rollup.store().as_ref()), rollup.progress.head());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("genesis.json");
        fs::write(&file, serde_json::to_vec(&genesis()).unwrap()).unwrap();
        let nobodys = async |number| panic!("block {number} is in the store");
        let there_and_back = async |store: &Arc<dyn Store>| {
            if !is_thin(store.as_ref())? {
                give_up_state(store.as_ref())?;
            }
            let specification = Specification::load(&file, store.as_ref())?;
            execute_again(store, &specification, &file, head, nobodys).await
        };
        for writes in 0.. {
            let copy = MemStore::default();
            for (table, entries) in &whole {
                let entries = entries.iter().cloned();
                let batch = entries.map(|(key, value)| ((*table, key), Some(value)));
                copy.commit(batch.collect()).unwrap();
            }
            let dying = Arc::new(Dying::new(Arc::new(copy), writes));
            let store = Arc::clone(&dying) as Arc<dyn Store>;
            let done = there_and_back(&store).await.is_ok();
            let store = dying.live_on();
            if done {
                assert_eq!(contents(store.as_ref()), whole);
                assert!(writes > 12, "{writes}");
                return;
            }
            // It goes on, or turns back half way and comes again.
            if writes % 2 == 1 && is_thin(store.as_ref()).unwrap() {
                give_up_state(store.as_ref()).unwrap();
                assert!(store.scan(Table::Nodes, &[], 1).unwrap().is_empty());
            }
            there_and_back(&store).await.unwrap();
            assert_eq!(contents(store.as_ref()), whole, "{writes} writes");
        }
    }

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
            execute(&store, (&tip.header, tip.hash), block, &specification())
        };
        let rebuilt = again(&made.built.block).unwrap();
        assert_eq!(rebuilt.hash, made.built.hash);
        assert_eq!(rebuilt.update.root, made.built.update.root);
        let rebuilt = closed(rebuilt, &trusted()).unwrap();
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
