//! The rules that decide which items become transactions of a rollup block.
//!
//! Whatever fails one of them is skipped for ever, by every conductor alike. Clients disagree with
//! one another about invalid transactions; what counts is that all we include is valid on each.
//!
//! # Specification
//! `docs/spec/derivation.md`, section "Transactions".

use alloy_consensus::{
    Transaction, TxEnvelope,
    transaction::{Recovered, SignerRecoverable},
};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256};
use counterpoint_core::{
    action::SubmitData,
    block::{RollupEnv, RollupItem},
    primitive::Height,
    registry::{RollupConfig, RollupStatus},
    slot::{MAX_BACKLOG_SECS, Slot},
};
use revm::context::result::InvalidTransaction;
use serde::Serialize;

use crate::evm::BlockInputs;

/// Most RLP bytes of all transactions of a block: below what clients take in one request.
pub const MAX_BLOCK_TX_BYTES: usize = 7_340_032;

/// What a rollup's owner chose, as far as it decides about transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Most gas that one transaction may ask for.
    pub max_tx_gas: u64,
    /// Least effective tip per gas, in wei.
    pub min_tip_wei: u64,
    /// Whether legacy transactions without a chain id are executed.
    pub allow_unprotected: bool,
}

impl From<&RollupConfig> for Rules {
    fn from(config: &RollupConfig) -> Self {
        Self {
            chain_id: config.evm_chain_id,
            max_tx_gas: config.max_tx_gas,
            min_tip_wei: config.min_tip_wei,
            allow_unprotected: config.allow_unprotected,
        }
    }
}

/// Why an item is skipped. The names are served and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Empty or longer than an item may be.
    Size,
    /// Not a transaction, or bytes left over.
    Decode,
    /// A type that rollups do not take, such as blobs.
    Type,
    /// Another encoding of the same transaction is the canonical one.
    NotCanonical,
    /// No sender can be recovered, or `s` is high.
    Signature,
    /// Signed for another chain.
    ChainId,
    /// Signed for any chain.
    Unprotected,
    /// Asks for more gas than one transaction may.
    GasLimit,
    /// Waited too long for room.
    Stale,
    /// The nonce is not the sender's next.
    Nonce,
    /// The sender cannot pay for it.
    Balance,
    /// The fee cap is below the base fee, or the tip above the fee cap.
    FeeTooLow,
    /// The tip is below the rollup's least.
    TipTooLow,
    /// The gas limit does not even cover what the transaction costs before it runs.
    IntrinsicGas,
    /// Init code is too long.
    InitcodeSize,
    /// The sender is a contract (EIP-3607).
    SenderHasCode,
    /// Its shape breaks another rule of the EVM.
    Invalid,
}

impl SkipReason {
    /// Its name on the wire and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Decode => "decode",
            Self::Type => "type",
            Self::NotCanonical => "not_canonical",
            Self::Signature => "signature",
            Self::ChainId => "chain_id",
            Self::Unprotected => "unprotected",
            Self::GasLimit => "gas_limit",
            Self::Stale => "stale",
            Self::Nonce => "nonce",
            Self::Balance => "balance",
            Self::FeeTooLow => "fee_too_low",
            Self::TipTooLow => "tip_too_low",
            Self::IntrinsicGas => "intrinsic_gas",
            Self::InitcodeSize => "initcode_size",
            Self::SenderHasCode => "sender_has_code",
            Self::Invalid => "invalid",
        }
    }

    /// The reason behind the EVM's verdict.
    #[must_use]
    pub fn of(invalid: &InvalidTransaction) -> Self {
        match invalid {
            InvalidTransaction::NonceTooHigh { .. }
            | InvalidTransaction::NonceTooLow { .. }
            | InvalidTransaction::NonceOverflowInTransaction => Self::Nonce,
            InvalidTransaction::LackOfFundForMaxFee { .. }
            | InvalidTransaction::OverflowPaymentInTransaction => Self::Balance,
            InvalidTransaction::GasPriceLessThanBasefee
            | InvalidTransaction::PriorityFeeGreaterThanMaxFee => Self::FeeTooLow,
            InvalidTransaction::CallGasCostMoreThanGasLimit { .. }
            | InvalidTransaction::GasFloorMoreThanGasLimit { .. } => Self::IntrinsicGas,
            InvalidTransaction::CreateInitCodeSizeLimit => Self::InitcodeSize,
            InvalidTransaction::RejectCallerWithCode => Self::SenderHasCode,
            InvalidTransaction::InvalidChainId | InvalidTransaction::MissingChainId => {
                Self::ChainId
            }
            InvalidTransaction::TxGasLimitGreaterThanCap { .. }
            | InvalidTransaction::CallerGasLimitMoreThanBlock => Self::GasLimit,
            _ => Self::Invalid,
        }
    }
}

