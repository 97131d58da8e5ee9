//! State of blocks that are complete and not yet committed, over the store.
//!
//! ```text
//! next block reads ─▶ Pending [ N+1 │ N ] ─▶ store (N − 1)
//!                        push ─▶      └─ committed: the store has it, and it is dropped here
//! ```
//! So the next block is executed while the client validates the ones before. Nothing of it is on
//! disk: whatever ends the process ends it too.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::Notify;

use crate::evm::{Batch, Entry, Store, StoreError, Table};

/// Reads through what waits to be written; the newest write counts.
#[derive(Debug)]
pub struct Pending {
    store: Arc<dyn Store>,
    /// The oldest first.
    batches: RwLock<VecDeque<Arc<Batch>>>,
    /// One was committed.
    committed: Notify,
}

impl Pending {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (batches, committed) = Default::default();
        Self {
            store,
            batches,
            committed,
        }
    }

    /// What comes next is read on top of this.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut batches = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        batches.push_back(batch);
    }

    /// Writes the oldest batch to the store, and only then lets go of it.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub fn commit_oldest(&self) -> Result<(), StoreError> {
        let oldest = self.batches().front().cloned();
        let Some(oldest) = oldest else {
            return Ok(());
        };
        self.store.commit(Batch::clone(&oldest))?;
        let mut batches = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        batches.pop_front();
        self.committed.notify_one();
        Ok(())
    }

    /// Waits until nothing waits to be written.
    pub async fn settled(&self) {
        while !self.batches().is_empty() {
            self.committed.notified().await;
        }
    }

    fn batches(&self) -> VecDeque<Arc<Batch>> {
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        batches.clone()
    }
}

impl Store for Pending {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = (table, key.to_vec());
        let batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        let written = batches.iter().rev().find_map(|batch| batch.get(&key));
        if let Some(value) = written {
            return Ok(value.clone());
        }
        drop(batches);
        // What is dropped from here now is in the store already.
        self.store.get(table, &key.1)
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        // Before the store, which may get the oldest of them meanwhile: then it is applied twice.
        let batches = self.batches();
        let mut keys: BTreeSet<_> = self.store.keys(table, prefix)?.into_iter().collect();
        for batch in batches {
            let from = batch.range((table, prefix.to_vec())..);
            let within = from.take_while(|((at, key), _)| *at == table && key.starts_with(prefix));
            for ((_, key), value) in within {
                match value {
                    Some(_) => keys.insert(key.clone()),
                    None => keys.remove(key),
                };
            }
        }
        Ok(keys.into_iter().collect())
    }

    fn scan(&self, _: Table, _: &[u8], _: usize) -> Result<Vec<Entry>, StoreError> {
        Err(StoreError::new("state is imported before any of it waits"))
    }

    fn clear(&self, _: Table) -> Result<(), StoreError> {
        Err(StoreError::new("state is imported before any of it waits"))
    }

    fn commit(&self, _: Batch) -> Result<(), StoreError> {
        Err(StoreError::new("state that waits is written in order only"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evm::MemStore;

    fn any_batch() -> impl Strategy<Value = Batch> {
        let key = (0_u8..3, prop::collection::vec(0_u8..3, 0..3)).prop_map(|(table, key)| {
            let table = [Table::Slots, Table::Nodes, Table::Meta][usize::from(table)];
            (table, key)
        });
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..2));
        prop::collection::btree_map(key, value, 0..6)
    }

    proptest! {
        #[test]
        fn what_waits_reads_as_if_it_were_written(
            batches in prop::collection::vec((any_batch(), any::<bool>()), 0..6),
        ) {
            let written = MemStore::default();
            let pending = Pending::new(Arc::new(MemStore::default()));
            for (batch, commit) in batches {
                written.commit(batch.clone()).unwrap();
                pending.push(Arc::new(batch));
                if commit {
                    pending.commit_oldest().unwrap();
                }
                for table in [Table::Slots, Table::Nodes, Table::Meta] {
                    for prefix in [&[][..], &[0], &[1], &[2, 1]] {
                        let expected = written.keys(table, prefix).unwrap();
                        prop_assert_eq!(pending.keys(table, prefix).unwrap(), expected);
                        let expected = written.get(table, prefix).unwrap();
                        prop_assert_eq!(pending.get(table, prefix).unwrap(), expected);
                    }
                }
            }
        }
    }
}
