//! Where the EVM reads the state before a block from.

use std::{collections::HashMap, fmt, sync::Arc};

use alloy_consensus::{Header, constants::KECCAK_EMPTY};
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::{
    Database,
    database::BundleState,
    state::{AccountInfo, Bytecode},
};

use super::{Account, RollupBlock, StateUpdate, StoreError};
use crate::engine::{DriverError, EngineError};

/// Accounts as they were before a block, as far as it has asked for them.
pub type Accounts = HashMap<Address, Option<Account>>;

/// The block that another one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The root of the state after it.
    pub state_root: B256,
}

impl Parent {
    pub(super) fn new(header: &Header, hash: B256) -> Self {
        Self {
            number: header.number,
            hash,
            state_root: header.state_root,
        }
    }
}

/// The state cannot be had. It never looks like a bad transaction.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Our store is broken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client has it and does not give it.
    #[error("the execution client gives no state after block {number}")]
    Client {
        /// The block.
        number: u64,
        /// What it says.
        source: EngineError,
    },
    /// The client is not in a state to give any.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// We are about to end.
    #[error("stopped")]
    Stopped,
}

impl revm::context_interface::DBErrorMarker for StateError {}

/// The state after each block's parent, and the root after the block itself. Embedded mode has both in
/// its own store; thin mode asks the client.
pub trait StateSource: fmt::Debug + Send + Sync {
    /// Several accounts at once.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be had; the same for all methods.
    fn accounts(
        &self,
        parent: &Parent,
        addresses: &[Address],
    ) -> Result<Vec<Option<Account>>, StateError>;

    /// A storage slot of an account.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be had.
    fn slot(
        &self,
        parent: &Parent,
        address: &Address,
        account: &Account,
        slot: &U256,
    ) -> Result<U256, StateError>;

    /// Code that an account has.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be had.
    fn code(
        &self,
        parent: &Parent,
        address: &Address,
        code_hash: &B256,
    ) -> Result<Bytes, StateError>;

    /// The hash of an earlier block.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be had.
    fn block_hash(&self, number: u64) -> Result<B256, StateError>;

    /// The state root after a block that is complete but for it, and what is to be written.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be had.
    fn close(
        &self,
        parent: &Parent,
        known: &Accounts,
        changes: &BundleState,
        block: &RollupBlock,
    ) -> Result<StateUpdate, StateError>;
}

/// Reads the state before a block, for the EVM and for what follows.
#[derive(Debug)]
pub(super) struct StateReader {
    source: Arc<dyn StateSource>,
    parent: Parent,
    /// All that the block has asked for.
    accounts: Accounts,
    /// An account that has the code of a hash.
    coded: HashMap<B256, Address>,
}

impl StateReader {
    pub(super) fn new(source: Arc<dyn StateSource>, parent: Parent) -> Self {
        let (accounts, coded) = Default::default();
        Self {
            source,
            parent,
            accounts,
            coded,
        }
    }

    /// Reads accounts that will be asked for. What fails will fail again when it is.
    pub(super) fn fetch(
        &self,
        addresses: impl Iterator<Item = Address>,
    ) -> Vec<(Address, Option<Account>)> {
        let unknown = |address: &Address| !self.accounts.contains_key(address);
        let addresses: Vec<_> = addresses.filter(unknown).collect();
        match self.source.accounts(&self.parent, &addresses) {
            Ok(accounts) => addresses.into_iter().zip(accounts).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Keeps what was fetched.
    pub(super) fn keep(&mut self, accounts: Vec<(Address, Option<Account>)>) {
        self.accounts.extend(accounts);
    }

    fn account(&mut self, address: Address) -> Result<Option<Account>, StateError> {
        if let Some(known) = self.accounts.get(&address) {
            return Ok(known.clone());
        }
        let mut account = self.source.accounts(&self.parent, &[address])?;
        let account = account.pop().flatten();
        self.accounts.insert(address, account.clone());
        Ok(account)
    }

    /// The root after `block`, and what is to be written.
    pub(super) fn close(
        &self,
        changes: &BundleState,
        block: &RollupBlock,
    ) -> Result<StateUpdate, StateError> {
        self.source
            .close(&self.parent, &self.accounts, changes, block)
    }
}

impl Database for StateReader {
    type Error = StateError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        let Some(account) = self.account(address)? else {
            return Ok(None);
        };
        self.coded.insert(account.code_hash, address);
        Ok(Some(AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: None,
            ..AccountInfo::default()
        }))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StateError> {
        if code_hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        let nobodys = || StoreError::new(format!("code {code_hash} is of no account"));
        let address = self.coded.get(&code_hash).ok_or_else(nobodys)?;
        let code = self.source.code(&self.parent, address, &code_hash)?;
        Bytecode::new_raw_checked(code).map_err(|error| StoreError::new(error).into())
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StateError> {
        match self.account(address)? {
            Some(account) => self.source.slot(&self.parent, &address, &account, &slot),
            None => Ok(U256::ZERO),
        }
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StateError> {
        self.source.block_hash(number)
    }
}
