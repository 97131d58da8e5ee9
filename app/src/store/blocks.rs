//! Blocks: written compactly, proven when they are read.
//!
//! A rollup without items costs its leaf in the block's record, nothing else. Whoever reads builds
//! the tree over the leaves once per block, and each rollup's part once, for all readers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::{
    block::{
        LeafProof, Preamble, RollupItem, RollupLeaf, TransactionProof, data_leaf,
        merkle::{MerklePath, Tree},
    },
    primitive::{Hash, Height, RollupId},
    slot::HeaderTime,
    state::BundleRecord,
};
use counterpoint_machine::{Changes, RollupSlice, query};
use counterpoint_proto::sequencer::RollupBlock;
use fjall::OwnedWriteBatch;

use super::{Decided, Place, Store};

/// Blocks whose trees and encoded parts are kept for further readers: those near the tip, which
/// everybody reads at the same time.
const RECENT_BLOCKS: usize = 8;

/// The digests of the configurations that a block's leaves name, in the order of the leaves.
pub(super) type Configs = Vec<Hash>;

/// What a block is, without its lists.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) struct BlockRecord {
    pub(super) head: BlockHead,
    preamble: Preamble,
    /// In the order of rollup identifiers.
    leaves: Vec<RollupLeaf>,
}

/// The part of a record that is read without the rest.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub(super) struct BlockHead {
    /// When the block was proposed.
    time: HeaderTime,
    /// Hashes of its items, in order.
    pub(super) items: Vec<Hash>,
}

/// One rollup's part of a block, without header, validators and configuration.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// The configuration that its leaf names.
    pub(crate) config_hash: Hash,
    /// Height, leaf proof and list.
    pub(crate) block: RollupBlock,
}

/// Bundles that one height took to another stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedBundles {
    pub(crate) height: Height,
    pub(crate) records: Vec<(Hash, BundleRecord)>,
}

/// The blocks read last, each behind a lock of its own.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(Height, Shared)>>);

type Shared = Arc<Mutex<Option<ReadBlock>>>;

/// A block that is being read.
#[derive(Debug)]
struct ReadBlock {
    preamble: Preamble,
    preamble_path: MerklePath,
    leaves: Vec<RollupLeaf>,
    tree: Tree,
    slices: HashMap<RollupId, Slice>,
}

impl Recent {
    fn entry(&self, height: Height) -> Shared {
        let mut blocks = lock(&self.0);
        let known = blocks.iter().position(|(known, _)| *known == height);
        let (_, block) = known
            .and_then(|place| blocks.remove(place))
            .unwrap_or((height, Shared::default()));
        blocks.truncate(RECENT_BLOCKS - 1);
        blocks.push_front((height, Arc::clone(&block)));
        block
    }
}

impl ReadBlock {
    fn new(record: BlockRecord) -> anyhow::Result<Self> {
        let preamble_path = data_tree(&record.head.items).path(0);
        Ok(Self {
            preamble: record.preamble,
            preamble_path: preamble_path.context("a block has a preamble")?,
            tree: Tree::new(record.leaves.iter().map(RollupLeaf::leaf).collect()),
            leaves: record.leaves,
            slices: HashMap::new(),
        })
    }

    fn proof(&self, id: &RollupId) -> anyhow::Result<Option<LeafProof>> {
        let Ok(place) = self.leaves.binary_search_by_key(id, |leaf| leaf.rollup_id) else {
            return Ok(None);
        };
        let path = self.tree.path(u32::try_from(place)?);
        Ok(Some(LeafProof {
            leaf: self.leaves[place].clone(),
            leaf_path: path.context("a leaf has a path")?,
            preamble: self.preamble.clone(),
            preamble_path: self.preamble_path.clone(),
        }))
    }
}

/// A list in borsh, written into a buffer of its length: lists are long.
fn encode_list(items: &[RollupItem]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(borsh::object_length(items)?);
    items.serialize(&mut bytes)?;
    Ok(bytes)
}

