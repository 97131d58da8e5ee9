use ed25519_consensus::SigningKey;
use tendermint::{
    AppHash, PublicKey, Signature, account,
    block::{self, Commit, CommitSig, Header, Round, header, parts},
    vote::{self, Vote},
};

use super::*;

const CHAIN: &str = "test-chain";

/// Validators with keys, each with a power of its own.
struct Validators(Vec<(SigningKey, u32)>);

impl Validators {
    fn new(seeds: &[(u8, u32)]) -> Self {
        let key = |(seed, power): &(u8, u32)| (SigningKey::from([*seed; 32]), *power);
        Self(seeds.iter().map(key).collect())
    }

    fn infos(&self) -> Vec<validator::Info> {
        let info = |(key, power): &(SigningKey, u32)| {
            let public = key.verification_key().to_bytes();
            let public = PublicKey::from_raw_ed25519(&public).unwrap();
            validator::Info::new(public, (*power).into())
        };
        self.0.iter().map(info).collect()
    }

    fn set(&self) -> validator::Set {
        validator::Set::without_proposer(self.infos())
    }

    fn key(&self, address: &account::Id) -> &SigningKey {
        let position = self
            .infos()
            .iter()
            .position(|info| info.address == *address);
        &self.0[position.unwrap()].0
    }

