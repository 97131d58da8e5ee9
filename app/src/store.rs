//! What a node keeps: state, tree, each rollup's lists, and signed headers.
//!
//! A block is one atomic batch. It is not synced to disk: after a power cut CometBFT replays the
//! blocks that are missing, and a batch is there as a whole or not at all.

use std::path::Path;

use anyhow::Context;
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::{
    block::{LeafProof, TransactionProof, data_leaf, merkle::Tree},
    primitive::{Hash, Height, RollupId},
};
use counterpoint_machine::{Changes, Entries, Outcome, StateRead, StoreError};
use counterpoint_proto::sequencer::RollupBlock;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};
use jmt::{
    KeyHash, OwnedValue, Version,
    storage::{LeafNode, Node, NodeKey, TreeReader, TreeUpdateBatch},
};
use prost::Message;

/// Where the [`Tip`] stands.
const TIP: &[u8] = b"tip";

/// Changes when the layout of the database does.
const FORMAT: u32 = 1;

/// The database of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    database: Database,
    meta: Keyspace,
    state: Keyspace,
    tree: Keyspace,
    blocks: Keyspace,
    slices: Keyspace,
    configs: Keyspace,
    transactions: Keyspace,
    headers: Keyspace,
    validators: Keyspace,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Where the chain stands, as far as this node has committed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Tip {
    /// The last committed height; 0 before the first block.
    pub(crate) height: Height,
    /// The root of the state after it.
    pub(crate) app_hash: Hash,
    /// The first height of the chain.
    pub(crate) initial: Height,
}

/// Where a transaction is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Place {
    /// The block that holds it.
    pub(crate) height: Height,
    /// Its place there, the preamble counted.
    pub(crate) index: u32,
    /// 0 if it was executed.
    pub(crate) code: u32,
    /// Why not.
    pub(crate) log: String,
}

/// A decided block, executed and about to be committed.
#[derive(Debug)]
pub(crate) struct Decided {
    /// Where the chain stands with it.
    pub(crate) tip: Tip,
    /// Hashes of its items, in order.
    pub(crate) items: Vec<Hash>,
    /// What it did.
    pub(crate) outcome: Outcome,
    /// The tree's part of it.
    pub(crate) tree: TreeUpdateBatch,
}

