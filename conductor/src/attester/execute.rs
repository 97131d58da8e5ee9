//! A leg on top of the state that its block starts from. Nothing of it is kept.

use std::iter;

use alloy_eips::eip2718::Encodable2718;
use bytes::Bytes;
use counterpoint_contracts::Mail;
use counterpoint_core::{
    atomic::{
        Failure, LegOutcome, LegTransaction, Message, inbox_hash, outbox_hash, receipts_hash,
    },
    primitive::RollupId,
};

use crate::{
    derive::SkipReason,
    evm::{BlockBuilder, ExecuteError, Outcome},
};

/// Executes a rollup's leg in the block that `builder` has opened, and says what comes of it. `messages`
/// are those of the whole bundle.
///
/// # Errors
/// [`ExecuteError`] is a fault of ours: nothing may be said of the leg then.
pub(super) fn execute(
    builder: &mut BlockBuilder,
    rollup_id: &RollupId,
    txs: &[Bytes],
    messages: &[Message],
) -> Result<LegOutcome, ExecuteError> {
    let mut mail = Mail::expected(rollup_id, messages);
    let mut receipts: Vec<Bytes> = Vec::new();
    let mut last = 0;
    for (tx, raw) in (0..).zip(txs) {
        let receipt = match judge(builder, raw)? {
            Ok(receipt) => receipt,
            Err(failure) => return Ok(LegOutcome::Abort { failure, tx }),
        };
        if !mail.deliver(receipt.envelope.logs()) {
            let failure = Failure::MessageMismatch;
            return Ok(LegOutcome::Abort { failure, tx });
        }
        receipts.push(receipt.envelope.encoded_2718().into());
        last = tx;
    }
    if !mail.is_complete() {
        let failure = Failure::MessageMismatch;
        return Ok(LegOutcome::Abort { failure, tx: last });
    }
    Ok(LegOutcome::Commit {
        in_hash: inbox_hash(rollup_id, messages),
        out_hash: outbox_hash(rollup_id, messages),
        receipts_hash: receipts_hash(&receipts),
    })
}

type Receipt = Box<crate::receipts::Receipt>;

/// The receipt of a transaction that succeeds, or why it does not.
fn judge(
    builder: &mut BlockBuilder,
    raw: &Bytes,
) -> Result<Result<Receipt, Failure>, ExecuteError> {
    // Of the signature the rules of every block take care.
    if LegTransaction::check_form(raw).is_err() {
        return Ok(Err(Failure::InvalidTx));
    }
    Ok(match builder.execute(raw, iter::empty())? {
        Outcome::Included(receipt) if receipt.envelope.status() => Ok(receipt),
        Outcome::Included(_) if builder.out_of_gas() => Err(Failure::OutOfGas),
        Outcome::Included(_) => Err(Failure::Revert),
        Outcome::Skipped(reason) => Err(failure(reason)),
        Outcome::EndOfBlock => Err(Failure::InvalidTx),
    })
}

fn failure(reason: SkipReason) -> Failure {
    match reason {
        SkipReason::Nonce => Failure::Nonce,
        SkipReason::Balance => Failure::Balance,
        SkipReason::FeeTooLow | SkipReason::TipTooLow => Failure::FeeTooLow,
        _ => Failure::InvalidTx,
    }
}

#[cfg(test)]
mod tests;
