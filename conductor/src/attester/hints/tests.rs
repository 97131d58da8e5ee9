use alloy_signer_local::PrivateKeySigner;
use counterpoint_core::{
    atomic::{
        AttesterKeys, AttesterSet, Attesters, BundleTerms, EvmSignature, OnAbort, SealedTx,
        auth_digest,
    },
    key::SecretKey,
    primitive::{Amount, EvmAddress, Hash},
};

use super::*;
use crate::testing::{config, sign, specification, transfer, wallet};

const TIME: u64 = 1_700_000_100;

fn attester(seed: u8) -> PublicKey {
    SecretKey::from_seed([seed; 32]).public_key()
}

fn attested() -> RollupConfig {
    let members = AttesterKeys::new(vec![attester(1)], 1).unwrap();
    let set = AttesterSet { epoch: 3, members };
    RollupConfig {
        attesters: Attesters(Some(set)),
        ..config()
    }
}

fn tip() -> Tip {
    let header = specification().genesis_header().clone();
    Tip {
        hash: header.hash_slow(),
        header,
        pin: Pin {
            height: Height::new(9),
            hash: Hash::new([9; 32]),
        },
        time: HeaderTime {
            seconds: TIME,
            nanos: 5,
        },
        config: attested(),
        arrived: std::time::Instant::now(),
    }
}

/// A bundle whose leg here is a transfer by wallet 1, sealed by `signer`.
fn bundle(signer: &PrivateKeySigner, raw: &Bytes) -> AtomicBundle {
    use alloy_signer::SignerSync;
    let mut rollups = [config().rollup_id, RollupId::new([7; 32])];
    rollups.sort();
    let legs = rollups.map(|rollup_id| LegSeal {
        rollup_id,
        txs: vec![SealedTx {
            tx_hash: keccak(raw),
            auth: EvmSignature::EMPTY,
        }],
    });
    let mut terms = BundleTerms {
        chain_id: "test".into(),
        session_salt: Hash::ZERO,
        callers: vec![],
        legs: legs.to_vec(),
        messages: vec![],
        valid_from: TIME - 10,
        valid_until: TIME + 10,
        on_abort: OnAbort::FailFast,
        max_attempts: 1,
        extra_attesters: vec![attester(2)],
        tip_per_attempt: Amount::new(1),
    };
    let digest = auth_digest("test", &terms.bundle_id(), &keccak(raw));
    let signature = signer
        .sign_hash_sync(&B256::new(*digest.as_bytes()))
        .unwrap();
    for tx in terms.legs.iter_mut().flat_map(|leg| &mut leg.txs) {
        tx.auth = EvmSignature::new(signature.as_bytes());
    }
    AtomicBundle::new(terms).unwrap()
}

fn hint_by(signer: &PrivateKeySigner) -> Hint {
    let (tip, config, raw) = (tip(), attested(), sign(1, transfer(0)));
    let bundle = bundle(signer, &raw);
    let inbox = inbox_hash(&config.rollup_id, &[]);
    let root = ticket("test", &config.rollup_id, &bundle.session_id(), &inbox);
    let client = Client::new(&["http://127.0.0.1:1".into()]).unwrap();
    Hint {
        node: client.nodes().next().unwrap(),
        height: tip.pin.height,
        ballot: Ballot {
            bundle_id: bundle.id(),
            rollup_id: config.rollup_id,
            epoch: 3,
            pin: tip.pin,
        },
        env: LegEnv {
            number: 1,
            timestamp: TIME,
            gas_limit: config.gas_limit,
            fee_recipient: config.fee_recipient,
            prev_randao: prev_randao(&config.rollup_id, &tip.pin.hash),
            base_fee: 0,
            beacon_root: *root.as_bytes(),
            deposits_hash: Hash::new([6; 32]),
        },
        bundle,
        txs: vec![raw],
    }
}

#[tokio::test]
async fn whatever_a_node_changes_is_found() {
    let verdict = |change: &dyn Fn(&mut Hint)| {
        let mut hint = hint_by(&wallet(1));
        change(&mut hint);
        check(&hint, &tip(), &attested(), &mut None)
    };
    assert_eq!(verdict(&|_| {}), Ok(()));
    let wrong = |wrong, change: &dyn Fn(&mut Hint)| assert_eq!(verdict(change), Err(wrong));
    wrong(Wrong::Pin, &|hint| hint.ballot.pin.height = Height::new(8));
    wrong(Wrong::Pin, &|hint| hint.ballot.pin.hash = Hash::ZERO);
    wrong(Wrong::Pin, &|hint| {
        hint.ballot.rollup_id = RollupId::new([7; 32]);
    });
    wrong(Wrong::Bundle, &|hint| hint.ballot.bundle_id = Hash::ZERO);
    wrong(Wrong::Leg, &|hint| hint.txs[0] = sign(1, transfer(1)));
    wrong(Wrong::Leg, &|hint| hint.txs.clear());
    wrong(Wrong::Config, &|hint| hint.ballot.epoch = 4);
    wrong(Wrong::Config, &|hint| {
        hint.env.fee_recipient = EvmAddress::new([8; 20]);
    });
    wrong(Wrong::Env, &|hint| hint.env.number = 2);
    wrong(Wrong::Env, &|hint| hint.env.timestamp += 1);
    wrong(Wrong::Env, &|hint| hint.env.gas_limit += 1);
    wrong(Wrong::Env, &|hint| hint.env.prev_randao = [0; 32]);
    wrong(Wrong::Env, &|hint| hint.env.base_fee = 1);
    wrong(Wrong::Env, &|hint| hint.env.beacon_root = [0; 32]);
    let stranger = check(&hint_by(&wallet(2)), &tip(), &attested(), &mut None);
    assert_eq!(stranger, Err(Wrong::Auth));
    let mut late = tip();
    late.time.seconds = TIME + 11;
    let late = check(&hint_by(&wallet(1)), &late, &attested(), &mut None);
    assert_eq!(late, Err(Wrong::Bundle));
}

#[tokio::test]
async fn attesters_of_the_rollup_and_of_the_bundle_are_asked() {
    let bundle = hint_by(&wallet(1)).bundle;
    let asked = |seed| is_asked(&attester(seed), &bundle, &attested());
    assert_eq!([1, 2, 3].map(asked), [true, true, false]);
    assert!(!is_member(&attester(2), &attested()) && is_member(&attester(1), &attested()));
}

#[tokio::test]
async fn a_further_attempt_recovers_no_senders() {
    let (tip, config, mut vouched) = (tip(), attested(), None);
    let (hint, others) = (hint_by(&wallet(1)), hint_by(&wallet(2)));
    assert_eq!(check(&hint, &tip, &config, &mut vouched), Ok(()));
    // Auths are no part of a bundle's identifier: that these are wrong shows that nobody looks.
    assert_eq!(vouched, Some(others.bundle.id()));
    assert_eq!(check(&others, &tip, &config, &mut vouched), Ok(()));
    let another = &mut Some(Hash::ZERO);
    assert_eq!(check(&others, &tip, &config, another), Err(Wrong::Auth));
}
