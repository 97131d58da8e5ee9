//! Forgetting blocks that need no longer be served, in small steps.
//!
//! The lowest height moves first, then what lies below it goes. A crash in between leaves work to
//! be gone on with, never a block that is served in part.

use std::ops::ControlFlow;

use counterpoint_core::primitive::Height;
use fjall::OwnedWriteBatch;

use super::{Store, blocks::block_key};

/// The lowest height that is served, once blocks were pruned or a snapshot restored.
pub(super) const LOWEST: &[u8] = b"lowest";
/// The lowest height of which something may still be stored.
pub(super) const PRUNED: &[u8] = b"pruned";

/// A step ends after so many keys, or after one block that has more: consensus waits while a batch
/// is written.
const STEP_KEYS: usize = 2_000;

impl Store {
    /// The lowest height that is served, which may be the one that comes next.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(crate) fn lowest(&self) -> anyhow::Result<Height> {
        let lowest = self.read(&self.meta, LOWEST)?.unwrap_or_default();
        Ok(self.tip()?.initial.max(lowest))
    }

    /// Stops serving what lies below `height`; it can be pruned then.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn raise_lowest(&self, height: Height) -> anyhow::Result<()> {
        if height > self.lowest()? {
            self.meta.insert(LOWEST, borsh::to_vec(&height)?)?;
        }
        Ok(())
    }

    /// Removes some of what lies below the lowest height; breaks when nothing is left there.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub(crate) fn prune(&self) -> anyhow::Result<ControlFlow<()>> {
        let lowest = self.lowest()?;
        let pruned: Option<Height> = self.read(&self.meta, PRUNED)?;
        let mut next = pruned.unwrap_or(self.tip()?.initial).get();
        if next >= lowest.get() {
            return Ok(ControlFlow::Break(()));
        }
        let mut batch = self.database.batch();
        while next < lowest.get() && batch.len() < STEP_KEYS {
            self.stage_removal(&mut batch, Height::new(next))?;
            next += 1;
        }
        self.stage_validators(&mut batch, lowest)?;
        batch.insert(&self.meta, PRUNED, borsh::to_vec(&Height::new(next))?);
        batch.commit()?;
        Ok(ControlFlow::Continue(()))
    }

    fn stage_removal(&self, batch: &mut OwnedWriteBatch, height: Height) -> anyhow::Result<()> {
        let key = block_key(height);
        let Some(record) = self.block(height)? else {
            return Ok(());
        };
        for hash in record.head.items.iter().skip(1) {
            batch.remove(&self.transactions, hash.as_bytes());
        }
        for list in self.lists.prefix(key) {
            batch.remove(&self.lists, list.key()?);
        }
        batch.remove(&self.bundles, key);
        batch.remove(&self.headers, key);
        batch.remove(&self.blocks, key);
        Ok(())
    }

    /// Removes validators but for those of the lowest height, which may have been there for long.
    fn stage_validators(&self, batch: &mut OwnedWriteBatch, lowest: Height) -> anyhow::Result<()> {
        let Some(last) = self.validators.range(..=block_key(lowest)).next_back() else {
            return Ok(());
        };
        for before in self.validators.range(..last.key()?).take(STEP_KEYS) {
            batch.remove(&self.validators, before.key()?);
        }
        Ok(())
    }
}
