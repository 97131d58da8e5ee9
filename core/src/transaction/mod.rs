//! The lower rungs of the ladder of trust: `bytes → SignedTransaction`, whose signature is
//! verified, `→ CheckedTx` in the machine.

mod body;
mod gossip;
mod signed;

pub use body::{MAX_ACTIONS, MAX_CHAIN_ID_BYTES, SigningAction, SigningBody, TransactionBody};
pub use gossip::{GossipBundle, GossipError, MAX_BUNDLE_BYTES};
pub use signed::{MAX_TX_BYTES, SignedTransaction, TransactionError};

#[cfg(test)]
mod tests;
