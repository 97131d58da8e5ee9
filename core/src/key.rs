//! Account keys: ed25519 under the ZIP-215 rules, the same for one signature and for a batch.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::{Address, Hash};

/// The public half of an account key. That it is a valid curve point is known only once a
/// signature has been verified under it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct PublicKey([u8; 32]);

/// An ed25519 signature, unverified.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signature([u8; 64]);

/// The secret half of an account key; it is wiped from memory when dropped and never shown.
pub struct SecretKey(ed25519_consensus::SigningKey);

/// A signature does not belong to the key and the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify under the signer's key")]
pub struct SignatureError;

impl PublicKey {
    /// Wraps the raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The account that this key controls.
    #[must_use]
    pub fn address(&self) -> Address {
        let digest = Hash::digest(&[&self.0]);
        let mut bytes = [0; 20];
        for (byte, digit) in bytes.iter_mut().zip(digest.as_bytes()) {
            *byte = *digit;
        }
        Address::new(bytes)
    }

    /// Whether this is a point on the curve at all.
    #[must_use]
    pub fn is_point(&self) -> bool {
        ed25519_consensus::VerificationKey::try_from(self.0).is_ok()
    }

    /// Verifies `signature` over `message` under the ZIP-215 rules.
    ///
    /// # Errors
    /// [`SignatureError`] if the key is no curve point or the signature does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let key =
            ed25519_consensus::VerificationKey::try_from(self.0).map_err(|_| SignatureError)?;
        let signature = ed25519_consensus::Signature::from(signature.0);
        key.verify(&signature, message).map_err(|_| SignatureError)
    }
}

impl Signature {
    /// Wraps the raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl SecretKey {
    /// The key that belongs to a 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_consensus::SigningKey::from(seed))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verification_key().to_bytes())
    }

    /// Signs `message`; the same message always gets the same signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public_key().address())
    }
}