impl Store {
    /// Adds everything of a block but its state; gives the configurations that it uses.
    pub(super) fn stage_block(
        &self,
        batch: &mut OwnedWriteBatch,
        decided: Decided,
    ) -> anyhow::Result<Configs> {
        let height = decided.tip.height;
        let codes = decided.items.iter().zip(decided.outcome.codes);
        for (index, (hash, (code, log))) in codes.enumerate().skip(1) {
            let index = u32::try_from(index)?;
            let place = Place {
                height,
                index,
                code,
                log,
            };
            batch.insert(&self.transactions, hash.as_bytes(), borsh::to_vec(&place)?);
        }
        let rollups = decided.outcome.rollups;
        for slice in rollups.iter().filter(|slice| !slice.items.is_empty()) {
            let key = list_key(height, &slice.leaf.rollup_id);
            batch.insert(&self.lists, key, encode_list(&slice.items)?);
        }
        let used: Configs = rollups
            .iter()
            .map(|slice| config_hash(&slice.leaf))
            .collect();
        self.stage_configs(batch, height, &rollups, &used)?;
        let record = BlockRecord {
            head: BlockHead {
                time: decided.time,
                items: decided.items,
            },
            preamble: decided.outcome.preamble,
            leaves: rollups.into_iter().map(|slice| slice.leaf).collect(),
        };
        batch.insert(&self.blocks, block_key(height), borsh::to_vec(&record)?);
        Ok(used)
    }

    /// Keeps what a block makes of bundles, for those who follow them.
    pub(super) fn stage_bundles(
        &self,
        batch: &mut OwnedWriteBatch,
        height: Height,
        changes: &Changes,
    ) -> anyhow::Result<()> {
        let changed = query::changed_bundles(&self.state(), changes)?;
        if !changed.is_empty() {
            batch.insert(&self.bundles, block_key(height), borsh::to_vec(&changed)?);
        }
        Ok(())
    }

