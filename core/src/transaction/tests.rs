use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    action::{
        Action, AuthorityChange, ConsensusChange, Deposit, ExitRollup, FeeChange, RegisterRollup,
        ScheduleUpgrade, SubmitData, Transfer, UpdateRollup, ValidatorUpdate,
    },
    authority::Authority,
    block::Tag,
    fees::FeeParams,
    key::SecretKey,
    primitive::{Address, Amount, EvmAddress, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::SlotSecs,
};

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

fn body(actions: Vec<Action>) -> TransactionBody {
    TransactionBody {
        chain_id: "counterpoint-test".into(),
        signer: key().public_key(),
        nonce: Nonce::new(3),
        tip_per_byte: 2,
        max_fee: Amount::new(1_000_000),
        valid_until: Height::new(600),
        actions,
    }
}

fn every_action() -> Vec<Action> {
    let rollup_id = RollupId::from_name("alpha");
    let items = vec![
        Bytes::from_static(b"first"),
        Bytes::from_static(&[0xff; 40]),
    ];
    vec![
        Action::Transfer(Transfer {
            to: Address::new([9; 20]),
            amount: Amount::new(5),
        }),
        Action::SubmitData(SubmitData::new(rollup_id, items).unwrap()),
        Action::RegisterRollup(RegisterRollup {
            name: "alpha".into(),
            evm_chain_id: 1_001,
            chain_spec_hash: Hash::new([4; 32]),
            genesis_time: 1_700_000_000,
            first_height: Height::new(20),
            slot_secs: SlotSecs::new(2).unwrap(),
            gas_limit: 30_000_000,
            max_tx_gas: 7_500_000,
            min_tip_wei: 1,
            allow_unprotected: true,
            fee_recipient: EvmAddress::new([5; 20]),
            tip_share_bps: 100,
            max_bytes_per_block: 1_000_000,
            max_items_per_block: 1_000,
            attesters: None,
        }),
        Action::Deposit(Deposit::new(rollup_id, EvmAddress::new([6; 20]), 10_000_000).unwrap()),
    ]
}

fn operators_actions() -> Vec<Action> {
    let config = RollupConfig::example("alpha");
    let public_key = key().public_key();
    let members = vec![Address::new([1; 20]), Address::new([2; 20])];
    vec![
        Action::UpdateRollup(UpdateRollup {
            rent: Amount::new(9),
            ..UpdateRollup::of(&config)
        }),
        Action::ExitRollup(ExitRollup {
            rollup_id: config.rollup_id,
        }),
        Action::ValidatorUpdate(
            ValidatorUpdate::new(public_key, 10, Address::new([3; 20])).unwrap(),
        ),
        Action::AuthorityChange(AuthorityChange {
            authority: Authority::new(2, members).unwrap(),
        }),
        Action::FeeChange(FeeChange {
            params: FeeParams::default(),
        }),
        Action::ScheduleUpgrade(
            ScheduleUpgrade::new(Height::new(500), "fair order".into(), 2).unwrap(),
        ),
        Action::ConsensusChange(ConsensusChange {
            max_block_bytes: Some(2_000_000),
            vote_extensions_height: Some(Height::new(7)),
        }),
    ]
}

#[test]
fn encoding_is_frozen() {
    let tx = SignedTransaction::sign(body(every_action()), &key()).unwrap();
    insta::assert_snapshot!("signing_hash", tx.body().signing_hash());
    insta::assert_snapshot!("bytes", hex::encode(tx.as_bytes()));
    insta::assert_snapshot!("hash", tx.hash());
    insta::assert_snapshot!("signer", tx.signer());
}

#[test]
fn encoding_of_what_operators_do_is_frozen() {
    for action in operators_actions() {
        let name = format!("{action:?}");
        let name = name.split_once('(').unwrap().0.to_owned();
        let tx = SignedTransaction::sign(body(vec![action]), &key()).unwrap();
        insta::assert_snapshot!(name, hex::encode(tx.as_bytes()));
        assert_eq!(SignedTransaction::decode(tx.as_bytes()).unwrap(), tx);
    }
    let proposal = Authority::proposal(3, &operators_actions());
    insta::assert_snapshot!("proposal", proposal);
}

#[test]
fn decoding_inverts_signing() {
    let tx = SignedTransaction::sign(body(every_action()), &key()).unwrap();
    assert_eq!(SignedTransaction::decode(tx.as_bytes()).unwrap(), tx);
}

#[test]
fn a_stranger_cannot_sign() {
    let other = SecretKey::from_seed([8; 32]);
    let result = SignedTransaction::sign(body(every_action()), &other);
    assert!(matches!(result, Err(TransactionError::Signature(_))));
}

#[track_caller]
fn check_refused(bytes: Vec<u8>, expect: &str) {
    let error = SignedTransaction::decode(&Bytes::from(bytes)).unwrap_err();
    let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
    assert!(
        text.contains(expect),
        "{text:?} does not contain {expect:?}"
    );
}

