//! Accounts, storage and code: flat for reading, in tries for the root.

use alloy_consensus::constants::EMPTY_ROOT_HASH;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use revm::{
    database::{BundleAccount, BundleState},
    state::AccountInfo,
};
use std::sync::Arc;

use super::{
    Accounts, Batch, Parent, RollupBlock, StateError, StateSource, Store, StoreError, Table, Trie,
    trie::Source,
};
use crate::parallel;

/// Changed accounts that one thread takes at a time.
const ACCOUNTS_AT_ONCE: usize = 128;

/// An account as the account trie holds it; it is stored flat in the same encoding.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Account {
    /// How many transactions it has sent, or contracts it has made.
    pub nonce: u64,
    /// What it holds, in wei.
    pub balance: U256,
    /// Root of its storage trie.
    pub storage_root: B256,
    /// Hash of its code.
    pub code_hash: B256,
}

/// The state of embedded mode: the store holds that after the parent, and no other.
impl StateSource for Arc<dyn Store> {
    fn accounts(
        &self,
        _: &Parent,
        addresses: &[Address],
    ) -> Result<Vec<Option<Account>>, StateError> {
        let read = |address| Ok(read_account(self.as_ref(), address)?);
        addresses.iter().map(read).collect()
    }

    fn slot(
        &self,
        _: &Parent,
        address: &Address,
        _: &Account,
        slot: &U256,
    ) -> Result<U256, StateError> {
        let value = self.get(Table::Slots, &slot_key(address, slot))?;
        let value = value.map(|value| U256::from_be_slice(&value));
        Ok(value.unwrap_or_default())
    }

    fn code(&self, _: &Parent, _: &Address, code_hash: &B256) -> Result<Bytes, StateError> {
        let missing = || StoreError::new(format!("code {code_hash} is missing"));
        let code = self.get(Table::Code, code_hash.as_slice())?;
        Ok(code.ok_or_else(missing)?.into())
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        Ok(block_hash(self.as_ref(), number)?)
    }

    fn close(
        &self,
        _: &Parent,
        known: &Accounts,
        changes: &BundleState,
        _: &RollupBlock,
    ) -> Result<StateUpdate, StateError> {
        Ok(StateUpdate::of(self.as_ref(), known, changes)?)
    }
}

/// The hash of a block that was executed before.
///
/// # Errors
/// [`StoreError`] if the store has not got it.
pub(crate) fn block_hash(store: &dyn Store, number: u64) -> Result<B256, StoreError> {
    let missing = || StoreError::new(format!("block {number} is missing"));
    let block = store.get(Table::Blocks, &number.to_be_bytes())?;
    let block = block.ok_or_else(missing)?;
    block.get(..32).map(B256::from_slice).ok_or_else(missing)
}

fn slot_key(address: &Address, slot: &U256) -> Vec<u8> {
    [address.as_slice(), &slot.to_be_bytes::<32>()].concat()
}

/// What a block changes, as writes, and the state root after it.
#[derive(Clone, Debug)]
pub struct StateUpdate {
    /// The root.
    pub root: B256,
    /// Accounts, slots, code and trie nodes.
    pub batch: Batch,
}

impl StateUpdate {
    /// Works out the root and the writes for what the EVM changed.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    fn of(store: &dyn Store, known: &Accounts, bundle: &BundleState) -> Result<Self, StoreError> {
        let mut batch = Batch::new();
        for (hash, code) in &bundle.contracts {
            batch.insert(
                (Table::Code, hash.to_vec()),
                Some(code.original_bytes().to_vec()),
            );
        }
        let source = |path: &[u8]| store.get(Table::Nodes, &account_node(path));
        let mut accounts = Trie::new(&source);
        let changed: Vec<_> = bundle.state.iter().collect();
        let parts = parallel::map(changed.chunks(ACCOUNTS_AT_ONCE).collect(), |part| {
            let mut batch = Batch::new();
            let after = part.iter().map(|(address, changed)| {
                let account = account_after(store, known, address, changed, &mut batch)?;
                Ok((*address, keccak256(address), account.map(alloy_rlp::encode)))
            });
            let after: Vec<_> = after.collect::<Result<_, StoreError>>()?;
            Ok((after, batch))
        });
        for part in parts {
            let (after, storage) = part?;
            batch.extend(storage);
            for (address, key, account) in after {
                match &account {
                    Some(account) => accounts.insert(&key, account.clone()),
                    None => accounts.remove(&key),
                }
                batch.insert((Table::Accounts, address.to_vec()), account);
            }
        }
        let (root, nodes) = accounts.commit()?;
        let nodes = nodes.into_iter();
        batch.extend(nodes.map(|(path, rlp)| ((Table::Nodes, account_node(&path)), rlp)));
        Ok(Self { root, batch })
    }
}

