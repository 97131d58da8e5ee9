use borsh::{BorshDeserialize, BorshSerialize};

use super::{Attestation, LegOutcome, OutcomeVote};
use crate::{
    key::{PublicKey, SignatureError, verify_batch},
    primitive::RollupId,
};

/// Proof that an attester said two things of which one is a lie; it loses its vote.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AttesterFault {
    /// Both statements, signed.
    pub proof: FaultProof,
}

/// The two statements.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum FaultProof {
    /// Two attestations of one leg in one slot.
    TwoStatements(Attestation, Attestation) = 0,
    /// It said that the leg would commit, and then that it came out otherwise.
    Contradiction(Attestation, OutcomeVote) = 1,
}

impl AttesterFault {
    /// Whose rollup's legs it is about.
    #[must_use]
    pub fn rollup_id(&self) -> RollupId {
        self.attestation().ballot.rollup_id
    }

    /// Who said both.
    #[must_use]
    pub fn attester(&self) -> PublicKey {
        self.attestation().attester
    }

    /// The first of the two statements.
    #[must_use]
    pub fn attestation(&self) -> &Attestation {
        match &self.proof {
            FaultProof::TwoStatements(first, _) | FaultProof::Contradiction(first, _) => first,
        }
    }

    /// Whether the two cannot both be honest. For [`FaultProof::Contradiction`] that also takes a
    /// release in the slot of the attestation, which only the chain knows of.
    #[must_use]
    pub fn contradicts_itself(&self) -> bool {
        match &self.proof {
            FaultProof::TwoStatements(first, second) => {
                let (a, b) = (&first.ballot, &second.ballot);
                let same = (a.bundle_id, a.rollup_id, a.pin) == (b.bundle_id, b.rollup_id, b.pin);
                same && first.attester == second.attester && first.statement != second.statement
            }
            FaultProof::Contradiction(first, vote) => {
                let (ballot, executed) = (&first.ballot, &vote.executed);
                let same = (ballot.bundle_id, ballot.rollup_id)
                    == (executed.bundle_id, executed.rollup_id);
                let kept = match first.statement.outcome {
                    LegOutcome::Commit { receipts_hash, .. } => {
                        receipts_hash == executed.receipts_hash
                    }
                    // It never said that the leg would run, and is no liar if it ran all the same.
                    LegOutcome::Abort { .. } => true,
                };
                same && first.attester == vote.attester && !kept
            }
        }
    }

    /// Verifies both signatures.
    ///
    /// # Errors
    /// [`SignatureError`] if one is forged.
    pub fn verify(&self, chain_id: &str) -> Result<(), SignatureError> {
        let first = self.attestation().signed(chain_id);
        let second = match &self.proof {
            FaultProof::TwoStatements(_, second) => second.signed(chain_id),
            FaultProof::Contradiction(_, vote) => vote.signed(chain_id),
        };
        verify_batch(&[first, second])
    }
}
