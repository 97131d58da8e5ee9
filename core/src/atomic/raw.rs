use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};

use super::abi;
use crate::{
    action::SubmitData,
    primitive::{EvmAddress, Hash},
};

/// Keccak-256, which names a raw transaction.
#[must_use]
pub fn keccak(bytes: &[u8]) -> Hash {
    abi::keccak([bytes])
}

/// Who sent a raw transaction, of whatever type; nobody if no rollup could execute it.
#[must_use]
pub fn sender(raw: &[u8]) -> Option<EvmAddress> {
    recover(&TxEnvelope::decode_2718_exact(raw).ok()?)
}

fn recover(tx: &TxEnvelope) -> Option<EvmAddress> {
    let sender = tx.recover_signer().ok()?;
    Some(EvmAddress::new(sender.into_array()))
}

/// What the chain must know of a leg's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegTransaction {
    /// Who sent it.
    pub sender: EvmAddress,
    /// The EIP-155 chain id that it was signed for.
    pub chain_id: u64,
    /// The gas that it may use.
    pub gas_limit: u64,
}

/// Why a raw transaction can be no part of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegTransactionError {
    /// Empty, or longer than any item of a list.
    #[error("it must have 1..={max} bytes", max = SubmitData::MAX_ITEM_BYTES)]
    Length,
    /// An authorization of type 4 could be lifted out of its leg, and a blob has no place.
    #[error("it must be of type 0 with a chain id, 1 or 2")]
    Type,
    /// Not the canonical encoding of a transaction.
    #[error("it is not a canonical transaction")]
    Decode,
    /// Nobody's signature, or one with a high `s`.
    #[error("its signature does not verify")]
    Signature,
}

impl LegTransaction {
    /// Reads a raw transaction.
    ///
    /// # Errors
    /// [`LegTransactionError`] says what keeps it out of every leg.
    pub fn read(raw: &[u8]) -> Result<Self, LegTransactionError> {
        let (tx, chain_id) = Self::decode(raw)?;
        Ok(Self {
            sender: recover(&tx).ok_or(LegTransactionError::Signature)?,
            chain_id,
            gas_limit: tx.gas_limit(),
        })
    }

    /// Whether a raw transaction may be part of a leg if its signature is sound, which is not looked at.
    ///
    /// # Errors
    /// [`LegTransactionError`] says what keeps it out of every leg.
    pub fn check_form(raw: &[u8]) -> Result<(), LegTransactionError> {
        Self::decode(raw).map(|_| ())
    }

    /// A transaction, and the chain id that it was signed for.
    fn decode(raw: &[u8]) -> Result<(TxEnvelope, u64), LegTransactionError> {
        if !(1..=SubmitData::MAX_ITEM_BYTES).contains(&raw.len()) {
            return Err(LegTransactionError::Length);
        }
        if !matches!(raw.first(), Some(0x01 | 0x02 | 0xc0..)) {
            return Err(LegTransactionError::Type);
        }
        let tx = TxEnvelope::decode_2718_exact(raw).map_err(|_| LegTransactionError::Decode)?;
        if tx.encoded_2718() != raw {
            return Err(LegTransactionError::Decode);
        }
        let chain_id = tx.chain_id().ok_or(LegTransactionError::Type)?;
        Ok((tx, chain_id))
    }
}