impl Store {
    /// Opens the database, or makes a new one.
    ///
    /// # Errors
    /// The directory cannot be used, or its contents are of another layout.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("failed to create data_dir {}", path.display()))?;
        let database = match Database::builder(path).open() {
            Ok(database) => database,
            Err(fjall::Error::Locked) => anyhow::bail!(
                "data_dir {} is in use by another process: give every node one of its own",
                path.display()
            ),
            Err(error) => {
                let what = format!("failed to open the database in {}", path.display());
                return Err(error).context(what);
            }
        };
        let keyspace = |name: &str| database.keyspace(name, KeyspaceCreateOptions::default);
        let store = Self {
            meta: keyspace("meta")?,
            state: keyspace("state")?,
            tree: keyspace("tree")?,
            blocks: keyspace("blocks")?,
            slices: keyspace("slices")?,
            configs: keyspace("configs")?,
            transactions: keyspace("transactions")?,
            headers: keyspace("headers")?,
            validators: keyspace("validators")?,
            database: database.clone(),
        };
        match store.read::<u32>(&store.meta, b"format")? {
            None => store.meta.insert(b"format", FORMAT.to_le_bytes())?,
            Some(FORMAT) => {}
            Some(format) => anyhow::bail!(
                "the database in {} has format {format}, this software writes {FORMAT}: \
                 use the version that wrote it, or an empty data_dir",
                path.display()
            ),
        }
        Ok(store)
    }

    /// Where the chain stands; all zero before InitChain.
    ///
    /// # Errors
    /// The database cannot be read; the same for all reads.
    pub(crate) fn tip(&self) -> anyhow::Result<Tip> {
        Ok(self.read(&self.meta, TIP)?.unwrap_or_default())
    }

    /// Writes the first state, in place of one that never led to a block. Its tree was worked out
    /// without looking at what is replaced: it is the first version.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn init(
        &self,
        tip: Tip,
        changes: &Changes,
        tree: &TreeUpdateBatch,
    ) -> anyhow::Result<()> {
        self.state.clear()?;
        self.tree.clear()?;
        let mut batch = self.database.batch();
        self.stage_state(&mut batch, changes, tree)?;
        batch.insert(&self.meta, TIP, borsh::to_vec(&tip)?);
        Ok(batch.commit()?)
    }

    /// Writes a decided block, as a whole.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn commit(&self, decided: &Decided) -> anyhow::Result<()> {
        let Decided {
            tip,
            items,
            outcome,
            tree,
        } = decided;
        let mut batch = self.database.batch();
        self.stage_state(&mut batch, &outcome.changes, tree)?;
        let height = tip.height.get().to_be_bytes();
        let codes = items.iter().zip(&outcome.codes).enumerate().skip(1);
        for (index, (hash, (code, log))) in codes {
            let (code, log, index) = (*code, log.clone(), u32::try_from(index)?);
            let place = Place {
                height: tip.height,
                index,
                code,
                log,
            };
            batch.insert(&self.transactions, hash.as_bytes(), borsh::to_vec(&place)?);
        }
        let data = data_tree(items);
        let preamble_path = data.path(0).context("a block has a preamble")?;
        let leaves = outcome
            .rollups
            .iter()
            .map(|slice| slice.leaf.leaf())
            .collect();
        let rollups = Tree::new(leaves);
        for (index, slice) in outcome.rollups.iter().enumerate() {
            let proof = LeafProof {
                leaf: slice.leaf.clone(),
                leaf_path: rollups
                    .path(u32::try_from(index)?)
                    .context("a leaf has a path")?,
                preamble: outcome.preamble.clone(),
                preamble_path: preamble_path.clone(),
            };
            let message = RollupBlock {
                height: tip.height.get(),
                borsh_leaf_proof: borsh::to_vec(&proof)?.into(),
                borsh_list: borsh::to_vec(&slice.items)?.into(),
                ..RollupBlock::default()
            };
            let key = slice_key(tip.height, &slice.leaf.rollup_id);
            batch.insert(&self.slices, key, message.encode_to_vec());
            let config_hash = slice.leaf.env.config_hash;
            if slice.leaf.env.opens {
                let config = borsh::to_vec(&slice.config)?;
                batch.insert(&self.configs, config_hash.as_bytes(), config);
            }
        }
        batch.insert(&self.blocks, height, borsh::to_vec(items)?);
        batch.insert(&self.meta, TIP, borsh::to_vec(tip)?);
        Ok(batch.commit()?)
    }

    fn stage_state(
        &self,
        batch: &mut fjall::OwnedWriteBatch,
        changes: &Changes,
        tree: &TreeUpdateBatch,
    ) -> anyhow::Result<()> {
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.state, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.state, key.as_slice()),
            }
        }
        for (key, node) in tree.node_batch.nodes() {
            batch.insert(&self.tree, borsh::to_vec(key)?, borsh::to_vec(node)?);
        }
        // The tree holds the newest state only; history is in the blocks.
        for stale in &tree.stale_node_index_batch {
            batch.remove(&self.tree, borsh::to_vec(&stale.node_key)?);
        }
        Ok(())
    }

    /// The committed state as it is now, whatever is committed while it is read.
    #[must_use]
    pub(crate) fn state(&self) -> StateSnapshot {
        StateSnapshot {
            snapshot: self.database.snapshot(),
            meta: self.meta.clone(),
            state: self.state.clone(),
        }
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
        let key = place.height.get().to_be_bytes();
        let items: Option<Vec<Hash>> = self.read(&self.blocks, &key)?;
        let path = items.and_then(|items| data_tree(&items).path(place.index));
        Ok(path.map(|path| TransactionProof { path }))
    }

    /// The root over a block's items, which its header must carry.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn data_hash(&self, height: Height) -> anyhow::Result<Option<Hash>> {
        let items: Option<Vec<Hash>> = self.read(&self.blocks, &height.get().to_be_bytes())?;
        Ok(items.map(|items| data_tree(&items).root()))
    }

    /// One rollup's part of a block, without header, validators and configuration.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn slice(
        &self,
        height: Height,
        id: &RollupId,
    ) -> anyhow::Result<Option<RollupBlock>> {
        let stored = self.slices.get(slice_key(height, id))?;
        Ok(stored
            .map(|bytes| RollupBlock::decode(Bytes::copy_from_slice(&bytes)))
            .transpose()?)
    }

    /// The encoded configuration with this digest.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn config(&self, hash: &Hash) -> anyhow::Result<Option<Bytes>> {
        Ok(self
            .configs
            .get(hash.as_bytes())?
            .map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// Keeps a signed header, and the validators where they differ from the height before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn put_header(
        &self,
        height: Height,
        signed_header: &[u8],
        validators: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        let key = height.get().to_be_bytes();
        let mut batch = self.database.batch();
        batch.insert(&self.headers, key, signed_header);
        if let Some(validators) = validators {
            batch.insert(&self.validators, key, validators);
        }
        Ok(batch.commit()?)
    }

    /// The signed header of a height.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn header(&self, height: Height) -> anyhow::Result<Option<Bytes>> {
        let header = self.headers.get(height.get().to_be_bytes())?;
        Ok(header.map(|bytes| Bytes::copy_from_slice(&bytes)))
    }

    /// The last height with a signed header; all before it have one too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn last_header(&self) -> anyhow::Result<Option<Height>> {
        let Some(last) = self.headers.last_key_value() else {
            return Ok(None);
        };
        let key: [u8; 8] = last
            .key()?
            .as_ref()
            .try_into()
            .context("a header's key is a height")?;
        Ok(Some(Height::new(u64::from_be_bytes(key))))
    }

    /// The validators of a height, and whether they are other ones than the height before had.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn validators(&self, height: Height) -> anyhow::Result<Option<(Bytes, bool)>> {
        let key = height.get().to_be_bytes();
        let Some(last) = self.validators.range(..=key).next_back() else {
            return Ok(None);
        };
        let (since, validators) = last.into_inner()?;
        Ok(Some((
            Bytes::copy_from_slice(&validators),
            since.as_ref() == key,
        )))
    }

    fn read<T: BorshDeserialize>(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
    ) -> anyhow::Result<Option<T>> {
        let bytes = keyspace.get(key)?;
        bytes.map(|bytes| decode(keyspace, key, &bytes)).transpose()
    }
}

