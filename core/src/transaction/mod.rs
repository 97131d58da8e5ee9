//! The lower rungs of the ladder of trust: `RawTransaction`, bytes with their hash,
//! `→ SignedTransaction`, whose signature is verified, `→ CheckedTx` in the machine.

mod body;
mod gossip;
mod raw;
mod signed;

pub use body::{MAX_ACTIONS, MAX_CHAIN_ID_BYTES, SigningAction, SigningBody, TransactionBody};
pub use gossip::{GossipBundle, GossipError, MAX_BUNDLE_BYTES};
pub use raw::RawTransaction;
pub use signed::{MAX_TX_BYTES, SignedTransaction, TransactionError};

#[cfg(test)]
mod tests;