/// The account after its storage was changed; nothing if it is gone.
fn account_after(
    store: &dyn Store,
    known: &Accounts,
    address: &Address,
    changed: &BundleAccount,
    batch: &mut Batch,
) -> Result<Option<Account>, StoreError> {
    let before = match known.get(address) {
        Some(before) => before.clone(),
        None => read_account(store, address)?,
    };
    let mut storage_root = before.map_or(EMPTY_ROOT_HASH, |before| before.storage_root);
    let gone = changed.info.as_ref().is_none_or(AccountInfo::is_empty);
    let trie_key = keccak256(address);
    // Only accounts that hold no storage are created or destroyed (EIP-6780, EIP-7610), but for
    // empty ones of a genesis file.
    let wiped = (gone || changed.was_destroyed()) && storage_root != EMPTY_ROOT_HASH;
    if wiped {
        wipe_storage(store, address, &trie_key, batch)?;
        storage_root = EMPTY_ROOT_HASH;
    }
    let Some(info) = changed.info.as_ref().filter(|_| !gone) else {
        return Ok(None);
    };
    if !changed.storage.is_empty() {
        let source = |path: &[u8]| match wiped {
            true => Ok(None),
            false => store.get(Table::Nodes, &storage_node(&trie_key, path)),
        };
        let slots = changed.storage.iter();
        let slots = slots.map(|(slot, value)| (*slot, value.present_value));
        storage_root = put_slots(&source, address, slots, batch)?;
    }
    let AccountInfo {
        nonce,
        balance,
        code_hash,
        ..
    } = *info;
    Ok(Some(Account {
        nonce,
        balance,
        storage_root,
        code_hash,
    }))
}

/// Writes slots on top of a storage trie, and gives its root.
fn put_slots(
    source: Source<'_>,
    address: &Address,
    slots: impl Iterator<Item = (U256, U256)>,
    batch: &mut Batch,
) -> Result<B256, StoreError> {
    let mut trie = Trie::new(source);
    for (slot, value) in slots {
        let key = keccak256(slot.to_be_bytes::<32>());
        let flat = (Table::Slots, slot_key(address, &slot));
        if value.is_zero() {
            trie.remove(&key);
            batch.insert(flat, None);
        } else {
            trie.insert(&key, alloy_rlp::encode(value));
            batch.insert(flat, Some(value.to_be_bytes_trimmed_vec()));
        }
    }
    let (root, nodes) = trie.commit()?;
    let trie_key = keccak256(address);
    let nodes = nodes.into_iter();
    batch.extend(nodes.map(|(path, rlp)| ((Table::Nodes, storage_node(&trie_key, &path)), rlp)));
    Ok(root)
}

fn wipe_storage(
    store: &dyn Store,
    address: &Address,
    trie_key: &B256,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    for key in store.keys(Table::Slots, address.as_slice())? {
        batch.insert((Table::Slots, key), None);
    }
    for key in store.keys(Table::Nodes, &storage_node(trie_key, &[]))? {
        batch.insert((Table::Nodes, key), None);
    }
    Ok(())
}

pub(super) fn account_node(path: &[u8]) -> Vec<u8> {
    [b"a", path].concat()
}

pub(super) fn storage_node(trie_key: &B256, path: &[u8]) -> Vec<u8> {
    [b"s", trie_key.as_slice(), path].concat()
}

