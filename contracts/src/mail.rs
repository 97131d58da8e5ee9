use alloy_primitives::{B256, Log};
use alloy_sol_types::SolEvent;
use counterpoint_core::{atomic::Message, primitive::RollupId};

use crate::{
    IAtomicMailbox::{MessageReceived, MessageSent},
    MAILBOX,
};

/// Messages that a leg has yet to receive and to send, the next one last (`docs/spec/atomic.md`).
#[derive(Debug)]
pub struct Mail {
    inbox: Vec<B256>,
    outbox: Vec<B256>,
}

impl Mail {
    /// Those of a rollup's leg; `messages` are those of the whole bundle.
    #[must_use]
    pub fn expected(rollup_id: &RollupId, messages: &[Message]) -> Self {
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
    #[must_use]
    pub fn deliver(&mut self, logs: &[Log]) -> bool {
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

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inbox.is_empty() && self.outbox.is_empty()
    }
}
