//! What a transaction must be before it is acknowledged: the conductor's rules, in geth's words.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::{Decodable2718, Eip2718Error, Encodable2718};
use alloy_primitives::{Address, U256};
use counterpoint_core::{action::SubmitData, registry::RollupConfig};

use crate::{
    queue::{self, Checked, Claim, Held, Item, QueueError, Stage, cost},
    rpc::RpcError,
    upstream::{Account, Head},
};

/// Slots that a rollup's execution may lag.
const MAX_LAG_SLOTS: u64 = 5;
/// Seconds on top, for sequencer blocks that are slower than slots.
const LAG_GRACE_SECS: u64 = 10;
/// Percent by which a replacement must raise both fees: geth's.
const PRICE_BUMP: u64 = 10;
/// Longest init code (EIP-3860).
const MAX_INITCODE_BYTES: usize = 49_152;

/// Why a transaction is not taken in.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its sender is told.
    Final(RpcError),
    /// It is to be judged again: its account was not up to date, or another transaction of the same
    /// sender and nonce is just being written.
    Passing,
}

impl Refusal {
    /// The same of one transaction of a bundle.
    pub(crate) fn of(self, index: usize) -> Self {
        match self {
            Self::Final(error) => Self::Final(error.of(index)),
            Self::Passing => Self::Passing,
        }
    }
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        Self::Final(error.into())
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        Self::Final(error)
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, RpcError> {
    Err(RpcError::transaction(reason))
}

/// Whether bytes may be a transaction: what can be told without decoding them.
pub(crate) fn check_envelope(raw: &[u8], config: &RollupConfig) -> Result<(), RpcError> {
    let share = usize::try_from(config.max_bytes_per_block).unwrap_or(usize::MAX);
    let (limit, size) = (SubmitData::MAX_ITEM_BYTES.min(share), raw.len());
    match raw {
        _ if size > limit => refuse(format!(
            "oversized data: transaction size {size}, limit {limit}"
        )),
        [] | [..=0x7f] => refuse("typed transaction too short"),
        [0x01 | 0x02 | 0x04 | 0xc0.., ..] => Ok(()),
        [0x80..=0xbf, ..] => refuse("rlp: expected input list for types.LegacyTx"),
        _ => refuse("transaction type not supported"),
    }
}

/// Decodes a transaction and applies every rule that needs neither the signature nor the state, in
/// geth's order.
pub(crate) fn decode(raw: &[u8], config: &RollupConfig) -> Result<TxEnvelope, RpcError> {
    let tx = TxEnvelope::decode_2718_exact(raw)
        .map_err(|error| RpcError::transaction(format!("rlp: {}", not_rlp(&error))))?;
    if tx.encoded_2718() != raw {
        return refuse("rlp: non-canonical encoding");
    }
    if tx.chain_id().is_none() && !config.allow_unprotected {
        return refuse("only replay-protected (EIP-155) transactions allowed over RPC");
    }
    check_shape(&tx, config)?;
    if let Some(id) = tx.chain_id().filter(|id| *id != config.evm_chain_id) {
        let want = config.evm_chain_id;
        return refuse(format!(
            "invalid sender: invalid chain id for signer: have {id} want {want}"
        ));
    }
    if tx.nonce() == u64::MAX {
        return refuse("nonce has max value");
    }
    check_gas(&tx)?;
    let (tip, need) = (tip_cap(&tx), config.min_tip_wei);
    if tip < u128::from(need) {
        return refuse(format!(
            "transaction gas price below minimum: gas tip cap {tip}, minimum needed {need}"
        ));
    }
    if tx.authorization_list().is_some_and(<[_]>::is_empty) {
        return refuse("set code tx must have at least one authorization tuple");
    }
    Ok(tx)
}

/// What geth says of bytes that are no transaction, where the decoders tell the same things apart.
fn not_rlp(error: &Eip2718Error) -> String {
    use alloy_rlp::Error;
    let Eip2718Error::RlpError(rlp) = error else {
        return error.to_string();
    };
    let reason = match rlp {
        Error::InputTooShort => "value size exceeds available input length",
        Error::UnexpectedLength => "input contains more than one value",
        Error::NonCanonicalSingleByte | Error::NonCanonicalSize => "non-canonical size information",
        Error::LeadingZero => "non-canonical integer (leading zero bytes)",
        other => return other.to_string(),
    };
    reason.into()
}

/// Who signed. This is what costs most, and comes after the other rules.
pub(crate) fn recover(tx: &TxEnvelope) -> Result<Address, RpcError> {
    let sender = tx.recover_signer();
    sender.map_err(|_| RpcError::transaction("invalid sender: invalid transaction v, r, s values"))
}

fn check_shape(tx: &TxEnvelope, config: &RollupConfig) -> Result<(), RpcError> {
    if tx.is_create() && tx.input().len() > MAX_INITCODE_BYTES {
        let size = tx.input().len();
        return refuse(format!(
            "max initcode size exceeded: code size {size} limit {MAX_INITCODE_BYTES}"
        ));
    }
    if tx.gas_limit() > config.gas_limit {
        return refuse("exceeds block gas limit");
    }
    if tx.gas_limit() > config.max_tx_gas {
        let (cap, limit) = (config.max_tx_gas, tx.gas_limit());
        return refuse(format!(
            "transaction gas limit too high (cap: {cap}, tx: {limit})"
        ));
    }
    if tip_cap(tx) > tx.max_fee_per_gas() {
        return refuse("max priority fee per gas higher than max fee per gas");
    }
    Ok(())
}

fn check_gas(tx: &TxEnvelope) -> Result<(), RpcError> {
    let (have, (intrinsic, floor)) = (tx.gas_limit(), intrinsic_gas(tx));
    if have < intrinsic {
        return refuse(format!(
            "intrinsic gas too low: gas {have}, minimum needed {intrinsic}"
        ));
    }
    if have < floor {
        return refuse(format!(
            "insufficient gas for floor data gas cost: gas {have}, minimum needed {floor}"
        ));
    }
    Ok(())
}

/// The most that a transaction offers the block's producer per gas.
fn tip_cap(tx: &TxEnvelope) -> u128 {
    tx.max_priority_fee_per_gas()
        .unwrap_or(tx.max_fee_per_gas())
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

/// What becomes of a transaction beside its sender's account and all that waits: whose place it
/// takes, or why it is refused.
pub(crate) fn judge(
    queue: &queue::State,
    checked: &Checked,
    account: Account,
) -> Result<Claim, Refusal> {
    let Checked {
        rollup, sender, tx, ..
    } = checked;
    check_nonce(tx.nonce(), *sender, account.nonce)?;
    let replaced = match queue.by_nonce(*rollup, *sender, tx.nonce()) {
        None => None,
        Some(Held::Writing) => return Err(Refusal::Passing),
        // The same came by another call meanwhile.
        Some(Held::Item(item)) if item.tx.tx_hash() == tx.tx_hash() => {
            return Err(Refusal::Passing);
        }
        Some(Held::Item(item)) if item.stage == Stage::Queued => {
            check_replacement(tx, &item.tx)?;
            Some(item)
        }
        Some(Held::Item(_)) => return Err(QueueError::TooLate.into()),
    };
    check_funds(queue, checked, account, replaced)?;
    Ok(Claim {
        floor: account.nonce,
        replaces: replaced.map(|item| item.seq),
    })
}

/// The same of one of a bundle, which neither replaces nor waits: its nonce is the very next.
pub(crate) fn judge_bundled(
    queue: &queue::State,
    checked: &Checked,
    account: Account,
) -> Result<Claim, Refusal> {
    let Checked {
        rollup, sender, tx, ..
    } = checked;
    let known = queue.get(*rollup, *tx.tx_hash());
    if known.is_some_and(|item| !item.stage.may_be_sent_again()) {
        return Err(RpcError::transaction("already known").into());
    }
    check_nonce(tx.nonce(), *sender, account.nonce)?;
    let next = queue.next_to_run(*rollup, *sender, account.nonce);
    if tx.nonce() != next {
        let what = if tx.nonce() < next { "low" } else { "high" };
        let nonce = tx.nonce();
        let reason = format!("nonce too {what}: next nonce {next}, tx nonce {nonce}");
        return Err(RpcError::transaction(reason).into());
    }
    check_funds(queue, checked, account, None)?;
    Ok(Claim {
        floor: account.nonce,
        replaces: None,
    })
}

/// Whether a nonce can still be the sender's, `next` being the executed one. What lies above it is
/// parked, not refused.
fn check_nonce(nonce: u64, sender: Address, next: u64) -> Result<(), RpcError> {
    if nonce == u64::MAX {
        return refuse(format!(
            "nonce has max value: address {sender}, nonce: {nonce}"
        ));
    }
    if nonce < next {
        return refuse(format!(
            "nonce too low: next nonce {next}, tx nonce {nonce}"
        ));
    }
    Ok(())
}

fn check_funds(
    queue: &queue::State,
    checked: &Checked,
    account: Account,
    replaced: Option<&Item>,
) -> Result<(), RpcError> {
    let (rollup, sender) = (checked.rollup, checked.sender);
    let queued = queue.pending_cost(rollup, sender, account.nonce);
    // What is parked is not counted: it does not run as long as its gap is there.
    let counted = replaced.filter(|item| !queue.is_parked(item));
    check_balance(&checked.tx, account.balance, queued, counted)
}

/// Whether the sender can pay for this and for all that waits already, but for what it replaces.
fn check_balance(
    tx: &TxEnvelope,
    balance: U256,
    queued: U256,
    replaced: Option<&Item>,
) -> Result<(), RpcError> {
    let cost = cost(tx);
    let short = |total: U256| (total > balance).then(|| total - balance);
    let what = "insufficient funds for gas * price + value";
    if let Some(short) = short(cost) {
        return refuse(format!(
            "{what}: balance {balance}, tx cost {cost}, overshot {short}"
        ));
    }
    // A replacement that asks for less gas may cost less, though it pays more for each.
    let freed = replaced.map_or(U256::ZERO, |item| queue::cost(&item.tx));
    let total = queued.saturating_sub(freed).saturating_add(cost);
    let Some(short) = short(total) else {
        return Ok(());
    };
    let added = match replaced {
        None => format!("tx cost {cost}"),
        Some(_) if cost < freed => format!("tx bumped -{}", freed - cost),
        Some(_) => format!("tx bumped {}", cost - freed),
    };
    refuse(format!(
        "{what}: balance {balance}, queued cost {queued}, {added}, overshot {short}"
    ))
}

/// Whether `new` pays a tenth more than `old`, as geth's pool asks of a replacement
/// (`core/txpool/legacypool/list.go`, `Add`): more of both fees, and a tenth more, rounded down.
fn check_replacement(new: &TxEnvelope, old: &TxEnvelope) -> Result<(), RpcError> {
    let enough = |new: u128, old: u128| {
        let threshold = U256::from(old) * U256::from(100 + PRICE_BUMP) / U256::from(100);
        new > old && U256::from(new) >= threshold
    };
    if enough(new.max_fee_per_gas(), old.max_fee_per_gas()) && enough(tip_cap(new), tip_cap(old)) {
        Ok(())
    } else {
        refuse("replacement transaction underpriced")
    }
}

#[cfg(test)]
mod tests;
