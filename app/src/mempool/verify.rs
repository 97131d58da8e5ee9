//! Signatures: verified in batches, and no transaction's twice.

use std::collections::{HashMap, VecDeque};

use counterpoint_core::{
    primitive::Hash,
    transaction::{SignedTransaction, UnverifiedTransaction},
};
use tracing::debug;

/// Most transactions that are remembered.
const MAX_REMEMBERED: usize = 4_096;
/// Most bytes of them.
const MAX_REMEMBERED_BYTES: usize = 32 << 20;

/// What became of transactions that one peer, or one proposer, answers for.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Those that are sound, in their order.
    pub(crate) sound: Vec<SignedTransaction>,
    /// Whether one was forged. Who answers for it has not looked at what he sends, and what came
    /// after its batch was not looked at here.
    pub(crate) forged: bool,
}

/// Verifies batch by batch, up to the first with a forged signature: so whatever somebody sends, he
/// can waste one batch of work with it.
pub(crate) fn verify(txs: Vec<UnverifiedTransaction>) -> Verified {
    let mut verified = Verified {
        sound: Vec::with_capacity(txs.len()),
        forged: false,
    };
    let mut txs = txs.into_iter().peekable();
    while txs.peek().is_some() && !verified.forged {
        let batch = txs.by_ref().take(UnverifiedTransaction::BATCH).collect();
        for verdict in UnverifiedTransaction::verify_batch(batch) {
            match verdict {
                Ok(tx) => verified.sound.push(tx),
                Err(error) => {
                    debug!(%error, "forged transaction");
                    verified.forged = true;
                }
            }
        }
    }
    verified
}

/// Transactions that were verified and are not in the queue, since they are on their way to it, or
/// must wait for a block before they can be: the newest of them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    txs: HashMap<Hash, SignedTransaction>,
    /// Their hashes, by signature, which every item ends with.
    signatures: HashMap<[u8; 64], Hash>,
    order: VecDeque<Hash>,
    bytes: usize,
}

impl Remembered {
    pub(super) fn put(&mut self, tx: SignedTransaction) {
        let (hash, bytes) = (tx.hash(), tx.as_bytes().len());
        self.signatures.insert(*tx.signature().as_bytes(), hash);
        if self.txs.insert(hash, tx).is_some() {
            return;
        }
        self.order.push_back(hash);
        self.bytes += bytes;
        while self.order.len() > MAX_REMEMBERED || self.bytes > MAX_REMEMBERED_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(forgotten) = self.txs.remove(&oldest) {
                self.signatures.remove(forgotten.signature().as_bytes());
                self.bytes -= forgotten.as_bytes().len();
            }
        }
    }

    /// The transaction that has exactly these bytes, which need not be hashed for that.
    pub(super) fn find(&self, item: &[u8]) -> Option<SignedTransaction> {
        let hash = self.signatures.get(item.last_chunk::<64>()?)?;
        let tx = self.txs.get(hash)?;
        (tx.as_bytes() == item).then(|| tx.clone())
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<SignedTransaction> {
        self.txs.get(hash).cloned()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use counterpoint_core::action::{Action, SubmitData};

    use super::*;
    use crate::testing::{rollup, sign, transfer};

    fn decode(item: &Bytes) -> SignedTransaction {
        SignedTransaction::decode(item).unwrap()
    }

    #[test]
    fn the_newest_are_remembered_within_bounds() {
        let mut remembered = Remembered::default();
        for nonce in 0..MAX_REMEMBERED as u64 + 10 {
            remembered.put(decode(&transfer(1, nonce, 1)));
        }
        assert_eq!(remembered.txs.len(), MAX_REMEMBERED);
        assert_eq!(remembered.signatures.len(), MAX_REMEMBERED);
        let (oldest, newest) = (transfer(1, 9, 1), transfer(1, MAX_REMEMBERED as u64, 1));
        assert_eq!(remembered.find(&oldest), None);
        assert_eq!(remembered.find(&newest), Some(decode(&newest)));
        assert_eq!(remembered.find(&newest[1..]), None);
        for nonce in 0..40 {
            let items = vec![vec![1; 100_000].into(); 9];
            let data = SubmitData::new(rollup(), items).unwrap();
            let large = decode(&sign(2, nonce, 1, Action::SubmitData(data)));
            remembered.put(large.clone());
            remembered.put(large);
        }
        assert!(remembered.bytes <= MAX_REMEMBERED_BYTES);
        let bytes: usize = remembered.txs.values().map(|tx| tx.as_bytes().len()).sum();
        assert_eq!(
            (remembered.bytes, remembered.order.len()),
            (bytes, remembered.txs.len())
        );
    }
}
