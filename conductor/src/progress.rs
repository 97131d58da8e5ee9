//! What a conductor remembers of its progress: one record, written with each block.

use alloy_consensus::Header;
use alloy_primitives::B256;
use alloy_rlp::{Decodable, Encodable};
use counterpoint_core::{
    cursor::{Cursor, ExtraData, ExtraDataError},
    light::TrustedState,
    primitive::Height,
    registry::RollupConfig,
};
use serde::{Deserialize, Serialize};

use crate::{
    assembly::Closed,
    chain_spec::Specification,
    engine::BlockId,
    evm::{Batch, BuiltBlock, RollupBlock, Store, StoreError, Table},
};

const KEY: &[u8] = b"progress";

/// Where the rollup stands, as far as it was executed and accepted by its client.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The last block.
    pub header: Header,
    /// Its hash.
    pub hash: B256,
    /// The height that opens the next block, and the next item to execute.
    pub extra: ExtraData,
    /// What to verify the list at the cursor from.
    pub trusted: TrustedState,
    /// The configuration under which the rollup has left: no block follows.
    pub left: Option<RollupConfig>,
}

/// The part of [`Progress`] that is no part of the block.
#[derive(Deserialize, Serialize)]
struct Record {
    number: u64,
    chain_spec_hash: B256,
    trusted: TrustedState,
    #[serde(default)]
    left: Option<RollupConfig>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its contents belong to another rollup.
    #[error(
        "data_dir holds blocks of a rollup with chain specification {stored}, the genesis file has \
         {expected}: use another data_dir, or the file that it was started with"
    )]
    OtherRollup {
        /// The digest in the store.
        stored: B256,
        /// The digest of the file.
        expected: B256,
    },
    /// The last block was not made by these rules.
    #[error("block {number} in data_dir has foreign extra data")]
    ExtraData {
        /// The block's number.
        number: u64,
        /// What is wrong.
        source: ExtraDataError,
    },
}

fn record(store: &dyn Store) -> Result<Option<Record>, StoreError> {
    let record = store.get(Table::Meta, KEY)?;
    let record = record.map(|record| serde_json::from_slice(&record));
    record.transpose().map_err(StoreError::new)
}

impl Progress {
    /// The block.
    #[must_use]
    pub fn head(&self) -> BlockId {
        BlockId {
            number: self.header.number,
            hash: self.hash,
        }
    }

