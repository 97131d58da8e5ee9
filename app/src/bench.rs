//! What benchmarks need of this crate: a mempool over a chain in a directory.

use std::path::Path;

use counterpoint_core::{
    genesis::SequencerGenesis,
    primitive::{Hash, Height},
    slot::HeaderTime,
};
use counterpoint_machine::{ChainStart, Room, init_chain, tree};

use crate::{
    mempool::{Gossip, Limits, Mempool},
    store::{Store, Tip},
};

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
        let report = |error: anyhow::Error| eyre::eyre!("{error:#}");
        let store = Store::open(path).map_err(report)?;
        let start = ChainStart::example(chain_id, HeaderTime::default(), &[1]);
        let changes = init_chain(genesis, &start)?;
        let initial = start.initial_height;
        let (app_hash, tree) = tree::update(&store, 0, &changes)?;
        let (height, nothing) = (Height::new(0), Hash::ZERO);
        let tip = Tip {
            height,
            app_hash: nothing,
            initial,
        };
        store
            .init(Tip { app_hash, ..tip }, &changes, &tree)
            .map_err(report)?;
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
