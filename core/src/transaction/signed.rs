use borsh::{BorshDeserialize, BorshSerialize};
use bytes::{BufMut, Bytes, BytesMut};

use super::{MAX_ACTIONS, MAX_CHAIN_ID_BYTES, RawTransaction, TransactionBody};
use crate::{
    block::Tag,
    key::{SecretKey, Signature, SignatureError},
    primitive::{Address, Hash},
};

/// Longest transaction as a block item, tag included, in bytes: 1 MiB less room for its envelope
/// in a gossip bundle.
pub const MAX_TX_BYTES: usize = 1_048_576 - 1_024;

/// A transaction whose signature was verified, with the bytes it came in.
///
/// It is made only by [`UnverifiedTransaction`](super::UnverifiedTransaction), alone or in a batch, and
/// by [`sign`](Self::sign).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction(Parts);

/// A transaction in all its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) body: TransactionBody,
    pub(super) signature: Signature,
    bytes: Bytes, // Invariant: 0x10 ‖ borsh { body, signature }.
    pub(super) hash: Hash,
    signer: Address,
}

/// Why bytes are not a transaction.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// Longer than any block item may be, or empty.
    #[error("transaction has {length} bytes, must have 1..={MAX_TX_BYTES}")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// The first byte says that this is something else.
    #[error("expected tag 0x10, found {tag:#04x}")]
    Tag {
        /// The first byte.
        tag: u8,
    },
    /// Not canonical borsh, or a value outside its bounds.
    #[error("failed to decode transaction")]
    Decode(#[from] borsh::io::Error),
    /// No action, or too many.
    #[error("{count} actions must be 1..={MAX_ACTIONS}")]
    ActionCount {
        /// How many there are.
        count: usize,
    },
    /// The chain id is longer than CometBFT allows.
    #[error("chain id has {length} bytes, must have 1..={MAX_CHAIN_ID_BYTES}")]
    ChainId {
        /// Its length in bytes.
        length: usize,
    },
    /// Not signed by the key it names.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Parts {
    /// Decodes a block item strictly.
    pub(super) fn decode(bytes: Bytes, hash: Hash) -> Result<Self, TransactionError> {
        let length = bytes.len();
        let (tag, encoded) = match bytes.split_first() {
            Some(parts) if length <= MAX_TX_BYTES => parts,
            _ => return Err(TransactionError::Length { length }),
        };
        if *tag != Tag::Transaction.byte() {
            return Err(TransactionError::Tag { tag: *tag });
        }
        let envelope = borsh::from_slice(encoded)?;
        Self::assemble(envelope, bytes, hash)
    }

    fn assemble(envelope: Envelope, bytes: Bytes, hash: Hash) -> Result<Self, TransactionError> {
        let Envelope { body, signature } = envelope;
        let (length, count) = (bytes.len(), body.actions.len());
        if length > MAX_TX_BYTES {
            return Err(TransactionError::Length { length });
        }
        if !(1..=MAX_ACTIONS).contains(&count) {
            return Err(TransactionError::ActionCount { count });
        }
        let length = body.chain_id.len();
        if !(1..=MAX_CHAIN_ID_BYTES).contains(&length) {
            return Err(TransactionError::ChainId { length });
        }
        let signer = body.signer.address();
        Ok(Self {
            body,
            signature,
            bytes,
            hash,
            signer,
        })
    }
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Envelope {
    body: TransactionBody,
    signature: Signature,
}

impl SignedTransaction {
    /// Signs `body` with `key`, which must belong to `body.signer`.
    ///
    /// # Errors
    /// [`TransactionError`] if the body breaks a bound or names another signer.
    pub fn sign(body: TransactionBody, key: &SecretKey) -> Result<Self, TransactionError> {
        if key.public_key() != body.signer {
            return Err(SignatureError.into());
        }
        let signature = key.sign(body.signing_hash().as_bytes());
        let mut bytes = BytesMut::new().writer();
        bytes.get_mut().put_u8(Tag::Transaction.byte());
        let envelope = Envelope { body, signature };
        envelope.serialize(&mut bytes)?;
        let bytes = bytes.into_inner().freeze();
        let hash = Hash::digest(&[&bytes]);
        Parts::assemble(envelope, bytes, hash).map(Self)
    }

    /// Decodes a block item strictly and verifies its signature.
    ///
    /// # Errors
    /// [`TransactionError`] says which bound, encoding or signature is broken.
    pub fn decode(bytes: &Bytes) -> Result<Self, TransactionError> {
        RawTransaction::new(bytes.clone()).verify()
    }

    /// Takes what [`UnverifiedTransaction`] has verified.
    pub(super) fn from_verified(parts: Parts) -> Self {
        Self(parts)
    }

    /// What was signed.
    #[must_use]
    pub fn body(&self) -> &TransactionBody {
        &self.0.body
    }

    /// The signature, which has been verified.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.0.signature
    }

    /// The block item, tag included.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// `sha256` of the block item, which is CometBFT's hash of it too.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// The account that signs and pays.
    #[must_use]
    pub fn signer(&self) -> Address {
        self.0.signer
    }
}
