use borsh::{BorshDeserialize, BorshSerialize};

use super::{RollupEnv, merkle};
use crate::primitive::{Hash, RollupId};

/// One rollup's part of a block. A rollup has exactly one at every height from its first on, so
/// presence and emptiness are equally provable.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RollupLeaf {
    /// Whose leaf it is; leaves are sorted by it.
    pub rollup_id: RollupId,
    /// What the rollup's block sees.
    pub env: RollupEnv,
    /// How many items the list has.
    pub list_len: u32,
    /// Merkle root over the list.
    pub list_root: Hash,
}

impl RollupLeaf {
    /// Commits to the list whose items have these [leaves](super::RollupItem::leaf).
    #[must_use]
    pub fn new(rollup_id: RollupId, env: RollupEnv, leaves: Vec<Hash>) -> Self {
        // A block has fewer bytes than a u32 counts, and an item at least one.
        let list_len = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        Self {
            rollup_id,
            env,
            list_len,
            list_root: merkle::root(leaves),
        }
    }

    /// The Merkle leaf of this leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        merkle::leaf(&borsh::to_vec(self).unwrap_or_default())
    }
}
