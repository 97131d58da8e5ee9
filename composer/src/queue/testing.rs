//! Items for tests.

use std::sync::Arc;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, TxKind};
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use counterpoint_core::primitive::{Height, RollupId};

use super::{Checked, Claim, Item, Line, Place, Queue, QueueError, Stage, state::decode};

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

/// The same, checked.
pub(crate) fn checked(rollup: RollupId, raw: Bytes) -> Arc<Checked> {
    Arc::new(decode(rollup, raw).unwrap())
}

/// A transaction that waits.
pub(crate) fn item(seq: u64, rollup: RollupId) -> Item {
    Item::new(seq, checked(rollup, raw(1, seq, 10)), 0, None)
}

impl Queue {
    /// Takes one in that somebody else has judged; the sender has executed nothing.
    pub(crate) async fn put(
        &self,
        checked: Arc<Checked>,
        replaces: Option<u64>,
    ) -> Result<(), QueueError> {
        let claim = Claim { floor: 0, replaces };
        let mut verdicts = self.accept(vec![checked], |_, _| Ok(claim)).await;
        verdicts.remove(0)
    }

    /// Takes all that waits into the batch with this nonce.
    pub(crate) async fn take_all(&self, nonce: u64) -> Vec<Item> {
        let all = |lines: Vec<(RollupId, Line<'_>)>| {
            let waiting = lines.into_iter().flat_map(|(_, line)| line.flatten());
            waiting.cloned().collect()
        };
        self.take(nonce, all).await
    }

    /// This became of a transaction.
    pub(crate) fn finish(&self, seq: u64, stage: Stage) {
        self.state().finish(seq, stage);
    }

    /// All sequenced transactions of a rollup.
    pub(crate) fn sequenced(&self, rollup: RollupId) -> Vec<(u64, Place)> {
        let end = Place {
            height: Height::new(u64::MAX),
            index: u32::MAX,
        };
        let all = self.sequenced_before(rollup, end, usize::MAX).into_iter();
        all.map(|(seq, _, place)| (seq, place)).collect()
    }
}
