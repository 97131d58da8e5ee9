//! Headers that are really signed, for tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::missing_panics_doc,
    reason = "a test's own data"
)]

use ed25519_consensus::SigningKey;
use tendermint::{
    AppHash, PublicKey, Signature, account,
    block::{self, Commit, CommitSig, Header, Round, header, parts},
    vote::{self, Vote},
};

use tendermint::{Time, block::signed_header::SignedHeader, validator};

use super::TrustedState;
use crate::primitive::Hash;

/// The chain's name.
pub const CHAIN: &str = "test-chain";

/// Validators with keys, each with a power of its own.
#[derive(Clone, Debug)]
pub struct Validators(Vec<(SigningKey, u32)>);

impl Validators {
    /// Keys from seeds, with their powers.
    #[must_use]
    pub fn new(seeds: &[(u8, u32)]) -> Self {
        let key = |(seed, power): &(u8, u32)| (SigningKey::from([*seed; 32]), *power);
        Self(seeds.iter().map(key).collect())
    }

    /// As a genesis file lists them.
    #[must_use]
    pub fn infos(&self) -> Vec<validator::Info> {
        let info = |(key, power): &(SigningKey, u32)| {
            let public = key.verification_key().to_bytes();
            let public = PublicKey::from_raw_ed25519(&public).unwrap();
            validator::Info::new(public, (*power).into())
        };
        self.0.iter().map(info).collect()
    }

    /// The set, strongest first.
    #[must_use]
    pub fn set(&self) -> validator::Set {
        validator::Set::without_proposer(self.infos())
    }

    fn key(&self, address: &account::Id) -> &SigningKey {
        let position = self
            .infos()
            .iter()
            .position(|info| info.address == *address);
        &self.0[position.unwrap()].0
    }

    /// The header signed by those of the set whose place is in `signers`, strongest first.
    #[must_use]
    pub fn sign(&self, header: Header, signers: &[usize]) -> SignedHeader {
        let block_id = block::Id {
            hash: header.hash(),
            part_set_header: parts::Header::new(1, header.hash()).unwrap(),
        };
        let signature = |(place, info): (usize, &validator::Info)| {
            if !signers.contains(&place) {
                return CommitSig::BlockIdFlagAbsent;
            }
            let vote = Vote {
                vote_type: vote::Type::Precommit,
                height: header.height,
                round: Round::default(),
                block_id: Some(block_id),
                timestamp: Some(header.time),
                validator_address: info.address,
                validator_index: u32::try_from(place).unwrap().try_into().unwrap(),
                signature: None,
                extension: vec![],
                extension_signature: None,
            };
            let message = vote.into_signable_vec(header.chain_id.clone());
            let bytes = self.key(&info.address).sign(&message).to_bytes();
            CommitSig::BlockIdFlagCommit {
                validator_address: info.address,
                timestamp: header.time,
                signature: Signature::new(bytes).unwrap(),
            }
        };
        let set = self.set();
        let signatures = set.validators().iter().enumerate().map(signature).collect();
        let commit = Commit {
            height: header.height,
            round: Round::default(),
            block_id,
            signatures,
        };
        SignedHeader::new(header, commit).unwrap()
    }
}

/// A header of a block.
#[must_use]
pub fn header(height: u64, previous: Hash, set: &Validators, next: &Validators) -> Header {
    let hash = tendermint::Hash::Sha256;
    let last_block_id = (previous != Hash::ZERO).then(|| block::Id {
        hash: hash(*previous.as_bytes()),
        part_set_header: parts::Header::new(1, hash([1; 32])).unwrap(),
    });
    Header {
        version: header::Version { block: 11, app: 1 },
        chain_id: CHAIN.parse().unwrap(),
        height: u32::try_from(height).unwrap().into(),
        time: Time::from_unix_timestamp(1_800_000_000 + i64::try_from(height).unwrap(), 0).unwrap(),
        last_block_id,
        last_commit_hash: None,
        data_hash: Some(hash([3; 32])),
        validators_hash: set.set().hash(),
        next_validators_hash: next.set().hash(),
        consensus_hash: hash([4; 32]),
        app_hash: AppHash::try_from(vec![6; 32]).unwrap(),
        last_results_hash: None,
        evidence_hash: None,
        proposer_address: account::Id::new([5; 20]),
    }
}

/// What trust starts from.
#[must_use]
pub fn genesis(validators: &Validators) -> TrustedState {
    let file = serde_json::json!({
        "chain_id": CHAIN,
        "genesis_time": "2027-01-15T08:00:00Z", // 1,800,000,000 s
        "validators": validators.infos(),
    });
    TrustedState::from_genesis(file.to_string().as_bytes()).unwrap()
}
