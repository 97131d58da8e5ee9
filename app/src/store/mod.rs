//! What a node keeps: state, tree, each rollup's lists, and signed headers.
//!
//! A block is one atomic batch. It is not synced to disk: after a power cut CometBFT replays the
//! blocks that are missing, and a batch is there as a whole or not at all.
//!
//! ```text
//! block ─▶ blocks   one record: item hashes, preamble, all leaves     read ─▶ paths are built then,
//!      └─▶ lists    only of rollups that have items                          and shared by readers
//! ```

mod blocks;
mod prune;
mod restore;

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
pub(crate) use blocks::{ChangedBundles, Slice};
use blocks::{Configs, Recent};
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::{
    primitive::{Hash, Height},
    slot::HeaderTime,
    state::StateProof,
};
use counterpoint_machine::{
    Changes, Entries, Outcome, StateRead, StoreError,
    tree::{self, Page, PagePath, Pages, TreeRead},
};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable, Snapshot,
};

/// Where the [`Tip`] stands.
const TIP: &[u8] = b"tip";

/// Most states that are kept for proofs: that of the tip, whose header is still to come, the one
/// before, and some more for headers that are late.
const MAX_PROVABLE: usize = 4;

/// Bytes of lists after which they are written to their place.
const LISTS_IN_MEMORY: u64 = 16 << 20;

/// Changes when the layout of the database does.
const FORMAT: u32 = 4;

/// The database of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    database: Database,
    meta: Keyspace,
    state: Keyspace,
    tree: Keyspace,
    blocks: Keyspace,
    lists: Keyspace,
    configs: Keyspace,
    transactions: Keyspace,
    bundles: Keyspace,
    headers: Keyspace,
    validators: Keyspace,
    recent: Arc<Recent>,
    provable: Arc<Mutex<VecDeque<StateSnapshot>>>,
    used_configs: Arc<Mutex<Option<Configs>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Where the chain stands, as far as this node has committed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Tip {
    /// The last committed height; 0 before the first block.
    pub(crate) height: Height,
    /// The root of the state after it.
    pub(crate) app_hash: Hash,
    /// The first height of the chain.
    pub(crate) initial: Height,
}

/// Where a transaction is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Place {
    /// The block that holds it.
    pub(crate) height: Height,
    /// Its place there, the preamble counted.
    pub(crate) index: u32,
    /// 0 if it was executed.
    pub(crate) code: u32,
    /// Why not.
    pub(crate) log: String,
}

/// A decided block, executed and about to be committed.
#[derive(Debug)]
pub(crate) struct Decided {
    /// Where the chain stands with it.
    pub(crate) tip: Tip,
    /// What its header says about when.
    pub(crate) time: HeaderTime,
    /// Hashes of its items, in order.
    pub(crate) items: Vec<Hash>,
    /// What it did.
    pub(crate) outcome: Outcome,
    /// The tree's part of it.
    pub(crate) pages: Pages,
}

