use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use crate::primitive::Hash;

/// What an attester says of a leg: what it was executed on, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Statement {
    /// Hash of the rollup block that the leg's block builds on.
    pub parent_hash: Hash,
    /// Digest of the [environment](super::LegEnv).
    pub env_hash: Hash,
    /// Base fee of the leg's block.
    pub base_fee: u64,
    /// What came of it.
    pub outcome: LegOutcome,
}

/// What comes of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum LegOutcome {
    /// Every transaction succeeds.
    Commit {
        /// [`inbox_hash`](super::inbox_hash) of the messages that were received.
        in_hash: Hash,
        /// [`outbox_hash`](super::outbox_hash) of the messages that were sent.
        out_hash: Hash,
        /// [`receipts_hash`] of the leg.
        receipts_hash: Hash,
    } = 0,
    /// One does not, and nothing of the bundle may run.
    Abort {
        /// Why not.
        failure: Failure,
        /// The place in the leg of the first that fails.
        tx: u8,
    } = 1,
}

/// Why a leg's transaction cannot run, as attesters tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Failure {
    /// It breaks a rule of the rollup that no other failure names.
    InvalidTx = 0,
    /// Its execution reverts.
    Revert = 1,
    /// Its execution runs out of gas.
    OutOfGas = 2,
    /// Its nonce is not the sender's next.
    Nonce = 3,
    /// The sender cannot pay for it.
    Balance = 4,
    /// It offers less than base fee and tip ask for.
    FeeTooLow = 5,
    /// The leg sends or receives something else than the bundle says.
    MessageMismatch = 6,
    /// The attester does not sign for it by a rule of its own.
    Policy = 7,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidTx => "invalid transaction",
            Self::Revert => "revert",
            Self::OutOfGas => "out of gas",
            Self::Nonce => "nonce",
            Self::Balance => "balance",
            Self::FeeTooLow => "fee too low",
            Self::MessageMismatch => "messages",
            Self::Policy => "policy",
        })
    }
}

/// `sha256("counterpoint/leg-receipts/v1" ‖ borsh(Vec<Vec<u8>>))` over the EIP-2718 encodings of a
/// leg's receipts. Legs run first, so that even cumulative gas is known.
#[must_use]
pub fn receipts_hash(receipts: &[Bytes]) -> Hash {
    Hash::tagged("counterpoint/leg-receipts/v1", &receipts)
}
