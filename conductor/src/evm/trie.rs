//! A Merkle Patricia trie whose nodes are stored by path, loaded as they are needed.
//!
//! Keys are 32-byte hashes, so no branch holds a value. The changes of a block are applied together
//! in one walk down from the root, so that each node on the way is read, decoded and hashed once;
//! subtrees do not know of each other and are given to all cores.
//!
//! ```text
//! sorted changes ─apply─▶ nodes on the way to them ─encode─▶ root, nodes to write by path
//!                   ▲ source: nodes by path
//! ```
//!
//! # Specification
//! Ethereum yellow paper, appendix D.

use alloy_primitives::{B256, keccak256};
use alloy_rlp::{Buf, Decodable, EMPTY_STRING_CODE, Encodable, Header};

use super::StoreError;
use crate::parallel;

/// Root of a trie without keys: `keccak256(rlp(""))`.
const EMPTY_ROOT: B256 = alloy_consensus::constants::EMPTY_ROOT_HASH;
/// Nibbles of a key.
const DEPTH: usize = 64;
/// Fewest changes that are worth a second thread.
const PARALLEL: usize = 128;

/// Nodes to write by path, one nibble per byte; `None` deletes. No path comes twice.
pub type NodeChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Reads a node by its path, one nibble per byte.
pub(super) type Source<'a> = &'a (dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError> + Sync);

/// One nibble per byte.
type Key = [u8; DEPTH];

/// A key and what stands under it from now on; `None` removes it.
type Change = (Key, Option<Vec<u8>>);

/// A trie with the changes of one block on top of what is stored.
pub struct Trie<'a> {
    source: Source<'a>,
    changes: Vec<Change>,
}

impl std::fmt::Debug for Trie<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie")
            .field("changes", &self.changes.len())
            .finish_non_exhaustive()
    }
}

/// What stands at a place of the trie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Empty,
    /// Stored under its path, not loaded.
    Hash(B256),
    Node(Box<Node>),
}

/// Leaves and extensions know their way from the root, so they can be moved up and down as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nodes are boxed, and most of those loaded are branches"
)]
enum Node {
    Leaf {
        key: Key,
        value: Vec<u8>,
    },
    /// Leads to the branch at the first `end` nibbles of `key`.
    Extension {
        key: Key,
        end: usize,
        child: Link,
    },
    Branch {
        children: [Link; 16],
    },
}

impl<'a> Trie<'a> {
    /// The trie that `source` stores; its root lies at the empty path.
    #[must_use]
    pub fn new(source: Source<'a>) -> Self {
        let changes = Vec::new();
        Self { source, changes }
    }

    /// Puts a value under a key.
    pub fn insert(&mut self, key: &B256, value: Vec<u8>) {
        self.changes.push((nibbles(key), Some(value)));
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, key: &B256) {
        self.changes.push((nibbles(key), None));
    }

    /// The root, and what must be written so that the store holds this trie.
    ///
    /// # Errors
    /// [`StoreError`] if a node on the way to a change cannot be read or decoded.
    pub fn commit(self) -> Result<(B256, NodeChanges), StoreError> {
        let Self {
            source,
            mut changes,
        } = self;
        // The last change of a key counts.
        changes.reverse();
        changes.sort_by_key(|(key, _)| *key);
        changes.dedup_by_key(|(key, _)| *key);
        let Some(rlp) = source(&[])? else {
            let walk = Walk::new(source);
            return walk.commit(Link::Empty, &mut changes);
        };
        if changes.is_empty() {
            return Ok((keccak256(&rlp), NodeChanges::new()));
        }
        let root = Link::Node(Box::new(Node::decode(&rlp, &[])?));
        Walk::new(source).commit(root, &mut changes)
    }
}

/// Applies changes below one place of the trie.
struct Walk<'a> {
    source: Source<'a>,
    nodes: NodeChanges,
}

impl<'a> Walk<'a> {
    fn new(source: Source<'a>) -> Self {
        let nodes = NodeChanges::new();
        Self { source, nodes }
    }

    fn commit(
        mut self,
        root: Link,
        changes: &mut [Change],
    ) -> Result<(B256, NodeChanges), StoreError> {
        let spread = changes.len() >= PARALLEL;
        let root = match changes {
            [] => root,
            changes => self.apply(root, 0, changes, spread)?,
        };
        let Link::Node(root) = root else {
            return Ok((EMPTY_ROOT, self.nodes));
        };
        let rlp = root.encode(&mut Vec::new(), spread, &mut self.nodes);
        let hash = keccak256(&rlp);
        self.nodes.push((Vec::new(), Some(rlp)));
        Ok((hash, self.nodes))
    }

