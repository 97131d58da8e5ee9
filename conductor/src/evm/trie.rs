//! A Merkle Patricia trie whose nodes are stored by path, loaded as they are needed.
//!
//! Keys are 32-byte hashes, so no branch holds a value. Only the nodes on the way to a changed key
//! are in memory; committing gives the new root and the nodes that differ from what was loaded.
//!
//! # Specification
//! Ethereum yellow paper, appendix D.

use std::collections::BTreeMap;

use alloy_primitives::{B256, keccak256};
use alloy_rlp::{Buf, Decodable, EMPTY_STRING_CODE, Encodable, Header};

use super::StoreError;

/// Root of a trie without keys: `keccak256(rlp(""))`.
const EMPTY_ROOT: B256 = alloy_consensus::constants::EMPTY_ROOT_HASH;

/// Nodes to write by path, one nibble per byte; `None` deletes.
pub type NodeChanges = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Reads a node by its path, one nibble per byte.
type Source<'a> = &'a dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>;

/// A trie with the changes of one block on top of what is stored.
pub struct Trie<'a> {
    source: Source<'a>,
    root: Link,
    loaded: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl std::fmt::Debug for Trie<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trie")
            .field("loaded", &self.loaded.len())
            .finish_non_exhaustive()
    }
}

/// What stands at a place of the trie.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    Empty,
    /// Stored under its path, not loaded.
    Hash(B256),
    Node(Box<Node>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nodes are boxed, and most of those loaded are branches"
)]
enum Node {
    Leaf { path: Vec<u8>, value: Vec<u8> },
    Extension { path: Vec<u8>, child: Link },
    Branch { children: [Link; 16] },
}

impl<'a> Trie<'a> {
    /// The trie that `source` stores; its root lies at the empty path.
    ///
    /// # Errors
    /// [`StoreError`] if the root cannot be read or decoded; the same for all methods.
    pub fn open(source: Source<'a>) -> Result<Self, StoreError> {
        let mut trie = Self {
            source,
            root: Link::Empty,
            loaded: BTreeMap::new(),
        };
        if let Some(rlp) = source(&[])? {
            trie.root = Link::Node(Box::new(Node::decode(&rlp)?));
            trie.loaded.insert(Vec::new(), rlp);
        }
        Ok(trie)
    }

