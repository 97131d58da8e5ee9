//! Reading the sequencer through nodes that nobody has to trust.
//!
//! [`Client`] asks several nodes in turn. [`Follower`] yields one rollup's part of every block,
//! each with a Merkle path to a header that the validators signed. [`verify_inclusion`] does the
//! same for one transaction. A node can delay a reader, never mislead it.

mod client;
mod follower;

pub use client::{Client, ClientError};
pub use follower::{
    FollowError, Follower, Inclusion, VerifiedBlock, VerifyError, verify_inclusion, verify_record,
};
