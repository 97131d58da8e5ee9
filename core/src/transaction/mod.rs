//! The lower rungs of the ladder of trust: `RawTransaction`, bytes with their hash,
//! `→ UnverifiedTransaction`, which decodes, `→ SignedTransaction`, whose signature is verified,
//! `→ CheckedTx` in the machine. `TransactionHead` is a look at the bytes from below the ladder.

mod body;
mod gossip;
mod head;
mod raw;
mod signed;
mod unverified;

pub use body::{MAX_ACTIONS, MAX_CHAIN_ID_BYTES, SigningAction, SigningBody, TransactionBody};
pub use gossip::{GossipBundle, GossipError, MAX_BUNDLE_BYTES};
pub use head::TransactionHead;
pub use raw::RawTransaction;
pub use signed::{MAX_TX_BYTES, SignedTransaction, TransactionError};
pub use unverified::UnverifiedTransaction;

#[cfg(test)]
mod tests;
