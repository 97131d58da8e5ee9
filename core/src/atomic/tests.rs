use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use proptest::prelude::*;

use super::{vectors::*, *};
use crate::{
    key::{PublicKey, Signature},
    primitive::{Amount, EvmAddress, Hash, Height, RollupId},
};

#[track_caller]
fn check(change: impl FnOnce(&mut BundleTerms), expect: Result<(), BundleError>) {
    let mut terms = terms();
    change(&mut terms);
    let actual = AtomicBundle::new(terms.clone()).map(|_| ());
    assert_eq!(actual, expect);
    let encoded = borsh::to_vec(&terms).unwrap();
    let decoded = borsh::from_slice::<AtomicBundle>(&encoded);
    assert_eq!(decoded.is_ok(), expect.is_ok(), "decoding checks the same");
}

#[test]
fn every_bound_of_a_bundle_is_checked_and_named() {
    check(|_| {}, Ok(()));
    check(|t| t.chain_id.clear(), Err(BundleError::ChainId));
    check(|t| drop(t.legs.pop()), Err(BundleError::LegCount(1)));
    check(|t| t.legs.swap(0, 1), Err(BundleError::LegOrder { leg: 1 }));
    check(
        |t| t.legs[1] = t.legs[0].clone(),
        Err(BundleError::LegOrder { leg: 1 }),
    );
    let none = BundleError::TxCount { leg: 1, count: 0 };
    check(|t| t.legs[1].txs.clear(), Err(none));
    check(
        |t| {
            let tx = t.legs[0].txs[0];
            t.legs[0].txs.push(tx);
        },
        Err(BundleError::TxTwice { leg: 0, tx: 2 }),
    );
    check(|t| t.callers.swap(0, 1), Err(BundleError::Caller(1)));
    let nobody = RollupId::new([0; 32]);
    check(
        |t| t.callers[0].rollup_id = nobody,
        Err(BundleError::Caller(0)),
    );
    check(
        |t| t.messages = vec![t.messages[0].clone(); 33],
        Err(BundleError::MessageCount(33)),
    );
    check(
        |t| t.messages[1].index = 2,
        Err(BundleError::MessageOrder(1)),
    );
    check(|t| t.messages.swap(0, 2), Err(BundleError::MessageOrder(1)));
    check(
        |t| t.messages[2].dst = t.messages[2].src,
        Err(BundleError::MessageRoute(2)),
    );
    check(|t| t.callers.truncate(1), Err(BundleError::MessageRoute(0)));
    check(
        |t| t.messages[1].data = vec![0; 4_097].into(),
        Err(BundleError::MessageData(1)),
    );
    check(|t| t.valid_from = t.valid_until + 1, Err(BundleError::Span));
    check(
        |t| t.valid_until = t.valid_from + 3_601,
        Err(BundleError::Span),
    );
    check(|t| t.max_attempts = 0, Err(BundleError::Attempts));
    check(|t| t.max_attempts = 33, Err(BundleError::Attempts));
    let extra = key(1).public_key();
    check(
        |t| t.extra_attesters = vec![extra; 2],
        Err(BundleError::ExtraAttesters),
    );
    check(
        |t| t.tip_per_attempt = Amount::new(u128::MAX),
        Err(BundleError::Tip),
    );
}

#[test]
fn an_auth_is_for_one_bundle_and_one_transaction() {
    let bundle = bundle();
    let sealed = bundle.terms().legs[0].txs[0];
    let signer = Some(evm_address(0x11));
    assert_eq!(bundle.signer(&sealed.tx_hash, &sealed.auth), signer);
    assert_ne!(bundle.signer(&Hash::ZERO, &sealed.auth), signer);
    let other = AtomicBundle::new(BundleTerms {
        max_attempts: 4,
        ..terms()
    });
    assert_ne!(other.unwrap().signer(&sealed.tx_hash, &sealed.auth), signer);
    // Other auths make no other bundle, or auths could not be over its identifier.
    let mut unsigned = terms();
    unsigned.legs[0].txs[0].auth = EvmSignature::EMPTY;
    assert_eq!(AtomicBundle::new(unsigned).unwrap().id(), bundle.id());
}

#[test]
fn a_malleable_auth_is_nobodys() {
    let bundle = bundle();
    let sealed = bundle.terms().legs[0].txs[0];
    let mut bytes = *sealed.auth.as_bytes();
    bytes[64] -= 27;
    assert_eq!(
        bundle.signer(&sealed.tx_hash, &EvmSignature::new(bytes)),
        None
    );
    let auth = alloy_primitives::Signature::from_raw(sealed.auth.as_bytes()).unwrap();
    let order = alloy_primitives::U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    );
    let high = order.unwrap() - auth.s();
    let flipped = alloy_primitives::Signature::new(auth.r(), high, !auth.v());
    let flipped = EvmSignature::new(flipped.as_bytes());
    assert_eq!(bundle.signer(&sealed.tx_hash, &flipped), None);
    assert_eq!(bundle.signer(&sealed.tx_hash, &EvmSignature::EMPTY), None);
}

