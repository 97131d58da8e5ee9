//! One file of proofs, true and forged, on which core and the page's verifier must agree.
//!
//! `tests/vectors.json` is written here with UPDATE_GENERATED=1, and read here and by
//! `tests/verify.test.mjs`.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use std::{fs, path::Path};

use bytes::Bytes;
use counterpoint_core::{
    block::{ENV_VERSION, ItemProof, RollupEnv, TransactionProof, data_leaf},
    light::{VerifiedHeader, testing},
    primitive::{EvmAddress, Height},
    slot::Slot,
};
use serde_json::{Value, json};
use sha3::{Digest, Keccak256};
use tendermint::{AppHash, PublicKey, Signature, account, block::parts};

use super::*;

/// Validators change twice, and of the first none is left at the end: no header of the last ones can
/// be verified from the genesis alone.
fn set(height: u64) -> testing::Validators {
    let seeds = match height {
        0..=4 => [1, 2, 3, 4],
        5..=8 => [3, 4, 5, 6],
        _ => [5, 6, 7, 8],
    };
    testing::Validators::new(&seeds.map(|seed| (seed, 10 + u32::from(seed))))
}

const LAST: u64 = 12;

fn items() -> Vec<RollupItem> {
    vec![
        RollupItem::Deposit {
            index: 7,
            address: EvmAddress::new([0xd1; 20]),
            amount_gwei: u64::MAX - 3,
        },
        RollupItem::Leg {
            bundle_id: Hash::new([0xb0; 32]),
            raw: Bytes::from_static(b"a leg"),
        },
        RollupItem::Transaction(Bytes::from_static(b"a transaction")),
        // Longer than a block of keccak.
        RollupItem::Transaction(Bytes::from(vec![0xab; 300])),
        RollupItem::Transaction(Bytes::from_static(b"the last")),
    ]
}

fn leaf(name: &str, items: &[RollupItem]) -> RollupLeaf {
    let env = RollupEnv {
        version: ENV_VERSION,
        slot: Slot::new(1_800_000_011),
        number: 42,
        opens: true,
        closes: false,
        beacon_root: [0xbe; 32],
        prev_randao: [0x5a; 32],
        config_hash: Hash::digest(&[name.as_bytes()]),
    };
    let leaves = items.iter().map(RollupItem::leaf).collect();
    RollupLeaf::new(RollupId::from_name(name), env, leaves)
}

fn lies() -> Vec<RollupItem> {
    vec![RollupItem::Transaction(Bytes::from_static(
        b"never ordered",
    ))]
}

/// A leaf of no block.
fn lie() -> RollupLeaf {
    leaf("alpha", &lies())
}

/// The last block's parts.
struct Block {
    leaves: Vec<RollupLeaf>,
    items: Vec<Bytes>,
}

impl Block {
    fn new() -> Self {
        let mut leaves = vec![
            leaf("alpha", &items()),
            leaf("beta", &[]),
            leaf("gamma", &[]),
        ];
        leaves.sort_by_key(|leaf| leaf.rollup_id);
        let items = vec![
            Preamble::new(&leaves).encode(),
            // Anybody may send bytes that look like a preamble.
            Preamble::new(&[lie()]).encode(),
            Bytes::from_static(b"second"),
            Bytes::from_static(b"third"),
        ];
        Self { leaves, items }
    }

    /// A proof that holds but for where it ends: at a transaction.
    fn lie(&self, signed: HeaderProof) -> ItemProofView {
        let proof = LeafProof {
            leaf: lie(),
            leaf_path: Tree::new(vec![lie().leaf()]).path(0).unwrap(),
            preamble: Preamble::new(&[lie()]),
            preamble_path: self.tree().path(1).unwrap(),
        };
        ItemProofView::new(&proof, &lies(), 0, signed).unwrap()
    }

