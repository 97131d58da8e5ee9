//! Proofs as a browser takes them: every field that is hashed or signed, by its name.
//!
//! Nothing here is an encoding that only looks like what it means. The page encodes these fields
//! itself, hashes them and shows the very same ones. Integers of 64 bits are decimal texts, bytes
//! are lower-case hexadecimal: JavaScript's numbers hold neither.

use counterpoint_core::{
    block::{
        LeafProof, Preamble, RollupItem, RollupLeaf,
        merkle::{MerklePath, Tree},
    },
    light::{LightError, TrustedHeader, TrustedState, decode_signed_header, decode_validators},
    primitive::{Hash, RollupId},
};
use serde::{Deserialize, Serialize};
use tendermint::{
    Time,
    block::{self, CommitSig, Header, signed_header::SignedHeader},
    validator,
};

/// What trust starts from, on this server's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum RootView {
    /// The validators of the genesis.
    Genesis {
        chain_id: String,
        /// Of the height before the first.
        height: String,
        time: TimeView,
        validators: Vec<ValidatorView>,
    },
    /// A header.
    Header { height: String, hash: Hash },
}

/// A signed header, and who could sign it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderProof {
    pub(crate) header: HeaderView,
    pub(crate) commit: CommitView,
    pub(crate) validators: Vec<ValidatorView>,
}

/// Leads from an item of a rollup's list to a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemProofView {
    pub(crate) item: ItemView,
    pub(crate) item_path: PathView,
    pub(crate) leaf: LeafView,
    pub(crate) leaf_path: PathView,
    pub(crate) preamble: PreambleView,
    pub(crate) preamble_path: PathView,
    pub(crate) signed: HeaderProof,
}

