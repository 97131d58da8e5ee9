//! Accounts and transactions of rollups, for tests. The secret key of account `n` is 32 bytes `n`.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope, crypto::secp256k1};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, TxKind, U256};
use bytes::Bytes;

use super::{BundleTerms, EvmSignature, auth_digest};
use crate::primitive::{EvmAddress, Hash};

/// A transfer of 5 wei by account `secret`: type 2, and 100,000 gas.
///
/// # Panics
/// If `secret` is 0.
#[must_use]
pub fn raw_transaction(secret: u8, chain_id: u64, nonce: u64) -> Bytes {
    let tx = TxEip1559 {
        chain_id,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(alloy_primitives::Address::repeat_byte(0x77)),
        value: U256::from(5),
        ..TxEip1559::default()
    };
    let signature = sign(secret, &Hash::new(tx.signature_hash().0));
    let tx = TxEnvelope::from(tx.into_signed(signature));
    tx.encoded_2718().into()
}

/// The address of account `secret`.
///
/// # Panics
/// If `secret` is 0.
#[must_use]
#[expect(clippy::unwrap_used, reason = "account 0 has no key")]
pub fn account(secret: u8) -> EvmAddress {
    super::sender(&raw_transaction(secret, 1, 0)).unwrap()
}

/// Signs every auth of a bundle by account `secret`.
///
/// # Panics
/// If `secret` is 0.
pub fn sign_auths(terms: &mut BundleTerms, secret: u8) {
    let (chain_id, id) = (terms.chain_id.clone(), terms.bundle_id());
    for tx in terms.legs.iter_mut().flat_map(|leg| &mut leg.txs) {
        let signature = sign(secret, &auth_digest(&chain_id, &id, &tx.tx_hash));
        tx.auth = EvmSignature::new(signature.as_bytes());
    }
}

#[expect(clippy::unwrap_used, reason = "a test that signs with 0 is wrong")]
pub(super) fn sign(secret: u8, digest: &Hash) -> alloy_primitives::Signature {
    secp256k1::sign_message(B256::repeat_byte(secret), B256::new(*digest.as_bytes())).unwrap()
}
