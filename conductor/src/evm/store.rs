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
}

impl Table {
    const ALL: [Self; 6] = [
        Self::Accounts,
        Self::Slots,
        Self::Code,
        Self::Nodes,
        Self::Blocks,
        Self::Meta,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Slots => "slots",
            Self::Code => "code",
            Self::Nodes => "nodes",
            Self::Blocks => "blocks",
            Self::Meta => "meta",
        }
    }
}

/// A table, and a key in it.
pub type TableKey = (Table, Vec<u8>);

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
    /// Opens the store in a directory, or makes a new one.
    ///
    /// # Errors
    /// [`StoreError`] names the directory.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let at = |error: &dyn fmt::Display| StoreError(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(|error| at(&error))?;
        let database = Database::builder(path)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => {
                    at(&"in use by another process: give every conductor a data_dir of its own")
                }
                error => at(&error),
            })?;
        let open = |table: Table| {
            let keyspace = database.keyspace(table.name(), KeyspaceCreateOptions::default);
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