/// Leads from a sequencer transaction to a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransactionProofView {
    pub(crate) tx_hash: Hash,
    pub(crate) path: PathView,
    pub(crate) signed: HeaderProof,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderView {
    pub(crate) version_block: String,
    pub(crate) version_app: String,
    pub(crate) chain_id: String,
    pub(crate) height: String,
    pub(crate) time: TimeView,
    pub(crate) last_block_id: Option<BlockIdView>,
    pub(crate) last_commit_hash: String,
    pub(crate) data_hash: String,
    pub(crate) validators_hash: String,
    pub(crate) next_validators_hash: String,
    pub(crate) consensus_hash: String,
    pub(crate) app_hash: String,
    pub(crate) last_results_hash: String,
    pub(crate) evidence_hash: String,
    pub(crate) proposer_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeView {
    pub(crate) seconds: String,
    pub(crate) nanos: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlockIdView {
    pub(crate) hash: String,
    pub(crate) parts: u32,
    pub(crate) parts_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitView {
    pub(crate) height: String,
    pub(crate) round: u32,
    pub(crate) block_id: BlockIdView,
    pub(crate) signatures: Vec<SignatureView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "flag", rename_all = "snake_case")]
pub(crate) enum SignatureView {
    Absent,
    Commit(VoteView),
    Nil(VoteView),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteView {
    pub(crate) address: String,
    pub(crate) time: TimeView,
    pub(crate) signature: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValidatorView {
    pub(crate) public_key: String,
    pub(crate) power: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathView {
    pub(crate) index: u32,
    pub(crate) len: u32,
    pub(crate) siblings: Vec<Hash>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PreambleView {
    pub(crate) version: u16,
    pub(crate) rollups_len: u32,
    pub(crate) rollups_root: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeafView {
    pub(crate) rollup_id: RollupId,
    pub(crate) version: u8,
    pub(crate) slot: String,
    pub(crate) number: String,
    pub(crate) opens: bool,
    pub(crate) closes: bool,
    pub(crate) beacon_root: String,
    pub(crate) prev_randao: String,
    pub(crate) config_hash: Hash,
    pub(crate) list_len: u32,
    pub(crate) list_root: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum ItemView {
    Transaction {
        raw: String,
    },
    Deposit {
        index: String,
        address: String,
        amount_gwei: String,
    },
    Leg {
        bundle_id: Hash,
        raw: String,
    },
}

impl RootView {
    /// What the genesis file says.
    #[must_use]
    pub(crate) fn genesis(trusted: &TrustedState) -> Self {
        Self::Genesis {
            chain_id: trusted.chain_id().to_owned(),
            height: trusted.height().to_string(),
            time: TimeView::new(trusted.time()),
            validators: validators(trusted.validators()),
        }
    }

    /// A header that is known.
    #[must_use]
    pub(crate) fn header(root: TrustedHeader) -> Self {
        Self::Header {
            height: root.height.to_string(),
            hash: root.hash,
        }
    }
}

impl HeaderProof {
    /// Reads CometBFT's messages.
    ///
    /// # Errors
    /// [`LightError`] if they are none.
    pub(crate) fn decode(signed_header: &[u8], set: &[u8]) -> Result<Self, LightError> {
        let signed = decode_signed_header(signed_header)?;
        Ok(Self::new(&signed, &decode_validators(set)?))
    }

    #[must_use]
    pub(crate) fn new(signed: &SignedHeader, set: &validator::Set) -> Self {
        Self {
            header: HeaderView::new(&signed.header),
            commit: CommitView::new(&signed.commit),
            validators: validators(set),
        }
    }
}

impl ItemProofView {
    /// The item at `index` of a list, if there is one.
    #[must_use]
    pub(crate) fn new(
        proof: &LeafProof,
        items: &[RollupItem],
        index: u32,
        signed: HeaderProof,
    ) -> Option<Self> {
        let item = items.get(usize::try_from(index).ok()?)?;
        let leaves = items.iter().map(RollupItem::leaf).collect();
        let path = Tree::new(leaves).path(index)?;
        Some(Self {
            item: ItemView::new(item),
            item_path: PathView::new(&path),
            leaf: LeafView::new(&proof.leaf),
            leaf_path: PathView::new(&proof.leaf_path),
            preamble: PreambleView::new(&proof.preamble),
            preamble_path: PathView::new(&proof.preamble_path),
            signed,
        })
    }
}

impl HeaderView {
    fn new(header: &Header) -> Self {
        let hash = |hash: Option<tendermint::Hash>| hash.map(hex).unwrap_or_default();
        Self {
            version_block: header.version.block.to_string(),
            version_app: header.version.app.to_string(),
            chain_id: header.chain_id.to_string(),
            height: header.height.to_string(),
            time: TimeView::new(header.time),
            last_block_id: header.last_block_id.as_ref().map(BlockIdView::new),
            last_commit_hash: hash(header.last_commit_hash),
            data_hash: hash(header.data_hash),
            validators_hash: hex(header.validators_hash),
            next_validators_hash: hex(header.next_validators_hash),
            consensus_hash: hex(header.consensus_hash),
            app_hash: hex(&header.app_hash),
            last_results_hash: hash(header.last_results_hash),
            evidence_hash: hash(header.evidence_hash),
            proposer_address: hex(header.proposer_address),
        }
    }
}

impl TimeView {
    pub(crate) fn new(time: Time) -> Self {
        let nanos = time.unix_timestamp_nanos().rem_euclid(1_000_000_000);
        Self {
            seconds: time.unix_timestamp().to_string(),
            nanos: u32::try_from(nanos).unwrap_or_default(),
        }
    }
}

impl BlockIdView {
    fn new(id: &block::Id) -> Self {
        Self {
            hash: hex(id.hash),
            parts: id.part_set_header.total,
            parts_hash: hex(id.part_set_header.hash),
        }
    }
}

impl CommitView {
    fn new(commit: &block::Commit) -> Self {
        Self {
            height: commit.height.to_string(),
            round: commit.round.value(),
            block_id: BlockIdView::new(&commit.block_id),
            signatures: commit.signatures.iter().map(SignatureView::new).collect(),
        }
    }
}

impl SignatureView {
    fn new(signature: &CommitSig) -> Self {
        match signature {
            CommitSig::BlockIdFlagAbsent => Self::Absent,
            CommitSig::BlockIdFlagCommit {
                validator_address,
                timestamp,
                signature,
            } => Self::Commit(VoteView::new(validator_address, *timestamp, signature)),
            CommitSig::BlockIdFlagNil {
                validator_address,
                timestamp,
                signature,
            } => Self::Nil(VoteView::new(validator_address, *timestamp, signature)),
        }
    }

    /// Whether it is for the block.
    #[must_use]
    pub(crate) fn is_for_block(&self) -> bool {
        matches!(self, Self::Commit(_))
    }
}

impl VoteView {
    fn new(
        address: &tendermint::account::Id,
        time: Time,
        signature: &Option<tendermint::Signature>,
    ) -> Self {
        Self {
            address: hex(address),
            time: TimeView::new(time),
            signature: signature
                .as_ref()
                .map(|signature| hex(signature.as_bytes()))
                .unwrap_or_default(),
        }
    }
}

/// The set in its own order, which is that of the signatures.
fn validators(set: &validator::Set) -> Vec<ValidatorView> {
    let view = |info: &validator::Info| ValidatorView {
        public_key: hex(info.pub_key.to_bytes()),
        power: info.power.to_string(),
    };
    set.validators().iter().map(view).collect()
}

impl PathView {
    pub(crate) fn new(path: &MerklePath) -> Self {
        Self {
            index: path.index,
            len: path.len,
            siblings: path.siblings.clone(),
        }
    }
}

impl PreambleView {
    fn new(preamble: &Preamble) -> Self {
        Self {
            version: preamble.version,
            rollups_len: preamble.rollups_len,
            rollups_root: preamble.rollups_root,
        }
    }
}

impl LeafView {
    pub(crate) fn new(leaf: &RollupLeaf) -> Self {
        let env = &leaf.env;
        Self {
            rollup_id: leaf.rollup_id,
            version: env.version,
            slot: env.slot.get().to_string(),
            number: env.number.to_string(),
            opens: env.opens,
            closes: env.closes,
            beacon_root: hex(env.beacon_root),
            prev_randao: hex(env.prev_randao),
            config_hash: env.config_hash,
            list_len: leaf.list_len,
            list_root: leaf.list_root,
        }
    }
}

impl ItemView {
    pub(crate) fn new(item: &RollupItem) -> Self {
        match item {
            RollupItem::Transaction(raw) => Self::Transaction { raw: hex(raw) },
            RollupItem::Deposit {
                index,
                address,
                amount_gwei,
            } => Self::Deposit {
                index: index.to_string(),
                address: hex(address.as_bytes()),
                amount_gwei: amount_gwei.to_string(),
            },
            RollupItem::Leg { bundle_id, raw } => Self::Leg {
                bundle_id: *bundle_id,
                raw: hex(raw),
            },
        }
    }
}

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(bytes)
}

#[cfg(test)]
mod tests;
