use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    key::{PublicKey, SecretKey, Signature},
    primitive::{Hash, RollupId},
};

/// What became of a released leg, as those see it who executed its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Executed {
    /// The bundle.
    pub bundle_id: Hash,
    /// Whose leg.
    pub rollup_id: RollupId,
    /// Number of the rollup block.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: Hash,
    /// [`receipts_hash`](super::receipts_hash) of the leg.
    pub receipts_hash: Hash,
}

impl Executed {
    /// The 32 bytes that an attester signs: `sha256("counterpoint/outcome/v1" ‖ borsh(chain id,
    /// executed))`.
    #[must_use]
    pub fn digest(&self, chain_id: &str) -> Hash {
        Hash::tagged("counterpoint/outcome/v1", &(chain_id, self))
    }
}

/// An attester's signed word on what became of a leg.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutcomeVote {
    /// What it says.
    pub executed: Executed,
    /// Who says so.
    pub attester: PublicKey,
    /// Over the [digest](Executed::digest); unverified.
    pub signature: Signature,
}

impl OutcomeVote {
    /// Signs `executed`.
    #[must_use]
    pub fn sign(chain_id: &str, executed: Executed, key: &SecretKey) -> Self {
        let signature = key.sign(executed.digest(chain_id).as_bytes());
        Self {
            executed,
            attester: key.public_key(),
            signature,
        }
    }

    /// Who signed what, to be verified, alone or in a batch.
    #[must_use]
    pub fn signed(&self, chain_id: &str) -> (PublicKey, Hash, Signature) {
        (
            self.attester,
            self.executed.digest(chain_id),
            self.signature,
        )
    }
}
