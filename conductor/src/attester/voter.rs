//! The key: what is said with it is written down first, then signed, then handed in to every node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use counterpoint_core::{
    atomic::{Attestation, AttesterMessage, Ballot, Executed, LegOutcome, OutcomeVote, Statement},
    key::{PublicKey, SecretKey},
    primitive::{Height, RollupId},
    registry::RollupConfig,
};
use counterpoint_service::sequencer::Client;
use metrics::{counter, histogram};
use tracing::{error, info, warn};

use super::{
    hints::is_member,
    votes::{VoteError, Votes},
};
use crate::{engine::BlockId, legs::ExecutedLeg, metric};

/// How often an outcome is handed in again until the chain wants it no more.
const AGAIN: Duration = Duration::from_secs(2);
/// How long: 600 heights, and time for a chain that is slow.
const GIVE_UP: Duration = Duration::from_secs(900);

/// Speaks with one key, on one chain. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Voter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    chain_id: String,
    key: SecretKey,
    votes: Votes,
    sequencer: Client,
}

impl Voter {
    pub(crate) fn new(chain_id: &str, key: SecretKey, votes: Votes, sequencer: Client) -> Self {
        Self(Arc::new(Shared {
            chain_id: chain_id.to_owned(),
            key,
            votes,
            sequencer,
        }))
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.0.key.public_key()
    }

    pub(crate) fn chain_id(&self) -> &str {
        &self.0.chain_id
    }

    pub(crate) fn votes(&self) -> &Votes {
        &self.0.votes
    }

    pub(crate) fn sequencer(&self) -> &Client {
        &self.0.sequencer
    }

    /// Says what comes of a leg, unless something else was said before. `closed` is when the slot before
    /// the leg's was closed, for us.
    pub(super) async fn attest(
        &self,
        ballot: Ballot,
        statement: Statement,
        closed: Instant,
    ) -> Result<(), VoteError> {
        self.0.votes.keep_statement(&ballot, &statement).await?;
        let outcome = match statement.outcome {
            LegOutcome::Commit { .. } => "commit",
            LegOutcome::Abort { .. } => "abort",
        };
        let result = statement.outcome;
        let said = Attestation::sign(&self.0.chain_id, ballot, statement, &self.0.key);
        let message = AttesterMessage::Attestation(said).encode();
        let voter = self.clone();
        tokio::spawn(async move {
            let taken = voter.hand_in(&message, || {
                histogram!(metric::ATTESTATION_SECONDS).record(closed.elapsed());
            });
            if taken.await.0 > 0 {
                counter!(metric::ATTESTATIONS, "outcome" => outcome).increment(1);
            }
            let (bundle_id, height) = (ballot.bundle_id, ballot.pin.height);
            info!(%bundle_id, rollup_id = %ballot.rollup_id, %height, ?result, "attested");
        });
        Ok(())
    }

    /// Hands a message in to every node; tells how many took it and how many refused it.
    async fn hand_in(&self, message: &Bytes, first: impl FnOnce()) -> (u32, u32) {
        let (mut taken, mut refused, mut first) = (0_u32, 0_u32, Some(first));
        let heard = |answer: counterpoint_proto::sequencer::SubmitTransactionResponse| {
            if answer.code == 0 {
                taken = taken.saturating_add(1);
                if let Some(first) = first.take() {
                    first();
                }
            } else {
                refused = refused.saturating_add(1);
                tracing::debug!(code = answer.code, answer.log, "vote refused");
            }
        };
        self.0.sequencer.submit_to_each(message, heard).await;
        (taken, refused)
    }

    /// Says what became of a released leg in `block`, under the configuration of then. It is on disk
    /// when this is done, and handed in until the chain wants it no more.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) async fn confirm(
        &self,
        block: BlockId,
        leg: &ExecutedLeg,
        config: &RollupConfig,
    ) -> Result<(), VoteError> {
        if !is_member(&self.key(), config) {
            return Ok(());
        }
        let executed = Executed {
            bundle_id: leg.bundle_id,
            rollup_id: config.rollup_id,
            block_number: block.number,
            block_hash: counterpoint_core::primitive::Hash::new(block.hash.0),
            receipts_hash: leg.receipts_hash(),
        };
        if self.contradicts(&executed, leg.height)? {
            error!(
                bundle_id = %leg.bundle_id,
                height = %leg.height,
                number = block.number,
                "the leg came out otherwise than this attester has said: it says no more about it"
            );
            return Ok(());
        }
        match self.0.votes.keep_outcome(leg.height, &executed).await {
            Ok(()) => {}
            Err(store @ VoteError::Store(_)) => return Err(store),
            Err(error) => {
                error!(%error, bundle_id = %leg.bundle_id, "no word about an outcome");
                return Ok(());
            }
        }
        self.tell(executed);
        Ok(())
    }

    /// Whether this key has said that the leg would come out otherwise.
    fn contradicts(&self, executed: &Executed, released: Height) -> Result<bool, VoteError> {
        let pin = Height::new(released.get().saturating_sub(1));
        let votes = &self.0.votes;
        let said = votes.statements(&executed.rollup_id, pin, &executed.bundle_id)?;
        Ok(said.iter().any(|said| match said.statement.outcome {
            LegOutcome::Commit { receipts_hash, .. } => receipts_hash != executed.receipts_hash,
            LegOutcome::Abort { .. } => false,
        }))
    }

    /// Hands in the outcomes once more that were written down before a restart.
    pub(crate) fn tell_again(&self, rollup_id: &RollupId) -> Result<(), VoteError> {
        for executed in self.0.votes.outcomes(rollup_id)? {
            self.tell(executed);
        }
        Ok(())
    }

    fn tell(&self, executed: Executed) {
        let vote = OutcomeVote::sign(&self.0.chain_id, executed, &self.0.key);
        let message = AttesterMessage::Outcome(vote).encode();
        let voter = self.clone();
        tokio::spawn(async move {
            let (began, mut held) = (Instant::now(), false);
            while began.elapsed() < GIVE_UP {
                let (taken, refused) = voter.hand_in(&message, || {}).await;
                if taken > 0 && !held {
                    held = true;
                    counter!(metric::OUTCOME_VOTES).increment(1);
                }
                if taken == 0 && refused > 0 && (held || began.elapsed() > 5 * AGAIN) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
            warn!(bundle_id = %executed.bundle_id, "the chain never settled an outcome");
        });
    }
}
