use bytes::Bytes;

use super::{SignedTransaction, TransactionError, signed::Parts};
use crate::{
    key::{PublicKey, Signature, verify_batch},
    primitive::Hash,
};

/// A transaction that decodes; nobody knows yet whether its signer wants it.
#[derive(Clone, Debug)]
pub struct UnverifiedTransaction(Parts);

impl UnverifiedTransaction {
    /// How many to verify together. Few enough that a forged one among them, which has all of them
    /// verified again one by one, costs little; more would hardly be faster.
    pub const BATCH: usize = 64;

    /// Does the work of [`RawTransaction::decode`](super::RawTransaction::decode).
    pub(super) fn from_raw(bytes: Bytes, hash: Hash) -> Result<Self, TransactionError> {
        Parts::decode(bytes, hash).map(Self)
    }

    /// Verifies the signature.
    ///
    /// # Errors
    /// [`TransactionError::Signature`] if it is not the signer's.
    pub fn verify(self) -> Result<SignedTransaction, TransactionError> {
        let message = self.0.body.signing_hash();
        self.verify_over(&message)
    }

    fn verify_over(self, message: &Hash) -> Result<SignedTransaction, TransactionError> {
        let (signer, signature) = (self.0.body.signer, self.0.signature);
        signer.verify(message.as_bytes(), &signature)?;
        Ok(SignedTransaction::from_verified(self.0))
    }

    /// Verifies the signatures of many at once: the same verdicts as one by one, in their order.
    ///
    /// If one is forged, all are verified again one by one, so that it is named and the others live.
    pub fn verify_batch(batch: Vec<Self>) -> Vec<Result<SignedTransaction, TransactionError>> {
        let claim = |tx: &Self| (tx.0.body.signer, tx.0.body.signing_hash(), tx.0.signature);
        let claims: Vec<(PublicKey, Hash, Signature)> = batch.iter().map(claim).collect();
        if verify_batch(&claims).is_ok() {
            let verified = batch
                .into_iter()
                .map(|tx| SignedTransaction::from_verified(tx.0));
            return verified.map(Ok).collect();
        }
        let claimed = batch.into_iter().zip(claims);
        claimed
            .map(|(tx, (_, message, _))| tx.verify_over(&message))
            .collect()
    }
}
