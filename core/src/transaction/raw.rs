use bytes::Bytes;

use super::{SignedTransaction, TransactionError, UnverifiedTransaction};
use crate::primitive::Hash;

/// Bytes that may be a transaction: the lowest rung of the ladder of trust.
///
/// Its hash tells whether the transaction is known, before anything is decoded or verified.
#[derive(Clone, Debug)]
pub struct RawTransaction {
    bytes: Bytes,
    hash: Hash, // Invariant: sha256(bytes).
}

impl RawTransaction {
    /// Hashes the bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let hash = Hash::digest(&[&bytes]);
        Self { bytes, hash }
    }

    /// `sha256` of the bytes, which is CometBFT's hash of them too.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Decodes strictly.
    ///
    /// # Errors
    /// [`TransactionError`] says which bound or encoding is broken.
    pub fn decode(self) -> Result<UnverifiedTransaction, TransactionError> {
        UnverifiedTransaction::from_raw(self.bytes, self.hash)
    }

    /// Decodes strictly and verifies the signature.
    ///
    /// # Errors
    /// [`TransactionError`] says which bound, encoding or signature is broken.
    pub fn verify(self) -> Result<SignedTransaction, TransactionError> {
        self.decode()?.verify()
    }
}
