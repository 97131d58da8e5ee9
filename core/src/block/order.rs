//! The verifiable order: a proposer chooses what to include, never in what order.
//!
//! Repeatedly, among the next-nonce transactions of all accounts in the block, the one with the
//! greatest `(tip_per_byte, sha256("counterpoint/order/v1" ‖ hash(H−1) ‖ public key))` comes next.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::{
    key::PublicKey,
    primitive::{Hash, Nonce},
};

/// What the order of a transaction depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKey {
    /// Who signed.
    pub signer: PublicKey,
    /// Its place among the signer's transactions.
    pub nonce: Nonce,
    /// What it offers per byte.
    pub tip_per_byte: u64,
}

/// The rank that the previous block's hash gives to a signer, the same for all its transactions.
#[must_use]
pub fn rank(previous: &Hash, signer: &PublicKey) -> Hash {
    Hash::digest(&[
        b"counterpoint/order/v1",
        previous.as_bytes(),
        signer.as_bytes(),
    ])
}

/// Puts transactions of one block into the verifiable order.
#[must_use]
pub fn sort<T>(transactions: Vec<T>, previous: &Hash, key: impl Fn(&T) -> OrderKey) -> Vec<T> {
    let mut accounts: BTreeMap<PublicKey, Vec<(OrderKey, T)>> = BTreeMap::new();
    for transaction in transactions {
        let key = key(&transaction);
        accounts
            .entry(key.signer)
            .or_default()
            .push((key, transaction));
    }
    let mut queues: BTreeMap<PublicKey, VecDeque<(OrderKey, T)>> = BTreeMap::new();
    let mut heads = BinaryHeap::new();
    for (signer, mut queue) in accounts {
        queue.sort_by_key(|(key, _)| key.nonce);
        if let Some((head, _)) = queue.first() {
            heads.push((head.tip_per_byte, rank(previous, &signer), signer));
        }
        queues.insert(signer, queue.into());
    }
    let mut sorted = Vec::new();
    while let Some((_, rank, signer)) = heads.pop() {
        let Some(queue) = queues.get_mut(&signer) else {
            continue;
        };
        sorted.extend(queue.pop_front().map(|(_, transaction)| transaction));
        if let Some((next, _)) = queue.front() {
            heads.push((next.tip_per_byte, rank, signer));
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tx(signer: u8, nonce: u64, tip_per_byte: u64) -> OrderKey {
        OrderKey {
            signer: PublicKey::new([signer; 32]),
            nonce: Nonce::new(nonce),
            tip_per_byte,
        }
    }

    #[track_caller]
    fn check(transactions: &[OrderKey], expect: &[OrderKey]) {
        assert_eq!(sort(transactions.to_vec(), &Hash::ZERO, |key| *key), expect);
        let backwards = transactions.iter().rev().copied().collect();
        assert_eq!(sort(backwards, &Hash::ZERO, |key| *key), expect);
    }

    #[test]
    fn tips_lead_but_never_past_a_nonce() {
        check(&[tx(1, 0, 5), tx(2, 0, 7)], &[tx(2, 0, 7), tx(1, 0, 5)]);
        check(
            &[tx(1, 0, 1), tx(1, 1, 9), tx(2, 0, 5), tx(2, 1, 2)],
            &[tx(2, 0, 5), tx(2, 1, 2), tx(1, 0, 1), tx(1, 1, 9)],
        );
    }

    #[test]
    fn equal_tips_are_ranked_by_the_previous_block() {
        let [one, two] = [1, 2].map(|signer| tx(signer, 0, 5));
        let first_of = |previous: u8| {
            sort(vec![one, two], &Hash::new([previous; 32]), |key| *key)
                .first()
                .copied()
                .unwrap()
        };
        let wins = (0..64)
            .filter(|previous| first_of(*previous) == one)
            .count();
        assert!(
            (16..48).contains(&wins),
            "no account is always first: {wins} of 64"
        );
    }
}
