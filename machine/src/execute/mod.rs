//! One handler per action. A handler writes to a delta that its caller drops on failure.

mod deposit;
mod register_rollup;
mod submit_data;
mod transfer;

use bytes::Bytes;
use counterpoint_core::{
    action::Action,
    primitive::{Address, Amount, Hash, Height, RollupId},
    registry::RollupStatus,
    slot::HeaderTime,
};

use crate::{
    rejection::{Mismatch, Rejection},
    state::{Account, Key, ReadRecords, RollupRecord, StateDelta, StateRead, StoreError},
};

/// What a handler knows beside the action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxContext {
    /// Who signed and pays.
    pub(crate) signer: Address,
    /// The height of the block.
    pub(crate) height: Height,
    /// The time of the block before.
    pub(crate) previous_time: Option<HeaderTime>,
}

/// How checking or executing a transaction can end badly.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The sender's fault, and an ordinary result.
    #[error("transaction rejected")]
    Rejected(#[from] Rejection),
    /// A broken node: it stops instead of voting.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An item that a transaction adds to a rollup's list.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Whose list.
    pub(crate) rollup_id: RollupId,
    /// The item.
    pub(crate) raw: Bytes,
    /// Its Merkle leaf there.
    pub(crate) leaf: Hash,
}

/// What a transaction adds to lists, in order.
pub(crate) type Submitted = Vec<Item>;

/// Applies all actions; on an error `delta` is to be dropped.
pub(crate) fn actions<S: StateRead>(
    ctx: &TxContext,
    actions: &[Action],
    delta: &mut StateDelta<'_, S>,
) -> Result<Submitted, ExecuteError> {
    let mut submitted = Submitted::new();
    for action in actions {
        match action {
            Action::Transfer(transfer) => transfer::execute(ctx, transfer, delta),
            Action::SubmitData(data) => submit_data::execute(ctx, data, delta, &mut submitted),
            Action::RegisterRollup(register) => register_rollup::execute(ctx, register, delta),
            Action::Deposit(deposit) => deposit::execute(ctx, deposit, delta),
        }?;
    }
    Ok(submitted)
}

/// Takes `amount` from an account.
fn debit<S: StateRead>(
    from: Address,
    amount: Amount,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let account = delta.account(from)?.unwrap_or_default();
    let short = Rejection::Balance(Mismatch {
        expected: amount,
        actual: account.balance,
    });
    let balance = account.balance.checked_sub(amount).ok_or(short)?;
    Ok(delta.put(&Key::Account(from), &Account { balance, ..account })?)
}

/// Moves `amount` from an account out of circulation.
fn lock<S: StateRead>(
    from: Address,
    amount: Amount,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    debit(from, amount, delta)?;
    let mut chain = delta.chain()?;
    chain.locked = chain
        .locked
        .checked_add(amount)
        .ok_or(Rejection::Overflow)?;
    Ok(delta.put(&Key::Chain, &chain)?)
}

/// The rollup, if it takes items at this height.
fn active_rollup<S: StateRead>(
    id: RollupId,
    height: Height,
    delta: &StateDelta<'_, S>,
) -> Result<RollupRecord, ExecuteError> {
    let record = delta.rollup(id)?.ok_or(Rejection::UnknownRollup(id))?;
    let active = record.config.status == RollupStatus::Active;
    if active && record.config.first_height <= height {
        Ok(record)
    } else {
        Err(Rejection::InactiveRollup(id).into())
    }
}
