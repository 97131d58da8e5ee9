//! RFC-6962 Merkle trees over SHA-256: `leaf = sha256(0x00 ‖ bytes)`,
//! `node = sha256(0x01 ‖ left ‖ right)`, empty tree `sha256("")`.
//!
//! The shape, a left subtree of the greatest power of two below the size, is the one that pairing
//! neighbours and promoting the odd one level by level gives.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::Hash;

/// Deepest path: leaves are counted in 32 bits.
const MAX_DEPTH: usize = 32;

/// The hash of a leaf that holds `bytes`.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Hash {
    Hash::digest(&[&[0], bytes])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Hash::digest(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// The root over leaf hashes.
#[must_use]
pub fn root(leaves: Vec<Hash>) -> Hash {
    let mut level = leaves;
    while level.len() > 1 {
        level = parents(&level);
    }
    level.first().copied().unwrap_or_else(|| Hash::digest(&[]))
}

fn parents(level: &[Hash]) -> Vec<Hash> {
    let parent = |pair: &[Hash]| match pair {
        [left, right] => node(left, right),
        other => other.first().copied().unwrap_or_default(),
    };
    level.chunks(2).map(parent).collect()
}

/// All levels of a tree, for proving many leaves.
#[derive(Clone, Debug)]
pub struct Tree {
    levels: Vec<Vec<Hash>>, // Leaves first; the last level has at most one hash.
}

impl Tree {
    /// Builds the tree over leaf hashes.
    #[must_use]
    pub fn new(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let next = parents(level);
            levels.push(next);
        }
        Self { levels }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or_else(|| Hash::digest(&[]))
    }

    /// The path of leaf `index`, or nothing if there is no such leaf.
    #[must_use]
    pub fn path(&self, index: u32) -> Option<MerklePath> {
        let leaves = self.levels.first()?;
        let len = u32::try_from(leaves.len()).ok()?;
        let mut place = usize::try_from(index).ok()?;
        leaves.get(place)?;
        let mut siblings = Vec::new();
        for level in &self.levels {
            siblings.extend(level.get(place ^ 1));
            place >>= 1;
        }
        Some(MerklePath {
            index,
            len,
            siblings,
        })
    }
}

/// Leads from one leaf to the root.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct MerklePath {
    /// Which leaf, from 0.
    pub index: u32,
    /// How many leaves the tree has.
    pub len: u32,
    /// The hashes beside the way up, lowest first.
    pub siblings: Vec<Hash>,
}

impl MerklePath {
    /// The root that this path leads to from `leaf`, or nothing if a path of this index and length
    /// cannot look like this.
    ///
    /// # Specification
    /// RFC 9162, section 2.1.3.2.
    #[must_use]
    pub fn root(&self, leaf: Hash) -> Option<Hash> {
        if self.index >= self.len || self.siblings.len() > MAX_DEPTH {
            return None;
        }
        let (mut place, mut last) = (self.index, self.len.checked_sub(1)?);
        let mut root = leaf;
        for sibling in &self.siblings {
            if last == 0 {
                return None;
            }
            if place & 1 == 1 || place == last {
                root = node(sibling, &root);
                // A promoted node has no sibling on the levels it skips.
                while place & 1 == 0 && place != 0 {
                    place >>= 1;
                    last >>= 1;
                }
            } else {
                root = node(&root, sibling);
            }
            place >>= 1;
            last >>= 1;
        }
        (last == 0).then_some(root)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word, of RFC 6962 section 2.1.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::digest(&[]),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                node(&definition(&many[..split]), &definition(&many[split..]))
            }
        }
    }

    fn leaves(count: u32) -> Vec<Hash> {
        (0..count).map(|index| leaf(&index.to_be_bytes())).collect()
    }

    #[test]
    fn every_path_of_every_small_tree_leads_to_the_root() {
        for count in 0..70 {
            let tree = Tree::new(leaves(count));
            assert_eq!(tree.root(), definition(&leaves(count)));
            assert_eq!(tree.root(), root(leaves(count)));
            for index in 0..count {
                let path = tree.path(index).unwrap();
                assert_eq!(path.root(leaf(&index.to_be_bytes())), Some(tree.root()));
            }
            assert!(tree.path(count).is_none());
        }
    }

    proptest! {
        #[test]
        fn a_path_proves_one_place_of_a_known_size(
            count in 1_u32..200, at: prop::sample::Index, index in 0_u32..256, len in 0_u32..256
        ) {
            let tree = Tree::new(leaves(count));
            let true_index = u32::try_from(at.index(count as usize)).unwrap();
            let path = tree.path(true_index).unwrap();
            let start = leaf(&true_index.to_be_bytes());
            let moved = MerklePath { index, len: count, ..path.clone() };
            prop_assert_eq!(moved.root(start) == Some(tree.root()), index == true_index);
            // With another size the same hashes may lead to the root, but never from another leaf.
            let other = leaf(&(true_index ^ 1).to_be_bytes());
            let resized = MerklePath { index, len, ..path };
            prop_assert!(resized.root(other) != Some(tree.root()));
        }
    }
}
