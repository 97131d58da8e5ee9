//! Reading the sequencer through nodes that nobody has to trust.
//!
//! ```text
//! TrustRoot ─▶ TrustedState        Client ── asks the best of several nodes (endpoints)
//!                   │                │
//!                   ▼                ▼
//!               Verifier ◀─ Reader (one block after another, from node to node) ─▶ Follower (ahead)
//!                   │
//!                   ▼ what does not hold
//!               Evidence
//! ```
//! [`Client`] asks several nodes and remembers how they serve. [`Follower`] yields one rollup's part
//! of every block, each with a Merkle path to a header that the validators signed, and the end if
//! the rollup has left. [`verify_inclusion`] does the same for one transaction. A node can delay a
//! reader, never mislead it.

mod client;
mod endpoints;
mod evidence;
mod follower;
mod metric;
mod reader;
mod root;
mod verify;

pub use client::{Client, ClientError, Fork, NodeId};
pub use evidence::{Evidence, Record, Wrong};
pub use follower::Follower;
pub use metric::METRICS;
pub use reader::{FollowError, ProvenRecord, proven_record, registration, verified_block};
pub use root::TrustRoot;
pub use verify::{
    Inclusion, VerifiedBlock, Verifier, VerifyError, verify_inclusion, verify_list, verify_record,
};

#[cfg(feature = "test-utils")]
pub mod testing;
#[cfg(test)]
mod tests;
