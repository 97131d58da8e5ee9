use borsh::{BorshDeserialize, BorshSerialize};

use super::{
    Key,
    tree::{TreePath, key_hash},
};
use crate::primitive::Hash;

/// Proves what stands under a key of the state, or that nothing does.
#[derive(Debug, BorshSerialize, BorshDeserialize)]
pub struct StateProof {
    value: Option<Vec<u8>>,
    path: TreePath,
}

/// Why a value of the state is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StateProofError {
    /// Longer than any proof is, or not canonical borsh.
    #[error("failed to decode state proof")]
    Decode(#[source] borsh::io::Error),
    /// The path does not lead from the value to the app hash.
    #[error("state proof does not lead to app hash {app_hash}: {reason}")]
    Path {
        /// The root that a verified header carries.
        app_hash: Hash,
        /// Where it goes wrong.
        reason: &'static str,
    },
    /// The value under the key is of another kind than was asked for.
    #[error("failed to decode the proven value")]
    Value(#[source] borsh::io::Error),
}

impl StateProof {
    /// Longest encoding that is looked at, in bytes: 256 siblings and a record.
    pub const MAX_BYTES: usize = 65_536;

    /// Puts a proof together from what the tree gave.
    #[must_use]
    pub fn new(value: Option<Vec<u8>>, path: TreePath) -> Self {
        Self { value, path }
    }

    /// Decodes a proof that somebody sent.
    ///
    /// # Errors
    /// [`StateProofError::Decode`] if it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateProofError> {
        if bytes.len() > Self::MAX_BYTES {
            let what = format!("{} bytes, at most {}", bytes.len(), Self::MAX_BYTES);
            return Err(StateProofError::Decode(borsh::io::Error::other(what)));
        }
        borsh::from_slice(bytes).map_err(StateProofError::Decode)
    }

    /// The value under `key` in the state with the root `app_hash`, or that there is none.
    ///
    /// `app_hash` must come from a verified header; the state is the one that the height before it
    /// left.
    ///
    /// # Errors
    /// [`StateProofError::Path`] if the proof is of another value, key or state.
    pub fn verify(&self, key: &Key<'_>, app_hash: &Hash) -> Result<Option<&[u8]>, StateProofError> {
        let value = self.value.as_deref();
        let verified = self.path.verify(app_hash, &key_hash(&key.encode()), value);
        verified.map_err(|reason| StateProofError::Path {
            app_hash: *app_hash,
            reason,
        })?;
        Ok(value)
    }

    /// The record under `key`, as [`verify`](Self::verify) gives its bytes.
    ///
    /// # Errors
    /// [`StateProofError`] if the proof is wrong or the value is no `T`.
    pub fn verify_record<T: BorshDeserialize>(
        &self,
        key: &Key<'_>,
        app_hash: &Hash,
    ) -> Result<Option<T>, StateProofError> {
        let value = self.verify(key, app_hash)?;
        let record = value.map(borsh::from_slice).transpose();
        record.map_err(StateProofError::Value)
    }
}