    /// The first height from `from` on that took bundles to another stage, and these.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn changed_bundles(&self, from: Height) -> anyhow::Result<Option<ChangedBundles>> {
        let Some(next) = self.bundles.range(block_key(from)..).next() else {
            return Ok(None);
        };
        let (key, value) = next.into_inner()?;
        let height = u64::from_be_bytes(key.as_ref().try_into()?);
        Ok(Some(ChangedBundles {
            height: Height::new(height),
            records: borsh::from_slice(&value)?,
        }))
    }

    /// Keeps the configurations that the block before did not use. They stay for ever: they are small,
    /// and every change of one is paid for.
    fn stage_configs(
        &self,
        batch: &mut OwnedWriteBatch,
        height: Height,
        rollups: &[RollupSlice],
        used: &Configs,
    ) -> anyhow::Result<()> {
        let before = self.configs_before(height)?;
        if before == *used {
            return Ok(());
        }
        let known: HashSet<&Hash> = before.iter().collect();
        for slice in rollups {
            let hash = config_hash(&slice.leaf);
            if !known.contains(&hash) {
                let config = borsh::to_vec(&slice.config)?;
                batch.insert(&self.configs, hash.as_bytes(), config);
            }
        }
        Ok(())
    }

    /// The configurations of the block before; none if this node never had it.
    fn configs_before(&self, height: Height) -> anyhow::Result<Configs> {
        if let Some(configs) = lock(&self.used_configs).take() {
            return Ok(configs);
        }
        let record = self.block(Height::new(height.get().saturating_sub(1)))?;
        let leaves = record.map(|record| record.leaves).unwrap_or_default();
        Ok(leaves.iter().map(config_hash).collect())
    }

    /// Remembers which configurations the last committed block uses.
    pub(super) fn use_configs(&self, configs: Configs) {
        *lock(&self.used_configs) = Some(configs);
    }

    /// Where a transaction is, if a block holds it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn place(&self, tx_hash: &Hash) -> anyhow::Result<Option<Place>> {
        self.read(&self.transactions, tx_hash.as_bytes())
    }

    /// The path from a block's item to its data hash.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn transaction_proof(
        &self,
        place: &Place,
    ) -> anyhow::Result<Option<TransactionProof>> {
        let head = self.block_head(place.height)?;
        let path = head.and_then(|head| data_tree(&head.items).path(place.index));
        Ok(path.map(|path| TransactionProof { path }))
    }

    /// The hashes of a block's items, and the leaves of its rollups; nothing if this node does not
    /// have it, or not any more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn contents(
        &self,
        height: Height,
    ) -> anyhow::Result<Option<(Vec<Hash>, Vec<RollupLeaf>)>> {
        let record = self.block(height)?;
        Ok(record.map(|record| (record.head.items, record.leaves)))
    }

    /// The root over a block's items, which its header must carry.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn data_hash(&self, height: Height) -> anyhow::Result<Option<Hash>> {
        let head = self.block_head(height)?;
        Ok(head.map(|head| data_tree(&head.items).root()))
    }

    /// When a block was proposed.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn time(&self, height: Height) -> anyhow::Result<Option<HeaderTime>> {
        Ok(self.block_head(height)?.map(|head| head.time))
    }

    /// One rollup's part of a block; nothing if this node does not have it, or not any more.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn slice(&self, height: Height, id: &RollupId) -> anyhow::Result<Option<Slice>> {
        let shared = self.recent.entry(height);
        let mut shared = lock(&shared);
        let block = match &mut *shared {
            Some(block) => block,
            none => match self.block(height)? {
                Some(record) => none.insert(ReadBlock::new(record)?),
                None => return Ok(None),
            },
        };
        if let Some(slice) = block.slices.get(id) {
            return Ok(Some(slice.clone()));
        }
        let Some(proof) = block.proof(id)? else {
            return Ok(None);
        };
        let Some(list) = self.list(height, &proof.leaf)? else {
            return Ok(None);
        };
        let slice = Slice {
            config_hash: config_hash(&proof.leaf),
            block: RollupBlock {
                height: height.get(),
                borsh_leaf_proof: borsh::to_vec(&proof)?.into(),
                borsh_list: list,
                ..RollupBlock::default()
            },
        };
        block.slices.insert(*id, slice.clone());
        Ok(Some(slice))
    }

    /// An encoded list; it may have been pruned since its leaf was read.
    fn list(&self, height: Height, leaf: &RollupLeaf) -> anyhow::Result<Option<Bytes>> {
        if leaf.list_len == 0 {
            let empty: Vec<RollupItem> = Vec::new();
            return Ok(Some(borsh::to_vec(&empty)?.into()));
        }
        let list = self.lists.get(list_key(height, &leaf.rollup_id))?;
        Ok(list.map(|list| Bytes::copy_from_slice(&list)))
    }

    /// The encoded configuration with this digest.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn config(&self, hash: &Hash) -> anyhow::Result<Option<Bytes>> {
        let config = self.configs.get(hash.as_bytes())?;
        Ok(config.map(|config| Bytes::copy_from_slice(&config)))
    }

    pub(super) fn block(&self, height: Height) -> anyhow::Result<Option<BlockRecord>> {
        self.read(&self.blocks, &block_key(height))
    }

    fn block_head(&self, height: Height) -> anyhow::Result<Option<BlockHead>> {
        let record = self.blocks.get(block_key(height))?;
        let head = record.map(|record| BlockHead::deserialize(&mut &record[..]));
        head.transpose()
            .with_context(|| format!("corrupt block {height}"))
    }
}

fn config_hash(leaf: &RollupLeaf) -> Hash {
    leaf.env.config_hash
}

pub(super) fn block_key(height: Height) -> [u8; 8] {
    height.get().to_be_bytes()
}

fn list_key(height: Height, id: &RollupId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&block_key(height));
    key[8..].copy_from_slice(id.as_bytes());
    key
}

fn data_tree(items: &[Hash]) -> Tree {
    Tree::new(items.iter().map(data_leaf).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
