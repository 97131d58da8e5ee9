use bytes::Bytes;
use proptest::prelude::*;

use super::{merkle::Tree, *};
use crate::{
    light::VerifiedHeader,
    primitive::{EvmAddress, Hash, Height, RollupId},
    slot::{HeaderTime, Slot},
};

fn env() -> RollupEnv {
    RollupEnv {
        version: ENV_VERSION,
        slot: Slot::new(1_800_000_000),
        number: 7,
        opens: true,
        closes: false,
        beacon_root: [3; 32],
        prev_randao: prev_randao(&RollupId::from_name("alpha"), &Hash::new([3; 32])),
        config_hash: Hash::new([5; 32]),
    }
}

fn list() -> Vec<RollupItem> {
    vec![
        RollupItem::Deposit {
            index: 0,
            address: EvmAddress::new([1; 20]),
            amount_gwei: 10_000_000,
        },
        RollupItem::Leg {
            bundle_id: Hash::new([2; 32]),
            raw: Bytes::from_static(b"leg"),
        },
        RollupItem::Transaction(Bytes::from_static(b"one")),
        RollupItem::Transaction(Bytes::from_static(b"two")),
    ]
}

fn leaves(list: &[RollupItem]) -> Vec<Hash> {
    list.iter().map(RollupItem::leaf).collect()
}

/// A block with three rollups and two more items, and a header that commits to it.
fn block() -> (VerifiedHeader, Vec<RollupLeaf>, Preamble, Vec<Bytes>) {
    let mut rollups: Vec<RollupLeaf> = ["alpha", "beta", "gamma"]
        .map(|name| RollupLeaf::new(RollupId::from_name(name), env(), leaves(&list())))
        .to_vec();
    rollups.sort_by_key(|leaf| leaf.rollup_id);
    let preamble = Preamble::new(&rollups);
    let items = vec![
        preamble.encode(),
        Bytes::from_static(b"a"),
        Bytes::from_static(b"b"),
    ];
    (header(data_root(&items)), rollups, preamble, items)
}

fn header(data_hash: Hash) -> VerifiedHeader {
    let time = HeaderTime {
        seconds: 1_800_000_000,
        nanos: 5,
    };
    VerifiedHeader::unchecked(
        Height::new(9),
        Hash::new([8; 32]),
        time,
        data_hash,
        Hash::ZERO,
    )
}

fn leaf_proof(name: &str) -> (LeafProof, VerifiedHeader) {
    let (header, leaves, preamble, items) = block();
    let id = RollupId::from_name(name);
    let index = leaves.iter().position(|leaf| leaf.rollup_id == id).unwrap();
    let rollups = Tree::new(leaves.iter().map(RollupLeaf::leaf).collect());
    let data = Tree::new(
        items
            .iter()
            .map(|item| data_leaf(&Hash::digest(&[item])))
            .collect(),
    );
    let proof = LeafProof {
        leaf: leaves[index].clone(),
        leaf_path: rollups.path(u32::try_from(index).unwrap()).unwrap(),
        preamble,
        preamble_path: data.path(0).unwrap(),
    };
    (proof, header)
}

#[test]
fn encodings_are_frozen() {
    let (proof, header) = leaf_proof("alpha");
    insta::assert_snapshot!("env", hex::encode(borsh::to_vec(&env()).unwrap()));
    insta::assert_snapshot!("items", hex::encode(borsh::to_vec(&list()).unwrap()));
    insta::assert_snapshot!("leaf", hex::encode(borsh::to_vec(&proof.leaf).unwrap()));
    insta::assert_snapshot!("leaf_hash", proof.leaf.leaf());
    insta::assert_snapshot!("preamble", hex::encode(proof.preamble.encode()));
    insta::assert_snapshot!("leaf_proof", hex::encode(borsh::to_vec(&proof).unwrap()));
    insta::assert_snapshot!("data_hash", header.data_hash());
}

#[test]
fn a_list_is_proven_up_to_the_header() {
    let (proof, header) = leaf_proof("beta");
    let leaf = proof.verify(&RollupId::from_name("beta"), &header).unwrap();
    assert_eq!(leaf.clone().verify_list(list()).unwrap().items(), list());
    let tree = Tree::new(list().iter().map(RollupItem::leaf).collect());
    let proof = ItemProof {
        item: list()[2].clone(),
        path: tree.path(2).unwrap(),
    };
    assert_eq!(leaf.verify_item(proof).unwrap().index(), 2);
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut LeafProof), expect: &ProofError) {
    let (mut proof, header) = leaf_proof("alpha");
    change(&mut proof);
    assert_eq!(
        proof
            .verify(&RollupId::from_name("alpha"), &header)
            .unwrap_err(),
        *expect
    );
}

#[test]
fn every_forged_step_is_refused() {
    let beta = RollupId::from_name("beta");
    check_refused(
        |proof| *proof = leaf_proof("beta").0,
        &ProofError::OtherRollup(beta),
    );
    check_refused(|proof| proof.leaf.env.number = 8, &ProofError::Leaf);
    check_refused(|proof| proof.leaf.list_len = 3, &ProofError::Leaf);
    check_refused(
        |proof| proof.leaf_path.len = 2,
        &ProofError::Length {
            claimed: 2,
            committed: 3,
        },
    );
    check_refused(
        |proof| proof.preamble_path.index = 1,
        &ProofError::PreambleIndex(1),
    );
    check_refused(|proof| proof.preamble.version = 2, &ProofError::Version(2));
    check_refused(
        |proof| proof.preamble_path.siblings.reverse(),
        &ProofError::Data,
    );
}

#[test]
fn a_changed_list_is_refused() {
    let refused = |items: Vec<RollupItem>| {
        let (proof, header) = leaf_proof("alpha");
        let leaf = proof
            .verify(&RollupId::from_name("alpha"), &header)
            .unwrap();
        leaf.verify_list(items).unwrap_err()
    };
    assert_eq!(
        refused(list()[1..].to_vec()),
        ProofError::Length {
            claimed: 3,
            committed: 4
        }
    );
    let mut reordered = list();
    reordered.swap(2, 3);
    assert_eq!(refused(reordered), ProofError::List);
    let mut changed = list();
    changed[3] = RollupItem::Transaction(Bytes::from_static(b"tow"));
    assert_eq!(refused(changed), ProofError::List);
}

proptest! {
    #[test]
    fn a_changed_proof_proves_nothing(at: prop::sample::Index, bit in 0_u8..8) {
        let (proof, header) = leaf_proof("beta");
        let mut bytes = borsh::to_vec(&proof).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = borsh::from_slice::<LeafProof>(&bytes) {
            prop_assert_eq!(borsh::to_vec(&changed).unwrap(), bytes);
            let verified = changed.verify(&RollupId::from_name("beta"), &header);
            // A path says where it starts; the size of the data tree alone is nowhere committed.
            if let Ok(verified) = verified {
                prop_assert_eq!(verified.leaf(), &proof.leaf);
            }
        }
    }
}