fn decode<T: BorshDeserialize>(keyspace: &Keyspace, key: &[u8], value: &[u8]) -> anyhow::Result<T> {
    borsh::from_slice(value)
        .with_context(|| format!("corrupt value under {key:02x?} in {}", keyspace.name()))
}

fn slice_key(height: Height, id: &RollupId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..8].copy_from_slice(&height.get().to_be_bytes());
    key[8..].copy_from_slice(id.as_bytes());
    key
}

fn data_tree(items: &[Hash]) -> Tree {
    Tree::new(items.iter().map(data_leaf).collect())
}

/// The committed state at one moment.
pub(crate) struct StateSnapshot {
    snapshot: Snapshot,
    meta: Keyspace,
    state: Keyspace,
}

impl std::fmt::Debug for StateSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSnapshot").finish_non_exhaustive()
    }
}

impl StateSnapshot {
    /// Where the chain stands in this state.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn tip(&self) -> anyhow::Result<Tip> {
        let tip = self.snapshot.get(&self.meta, TIP)?;
        Ok(tip
            .map(|tip| decode(&self.meta, TIP, &tip))
            .transpose()?
            .unwrap_or_default())
    }
}

impl StateRead for StateSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get(&self.state, key).map_err(fault)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let entry = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(fault)?;
            Ok((key.to_vec(), value.to_vec()))
        };
        self.snapshot
            .prefix(&self.state, prefix)
            .map(entry)
            .collect()
    }
}

fn fault(error: fjall::Error) -> StoreError {
    let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    error.into()
}

impl TreeReader for Store {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        self.read(&self.tree, &borsh::to_vec(node_key)?)
    }

    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        anyhow::bail!("values are read flat, never through the tree")
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        anyhow::bail!("the tree is never restored leaf by leaf")
    }
}