/// Writes the first state of a rollup, account by account, in bounded memory.
///
/// ```text
/// accounts ─▶ flat, storage tries; once more by hash ─▶ account trie, from left to right
/// ```
/// A trie that grows from left to right writes hardly any node twice. What a crash leaves half done
/// is cleared by the next [`GenesisImport::begin`]: whoever finished keeps the root.
#[derive(Debug)]
pub struct GenesisImport<'a> {
    store: &'a dyn Store,
    batch: Batch,
    code_bytes: usize,
}

/// Writes of an import that go to disk together, beside those of one account.
pub(super) const IMPORT_BATCH: usize = if cfg!(test) { 50 } else { 50_000 };
/// Bytes of code among them.
pub(super) const IMPORT_CODE_BYTES: usize = 16 << 20;

impl<'a> GenesisImport<'a> {
    /// Starts with no state at all.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken; the same for all methods.
    pub fn begin(store: &'a dyn Store) -> Result<Self, StoreError> {
        clear_state(store)?;
        let (batch, code_bytes) = (Batch::new(), 0);
        Ok(Self {
            store,
            batch,
            code_bytes,
        })
    }

    /// Takes in an account; false if it has been there before.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn account(
        &mut self,
        address: Address,
        genesis: &GenesisAccount,
    ) -> Result<bool, StoreError> {
        let by_hash = keccak256(address);
        let empty = |_: &[u8]| Ok(None);
        let slots = genesis.storage.iter().flatten();
        let slots = slots.map(|(slot, value)| ((*slot).into(), (*value).into()));
        let storage_root = put_slots(&empty, &address, slots, &mut self.batch)?;
        let code = genesis.code.clone().unwrap_or_default();
        let code_hash = keccak256(&code);
        if !code.is_empty() {
            self.code_bytes += code.len();
            let code = Some(code.to_vec());
            self.batch.insert((Table::Code, code_hash.to_vec()), code);
        }
        let account = alloy_rlp::encode(Account {
            nonce: genesis.nonce.unwrap_or_default(),
            balance: genesis.balance,
            storage_root,
            code_hash,
        });
        let flat = (Table::Accounts, address.to_vec());
        let by_hash = (Table::Import, by_hash.to_vec());
        let is_new = self.store.get(by_hash.0, &by_hash.1)?.is_none()
            && self.batch.insert(flat, Some(account.clone())).is_none();
        self.batch.insert(by_hash, Some(account));
        if self.batch.len() >= IMPORT_BATCH || self.code_bytes >= IMPORT_CODE_BYTES {
            self.code_bytes = 0;
            self.store.commit(std::mem::take(&mut self.batch))?;
        }
        Ok(is_new)
    }

    /// Builds the account trie, and gives its root.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn finish(self) -> Result<B256, StoreError> {
        let store = self.store;
        store.commit(self.batch)?;
        let (mut root, mut from) = (EMPTY_ROOT_HASH, Vec::new());
        loop {
            let accounts = store.scan(Table::Import, &from, IMPORT_BATCH)?;
            let Some((last, _)) = accounts.last() else {
                break;
            };
            from = [last.as_slice(), &[0]].concat();
            let source = |path: &[u8]| store.get(Table::Nodes, &account_node(path));
            let mut trie = Trie::new(&source);
            for (key, account) in accounts {
                trie.insert(&B256::from_slice(&key), account);
            }
            let (after, nodes) = trie.commit()?;
            root = after;
            let nodes = nodes.into_iter();
            let nodes = nodes.map(|(path, rlp)| ((Table::Nodes, account_node(&path)), rlp));
            store.commit(nodes.collect())?;
        }
        store.clear(Table::Import)?;
        Ok(root)
    }
}

/// The tables that hold state, and nothing else.
const STATE_TABLES: [Table; 5] = [
    Table::Accounts,
    Table::Slots,
    Table::Code,
    Table::Nodes,
    Table::Import,
];

/// Removes all state.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub(crate) fn clear_state(store: &dyn Store) -> Result<(), StoreError> {
    for table in STATE_TABLES {
        store.clear(table)?;
    }
    Ok(())
}