/// Applies every rule that does not need the state.
///
/// # Errors
/// The first rule that fails.
pub fn screen(
    raw: &[u8],
    rules: &Rules,
    base_fee: u64,
) -> Result<Recovered<TxEnvelope>, SkipReason> {
    let tx = decode(raw)?;
    match tx.chain_id() {
        Some(id) if id != rules.chain_id => return Err(SkipReason::ChainId),
        None if !rules.allow_unprotected => return Err(SkipReason::Unprotected),
        _ => {}
    }
    if tx.gas_limit() > rules.max_tx_gas {
        return Err(SkipReason::GasLimit);
    }
    let sender = tx.recover_signer().map_err(|_| SkipReason::Signature)?;
    let tip = tx
        .effective_tip_per_gas(base_fee)
        .ok_or(SkipReason::FeeTooLow)?;
    if tip < u128::from(rules.min_tip_wei) {
        return Err(SkipReason::TipTooLow);
    }
    Ok(Recovered::new_unchecked(tx, sender))
}

fn decode(raw: &[u8]) -> Result<TxEnvelope, SkipReason> {
    if raw.is_empty() || raw.len() > SubmitData::MAX_ITEM_BYTES {
        return Err(SkipReason::Size);
    }
    let known = matches!(raw.first(), Some(0x01 | 0x02 | 0x04 | 0xc0..));
    if !known {
        return Err(SkipReason::Type);
    }
    let tx = TxEnvelope::decode_2718_exact(raw).map_err(|_| SkipReason::Decode)?;
    if tx.encoded_2718() != raw {
        return Err(SkipReason::NotCanonical);
    }
    Ok(tx)
}

/// Whether an item of a list in `item_slot` has waited too long for a block in `slot`.
#[must_use]
pub fn is_stale(slot: Slot, item_slot: Slot, slot_secs: u8) -> bool {
    let waited = slot.get().saturating_sub(item_slot.get());
    waited > MAX_BACKLOG_SECS.saturating_add(u64::from(slot_secs))
}

/// Whether the block that closes at `height` is the rollup's last: the next opening is one at which
/// it has left.
#[must_use]
pub fn is_last(config: &RollupConfig, height: Height) -> bool {
    matches!(config.status, RollupStatus::Exiting(from) if from.get() <= height.get().saturating_add(1))
}

/// What the block that opens with this list starts from.
#[must_use]
pub fn inputs(env: &RollupEnv, config: &RollupConfig, items: &[RollupItem]) -> BlockInputs {
    let withdrawal = |item: &RollupItem| match item {
        RollupItem::Deposit {
            index,
            address,
            amount_gwei,
        } => Some(Withdrawal {
            index: *index,
            validator_index: 0,
            address: Address::new(*address.as_bytes()),
            amount: *amount_gwei,
        }),
        _ => None,
    };
    BlockInputs {
        number: env.number,
        timestamp: env.slot.get(),
        prev_randao: B256::new(env.prev_randao),
        beacon_root: B256::new(env.beacon_root),
        fee_recipient: Address::new(*config.fee_recipient.as_bytes()),
        gas_limit: config.gas_limit,
        withdrawals: items.iter().filter_map(withdrawal).collect(),
    }
}

#[cfg(test)]
mod edges;
#[cfg(test)]
mod tests;
