use alloy_consensus::{SignableTransaction, TxEip1559, TxLegacy};
use alloy_network::TxSignerSync;
use alloy_primitives::{Bytes, TxKind};
use alloy_signer_local::PrivateKeySigner;
use proptest::prelude::*;

use super::*;

fn config() -> RollupConfig {
    RollupConfig {
        evm_chain_id: 412,
        min_tip_wei: 5,
        ..RollupConfig::example("alpha")
    }
}

fn tx() -> TxEip1559 {
    TxEip1559 {
        chain_id: 412,
        nonce: 3,
        gas_limit: 21_000,
        max_fee_per_gas: 100,
        max_priority_fee_per_gas: 10,
        to: TxKind::Call(Address::ZERO),
        value: U256::from(1_000),
        ..TxEip1559::default()
    }
}

fn sign(mut tx: TxEip1559) -> TxEnvelope {
    let signer = PrivateKeySigner::from_slice(&[9; 32]).unwrap();
    let signature = signer.sign_transaction_sync(&mut tx).unwrap();
    tx.into_signed(signature).into()
}

#[track_caller]
fn check_raw(raw: &[u8], expect: &str) {
    let decoded = check_envelope(raw, &config()).and_then(|()| decode(raw, &config()));
    let text = match decoded.and_then(|tx| recover(&tx)) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.into_value()["message"].as_str().unwrap().to_owned(),
    };
    assert!(
        text.starts_with(expect),
        "{text:?} does not start with {expect:?}"
    );
}

#[track_caller]
fn check(change: impl FnOnce(&mut TxEip1559), expect: &str) {
    let mut tx = tx();
    change(&mut tx);
    check_raw(&sign(tx).encoded_2718(), expect);
}

#[test]
fn mistakes_are_named_as_geth_names_them() {
    check(|_| {}, "ok");
    check(
        |tx| tx.chain_id = 1,
        "invalid sender: invalid chain id for signer: have 1 want 412",
    );
    check(
        |tx| tx.gas_limit = 20_999,
        "intrinsic gas too low: gas 20999, minimum needed 21000",
    );
    check(
        |tx| tx.gas_limit = 7_500_001,
        "transaction gas limit too high (cap: 7500000",
    );
    check(
        |tx| tx.max_fee_per_gas = 9,
        "max priority fee per gas higher than max fee per gas",
    );
    let data = |tx: &mut TxEip1559| tx.input = Bytes::from(vec![1; 1_000]);
    check(
        |tx| {
            data(tx);
            tx.gas_limit = 40_000;
        },
        "insufficient gas for floor data gas cost: gas 40000, minimum needed 61000",
    );
    let huge = |tx: &mut TxEip1559| {
        (tx.to, tx.gas_limit) = (TxKind::Create, 7_000_000);
        tx.input = Bytes::from(vec![1; MAX_INITCODE_BYTES + 1]);
    };
    check(huge, "max initcode size exceeded");
}

#[test]
fn broken_bytes_are_refused() {
    let good = sign(tx()).encoded_2718();
    check_raw(&[], "typed transaction too short");
    check_raw(&[0x03, 0xc0], "transaction type not supported");
    check_raw(&[0x7f], "typed transaction too short");
    check_raw(&[0x7f, 0xc0], "transaction type not supported");
    check_raw(&[0x80, 0xc0], "rlp: expected input list for types.LegacyTx");
    check_raw(&good[..good.len() - 1], "rlp: ");
    check_raw(&[&good[..], &[0]].concat(), "rlp: ");
    check_raw(&vec![0x02; 131_073], "oversized data");
    let mut unprotected = TxLegacy {
        gas_limit: 21_000,
        gas_price: 10,
        ..TxLegacy::default()
    };
    let signer = PrivateKeySigner::from_slice(&[9; 32]).unwrap();
    let signature = signer.sign_transaction_sync(&mut unprotected).unwrap();
    let legacy = TxEnvelope::from(unprotected.into_signed(signature)).encoded_2718();
    check_raw(
        &legacy,
        "only replay-protected (EIP-155) transactions allowed over RPC",
    );
}

#[track_caller]
fn refused(result: Result<(), RpcError>, expect: &str) {
    let text = match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.into_value()["message"].as_str().unwrap().to_owned(),
    };
    assert!(
        text.starts_with(expect),
        "{text:?} does not start with {expect:?}"
    );
}