    /// What stands at `depth` once `changes` are made, all of which lie below it. There is at least
    /// one.
    fn apply(
        &mut self,
        link: Link,
        depth: usize,
        changes: &mut [Change],
        spread: bool,
    ) -> Result<Link, StoreError> {
        let path = changes[0].0;
        let Some(mut node) = self.load(link, &path[..depth])? else {
            return Ok(build(depth, &mut inserts(changes)));
        };
        // Most nodes are branches that stay what they are.
        if let Node::Branch { children } = &mut *node {
            self.apply_branch(children, depth, changes, spread)?;
            let left = children.iter().filter(|child| **child != Link::Empty);
            if left.count() > 1 {
                return Ok(Link::Node(node));
            }
        }
        let after = match *node {
            Node::Branch { children } => self.collapse(children, path, depth)?,
            Node::Leaf { key, value } => {
                let mentioned = changes.binary_search_by_key(&key, |(key, _)| *key).is_ok();
                let mut items = inserts(changes);
                if !mentioned {
                    let at = items.partition_point(|(other, _)| *other < key);
                    items.insert(at, (key, value));
                }
                build(depth, &mut items)
            }
            Node::Extension { key, end, child } => {
                let inserted = changes.iter().filter(|(_, value)| value.is_some());
                let forks =
                    inserted.map(|(other, _)| depth + shared(&key[depth..end], &other[depth..]));
                let fork = forks.min().unwrap_or(end);
                let below = if fork < end {
                    let mut children = <[Link; 16]>::default();
                    children[usize::from(key[fork])] = extend(&key, fork + 1, end, child);
                    let branch = Node::Branch { children };
                    Link::Node(Box::new(branch))
                } else {
                    child
                };
                // Removals that go elsewhere find nothing to remove.
                let below = match within(changes, &key[..fork]) {
                    [] => below,
                    changes => self.apply(below, fork, changes, spread)?,
                };
                self.raise(below, &key, depth, fork)
            }
        };
        if after == Link::Empty {
            self.nodes.push((path[..depth].to_vec(), None));
        }
        Ok(after)
    }

    fn apply_branch(
        &mut self,
        children: &mut [Link; 16],
        depth: usize,
        changes: &mut [Change],
        spread: bool,
    ) -> Result<(), StoreError> {
        let parts = changes.chunk_by_mut(|(a, _), (b, _)| a[depth] == b[depth]);
        let parts = parts.map(|part| {
            let at = usize::from(part[0].0[depth]);
            (at, std::mem::take(&mut children[at]), part)
        });
        let parts: Vec<_> = parts.collect();
        if !spread || parts.len() == 1 {
            for (at, child, part) in parts {
                children[at] = self.apply(child, depth + 1, part, spread)?;
            }
            return Ok(());
        }
        let source = self.source;
        let walked = parallel::map(parts, |(at, child, part)| {
            let mut walk = Walk::new(source);
            let child = walk.apply(child, depth + 1, part, false)?;
            Ok((at, child, walk.nodes))
        });
        for walked in walked {
            let (at, child, nodes) = walked?;
            children[at] = child;
            self.nodes.extend(nodes);
        }
        Ok(())
    }

    /// A branch with at most one child left becomes part of that child.
    fn collapse(
        &mut self,
        children: [Link; 16],
        mut path: Key,
        depth: usize,
    ) -> Result<Link, StoreError> {
        let mut children = (0_u8..16).zip(children);
        let Some((only, child)) = children.find(|(_, child)| *child != Link::Empty) else {
            return Ok(Link::Empty);
        };
        path[depth] = only;
        let child = match child {
            Link::Hash(hash) => match self.load(child, &path[..=depth])? {
                Some(node) if !matches!(*node, Node::Branch { .. }) => Link::Node(node),
                _ => Link::Hash(hash),
            },
            child => child,
        };
        Ok(self.raise(child, &path, depth, depth + 1))
    }

    /// Lets what stands at `from` on the way to `key` stand at `depth`, with nothing between them.
    fn raise(&mut self, link: Link, key: &Key, depth: usize, from: usize) -> Link {
        let moves = match &link {
            Link::Empty => return Link::Empty,
            // Below an extension there is always a branch.
            Link::Hash(_) => false,
            Link::Node(node) => !matches!(**node, Node::Branch { .. }),
        };
        if !moves {
            return extend(key, depth, from, link);
        }
        if depth < from {
            self.nodes.push((key[..from].to_vec(), None));
        }
        link
    }

