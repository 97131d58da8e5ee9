use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    atomic::{Failure, Pin},
    primitive::{Address, Amount, Hash, Height, RollupId},
};

/// What becomes of an atomic bundle; it stays in the state for ever.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BundleRecord {
    /// Who submitted it, and gets back what attempts it does not use would have cost.
    pub submitter: Address,
    /// Where it was sealed.
    pub height: Height,
    /// Seconds since 1970 before which it must not run.
    pub valid_from: u64,
    /// Seconds since 1970 after which it must not run.
    pub valid_until: u64,
    /// What each attempt costs.
    pub tip_per_attempt: Amount,
    /// Attempts that it has not used; their tips are locked while it lives.
    pub attempts_left: u8,
    /// Whether attesters have ever shown that a leg would fail.
    pub answered: bool,
    /// Its legs, in order.
    pub legs: Vec<LegRecord>,
    /// How far it is.
    pub status: BundleStatus,
    /// Where its legs were put into blocks, if they were.
    pub release: Option<ReleaseRecord>,
}

/// What the chain must know of a leg to schedule it; lengths and gas are 0 until it is revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LegRecord {
    /// Where it executes.
    pub rollup_id: RollupId,
    /// How many transactions it has.
    pub txs: u8,
    /// Bytes of all of them.
    pub bytes: u32,
    /// The gas that all of them may use.
    pub gas: u64,
    /// The most that one of them may use.
    pub max_gas: u64,
}

/// How far a bundle is. From `Executed` on nothing changes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum BundleStatus {
    /// Its transactions are sealed, and nobody needs to know them yet.
    Sealed = 0,
    /// Its transactions are known; it waits for a slot.
    Queued = 1,
    /// The slot that opens at this height is its own; attesters execute it now.
    Scheduled(Height) = 2,
    /// Its legs are in their blocks.
    Released = 3,
    /// A quorum of every rollup's attesters says that all came out as attested.
    Executed = 4,
    /// Not every rollup's attesters said so in time.
    Unconfirmed = 5,
    /// Attesters of a rollup said that it came out otherwise than they had attested.
    Violated = 6,
    /// Nothing of it has executed or ever will.
    Aborted(AbortReason) = 7,
}

impl BundleStatus {
    /// Whether its legs may still be put into blocks.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Sealed | Self::Queued | Self::Scheduled(_))
    }
}

impl fmt::Display for BundleStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed => "sealed",
            Self::Queued => "queued",
            Self::Scheduled(_) => "scheduled",
            Self::Released => "released",
            Self::Executed => "executed",
            Self::Unconfirmed => "unconfirmed",
            Self::Violated => "violated",
            Self::Aborted(_) => "aborted",
        })
    }
}

/// Why a bundle ended without executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum AbortReason {
    /// A quorum of attesters showed that a leg would fail.
    Attested {
        /// Whose leg.
        rollup_id: RollupId,
        /// The place in the leg of what would fail.
        tx: u8,
        /// Why.
        failure: Failure,
    } = 0,
    /// Its time passed.
    Expired = 1,
    /// It used all attempts, and attesters showed at least once that a leg would fail.
    Attempts = 2,
    /// It used all attempts, and never did enough attesters agree on anything; or a rollup could not
    /// take its leg when its slot came: too few attesters have a vote, it leaves, or it has less room.
    AttestersOffline = 3,
    /// Bundles with higher tips took its place in a queue.
    Superseded = 4,
    /// Its submitter called it off.
    Cancelled = 5,
}

impl AbortReason {
    /// The reason in words, with rollups by the names that `name` gives them.
    #[must_use]
    pub fn explain(&self, name: impl FnOnce(&RollupId) -> String) -> String {
        match self {
            Self::Attested {
                rollup_id,
                tx,
                failure,
            } => format!(
                "attesters of {}: transaction {tx} of its leg would fail: {failure}",
                name(rollup_id)
            ),
            Self::Expired => "its time passed".into(),
            Self::Attempts => "it used all attempts".into(),
            Self::AttestersOffline => {
                "attesters never agreed in any of its attempts, or a rollup cannot take its leg"
                    .into()
            }
            Self::Superseded => "bundles with higher tips took its place".into(),
            Self::Cancelled => "its submitter called it off".into(),
        }
    }
}

/// Where a bundle's legs were put into blocks.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReleaseRecord {
    /// The block before; the legs are in the lists of the next height.
    pub pin: Pin,
    /// In the order of legs.
    pub legs: Vec<ReleasedLeg>,
}

/// Where a leg was put into a block, and what it must come to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ReleasedLeg {
    /// The rollup block.
    pub block_number: u64,
    /// What attesters said that its receipts would be.
    pub receipts_hash: Hash,
    /// Whether a quorum has said that they are.
    pub confirmed: bool,
}

/// A bundle's place in the queue of one of its rollups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct QueuedBundle {
    /// Its tip for an attempt, divided by its legs: who pays more goes first.
    pub tip_per_leg: u128,
    /// Where it was sealed: among equals the older goes first.
    pub height: Height,
}

/// Bundles wait for their end under its second. Nothing stands there while none waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BundleEnds {
    /// The first second, since 1970, that has not been looked at.
    pub next: u64,
    /// Bundles under this second and later ones.
    pub waiting: u64,
}

/// Since when an attester has no vote: it was caught in a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Suspension {
    /// The height that recorded the proof.
    pub height: Height,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_frozen() {
        let rollup_id = RollupId::new([1; 32]);
        let reason = AbortReason::Attested {
            rollup_id,
            tx: 2,
            failure: Failure::Revert,
        };
        let record = BundleRecord {
            submitter: Address::new([2; 20]),
            height: Height::new(3),
            valid_from: 4,
            valid_until: 5,
            tip_per_attempt: Amount::new(6),
            attempts_left: 7,
            answered: true,
            legs: vec![LegRecord {
                rollup_id,
                txs: 8,
                bytes: 9,
                gas: 10,
                max_gas: 11,
            }],
            status: BundleStatus::Aborted(reason),
            release: Some(ReleaseRecord {
                pin: Pin {
                    height: Height::new(12),
                    hash: Hash::new([13; 32]),
                },
                legs: vec![ReleasedLeg {
                    block_number: 14,
                    receipts_hash: Hash::new([15; 32]),
                    confirmed: true,
                }],
            }),
        };
        let encoded = borsh::to_vec(&record).unwrap();
        assert_eq!(borsh::from_slice::<BundleRecord>(&encoded).unwrap(), record);
        insta::assert_snapshot!(hex::encode(encoded));
    }
}
