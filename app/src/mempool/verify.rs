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
    order: VecDeque<Hash>,
    bytes: usize,
}

impl Remembered {
    pub(super) fn put(&mut self, tx: SignedTransaction) {
        let (hash, bytes) = (tx.hash(), tx.as_bytes().len());
        if self.txs.insert(hash, tx).is_some() {
            return;
        }
        self.order.push_back(hash);
        self.bytes += bytes;
        while self.order.len() > MAX_REMEMBERED || self.bytes > MAX_REMEMBERED_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            let forgotten = self.txs.remove(&oldest);
            self.bytes -= forgotten.map_or(0, |tx| tx.as_bytes().len());
        }
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<SignedTransaction> {
        self.txs.get(hash).cloned()
    }
}