#[test]
fn legs_hold_plain_transactions_for_one_chain() {
    let tx = LegTransaction::read(&raw(0x11, 7)).unwrap();
    let expect = LegTransaction {
        sender: evm_address(0x11),
        chain_id: 1_001,
        gas_limit: 100_000,
    };
    assert_eq!(tx, expect);
    assert_eq!(sender(&raw(0x11, 7)), Some(expect.sender));
    let refused = |raw: &[u8]| LegTransaction::read(raw).unwrap_err();
    assert_eq!(refused(&[]), LegTransactionError::Length);
    assert_eq!(refused(&[0x02; 131_073]), LegTransactionError::Length);
    assert_eq!(refused(&[0x04, 0xc0]), LegTransactionError::Type);
    assert_eq!(refused(&[0x03, 0xc0]), LegTransactionError::Type);
    assert_eq!(refused(&[0x02, 0xc0]), LegTransactionError::Decode);
    let longer = [&raw(0x11, 7)[..], &[0]].concat();
    assert_eq!(refused(&longer), LegTransactionError::Decode);
    assert_eq!(refused(&unprotected()), LegTransactionError::Type);
    assert_eq!(sender(b"anything"), None);
}

#[track_caller]
fn check_voters(voters: &[u8], extras: &[u8], expect: Result<(), QuorumError>) {
    let public = |seeds: &[u8]| -> Vec<PublicKey> {
        let keys = seeds.iter().map(|seed| PublicKey::new([*seed; 32]));
        keys.collect()
    };
    let vote = |attester| Vote {
        attester,
        signature: Signature::new([0; 64]),
    };
    let votes = Votes::new(public(voters).into_iter().map(vote).collect());
    let checked =
        votes.and_then(|votes| votes.check_voters(&public(&[1, 2, 3]), 2, &public(extras)));
    assert_eq!(checked, expect);
}

#[test]
fn a_quorum_has_nothing_to_add_or_leave_out() {
    let threshold = |actual| {
        Err(QuorumError::Threshold {
            expected: 2,
            actual,
        })
    };
    check_voters(&[1, 3], &[], Ok(()));
    check_voters(&[1], &[], threshold(1));
    check_voters(&[1, 2, 3], &[], threshold(3));
    check_voters(&[2, 1], &[], Err(QuorumError::Order));
    check_voters(&[1, 1], &[], Err(QuorumError::Order));
    check_voters(&[], &[], Err(QuorumError::Count(0)));
    let stranger = PublicKey::new([9; 32]);
    check_voters(&[1, 9], &[], Err(QuorumError::Stranger(stranger)));
    check_voters(&[1, 2], &[9], Err(QuorumError::Missing(stranger)));
    check_voters(&[1, 2, 9], &[9], Ok(()));
    // An extra attester of the set counts for the set.
    check_voters(&[1, 3], &[3], Ok(()));
    check_voters(
        &[1, 2],
        &[3],
        Err(QuorumError::Missing(PublicKey::new([3; 32]))),
    );
    // More of them than the threshold, and all must be there.
    check_voters(&[1, 2, 3], &[1, 2, 3], Ok(()));
}

#[test]
fn only_what_cannot_be_honest_is_a_fault() {
    let (attestation, vote) = (attestation(), outcome_vote());
    let fault = |proof| AttesterFault { proof };
    let kept = fault(FaultProof::Contradiction(attestation.clone(), vote.clone()));
    assert!(!kept.contradicts_itself());
    let twice = FaultProof::TwoStatements(attestation.clone(), attestation.clone());
    assert!(!fault(twice).contradicts_itself());
    let mut broken = vote.executed;
    broken.receipts_hash = Hash::ZERO;
    let vote = OutcomeVote::sign(CHAIN_ID, broken, &key(1));
    let broken = fault(FaultProof::Contradiction(attestation.clone(), vote.clone()));
    assert!(broken.contradicts_itself() && broken.verify(CHAIN_ID).is_ok());
    assert!(broken.verify("other").is_err());
    let statement = Statement {
        outcome: LegOutcome::Abort {
            failure: Failure::Revert,
            tx: 0,
        },
        ..attestation.statement.clone()
    };
    let sign = |ballot| Attestation::sign(CHAIN_ID, ballot, statement.clone(), &key(1));
    let second = sign(attestation.ballot);
    // Who foresaw the failure and then reports it has said the truth twice.
    let foreseen = fault(FaultProof::Contradiction(second.clone(), vote));
    assert!(!foreseen.contradicts_itself());
    let two = fault(FaultProof::TwoStatements(attestation.clone(), second));
    assert!(two.contradicts_itself() && two.verify(CHAIN_ID).is_ok());
    let mut elsewhere = attestation.ballot;
    elsewhere.pin.height = Height::new(8);
    let later = FaultProof::TwoStatements(attestation, sign(elsewhere));
    assert!(!fault(later).contradicts_itself());
}

