//! The complete path item → list root → leaf → rollups root → item 0 → data hash → header.
//!
//! The `Verified*` types have no other constructor than a proof that leads to a
//! [`VerifiedHeader`], and that one comes only from signatures of the validator set.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{
    PREAMBLE_VERSION, Preamble, RollupItem, RollupLeaf, data_leaf,
    merkle::{self, MerklePath},
};
use crate::{
    light::VerifiedHeader,
    primitive::{Hash, RollupId},
};

/// Proves one rollup's leaf against a header.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LeafProof {
    /// The leaf.
    pub leaf: RollupLeaf,
    /// From the leaf to `rollups_root`.
    pub leaf_path: MerklePath,
    /// Item 0 of the block.
    pub preamble: Preamble,
    /// From item 0 to `data_hash`.
    pub preamble_path: MerklePath,
}

/// Proves one item of a rollup's list against its leaf.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ItemProof {
    /// The item.
    pub item: RollupItem,
    /// From the item to `list_root`.
    pub path: MerklePath,
}

/// Proves that a block holds a transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TransactionProof {
    /// From the transaction to `data_hash`.
    pub path: MerklePath,
}

/// Which step of a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf belongs to another rollup.
    #[error("leaf belongs to rollup {0}")]
    OtherRollup(RollupId),
    /// The layout of the block is newer than this software.
    #[error("block layout has unknown version {0}")]
    Version(u16),
    /// The proof speaks of another number of rollups or items than the block commits to.
    #[error("proof says {claimed} entries, block commits to {committed}")]
    Length {
        /// What the proof says.
        claimed: u32,
        /// What is committed.
        committed: u32,
    },
    /// The preamble is item 0, and the proof claims another place.
    #[error("preamble is claimed at item {0}")]
    PreambleIndex(u32),
    /// The leaf's path does not lead to the preamble's root.
    #[error("leaf does not lead to the root over the rollups")]
    Leaf,
    /// The path does not lead to the header's data hash.
    #[error("block item does not lead to the data hash")]
    Data,
    /// The items are not the list that the leaf commits to.
    #[error("items do not lead to the root of the list")]
    List,
}

/// A leaf that the validators committed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLeaf {
    header: VerifiedHeader,
    leaf: RollupLeaf,
}

/// One item of a list that the validators committed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedItem {
    leaf: VerifiedLeaf,
    index: u32,
    item: RollupItem,
}

/// A rollup's whole list at one height, as the validators committed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedList {
    leaf: VerifiedLeaf,
    items: Vec<RollupItem>,
}

impl LeafProof {
    /// Follows the path up to `header`.
    ///
    /// # Errors
    /// [`ProofError`] names the step that does not hold.
    pub fn verify(
        self,
        rollup_id: &RollupId,
        header: &VerifiedHeader,
    ) -> Result<VerifiedLeaf, ProofError> {
        let Self {
            leaf,
            leaf_path,
            preamble,
            preamble_path,
        } = self;
        if leaf.rollup_id != *rollup_id {
            return Err(ProofError::OtherRollup(leaf.rollup_id));
        }
        if preamble.version != PREAMBLE_VERSION {
            return Err(ProofError::Version(preamble.version));
        }
        check_len(leaf_path.len, preamble.rollups_len)?;
        if preamble_path.index != 0 {
            return Err(ProofError::PreambleIndex(preamble_path.index));
        }
        if leaf_path.root(leaf.leaf()) != Some(preamble.rollups_root) {
            return Err(ProofError::Leaf);
        }
        let item = Hash::digest(&[&preamble.encode()]);
        if preamble_path.root(data_leaf(&item)) != Some(header.data_hash()) {
            return Err(ProofError::Data);
        }
        Ok(VerifiedLeaf {
            header: header.clone(),
            leaf,
        })
    }
}

impl TransactionProof {
    /// Whether the block of `header` holds the transaction of this hash. Its place is not proven:
    /// no header commits to the number of a block's items.
    ///
    /// # Errors
    /// [`ProofError::Data`] if the path leads elsewhere.
    pub fn verify(&self, tx_hash: &Hash, header: &VerifiedHeader) -> Result<(), ProofError> {
        match self.path.root(data_leaf(tx_hash)) {
            Some(root) if root == header.data_hash() => Ok(()),
            _ => Err(ProofError::Data),
        }
    }
}

impl VerifiedLeaf {
    /// The header that commits to the leaf.
    #[must_use]
    pub fn header(&self) -> &VerifiedHeader {
        &self.header
    }

    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> &RollupLeaf {
        &self.leaf
    }

    /// Accepts `items` if they are the whole list, in order.
    ///
    /// # Errors
    /// [`ProofError`] if one is missing, added, changed or moved.
    pub fn verify_list(self, items: Vec<RollupItem>) -> Result<VerifiedList, ProofError> {
        check_len(
            u32::try_from(items.len()).unwrap_or(u32::MAX),
            self.leaf.list_len,
        )?;
        let root = merkle::root(items.iter().map(RollupItem::leaf).collect());
        if root != self.leaf.list_root {
            return Err(ProofError::List);
        }
        Ok(VerifiedList { leaf: self, items })
    }

    /// Accepts one item of the list.
    ///
    /// # Errors
    /// [`ProofError`] if the list has another item there.
    pub fn verify_item(self, proof: ItemProof) -> Result<VerifiedItem, ProofError> {
        let ItemProof { item, path } = proof;
        check_len(path.len, self.leaf.list_len)?;
        if path.root(item.leaf()) != Some(self.leaf.list_root) {
            return Err(ProofError::List);
        }
        Ok(VerifiedItem {
            leaf: self,
            index: path.index,
            item,
        })
    }
}

impl VerifiedItem {
    /// The leaf that commits to the item.
    #[must_use]
    pub fn leaf(&self) -> &VerifiedLeaf {
        &self.leaf
    }

    /// Place in the list, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The item.
    #[must_use]
    pub fn item(&self) -> &RollupItem {
        &self.item
    }
}

impl VerifiedList {
    /// The header that commits to the list.
    #[must_use]
    pub fn header(&self) -> &VerifiedHeader {
        &self.leaf.header
    }

    /// The leaf that commits to the list.
    #[must_use]
    pub fn leaf(&self) -> &RollupLeaf {
        &self.leaf.leaf
    }

    /// The items, in order.
    #[must_use]
    pub fn items(&self) -> &[RollupItem] {
        &self.items
    }

    /// Trusts a list without a proof, for tests of what comes after verification.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn unchecked(header: VerifiedHeader, leaf: RollupLeaf, items: Vec<RollupItem>) -> Self {
        Self {
            leaf: VerifiedLeaf { header, leaf },
            items,
        }
    }
}

fn check_len(claimed: u32, committed: u32) -> Result<(), ProofError> {
    if claimed == committed {
        Ok(())
    } else {
        Err(ProofError::Length { claimed, committed })
    }
}
