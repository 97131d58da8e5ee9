//! What a transaction must be before it is acknowledged: the conductor's rules, in geth's words.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, U256};
use counterpoint_core::{action::SubmitData, registry::RollupConfig};

use crate::{queue::cost, rpc::RpcError, upstream::Head};

/// Slots that a rollup's execution may lag.
const MAX_LAG_SLOTS: u64 = 5;
/// Seconds on top, for sequencer blocks that are slower than slots.
const LAG_GRACE_SECS: u64 = 10;
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
    if tx.authorization_list().is_some_and(<[_]>::is_empty) {
        return refuse("EIP-7702 transaction with empty auth list".into());
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

/// Refuses while the rollup's execution lags: what is taken in now might wait too long.
pub(crate) fn check_lag(head: &Head, config: &RollupConfig) -> Result<(), RpcError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let lag = now
        .unwrap_or_default()
        .as_secs()
        .saturating_sub(head.timestamp);
    let limit = MAX_LAG_SLOTS * u64::from(config.slot_secs.get()) + LAG_GRACE_SECS;
    if lag > limit {
        return Err(RpcError::overloaded(format!(
            "the rollup's execution is {lag} s behind, try again later"
        )));
    }
    Ok(())
}

/// Applies the rules that need the base fee of the next block.
pub(crate) fn check_fees(
    tx: &TxEnvelope,
    sender: Address,
    base_fee: u64,
    config: &RollupConfig,
) -> Result<(), RpcError> {
    let cap = tx.max_fee_per_gas();
    let Some(tip) = tx.effective_tip_per_gas(base_fee) else {
        return Err(RpcError::transaction(format!(
            "max fee per gas less than block base fee: address {sender}, maxFeePerGas: {cap}, \
             baseFee: {base_fee}"
        )));
    };
    let need = config.min_tip_wei;
    if tip < u128::from(need) {
        return Err(RpcError::transaction(format!(
            "transaction underpriced: tip needed {need}, tip permitted {tip}"
        )));
    }
    Ok(())
}

/// Whether a nonce is the sender's next: `next` as executed, `pending` after what waits here.
pub(crate) fn check_nonce(nonce: u64, next: u64, pending: u64) -> Result<(), RpcError> {
    let (what, next) = match nonce {
        nonce if nonce < next => ("low", next),
        nonce if nonce > pending => ("high", pending),
        _ => return Ok(()),
    };
    Err(RpcError::transaction(format!(
        "nonce too {what}: next nonce {next}, tx nonce {nonce}"
    )))
}

/// Whether the sender can pay for this and for all that waits already.
pub(crate) fn check_balance(tx: &TxEnvelope, balance: U256, queued: U256) -> Result<(), RpcError> {
    let cost = cost(tx);
    let total = queued.saturating_add(cost);
    if balance >= total {
        return Ok(());
    }
    let short = total.saturating_sub(balance);
    let reason = if queued.is_zero() {
        format!("balance {balance}, tx cost {cost}, overshot {short}")
    } else {
        format!("balance {balance}, queued cost {queued}, tx cost {cost}, overshot {short}")
    };
    let what = "insufficient funds for gas * price + value";
    Err(RpcError::transaction(format!("{what}: {reason}")))
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