#[test]
fn broken_bytes_are_refused() {
    let good = SignedTransaction::sign(body(every_action()), &key())
        .unwrap()
        .as_bytes()
        .to_vec();
    check_refused(vec![], "transaction has 0 bytes");
    check_refused(vec![0x10; MAX_TX_BYTES + 1], "must have 1..=");
    check_refused(
        [&[0x20], &good[1..]].concat(),
        "expected tag 0x10, found 0x20",
    );
    check_refused([&good[..], &[0]].concat(), "Not all bytes read");
    check_refused(good[..good.len() - 1].to_vec(), "Unexpected length");
    let mut reserved = SignedTransaction::sign(body(every_action()[..1].to_vec()), &key())
        .unwrap()
        .as_bytes()
        .to_vec();
    let action = reserved.len() - 64 - 1 - 20 - 16;
    reserved[action] = 15;
    check_refused(reserved, "15");
    let empty = SignedTransaction::sign(body(vec![]), &key()).unwrap_err();
    assert!(matches!(empty, TransactionError::ActionCount { count: 0 }));
}

#[test]
fn actions_keep_their_bounds_when_decoded() {
    let rollup_id = RollupId::from_name("alpha");
    let too_small = (
        5_u8,
        (rollup_id, EvmAddress::new([6; 20]), Deposit::MIN_AMOUNT - 1),
    );
    assert!(borsh::from_slice::<Action>(&borsh::to_vec(&too_small).unwrap()).is_err());
    let no_items = (1_u8, (rollup_id, Vec::<Bytes>::new()));
    assert!(borsh::from_slice::<Action>(&borsh::to_vec(&no_items).unwrap()).is_err());
    let empty_item = (1_u8, (rollup_id, vec![Bytes::new()]));
    assert!(borsh::from_slice::<Action>(&borsh::to_vec(&empty_item).unwrap()).is_err());
}

#[test]
fn the_head_is_what_the_body_begins_with() {
    let tx = SignedTransaction::sign(body(every_action()), &key()).unwrap();
    let (head, body) = (TransactionHead::read(tx.as_bytes()).unwrap(), tx.body());
    let fields = (head.signer, head.nonce, head.tip_per_byte);
    assert_eq!(fields, (body.signer, body.nonce, body.tip_per_byte));
    assert_eq!(
        (head.max_fee, head.valid_until),
        (body.max_fee, body.valid_until)
    );
    assert_eq!(head.chain_id, body.chain_id);
    let unnamed = [0x10, 0, 0, 0, 0];
    for item in [
        &[][..],
        &[0x10],
        &[0x20; 200],
        &[0x10; 200],
        &unnamed,
        &tx.as_bytes()[..90],
    ] {
        assert_eq!(TransactionHead::read(item), None);
    }
}

fn signed(seed: u8, nonce: u64) -> SignedTransaction {
    let key = SecretKey::from_seed([seed; 32]);
    let mut body = body(every_action()[..1].to_vec());
    (body.signer, body.nonce) = (key.public_key(), Nonce::new(nonce));
    SignedTransaction::sign(body, &key).unwrap()
}

/// `tx` with another signature, which is one of the signer's if `other` is his.
fn forge(tx: &SignedTransaction, other: &SignedTransaction) -> Bytes {
    let bytes = tx.as_bytes();
    let body = &bytes[..bytes.len() - 64];
    [body, other.signature().as_bytes()].concat().into()
}

proptest! {
    #[test]
    fn a_batch_is_judged_as_each_one_alone(
        kinds in prop::collection::vec((0_u8..4, 0_u8..4), 0..70),
    ) {
        let items: Vec<Bytes> = (0..).zip(&kinds).map(|(nonce, (seed, kind))| {
            let tx = signed(*seed, nonce);
            match kind {
                0 => forge(&tx, &signed(*seed, nonce + 1)),
                _ => tx.as_bytes().clone(),
            }
        }).collect();
        let decode = |item: &Bytes| RawTransaction::new(item.clone()).decode().unwrap();
        let judged = UnverifiedTransaction::verify_batch(items.iter().map(decode).collect());
        prop_assert_eq!(judged.len(), items.len());
        for (item, verdict) in items.iter().zip(judged) {
            let alone = SignedTransaction::decode(item);
            prop_assert_eq!(verdict.ok(), alone.ok());
        }
    }

    #[test]
    fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let tx = SignedTransaction::sign(body(every_action()), &key()).unwrap();
        let mut bytes = tx.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(SignedTransaction::decode(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Some(first) = bytes.first_mut() {
            *first = Tag::Transaction.byte();
        }
        let _ = TransactionHead::read(&bytes);
        prop_assert!(SignedTransaction::decode(&Bytes::from(bytes)).is_err());
    }
}