    /// A header signed by those of the set whose place is in `signers`, strongest first.
    fn sign(&self, header: Header, signers: &[usize]) -> SignedHeader {
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

fn header(height: u64, previous: Hash, set: &Validators, next: &Validators) -> Header {
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

fn genesis(validators: &Validators) -> TrustedState {
    let file = serde_json::json!({
        "chain_id": CHAIN,
        "genesis_time": "2027-01-15T08:00:00Z", // 1,800,000,000 s
        "validators": validators.infos(),
    });
    TrustedState::from_genesis(file.to_string().as_bytes()).unwrap()
}

fn four() -> Validators {
    Validators::new(&[(1, 10), (2, 10), (3, 10), (4, 10)])
}

const ALL: [usize; 4] = [0, 1, 2, 3];

#[track_caller]
fn refused(trusted: &mut TrustedState, signed: &SignedHeader) -> String {
    let before = trusted.clone();
    let error = trusted.verify(signed, None).unwrap_err();
    assert_eq!(*trusted, before, "on an error nothing changes");
    assert!(matches!(error, LightError::Refused { .. }), "{error}");
    error.to_string()
}

#[test]
fn more_than_two_thirds_must_have_signed() {
    let set = four();
    let first = header(1, Hash::ZERO, &set, &set);
    let mut trusted = genesis(&set);
    refused(&mut trusted, &set.sign(first.clone(), &[0, 1]));
    refused(&mut trusted, &set.sign(first.clone(), &[]));
    let three = Validators::new(&[(1, 20), (2, 10)]); // Exactly two thirds is not enough.
    let exact = header(1, Hash::ZERO, &three, &three);
    refused(&mut genesis(&three), &three.sign(exact, &[0]));
    let verified = trusted.verify(&set.sign(first, &[0, 1, 3]), None).unwrap();
    assert_eq!(
        (verified.height(), trusted.height()),
        (Height::new(1), Height::new(1))
    );
    assert_eq!(verified.data_hash(), Hash::new([3; 32]));
    assert_eq!(verified.app_hash(), Hash::new([6; 32]));
}

#[test]
fn what_was_signed_is_what_counts() {
    let (set, other) = (
        four(),
        Validators::new(&[(5, 10), (6, 10), (7, 10), (8, 10)]),
    );
    let mut trusted = genesis(&set);
    let first = header(1, Hash::ZERO, &set, &set);
    let mut tampered = set.sign(first.clone(), &ALL);
    tampered.header.data_hash = None;
    refused(&mut trusted, &tampered);
    let mut foreign = first.clone();
    foreign.chain_id = "other-chain".parse().unwrap();
    refused(&mut trusted, &set.sign(foreign, &ALL));
    let mut early = first.clone();
    early.time = Time::from_unix_timestamp(1_799_999_999, 0).unwrap();
    refused(&mut trusted, &set.sign(early, &ALL));
    let strangers = other.sign(header(1, Hash::ZERO, &other, &other), &ALL);
    refused(&mut trusted, &strangers);
    assert!(trusted.verify(&strangers, Some(&other.set())).is_err());
    trusted.verify(&set.sign(first, &ALL), None).unwrap();
}

#[test]
fn a_new_set_must_be_the_one_that_was_announced() {
    let (old, new) = (four(), Validators::new(&[(5, 10), (6, 10)]));
    let mut trusted = genesis(&old);
    let first = trusted.verify(&old.sign(header(1, Hash::ZERO, &old, &new), &ALL), None);
    let second = header(2, first.unwrap().hash(), &new, &new);
    let signed = new.sign(second, &[0, 1]);
    refused(&mut trusted, &signed);
    assert!(trusted.verify(&signed, Some(&old.set())).is_err());
    trusted.verify(&signed, Some(&new.set())).unwrap();
}

#[test]
fn a_gap_needs_a_third_of_those_that_were_trusted() {
    let (old, strangers) = (four(), Validators::new(&[(5, 10), (6, 10), (7, 10)]));
    let half = Validators::new(&[(1, 10), (2, 10), (5, 10)]);
    let mut trusted = genesis(&old);
    let far = header(50, Hash::new([9; 32]), &strangers, &strangers);
    let signed = strangers.sign(far, &[0, 1, 2]);
    assert!(trusted.verify(&signed, Some(&strangers.set())).is_err());
    let far = header(50, Hash::new([9; 32]), &half, &half);
    let signed = half.sign(far, &[0, 1, 2]);
    trusted.verify(&signed, Some(&half.set())).unwrap();
    assert_eq!(trusted.height(), Height::new(50));
    let mut late = header(51, trusted.hash, &half, &half);
    let expired = 1_800_000_000 + i64::try_from(TRUSTING_PERIOD.as_secs()).unwrap() + 100;
    late.time = Time::from_unix_timestamp(expired, 0).unwrap();
    refused(&mut trusted, &half.sign(late, &[0, 1, 2]));
}

#[test]
fn only_signatures_prove_a_fork() {
    let set = four();
    let mut trusted = genesis(&set);
    trusted
        .verify(&set.sign(header(1, Hash::ZERO, &set, &set), &ALL), None)
        .unwrap();
    let elsewhere = header(2, Hash::new([8; 32]), &set, &set);
    refused(&mut trusted, &set.sign(elsewhere.clone(), &[0]));
    let fork = trusted
        .verify(&set.sign(elsewhere, &ALL), None)
        .unwrap_err();
    assert!(matches!(fork, LightError::Fork { height: 2, .. }), "{fork}");
    let again = set.sign(header(1, Hash::ZERO, &set, &set), &ALL);
    let stale = trusted.verify(&again, None).unwrap_err();
    assert!(matches!(
        stale,
        LightError::Stale {
            height: 1,
            trusted: 1
        }
    ));
}

#[test]
fn a_genesis_file_that_cannot_be_trusted_is_refused() {
    let error = |file: serde_json::Value| {
        TrustedState::from_genesis(file.to_string().as_bytes()).unwrap_err()
    };
    let mut file = serde_json::json!({
        "chain_id": CHAIN, "genesis_time": "2027-01-15T08:00:00Z", "validators": [],
    });
    assert!(matches!(error(file.clone()), LightError::NoValidators));
    file["validators"] = serde_json::to_value(four().infos()).unwrap();
    for validator in file["validators"].as_array_mut().unwrap() {
        validator["power"] = (MAX_TOTAL_POWER / 2).to_string().into();
    }
    assert!(matches!(error(file), LightError::Power));
    assert!(matches!(
        error(serde_json::json!([])),
        LightError::Genesis(_)
    ));
}

#[test]
fn encodings_round_trip_and_garbage_is_refused() {
    let set = four();
    let signed = set.sign(header(1, Hash::ZERO, &set, &set), &ALL);
    let bytes = encode_signed_header(signed.clone());
    assert_eq!(decode_signed_header(&bytes).unwrap(), signed);
    assert_eq!(
        decode_validators(&encode_validators(set.set())).unwrap(),
        set.set()
    );
    for cut in 1..bytes.len() {
        // A prefix may decode, but never to something that is signed.
        if let Ok(prefix) = decode_signed_header(&bytes[..cut]) {
            assert!(genesis(&set).verify(&prefix, None).is_err());
        }
    }
}
