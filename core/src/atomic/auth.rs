use std::fmt;

use alloy_consensus::crypto::secp256k1::recover_signer;
use alloy_primitives::{B256, Signature, U256};
use borsh::{BorshDeserialize, BorshSerialize};

use super::abi;
use crate::primitive::{EvmAddress, Hash};

/// A signature of an EVM account as wallets give it: `r ‖ s ‖ v`, unverified.
#[derive(Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EvmSignature([u8; 65]);

impl EvmSignature {
    /// 65 zero bytes: what stands in the place of a signature where something is hashed without it.
    pub const EMPTY: Self = Self([0; 65]);

    /// Wraps the raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 65]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// Who signed `digest`; nobody unless `s` is low and `v` is 27 or 28.
    #[must_use]
    pub fn recover(&self, digest: &Hash) -> Option<EvmAddress> {
        let (r, rest) = self.0.split_first_chunk::<32>()?;
        let (s, v) = rest.split_first_chunk::<32>()?;
        let odd = match v {
            [27] => false,
            [28] => true,
            _ => return None,
        };
        let signature = Signature::new(U256::from_be_bytes(*r), U256::from_be_bytes(*s), odd);
        let signer = recover_signer(&signature, B256::new(*digest.as_bytes())).ok()?;
        Some(EvmAddress::new(signer.into_array()))
    }
}

impl fmt::Debug for EvmSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What the sender of a leg's transaction signs, by `personal_sign` (ERC-191), for it to be sealed:
/// `"counterpoint/leg/v1" ‖ chain id ‖ bundle id ‖ transaction hash`.
#[must_use]
pub fn auth_digest(chain_id: &str, bundle_id: &Hash, tx_hash: &Hash) -> Hash {
    let message = [
        b"counterpoint/leg/v1",
        chain_id.as_bytes(),
        bundle_id.as_bytes(),
        tx_hash.as_bytes(),
    ]
    .concat();
    let prefix = format!("\x19Ethereum Signed Message:\n{}", message.len());
    abi::keccak([prefix.as_bytes(), &message])
}
