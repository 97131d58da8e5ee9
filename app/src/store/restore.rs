//! Taking over the state of a snapshot. A mark stands in the database meanwhile: whoever finds it
//! when the node starts removes what is there, so a half restored state is never used.

use anyhow::Context;
use counterpoint_core::{
    primitive::{Hash, Height},
    state::{EMPTY_TREE, key_hash},
};
use counterpoint_machine::{Changes, StateRead, query, tree};
use fjall::{Keyspace, KeyspaceCreateOptions};

use super::{
    Store, TIP, Tip,
    prune::{LOWEST, PRUNED},
};

/// Stands as long as the state is half there.
const RESTORING: &[u8] = b"restoring";

/// A keyspace with the restored keys in the order of the tree. It goes as a whole: one that is only
/// cleared and never written again would hold the journals of the database back for ever.
const SORTED: &str = "restored";

/// Keys that the tree takes in at a time; bounds memory, together with [`STEP_BYTES`].
const STEP_KEYS: usize = 8_192;
/// Bytes of values after which no more keys are taken in; honest values are short.
const STEP_BYTES: usize = 16 << 20;

impl Store {
    /// Removes what an interrupted restore left behind.
    pub(super) fn clean_up(&self) -> anyhow::Result<()> {
        if self.meta.contains_key(RESTORING)? {
            return self.abandon_restore();
        }
        self.drop_sorted()
    }

    /// Whether no block was ever committed here: only then may a snapshot take the place of the
    /// state.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn is_fresh(&self) -> anyhow::Result<bool> {
        Ok(self.blocks.is_empty()?)
    }

    /// Begins with an empty state. Until the end there is no chain here.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn begin_restore(&self) -> anyhow::Result<()> {
        let mut batch = self.database.batch();
        batch.insert(&self.meta, RESTORING, []);
        for key in [TIP, LOWEST, PRUNED] {
            batch.remove(&self.meta, key);
        }
        batch.commit()?;
        self.wipe()
    }

    /// Forgets what was restored so far.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn abandon_restore(&self) -> anyhow::Result<()> {
        self.wipe()?;
        Ok(self.meta.remove(RESTORING)?)
    }

    fn wipe(&self) -> anyhow::Result<()> {
        self.state.clear()?;
        self.tree.clear()?;
        self.drop_sorted()
    }

    fn sorted(&self) -> anyhow::Result<Keyspace> {
        let options = KeyspaceCreateOptions::default;
        Ok(self.database.keyspace(SORTED, options)?)
    }

    fn drop_sorted(&self) -> anyhow::Result<()> {
        if self.database.keyspace_exists(SORTED) {
            self.database.delete_keyspace(self.sorted()?)?;
        }
        Ok(())
    }

    /// Adds to the state.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn restore_entries(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> anyhow::Result<()> {
        let sorted = self.sorted()?;
        let mut batch = self.database.batch();
        for (key, value) in entries {
            batch.insert(&self.state, key.as_slice(), value.as_slice());
            batch.insert(&sorted, key_hash(key).as_bytes(), key.as_slice());
        }
        Ok(batch.commit()?)
    }

    /// Builds the tree over the restored state; gives its root.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub(crate) fn restore_tree(&self) -> anyhow::Result<Hash> {
        let state = self.state();
        let mut root = EMPTY_TREE;
        let (mut values, mut bytes) = (Changes::new(), 0);
        // In the tree's own order each step touches a small part of it.
        let mut keys = self.sorted()?.iter().peekable();
        while let Some(key) = keys.next() {
            let key = key.value()?.to_vec();
            let value = state.get(&key)?.context("a restored key has a value")?;
            bytes += value.len();
            values.insert(key, Some(value));
            let full = values.len() == STEP_KEYS || bytes >= STEP_BYTES;
            if full || keys.peek().is_none() {
                root = self.grow_tree(&std::mem::take(&mut values))?;
                bytes = 0;
            }
        }
        Ok(root)
    }

    fn grow_tree(&self, values: &Changes) -> anyhow::Result<Hash> {
        let (root, pages) = tree::update(self, values)?;
        let mut batch = self.database.batch();
        self.stage_pages(&mut batch, &pages);
        batch.commit()?;
        Ok(root)
    }

    /// The first height of the chain, as the restored state says.
    ///
    /// # Errors
    /// The state cannot be read.
    pub(crate) fn restored_initial(&self) -> anyhow::Result<Height> {
        Ok(query::chain(&self.state())?.initial_height)
    }

    /// Makes the restored state the node's own, for good: CometBFT will never offer it again.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn finish_restore(&self, tip: Tip) -> anyhow::Result<()> {
        let lowest = tip.height.next().context("no height is left")?;
        let mut batch = self.database.batch();
        batch.insert(&self.meta, TIP, borsh::to_vec(&tip)?);
        for key in [LOWEST, PRUNED] {
            batch.insert(&self.meta, key, borsh::to_vec(&lowest)?);
        }
        batch.remove(&self.meta, RESTORING);
        batch.commit()?;
        self.sync()?;
        self.drop_sorted()
    }
}
