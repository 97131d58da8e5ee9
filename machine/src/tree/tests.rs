use counterpoint_core::state::EMPTY_TREE;
use jmt::{KeyHash, Sha256Jmt, mock::MockTreeStore};
use proptest::prelude::*;

use super::*;

/// Places that share long prefixes, so that pages split and merge at every depth.
fn any_place() -> impl Strategy<Value = Hash> {
    let place = (0_u8..4, 0_u8..3, 0_u8..3, any::<bool>());
    place.prop_map(|(first, middle, last, far)| {
        let mut place = [if far { 0xab } else { 0x11 }; 32];
        (place[0], place[15], place[31]) = (first << 2, middle << 3, last);
        Hash::new(place)
    })
}

/// Blocks of changes; a value is one byte.
fn any_blocks() -> impl Strategy<Value = Vec<BTreeMap<Hash, Option<u8>>>> {
    let change = (any_place(), prop::option::weighted(0.6, any::<u8>()));
    let block = prop::collection::vec(change, 1..12);
    let block = block.prop_map(|changes| changes.into_iter().collect());
    prop::collection::vec(block, 1..12)
}

fn changes(block: &BTreeMap<Hash, Option<u8>>) -> Vec<Change> {
    let change = |(place, value): (&Hash, &Option<u8>)| Change {
        place: *place,
        value: value.map(|value| Hash::digest(&[&[value]])),
    };
    block.iter().map(change).collect()
}

fn apply(tree: &mut Pages, pages: Pages) {
    for (path, page) in pages {
        // What a store holds is what it reads back.
        let page = page.map(|page| Page::decode(&page.encode()).unwrap());
        tree.insert(path, page);
    }
    tree.retain(|_, page| page.is_some());
}

proptest! {
    #[test]
    fn roots_are_those_of_jmt_and_pages_those_of_a_tree_built_at_once(blocks in any_blocks()) {
        let (mut tree, reference) = (Pages::new(), MockTreeStore::default());
        let mut values = BTreeMap::new();
        for (version, block) in (0..).zip(&blocks) {
            let (root, pages) = change(&tree, changes(block)).unwrap();
            apply(&mut tree, pages);
            let all = block.iter().map(|(place, value)| {
                (KeyHash(*place.as_bytes()), value.map(|value| vec![value]))
            });
            let (expected, batch) = Sha256Jmt::new(&reference)
                .put_value_set(all, version)
                .unwrap();
            reference.write_tree_update_batch(batch).unwrap();
            prop_assert_eq!(root, Hash::new(expected.0));
            values.extend(block.clone());
            values.retain(|_, value| value.is_some());
            let (_, fresh) = change(&Pages::new(), changes(&values)).unwrap();
            prop_assert_eq!(&tree, &fresh);
        }
    }

    #[test]
    fn every_key_is_proven_and_nothing_else(keys in prop::collection::btree_set(0_u8..40, 0..20)) {
        let state = keys.iter().map(|key| (vec![*key], Some(vec![*key, 1])));
        let (root, tree) = update(&Pages::new(), &state.collect()).unwrap();
        for key in 0..40 {
            let value = keys.contains(&key).then(|| vec![key, 1]);
            let (way, place) = (path(&tree, &[key]).unwrap(), key_hash(&[key]));
            let proves = |value: Option<&[u8]>| way.verify(&root, &place, value).is_ok();
            prop_assert!(proves(value.as_deref()));
            prop_assert!(!proves(Some(&[key, 2])));
            prop_assert!(value.is_none() || !proves(None));
            let other = key_hash(&[key + 1]);
            prop_assert!(way.verify(&root, &other, value.as_deref()).is_err() || value.is_none());
        }
    }

    #[test]
    fn damaged_pages_are_refused_or_read_as_they_are(
        bytes in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        if let Ok(page) = Page::decode(&bytes) {
            prop_assert_eq!(page.encode(), bytes);
        }
    }
}

#[test]
fn a_tree_without_keys_and_one_with_one() {
    let (root, tree) = change(&Pages::new(), Vec::new()).unwrap();
    assert_eq!(root, EMPTY_TREE);
    let only = Leaf {
        key: Hash::digest(&[b"key"]),
        value: Hash::digest(&[b"value"]),
    };
    let insert = Change {
        place: only.key,
        value: Some(only.value),
    };
    let (root, tree) = change(&tree, vec![insert]).unwrap();
    assert_eq!(root, only.hash());
    assert_eq!(tree.len(), 1, "it stands in the page of the root");
}

#[test]
fn a_page_that_is_missing_is_a_fault() {
    let state = (0..100_u8).map(|key| (vec![key], Some(vec![key])));
    let (_, mut tree) = update(&Pages::new(), &state.collect()).unwrap();
    let removed = tree.keys().copied().nth(3).unwrap();
    tree.remove(&removed);
    let changes = (0..100_u8).map(|key| (vec![key], None)).collect();
    let fault = update(&tree, &changes).unwrap_err();
    let reason = std::error::Error::source(&fault).unwrap().to_string();
    assert!(reason.ends_with("is missing"), "{reason}");
}
