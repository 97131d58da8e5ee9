use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::{AttesterFault, Executed, Quorum, Votes};
use crate::{
    block::{BlockItemError, Tag},
    primitive::{Hash, Height, RollupId},
};

/// Puts all legs of a bundle first in the blocks of their rollups; tag `0x03`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AtomicRelease {
    /// The bundle.
    pub bundle_id: Hash,
    /// The height before; what attesters pinned their statements to.
    pub pin_height: Height,
    /// The commits of one rollup each, in the order of legs.
    pub quorums: Vec<Quorum>,
}

/// Shows that a scheduled leg would fail; tag `0x02`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AtomicAbort {
    /// The bundle.
    pub bundle_id: Hash,
    /// The height before; what attesters pinned their statements to.
    pub pin_height: Height,
    /// Whose leg.
    pub rollup_id: RollupId,
    /// Its aborts.
    pub quorum: Quorum,
}

/// Records what became of a released leg; tag `0x04`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AtomicOutcome {
    /// What attesters say.
    pub executed: Executed,
    /// Their signatures.
    pub votes: Votes,
}

/// What proposers put between the preamble and the transactions, without a fee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemItem {
    /// Tag `0x02`.
    Abort(AtomicAbort),
    /// Tag `0x03`.
    Release(AtomicRelease),
    /// Tag `0x04`.
    Outcome(AtomicOutcome),
    /// Tag `0x05`.
    Fault(Box<AttesterFault>),
}

impl SystemItem {
    /// The block item: tag and borsh.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (tag, encoded) = match self {
            Self::Abort(abort) => (Tag::AtomicAbort, borsh::to_vec(abort)),
            Self::Release(release) => (Tag::AtomicRelease, borsh::to_vec(release)),
            Self::Outcome(outcome) => (Tag::AtomicOutcome, borsh::to_vec(outcome)),
            Self::Fault(fault) => (Tag::AttesterFault, borsh::to_vec(fault)),
        };
        // Writing to memory does not fail.
        let mut bytes = vec![tag.byte()];
        bytes.extend(encoded.unwrap_or_default());
        bytes.into()
    }

    /// Reads a block item, if its tag is that of a system item.
    ///
    /// # Errors
    /// [`BlockItemError`] if what follows the tag is not canonical.
    pub fn decode(item: &[u8]) -> Result<Option<Self>, BlockItemError> {
        let Some((tag, rest)) = item.split_first() else {
            return Ok(None);
        };
        Ok(Some(match *tag {
            tag if tag == Tag::AtomicAbort.byte() => Self::Abort(borsh::from_slice(rest)?),
            tag if tag == Tag::AtomicRelease.byte() => Self::Release(borsh::from_slice(rest)?),
            tag if tag == Tag::AtomicOutcome.byte() => Self::Outcome(borsh::from_slice(rest)?),
            tag if tag == Tag::AttesterFault.byte() => {
                Self::Fault(Box::new(borsh::from_slice(rest)?))
            }
            _ => return Ok(None),
        }))
    }

    /// The place among the system items of a block: ascending, no two equal.
    #[must_use]
    pub fn order_key(&self) -> (u8, [u8; 32], [u8; 32]) {
        match self {
            Self::Abort(abort) => {
                let rollup_id = *abort.rollup_id.as_bytes();
                (
                    Tag::AtomicAbort.byte(),
                    *abort.bundle_id.as_bytes(),
                    rollup_id,
                )
            }
            Self::Release(release) => {
                let bundle_id = *release.bundle_id.as_bytes();
                (Tag::AtomicRelease.byte(), bundle_id, [0; 32])
            }
            Self::Outcome(AtomicOutcome { executed, .. }) => {
                let rollup_id = *executed.rollup_id.as_bytes();
                let bundle_id = *executed.bundle_id.as_bytes();
                (Tag::AtomicOutcome.byte(), bundle_id, rollup_id)
            }
            Self::Fault(fault) => {
                let rollup_id = *fault.rollup_id().as_bytes();
                let attester = *fault.attester().as_bytes();
                (Tag::AttesterFault.byte(), rollup_id, attester)
            }
        }
    }
}
