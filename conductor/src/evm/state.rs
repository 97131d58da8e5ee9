//! Accounts, storage and code: flat for reading, in tries for the root.

use alloy_consensus::constants::{EMPTY_ROOT_HASH, KECCAK_EMPTY};
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use revm::{
    Database,
    database::{BundleAccount, BundleState},
    state::{AccountInfo, Bytecode},
};
use std::sync::Arc;

use super::{Batch, Store, StoreError, Table, Trie, trie::Source};
use crate::parallel;

/// Changed accounts that one thread takes at a time.
const ACCOUNTS_AT_ONCE: usize = 128;

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
        let mut accounts = Trie::new(&source);
        let changed: Vec<_> = bundle.state.iter().collect();
        let parts = parallel::map(changed.chunks(ACCOUNTS_AT_ONCE).collect(), |part| {
            let mut batch = Batch::new();
            let after = part.iter().map(|(address, changed)| {
                let account = account_after(store, address, changed, &mut batch)?;
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
    store: &Arc<dyn Store>,
    address: &Address,
    changed: &BundleAccount,
    batch: &mut Batch,
) -> Result<Option<Account>, StoreError> {
    let before = StateReader(Arc::clone(store)).account(address)?;
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
    let mut accounts = Trie::new(&empty);
    for (address, genesis) in alloc {
        let slots = genesis.storage.iter().flatten();
        let slots = slots.map(|(slot, value)| ((*slot).into(), (*value).into()));
        let storage_root = put_slots(&empty, address, slots, &mut batch)?;
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
        accounts.insert(&keccak256(address), account.clone());
        batch.insert((Table::Accounts, address.to_vec()), Some(account));
    }
    let (root, nodes) = accounts.commit()?;
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
