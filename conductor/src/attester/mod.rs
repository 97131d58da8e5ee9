//! Attesters: who executes a bundle's leg before it may run, and signs what comes of it.
//!
//! ```text
//! nodes ─ StreamScheduled ─▶ Hints ─┐ what to execute          ┌▶ Votes (disk) ─▶ Voter ─▶ all nodes
//!                                   ▼                          │
//! derived blocks ─▶ Tip ─────▶ Attester ─ leg on top of it ────┘
//!                    └ is it still the tip? else nothing is said
//! ```
//! A leg is executed by the same code as its block will be, on the state after the block before. The
//! statement is on disk before it is signed. Whatever is not certain, late or contradicts an earlier
//! word leads to silence: the slot passes, and the rollup has not waited.
//!
//! # Specification
//! `docs/spec/atomic.md`.

mod alone;
mod execute;
mod hints;
mod voter;
mod votes;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use counterpoint_core::{
    atomic::Statement,
    light::TrustedState,
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
};
use counterpoint_service::{
    files::read_key,
    sequencer::{Client, NodeId, registration},
};
use tokio::sync::watch;
use tracing::{debug, error, warn};

pub use alone::{Args, Config, run};
pub(crate) use hints::{Hints, Tip};
pub(crate) use voter::Voter;
pub use votes::{VoteError, Votes};

use crate::{
    chain_spec::Specification,
    derive::Rules,
    evm::{BlockBuilder, ExecuteError, StateSource},
    metric,
};
use hints::{Hint, Wrong, check, inputs, is_asked};

/// Opens the key and what was said with it.
pub(crate) fn open(
    key_file: &Path,
    votes_dir: &Path,
    chain_id: &str,
    sequencer: Client,
) -> eyre::Result<Voter> {
    let key = read_key(key_file)?;
    let votes = Votes::open(votes_dir, chain_id, &key.public_key())?;
    Ok(Voter::new(chain_id, key, votes, sequencer))
}

/// Where a rollup stands; nothing while its state is about to change.
pub(crate) type Tips = watch::Receiver<Option<Arc<Tip>>>;

/// Attests the legs of one rollup.
#[derive(Debug)]
pub(crate) struct Attester {
    pub(crate) voter: Voter,
    pub(crate) rollup_id: RollupId,
    pub(crate) specification: Specification,
    /// The state after the tip.
    pub(crate) states: Arc<dyn StateSource>,
    /// Trusted when we started, for a configuration that is about to begin.
    pub(crate) trusted: TrustedState,
    /// The bundle whose senders were last seen to have sealed our leg.
    pub(crate) vouched: Option<Hash>,
}

