//! Account keys: ed25519 under the ZIP-215 rules, the same for one signature and for a batch.

use std::{fmt, str::FromStr};

use borsh::{BorshDeserialize, BorshSerialize};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest, Sha256};

use crate::primitive::{Address, Hash, HexError, parse_hex, serde_by_string};

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
        #[cfg(any(test, feature = "test-utils"))]
        count::add(1);
        let key =
            ed25519_consensus::VerificationKey::try_from(self.0).map_err(|_| SignatureError)?;
        let signature = ed25519_consensus::Signature::from(signature.0);
        key.verify(&signature, message).map_err(|_| SignatureError)
    }
}

/// Verifies many signatures at once, in about half the time that they take one by one.
///
/// The batch equation is weighted by random numbers, which must not be known before the signatures
/// are. They are drawn from a digest of the whole batch, so that no source of randomness is needed.
///
/// # Errors
/// [`SignatureError`] if at least one does not verify; it does not say which.
pub fn verify_batch(batch: &[(PublicKey, Hash, Signature)]) -> Result<(), SignatureError> {
    #[cfg(any(test, feature = "test-utils"))]
    count::add(batch.len());
    let mut verifier = ed25519_consensus::batch::Verifier::new();
    let mut digest = Sha256::new_with_prefix("counterpoint/batch/v1");
    for (key, message, signature) in batch {
        digest.update(key.0);
        digest.update(message.as_bytes());
        digest.update(signature.0);
        let signature = ed25519_consensus::Signature::from(signature.0);
        verifier.queue((key.0.into(), signature, message.as_bytes()));
    }
    let weights = Weights {
        seed: digest.finalize().into(),
        drawn: 0,
    };
    verifier.verify(weights).map_err(|_| SignatureError)
}

/// The digests of a seed and a counter, one after another.
struct Weights {
    seed: [u8; 32],
    drawn: u64,
}

impl RngCore for Weights {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let digest = Hash::digest(&[&self.seed, &self.drawn.to_le_bytes()]);
            self.drawn = self.drawn.wrapping_add(1);
            for (byte, digit) in chunk.iter_mut().zip(digest.as_bytes()) {
                *byte = *digit;
            }
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Weights {}

/// How many signatures this thread has verified, so that tests can tell that none is verified twice.
#[cfg(any(test, feature = "test-utils"))]
pub mod count {
    use std::cell::Cell;

    thread_local! {
        static VERIFIED: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(signatures: usize) {
        VERIFIED.set(VERIFIED.get().saturating_add(signatures));
    }

    /// Signatures verified by this thread since it started.
    #[must_use]
    pub fn verified() -> usize {
        VERIFIED.get()
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

impl FromStr for PublicKey {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text).map(Self)
    }
}

serde_by_string!(PublicKey);

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A point of order 8: where verifiers that are not cofactored disagree with each other.
    const TORSION: &str = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";

    #[test]
    fn a_batch_accepts_what_each_one_alone_is_accepted_for() {
        let torsion: [u8; 32] = hex::decode(TORSION).unwrap().try_into().unwrap();
        let key = SecretKey::from_seed([1; 32]);
        let mut odd = [0; 64];
        odd[..32].copy_from_slice(&torsion);
        let message = |fill| Hash::new([fill; 32]);
        let sign = |fill| {
            (
                key.public_key(),
                message(fill),
                key.sign(message(fill).as_bytes()),
            )
        };
        let odd = (PublicKey::new(torsion), message(3), Signature::new(odd));
        assert_eq!(odd.0.verify(odd.1.as_bytes(), &odd.2), Ok(()));
        assert_eq!(verify_batch(&[sign(1), odd, sign(2)]), Ok(()));
        let forged = (
            key.public_key(),
            message(2),
            key.sign(message(1).as_bytes()),
        );
        assert_eq!(verify_batch(&[sign(1), odd, forged]), Err(SignatureError));
        assert_eq!(verify_batch(&[]), Ok(()));
    }
}
