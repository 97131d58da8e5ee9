use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{PoisonError, RwLock},
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

/// A store on disk.
pub struct DiskStore {
    database: Database,
    tables: BTreeMap<Table, Keyspace>,
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
                error => at(&error),
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
        Ok(Self {
            tables,
            database: database.clone(),
        })
    }

    fn table(&self, table: Table) -> Result<&Keyspace, StoreError> {
        self.tables
            .get(&table)
            .ok_or_else(|| StoreError::new("missing table"))
    }
}

impl Store for DiskStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.table(table)?.get(key).map_err(StoreError::new)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let entries = self.table(table)?.prefix(prefix);
        entries
            .map(|entry| Ok(entry.key().map_err(StoreError::new)?.to_vec()))
            .collect()
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let entries = self.table(table)?.range(from..).take(limit);
        let entry =
            |(key, value): (fjall::UserKey, fjall::UserValue)| (key.to_vec(), value.to_vec());
        entries
            .map(|found| found.into_inner().map(entry).map_err(StoreError::new))
            .collect()
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        self.table(table)?.clear().map_err(StoreError::new)
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
        writes.commit().map_err(StoreError::new)
    }
}
