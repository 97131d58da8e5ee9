//! Accounts, storage and code: flat for reading, in tries for the root.

use alloy_consensus::constants::KECCAK_EMPTY;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use revm::{
    Database,
    database::{BundleAccount, BundleState},
    state::{AccountInfo, Bytecode},
};
use std::sync::Arc;

use super::{Batch, Store, StoreError, Table, Trie};

/// An account as the account trie holds it; it is stored flat in the same encoding.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
struct Account {
    nonce: u64,
    balance: U256,
    storage_root: B256,
    code_hash: B256,
}

/// Reads state for the EVM.
#[derive(Clone, Debug)]
pub(super) struct StateReader(pub(super) Arc<dyn Store>);

impl StateReader {
    fn account(&self, address: &Address) -> Result<Option<Account>, StoreError> {
        let Some(bytes) = self.0.get(Table::Accounts, address.as_slice())? else {
            return Ok(None);
        };
        let corrupt = |error| StoreError::new(format!("account {address}: {error}"));
        Account::decode(&mut bytes.as_slice())
            .map(Some)
            .map_err(corrupt)
    }
}

impl Database for StateReader {
    type Error = StoreError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        let info = |account: Account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: None,
            ..AccountInfo::default()
        };
        Ok(self.account(&address)?.map(info))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StoreError> {
        if code_hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        let missing = || StoreError::new(format!("code {code_hash} is missing"));
        let code = self
            .0
            .get(Table::Code, code_hash.as_slice())?
            .ok_or_else(missing)?;
        Bytecode::new_raw_checked(Bytes::from(code)).map_err(StoreError::new)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StoreError> {
        let value = self.0.get(Table::Slots, &slot_key(&address, &slot))?;
        Ok(value
            .map(|value| U256::from_be_slice(&value))
            .unwrap_or_default())
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StoreError> {
        let missing = || StoreError::new(format!("block {number} is missing"));
        let block = self
            .0
            .get(Table::Blocks, &number.to_be_bytes())?
            .ok_or_else(missing)?;
        block.get(..32).map(B256::from_slice).ok_or_else(missing)
    }
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
    pub(super) fn of(store: &Arc<dyn Store>, bundle: &BundleState) -> Result<Self, StoreError> {
        let mut batch = Batch::new();
        for (hash, code) in &bundle.contracts {
            batch.insert(
                (Table::Code, hash.to_vec()),
                Some(code.original_bytes().to_vec()),
            );
        }
        let source = |path: &[u8]| store.get(Table::Nodes, &account_node(path));
        let mut accounts = Trie::open(&source)?;
        for (address, changed) in &bundle.state {
            let account = account_after(store, address, changed, &mut batch)?;
            let key = keccak256(address);
            match &account {
                Some(account) => accounts.insert(&key, alloy_rlp::encode(account))?,
                None => accounts.remove(&key)?,
            }
            let flat = account.map(alloy_rlp::encode);
            batch.insert((Table::Accounts, address.to_vec()), flat);
        }
        let (root, nodes) = accounts.commit();
        let nodes = nodes.into_iter();
        batch.extend(nodes.map(|(path, rlp)| ((Table::Nodes, account_node(&path)), rlp)));
        Ok(Self { root, batch })
    }
}

/// The account after its storage was changed; nothing if it is gone.
fn account_after(
    store: &Arc<dyn Store>,
    address: &Address,
    changed: &BundleAccount,
    batch: &mut Batch,
) -> Result<Option<Account>, StoreError> {
    let before = StateReader(Arc::clone(store)).account(address)?;
    let gone = changed.info.as_ref().is_none_or(AccountInfo::is_empty);
    let mut storage_root = before.map_or(alloy_consensus::constants::EMPTY_ROOT_HASH, |before| {
        before.storage_root
    });
    let trie_key = keccak256(address);
    if gone || changed.was_destroyed() {
        wipe_storage(store, address, &trie_key, batch)?;
        storage_root = alloy_consensus::constants::EMPTY_ROOT_HASH;
    }
    let Some(info) = changed.info.as_ref().filter(|_| !gone) else {
        return Ok(None);
    };
    if !changed.storage.is_empty() {
        let wiped = changed.was_destroyed();
        let source = |path: &[u8]| {
            if wiped {
                Ok(None)
            } else {
                store.get(Table::Nodes, &storage_node(&trie_key, path))
            }
        };
        let mut trie = Trie::open(&source)?;
        for (slot, value) in &changed.storage {
            let (key, value) = (keccak256(slot.to_be_bytes::<32>()), value.present_value);
            let flat = (Table::Slots, slot_key(address, slot));
            if value.is_zero() {
                trie.remove(&key)?;
                batch.insert(flat, None);
            } else {
                trie.insert(&key, alloy_rlp::encode(value))?;
                batch.insert(flat, Some(value.to_be_bytes_trimmed_vec()));
            }
        }
        let (root, nodes) = trie.commit();
        storage_root = root;
        let nodes = nodes.into_iter();
        batch
            .extend(nodes.map(|(path, rlp)| ((Table::Nodes, storage_node(&trie_key, &path)), rlp)));
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

fn wipe_storage(
    store: &Arc<dyn Store>,
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

fn account_node(path: &[u8]) -> Vec<u8> {
    [b"a", path].concat()
}

fn storage_node(trie_key: &B256, path: &[u8]) -> Vec<u8> {
    [b"s", trie_key.as_slice(), path].concat()
}

/// The state of a genesis file, by address.
pub type GenesisState = std::collections::BTreeMap<Address, GenesisAccount>;

/// Works out the first state of a rollup.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn import_genesis(alloc: &GenesisState) -> Result<StateUpdate, StoreError> {
    let mut batch = Batch::new();
    let empty = |_: &[u8]| Ok(None);
    let mut accounts = Trie::open(&empty)?;
    for (address, genesis) in alloc {
        let trie_key = keccak256(address);
        let mut storage = Trie::open(&empty)?;
        for (slot, value) in genesis
            .storage
            .iter()
            .flatten()
            .filter(|(_, value)| !value.is_zero())
        {
            let (slot, value) = (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0));
            storage.insert(
                &keccak256(slot.to_be_bytes::<32>()),
                alloy_rlp::encode(value),
            )?;
            let flat = (Table::Slots, slot_key(address, &slot));
            batch.insert(flat, Some(value.to_be_bytes_trimmed_vec()));
        }
        let (storage_root, nodes) = storage.commit();
        let nodes = nodes.into_iter();
        batch
            .extend(nodes.map(|(path, rlp)| ((Table::Nodes, storage_node(&trie_key, &path)), rlp)));
        let code = genesis.code.clone().unwrap_or_default();
        let code_hash = keccak256(&code);
        if !code.is_empty() {
            batch.insert((Table::Code, code_hash.to_vec()), Some(code.to_vec()));
        }
        let (nonce, balance) = (genesis.nonce.unwrap_or_default(), genesis.balance);
        let account = alloy_rlp::encode(Account {
            nonce,
            balance,
            storage_root,
            code_hash,
        });
        accounts.insert(&trie_key, account.clone())?;
        batch.insert((Table::Accounts, address.to_vec()), Some(account));
    }
    let (root, nodes) = accounts.commit();
    let nodes = nodes.into_iter();
    batch.extend(nodes.map(|(path, rlp)| ((Table::Nodes, account_node(&path)), rlp)));
    Ok(StateUpdate { root, batch })
}

/// What an account holds.
#[cfg(test)]
pub(crate) fn balance(store: &Arc<dyn Store>, address: Address) -> U256 {
    let account = StateReader(Arc::clone(store)).account(&address).unwrap();
    account.map_or(U256::ZERO, |account| account.balance)
}