#[test]
fn a_rollup_without_attesters_keeps_its_encoding() {
    let none = borsh::to_vec(&Attesters::default()).unwrap();
    assert_eq!(none, borsh::to_vec(&Vec::<u8>::new()).unwrap());
    let set = Attesters(Some(attesters()));
    let encoded = borsh::to_vec(&set).unwrap();
    assert_eq!(borsh::from_slice::<Attesters>(&encoded).unwrap(), set);
    insta::assert_snapshot!(hex::encode(encoded));
    let json = serde_json::to_string(&set).unwrap();
    assert_eq!(serde_json::from_str::<Attesters>(&json).unwrap(), set);
    let unsorted = vec![key(1).public_key(), key(1).public_key()];
    let refused = AttesterKeys::new(unsorted, 1);
    assert_eq!(refused, Err(AttesterKeysError::Order));
    let one = || vec![key(1).public_key()];
    let refused = |threshold| AttesterKeys::new(one(), threshold);
    assert_eq!(refused(0), Err(AttesterKeysError::Threshold));
    assert_eq!(refused(2), Err(AttesterKeysError::Threshold));
    let nobody = AttesterKeys::new(vec![], 0);
    assert_eq!(nobody, Err(AttesterKeysError::Count(0)));
}

/// Those that the tests of `contracts/` freeze, by another implementation of the ABI.
#[test]
fn contracts_compute_the_same() {
    let (here, there) = (RollupId::new([0x11; 32]), RollupId::new([0x22; 32]));
    let (alice, bob) = (EvmAddress::new([0xa1; 20]), EvmAddress::new([0xb0; 20]));
    let message = Message {
        src: there,
        dst: here,
        index: 7,
        sender: bob,
        receiver: alice,
        data: Bytes::from_static(b"hello"),
    };
    let callers =
        [(here, alice), (there, bob)].map(|(rollup_id, address)| Caller { rollup_id, address });
    let session = session_id(&Hash::new([0x55; 32]), &callers);
    let ticket = |messages: &[Message]| {
        let inbox = inbox_hash(&here, messages);
        ticket("counterpoint-1", &here, &session, &inbox)
    };
    let digests = [
        message.hash(),
        session,
        ticket(std::slice::from_ref(&message)),
        ticket(&[]),
    ];
    let frozen = [
        "ad8b720bf2fe1dcdcc43ea5af58754a2ce731e8562600a76c7322b0333cb0f50",
        "343f7ef9b9d2346e1a2673e38692c14b9876eb0b2196466847c70eadf45915fc",
        "a249f8735866fdd1e4236724d949f4545ec951f63fe2ffe812c37eed99f1de56",
        "21a8a3e6ea2ba218b9d73159697e3353dc4089c990f31b30aba4188dd16e715d",
    ];
    assert_eq!(digests.map(|digest| digest.to_string()), frozen);
}

fn is_canonical<T: BorshSerialize + BorshDeserialize>(bytes: &[u8]) {
    if let Ok(value) = borsh::from_slice::<T>(bytes) {
        assert_eq!(borsh::to_vec(&value).unwrap(), bytes);
    }
}

#[test]
fn system_items_decode_to_what_they_were() {
    for item in system_items() {
        let encoded = item.encode();
        assert_eq!(SystemItem::decode(&encoded).unwrap(), Some(item));
        let longer = [&encoded[..], &[0]].concat();
        assert!(SystemItem::decode(&longer).is_err());
    }
    assert!(SystemItem::decode(&[]).unwrap().is_none());
    assert!(SystemItem::decode(&[0x10]).unwrap().is_none());
    assert!(SystemItem::decode(&[0x01]).unwrap().is_none());
    for message in [
        AttesterMessage::Attestation(attestation()),
        AttesterMessage::Outcome(outcome_vote()),
    ] {
        let encoded = message.encode();
        assert_eq!(AttesterMessage::decode(&encoded).unwrap(), message);
        let (signer, digest, signature) = message.signed(CHAIN_ID);
        assert_eq!(signer.verify(digest.as_bytes(), &signature), Ok(()));
    }
    assert!(AttesterMessage::decode(&[0x20]).is_err());
}

#[test]
fn encodings_are_frozen() {
    let lines = system_items().map(|item| hex::encode(item.encode()));
    let bundle = hex::encode(borsh::to_vec(&bundle()).unwrap());
    let messages = [
        AttesterMessage::Attestation(attestation()),
        AttesterMessage::Outcome(outcome_vote()),
    ];
    let messages = messages.map(|message| hex::encode(message.encode()));
    let all = [&[bundle][..], &messages, &lines].concat();
    insta::assert_snapshot!(all.join("\n"));
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(bytes in prop::collection::vec(any::<u8>(), 0..400), at: usize, flip: u8) {
        is_canonical::<AtomicBundle>(&bytes);
        let mut items: Vec<Bytes> = system_items().map(|item| item.encode()).to_vec();
        items.push(borsh::to_vec(&bundle()).unwrap().into());
        for item in items {
            let mut changed = item.to_vec();
            let at = at % changed.len();
            changed[at] ^= flip;
            is_canonical::<AtomicBundle>(&changed);
            if let Ok(Some(item)) = SystemItem::decode(&changed) {
                prop_assert_eq!(item.encode(), changed);
            }
        }
        if let Ok(message) = AttesterMessage::decode(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