    fn tree(&self) -> Tree {
        let leaf = |item: &Bytes| data_leaf(&Hash::digest(&[item]));
        Tree::new(self.items.iter().map(leaf).collect())
    }

    fn proof(&self, id: RollupId) -> LeafProof {
        let place = self
            .leaves
            .iter()
            .position(|leaf| leaf.rollup_id == id)
            .unwrap();
        let tree = Tree::new(self.leaves.iter().map(RollupLeaf::leaf).collect());
        LeafProof {
            leaf: self.leaves[place].clone(),
            leaf_path: tree.path(u32::try_from(place).unwrap()).unwrap(),
            preamble: Preamble::new(&self.leaves),
            preamble_path: self.tree().path(0).unwrap(),
        }
    }
}

fn headers(block: &Block) -> Vec<HeaderProof> {
    let (mut previous, mut proofs) = (Hash::ZERO, Vec::new());
    for height in 1..=LAST {
        let mut header = testing::header(height, previous, &set(height), &set(height + 1));
        if height == LAST {
            let root = *block.tree().root().as_bytes();
            header.data_hash = Some(tendermint::Hash::Sha256(root));
        }
        let hash = header.hash();
        previous = Hash::new(hash.as_bytes().try_into().unwrap());
        // One is always away.
        let signed = set(height).sign(header, &[0, 1, 2]);
        proofs.push(HeaderProof::new(&signed, &set(height).set()));
    }
    proofs
}

/// What the file says.
fn vectors() -> Value {
    let block = Block::new();
    let headers = headers(&block);
    let last = headers.last().unwrap();
    let (id, items) = (RollupId::from_name("alpha"), items());
    let proofs = (0..5).map(|index| {
        let proof = ItemProofView::new(&block.proof(id), &items, index, last.clone());
        let hash = match &items[index as usize] {
            RollupItem::Transaction(raw) | RollupItem::Leg { raw, .. } => {
                Some(hex(Keccak256::digest(raw)))
            }
            RollupItem::Deposit { .. } => None,
        };
        json!({ "hash": hash, "proof": proof.unwrap() })
    });
    let transaction = TransactionProofView {
        tx_hash: Hash::digest(&[&block.items[2]]),
        path: PathView::new(&block.tree().path(2).unwrap()),
        signed: last.clone(),
    };
    let fifth = headers[4].commit.block_id.hash.parse().unwrap();
    json!({
        "root": RootView::genesis(&testing::genesis(&set(1))),
        "header_root": RootView::header(TrustedHeader { height: Height::new(5), hash: fifth }),
        "rollup": "alpha",
        "rollup_id": id,
        "headers": headers,
        "items": proofs.collect::<Vec<_>>(),
        "transaction": transaction,
        "forged": forged(),
        "forged_item": block.lie(last.clone()),
        "forged_headers": forged_headers(&headers),
    })
}

/// Headers that are really signed, and not to be trusted: what is wrong, what was trusted before, and
/// the header.
fn forged_headers(headers: &[HeaderProof]) -> Value {
    let forge = |height: u64, change: &dyn Fn(&mut Header)| {
        let previous = match height {
            1 => Hash::ZERO,
            _ => headers[height as usize - 2]
                .commit
                .block_id
                .hash
                .parse()
                .unwrap(),
        };
        let mut header = testing::header(height, previous, &set(height), &set(height + 1));
        change(&mut header);
        let signed = set(height).sign(header, &[0, 1, 2, 3]);
        HeaderProof::new(&signed, &set(height).set())
    };
    let later = |secs: i64| {
        move |header: &mut Header| {
            header.time = Time::from_unix_timestamp(1_800_000_000 + secs, 0).unwrap();
        }
    };
    let other = tendermint::Hash::Sha256([9; 32]);
    json!([
        [
            "signed by others than it names",
            0,
            forge(3, &|header| {
                header.validators_hash = set(9).set().hash();
            })
        ],
        [
            "other validators than the header before names",
            2,
            forge(3, &|header| {
                header.validators_hash = set(9).set().hash();
            })
        ],
        [
            "a fork",
            4,
            forge(5, &|header| {
                header.last_block_id = header
                    .last_block_id
                    .map(|id| block::Id { hash: other, ..id });
            })
        ],
        [
            "another chain",
            0,
            forge(3, &|header| header.chain_id = "other".parse().unwrap())
        ],
        ["an earlier time", 2, forge(3, &later(1))],
        ["the same time", 2, forge(3, &later(2))],
        [
            "a month and a day later",
            2,
            forge(3, &later(31 * 24 * 3_600))
        ],
    ])
}

