use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::Hash;

/// The hash of a subtree without keys.
pub const EMPTY_TREE: Hash = Hash::new(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

/// A key's place in the tree: the hash of the state key.
#[must_use]
pub fn key_hash(key: &[u8]) -> Hash {
    Hash::digest(&[key])
}

/// The bit of a place at a depth, from the most significant one on.
fn bit(place: &Hash, depth: usize) -> bool {
    let byte = place.as_bytes().get(depth / 8).copied().unwrap_or_default();
    byte & (0x80 >> (depth % 8)) != 0
}

/// One key of the state and its value, as the tree commits to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Leaf {
    /// SHA-256 of the key.
    pub key: Hash,
    /// SHA-256 of the value.
    pub value: Hash,
}

impl Leaf {
    /// What stands for it in the tree; also for every subtree in which it is alone.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::digest(&[b"JMT::LeafNode", self.key.as_bytes(), self.value.as_bytes()])
    }
}

/// The hash of a subtree with two keys or more.
#[must_use]
pub fn branch_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::digest(&[b"JMT::IntrnalNode", left.as_bytes(), right.as_bytes()])
}

/// The way from the root to a place, as far as anything but one key shares it.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TreePath {
    /// The only key at the end of the way, if there is one.
    pub leaf: Option<Leaf>,
    /// Hashes of the subtrees beside the way, from the root down.
    pub siblings: Vec<Hash>,
}

impl TreePath {
    /// Whether the way leads from `place` and its value, or from nothing, to `root`.
    ///
    /// # Errors
    /// Where it does not.
    pub fn verify(
        &self,
        root: &Hash,
        place: &Hash,
        value: Option<&[u8]>,
    ) -> Result<(), &'static str> {
        let depth = self.siblings.len();
        if depth > 256 {
            return Err("it is longer than a key");
        }
        match (value, &self.leaf) {
            (Some(value), Some(leaf)) if leaf.key == *place => {
                if leaf.value != Hash::digest(&[value]) {
                    return Err("it is of another value");
                }
            }
            (Some(_), _) => return Err("it does not end at the key"),
            (None, Some(leaf)) => {
                let shared = (0..depth).all(|at| bit(&leaf.key, at) == bit(place, at));
                if leaf.key == *place || !shared {
                    return Err("it does not show that the key is absent");
                }
            }
            (None, None) => {}
        }
        let end = self.leaf.as_ref().map_or(EMPTY_TREE, Leaf::hash);
        let siblings = self.siblings.iter().enumerate().rev();
        let led = siblings.fold(end, |below, (at, sibling)| {
            if bit(place, at) {
                branch_hash(sibling, &below)
            } else {
                branch_hash(&below, sibling)
            }
        });
        if led == *root {
            Ok(())
        } else {
            Err("it leads to another root")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_hashes_are_frozen() {
        let leaf = Leaf {
            key: Hash::new([1; 32]),
            value: Hash::new([2; 32]),
        };
        let path = TreePath {
            leaf: Some(leaf),
            siblings: vec![
                EMPTY_TREE,
                leaf.hash(),
                branch_hash(&EMPTY_TREE, &leaf.hash()),
            ],
        };
        insta::assert_snapshot!(hex::encode(borsh::to_vec(&path).unwrap()));
    }
}
