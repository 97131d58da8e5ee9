//! State from flat entries that nobody vouches for: it counts only if its root is the expected one.
//!
//! ```text
//! entries ─▶ flat tables; once more by hash, each account before its slots
//!                 └─ from left to right ─▶ storage tries, account trie ─▶ root
//! ```
//! Memory is bounded by one batch, however large the state or the storage of one account. The entries
//! may come in any order.

use alloy_consensus::constants::{EMPTY_ROOT_HASH, KECCAK_EMPTY};
use alloy_primitives::{B256, Bytes, U256, hex, keccak256};

use super::{
    Batch, Entry, Store, StoreError, Table, Trie,
    state::{Account, IMPORT_BATCH, IMPORT_CODE_BYTES, account_node, clear_state, storage_node},
};

/// Why entries are not the state they should be.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The store is broken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No state holds such an entry.
    #[error("{table:?} entry {} {rule}", hex::encode_prefixed(key))]
    Entry {
        /// Where it belongs.
        table: Table,
        /// Its key.
        key: Bytes,
        /// What it must be.
        rule: &'static str,
    },
    /// Slots are missing, or there are too many, or others.
    #[error("storage of the account with hash {account} has root {actual}, must have {expected}")]
    Storage {
        /// Hash of the account's address.
        account: B256,
        /// What the account says.
        expected: B256,
        /// What its slots give.
        actual: B256,
    },
    /// An account's code is missing.
    #[error("code {code_hash} of the account with hash {account} is missing")]
    Code {
        /// Hash of the account's address.
        account: B256,
        /// What the account says.
        code_hash: B256,
    },
    /// It is another state.
    #[error("the state has root {actual}, must have {expected}")]
    Root {
        /// What the head says.
        expected: B256,
        /// What the accounts give.
        actual: B256,
    },
}

/// Writes a state that begins with nothing. Whoever ends it marks it as whole; without that mark
/// [`StateRestore::begin`] clears what is there.
#[derive(Debug)]
pub struct StateRestore<'a> {
    store: &'a dyn Store,
    batch: Batch,
    /// Of the values in it.
    bytes: usize,
}

impl<'a> StateRestore<'a> {
    /// Starts with no state and no block.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn begin(store: &'a dyn Store) -> Result<Self, StoreError> {
        clear_state(store)?;
        store.clear(Table::Blocks)?;
        let (batch, bytes) = (Batch::new(), 0);
        Ok(Self {
            store,
            batch,
            bytes,
        })
    }

    /// Takes in an entry of the accounts, slots or code.
    ///
    /// # Errors
    /// [`RestoreError::Entry`] if no state holds it.
    pub fn entry(&mut self, table: Table, (key, value): Entry) -> Result<(), RestoreError> {
        let refuse = |rule| {
            let key = key.clone().into();
            Err(RestoreError::Entry { table, key, rule })
        };
        match table {
            Table::Accounts if key.len() != 20 => return refuse("must have an address as its key"),
            Table::Accounts if alloy_rlp::decode_exact::<Account>(&value).is_err() => {
                return refuse("must be an account");
            }
            Table::Accounts => {
                let by_hash = keccak256(&key).to_vec();
                self.put((Table::Import, by_hash), value.clone())?;
            }
            Table::Slots => {
                let Some((address, slot)) = key.split_at_checked(20).filter(|_| key.len() == 52)
                else {
                    return refuse("must have an address and a slot as its key");
                };
                if value.len() > 32 || value.first().is_none_or(|first| *first == 0) {
                    return refuse("must be a number other than zero, without leading zeros");
                }
                let by_hash = [keccak256(address), keccak256(slot)].concat();
                self.put((Table::Import, by_hash), value.clone())?;
            }
            Table::Code if keccak256(&value) != key[..] => {
                return refuse("must have its hash as key");
            }
            Table::Code => {}
            Table::Nodes | Table::Blocks | Table::Meta | Table::Import => {
                return refuse("is no part of a state");
            }
        }
        Ok(self.put((table, key), value)?)
    }

    /// Writes what is checked elsewhere.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn put(&mut self, key: (Table, Vec<u8>), value: Vec<u8>) -> Result<(), StoreError> {
        self.bytes += value.len();
        self.batch.insert(key, Some(value));
        if self.batch.len() >= IMPORT_BATCH || self.bytes >= IMPORT_CODE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.store.commit(std::mem::take(&mut self.batch))
    }

    /// Builds the tries; the state must have the root `expected`, and all code that it names.
    ///
    /// # Errors
    /// [`RestoreError`] if it is not that state.
    pub fn finish(mut self, expected: B256) -> Result<(), RestoreError> {
        self.flush()?;
        let store = self.store;
        let (mut tries, mut from) = (Tries::new(store), Vec::new());
        loop {
            let entries = store.scan(Table::Import, &from, IMPORT_BATCH)?;
            let Some((last, _)) = entries.last() else {
                break;
            };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in entries {
                let (account, slot) = key.split_at(32);
                let account = B256::from_slice(account);
                match slot {
                    [] => tries.begin(account, value)?,
                    slot => tries.slot(account, B256::from_slice(slot), &value)?,
                }
            }
        }
        let actual = tries.finish()?;
        if actual != expected {
            return Err(RestoreError::Root { expected, actual });
        }
        Ok(store.clear(Table::Import)?)
    }
}