/// Changes that a liar might make to the proof of item 2, in JSON pointers, each with what it is.
fn forged() -> Value {
    let power = "/signed/validators/0/power";
    let other = "00".repeat(32);
    json!([
        ["another transaction", "/item/raw", "00"],
        ["a longer transaction", "/item/raw", format!("{}00", hex("a transaction"))],
        ["the item moved", "/item_path/index", 3],
        ["a shorter list", "/item_path/len", 4],
        ["a longer list", "/leaf/list_len", 6],
        ["another list", "/leaf/list_root", other],
        ["another rollup", "/leaf/rollup_id", RollupId::from_name("beta")],
        ["another block of the rollup", "/leaf/number", "43"],
        ["another slot", "/leaf/slot", "1800000012"],
        ["it does not open", "/leaf/opens", false],
        ["the leaf moved", "/leaf_path/index", 2],
        ["more rollups", "/preamble/rollups_len", 4],
        ["another layout", "/preamble/version", 2],
        ["not the first item", "/preamble_path/index", 1],
        ["other contents", "/signed/header/data_hash", other],
        ["another chain", "/signed/header/chain_id", "other-chain"],
        ["another height", "/signed/header/height", "13"],
        ["an earlier time", "/signed/header/time/seconds", "1800000000"],
        ["another block before", "/signed/header/last_block_id/hash", other],
        ["other validators next", "/signed/header/next_validators_hash", other],
        ["more power", power, "1000"],
        ["another validator", "/signed/validators/0/public_key", other],
        ["no signature", "/signed/commit/signatures/0", { "flag": "absent" }],
        ["a wrong signature", "/signed/commit/signatures/0/signature", "00".repeat(64)],
        ["another round", "/signed/commit/round", 1],
        ["signatures of another header", "/signed/commit/block_id/hash", other],
    ])
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors.json")
}

// From the file back to core's types.

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

fn hash(text: &str) -> Option<tendermint::Hash> {
    Some(tendermint::Hash::Sha256(bytes(text)?))
}

fn maybe_hash(text: &str) -> Option<Option<tendermint::Hash>> {
    if text.is_empty() {
        return Some(None);
    }
    hash(text).map(Some)
}

fn time(view: &TimeView) -> Option<Time> {
    Time::from_unix_timestamp(view.seconds.parse().ok()?, view.nanos).ok()
}

fn block_id(view: &BlockIdView) -> Option<block::Id> {
    Some(block::Id {
        hash: hash(&view.hash)?,
        part_set_header: parts::Header::new(view.parts, hash(&view.parts_hash)?).ok()?,
    })
}

fn signature(view: &SignatureView) -> Option<CommitSig> {
    let (SignatureView::Commit(vote) | SignatureView::Nil(vote)) = view else {
        return Some(CommitSig::BlockIdFlagAbsent);
    };
    let validator_address = account::Id::new(bytes(&vote.address)?);
    let (timestamp, signature) = (time(&vote.time)?, bytes::<64>(&vote.signature)?);
    let signature = Signature::new(signature).ok()?;
    Some(match view {
        SignatureView::Commit(_) => CommitSig::BlockIdFlagCommit {
            validator_address,
            timestamp,
            signature,
        },
        _ => CommitSig::BlockIdFlagNil {
            validator_address,
            timestamp,
            signature,
        },
    })
}

