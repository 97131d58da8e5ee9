//! Atomic bundles: legs for several rollups that execute in one slot, all of them, or never.
//!
//! ```text
//! AtomicBundle ─ SubmitBundle ─▶ sealed ─ RevealLegs ─▶ queued ─▶ scheduled for P + 1
//!   attesters execute each leg on the state after P: Statement ─▶ Attestation ─▶ Quorum
//!     commits of all rollups ─▶ AtomicRelease          aborts of one ─▶ AtomicAbort
//!   after execution: OutcomeVote ─▶ AtomicOutcome      one that lied ─▶ AttesterFault
//! ```
//! Here are the types, their digests and what can be checked without the chain's state. Contracts
//! compute the Keccak digests too, so those are over ABI encodings.
//!
//! # Specification
//! `docs/spec/atomic.md`; vectors in `docs/spec/vectors/atomic.json`.

mod abi;
mod attestation;
mod attesters;
mod auth;
mod bundle;
mod caller;
mod document;
mod env;
mod fault;
mod item;
mod message;
mod opening;
mod outcome;
mod quorum;
mod raw;
mod seal;
mod statement;

pub use attestation::{
    Attestation, AttesterMessage, AttesterMessageError, Ballot, Pin, VerifiedMessage,
};
pub use attesters::{AttesterKeys, AttesterKeysError, AttesterSet, Attesters};
pub use auth::{EvmSignature, auth_digest};
pub use bundle::{AtomicBundle, BundleError, BundleTerms, MAX_SPAN_SECS, OnAbort};
pub use caller::{Caller, session_id, ticket};
pub use document::{
    BundleDocument, CallerDocument, DocumentError, LegDocument, MessageDocument, OnAbortDocument,
    SealedDocument, rollup_id,
};
pub use env::{LegEnv, deposits_hash};
pub use fault::{AttesterFault, FaultProof};
pub use item::{AtomicAbort, AtomicOutcome, AtomicRelease, SystemItem};
pub use message::{Message, inbox_hash, outbox_hash};
pub use opening::next_opening;
pub use outcome::{Executed, OutcomeVote};
pub use quorum::{Quorum, QuorumError, Vote, Votes};
pub use raw::{LegTransaction, LegTransactionError, keccak, sender};
pub use seal::{LegSeal, SealedTx};
pub use statement::{Failure, LegOutcome, Statement, receipts_hash};

#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