/// Tries that grow from left to right, one account after the other.
struct Tries<'a> {
    store: &'a dyn Store,
    batch: Batch,
    root: B256,
    /// Complete accounts that are not in the account trie yet.
    accounts: Vec<(B256, Vec<u8>)>,
    /// The account whose slots come now.
    current: Option<(B256, Vec<u8>)>,
    storage_root: B256,
    /// Slots of it that are not in its storage trie yet.
    slots: Vec<(B256, Vec<u8>)>,
}

impl<'a> Tries<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            batch: Batch::new(),
            root: EMPTY_ROOT_HASH,
            accounts: Vec::new(),
            current: None,
            storage_root: EMPTY_ROOT_HASH,
            slots: Vec::new(),
        }
    }

    fn begin(&mut self, account: B256, rlp: Vec<u8>) -> Result<(), RestoreError> {
        self.end()?;
        self.current = Some((account, rlp));
        Ok(())
    }

    fn slot(&mut self, account: B256, slot: B256, value: &[u8]) -> Result<(), RestoreError> {
        if self
            .current
            .as_ref()
            .is_none_or(|(current, _)| *current != account)
        {
            let key = account.to_vec().into();
            let (table, rule) = (
                Table::Slots,
                "(hash of the address) must belong to an account",
            );
            return Err(RestoreError::Entry { table, key, rule });
        }
        let value = alloy_rlp::encode(U256::from_be_slice(value));
        self.slots.push((slot, value));
        if self.slots.len() >= IMPORT_BATCH {
            self.put_slots(account)?;
            // The next ones are put on top of these.
            self.flush()?;
        }
        Ok(())
    }

    fn put_slots(&mut self, account: B256) -> Result<(), StoreError> {
        let store = self.store;
        let source = |path: &[u8]| store.get(Table::Nodes, &storage_node(&account, path));
        let mut trie = Trie::new(&source);
        for (slot, value) in self.slots.drain(..) {
            trie.insert(&slot, value);
        }
        let (root, nodes) = trie.commit()?;
        self.storage_root = root;
        let nodes = nodes.into_iter();
        let nodes = nodes.map(|(path, rlp)| ((Table::Nodes, storage_node(&account, &path)), rlp));
        self.batch.extend(nodes);
        Ok(())
    }

    /// No more slots of the current account can come.
    fn end(&mut self) -> Result<(), RestoreError> {
        let Some((account, rlp)) = self.current.take() else {
            return Ok(());
        };
        if !self.slots.is_empty() {
            self.put_slots(account)?;
        }
        let actual = std::mem::replace(&mut self.storage_root, EMPTY_ROOT_HASH);
        let Account {
            storage_root: expected,
            code_hash,
            ..
        } = alloy_rlp::decode_exact(&rlp).map_err(StoreError::new)?;
        if actual != expected {
            return Err(RestoreError::Storage {
                account,
                expected,
                actual,
            });
        }
        let has_code = code_hash == KECCAK_EMPTY
            || self.store.get(Table::Code, code_hash.as_slice())?.is_some();
        if !has_code {
            return Err(RestoreError::Code { account, code_hash });
        }
        self.accounts.push((account, rlp));
        if self.accounts.len() + self.batch.len() >= IMPORT_BATCH {
            self.put_accounts()?;
        }
        Ok(())
    }

    fn put_accounts(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let source = |path: &[u8]| store.get(Table::Nodes, &account_node(path));
        let mut trie = Trie::new(&source);
        for (account, rlp) in self.accounts.drain(..) {
            trie.insert(&account, rlp);
        }
        let (root, nodes) = trie.commit()?;
        self.root = root;
        let nodes = nodes.into_iter();
        let nodes = nodes.map(|(path, rlp)| ((Table::Nodes, account_node(&path)), rlp));
        self.batch.extend(nodes);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.store.commit(std::mem::take(&mut self.batch))
    }

    fn finish(mut self) -> Result<B256, RestoreError> {
        self.end()?;
        self.put_accounts()?;
        Ok(self.root)
    }
}