    fn load(&self, link: Link, path: &[u8]) -> Result<Option<Box<Node>>, StoreError> {
        let hash = match link {
            Link::Empty => return Ok(None),
            Link::Node(node) => return Ok(Some(node)),
            Link::Hash(hash) => hash,
        };
        let missing = || StoreError::new(format!("trie node {hash} at {path:02x?} is missing"));
        let rlp = (self.source)(path)?.ok_or_else(missing)?;
        Node::decode(&rlp, path).map(|node| Some(Box::new(node)))
    }
}

/// What is put, without what is removed.
fn inserts(changes: &mut [Change]) -> Vec<(Key, Vec<u8>)> {
    let put = |(key, value): &mut Change| Some((*key, value.take()?));
    changes.iter_mut().filter_map(put).collect()
}

/// The changes below a path.
fn within<'a>(changes: &'a mut [Change], path: &[u8]) -> &'a mut [Change] {
    let from = changes.partition_point(|(key, _)| &key[..path.len()] < path);
    let until = changes.partition_point(|(key, _)| &key[..path.len()] <= path);
    &mut changes[from..until]
}

/// A trie of its own that stands at `depth`, of sorted items.
fn build(depth: usize, items: &mut [(Key, Vec<u8>)]) -> Link {
    match items {
        [] => Link::Empty,
        [(key, value)] => Link::Node(Box::new(Node::Leaf {
            key: *key,
            value: std::mem::take(value),
        })),
        [(first, _), .., (last, _)] => {
            let (first, fork) = (*first, depth + shared(&first[depth..], &last[depth..]));
            let mut children = <[Link; 16]>::default();
            for part in items.chunk_by_mut(|(a, _), (b, _)| a[fork] == b[fork]) {
                children[usize::from(part[0].0[fork])] = build(fork + 1, part);
            }
            let branch = Node::Branch { children };
            extend(&first, depth, fork, Link::Node(Box::new(branch)))
        }
    }
}

/// The branch at the first `end` nibbles of `key`, as it stands at `depth`.
fn extend(key: &Key, depth: usize, end: usize, branch: Link) -> Link {
    if depth == end {
        return branch;
    }
    let (key, child) = (*key, branch);
    Link::Node(Box::new(Node::Extension { key, end, child }))
}

fn nibbles(key: &B256) -> Key {
    std::array::from_fn(|at| match at % 2 {
        0 => key[at / 2] >> 4,
        _ => key[at / 2] & 0x0f,
    })
}

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Node {
    /// The node's RLP; all nodes below it that are stored on their own go to `nodes`.
    fn encode(&self, path: &mut Vec<u8>, spread: bool, nodes: &mut NodeChanges) -> Vec<u8> {
        let depth = path.len();
        let mut payload = Vec::new();
        match self {
            Self::Leaf { key, value } => {
                compact(&key[depth..], true).as_slice().encode(&mut payload);
                value.as_slice().encode(&mut payload);
            }
            Self::Extension { key, end, child } => {
                let rest = &key[depth..*end];
                compact(rest, false).as_slice().encode(&mut payload);
                path.extend_from_slice(rest);
                child.encode(path, spread, nodes, &mut payload);
                path.truncate(depth);
            }
            Self::Branch { children } => {
                payload.reserve(17 * 33);
                encode_children(children, path, spread, nodes, &mut payload);
                payload.push(EMPTY_STRING_CODE);
            }
        }
        let mut rlp = Vec::with_capacity(payload.len() + 3);
        Header {
            list: true,
            payload_length: payload.len(),
        }
        .encode(&mut rlp);
        rlp.extend_from_slice(&payload);
        rlp
    }

    fn decode(mut rlp: &[u8], path: &[u8]) -> Result<Self, StoreError> {
        Self::decode_list(&mut rlp, path)
            .map_err(|error| StoreError::new(format!("malformed trie node: {error}")))
    }

    fn decode_list(rlp: &mut &[u8], path: &[u8]) -> Result<Self, alloy_rlp::Error> {
        let mut payload = Header::decode_bytes(rlp, true)?;
        let mut items = [&[][..]; 17];
        let mut count = 0;
        while !payload.is_empty() {
            let mut rest = payload;
            let header = Header::decode(&mut rest)?;
            let length = payload.len() - rest.len() + header.payload_length;
            let too_short = alloy_rlp::Error::InputTooShort;
            let item = payload.get(..length).ok_or(too_short)?;
            let too_many = alloy_rlp::Error::Custom("more items than a node has");
            *items.get_mut(count).ok_or(too_many)? = item;
            count += 1;
            payload.advance(length);
        }
        match items {
            [mut short, mut last, ..] if count == 2 => {
                let (key, end, is_leaf) = expand(Header::decode_bytes(&mut short, false)?, path)?;
                if is_leaf {
                    let value = Header::decode_bytes(&mut last, false)?.to_vec();
                    Ok(Self::Leaf { key, value })
                } else {
                    let child = Link::decode(last, &key[..end])?;
                    Ok(Self::Extension { key, end, child })
                }
            }
            items if count == 17 && path.len() < DEPTH => {
                let mut children = <[Link; 16]>::default();
                let mut path = path.to_vec();
                for (at, (child, item)) in (0_u8..).zip(children.iter_mut().zip(items)) {
                    path.push(at);
                    *child = Link::decode(item, &path)?;
                    path.pop();
                }
                Ok(Self::Branch { children })
            }
            _ => Err(alloy_rlp::Error::Custom(
                "neither a branch nor a short node",
            )),
        }
    }
}

