use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Mutex, PoisonError, RwLock},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

/// The tables of a conductor's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Accounts by address.
    Accounts,
    /// Storage slots by address and slot.
    Slots,
    /// Code by hash.
    Code,
    /// Trie nodes by path.
    Nodes,
    /// Executed blocks by number: hash and RLP.
    Blocks,
    /// What recovery starts from.
    Meta,
    /// Accounts of a genesis file by the hash of their address, while it is imported.
    Import,
}

impl Table {
    const ALL: [Self; 7] = [
        Self::Accounts,
        Self::Slots,
        Self::Code,
        Self::Nodes,
        Self::Blocks,
        Self::Meta,
        Self::Import,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Slots => "slots",
            Self::Code => "code",
            Self::Nodes => "nodes",
            Self::Blocks => "blocks",
            Self::Meta => "meta",
            Self::Import => "import",
        }
    }
}

/// A table, and a key in it.
pub type TableKey = (Table, Vec<u8>);

/// A key, and what stands under it.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Writes that become visible together; `None` deletes.
pub type Batch = BTreeMap<TableKey, Option<Vec<u8>>>;

/// The store is broken, which never looks like a bad transaction.
#[derive(Debug, thiserror::Error)]
#[error("conductor store: {0}")]
pub struct StoreError(String);

impl StoreError {
    /// A value that this software cannot have written, or a disk that fails.
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl revm::context_interface::DBErrorMarker for StoreError {}

/// Where state, blocks and progress are kept.
pub trait Store: fmt::Debug + Send + Sync {
    /// The value under a key.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All keys of a table that start with `prefix`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError>;

    /// The first `limit` entries of a table from `from` on, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Empties a table. It may be half empty after a crash.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    fn clear(&self, table: Table) -> Result<(), StoreError>;

    /// Writes all of `batch`, or nothing, and syncs it to disk.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemStore(RwLock<BTreeMap<TableKey, Vec<u8>>>);

impl Store for MemStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(values.get(&(table, key.to_vec())).cloned())
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let from = values.range((table, prefix.to_vec())..);
        let within = from.take_while(|((at, key), _)| *at == table && key.starts_with(prefix));
        Ok(within.map(|((_, key), _)| key.clone()).collect())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let from = values.range((table, from.to_vec())..);
        let within = from.take_while(|((at, _), _)| *at == table).take(limit);
        let entry = |((_, key), value): (&TableKey, &Vec<u8>)| (key.clone(), value.clone());
        Ok(within.map(entry).collect())
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        let mut values = self.0.write().unwrap_or_else(PoisonError::into_inner);
        values.retain(|(at, _), _| *at != table);
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut values = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            match value {
                Some(value) => values.insert(key, value),
                None => values.remove(&key),
            };
        }
        Ok(())
    }
}

/// Writes of one table that are kept in memory before they are sorted into files.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// What helps when the disk has not kept what it was given.
const ANEW: &str = "if the disk has lost data, empty data_dir, and run `conductor rebuild`, or start \
                    the conductor, which derives every block again if a node has all lists";

/// Where every table keeps the number of the last commit; it sorts behind all other keys.
const MARK: [u8; 96] = [0xff; 96];

/// A store on disk.
///
/// Every commit leaves its number in every table. A disk that loses what it was given may keep newer
/// writes of one table than of another; such a store is recognised, and never used.
pub struct DiskStore {
    database: Database,
    tables: BTreeMap<Table, Keyspace>,
    /// The number of the last commit.
    commits: Mutex<u64>,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in a directory, or makes a new one. What was read stays in memory up to
    /// `cache_bytes`.
    ///
    /// # Errors
    /// [`StoreError`] names the directory.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let at = |error: &dyn fmt::Display| StoreError(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(|error| at(&error))?;
        let database = Database::builder(path)
            .cache_size(cache_bytes)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => {
                    at(&"in use by another process: give every conductor a data_dir of its own")
                }
                error => at(&format_args!("{error}; {ANEW}")),
            })?;
        let open = |table: Table| {
            let options = || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .expect_point_read_hits(table == Table::Nodes)
            };
            let keyspace = database.keyspace(table.name(), options);
            Ok((table, keyspace.map_err(|error| at(&error))?))
        };
        let tables = Table::ALL
            .into_iter()
            .map(open)
            .collect::<Result<_, StoreError>>()?;
        let store = Self {
            tables,
            database: database.clone(),
            commits: Mutex::new(0),
        };
        store
            .check_marks()
            .map_err(|StoreError(error)| at(&error))?;
        Ok(store)
    }

    /// Demands that all tables are of the same commit. What no block was built upon is forgotten
    /// instead: it can be imported again.
    fn check_marks(&self) -> Result<(), StoreError> {
        let mut marks = BTreeMap::new();
        for (table, keyspace) in &self.tables {
            let mark = keyspace.get(MARK).map_err(unreadable)?;
            let mark = mark.and_then(|mark| <[u8; 8]>::try_from(mark.as_ref()).ok());
            marks.insert(table.name(), mark.map_or(0, u64::from_be_bytes));
        }
        let last = marks.values().copied().max().unwrap_or_default();
        *self.commits.lock().unwrap_or_else(PoisonError::into_inner) = last;
        if marks.values().all(|mark| *mark == last) {
            return Ok(());
        }
        if !self.scan(Table::Blocks, &[], 1)?.is_empty() {
            let torn = "tables are not of the same commit";
            return Err(StoreError(format!("{torn}, {marks:?}; {ANEW}")));
        }
        let known = self.keys(Table::Meta, &[])?.into_iter();
        self.commit(known.map(|key| ((Table::Meta, key), None)).collect())
    }

    fn table(&self, table: Table) -> Result<&Keyspace, StoreError> {
        self.tables
            .get(&table)
            .ok_or_else(|| StoreError::new("missing table"))
    }
}

fn unreadable(error: impl fmt::Display) -> StoreError {
    StoreError(format!("cannot be read: {error}; {ANEW}"))
}

impl Store for DiskStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.table(table)?.get(key).map_err(unreadable)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let entries = self.table(table)?.prefix(prefix);
        let keys = entries.map(|entry| Ok(entry.key().map_err(unreadable)?.to_vec()));
        keys.filter(|key| !key.as_ref().is_ok_and(|key| *key == MARK))
            .collect()
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let entries = self.table(table)?.range(from..&MARK[..]).take(limit);
        let entry =
            |(key, value): (fjall::UserKey, fjall::UserValue)| (key.to_vec(), value.to_vec());
        entries
            .map(|found| found.into_inner().map(entry).map_err(unreadable))
            .collect()
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let keyspace = self.table(table)?;
        keyspace.clear().map_err(StoreError::new)?;
        let marked = keyspace.insert(MARK, commits.to_be_bytes());
        marked.map_err(StoreError::new)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncAll));
        for ((table, key), value) in batch {
            let keyspace = self.table(table)?;
            match value {
                Some(value) => writes.insert(keyspace, key, value),
                None => writes.remove(keyspace, key),
            }
        }
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let number = commits.saturating_add(1);
        for keyspace in self.tables.values() {
            writes.insert(keyspace, MARK, number.to_be_bytes());
        }
        let failed = |error| format!("cannot be written: {error}; make room, and start again");
        writes
            .commit()
            .map_err(|error| StoreError::new(failed(error)))?;
        *commits = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