fn signed(proof: &HeaderProof) -> Option<(SignedHeader, validator::Set)> {
    let view = &proof.header;
    let header = Header {
        version: block::header::Version {
            block: view.version_block.parse().ok()?,
            app: view.version_app.parse().ok()?,
        },
        chain_id: view.chain_id.parse().ok()?,
        height: view.height.parse().ok()?,
        time: time(&view.time)?,
        last_block_id: match &view.last_block_id {
            Some(id) => Some(block_id(id)?),
            None => None,
        },
        last_commit_hash: maybe_hash(&view.last_commit_hash)?,
        data_hash: maybe_hash(&view.data_hash)?,
        validators_hash: hash(&view.validators_hash)?,
        next_validators_hash: hash(&view.next_validators_hash)?,
        consensus_hash: hash(&view.consensus_hash)?,
        app_hash: AppHash::try_from(hex::decode(&view.app_hash).ok()?).ok()?,
        last_results_hash: maybe_hash(&view.last_results_hash)?,
        evidence_hash: maybe_hash(&view.evidence_hash)?,
        proposer_address: account::Id::new(bytes(&view.proposer_address)?),
    };
    let signatures = proof.commit.signatures.iter().map(signature);
    let commit = block::Commit {
        height: proof.commit.height.parse().ok()?,
        round: proof.commit.round.try_into().ok()?,
        block_id: block_id(&proof.commit.block_id)?,
        signatures: signatures.collect::<Option<_>>()?,
    };
    let info = |one: &ValidatorView| {
        let key = PublicKey::from_raw_ed25519(&bytes::<32>(&one.public_key)?)?;
        let power: u32 = one.power.parse().ok()?;
        Some(validator::Info::new(key, power.into()))
    };
    let infos = proof.validators.iter().map(info).collect::<Option<_>>()?;
    let set = validator::Set::without_proposer(infos);
    Some((SignedHeader::new(header, commit).ok()?, set))
}

fn merkle_path(view: &PathView) -> MerklePath {
    MerklePath {
        index: view.index,
        len: view.len,
        siblings: view.siblings.clone(),
    }
}

fn item(view: &ItemView) -> Option<RollupItem> {
    Some(match view {
        ItemView::Transaction { raw } => RollupItem::Transaction(hex::decode(raw).ok()?.into()),
        ItemView::Deposit {
            index,
            address,
            amount_gwei,
        } => RollupItem::Deposit {
            index: index.parse().ok()?,
            address: EvmAddress::new(bytes(address)?),
            amount_gwei: amount_gwei.parse().ok()?,
        },
        ItemView::Leg { bundle_id, raw } => RollupItem::Leg {
            bundle_id: *bundle_id,
            raw: hex::decode(raw).ok()?.into(),
        },
    })
}

fn leaf_proof(view: &ItemProofView) -> Option<LeafProof> {
    let leaf = &view.leaf;
    let env = RollupEnv {
        version: leaf.version,
        slot: Slot::new(leaf.slot.parse().ok()?),
        number: leaf.number.parse().ok()?,
        opens: leaf.opens,
        closes: leaf.closes,
        beacon_root: bytes(&leaf.beacon_root)?,
        prev_randao: bytes(&leaf.prev_randao)?,
        config_hash: leaf.config_hash,
    };
    let mut built = RollupLeaf::new(leaf.rollup_id, env, Vec::new());
    (built.list_len, built.list_root) = (leaf.list_len, leaf.list_root);
    Some(LeafProof {
        leaf: built,
        leaf_path: merkle_path(&view.leaf_path),
        preamble: Preamble {
            version: view.preamble.version,
            rollups_len: view.preamble.rollups_len,
            rollups_root: view.preamble.rollups_root,
        },
        preamble_path: merkle_path(&view.preamble_path),
    })
}