impl Store {
    /// Opens the database, or makes a new one.
    ///
    /// # Errors
    /// The directory cannot be used, or its contents are of another layout.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("failed to create data_dir {}", path.display()))?;
        let database = match Database::builder(path).open() {
            Ok(database) => database,
            Err(fjall::Error::Locked) => anyhow::bail!(
                "data_dir {} is in use by another process: give every node one of its own",
                path.display()
            ),
            Err(fjall::Error::InvalidVersion(version)) => anyhow::bail!(
                "data_dir {} holds {}: use an empty data_dir",
                path.display(),
                version.map_or_else(
                    || "a database whose making was interrupted".into(),
                    |version| format!("a database of another kind, {version:?}")
                )
            ),
            Err(error) => {
                let what = format!("failed to open the database in {}", path.display());
                return Err(error).context(what);
            }
        };
        let keyspace = |name: &str| database.keyspace(name, KeyspaceCreateOptions::default);
        // Long values that are written once: they are never moved by a compaction, and what waits to
        // be written fits into memory that is used again soon.
        let lists = || {
            KeyspaceCreateOptions::default()
                .with_kv_separation(Some(KvSeparationOptions::default()))
                .max_memtable_size(LISTS_IN_MEMORY)
        };
        let store = Self {
            meta: keyspace("meta")?,
            state: keyspace("state")?,
            tree: keyspace("tree")?,
            blocks: keyspace("blocks")?,
            lists: database.keyspace("lists", lists)?,
            configs: keyspace("configs")?,
            transactions: keyspace("transactions")?,
            bundles: keyspace("bundles")?,
            headers: keyspace("headers")?,
            validators: keyspace("validators")?,
            recent: Arc::default(),
            provable: Arc::default(),
            used_configs: Arc::default(),
            database: database.clone(),
        };
        match store.read::<u32>(&store.meta, b"format")? {
            None => store.meta.insert(b"format", FORMAT.to_le_bytes())?,
            Some(FORMAT) => {}
            Some(format) => anyhow::bail!(
                "the database in {} has format {format}, this software writes {FORMAT}: \
                 use the version that wrote it, or an empty data_dir",
                path.display()
            ),
        }
        store.clean_up()?;
        Ok(store)
    }

    /// Where the chain stands; all zero before InitChain.
    ///
    /// # Errors
    /// The database cannot be read; the same for all reads.
    pub(crate) fn tip(&self) -> anyhow::Result<Tip> {
        Ok(self.read(&self.meta, TIP)?.unwrap_or_default())
    }

    /// Writes the first state and its tree, in place of one that never led to a block.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn init(&self, tip: Tip, changes: &Changes, pages: &Pages) -> anyhow::Result<()> {
        // Without a tip there is no chain, whatever else is left if this ends half way.
        self.meta.remove(TIP)?;
        self.state.clear()?;
        self.tree.clear()?;
        let mut batch = self.database.batch();
        self.stage_state(&mut batch, changes, pages);
        batch.insert(&self.meta, TIP, borsh::to_vec(&tip)?);
        Ok(batch.commit()?)
    }

    /// Writes a decided block, as a whole.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn commit(&self, decided: Decided) -> anyhow::Result<()> {
        let height = decided.tip.height;
        let mut batch = self.database.batch();
        self.stage_bundles(&mut batch, height, &decided.outcome.changes)?;
        self.stage_state(&mut batch, &decided.outcome.changes, &decided.pages);
        batch.insert(&self.meta, TIP, borsh::to_vec(&decided.tip)?);
        let configs = self.stage_block(&mut batch, decided)?;
        let written = batch.commit();
        written.with_context(|| format!("failed to write block {height}"))?;
        self.use_configs(configs);
        let mut provable = self.provable.lock().unwrap_or_else(PoisonError::into_inner);
        provable.truncate(MAX_PROVABLE - 1);
        provable.push_front(self.state());
        Ok(())
    }

    /// The newest state that a signed header commits to, and that header's height: the next one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn provable(&self) -> anyhow::Result<Option<(StateSnapshot, Height)>> {
        let states = self
            .provable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for state in states {
            let next = Height::new(state.tip()?.height.get() + 1);
            if self.header(next)?.is_some() {
                return Ok(Some((state, next)));
            }
        }
        Ok(None)
    }

    /// Returns once everything committed before is on disk for good.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn stage_state(&self, batch: &mut fjall::OwnedWriteBatch, changes: &Changes, pages: &Pages) {
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.state, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.state, key.as_slice()),
            }
        }
        // The tree holds the newest state only; history is in the blocks.
        self.stage_pages(batch, pages);
    }

    fn stage_pages(&self, batch: &mut fjall::OwnedWriteBatch, pages: &Pages) {
        for (path, page) in pages {
            match page {
                Some(page) => batch.insert(&self.tree, path.key(), page.encode()),
                None => batch.remove(&self.tree, path.key()),
            }
        }
    }

    /// The committed state as it is now, whatever is committed while it is read.
    #[must_use]
    pub(crate) fn state(&self) -> StateSnapshot {
        StateSnapshot {
            snapshot: self.database.snapshot(),
            meta: self.meta.clone(),
            state: self.state.clone(),
            tree: self.tree.clone(),
        }
    }

    /// Keeps a signed header, and the validators where they differ from the height before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn put_header(
        &self,
        height: Height,
        signed_header: &[u8],
        validators: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        let key = height.get().to_be_bytes();
        let mut batch = self.database.batch();
        batch.insert(&self.headers, key, signed_header);
        if let Some(validators) = validators {
            batch.insert(&self.validators, key, validators);
        }
        Ok(batch.commit()?)
    }

    /// The signed header of a height.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn header(&self, height: Height) -> anyhow::Result<Option<Bytes>> {
        let header = self.headers.get(height.get().to_be_bytes())?;
        Ok(header.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// The last height with a signed header; all before it have one too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn last_header(&self) -> anyhow::Result<Option<Height>> {
        let Some(last) = self.headers.last_key_value() else {
            return Ok(None);
        };
        let key: [u8; 8] = last
            .key()?
            .as_ref()
            .try_into()
            .context("a header's key is a height")?;
        Ok(Some(Height::new(u64::from_be_bytes(key))))
    }

    /// The validators of a height, and whether they are other ones than the height before had.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn validators(&self, height: Height) -> anyhow::Result<Option<(Bytes, bool)>> {
        let key = height.get().to_be_bytes();
        let Some(last) = self.validators.range(..=key).next_back() else {
            return Ok(None);
        };
        let (since, validators) = last.into_inner()?;
        Ok(Some((
            Bytes::copy_from_slice(&validators),
            since.as_ref() == key,
        )))
    }

    fn read<T: BorshDeserialize>(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
    ) -> anyhow::Result<Option<T>> {
        let bytes = keyspace.get(key)?;
        bytes.map(|bytes| decode(keyspace, key, &bytes)).transpose()
    }
}

