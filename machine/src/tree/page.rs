//! Nodes of the tree, sixteen children at a time.

use std::fmt;

use counterpoint_core::{
    primitive::Hash,
    state::{EMPTY_TREE, Leaf, branch_hash},
};

use crate::state::StoreError;

/// Four bits of a place choose one of so many children.
const CHILDREN: usize = 16;

/// In the head of an encoded page: its first child is a leaf.
const LEAF: u32 = 1;
/// In the head of an encoded page: its first child is a page.
const PAGE: u32 = 1 << CHILDREN;

/// The child that a place belongs to at a depth.
pub(super) fn nibble(place: &Hash, depth: usize) -> usize {
    let byte = place.as_bytes().get(depth / 2).copied().unwrap_or_default();
    usize::from(if depth.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 0x0f
    })
}

/// Where a page lies: the nibbles that all places below it share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PagePath {
    depth: u8,
    prefix: [u8; 32],
}

impl PagePath {
    /// The page at `depth` nibbles on the way to `place`.
    pub(super) fn new(place: &Hash, depth: usize) -> Self {
        let mut prefix = *place.as_bytes();
        for (at, byte) in prefix.iter_mut().enumerate().skip(depth / 2) {
            let half = at == depth / 2 && depth % 2 == 1;
            *byte &= if half { 0xf0 } else { 0 };
        }
        // A place has 64 nibbles.
        let depth = u8::try_from(depth).unwrap_or(u8::MAX);
        Self { depth, prefix }
    }

    /// Its key in a store: the depth, and the nibbles two to a byte.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let bytes = usize::from(self.depth).div_ceil(2);
        let prefix = self.prefix.iter().copied().take(bytes);
        std::iter::once(self.depth).chain(prefix).collect()
    }
}

impl fmt::Display for PagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = Hash::new(self.prefix).to_string();
        f.write_str(digits.get(..usize::from(self.depth)).unwrap_or(&digits))
    }
}

/// What stands under one nibble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Child {
    /// No key.
    #[default]
    Nothing,
    /// One key.
    Leaf(Leaf),
    /// The hash of a page, which holds two keys or more.
    Page(Hash),
}

/// The children under one path. There is a page wherever two keys share a path, and at the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub(super) children: [Child; CHILDREN],
}

/// What a range of children comes down to.
pub(super) enum Range<'a> {
    Empty,
    /// Nothing but one key.
    One(&'a Leaf),
    Many,
}

/// Looks at a range of children.
pub(super) fn range(children: &[Child]) -> Range<'_> {
    let mut filled = children
        .iter()
        .filter(|child| !matches!(child, Child::Nothing));
    match (filled.next(), filled.next()) {
        (None, _) => Range::Empty,
        (Some(Child::Leaf(leaf)), None) => Range::One(leaf),
        _ => Range::Many,
    }
}

/// The hash over a range of children, a power of two of them.
pub(super) fn hash(children: &[Child]) -> Hash {
    match (range(children), children) {
        (Range::Empty, _) => EMPTY_TREE,
        (Range::One(leaf), _) => leaf.hash(),
        (Range::Many, [Child::Page(hash)]) => *hash,
        (Range::Many, _) => {
            let (left, right) = children.split_at(children.len() / 2);
            branch_hash(&hash(left), &hash(right))
        }
    }
}

impl Page {
    /// A page with one key, of which it shares the first `depth` nibbles.
    pub(super) fn with(leaf: Leaf, depth: usize) -> Self {
        let mut page = Self::default();
        let child = page.children.get_mut(nibble(&leaf.key, depth));
        child
            .into_iter()
            .for_each(|child| *child = Child::Leaf(leaf));
        page
    }

    /// The hash of everything below.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash(&self.children)
    }

    /// Which children are leaves and which are pages, little-endian, then each child in order.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = self.children.iter().enumerate();
        let head = head.fold(0_u32, |head, (at, child)| match child {
            Child::Nothing => head,
            Child::Leaf(_) => head | LEAF << at,
            Child::Page(_) => head | PAGE << at,
        });
        let mut bytes = head.to_le_bytes().to_vec();
        for child in &self.children {
            match child {
                Child::Nothing => {}
                Child::Leaf(leaf) => {
                    bytes.extend_from_slice(leaf.key.as_bytes());
                    bytes.extend_from_slice(leaf.value.as_bytes());
                }
                Child::Page(hash) => bytes.extend_from_slice(hash.as_bytes()),
            }
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`StoreError`] if these bytes are no page.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let page = Self::read(bytes).filter(|page| page.encode() == bytes);
        page.ok_or_else(|| StoreError::corrupt(format!("{} bytes are no page", bytes.len())))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<4>()?;
        let head = u32::from_le_bytes(*head);
        let mut page = Self::default();
        let mut next = || {
            let (hash, after) = rest.split_first_chunk::<32>()?;
            rest = after;
            Some(Hash::new(*hash))
        };
        for (at, child) in page.children.iter_mut().enumerate() {
            *child = if head & LEAF << at != 0 {
                let (key, value) = (next()?, next()?);
                Child::Leaf(Leaf { key, value })
            } else if head & PAGE << at != 0 {
                Child::Page(next()?)
            } else {
                Child::Nothing
            };
        }
        Some(page)
    }
}
