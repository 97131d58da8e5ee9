use counterpoint_core::{action::Deposit, primitive::Amount};

use super::{ExecuteError, TxContext, active_rollup, lock};
use crate::{
    rejection::Rejection,
    state::{DepositQueue, Key, QueuedDeposit, ReadRecords, StateDelta, StateRead},
};

/// Most deposits of one rollup that wait.
const MAX_QUEUED: u64 = 4_096;
/// The same of all rollups together: they go back in one block if all leave at once.
const MAX_WAITING: u32 = 16_384;

/// Locks the value and puts the deposit into the rollup's queue.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &Deposit,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let id = action.rollup_id();
    active_rollup(id, ctx.height, delta)?;
    let queue = delta.deposit_queue(id)?;
    let mut chain = delta.chain()?;
    let of_rollup = queue.queued.saturating_sub(queue.emitted);
    if of_rollup >= MAX_QUEUED || chain.waiting_deposits >= MAX_WAITING {
        return Err(Rejection::DepositsFull(id).into());
    }
    chain.waiting_deposits = chain.waiting_deposits.saturating_add(1);
    delta.put(&Key::Chain, &chain)?;
    lock(ctx.signer, Amount::new(action.amount_gwei().into()), delta)?;
    let deposit = QueuedDeposit {
        depositor: ctx.signer,
        address: action.evm_address(),
        amount_gwei: action.amount_gwei(),
    };
    delta.put(&Key::Deposit(id, queue.queued), &deposit)?;
    let queued = queue.queued.checked_add(1).ok_or(Rejection::Overflow)?;
    let queue = DepositQueue { queued, ..queue };
    Ok(delta.put(&Key::DepositQueue(id), &queue)?)
}