    /// The configuration under which the rollup has left, if it has.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub fn left(store: &dyn Store) -> Result<Option<RollupConfig>, StoreError> {
        Ok(record(store)?.and_then(|record| record.left))
    }

    /// The number of a store's last block, and the digest of its chain specification.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub(crate) fn stored(store: &dyn Store) -> Result<Option<(u64, B256)>, StoreError> {
        Ok(record(store)?.map(|record| (record.number, record.chain_spec_hash)))
    }

    /// What makes a store stand at `head`, all but the state and the blocks in between.
    ///
    /// # Errors
    /// [`ProgressError`] if the block was not made by derivation's rules.
    pub(crate) fn restored(
        head: &RollupBlock,
        specification: &Specification,
        trusted: &TrustedState,
    ) -> Result<Batch, ProgressError> {
        let spec_hash = B256::new(*specification.chain_spec().hash().as_bytes());
        let genesis = RollupBlock::uncle(specification.genesis_header().clone());
        let mut batch = Batch::new();
        stage_block(&mut batch, genesis.header.hash_slow(), &genesis);
        let number = head.header.number;
        let extra = ExtraData::decode(&head.header.extra_data)
            .map_err(|source| ProgressError::ExtraData { number, source })?;
        let progress = Self {
            header: head.header.clone(),
            hash: head.header.hash_slow(),
            extra,
            trusted: trusted.clone(),
            left: None,
        };
        progress.stage(&mut batch, head, spec_hash)?;
        Ok(batch)
    }

    /// What a store says is trusted; nothing if it is empty.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn trusted(store: &dyn Store) -> Result<Option<TrustedState>, StoreError> {
        Ok(record(store)?.map(|record| record.trusted))
    }

    /// Reads where the store stands, or writes block 0 on top of the genesis state.
    ///
    /// # Errors
    /// [`ProgressError`] if the store is broken or belongs to another rollup.
    pub fn open(
        store: &dyn Store,
        specification: &Specification,
        first_height: Height,
        genesis: &TrustedState,
    ) -> Result<Self, ProgressError> {
        let spec_hash = B256::new(*specification.chain_spec().hash().as_bytes());
        if let Some(record) = record(store)? {
            if record.chain_spec_hash != spec_hash {
                let (stored, expected) = (record.chain_spec_hash, spec_hash);
                return Err(ProgressError::OtherRollup { stored, expected });
            }
            let (hash, block) = read_block(store, record.number)?;
            let number = record.number;
            let extra = match number {
                0 => ExtraData::genesis(first_height),
                _ => ExtraData::decode(&block.header.extra_data)
                    .map_err(|source| ProgressError::ExtraData { number, source })?,
            };
            return Ok(Self {
                header: block.header,
                hash,
                extra,
                trusted: record.trusted,
                left: record.left,
            });
        }
        let header = specification.genesis_header().clone();
        let hash = header.hash_slow();
        let extra = ExtraData::genesis(first_height);
        let progress = Self {
            header,
            hash,
            extra,
            trusted: genesis.clone(),
            left: None,
        };
        let mut batch = Batch::new();
        let block = RollupBlock::uncle(progress.header.clone());
        progress.stage(&mut batch, &block, spec_hash)?;
        store.commit(batch)?;
        Ok(progress)
    }

    /// Where the rollup stands after a block, and all that has to be written for it to stand there:
    /// the block, its state and what comes next.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be encoded.
    pub fn after(
        closed: Closed,
        specification: &Specification,
    ) -> Result<(Self, RollupBlock, Batch), StoreError> {
        let Closed {
            built,
            extra,
            trusted,
            left,
            ..
        } = closed;
        let BuiltBlock {
            hash,
            block,
            update,
        } = built;
        let progress = Self {
            header: block.header.clone(),
            hash,
            extra,
            trusted,
            left,
        };
        let mut batch = update.batch;
        let spec_hash = B256::new(*specification.chain_spec().hash().as_bytes());
        progress.stage(&mut batch, &block, spec_hash)?;
        Ok((progress, block, batch))
    }

    fn stage(
        &self,
        batch: &mut Batch,
        block: &RollupBlock,
        chain_spec_hash: B256,
    ) -> Result<(), StoreError> {
        let number = self.header.number;
        stage_block(batch, self.hash, block);
        let record = Record {
            number,
            chain_spec_hash,
            trusted: self.trusted.clone(),
            left: self.left.clone(),
        };
        let record = serde_json::to_vec(&record).map_err(StoreError::new)?;
        batch.insert((Table::Meta, KEY.to_vec()), Some(record));
        Ok(())
    }

    /// The next item to execute.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.extra.cursor
    }
}

/// Writes a block as [`read_block`] reads it.
pub(crate) fn stage_block(batch: &mut Batch, hash: B256, block: &RollupBlock) {
    let key = block.header.number.to_be_bytes().to_vec();
    let mut stored = hash.to_vec();
    block.encode(&mut stored);
    batch.insert((Table::Blocks, key), Some(stored));
}

/// Reads a block that was executed before.
///
/// # Errors
/// [`StoreError`] if it is not there or cannot be decoded.
pub fn read_block(store: &dyn Store, number: u64) -> Result<(B256, RollupBlock), StoreError> {
    let missing = || StoreError::new(format!("block {number} is missing"));
    let bytes = store
        .get(Table::Blocks, &number.to_be_bytes())?
        .ok_or_else(missing)?;
    let (hash, mut rlp) = bytes.split_at_checked(32).ok_or_else(missing)?;
    let block = RollupBlock::decode(&mut rlp).map_err(StoreError::new)?;
    Ok((B256::from_slice(hash), block))
}
