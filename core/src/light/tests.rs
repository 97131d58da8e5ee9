use super::{
    testing::{CHAIN, Validators, genesis, header},
    *,
};

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

/// A chain whose whole set is another one every ten heights; gives a height's header and set.
fn rotating(height: u64) -> (SignedHeader, validator::Set) {
    let set = |height: u64| {
        let seed = u8::try_from(height / 10 * 4).unwrap();
        Validators::new(&[(seed + 1, 10), (seed + 2, 10), (seed + 3, 10)])
    };
    let (now, next) = (set(height), set(height + 1));
    let header = header(height, Hash::new([9; 32]), &now, &next);
    (now.sign(header, &[0, 1, 2]), now.set())
}

#[test]
fn headers_in_between_lead_over_any_rotation() {
    let (first, set) = rotating(1);
    let root = TrustedHeader {
        height: Height::new(1),
        hash: digest(first.header.hash()),
    };
    let mut trusted = genesis(&four()).from_root(root, &first, &set).unwrap();
    let (mut wanted, mut fetched) = (vec![Height::new(100)], 0);
    while let Some(height) = wanted.last().copied() {
        let (signed, set) = rotating(height.get());
        match trusted.verify(&signed, Some(&set)) {
            // What a fork would be is of no interest here: no header knows its predecessor.
            Ok(_) | Err(LightError::Fork { .. }) => {
                trusted = trusted_at(height);
                wanted.pop();
            }
            Err(LightError::Distant { .. }) => wanted.push(trusted.pivot(height)),
            Err(error) => panic!("{error}"),
        }
        fetched += 1;
        assert!(fetched < 100, "fewer than one by one");
    }
    assert_eq!(trusted.height(), Height::new(100));
}

fn trusted_at(height: Height) -> TrustedState {
    let (signed, set) = rotating(height.get());
    let hash = digest(signed.header.hash());
    let root = TrustedHeader { height, hash };
    genesis(&four()).from_root(root, &signed, &set).unwrap()
}

#[test]
fn a_set_that_is_about_to_go_introduces_nothing_but_the_next_one() {
    let mut trusted = trusted_at(Height::new(19)); // The set changes at 20.
    let (far, set) = rotating(25);
    let error = trusted.verify(&far, Some(&set)).unwrap_err();
    assert!(matches!(error, LightError::Distant { .. }), "{error}");
    assert_eq!(trusted.pivot(Height::new(25)), Height::new(20));
    // The old set, still at work where it has no say any more.
    let old = Validators::new(&[(5, 10), (6, 10), (7, 10)]);
    let forged = header(25, Hash::ZERO, &old, &old);
    let forged = old.sign(forged, &[0, 1, 2]);
    assert!(trusted.verify(&forged, Some(&old.set())).is_err());
    assert_eq!(trusted, trusted_at(Height::new(19)));
}

#[test]
fn a_root_is_the_header_with_the_named_hash_and_its_validators() {
    let set = four();
    let signed = set.sign(header(7, Hash::new([9; 32]), &set, &set), &ALL);
    let root = TrustedHeader {
        height: Height::new(7),
        hash: digest(signed.header.hash()),
    };
    let start = genesis(&set);
    let mut trusted = start.from_root(root, &signed, &set.set()).unwrap();
    assert_eq!(trusted.header(), Some(root));
    assert_eq!(trusted.recognise(&signed).unwrap().hash(), root.hash);
    trusted
        .verify(&set.sign(header(8, root.hash, &set, &set), &ALL), None)
        .unwrap();

    let refuse = |root, signed, set: &Validators| start.from_root(root, signed, &set.set());
    let elsewhere = TrustedHeader {
        hash: Hash::new([1; 32]),
        ..root
    };
    let error = refuse(elsewhere, &signed, &set).unwrap_err();
    assert!(matches!(error, LightError::Root { .. }), "{error}");
    let later = TrustedHeader {
        height: Height::new(8),
        ..root
    };
    assert!(refuse(later, &signed, &set).is_err());
    let others = Validators::new(&[(5, 10)]);
    let error = refuse(root, &signed, &others).unwrap_err();
    assert!(matches!(error, LightError::Validators { .. }), "{error}");
    let mut foreign = header(7, Hash::new([9; 32]), &set, &set);
    foreign.chain_id = "other-chain".parse().unwrap();
    let hash = digest(foreign.hash());
    let root = TrustedHeader { hash, ..root };
    let error = refuse(root, &set.sign(foreign, &ALL), &set).unwrap_err();
    assert!(error.to_string().contains("other-chain"), "{error}");
    assert!(trusted.recognise(&signed).is_err(), "trust has moved on");
}

#[test]
fn trust_grows_too_old_after_thirty_days() {
    let trusted = genesis(&four());
    let month = TRUSTING_PERIOD.as_secs();
    assert!(!trusted.is_expired(1_800_000_000 + month - 1));
    assert!(trusted.is_expired(1_800_000_000 + month));
    assert!(!trusted.is_expired(0), "a clock that is wrong");
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
