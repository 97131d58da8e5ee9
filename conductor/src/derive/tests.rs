use alloy_consensus::{TxEip2930, TxEip4844, TxEip7702, TxLegacy};
use alloy_primitives::U256;

use super::*;
use crate::testing::{CHAIN_ID, config, sign, transfer, wallet};

const BASE_FEE: u64 = 1_000_000_000;

#[track_caller]
fn check(raw: &[u8], expect: Result<(), SkipReason>) {
    let rules = Rules::from(&config());
    assert_eq!(screen(raw, &rules, BASE_FEE).map(|_| ()), expect);
}

#[test]
fn every_type_but_blobs_is_taken() {
    let (gas_limit, gas_price) = (21_000, 10_000_000_000);
    let legacy = TxLegacy {
        chain_id: Some(CHAIN_ID),
        gas_limit,
        gas_price,
        ..TxLegacy::default()
    };
    let access_list = TxEip2930 {
        chain_id: CHAIN_ID,
        gas_limit,
        gas_price,
        ..TxEip2930::default()
    };
    let set_code = TxEip7702 {
        chain_id: CHAIN_ID,
        gas_limit,
        max_fee_per_gas: gas_price,
        max_priority_fee_per_gas: 1,
        ..TxEip7702::default()
    };
    check(&sign(1, legacy.clone()), Ok(()));
    check(&sign(1, access_list), Ok(()));
    check(&sign(1, transfer(0)), Ok(()));
    check(&sign(1, set_code), Ok(()));
    let blob = TxEip4844 {
        chain_id: CHAIN_ID,
        ..TxEip4844::default()
    };
    check(&sign(1, blob), Err(SkipReason::Type));
    let unprotected = TxLegacy {
        chain_id: None,
        ..legacy
    };
    check(&sign(1, unprotected.clone()), Err(SkipReason::Unprotected));
    let mut rules = Rules::from(&config());
    rules.allow_unprotected = true;
    assert!(screen(&sign(1, unprotected), &rules, BASE_FEE).is_ok());
}

#[test]
fn bytes_that_are_no_transaction_are_skipped() {
    check(b"", Err(SkipReason::Size));
    check(
        &vec![0x02; SubmitData::MAX_ITEM_BYTES + 1],
        Err(SkipReason::Size),
    );
    check(
        &vec![0x02; SubmitData::MAX_ITEM_BYTES],
        Err(SkipReason::Decode),
    );
    check(&[0x05, 0xc0], Err(SkipReason::Type));
    check(&[0x7f], Err(SkipReason::Type));
    check(&[0x00], Err(SkipReason::Type));
    check(&[0xbf], Err(SkipReason::Type));
    check(&[0xc0], Err(SkipReason::Decode));
    check(&[0x02], Err(SkipReason::Decode));
    let good = sign(1, transfer(0)).to_vec();
    check(&[&good[..], &[0]].concat(), Err(SkipReason::Decode));
    check(&good[..good.len() - 1], Err(SkipReason::Decode));
}

#[test]
fn rules_hold_at_their_edges() {
    let with = |change: &dyn Fn(&mut alloy_consensus::TxEip1559)| {
        let mut tx = transfer(0);
        change(&mut tx);
        sign(1, tx)
    };
    check(&with(&|tx| tx.chain_id += 1), Err(SkipReason::ChainId));
    check(&with(&|tx| tx.chain_id -= 1), Err(SkipReason::ChainId));
    check(&with(&|tx| tx.gas_limit = 25_000), Ok(()));
    check(
        &with(&|tx| tx.gas_limit = 25_001),
        Err(SkipReason::GasLimit),
    );
    let fees = |cap: u128, tip: u128| {
        with(&move |tx| (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (cap, tip))
    };
    let base = u128::from(BASE_FEE);
    check(&fees(base - 1, 0), Err(SkipReason::FeeTooLow));
    check(&fees(base, 0), Err(SkipReason::TipTooLow));
    check(&fees(base, 1), Err(SkipReason::TipTooLow)); // The cap leaves no room for the tip.
    check(&fees(base + 1, 1), Ok(()));
    check(&fees(base + 1, 0), Err(SkipReason::TipTooLow));
}

#[test]
fn a_high_s_is_no_signature() {
    use alloy_consensus::SignableTransaction;
    use alloy_network::TxSignerSync;
    let mut tx = transfer(0);
    let signature = wallet(1).sign_transaction_sync(&mut tx).unwrap();
    let order = U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    );
    let flipped = alloy_primitives::Signature::new(
        signature.r(),
        order.unwrap() - signature.s(),
        !signature.v(),
    );
    let raw = TxEnvelope::from(tx.into_signed(flipped)).encoded_2718();
    check(&raw, Err(SkipReason::Signature));
}

#[test]
fn waiting_has_a_limit() {
    for slot_secs in [1, 2, 5, 12] {
        let stale =
            |waited: u64| is_stale(Slot::new(10_000 + waited), Slot::new(10_000), slot_secs);
        let longest = 480 + u64::from(slot_secs);
        assert!(!stale(longest) && stale(longest + 1), "{slot_secs}");
    }
    assert!(!is_stale(Slot::new(5), Slot::new(10_000), 1));
}

#[test]
fn names_of_reasons_are_the_ones_that_are_served() {
    for reason in [
        SkipReason::NotCanonical,
        SkipReason::FeeTooLow,
        SkipReason::SenderHasCode,
    ] {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = screen(&bytes, &Rules::from(&config()), BASE_FEE);
    }
}
