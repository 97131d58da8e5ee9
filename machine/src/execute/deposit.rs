use counterpoint_core::{action::Deposit, primitive::Amount};

use super::{ExecuteError, TxContext, active_rollup, lock};
use crate::{
    rejection::Rejection,
    state::{DepositQueue, Key, QueuedDeposit, ReadRecords, StateDelta, StateRead},
};

/// Locks value and queues its minting for one of the rollup's next openings.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext,
    action: &Deposit,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let (id, amount_gwei) = (action.rollup_id(), action.amount_gwei());
    active_rollup(id, ctx.height, delta)?;
    lock(ctx.signer, Amount::new(u128::from(amount_gwei)), delta)?;
    let queue = delta.deposit_queue(id)?;
    let queued = queue.queued.checked_add(1).ok_or(Rejection::Overflow)?;
    let deposit = QueuedDeposit {
        address: action.evm_address(),
        amount_gwei,
    };
    delta.put(&Key::Deposit(id, queue.queued), &deposit)?;
    Ok(delta.put(&Key::DepositQueue(id), &DepositQueue { queued, ..queue })?)
}
