use std::collections::BTreeMap;

use super::{Changes, Entries, StateRead, StoreError};

/// A state in memory, for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemState(BTreeMap<Vec<u8>, Vec<u8>>);

impl MemState {
    /// Commits `changes`.
    pub fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }
}

impl StateRead for MemState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let from = self.0.range(prefix.to_vec()..);
        let within = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(within
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}