/// Appends the references to a branch's children.
fn encode_children(
    children: &[Link; 16],
    path: &mut Vec<u8>,
    spread: bool,
    nodes: &mut NodeChanges,
    out: &mut Vec<u8>,
) {
    let loaded = children
        .iter()
        .filter(|child| matches!(child, Link::Node(_)));
    if !spread || loaded.count() == 1 {
        for (at, child) in (0_u8..).zip(children) {
            path.push(at);
            child.encode(path, spread, nodes, out);
            path.pop();
        }
        return;
    }
    let path = &*path;
    let encoded = parallel::map((0_u8..).zip(children).collect(), |(at, child)| {
        let (mut nodes, mut out) = (NodeChanges::new(), Vec::new());
        child.encode(
            &mut [path.as_slice(), &[at]].concat(),
            false,
            &mut nodes,
            &mut out,
        );
        (nodes, out)
    });
    for (below, reference) in encoded {
        nodes.extend(below);
        out.extend_from_slice(&reference);
    }
}

impl Link {
    /// Appends the reference to what stands here: its hash, or itself if it is shorter.
    fn encode(&self, path: &mut Vec<u8>, spread: bool, nodes: &mut NodeChanges, out: &mut Vec<u8>) {
        match self {
            Self::Empty => out.push(EMPTY_STRING_CODE),
            Self::Hash(hash) => hash.encode(out),
            Self::Node(node) => {
                let rlp = node.encode(path, spread, nodes);
                if rlp.len() < 32 {
                    out.extend_from_slice(&rlp);
                    // A longer one may have been stored here.
                    nodes.push((path.clone(), None));
                } else {
                    keccak256(&rlp).encode(out);
                    nodes.push((path.clone(), Some(rlp)));
                }
            }
        }
    }

    fn decode(mut item: &[u8], path: &[u8]) -> Result<Self, alloy_rlp::Error> {
        match item.first() {
            Some(&EMPTY_STRING_CODE) => Ok(Self::Empty),
            Some(first) if *first >= 0xc0 => {
                let node = Node::decode_list(&mut item, path)?;
                Ok(Self::Node(Box::new(node)))
            }
            _ => Ok(Self::Hash(B256::decode(&mut item)?)),
        }
    }
}

/// Hex-prefix encoding (yellow paper, appendix C).
fn compact(nibbles: &[u8], is_leaf: bool) -> Vec<u8> {
    let flag = if is_leaf { 0x20 } else { 0x00 };
    let (first, rest) = match nibbles.split_first() {
        Some((odd, rest)) if nibbles.len() % 2 == 1 => (flag | 0x10 | odd, rest),
        _ => (flag, nibbles),
    };
    let pairs = rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    std::iter::once(first).chain(pairs).collect()
}