/// The code of an account; empty if there is none.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn code(store: &dyn Store, address: &Address) -> Result<Bytes, StoreError> {
    let Some(account) = read_account(store, address)? else {
        return Ok(Bytes::new());
    };
    let code = store.get(Table::Code, account.code_hash.as_slice())?;
    Ok(code.unwrap_or_default().into())
}

fn read_account(store: &dyn Store, address: &Address) -> Result<Option<Account>, StoreError> {
    let Some(bytes) = store.get(Table::Accounts, address.as_slice())? else {
        return Ok(None);
    };
    let corrupt = |error| StoreError::new(format!("account {address}: {error}"));
    Account::decode(&mut bytes.as_slice())
        .map(Some)
        .map_err(corrupt)
}

/// What an account holds.
#[cfg(test)]
pub(crate) fn balance(store: &dyn Store, address: Address) -> U256 {
    let account = read_account(store, &address).unwrap();
    account.map_or(U256::ZERO, |account| account.balance)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_trie::{HashBuilder, Nibbles};
    use revm::database::{
        AccountStatus, BundleAccount,
        states::{StorageSlot, bundle_state::BundleState},
    };

    use super::*;
    use crate::evm::{DiskStore, MemStore};

    fn address(at: u16) -> Address {
        Address::left_padding_from(&at.to_be_bytes())
    }

    /// Every third account has storage, every second code.
    fn genesis(at: u16) -> GenesisAccount {
        let slots = (1..=at % 5).map(|slot| {
            (
                B256::with_last_byte(1),
                B256::left_padding_from(&slot.to_be_bytes()),
            )
        });
        GenesisAccount {
            nonce: Some(u64::from(at)),
            balance: U256::from(at),
            code: at
                .is_multiple_of(2)
                .then(|| Bytes::copy_from_slice(&at.to_be_bytes())),
            storage: at.is_multiple_of(3).then(|| slots.collect()),
            ..GenesisAccount::default()
        }
    }

    fn import(store: &dyn Store, accounts: impl Iterator<Item = u16>) -> B256 {
        let mut import = GenesisImport::begin(store).unwrap();
        for at in accounts {
            assert!(import.account(address(at), &genesis(at)).unwrap());
        }
        import.finish().unwrap()
    }

    fn root(leaves: BTreeMap<B256, Vec<u8>>) -> B256 {
        let mut builder = HashBuilder::default();
        for (key, value) in leaves {
            builder.add_leaf(Nibbles::unpack(key), &value);
        }
        builder.root()
    }

    fn reference(count: u16) -> B256 {
        let accounts = (0..count).map(|at| {
            let genesis = genesis(at);
            let slots = genesis.storage.unwrap_or_default().into_iter();
            let slots = slots.map(|(slot, value)| {
                (
                    keccak256(slot),
                    alloy_rlp::encode(U256::from_be_bytes(value.0)),
                )
            });
            let account = Account {
                nonce: u64::from(at),
                balance: U256::from(at),
                storage_root: root(slots.collect()),
                code_hash: keccak256(genesis.code.unwrap_or_default()),
            };
            (keccak256(address(at)), alloy_rlp::encode(account))
        });
        root(accounts.collect())
    }

    fn contents(store: &dyn Store) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let tables = [
            Table::Accounts,
            Table::Slots,
            Table::Code,
            Table::Nodes,
            Table::Import,
        ];
        let all = tables.map(|table| store.scan(table, &[], usize::MAX).unwrap());
        all.into()
    }

    #[test]
    fn a_genesis_of_many_batches_has_the_reference_root() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DiskStore::open(directory.path(), 1 << 20).unwrap();
        let memory = MemStore::default();
        for count in [0, 1, 2, 17, 1_000] {
            // The order of the file does not matter, nor what was there before.
            assert_eq!(import(&memory, 0..count), reference(count));
            assert_eq!(import(&disk, (0..count).rev()), reference(count));
            assert_eq!(contents(&disk), contents(&memory));
        }
    }

    #[test]
    fn half_an_import_leaves_no_trace() {
        let (store, whole) = (MemStore::default(), MemStore::default());
        let mut half = GenesisImport::begin(&store).unwrap();
        for at in 500..800 {
            half.account(address(at), &genesis(at)).unwrap();
        }
        assert_eq!(import(&store, 0..200), import(&whole, 0..200));
        assert_eq!(contents(&store), contents(&whole));
    }

    #[test]
    fn an_account_that_comes_twice_is_told() {
        let store = MemStore::default();
        let mut import = GenesisImport::begin(&store).unwrap();
        for at in 0..100 {
            assert!(import.account(address(at), &genesis(at)).unwrap());
        }
        // One went to the store long ago, one waits in the batch.
        assert!(!import.account(address(1), &genesis(1)).unwrap());
        assert!(!import.account(address(99), &genesis(99)).unwrap());
    }

    fn changed(
        info: Option<AccountInfo>,
        status: AccountStatus,
        slots: &[(u64, u64)],
    ) -> BundleAccount {
        let slots = slots.iter().map(|(slot, value)| {
            let value = StorageSlot::new_changed(U256::ZERO, U256::from(*value));
            (U256::from(*slot), value)
        });
        BundleAccount::new(None, info, slots.collect(), status)
    }

    fn update(store: &Arc<dyn Store>, accounts: Vec<(Address, BundleAccount)>) -> B256 {
        let bundle = BundleState {
            state: accounts.into_iter().collect(),
            ..BundleState::default()
        };
        let StateUpdate { root, batch } =
            StateUpdate::of(store.as_ref(), &Accounts::new(), &bundle).unwrap();
        store.commit(batch).unwrap();
        root
    }

    fn rich(balance: u64) -> Option<AccountInfo> {
        Some(AccountInfo {
            balance: U256::from(balance),
            ..AccountInfo::default()
        })
    }

    #[test]
    fn a_wiped_account_leaves_no_slot_and_no_node() {
        let [store, fresh] = [(); 2].map(|()| Arc::new(MemStore::default()) as Arc<dyn Store>);
        import(store.as_ref(), 0..50);
        import(fresh.as_ref(), 0..50);
        let slots: Vec<_> = (0..300).map(|slot| (slot, slot + 1)).collect();
        let (there, again) = (address(60), address(61));
        let made = |slots: &[_]| changed(rich(5), AccountStatus::Changed, slots);
        update(&store, vec![(there, made(&slots)), (again, made(&slots))]);
        // One is gone, the other one was made anew with other storage.
        let gone = changed(None, AccountStatus::Destroyed, &[]);
        let anew = changed(
            rich(7),
            AccountStatus::DestroyedChanged,
            &[(1, 9), (1_000, 3)],
        );
        let wiped = update(&store, vec![(there, gone), (again, anew)]);
        let anew = changed(
            rich(7),
            AccountStatus::InMemoryChange,
            &[(1, 9), (1_000, 3)],
        );
        assert_eq!(wiped, update(&fresh, vec![(again, anew)]));
        assert_eq!(contents(store.as_ref()), contents(fresh.as_ref()));
    }

    #[test]
    fn many_changes_give_the_state_that_few_at_a_time_give() {
        let [store, slow] = [(); 2].map(|()| Arc::new(MemStore::default()) as Arc<dyn Store>);
        import(store.as_ref(), 0..300);
        import(slow.as_ref(), 0..300);
        let all: Vec<_> = (100..900_u16)
            .map(|at| {
                let slots: Vec<_> = (0..u64::from(at % 4))
                    .map(|slot| (slot, u64::from(at % 3)))
                    .collect();
                (
                    address(at),
                    changed(rich(u64::from(at)), AccountStatus::Changed, &slots),
                )
            })
            .collect();
        let root = update(&store, all.clone());
        let roots = all.chunks(9).map(|few| update(&slow, few.to_vec()));
        let roots: Vec<_> = roots.collect();
        assert_eq!(roots.last(), Some(&root));
        assert_eq!(contents(store.as_ref()), contents(slow.as_ref()));
    }
}
