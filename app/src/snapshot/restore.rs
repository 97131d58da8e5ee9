//! From a peer's chunks to this node's state. Peers are not trusted: every chunk must have the
//! digest that the metadata names, and the state that they make must have the root which the light
//! client of CometBFT verified.

use counterpoint_abci::proto::abci::Snapshot;
use counterpoint_core::primitive::{Hash, Height};
use tracing::info;

use super::format::{ChunkError, Entries, FORMAT, MAX_CHUNK_BYTES, Metadata, MetadataError};
use crate::{
    store::{Store, Tip},
    upgrade::{Guard, Missing},
};

/// Entries that are written at a time; bounds memory.
const STEP_ENTRIES: usize = 8_192;

/// A restore that is under way.
#[derive(Debug)]
pub(crate) struct Restore {
    store: Store,
    guard: Guard,
    metadata: Metadata,
    app_hash: Hash,
    /// The chunk that comes next.
    next: u32,
    /// The greatest key so far.
    last_key: Vec<u8>,
}

/// Why a snapshot is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    /// Another software's.
    #[error("unknown format {0}")]
    Format(u32),
    /// It contradicts itself.
    #[error("metadata is not valid")]
    Metadata(#[from] MetadataError),
    /// It is not what its metadata says.
    #[error("its {0} is not that of its metadata")]
    Mismatch(&'static str),
    /// No chain of ours has such a header.
    #[error("app hash has {0} bytes, must have 32")]
    AppHash(usize),
    /// This node has a state that must not be overwritten.
    #[error("data_dir holds the chain up to height {0}: to sync anew, use an empty one")]
    NotFresh(Height),
    /// A broken node.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}

/// Why a chunk is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// CometBFT lost count.
    #[error("expected chunk {expected}, got {actual}")]
    Order {
        /// The next one.
        expected: u32,
        /// What came.
        actual: u32,
    },
    /// The sender's fault: it is not the chunk that the metadata names.
    #[error("chunk {0} is not the one that was promised")]
    Damaged(u32),
    /// The fault of whoever made the snapshot.
    #[error("chunk {index} is malformed")]
    Malformed {
        /// Which.
        index: u32,
        /// What is wrong with it.
        source: ChunkError,
    },
    /// The snapshot is of another state.
    #[error("the state has the root {actual}, the chain has {expected}")]
    Root {
        /// In the header.
        expected: Hash,
        /// What the chunks make.
        actual: Hash,
    },
    /// The snapshot lies about the chain.
    #[error("the chain begins at {0}, not where the metadata says")]
    Initial(Height),
    /// This node cannot follow the chain.
    #[error(transparent)]
    Beyond(Missing),
    /// A broken node.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More chunks must come.
    Unfinished,
    /// This is where the node stands now.
    Restored(Tip),
}

impl Restore {
    /// Begins to restore `offer`, whose state must have the root `app_hash` and be one that `guard`
    /// lets this software follow.
    ///
    /// # Errors
    /// [`OfferError`] if it is not taken; then nothing has changed.
    pub(crate) fn begin(
        store: &Store,
        guard: &Guard,
        offer: &Snapshot,
        app_hash: &[u8],
    ) -> Result<Self, OfferError> {
        if offer.format != FORMAT {
            return Err(OfferError::Format(offer.format));
        }
        let metadata = Metadata::decode(&offer.metadata)?;
        let hash = metadata.hash();
        let mismatch = |what| Err(OfferError::Mismatch(what));
        if offer.hash[..] != hash.as_bytes()[..] {
            return mismatch("hash");
        }
        if offer.height != metadata.height.get() {
            return mismatch("height");
        }
        if offer.chunks as usize != metadata.chunks.len() {
            return mismatch("number of chunks");
        }
        let length = app_hash.len();
        let app_hash = app_hash.try_into().map(Hash::new);
        let app_hash = app_hash.map_err(|_| OfferError::AppHash(length))?;
        if !store.is_fresh()? {
            return Err(OfferError::NotFresh(store.tip()?.height));
        }
        store.begin_restore()?;
        info!(height = %metadata.height, chunks = offer.chunks, %hash, "restoring a snapshot");
        let last_key = Vec::new();
        Ok(Self {
            store: store.clone(),
            guard: guard.clone(),
            metadata,
            app_hash,
            next: 0,
            last_key,
        })
    }

    /// Takes the next chunk; the last one ends the restore.
    ///
    /// # Errors
    /// [`ApplyError::Order`] and [`ApplyError::Damaged`] change nothing; after any other the
    /// restore is at its end, and nothing of it is left.
    pub(crate) fn apply(&mut self, index: u32, chunk: &[u8]) -> Result<Progress, ApplyError> {
        let (expected, actual) = (self.next, index);
        if actual != expected {
            return Err(ApplyError::Order { expected, actual });
        }
        let promised = self.metadata.chunks.get(index as usize);
        if chunk.len() > MAX_CHUNK_BYTES || promised != Some(&Hash::digest(&[chunk])) {
            return Err(ApplyError::Damaged(index));
        }
        let applied = self.take(index, chunk);
        if applied.is_err() {
            self.store.abandon_restore()?;
        }
        applied
    }

    fn take(&mut self, index: u32, chunk: &[u8]) -> Result<Progress, ApplyError> {
        let malformed = |source| ApplyError::Malformed { index, source };
        let mut entries = Entries::of(chunk).map_err(malformed)?;
        let mut step = Vec::new();
        while let Some((key, value)) = entries.next().map_err(malformed)? {
            if key <= self.last_key {
                return Err(malformed(ChunkError::Order));
            }
            self.last_key.clone_from(&key);
            step.push((key, value));
            if step.len() == STEP_ENTRIES {
                self.store.restore_entries(&std::mem::take(&mut step))?;
            }
        }
        self.store.restore_entries(&step)?;
        self.next += 1;
        if self.next as usize == self.metadata.chunks.len() {
            return self.finish().map(Progress::Restored);
        }
        Ok(Progress::Unfinished)
    }

    fn finish(&self) -> Result<Tip, ApplyError> {
        let Metadata {
            height, initial, ..
        } = self.metadata;
        let (expected, actual) = (self.app_hash, self.store.restore_tree()?);
        if actual != expected {
            return Err(ApplyError::Root { expected, actual });
        }
        let proven = self.store.restored_initial()?;
        if proven != initial {
            return Err(ApplyError::Initial(proven));
        }
        let tip = Tip {
            height,
            app_hash: self.app_hash,
            initial,
        };
        // CometBFT must not hear of it: it would take the state for its own, and one that loses its
        // application in the middle of that never starts again.
        if let Some(missing) = self.guard.judge(&self.store.state(), &tip)? {
            return Err(ApplyError::Beyond(missing));
        }
        self.store.finish_restore(tip)?;
        info!(%height, app_hash = %tip.app_hash, "snapshot restored");
        Ok(tip)
    }
}