/// What is trusted after so many headers.
fn trusted(file: &Value, count: u64) -> TrustedState {
    let mut trusted = testing::genesis(&set(1));
    for header in file["headers"]
        .as_array()
        .unwrap()
        .iter()
        .take(count as usize)
    {
        let proof: HeaderProof = serde_json::from_value(header.clone()).unwrap();
        let (signed, set) = signed(&proof).unwrap();
        trusted.verify(&signed, Some(&set)).unwrap();
    }
    trusted
}

fn verify_header(trusted: &TrustedState, proof: &HeaderProof) -> Option<VerifiedHeader> {
    let (signed, set) = signed(proof)?;
    trusted.clone().verify(&signed, Some(&set)).ok()
}

/// Core's verdict on an item of alpha's list.
fn holds(trusted: &TrustedState, proof: Value) -> Option<RollupItem> {
    let view: ItemProofView = serde_json::from_value(proof).ok()?;
    let header = verify_header(trusted, &view.signed)?;
    let id = RollupId::from_name("alpha");
    let leaf = leaf_proof(&view)?.verify(&id, &header).ok()?;
    let item = ItemProof {
        item: item(&view.item)?,
        path: merkle_path(&view.item_path),
    };
    Some(leaf.verify_item(item).ok()?.item().clone())
}

#[test]
fn the_file_is_what_core_makes_and_accepts() {
    let text = format!("{:#}\n", vectors());
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(path(), &text).unwrap();
    }
    let written = fs::read_to_string(path()).unwrap();
    assert_eq!(written, text, "stale: run with UPDATE_GENERATED=1");
    let file: Value = serde_json::from_str(&written).unwrap();
    let trusted = trusted(&file, LAST - 1);
    for (vector, item) in file["items"].as_array().unwrap().iter().zip(items()) {
        assert_eq!(holds(&trusted, vector["proof"].clone()), Some(item));
    }
    let view: TransactionProofView = serde_json::from_value(file["transaction"].clone()).unwrap();
    let header = verify_header(&trusted, &view.signed).unwrap();
    let proof = TransactionProof {
        path: merkle_path(&view.path),
    };
    proof.verify(&view.tx_hash, &header).unwrap();
}

#[test]
fn core_refuses_what_is_forged() {
    let file: Value = serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    let trusted = trusted(&file, LAST - 1);
    let proof = &file["items"][2]["proof"];
    assert!(holds(&trusted, proof.clone()).is_some());
    for change in file["forged"].as_array().unwrap() {
        let mut proof = proof.clone();
        let at = change[1].as_str().unwrap();
        let old = proof.pointer_mut(at).unwrap();
        assert_ne!(*old, change[2], "{}", change[0]);
        *old = change[2].clone();
        assert_eq!(holds(&trusted, proof), None, "{}", change[0]);
    }
}

#[test]
fn core_refuses_what_is_signed_and_wrong() {
    let file: Value = serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    assert_eq!(
        holds(&trusted(&file, LAST - 1), file["forged_item"].clone()),
        None
    );
    for forged in file["forged_headers"].as_array().unwrap() {
        let trusted = trusted(&file, forged[1].as_u64().unwrap());
        let proof = serde_json::from_value(forged[2].clone()).unwrap();
        assert_eq!(verify_header(&trusted, &proof), None, "{}", forged[0]);
    }
}

#[test]
fn what_cometbft_sends_is_shown_field_by_field() {
    let set = set(1);
    let header = testing::header(1, Hash::ZERO, &set, &set);
    let signed_header = set.sign(header, &[0, 1, 2, 3]);
    let proof = HeaderProof::new(&signed_header, &set.set());
    assert_eq!(signed(&proof), Some((signed_header, set.set())));
    assert_eq!(proof.header.last_block_id, None);
    assert!(
        proof
            .commit
            .signatures
            .iter()
            .all(SignatureView::is_for_block)
    );
}
