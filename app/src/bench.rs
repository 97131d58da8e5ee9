//! What benchmarks need of this crate: a mempool, and a chain, in a directory.

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use counterpoint_core::{
    genesis::SequencerGenesis,
    primitive::{Address, Hash, Height},
    slot::HeaderTime,
    transaction::SignedTransaction,
};
use counterpoint_machine::{
    Block, BlockContext, ChainStart, Room, finalize, init_chain, prepare, process, tree,
};

use crate::{
    mempool::{Gossip, Limits, Mempool},
    store::{Decided, Store, Tip},
};

/// Room for transactions in a block, in bytes.
const MAX_BYTES: u64 = 4_000_000;

/// A new chain in an empty directory.
fn start(path: &Path, chain_id: &str, genesis: &SequencerGenesis) -> eyre::Result<(Store, Tip)> {
    let report = |error: anyhow::Error| eyre::eyre!("{error:#}");
    let store = Store::open(path).map_err(report)?;
    let start = ChainStart::example(chain_id, time_at(0), &[1]);
    let changes = init_chain(genesis, &start)?;
    let (app_hash, pages) = tree::update(&tree::Pages::new(), &changes)?;
    let tip = Tip {
        height: Height::new(0),
        app_hash,
        initial: start.initial_height,
    };
    store.init(tip, &changes, &pages).map_err(report)?;
    Ok((store, tip))
}

/// Five blocks a second, from 1970 on.
fn time_at(height: u64) -> HeaderTime {
    HeaderTime {
        seconds: 1 + height / 5,
        nanos: 0,
    }
}

/// A chain without consensus: what each block costs the application.
#[derive(Debug)]
pub struct Chain {
    store: Store,
    mempool: Mempool,
    tip: Tip,
}

impl Chain {
    /// A new chain in an empty directory.
    ///
    /// # Errors
    /// The genesis or the directory is not as it must be.
    pub fn new(path: &Path, chain_id: &str, genesis: &SequencerGenesis) -> eyre::Result<Self> {
        let (store, tip) = start(path, chain_id, genesis)?;
        let mempool = Mempool::new(store.clone(), Limits::default(), Gossip::Direct);
        Ok(Self {
            store,
            mempool,
            tip,
        })
    }

    /// The height of the last block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.tip.height.get()
    }

    /// Proposes a block of transactions, judges it and commits it, as the proposer does. Gives how
    /// many transactions it holds.
    ///
    /// # Errors
    /// The store is broken, or the block is not valid.
    pub fn advance(&mut self, candidates: Vec<SignedTransaction>) -> eyre::Result<usize> {
        let height = Height::new(self.tip.height.get() + 1);
        let ctx = BlockContext {
            height,
            time: time_at(height.get()),
            proposer: Address::new([9; 20]),
            misbehaved: Vec::new(),
        };
        let state = self.store.state();
        let room = Room::new(&state, MAX_BYTES)?;
        let waiting = self.mempool.select(room, 0, &[]);
        let by_bytes = |tx: &SignedTransaction| (tx.as_bytes().clone(), tx.clone());
        let known: HashMap<Bytes, SignedTransaction> = candidates.iter().map(by_bytes).collect();
        let all = candidates.into_iter().chain(waiting).collect();
        let items = prepare(&state, &ctx, &[], all, MAX_BYTES)?;
        let block = Block::decode(&items, |item| known.get(item).cloned())?;
        let execution = process(&self.store.state(), &ctx, &block)?;
        let outcome = finalize(execution, Hash::digest(&[&height.get().to_be_bytes()]))?;
        let (app_hash, pages) = tree::update(&self.store, &outcome.changes)?;
        let items = block.item_hashes();
        let count = items.len() - 1;
        self.tip = Tip {
            height,
            app_hash,
            ..self.tip
        };
        let decided = Decided {
            tip: self.tip,
            time: ctx.time,
            items,
            outcome,
            pages,
        };
        self.store
            .commit(decided)
            .map_err(|error| eyre::eyre!("{error:#}"))?;
        Ok(count)
    }
}

/// A mempool at height 0.
#[derive(Debug)]
pub struct Pool {
    store: Store,
    mempool: Mempool,
}

impl Pool {
    /// A new chain in an empty directory.
    ///
    /// # Errors
    /// The genesis or the directory is not as it must be.
    pub fn new(path: &Path, chain_id: &str, genesis: &SequencerGenesis) -> eyre::Result<Self> {
        let (store, _) = start(path, chain_id, genesis)?;
        let mempool = Mempool::new(store.clone(), Limits::default(), Gossip::Direct);
        Ok(Self { store, mempool })
    }

    /// Offers what a peer sent; gives the code.
    #[must_use]
    pub fn offer(&self, item: &[u8]) -> u32 {
        self.mempool.insert(item)
    }

    /// Looks at the next batch of offers; says whether there was one.
    ///
    /// # Errors
    /// The store is broken.
    pub fn take_in_next(&self) -> eyre::Result<bool> {
        Ok(self.mempool.take_in_next()?)
    }

    /// Whether a transaction waits.
    #[must_use]
    pub fn holds(&self, item: &[u8]) -> bool {
        self.mempool.holds(item)
    }

    /// Transactions that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mempool.size().0
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many transactions a proposer takes for a block of so many bytes.
    ///
    /// # Errors
    /// The store is broken.
    pub fn select(&self, bytes: u64) -> eyre::Result<usize> {
        let room = Room::new(&self.store.state(), bytes)?;
        Ok(self.mempool.select(room, 0, &[]).len())
    }
}
