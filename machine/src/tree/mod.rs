//! The tree over the state: its root is the app hash.
//!
//! A binary sparse Merkle tree over the hashes of keys, in which a subtree with one key is that key's
//! leaf. Its nodes are stored by their path, four levels to a page, so that a block writes each page on
//! the way to what it changed once, in place of the one before.
//!
//! # Specification
//! `docs/spec/state.md`. Roots are those of the Jellyfish Merkle tree of `jmt` 0.12.

mod page;

use std::collections::BTreeMap;

use counterpoint_core::{
    primitive::Hash,
    state::{Leaf, TreePath, key_hash},
};
use page::{Child, Range, nibble};
pub use page::{Page, PagePath};

use crate::state::{Changes, StoreError};

/// Pages by path; nothing where one is to be removed.
pub type Pages = BTreeMap<PagePath, Option<Page>>;

/// Reads a tree.
pub trait TreeRead {
    /// The page at a path, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if the store fails.
    fn page(&self, path: &PagePath) -> Result<Option<Page>, StoreError>;
}

impl TreeRead for Pages {
    fn page(&self, path: &PagePath) -> Result<Option<Page>, StoreError> {
        Ok(self.get(path).cloned().flatten())
    }
}

/// The root after `changes`, and the pages to write with them in one batch.
///
/// # Errors
/// [`StoreError`] if the tree cannot be read.
pub fn update<R: TreeRead>(reader: &R, changes: &Changes) -> Result<(Hash, Pages), StoreError> {
    let changes = changes.iter().map(|(key, value)| Change {
        place: key_hash(key),
        value: value.as_ref().map(|value| Hash::digest(&[value])),
    });
    change(reader, changes.collect())
}

/// The way from the root to a key, for a proof of what stands there.
///
/// # Errors
/// [`StoreError`] if the tree cannot be read.
pub fn path<R: TreeRead>(reader: &R, key: &[u8]) -> Result<TreePath, StoreError> {
    path_to(reader, &key_hash(key))
}

/// What happens to one key.
#[derive(Clone, Copy)]
struct Change {
    place: Hash,
    value: Option<Hash>,
}

fn change<R: TreeRead>(reader: &R, mut changes: Vec<Change>) -> Result<(Hash, Pages), StoreError> {
    changes.sort_unstable_by_key(|change| change.place);
    let root = PagePath::new(&Hash::ZERO, 0);
    let mut page = reader.page(&root)?.unwrap_or_default();
    let pages = Pages::new();
    let mut update = Update { reader, pages };
    update.children(&mut page, &changes, 0)?;
    let hash = page.hash();
    update.pages.insert(root, Some(page));
    Ok((hash, update.pages))
}

struct Update<'a, R> {
    reader: &'a R,
    pages: Pages,
}

impl<R: TreeRead> Update<'_, R> {
    fn children(
        &mut self,
        page: &mut Page,
        changes: &[Change],
        depth: usize,
    ) -> Result<(), StoreError> {
        let mut rest = changes;
        for (at, child) in page.children.iter_mut().enumerate() {
            let end = rest.partition_point(|change| nibble(&change.place, depth) == at);
            let below;
            (below, rest) = rest.split_at(end);
            if let [first, ..] = below {
                *child = self.child(*child, below, &first.place, depth.saturating_add(1))?;
            }
        }
        Ok(())
    }

    /// What a child becomes by changes below it; all of them share the first `depth` nibbles of
    /// `place`.
    fn child(
        &mut self,
        child: Child,
        changes: &[Change],
        place: &Hash,
        depth: usize,
    ) -> Result<Child, StoreError> {
        let path = PagePath::new(place, depth);
        let mut page = match (child, changes) {
            (Child::Page(_), _) => load(self.reader, &path)?,
            (Child::Nothing, [only]) => return Ok(leaf(only)),
            (Child::Leaf(old), [only]) if old.key == only.place => return Ok(leaf(only)),
            (Child::Nothing, _) => Page::default(),
            (Child::Leaf(old), _) => Page::with(old, depth),
        };
        self.children(&mut page, changes, depth)?;
        let (child, kept) = match page::range(&page.children) {
            Range::Empty => (Child::Nothing, None),
            Range::One(leaf) => (Child::Leaf(*leaf), None),
            Range::Many => (Child::Page(page.hash()), Some(page)),
        };
        self.pages.insert(path, kept);
        Ok(child)
    }
}

/// A page that another one tells of.
fn load<R: TreeRead>(reader: &R, path: &PagePath) -> Result<Page, StoreError> {
    let missing = || StoreError::corrupt(format!("state tree: page {path} is missing"));
    reader.page(path)?.ok_or_else(missing)
}

fn leaf(change: &Change) -> Child {
    change.value.map_or(Child::Nothing, |value| {
        Child::Leaf(Leaf {
            key: change.place,
            value,
        })
    })
}

fn path_to<R: TreeRead>(reader: &R, place: &Hash) -> Result<TreePath, StoreError> {
    let mut way = TreePath::default();
    let (mut depth, root) = (0, PagePath::new(place, 0));
    let mut page = reader.page(&root)?.unwrap_or_default();
    loop {
        let (mut children, at) = (&page.children[..], nibble(place, depth));
        for half in [8, 4, 2, 1, 0] {
            match page::range(children) {
                Range::Empty => return Ok(way),
                Range::One(leaf) => {
                    way.leaf = Some(*leaf);
                    return Ok(way);
                }
                Range::Many if half == 0 => {} // It is a page of its own.
                Range::Many => {
                    let (left, right) = children.split_at(half);
                    let sibling;
                    (children, sibling) = if at & half == 0 {
                        (left, right)
                    } else {
                        (right, left)
                    };
                    way.siblings.push(page::hash(sibling));
                }
            }
        }
        depth = depth.saturating_add(1);
        page = load(reader, &PagePath::new(place, depth))?;
    }
}

#[cfg(test)]
mod tests;
