//! Items for tests.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, TxKind};
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use counterpoint_core::primitive::RollupId;

use super::{Checked, Item, Queue, QueueError, decode};

/// A signed transfer that offers `max_fee` per gas.
pub(crate) fn raw(signer: u8, nonce: u64, max_fee: u128) -> Bytes {
    let signer = PrivateKeySigner::from_slice(&[signer; 32]).unwrap();
    let mut tx = TxEip1559 {
        chain_id: 1,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(Address::ZERO),
        ..TxEip1559::default()
    };
    let signature = signer.sign_transaction_sync(&mut tx).unwrap();
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

impl Queue {
    /// Takes one in that somebody else has judged.
    pub(crate) async fn put(
        &self,
        checked: Checked,
        replaces: Option<u64>,
    ) -> Result<(), QueueError> {
        let mut verdicts = self.accept(vec![checked], |_, _| Ok(replaces)).await;
        verdicts.remove(0)
    }
}

/// The same, checked.
pub(crate) fn checked(rollup: RollupId, raw: Bytes) -> Checked {
    decode(rollup, raw).unwrap()
}

/// A transaction that waits.
pub(crate) fn item(seq: u64, rollup: RollupId) -> Item {
    Item::new(seq, checked(rollup, raw(1, seq, 10)))
}