/// Inverts [`compact`] for a node at `path`: its way from the root, where that ends, and whether a
/// leaf does.
fn expand(compact: &[u8], path: &[u8]) -> Result<(Key, usize, bool), alloy_rlp::Error> {
    let malformed = alloy_rlp::Error::Custom("a path that no key takes");
    let Some((first, rest)) = compact.split_first() else {
        return Err(malformed);
    };
    let odd = (first & 0x10 != 0).then_some(first & 0x0f);
    let rest = rest.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    let (mut key, mut end) = ([0; DEPTH], 0);
    for nibble in path.iter().copied().chain(odd).chain(rest) {
        *key.get_mut(end).ok_or(malformed)? = nibble;
        end += 1;
    }
    let is_leaf = first & 0x20 != 0;
    let fits = match is_leaf {
        true => end == DEPTH,
        false => path.len() < end && end < DEPTH,
    };
    fits.then_some((key, end, is_leaf)).ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_trie::{HashBuilder, Nibbles};
    use proptest::prelude::*;

    use super::*;

    fn expected(values: &BTreeMap<B256, Vec<u8>>) -> B256 {
        let mut builder = HashBuilder::default();
        for (key, value) in values {
            builder.add_leaf(Nibbles::unpack(key), value);
        }
        builder.root()
    }

    /// Keys that share long prefixes, so that extensions split and merge.
    fn any_key() -> impl Strategy<Value = B256> {
        (0_u8..4, 0_u8..4, 0_u8..3, any::<bool>()).prop_map(|(first, second, last, far)| {
            let mut key = B256::repeat_byte(if far { 0xab } else { 0x11 });
            (key[0], key[1], key[31]) = (first << 2, second, last);
            key
        })
    }

    /// Keys that have little in common.
    fn far_key() -> impl Strategy<Value = B256> {
        (0_u16..1_000).prop_map(|number| keccak256(number.to_be_bytes()))
    }

    type Block = Vec<(B256, Option<usize>)>;

    fn blocks(
        key: impl Strategy<Value = B256>,
        changes: std::ops::Range<usize>,
    ) -> impl Strategy<Value = Vec<Block>> {
        let change = (key, prop::option::weighted(0.6, 0_usize..60));
        let block = prop::collection::vec(change, changes);
        prop::collection::vec(block, 1..12)
    }

    fn check(blocks: Vec<Block>) {
        let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut values = BTreeMap::new();
        for block in blocks {
            let source = |path: &[u8]| Ok(stored.get(path).cloned());
            let mut trie = Trie::new(&source);
            for (key, length) in block {
                match length {
                    Some(length) => {
                        let value = vec![7; length + 1];
                        values.insert(key, value.clone());
                        trie.insert(&key, value);
                    }
                    None => {
                        values.remove(&key);
                        trie.remove(&key);
                    }
                }
            }
            let (root, changes) = trie.commit().unwrap();
            assert_eq!(root, expected(&values));
            let count = changes.len();
            let changes: BTreeMap<_, _> = changes.into_iter().collect();
            assert_eq!(changes.len(), count, "a path comes twice");
            for (path, rlp) in changes {
                match rlp {
                    Some(rlp) => stored.insert(path, rlp),
                    None => stored.remove(&path),
                };
            }
            // The store holds exactly the nodes of a trie built in one go.
            let empty = |_: &[u8]| Ok(None);
            let mut fresh = Trie::new(&empty);
            for (key, value) in &values {
                fresh.insert(key, value.clone());
            }
            let fresh = fresh.commit().unwrap().1.into_iter();
            let fresh: BTreeMap<_, _> =
                fresh.filter_map(|(path, rlp)| Some((path, rlp?))).collect();
            assert_eq!(stored, fresh);
        }
    }

    proptest! {
        #[test]
        fn every_root_is_the_reference_and_survives_storage(blocks in blocks(any_key(), 1..12)) {
            check(blocks);
        }

        #[test]
        fn garbage_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            path in prop::collection::vec(0_u8..16, 0..=64),
        ) {
            let _ = Node::decode(&bytes, &path);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn large_blocks_are_spread_and_have_the_same_root(
            blocks in blocks(far_key(), PARALLEL / 2..4 * PARALLEL),
        ) {
            check(blocks);
        }

        /// All changes lie below one path, as they do when sorted accounts are imported.
        #[test]
        fn large_blocks_below_one_path_too(
            mut blocks in blocks(far_key(), PARALLEL..4 * PARALLEL),
            prefix in 0_usize..8,
        ) {
            for (key, _) in blocks.iter_mut().flatten() {
                key[..prefix].fill(0x5a);
            }
            check(blocks);
        }
    }

    #[test]
    fn a_trie_of_many_keys_vanishes_at_once() {
        let all = |length| (0..1_000_u16).map(move |at| (keccak256(at.to_be_bytes()), length));
        check(vec![all(Some(40)).collect(), all(None).collect()]);
        // One key stays, far below the branch that is left over.
        let but_one = all(None).skip(1).collect();
        check(vec![all(Some(40)).collect(), but_one]);
    }
}
