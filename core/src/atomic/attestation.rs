use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::{LegOutcome, OutcomeVote, Statement};
use crate::{
    block::Tag,
    key::{PublicKey, SecretKey, Signature, SignatureError},
    primitive::{Hash, Height, RollupId},
};

/// The sequencer block that closes the slot before a leg's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Pin {
    /// Its height, P; the leg's slot opens at P + 1.
    pub height: Height,
    /// Its header hash.
    pub hash: Hash,
}

/// What a statement is about: one leg of one bundle in one slot, before one set of attesters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ballot {
    /// The bundle.
    pub bundle_id: Hash,
    /// Whose leg.
    pub rollup_id: RollupId,
    /// The set of attesters in force in the leg's slot.
    pub epoch: u64,
    /// The slot.
    pub pin: Pin,
}

impl Ballot {
    /// The 32 bytes that an attester signs: `sha256("counterpoint/attestation/v1" ‖ borsh(chain id,
    /// ballot, statement))`.
    #[must_use]
    pub fn digest(&self, chain_id: &str, statement: &Statement) -> Hash {
        Hash::tagged("counterpoint/attestation/v1", &(chain_id, self, statement))
    }
}

/// An attester's signed statement.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attestation {
    /// What it is about.
    pub ballot: Ballot,
    /// What it says.
    pub statement: Statement,
    /// Who says so.
    pub attester: PublicKey,
    /// Over the ballot's [digest](Ballot::digest); unverified.
    pub signature: Signature,
}

impl Attestation {
    /// Signs `statement`. An attester that signs two for one leg and pin is caught by them.
    #[must_use]
    pub fn sign(chain_id: &str, ballot: Ballot, statement: Statement, key: &SecretKey) -> Self {
        let signature = key.sign(ballot.digest(chain_id, &statement).as_bytes());
        Self {
            ballot,
            statement,
            attester: key.public_key(),
            signature,
        }
    }

    /// Who signed what, to be verified, alone or in a batch.
    #[must_use]
    pub fn signed(&self, chain_id: &str) -> (PublicKey, Hash, Signature) {
        let digest = self.ballot.digest(chain_id, &self.statement);
        (self.attester, digest, self.signature)
    }

    /// Whether the leg would commit.
    #[must_use]
    pub fn commits(&self) -> bool {
        matches!(self.statement.outcome, LegOutcome::Commit { .. })
    }
}

/// What attesters send to the validators' mempools: tag `0x21` and borsh; never a block item.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum AttesterMessage {
    /// Before a leg may run.
    Attestation(Attestation) = 0,
    /// After it has.
    Outcome(OutcomeVote) = 1,
}

/// A message whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedMessage(AttesterMessage);

impl VerifiedMessage {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &AttesterMessage {
        &self.0
    }
}

/// Why bytes are not an attester's message.
#[derive(Debug, thiserror::Error)]
pub enum AttesterMessageError {
    /// The first byte says that this is something else.
    #[error("expected tag 0x21")]
    Tag,
    /// Not canonical borsh.
    #[error("failed to decode an attester's message")]
    Decode(#[from] borsh::io::Error),
}

impl AttesterMessage {
    /// `0x21 ‖ borsh`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![Tag::Attestation.byte()];
        bytes.extend(borsh::to_vec(self).unwrap_or_default());
        bytes.into()
    }

    /// Reads a message strictly; its signature is not verified.
    ///
    /// # Errors
    /// [`AttesterMessageError`] if the tag is another or the rest is not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, AttesterMessageError> {
        match bytes.split_first() {
            Some((tag, rest)) if *tag == Tag::Attestation.byte() => Ok(borsh::from_slice(rest)?),
            _ => Err(AttesterMessageError::Tag),
        }
    }

    /// Which leg of which bundle it is about.
    #[must_use]
    pub fn leg(&self) -> (Hash, RollupId) {
        match self {
            Self::Attestation(Attestation { ballot, .. }) => (ballot.bundle_id, ballot.rollup_id),
            Self::Outcome(OutcomeVote { executed, .. }) => (executed.bundle_id, executed.rollup_id),
        }
    }

    /// Who claims to have signed it.
    #[must_use]
    pub fn attester(&self) -> PublicKey {
        match self {
            Self::Attestation(attestation) => attestation.attester,
            Self::Outcome(vote) => vote.attester,
        }
    }

    /// Verifies the signature, for the chain with this identifier.
    ///
    /// # Errors
    /// [`SignatureError`] if it is forged.
    pub fn verify(self, chain_id: &str) -> Result<VerifiedMessage, SignatureError> {
        let (attester, digest, signature) = self.signed(chain_id);
        attester.verify(digest.as_bytes(), &signature)?;
        Ok(VerifiedMessage(self))
    }

    /// Who signed what, to be verified, alone or in a batch.
    #[must_use]
    pub fn signed(&self, chain_id: &str) -> (PublicKey, Hash, Signature) {
        match self {
            Self::Attestation(attestation) => attestation.signed(chain_id),
            Self::Outcome(vote) => vote.signed(chain_id),
        }
    }
}
