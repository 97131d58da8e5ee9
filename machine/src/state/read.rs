use std::collections::BTreeMap;

use borsh::BorshDeserialize;
use counterpoint_core::{
    primitive::{Address, Hash, RollupId},
    state::{BundleRecord, Table, Validator},
};

use super::{
    Account, AtomicRollup, Chain, ConsensusRecord, DepositQueue, Key, LastHeader, RollupRecord,
};
use crate::validators::ValidatorSet;

/// New values by key; `None` deletes.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Keys and their values.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The last committed state, or one that builds on it.
pub trait StateRead {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All keys that start with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn scan(&self, prefix: &[u8]) -> Result<Entries, StoreError>;
}

/// The store is broken, which is never a transaction's fault.
#[derive(Debug, thiserror::Error)]
#[error("failed to read state")]
pub struct StoreError(#[from] Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// A value that this software cannot have written.
    pub(crate) fn corrupt(what: String) -> Self {
        Self(what.into())
    }
}

/// Decodes a stored record.
pub(crate) fn decode<T: BorshDeserialize>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    borsh::from_slice(value)
        .map_err(|error| StoreError::corrupt(format!("value under key {key:02x?}: {error}")))
}

/// Reads records instead of bytes.
pub(crate) trait ReadRecords: StateRead {
    fn read<T: BorshDeserialize>(&self, key: &Key<'_>) -> Result<Option<T>, StoreError> {
        let key = key.encode();
        self.get(&key)?
            .map(|value| decode(&key, &value))
            .transpose()
    }

    fn account(&self, address: Address) -> Result<Option<Account>, StoreError> {
        self.read(&Key::Account(address))
    }

    fn chain(&self) -> Result<Chain, StoreError> {
        let missing = || StoreError::corrupt("the chain was never initialised".into());
        self.read(&Key::Chain)?.ok_or_else(missing)
    }

    fn last_header(&self) -> Result<LastHeader, StoreError> {
        Ok(self.read(&Key::LastHeader)?.unwrap_or_default())
    }

    fn rollup(&self, id: RollupId) -> Result<Option<RollupRecord>, StoreError> {
        self.read(&Key::Rollup(id))
    }

    fn atomic_rollup(&self, id: RollupId) -> Result<AtomicRollup, StoreError> {
        Ok(self.read(&Key::AtomicRollup(id))?.unwrap_or_default())
    }

    fn bundle(&self, id: Hash) -> Result<BundleRecord, StoreError> {
        let missing = || StoreError::corrupt(format!("the record of bundle {id} is missing"));
        self.read(&Key::Bundle(id))?.ok_or_else(missing)
    }

    fn former_rollup(&self, id: RollupId) -> Result<Option<RollupRecord>, StoreError> {
        self.read(&Key::FormerRollup(id))
    }

    fn consensus(&self) -> Result<ConsensusRecord, StoreError> {
        let missing = || StoreError::corrupt("the chain has no consensus parameters".into());
        self.read(&Key::Consensus)?.ok_or_else(missing)
    }

    fn validators(&self) -> Result<ValidatorSet, StoreError> {
        let records = self.scan(&[Table::Validators as u8])?;
        let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let validator: Validator = decode(key, value)?;
            Ok((validator.public_key.address(), validator))
        };
        records.iter().map(decode).collect()
    }

    fn deposit_queue(&self, id: RollupId) -> Result<DepositQueue, StoreError> {
        Ok(self.read(&Key::DepositQueue(id))?.unwrap_or_default())
    }

    /// All rollups, in the order of their identifiers.
    fn rollups(&self) -> Result<Vec<RollupRecord>, StoreError> {
        let records = self.scan(&[Table::Rollups as u8])?;
        records
            .iter()
            .map(|(key, value)| decode(key, value))
            .collect()
    }

    /// All slot lengths in use, with their openings so far.
    fn openings(&self) -> Result<Vec<(u8, u64)>, StoreError> {
        let records = self.scan(&[Table::Openings as u8])?;
        let decode = |(key, value): &(Vec<u8>, Vec<u8>)| {
            Ok((key.last().copied().unwrap_or_default(), decode(key, value)?))
        };
        records.iter().map(decode).collect()
    }
}

impl<S: StateRead + ?Sized> ReadRecords for S {}