#[cfg(test)]
mod tests {
    use alloy_genesis::GenesisAccount;
    use alloy_primitives::Address;

    use super::*;
    use crate::evm::{GenesisImport, MemStore};

    const FLAT: [Table; 3] = [Table::Accounts, Table::Slots, Table::Code];

    /// Accounts without storage, with some, and with more than a batch of it.
    fn state() -> (MemStore, B256) {
        let store = MemStore::default();
        let mut import = GenesisImport::begin(&store).unwrap();
        for at in 0..150_u16 {
            let slots = match at {
                7 => 333,
                at => at % 3,
            };
            let number = |number: u16| B256::left_padding_from(&number.to_be_bytes());
            let slots = (1..=slots).map(|slot| (number(slot), number(slot * 3)));
            let account = GenesisAccount {
                balance: U256::from(at),
                code: (at % 2 == 0).then(|| at.to_be_bytes().into()),
                storage: Some(slots.collect()),
                ..GenesisAccount::default()
            };
            let address = Address::left_padding_from(&at.to_be_bytes());
            assert!(import.account(address, &account).unwrap());
        }
        let root = import.finish().unwrap();
        (store, root)
    }

    fn all(store: &MemStore, table: Table) -> Vec<Entry> {
        store.scan(table, &[], usize::MAX).unwrap()
    }

    /// Restores what `change` makes of the entries.
    fn restore(change: impl FnOnce(&mut Vec<(Table, Entry)>)) -> Result<MemStore, String> {
        let (store, root) = state();
        let entries = FLAT.map(|table| all(&store, table).into_iter().map(move |e| (table, e)));
        let mut entries: Vec<_> = entries.into_iter().flatten().collect();
        change(&mut entries);
        let restored = MemStore::default();
        let mut restore = StateRestore::begin(&restored).unwrap();
        let taken = entries
            .into_iter()
            .try_for_each(|(table, entry)| restore.entry(table, entry));
        let done = taken.and_then(|()| restore.finish(root));
        done.map_err(|error| error.to_string())?;
        Ok(restored)
    }

    #[test]
    fn a_state_is_restored_in_any_order() {
        let (original, _) = state();
        let forth = restore(|_| {}).unwrap();
        let back = restore(|entries| entries.reverse()).unwrap();
        for table in [FLAT.as_slice(), &[Table::Nodes, Table::Import]].concat() {
            assert_eq!(all(&forth, table), all(&original, table));
            assert_eq!(all(&back, table), all(&original, table));
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Vec<(Table, Entry)>), reason: &str) {
        let error = restore(change).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    fn first(entries: &mut [(Table, Entry)], table: Table) -> &mut Entry {
        let mut entries = entries.iter_mut();
        &mut entries.find(|(of, _)| *of == table).unwrap().1
    }

    fn without(entries: &mut Vec<(Table, Entry)>, table: Table) {
        let at = entries.iter().position(|(of, _)| *of == table).unwrap();
        entries.remove(at);
    }

    #[test]
    fn what_is_not_the_state_is_refused() {
        use Table::{Accounts, Code, Meta, Slots};
        // The first account has neither storage nor a balance, but code.
        refused(|all| without(all, Slots), "storage of the account");
        refused(|all| without(all, Code), "is missing");
        refused(|all| drop(all.remove(1)), "must belong to an account");
        refused(|all| without(all, Accounts), "the state has root");
        refused(
            |all| first(all, Slots).1 = vec![9],
            "storage of the account",
        );
        refused(|all| first(all, Slots).1 = vec![0], "other than zero");
        refused(|all| first(all, Slots).1 = vec![1; 33], "other than zero");
        refused(|all| first(all, Slots).1.clear(), "other than zero");
        refused(|all| first(all, Slots).0.truncate(51), "a slot as its key");
        refused(|all| first(all, Code).1[0] ^= 1, "its hash as key");
        refused(
            |all| first(all, Accounts).0.push(0),
            "an address as its key",
        );
        refused(|all| first(all, Accounts).1.push(0), "must be an account");
        refused(|all| first(all, Accounts).1[2] = 1, "the state has root");
        refused(|all| all[0].0 = Meta, "no part of a state");
    }
}