/// Why nothing is said of a leg.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("the schedule is wrong: {0}")]
    Wrong(#[from] Wrong),
    #[error("nobody asks this key")]
    NotAsked,
    #[error("our next block has begun")]
    Late,
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Vote(#[from] VoteError),
}

impl Attester {
    /// Attests until the tips or the hints end, or the disk fails.
    ///
    /// # Errors
    /// The votes cannot be written any more.
    pub(crate) async fn run(mut self, mut hints: Hints, mut tips: Tips) -> eyre::Result<()> {
        let mut waiting: Vec<Hint> = Vec::new();
        let (mut at, mut heard) = (Height::new(0), Heard::default());
        loop {
            tokio::select! {
                hint = hints.told.recv() => match hint {
                    Some(hint) => waiting.push(hint),
                    None => return Ok(()),
                },
                changed = tips.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
            let Some(tip) = tips.borrow_and_update().clone() else {
                continue;
            };
            if at != tip.pin.height {
                (at, heard) = (tip.pin.height, Heard::default());
                if at.get().is_multiple_of(FORGET_EVERY) {
                    self.voter.votes().forget_before(self.rollup_id, at).await;
                }
            }
            // One that is ahead of us is kept until we are there.
            waiting.retain(|hint| hint.height >= at);
            let ahead = waiting.len().saturating_sub(MAX_AHEAD);
            waiting.drain(..ahead);
            let (now, later) = waiting.into_iter().partition(|hint| hint.height == at);
            waiting = later;
            let now: Vec<Hint> = now;
            for hint in now {
                if heard.is_news(&hint) {
                    let spoke = self.attest(&hint, &tip, &tips).await;
                    self.settle(&mut heard, &hint, spoke)?;
                }
            }
        }
    }

    /// Says what comes of the leg that a hint is about.
    async fn attest(&mut self, hint: &Hint, tip: &Arc<Tip>, tips: &Tips) -> Result<(), Silence> {
        let config = self.checked(hint, tip).await?;
        if !is_asked(&self.voter.key(), &hint.bundle, &config) {
            return Err(Silence::NotAsked);
        }
        let statement = self.execute(hint, tip, &config).await?;
        // A block that is executed changes the state under us; before it does, the tip goes.
        if !tips.borrow().as_ref().is_some_and(|now| now.pin == tip.pin) {
            return Err(Silence::Late);
        }
        Ok(self
            .voter
            .attest(hint.ballot, statement, tip.arrived)
            .await?)
    }

    /// The configuration of the slot that opens, if the hint agrees with what is verified.
    async fn checked(&mut self, hint: &Hint, tip: &Tip) -> Result<RollupConfig, Silence> {
        if hint.bundle.terms().chain_id != self.voter.chain_id() {
            return Err(Wrong::Bundle.into());
        }
        match check(hint, tip, &tip.config, &mut self.vouched) {
            Ok(()) => return Ok(tip.config.clone()),
            Err(Wrong::Config) => {}
            Err(wrong) => return Err(wrong.into()),
        }
        // Another one may begin with the slot; it was announced long before.
        let sequencer = self.voter.sequencer();
        let record = registration(sequencer, &self.trusted, self.rollup_id);
        let record = tokio::time::timeout(LOOKUP, record).await;
        let record = record.ok().and_then(Result::ok).flatten();
        let pending = record.and_then(|record| record.pending);
        let opening = Height::new(tip.pin.height.get().saturating_add(1));
        let pending = pending.filter(|pending| pending.from <= opening);
        let config = pending.ok_or(Wrong::Config)?.config;
        check(hint, tip, &config, &mut self.vouched)?;
        Ok(config)
    }

    /// Executes the leg on top of the tip, off the threads that others wait on.
    async fn execute(
        &self,
        hint: &Hint,
        tip: &Arc<Tip>,
        config: &RollupConfig,
    ) -> Result<Statement, ExecuteError> {
        let (states, specification) = (Arc::clone(&self.states), self.specification.clone());
        let (hint, tip, rules) = (hint.clone(), Arc::clone(tip), Rules::from(config));
        let work = move || {
            let parent = (&tip.header, tip.hash);
            let inputs = inputs(&hint.env);
            let mut builder = BlockBuilder::begin(states, &specification, rules, parent, inputs)?;
            let (id, messages) = (&hint.ballot.rollup_id, &hint.bundle.terms().messages);
            let outcome = execute::execute(&mut builder, id, &hint.txs, messages)?;
            let base_fee = builder.base_fee();
            let mut env = hint.env;
            env.base_fee = base_fee;
            Ok(Statement {
                parent_hash: Hash::new(tip.hash.0),
                env_hash: env.hash(),
                base_fee,
                outcome,
            })
        };
        let executed = tokio::task::spawn_blocking(work).await;
        executed.unwrap_or_else(|error| Err(ExecuteError::Evm(error.to_string())))
    }

    /// Remembers what a hint has led to.
    fn settle(
        &self,
        heard: &mut Heard,
        hint: &Hint,
        spoke: Result<(), Silence>,
    ) -> Result<(), VoteError> {
        let (bundle_id, height) = (hint.bundle.id(), hint.height);
        heard.nodes.insert(hint.node);
        let silence = match spoke {
            Ok(()) => {
                heard.bundles.insert(bundle_id);
                return Ok(());
            }
            Err(silence) => silence,
        };
        match silence {
            Silence::NotAsked => {
                heard.bundles.insert(bundle_id);
                debug!(%bundle_id, %height, "nobody asks this key about a leg");
                return Ok(());
            }
            Silence::Wrong(wrong) => {
                let url = self.voter.sequencer().url(hint.node);
                warn!(url, %bundle_id, %height, reason = %wrong, "no word about a leg: its schedule is wrong");
            }
            Silence::Late => warn!(%bundle_id, %height, "no word about a leg: it came too late"),
            Silence::Execute(error) => {
                error!(%bundle_id, %height, %error, "no word about a leg: it cannot be executed");
            }
            Silence::Vote(store @ VoteError::Store(_)) => return Err(store),
            Silence::Vote(error) => {
                heard.bundles.insert(bundle_id);
                error!(%bundle_id, %height, %error, "no word about a leg");
            }
        }
        metrics::counter!(metric::SILENCES).increment(1);
        Ok(())
    }
}

/// How long we look for a configuration that is about to begin: a node that makes one up must not keep
/// us from what the others say.
const LOOKUP: Duration = Duration::from_millis(100);
/// Heights between two times that old votes are forgotten.
const FORGET_EVERY: u64 = 64;
/// Hints that are ahead of us and wait.
const MAX_AHEAD: usize = 64;

/// What was heard about one slot. A rollup has at most one bundle there, so nobody is believed twice.
#[derive(Debug, Default)]
struct Heard {
    bundles: BTreeSet<Hash>,
    nodes: BTreeSet<NodeId>,
}

impl Heard {
    fn is_news(&self, hint: &Hint) -> bool {
        !self.bundles.contains(&hint.bundle.id()) && !self.nodes.contains(&hint.node)
    }
}