    /// Puts a value under a key.
    ///
    /// # Errors
    /// [`StoreError`] if a node on the way cannot be read.
    pub fn insert(&mut self, key: &B256, value: Vec<u8>) -> Result<(), StoreError> {
        let root = std::mem::replace(&mut self.root, Link::Empty);
        let nibbles = nibbles(key);
        self.root = self.insert_at(root, &nibbles, 0, value)?;
        Ok(())
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// [`StoreError`] if a node on the way cannot be read.
    pub fn remove(&mut self, key: &B256) -> Result<(), StoreError> {
        let root = std::mem::replace(&mut self.root, Link::Empty);
        self.root = self.remove_at(root, &nibbles(key), 0)?;
        Ok(())
    }

    /// The root, and what must be written so that the store holds this trie.
    #[must_use]
    pub fn commit(self) -> (B256, NodeChanges) {
        let mut nodes = BTreeMap::new();
        let root = match &self.root {
            Link::Empty => EMPTY_ROOT,
            Link::Hash(hash) => *hash,
            Link::Node(node) => {
                let rlp = node.encode(&mut Vec::new(), &mut nodes);
                let root = keccak256(&rlp);
                nodes.insert(Vec::new(), rlp);
                root
            }
        };
        let gone = self.loaded.keys().filter(|path| !nodes.contains_key(*path));
        let mut changes: NodeChanges = gone.map(|path| (path.clone(), None)).collect();
        for (path, rlp) in nodes {
            if self.loaded.get(&path) != Some(&rlp) {
                changes.insert(path, Some(rlp));
            }
        }
        (root, changes)
    }

    fn load(&mut self, link: Link, path: &[u8]) -> Result<Link, StoreError> {
        let Link::Hash(hash) = link else {
            return Ok(link);
        };
        let missing = || StoreError::new(format!("trie node {hash} at {path:02x?} is missing"));
        let rlp = (self.source)(path)?.ok_or_else(missing)?;
        let node = Node::decode(&rlp)?;
        self.loaded.insert(path.to_vec(), rlp);
        Ok(Link::Node(Box::new(node)))
    }

    fn insert_at(
        &mut self,
        link: Link,
        key: &[u8],
        depth: usize,
        value: Vec<u8>,
    ) -> Result<Link, StoreError> {
        let rest = &key[depth..];
        let node = match self.load(link, &key[..depth])? {
            Link::Node(node) => *node,
            _ => return Ok(leaf(rest, value)),
        };
        let node = match node {
            Node::Branch { mut children } => {
                let child = &mut children[usize::from(rest[0])];
                let old = std::mem::replace(child, Link::Empty);
                *child = self.insert_at(old, key, depth + 1, value)?;
                Node::Branch { children }
            }
            Node::Leaf { path, .. } if path == rest => Node::Leaf { path, value },
            Node::Leaf { path, value: old } => {
                let shared = shared(&path, rest);
                let mut children = [const { Link::Empty }; 16];
                children[usize::from(path[shared])] = leaf(&path[shared + 1..], old);
                children[usize::from(rest[shared])] = leaf(&rest[shared + 1..], value);
                return Ok(extend(&rest[..shared], Node::Branch { children }));
            }
            Node::Extension { path, child } => {
                let shared = shared(&path, rest);
                if shared == path.len() {
                    let child = self.insert_at(child, key, depth + shared, value)?;
                    Node::Extension { path, child }
                } else {
                    let below = &path[shared + 1..];
                    let old = if below.is_empty() {
                        child
                    } else {
                        Link::Node(Box::new(Node::Extension {
                            path: below.to_vec(),
                            child,
                        }))
                    };
                    let mut children = [const { Link::Empty }; 16];
                    children[usize::from(path[shared])] = old;
                    children[usize::from(rest[shared])] = leaf(&rest[shared + 1..], value);
                    return Ok(extend(&rest[..shared], Node::Branch { children }));
                }
            }
        };
        Ok(Link::Node(Box::new(node)))
    }

    fn remove_at(&mut self, link: Link, key: &[u8], depth: usize) -> Result<Link, StoreError> {
        let rest = &key[depth..];
        let node = match self.load(link, &key[..depth])? {
            Link::Node(node) => *node,
            other => return Ok(other),
        };
        match node {
            Node::Leaf { path, .. } if path == rest => Ok(Link::Empty),
            Node::Extension { path, child } if rest.starts_with(&path) => {
                let child = self.remove_at(child, key, depth + path.len())?;
                Ok(join(&path, child))
            }
            Node::Branch { mut children } => {
                let child = &mut children[usize::from(rest[0])];
                let old = std::mem::replace(child, Link::Empty);
                *child = self.remove_at(old, key, depth + 1)?;
                self.collapse(children, &key[..depth])
            }
            other => Ok(Link::Node(Box::new(other))),
        }
    }

    /// A branch with one child left becomes part of that child.
    fn collapse(&mut self, mut children: [Link; 16], path: &[u8]) -> Result<Link, StoreError> {
        let mut left = (0_u8..16).filter(|at| children[usize::from(*at)] != Link::Empty);
        match (left.next(), left.next()) {
            (None, _) => Ok(Link::Empty),
            (Some(only), None) => {
                let child = std::mem::replace(&mut children[usize::from(only)], Link::Empty);
                let child = self.load(child, &[path, &[only]].concat())?;
                Ok(join(&[only], child))
            }
            _ => Ok(Link::Node(Box::new(Node::Branch { children }))),
        }
    }
}

fn nibbles(key: &B256) -> Vec<u8> {
    key.iter()
        .flat_map(|byte| [byte >> 4, byte & 0x0f])
        .collect()
}

fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn leaf(path: &[u8], value: Vec<u8>) -> Link {
    Link::Node(Box::new(Node::Leaf {
        path: path.to_vec(),
        value,
    }))
}

/// A branch under a shared path.
fn extend(path: &[u8], branch: Node) -> Link {
    join(path, Link::Node(Box::new(branch)))
}

/// Puts `path` before a loaded child, merging paths.
fn join(prefix: &[u8], child: Link) -> Link {
    if prefix.is_empty() {
        return child;
    }
    let node = match child {
        Link::Empty => return Link::Empty,
        Link::Node(node) => match *node {
            Node::Leaf { path, value } => Node::Leaf {
                path: [prefix, &path].concat(),
                value,
            },
            Node::Extension { path, child } => Node::Extension {
                path: [prefix, &path].concat(),
                child,
            },
            branch @ Node::Branch { .. } => Node::Extension {
                path: prefix.to_vec(),
                child: Link::Node(Box::new(branch)),
            },
        },
        // Below an extension there is always a branch.
        hash @ Link::Hash(_) => Node::Extension {
            path: prefix.to_vec(),
            child: hash,
        },
    };
    Link::Node(Box::new(node))
}

impl Node {
    /// The node's RLP; all nodes below it that are stored on their own go to `nodes`.
    fn encode(&self, path: &mut Vec<u8>, nodes: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
        let mut payload = Vec::new();
        match self {
            Self::Leaf { path: rest, value } => {
                compact(rest, true).as_slice().encode(&mut payload);
                value.as_slice().encode(&mut payload);
            }
            Self::Extension { path: rest, child } => {
                compact(rest, false).as_slice().encode(&mut payload);
                let depth = path.len();
                path.extend_from_slice(rest);
                child.encode(path, nodes, &mut payload);
                path.truncate(depth);
            }
            Self::Branch { children } => {
                for (at, child) in (0_u8..).zip(children) {
                    path.push(at);
                    child.encode(path, nodes, &mut payload);
                    path.pop();
                }
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

    fn decode(mut rlp: &[u8]) -> Result<Self, StoreError> {
        Self::decode_list(&mut rlp)
            .map_err(|error| StoreError::new(format!("malformed trie node: {error}")))
    }

    fn decode_list(rlp: &mut &[u8]) -> Result<Self, alloy_rlp::Error> {
        let mut payload = Header::decode_bytes(rlp, true)?;
        let mut items = Vec::with_capacity(17);
        while !payload.is_empty() {
            let mut rest = payload;
            let header = Header::decode(&mut rest)?;
            let length = payload.len() - rest.len() + header.payload_length;
            let item = payload
                .get(..length)
                .ok_or(alloy_rlp::Error::InputTooShort)?;
            items.push(item);
            payload.advance(length);
        }
        match items.as_slice() {
            [path, last] => {
                let mut path: &[u8] = path;
                let (path, is_leaf) = expand(Header::decode_bytes(&mut path, false)?);
                if is_leaf {
                    let mut last: &[u8] = last;
                    let value = Header::decode_bytes(&mut last, false)?.to_vec();
                    Ok(Self::Leaf { path, value })
                } else {
                    Ok(Self::Extension {
                        path,
                        child: Link::decode(last)?,
                    })
                }
            }
            items if items.len() == 17 => {
                let mut children = [const { Link::Empty }; 16];
                for (child, item) in children.iter_mut().zip(items) {
                    *child = Link::decode(item)?;
                }
                Ok(Self::Branch { children })
            }
            _ => Err(alloy_rlp::Error::Custom(
                "neither a branch nor a short node",
            )),
        }
    }
}

impl Link {
    /// Appends the reference to what stands here: its hash, or itself if it is shorter.
    fn encode(
        &self,
        path: &mut Vec<u8>,
        nodes: &mut BTreeMap<Vec<u8>, Vec<u8>>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Empty => out.push(EMPTY_STRING_CODE),
            Self::Hash(hash) => hash.encode(out),
            Self::Node(node) => {
                let rlp = node.encode(path, nodes);
                if rlp.len() < 32 {
                    out.extend_from_slice(&rlp);
                } else {
                    keccak256(&rlp).encode(out);
                    nodes.insert(path.clone(), rlp);
                }
            }
        }
    }

    fn decode(mut item: &[u8]) -> Result<Self, alloy_rlp::Error> {
        match item.first() {
            Some(&EMPTY_STRING_CODE) => Ok(Self::Empty),
            Some(first) if *first >= 0xc0 => {
                Ok(Self::Node(Box::new(Node::decode_list(&mut item)?)))
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

/// Inverts [`compact`].
fn expand(compact: &[u8]) -> (Vec<u8>, bool) {
    let Some((first, rest)) = compact.split_first() else {
        return (Vec::new(), false);
    };
    let odd = (first & 0x10 != 0).then_some(first & 0x0f);
    let rest = rest.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    (odd.into_iter().chain(rest).collect(), first & 0x20 != 0)
}

#[cfg(test)]
mod tests {
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

    proptest! {
        #[test]
        fn every_root_is_the_reference_and_survives_storage(
            blocks in prop::collection::vec(
                prop::collection::vec((any_key(), prop::option::of(0_usize..60)), 1..12), 1..12
            )
        ) {
            let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut values = BTreeMap::new();
            for block in blocks {
                let snapshot = stored.clone();
                let source = |path: &[u8]| Ok(snapshot.get(path).cloned());
                let mut trie = Trie::open(&source).unwrap();
                for (key, length) in block {
                    match length {
                        Some(length) => {
                            let value = vec![7; length + 1];
                            values.insert(key, value.clone());
                            trie.insert(&key, value).unwrap();
                        }
                        None => {
                            values.remove(&key);
                            trie.remove(&key).unwrap();
                        }
                    }
                }
                let (root, changes) = trie.commit();
                prop_assert_eq!(root, expected(&values));
                for (path, rlp) in changes {
                    match rlp {
                        Some(rlp) => stored.insert(path, rlp),
                        None => stored.remove(&path),
                    };
                }
                // The store holds exactly the nodes of a trie built in one go.
                let empty = |_: &[u8]| Ok(None);
                let mut fresh = Trie::open(&empty).unwrap();
                for (key, value) in &values {
                    fresh.insert(key, value.clone()).unwrap();
                }
                let fresh = fresh.commit().1.into_iter();
                let fresh: BTreeMap<_, _> =
                    fresh.filter_map(|(path, rlp)| Some((path, rlp?))).collect();
                prop_assert_eq!(&stored, &fresh);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Node::decode(&bytes);
        }
    }
}
