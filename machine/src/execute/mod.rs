//! One handler per action. A handler writes to a delta that its caller drops on failure.

mod authority_change;
mod cancel_bundle;
mod consensus_change;
mod deposit;
mod exit_rollup;
mod fee_change;
mod register_rollup;
mod reveal_legs;
mod schedule_upgrade;
mod submit_bundle;
mod submit_data;
mod transfer;
mod update_rollup;
mod validator_update;

use bytes::Bytes;
use counterpoint_core::{
    action::Action,
    primitive::{Address, Amount, Hash, Height, RollupId},
    slot::HeaderTime,
};

use crate::{
    authority::{self, Agreement},
    fees::Prices,
    rejection::{Mismatch, Rejection},
    state::{Account, Key, ReadRecords, RollupRecord, StateDelta, StateRead, StoreError},
    validators::ValidatorSet,
};

/// What a handler knows beside the action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TxContext<'a> {
    /// Who signed and pays.
    pub(crate) signer: Address,
    /// The height of the block.
    pub(crate) height: Height,
    /// The time of the block before.
    pub(crate) previous_time: Option<HeaderTime>,
    /// What things cost in this block.
    pub(crate) prices: &'a Prices,
    /// The validators before any transaction of this block.
    pub(crate) validators: &'a ValidatorSet,
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

/// Applies all actions; on an error `delta` is to be dropped. What only the authority may ask for
/// waits until enough of its members have asked for it.
pub(crate) fn actions<S: StateRead>(
    ctx: &TxContext<'_>,
    actions: &[Action],
    delta: &mut StateDelta<'_, S>,
) -> Result<Submitted, ExecuteError> {
    let mut submitted = Submitted::new();
    if authority::agree(ctx, actions, delta)? == Agreement::Pending {
        return Ok(submitted);
    }
    for action in actions {
        match action {
            Action::Transfer(transfer) => transfer::execute(ctx, transfer, delta),
            Action::SubmitData(data) => submit_data::execute(ctx, data, delta, &mut submitted),
            Action::RegisterRollup(register) => register_rollup::execute(ctx, register, delta),
            Action::UpdateRollup(update) => update_rollup::execute(ctx, update, delta),
            Action::ExitRollup(exit) => exit_rollup::execute(ctx, exit, delta),
            Action::Deposit(deposit) => deposit::execute(ctx, deposit, delta),
            Action::ValidatorUpdate(update) => validator_update::execute(ctx, update, delta),
            Action::AuthorityChange(change) => authority_change::execute(change, delta),
            Action::FeeChange(change) => fee_change::execute(change, delta),
            Action::ScheduleUpgrade(upgrade) => schedule_upgrade::execute(ctx, upgrade, delta),
            Action::ConsensusChange(change) => consensus_change::execute(ctx, change, delta),
            Action::SubmitBundle(submit) => submit_bundle::execute(ctx, submit, delta),
            Action::RevealLegs(reveal) => reveal_legs::execute(ctx, reveal, delta),
            Action::CancelBundle(cancel) => cancel_bundle::execute(ctx, cancel, delta),
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
    match delta.rollup(id)? {
        Some(record) if record.config.first_height <= height => Ok(record),
        None if delta.former_rollup(id)?.is_none() => Err(Rejection::UnknownRollup(id).into()),
        _ => Err(Rejection::InactiveRollup(id).into()),
    }
}

/// The rollup, if `ctx.signer` owns it and it is not about to leave.
fn owned_rollup<S: StateRead>(
    id: RollupId,
    ctx: &TxContext<'_>,
    delta: &StateDelta<'_, S>,
) -> Result<RollupRecord, ExecuteError> {
    let record = active_rollup(id, ctx.height, delta)?;
    if record.config.owner != ctx.signer {
        return Err(Rejection::NotOwner(id).into());
    }
    if record.leaves() {
        return Err(Rejection::Exiting(id).into());
    }
    Ok(record)
}