/// Geth's `core/txpool/validation.go`: `ValidateTransactionWithState` refuses what lies below the
/// state's nonce, and without `FirstNonceGap`, which legacypool does not set, takes what lies above;
/// `ValidateTransaction` refuses the last number.
#[test]
fn a_nonce_is_not_below_the_executed_one() {
    let check = |nonce, next| check_nonce(nonce, Address::ZERO, next);
    refused(check(3, 3), "ok");
    refused(check(3, 0), "ok");
    refused(check(3, 4), "nonce too low: next nonce 4, tx nonce 3");
    refused(
        check(u64::MAX, 0),
        "nonce has max value: address 0x0000000000000000000000000000000000000000, nonce: \
         18446744073709551615",
    );
}

#[test]
fn senders_must_be_able_to_pay_for_all_that_waits() {
    let check = |balance: u64, queued: u64| {
        check_balance(&sign(tx()), U256::from(balance), U256::from(queued), None)
    };
    let what = "insufficient funds for gas * price + value: balance ";
    refused(check(2_101_000, 0), "ok");
    refused(
        check(2_100_999, 0),
        &format!("{what}2100999, tx cost 2101000, overshot 1"),
    );
    refused(check(2_101_009, 9), "ok");
    refused(
        check(2_101_008, 9),
        &format!("{what}2101008, queued cost 9, tx cost 2101000, overshot 1"),
    );
}

#[test]
fn fees_must_reach_the_next_block() {
    let check = |base_fee| check_fees(&sign(tx()), Address::ZERO, base_fee, &config());
    refused(check(90), "ok");
    refused(check(95), "ok"); // The cap leaves room for the least tip.
    refused(
        check(96),
        "transaction underpriced: tip needed 5, tip permitted 4",
    );
    refused(
        check(101),
        "max fee per gas less than block base fee: address 0x",
    );
}

#[test]
fn a_rollup_that_lags_takes_nothing_in() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let head = |lag| Head {
        number: 1,
        timestamp: now - lag,
        next_base_fee: 1,
        progress: None,
    };
    refused(check_lag(&head(14), &config()), "ok");
    refused(
        check_lag(&head(17), &config()),
        "the rollup's execution is 1",
    );
    let error = check_lag(&head(100), &config()).unwrap_err();
    assert_eq!(error.into_value()["code"], -32_005);
}

/// Geth's `core/txpool/legacypool/list.go`, `Add`: both fees must be greater than before, and at least
/// `old * (100 + PriceBump) / 100`, rounded down; `DefaultConfig.PriceBump` is 10.
#[test]
fn a_replacement_pays_a_tenth_more() {
    let with = |max_fee_per_gas, max_priority_fee_per_gas| {
        sign(TxEip1559 {
            max_fee_per_gas,
            max_priority_fee_per_gas,
            ..tx()
        })
    };
    let underpriced = "replacement transaction underpriced";
    for (new, old, expect) in [
        ((110, 11), (100, 10), "ok"),
        ((109, 11), (100, 10), underpriced),
        ((110, 10), (100, 10), underpriced),
        // 109 * 110 / 100 is 119.9: TestReplacement of legacypool_test.go rounds down, too.
        ((119, 11), (109, 10), "ok"),
        ((118, 11), (109, 10), underpriced),
        // "for low (Wei-level) gas price replacements": a tenth of them is nothing.
        ((2, 2), (1, 1), "ok"),
        ((1, 1), (1, 1), underpriced),
        ((1, 0), (0, 0), underpriced),
        ((u128::MAX, u128::MAX), (u128::MAX / 2, 1), "ok"),
        ((u128::MAX, 2), (u128::MAX, 1), underpriced),
    ] {
        refused(
            check_replacement(&with(new.0, new.1), &with(old.0, old.1)),
            expect,
        );
    }
}

proptest! {
    #[test]
    fn damaged_transactions_never_panic_and_what_passes_is_canonical(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length: prop::sample::Index,
    ) {
        let mut raw = sign(tx()).encoded_2718();
        for (at, byte) in damage {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        for raw in [&raw[..], &raw[..length.index(raw.len())]] {
            if let Ok(tx) = decode(raw, &config()) {
                prop_assert_eq!(tx.encoded_2718(), raw);
            }
        }
    }
}