fn decode<T: BorshDeserialize>(keyspace: &Keyspace, key: &[u8], value: &[u8]) -> anyhow::Result<T> {
    borsh::from_slice(value)
        .with_context(|| format!("corrupt value under {key:02x?} in {}", keyspace.name()))
}

/// The committed state at one moment.
#[derive(Clone)]
pub(crate) struct StateSnapshot {
    snapshot: Snapshot,
    meta: Keyspace,
    state: Keyspace,
    tree: Keyspace,
}

impl std::fmt::Debug for StateSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSnapshot").finish_non_exhaustive()
    }
}

impl StateSnapshot {
    /// Where the chain stands in this state.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn tip(&self) -> anyhow::Result<Tip> {
        let tip = self.snapshot.get(&self.meta, TIP)?;
        Ok(tip
            .map(|tip| decode(&self.meta, TIP, &tip))
            .transpose()?
            .unwrap_or_default())
    }

    /// Proves what stands under a key.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn prove(&self, key: &[u8]) -> anyhow::Result<StateProof> {
        Ok(StateProof::new(self.get(key)?, tree::path(self, key)?))
    }

    /// Every key and its value, in the order of keys.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> {
        self.snapshot.iter(&self.state).map(entry)
    }
}

fn entry(guard: fjall::Guard) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let (key, value) = guard.into_inner().map_err(fault)?;
    Ok((key.to_vec(), value.to_vec()))
}

impl StateRead for StateSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get(&self.state, key).map_err(fault)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        self.snapshot
            .prefix(&self.state, prefix)
            .map(entry)
            .collect()
    }
}

fn fault(error: fjall::Error) -> StoreError {
    let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    error.into()
}

impl TreeRead for StateSnapshot {
    fn page(&self, path: &PagePath) -> Result<Option<Page>, StoreError> {
        let page = self.snapshot.get(&self.tree, path.key()).map_err(fault)?;
        page.map(|page| Page::decode(&page)).transpose()
    }
}

impl TreeRead for Store {
    fn page(&self, path: &PagePath) -> Result<Option<Page>, StoreError> {
        let page = self.tree.get(path.key()).map_err(fault)?;
        page.map(|page| Page::decode(&page)).transpose()
    }
}

#[cfg(test)]
mod tests;
