//! A leg on top of the state that its block starts from. Nothing of it is kept.

use std::iter;

use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Log};
use alloy_sol_types::SolEvent;
use bytes::Bytes;
use counterpoint_contracts::{
    IAtomicMailbox::{MessageReceived, MessageSent},
    MAILBOX,
};
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
    if LegTransaction::read(raw).is_err() {
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

/// Messages that a leg has yet to receive and to send, the next one last.
#[derive(Debug)]
struct Mail {
    inbox: Vec<B256>,
    outbox: Vec<B256>,
}

impl Mail {
    fn expected(rollup_id: &RollupId, messages: &[Message]) -> Self {
        let hashes = |of: fn(&Message) -> &RollupId| {
            let of = messages
                .iter()
                .rev()
                .filter(|message| of(message) == rollup_id);
            of.map(|message| B256::new(*message.hash().as_bytes()))
                .collect()
        };
        Self {
            inbox: hashes(|message| &message.dst),
            outbox: hashes(|message| &message.src),
        }
    }

    /// Takes in what the mailbox tells of a transaction; false if it is not what comes next.
    fn deliver(&mut self, logs: &[Log]) -> bool {
        logs.iter().filter(|log| log.address == MAILBOX).all(|log| {
            // Both events have the message's hash behind the session's.
            let (event, hash) = (log.topics().first(), log.topics().get(2));
            let expected = match event {
                Some(&MessageReceived::SIGNATURE_HASH) => self.inbox.pop(),
                Some(&MessageSent::SIGNATURE_HASH) => self.outbox.pop(),
                _ => return true,
            };
            expected.as_ref() == hash && hash.is_some()
        })
    }

    fn is_complete(&self) -> bool {
        self.inbox.is_empty() && self.outbox.is_empty()
    }
}

#[cfg(test)]
mod tests;
