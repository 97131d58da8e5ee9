//! Values that tests share, and the vectors that contracts and other implementations test against.

use std::path::Path;

use alloy_consensus::{SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use bytes::Bytes;
use serde_json::json;

use super::{
    testing::{raw_transaction, sign, sign_auths},
    *,
};
use crate::{
    block::RollupItem,
    key::SecretKey,
    primitive::{Amount, EvmAddress, Hash, Height, RollupId},
};

pub(super) const CHAIN_ID: &str = "counterpoint-1";

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// The account of the secret key whose bytes are all `secret`.
pub(super) fn evm_address(secret: u8) -> EvmAddress {
    sender(&raw(secret, 0)).unwrap()
}

/// A transaction of type 2 for chain 1,001.
pub(super) fn raw(secret: u8, nonce: u64) -> Bytes {
    raw_transaction(secret, 1_001, nonce)
}

/// One of type 0 without a chain id.
pub(super) fn unprotected() -> Bytes {
    let tx = TxLegacy {
        gas_limit: 21_000,
        ..TxLegacy::default()
    };
    let signature = sign(0x11, &Hash::new(tx.signature_hash().0));
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

/// Two rollups, the lower identifier first.
fn rollups() -> [RollupId; 2] {
    let mut rollups = ["alpha", "beta"].map(RollupId::from_name);
    rollups.sort();
    rollups
}

fn messages() -> Vec<Message> {
    let [a, b] = rollups();
    let message = |src, dst, index, data: &'static [u8]| Message {
        src,
        dst,
        index,
        sender: EvmAddress::new([0xaa; 20]),
        receiver: EvmAddress::new([0xbb; 20]),
        data: Bytes::from_static(data),
    };
    vec![
        message(a, b, 0, b"burnt"),
        message(a, b, 1, b""),
        message(b, a, 0, &[7; 40]),
    ]
}

/// A bundle whose auths are by the senders of its transactions.
pub(super) fn terms() -> BundleTerms {
    let [a, b] = rollups();
    let seal = |raw: Bytes| SealedTx {
        tx_hash: keccak(&raw),
        auth: EvmSignature::EMPTY,
    };
    let mut terms = BundleTerms {
        chain_id: CHAIN_ID.into(),
        session_salt: Hash::new([5; 32]),
        callers: rollups()
            .map(|rollup_id| Caller {
                rollup_id,
                address: evm_address(0x11),
            })
            .to_vec(),
        legs: vec![
            LegSeal {
                rollup_id: a,
                txs: vec![seal(raw(0x11, 0)), seal(raw(0x11, 1))],
            },
            LegSeal {
                rollup_id: b,
                txs: vec![seal(raw(0x11, 2))],
            },
        ],
        messages: messages(),
        valid_from: 1_800_000_000,
        valid_until: 1_800_000_600,
        on_abort: OnAbort::Retry,
        max_attempts: 3,
        extra_attesters: vec![key(9).public_key()],
        tip_per_attempt: Amount::new(1_000),
    };
    sign_auths(&mut terms, 0x11);
    terms
}

pub(super) fn bundle() -> AtomicBundle {
    AtomicBundle::new(terms()).unwrap()
}

pub(super) fn attesters() -> AttesterSet {
    let mut keys: Vec<_> = [1, 2, 3].map(|seed| key(seed).public_key()).to_vec();
    keys.sort();
    AttesterSet {
        epoch: 2,
        members: AttesterKeys::new(keys, 2).unwrap(),
    }
}

fn env() -> LegEnv {
    LegEnv {
        number: 12,
        timestamp: 1_800_000_010,
        gas_limit: 30_000_000,
        fee_recipient: EvmAddress::new([0xfe; 20]),
        prev_randao: [3; 32],
        base_fee: 875_000_000,
        beacon_root: *leg_ticket(0).as_bytes(),
        deposits_hash: deposits_hash(&deposits()),
    }
}

fn deposits() -> [RollupItem; 1] {
    [RollupItem::Deposit {
        index: 4,
        address: EvmAddress::new([4; 20]),
        amount_gwei: 20_000_000,
    }]
}

fn leg_ticket(leg: usize) -> Hash {
    let rollup_id = rollups()[leg];
    let inbox = inbox_hash(&rollup_id, &messages());
    ticket(CHAIN_ID, &rollup_id, &bundle().session_id(), &inbox)
}

fn receipts() -> [Bytes; 2] {
    [Bytes::from_static(&[2, 0xc0]), Bytes::from_static(&[0xc0])]
}

fn ballot() -> Ballot {
    Ballot {
        bundle_id: bundle().id(),
        rollup_id: rollups()[0],
        epoch: 2,
        pin: Pin {
            height: Height::new(7),
            hash: Hash::new([8; 32]),
        },
    }
}

fn statement() -> Statement {
    let rollup_id = rollups()[0];
    Statement {
        parent_hash: Hash::new([9; 32]),
        env_hash: env().hash(),
        base_fee: 875_000_000,
        outcome: LegOutcome::Commit {
            in_hash: inbox_hash(&rollup_id, &messages()),
            out_hash: outbox_hash(&rollup_id, &messages()),
            receipts_hash: receipts_hash(&receipts()),
        },
    }
}

pub(super) fn attestation() -> Attestation {
    Attestation::sign(CHAIN_ID, ballot(), statement(), &key(1))
}

pub(super) fn outcome_vote() -> OutcomeVote {
    let executed = Executed {
        bundle_id: bundle().id(),
        rollup_id: rollups()[0],
        block_number: 12,
        block_hash: Hash::new([10; 32]),
        receipts_hash: receipts_hash(&receipts()),
    };
    OutcomeVote::sign(CHAIN_ID, executed, &key(1))
}

/// One of each kind.
pub(super) fn system_items() -> [SystemItem; 4] {
    let attestation = attestation();
    let votes = |attester, signature| {
        Votes::new(vec![Vote {
            attester,
            signature,
        }])
        .unwrap()
    };
    let quorum = Quorum {
        statement: attestation.statement.clone(),
        votes: votes(attestation.attester, attestation.signature),
    };
    let (bundle_id, pin_height) = (bundle().id(), Height::new(7));
    let vote = outcome_vote();
    [
        SystemItem::Abort(AtomicAbort {
            bundle_id,
            pin_height,
            rollup_id: rollups()[0],
            quorum: quorum.clone(),
        }),
        SystemItem::Release(AtomicRelease {
            bundle_id,
            pin_height,
            quorums: vec![quorum.clone(), quorum],
        }),
        SystemItem::Outcome(AtomicOutcome {
            executed: vote.executed,
            votes: votes(vote.attester, vote.signature),
        }),
        SystemItem::Fault(Box::new(AttesterFault {
            proof: FaultProof::Contradiction(attestation, vote),
        })),
    ]
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn hash_hex(hash: &Hash) -> String {
    hex(hash.as_bytes())
}

/// What stands in the file: inputs and digests, `0x` and hexadecimal.
fn vectors() -> serde_json::Value {
    let (bundle, env) = (bundle(), env());
    let terms = bundle.terms();
    let message = |message: &Message| {
        json!({
            "src": hex(message.src.as_bytes()),
            "dst": hex(message.dst.as_bytes()),
            "index": message.index,
            "sender": message.sender.to_string(),
            "receiver": message.receiver.to_string(),
            "data": hex(&message.data),
            "hash": hash_hex(&message.hash()),
        })
    };
    let rollup = |(leg, id): (usize, RollupId)| {
        json!({
            "rollup_id": hex(id.as_bytes()),
            "inbox_hash": hash_hex(&inbox_hash(&id, &terms.messages)),
            "outbox_hash": hash_hex(&outbox_hash(&id, &terms.messages)),
            "ticket": hash_hex(&leg_ticket(leg)),
        })
    };
    let caller = |caller: &Caller| {
        json!({
            "rollup_id": hex(caller.rollup_id.as_bytes()),
            "address": caller.address.to_string(),
        })
    };
    let sealed = terms.legs[0].txs[0];
    let attestation = attestation();
    let vote = outcome_vote();
    json!({
        "chain_id": CHAIN_ID,
        "chain_id_hash": hash_hex(&keccak(CHAIN_ID.as_bytes())),
        "session_salt": hash_hex(&terms.session_salt),
        "callers": terms.callers.iter().map(caller).collect::<Vec<_>>(),
        "session_id": hash_hex(&bundle.session_id()),
        "session_id_without_callers": hash_hex(&session_id(&terms.session_salt, &[])),
        "messages": terms.messages.iter().map(message).collect::<Vec<_>>(),
        "empty_hash": hash_hex(&inbox_hash(&rollups()[0], &[])),
        "rollups": rollups().into_iter().enumerate().map(rollup).collect::<Vec<_>>(),
        "bundle": hex(borsh::to_vec(&bundle).unwrap()),
        "bundle_id": hash_hex(&bundle.id()),
        "seal": {
            "secret_key": hash_hex(&Hash::new([0x11; 32])),
            "sender": evm_address(0x11).to_string(),
            "raw": hex(raw(0x11, 0)),
            "tx_hash": hash_hex(&sealed.tx_hash),
            "auth_digest": hash_hex(&auth_digest(CHAIN_ID, &bundle.id(), &sealed.tx_hash)),
            "auth": hex(sealed.auth.as_bytes()),
        },
        "deposits": hex(borsh::to_vec(&deposits().to_vec()).unwrap()),
        "deposits_hash": hash_hex(&env.deposits_hash),
        "env": hex(borsh::to_vec(&env).unwrap()),
        "env_hash": hash_hex(&env.hash()),
        "receipts": receipts().map(hex),
        "receipts_hash": hash_hex(&receipts_hash(&receipts())),
        "attestation": {
            "encoded": hex(borsh::to_vec(&attestation).unwrap()),
            "digest": hash_hex(&attestation.ballot.digest(CHAIN_ID, &attestation.statement)),
            "attester": hex(attestation.attester.as_bytes()),
            "signature": hex(attestation.signature.as_bytes()),
        },
        "outcome_vote": {
            "encoded": hex(borsh::to_vec(&vote).unwrap()),
            "digest": hash_hex(&vote.executed.digest(CHAIN_ID)),
            "signature": hex(vote.signature.as_bytes()),
        },
    })
}

#[test]
fn the_vectors_in_the_specification_are_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec/vectors/atomic.json");
    let current = format!("{}\n", serde_json::to_string_pretty(&vectors()).unwrap());
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if written != current {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, current).unwrap();
        panic!("docs/spec/vectors/atomic.json was written anew: a change of the protocol?");
    }
}
