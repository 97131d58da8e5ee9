//! What a transaction must be before it is acknowledged: the conductor's rules, in geth's words.

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, U256};
use counterpoint_core::{action::SubmitData, registry::RollupConfig};

use super::error::RpcError;
use crate::upstream::Account;

/// Longest init code (EIP-3860).
const MAX_INITCODE_BYTES: usize = 49_152;

/// Decodes a transaction and applies every rule that does not need the state.
pub(crate) fn decode(raw: &[u8], config: &RollupConfig) -> Result<(TxEnvelope, Address), RpcError> {
    let refuse = |reason: String| Err(RpcError::transaction(reason));
    let share = usize::try_from(config.max_bytes_per_block).unwrap_or(usize::MAX);
    let (limit, size) = (SubmitData::MAX_ITEM_BYTES.min(share), raw.len());
    if size > limit {
        return refuse(format!(
            "oversized data: transaction size {size}, limit {limit}"
        ));
    }
    match raw.first() {
        None => return refuse("typed transaction too short".into()),
        Some(0x01 | 0x02 | 0x04 | 0xc0..) => {}
        Some(_) => return refuse("transaction type not supported".into()),
    }
    let tx = TxEnvelope::decode_2718_exact(raw)
        .map_err(|error| RpcError::transaction(format!("rlp: {error}")))?;
    if tx.encoded_2718() != raw {
        return refuse("rlp: non-canonical encoding".into());
    }
    let sender = tx
        .recover_signer()
        .map_err(|_| RpcError::transaction("invalid sender"))?;
    match tx.chain_id() {
        Some(id) if id != config.evm_chain_id => {
            let want = config.evm_chain_id;
            return refuse(format!(
                "invalid chain id for signer: have {id} want {want}"
            ));
        }
        None if !config.allow_unprotected => {
            let reason = "only replay-protected (EIP-155) transactions allowed over RPC";
            return refuse(reason.into());
        }
        _ => {}
    }
    check_gas_and_fees(&tx, config)?;
    Ok((tx, sender))
}

fn check_gas_and_fees(tx: &TxEnvelope, config: &RollupConfig) -> Result<(), RpcError> {
    let refuse = |reason: String| Err(RpcError::transaction(reason));
    if tx.gas_limit() > config.max_tx_gas {
        let (cap, limit) = (config.max_tx_gas, tx.gas_limit());
        return refuse(format!(
            "transaction gas limit too high (cap: {cap}, tx: {limit})"
        ));
    }
    let (tip, cap) = (tx.max_priority_fee_per_gas(), tx.max_fee_per_gas());
    if tip.is_some_and(|tip| tip > cap) {
        let tip = tip.unwrap_or_default();
        return refuse(format!(
            "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, \
             maxFeePerGas: {cap}"
        ));
    }
    if tip.unwrap_or(cap) < u128::from(config.min_tip_wei) {
        let (have, need) = (tip.unwrap_or(cap), config.min_tip_wei);
        return refuse(format!(
            "transaction underpriced: tip needed {need}, tip permitted {have}"
        ));
    }
    if tx.is_create() && tx.input().len() > MAX_INITCODE_BYTES {
        let size = tx.input().len();
        return refuse(format!(
            "max initcode size exceeded: code size {size}, limit {MAX_INITCODE_BYTES}"
        ));
    }
    let (intrinsic, floor) = intrinsic_gas(tx);
    if tx.gas_limit() < intrinsic {
        let have = tx.gas_limit();
        return refuse(format!(
            "intrinsic gas too low: have {have}, want {intrinsic}"
        ));
    }
    if tx.gas_limit() < floor {
        let have = tx.gas_limit();
        return refuse(format!(
            "insufficient gas for floor data gas cost: have {have}, want {floor}"
        ));
    }
    Ok(())
}

/// What a transaction costs before it runs, and the least for its data (EIP-7623).
fn intrinsic_gas(tx: &TxEnvelope) -> (u64, u64) {
    let zeroes = tx.input().iter().filter(|byte| **byte == 0).count() as u64;
    let others = tx.input().len() as u64 - zeroes;
    let tokens = zeroes + 4 * others;
    let create = if tx.is_create() {
        32_000 + 2 * (tx.input().len() as u64).div_ceil(32)
    } else {
        0
    };
    let access = tx.access_list().map_or(0, |list| {
        let keys = list
            .iter()
            .map(|entry| entry.storage_keys.len() as u64)
            .sum::<u64>();
        2_400 * list.len() as u64 + 1_900 * keys
    });
    let authorizations = tx
        .authorization_list()
        .map_or(0, |list| 25_000 * list.len() as u64);
    (
        21_000 + 4 * tokens + create + access + authorizations,
        21_000 + 10 * tokens,
    )
}

/// Applies the rules that need the sender's account; `pending` is the nonce after what waits.
pub(crate) fn check_account(
    tx: &TxEnvelope,
    account: &Account,
    pending: u64,
) -> Result<(), RpcError> {
    let (nonce, next) = (tx.nonce(), account.nonce);
    if nonce < next {
        let reason = format!("nonce too low: next nonce {next}, tx nonce {nonce}");
        return Err(RpcError::transaction(reason));
    }
    if nonce > pending {
        let reason = format!("nonce too high: next nonce {pending}, tx nonce {nonce}");
        return Err(RpcError::transaction(reason));
    }
    let gas = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas()));
    let cost = gas.saturating_add(tx.value());
    if account.balance < cost {
        let (have, short) = (account.balance, cost - account.balance);
        return Err(RpcError::transaction(format!(
            "insufficient funds for gas * price + value: balance {have}, tx cost {cost}, overshot {short}"
        )));
    }
    Ok(())
}

/// Whether `new` pays a tenth more than `old`, as geth asks of a replacement.
pub(crate) fn check_replacement(new: &TxEnvelope, old: &TxEnvelope) -> Result<(), RpcError> {
    let enough = |new: u128, old: u128| new >= old.saturating_add(old.div_ceil(10)) && new > old;
    let tip = |tx: &TxEnvelope| {
        tx.max_priority_fee_per_gas()
            .unwrap_or(tx.max_fee_per_gas())
    };
    if enough(new.max_fee_per_gas(), old.max_fee_per_gas()) && enough(tip(new), tip(old)) {
        Ok(())
    } else {
        Err(RpcError::transaction("replacement transaction underpriced"))
    }
}

#[cfg(test)]
mod tests;
