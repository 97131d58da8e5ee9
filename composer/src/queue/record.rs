//! What is on disk: replaying the records gives the state.

use alloy_primitives::B256;
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use counterpoint_core::primitive::RollupId;

use super::{Batch, Place, Rejection};

/// One line of the log. A change of any of them is a new format: see `MAGIC` of the log.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) enum Record {
    /// A transaction was acknowledged.
    Accepted {
        seq: u64,
        rollup: RollupId,
        raw: Bytes,
        /// When, in seconds since 1970: its deadline counts from here.
        time: u64,
        /// The sender's executed nonce: what lies above it and has no predecessor here is parked.
        floor: u64,
        /// The bundle that it is a part of.
        bundle: Option<[u8; 32]>,
    },
    /// A transaction gave its place to one with the same sender and nonce and a greater fee.
    Replaced { seq: u64, raw: Bytes, time: u64 },
    /// A batch was signed, for the first time or once more.
    Signed(Batch),
    /// A batch is in a verified block; where its items are, or nothing for those it did not place.
    Included {
        nonce: u64,
        height: u64,
        places: Vec<(u64, Option<u32>)>,
    },
    /// What compaction keeps beside the transactions themselves. Of the batches on their way it has
    /// the oldest; the others follow it as they were signed.
    Kept {
        next_nonce: Option<u64>,
        open: Option<Batch>,
        placed: Vec<(u64, Place)>,
        /// With whether the cause has not passed yet.
        skipped: Vec<(u64, LastSkip, bool)>,
    },
    /// Batches of which no version can be in a block any more; the account's nonce is the one that
    /// comes next.
    Dissolved { nonces: Vec<u64>, next_nonce: u64 },
    /// The conductor skipped a transaction at a place.
    Skipped(Skip),
    /// Transactions that will never be sequenced.
    Rejected { seqs: Vec<u64>, why: Rejection },
}

impl Record {
    /// The transaction that this acknowledges.
    pub(super) fn admitted(&self) -> Option<u64> {
        match self {
            Self::Accepted { seq, .. } | Self::Replaced { seq, .. } => Some(*seq),
            _ => None,
        }
    }
}

/// A transaction is in a list and in no block.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Skip {
    /// Which one.
    pub(crate) seq: u64,
    /// Where: it may be in a block at another place.
    pub(crate) place: Place,
    /// Why, as `docs/spec/derivation.md` names it; empty if nobody knows.
    pub(crate) reason: String,
    /// Whether it is tried again once the reason has passed.
    pub(crate) again: bool,
}

/// What became of a transaction when it was in a list the last time.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct LastSkip {
    /// Where.
    pub(crate) place: Place,
    /// Why.
    pub(crate) reason: String,
    /// How often it was in a list.
    pub(crate) attempts: u32,
}

/// A bundle's name as it is written.
pub(super) fn bundle_bytes(bundle: Option<B256>) -> Option<[u8; 32]> {
    bundle.map(|hash| hash.0)
}
