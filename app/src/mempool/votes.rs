//! What attesters say of bundles, on its way into a block: without a fee, and so only from those whose
//! word counts, on what is being decided now.
//!
//! ```text
//! a message ─ wanted, or early? ─▶ one of its subject held ─▶ proposer, until its slot has passed
//!           ─ another statement than the one held? ─▶ both are kept: evidence
//! ```
//! Whether a message is wanted is read from the state before its signature is verified.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use counterpoint_core::{
    atomic::{AttesterMessage, VerifiedMessage},
    key::PublicKey,
    primitive::{Hash, Height, RollupId},
    transaction::GossipBundle,
};
use counterpoint_machine::{
    Absent, StoreError, has_vote, is_bound, is_early, is_wanted, query, undecided,
};
use metrics::{counter, gauge, histogram};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Gossip, MAX_RELAYED, Mempool, Offer, Prospect, Source, Verdict, code, into_fault};
use crate::{metric, store::StateSnapshot};

/// Most messages that are held: 25 MiB.
const MAX_HELD: usize = 65_536;
/// Most of those that are early. Anybody may name keys of its own as extra attesters of bundles, and
/// would otherwise fill everything with what they say of slots to come.
const MAX_EARLY: usize = 8_192;
/// Most of one attester of one rollup: it has one leg to attest in each slot, and outcomes to tell.
const MAX_OF_ONE: usize = 512;
/// Most pins of one height: only one is true, and who is ahead of us knows which.
const MAX_PINS: usize = 2;
/// Messages that are looked at before others have their turn.
const BATCH: usize = 64;
/// Heights for which evidence is kept, if no proposer takes it.
const EVIDENCE_HEIGHTS: u64 = 600;
/// Heights for which nobody waits for those who let a proposer wait in vain.
const SILENT_HEIGHTS: u64 = 50;

/// What an attester has one thing to say about. The pin is that of an attestation; outcomes have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    rollup_id: RollupId,
    attester: PublicKey,
    bundle_id: Hash,
    pin: Option<(Height, Hash)>,
}

impl Subject {
    fn of(message: &AttesterMessage) -> Self {
        let (bundle_id, rollup_id) = message.leg();
        let pin = match message {
            AttesterMessage::Attestation(attestation) => {
                let pin = attestation.ballot.pin;
                Some((pin.height, pin.hash))
            }
            AttesterMessage::Outcome(_) => None,
        };
        Self {
            rollup_id,
            attester: message.attester(),
            bundle_id,
            pin,
        }
    }
}

/// What an attester said of one subject.
#[derive(Clone, Debug)]
struct Said {
    first: VerifiedMessage,
    /// Another statement about the same: evidence.
    second: Option<VerifiedMessage>,
    /// The height after which the last of them came.
    since: Height,
    due: Due,
}

/// When a message is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// In one of the next heights, for all that we know.
    Early,
}

impl Said {
    fn messages(&self) -> impl Iterator<Item = &VerifiedMessage> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

/// How a message stands to what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    New,
    Known,
    /// The attester has attested something else.
    Contradicts,
    /// The attester has had its say.
    Taken,
}

/// Messages that are held.
#[derive(Debug, Default)]
pub(super) struct Votes {
    said: BTreeMap<Subject, Said>,
    /// How many of them are early.
    early: usize,
    /// The last committed height.
    tip: Height,
    /// Handed in here and not yet offered to peers.
    to_offer: Vec<AttesterMessage>,
    to_relay: Vec<Bytes>,
    /// Until when nobody waits for these.
    silent: BTreeMap<Absent, Height>,
}

impl Votes {
    fn standing(&self, message: &AttesterMessage) -> Standing {
        let Some(said) = self.said.get(&Subject::of(message)) else {
            return Standing::New;
        };
        let same = |held: &VerifiedMessage| held.message() == message;
        if said.messages().any(same) {
            Standing::Known
        } else if said.second.is_none() && contradicts(said.first.message(), message) {
            Standing::Contradicts
        } else {
            Standing::Taken
        }
    }

    /// Why there is no room for a message about something new.
    fn crowded(&self, subject: &Subject, due: Due) -> Option<Look> {
        let early = due == Due::Early && self.early >= MAX_EARLY;
        if early || self.said.len() >= MAX_HELD || self.of_one(subject) >= MAX_OF_ONE {
            return Some(Look::FULL);
        }
        (self.pins(subject) >= MAX_PINS).then_some(Look::TAKEN)
    }

    /// Takes a message in; says what became of it.
    fn insert(&mut self, message: VerifiedMessage, due: Due) -> Look {
        let subject = Subject::of(message.message());
        match self.standing(message.message()) {
            Standing::Known => return Look::Known,
            Standing::Taken => return Look::TAKEN,
            Standing::Contradicts => {
                if let Some(said) = self.said.get_mut(&subject) {
                    (said.second, said.since) = (Some(message), self.tip);
                }
                return Look::Accepted;
            }
            Standing::New => {}
        }
        if let Some(crowded) = self.crowded(&subject, due) {
            return crowded;
        }
        let said = Said {
            first: message,
            second: None,
            since: self.tip,
            due,
        };
        self.early += usize::from(due == Due::Early);
        self.said.insert(subject, said);
        Look::Accepted
    }

    /// How much an attester has said of one rollup's legs, up to [`MAX_OF_ONE`].
    fn of_one(&self, subject: &Subject) -> usize {
        let first = Subject {
            bundle_id: Hash::ZERO,
            pin: None,
            ..*subject
        };
        let same = |other: &Subject| {
            (other.rollup_id, other.attester) == (subject.rollup_id, subject.attester)
        };
        let of_one = self
            .said
            .range(first..)
            .take_while(|(other, _)| same(other));
        of_one.take(MAX_OF_ONE).count()
    }

    /// How many pins of one height an attester has named for one leg, up to [`MAX_PINS`].
    fn pins(&self, subject: &Subject) -> usize {
        let Some((height, _)) = subject.pin else {
            return 0;
        };
        let first = Subject {
            pin: Some((height, Hash::ZERO)),
            ..*subject
        };
        let same = |other: &Subject| {
            let pinned = other.pin.map(|(height, _)| height);
            (other.rollup_id, other.attester, other.bundle_id, pinned)
                == (
                    subject.rollup_id,
                    subject.attester,
                    subject.bundle_id,
                    Some(height),
                )
        };
        let pins = self
            .said
            .range(first..)
            .take_while(|(other, _)| same(other));
        pins.take(MAX_PINS).count()
    }

    fn messages(&self) -> impl Iterator<Item = &VerifiedMessage> {
        self.said.values().flat_map(Said::messages)
    }

    /// What is said of the slot that opens after the last committed height.
    fn of_next_slot(&self) -> Vec<VerifiedMessage> {
        let now = |subject: &Subject| subject.pin.is_some_and(|(height, _)| height == self.tip);
        let said = self.said.iter().filter(|(subject, _)| now(subject));
        said.flat_map(|(_, said)| said.messages().cloned())
            .collect()
    }

    /// Forgets what is of no use after `tip`, and notes what is not early any more.
    fn advance(&mut self, tip: Height, judged: &[(Subject, Option<Due>)]) {
        self.tip = tip;
        for (subject, due) in judged {
            match due {
                None => drop(self.said.remove(subject)),
                Some(due) => {
                    if let Some(said) = self.said.get_mut(subject) {
                        said.due = *due;
                    }
                }
            }
        }
        let early = self.said.values().filter(|said| said.due == Due::Early);
        self.early = early.count();
        self.silent.retain(|_, until| *until > tip);
        let said = &self.said;
        self.to_offer
            .retain(|message| said.contains_key(&Subject::of(message)));
    }

    /// Whether a proposer should wait for a bundle that lacks the votes of these.
    fn is_worth_waiting(&self, missing: &[Absent]) -> bool {
        !missing.iter().any(|id| self.silent.contains_key(id))
    }

    fn note_silent(&mut self, missing: impl IntoIterator<Item = Absent>) {
        let until = Height::new(self.tip.get().saturating_add(SILENT_HEIGHTS));
        self.silent
            .extend(missing.into_iter().map(|id| (id, until)));
    }

    /// What peers have not seen.
    pub(super) fn take_offers(&mut self) -> Vec<Bytes> {
        let messages = self.to_offer.drain(..);
        let mut bundles = GossipBundle::pack(messages.map(|message| message.encode()).collect());
        bundles.append(&mut self.to_relay);
        bundles
    }
}

/// Whether two messages of one attester about the same show that one is a lie.
fn contradicts(first: &AttesterMessage, second: &AttesterMessage) -> bool {
    match (first, second) {
        (AttesterMessage::Attestation(first), AttesterMessage::Attestation(second)) => {
            first.statement != second.statement
        }
        _ => false,
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    /// It is held already.
    Known,
    /// It is held from now on.
    Accepted,
    Refused(Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    code: u32,
    log: &'static str,
}

impl Look {
    const GARBAGE: Self = Self::refused(code::UNDECODABLE, "not an attester's message");
    const FORGED: Self = Self::refused(code::UNDECODABLE, "the attester's signature is forged");
    const TAKEN: Self = Self::refused(code::TAKEN, "the attester has said something else of this");
    const UNWANTED: Self = Self::refused(
        code::UNWANTED,
        "nobody waits for this attester's word on this",
    );
    const FULL: Self = Self::refused(code::FULL, "there is no room for attesters' messages");
    const BUSY: Self = Self::refused(
        code::BUSY,
        "no more is checked before the next block: use gRPC",
    );

    const fn refused(code: u32, log: &'static str) -> Self {
        Self::Refused(Refused { code, log })
    }

    fn into_verdict(self) -> Verdict {
        match self {
            Self::Known | Self::Accepted => Verdict::default(),
            Self::Refused(Refused { code, log }) => Verdict {
                code,
                log: log.into(),
            },
        }
    }

    fn counted(self) -> Self {
        let outcome = match self {
            Self::Known => "known",
            Self::Accepted => "accepted",
            Self::Refused(_) => "refused",
        };
        counter!(metric::ATTESTER_MESSAGES_OFFERED, "outcome" => outcome).increment(1);
        self
    }
}

/// The state that messages are judged by.
struct Judge {
    state: StateSnapshot,
    chain_id: String,
    tip: Height,
}

impl Judge {
    fn open(mempool: &Mempool) -> Result<Option<Self>, StoreError> {
        let state = mempool.store.state();
        let tip = state.tip().map_err(into_fault)?;
        if tip.initial.get() == 0 {
            return Ok(None);
        }
        let chain_id = query::chain(&state)?.chain_id;
        let tip = tip.height;
        Ok(Some(Self {
            state,
            chain_id,
            tip,
        }))
    }

    /// When a message is of use, if it ever is.
    fn due(&self, message: &AttesterMessage) -> Result<Option<Due>, StoreError> {
        if is_wanted(&self.state, message, self.tip)? {
            return Ok(Some(Due::Now));
        }
        Ok(is_early(&self.state, message, self.tip)?.then_some(Due::Early))
    }

    /// When what was said is of use, if it still is.
    fn keeps(&self, subject: &Subject, said: &Said) -> Result<Option<Due>, StoreError> {
        let age = self.tip.get().saturating_sub(said.since.get());
        if said.second.is_some() && age < EVIDENCE_HEIGHTS {
            let next = Height::new(self.tip.get().saturating_add(1));
            let votes = has_vote(&self.state, subject.rollup_id, &subject.attester, next)?;
            return Ok(votes.then_some(Due::Now));
        }
        let message = said.first.message();
        let bound = match message {
            AttesterMessage::Attestation(attestation) => is_bound(&self.state, attestation)?,
            AttesterMessage::Outcome(_) => false,
        };
        if bound {
            return Ok(Some(Due::Now));
        }
        self.due(message)
    }
}

impl Mempool {
    /// Takes in a message that was handed in here.
    pub(super) fn submit_message(
        &self,
        bytes: &[u8],
        source: Source,
    ) -> Result<Verdict, StoreError> {
        let Some(judge) = Judge::open(self)? else {
            let log = "the chain is not there yet".into();
            return Ok(Verdict {
                code: code::NO_CHAIN,
                log,
            });
        };
        let look = self.look_at_message(&judge, bytes, source)?;
        Ok(look.counted().into_verdict())
    }

    /// The same for CheckTx, which may verify only so many between two blocks.
    pub(super) fn check_message(
        &self,
        bytes: &[u8],
        source: Source,
    ) -> Result<Verdict, StoreError> {
        let may = self.pool().may_check_message();
        if !may {
            return Ok(Look::BUSY.counted().into_verdict());
        }
        self.submit_message(bytes, source)
    }

    /// Looks at a message that is to be handed to CometBFT's mempool.
    pub(super) fn examine_message(&self, bytes: &[u8]) -> Result<Prospect, StoreError> {
        let Some(judge) = Judge::open(self)? else {
            return Ok(Prospect::Refused(Look::UNWANTED.into_verdict()));
        };
        Ok(match self.verify_message(&judge, bytes)? {
            Ok(_) => Prospect::Sound,
            Err(Look::Known) => Prospect::Included,
            Err(look) => Prospect::Refused(look.into_verdict()),
        })
    }

    /// Whether exactly this message is held.
    pub(super) fn holds_message(&self, bytes: &[u8]) -> bool {
        AttesterMessage::decode(bytes)
            .is_ok_and(|message| self.pool().votes.standing(&message) == Standing::Known)
    }

    /// Cheap checks, and then the signature.
    fn verify_message(
        &self,
        judge: &Judge,
        bytes: &[u8],
    ) -> Result<Result<(VerifiedMessage, Due), Look>, StoreError> {
        let Ok(message) = AttesterMessage::decode(bytes) else {
            return Ok(Err(Look::GARBAGE));
        };
        let standing = self.pool().votes.standing(&message);
        let due = match standing {
            Standing::Known => return Ok(Err(Look::Known)),
            Standing::Taken => return Ok(Err(Look::TAKEN)),
            Standing::Contradicts => Due::Now,
            Standing::New => {
                let Some(due) = judge.due(&message)? else {
                    return Ok(Err(Look::UNWANTED));
                };
                let subject = Subject::of(&message);
                if let Some(crowded) = self.pool().votes.crowded(&subject, due) {
                    return Ok(Err(crowded));
                }
                due
            }
        };
        let verified = message.verify(&judge.chain_id);
        Ok(verified
            .map(|verified| (verified, due))
            .map_err(|_| Look::FORGED))
    }

    fn look_at_message(
        &self,
        judge: &Judge,
        bytes: &[u8],
        source: Source,
    ) -> Result<Look, StoreError> {
        let (message, due) = match self.verify_message(judge, bytes)? {
            Ok(verified) => verified,
            Err(look) => return Ok(look),
        };
        let mut pool = self.pool();
        let look = pool.votes.insert(message.clone(), due);
        if look == Look::Accepted {
            if source == Source::Local {
                pool.votes.to_offer.push(message.message().clone());
            }
            self.voted.notify_waiters();
        }
        Ok(look)
    }

    /// Takes in the next messages of the offer whose turn it is; says whether there were any.
    pub(super) fn take_in_messages(&self) -> Result<bool, StoreError> {
        let offer = self.pool().offered_votes.pop();
        let Some(mut offer) = offer else {
            return Ok(false);
        };
        let Some(judge) = Judge::open(self)? else {
            return Ok(true);
        };
        let end = offer.members.len().min(offer.done + BATCH);
        while offer.done < end && !offer.bad {
            let member = &offer.members[offer.done];
            let look = self.look_at_message(&judge, member, Source::Peer)?;
            offer.news |= look == Look::Accepted;
            // Who passes on garbage or forgeries has not looked at them, and wastes no more of us.
            offer.bad |= look == Look::GARBAGE || look == Look::FORGED;
            offer.done += 1;
            look.counted();
        }
        self.finish_messages(offer);
        Ok(true)
    }

    fn finish_messages(&self, offer: Offer) {
        let mut pool = self.pool();
        if offer.bad {
            debug!("peer offered a bad message of an attester");
            counter!(metric::BAD_OFFERS).increment(1);
        } else if offer.done < offer.members.len() {
            pool.offered_votes.put_back(offer);
        } else if self.gossip == Gossip::Relayed
            && offer.news
            && pool.votes.to_relay.len() < MAX_RELAYED
        {
            pool.votes.to_relay.extend(offer.bundle);
        }
    }

    /// What a proposer makes quorums of.
    #[must_use]
    pub(crate) fn attester_messages(&self) -> Vec<VerifiedMessage> {
        self.pool().votes.messages().cloned().collect()
    }

    /// Follows the committed state.
    pub(super) fn advance_votes(&self) -> Result<(), StoreError> {
        let Some(judge) = Judge::open(self)? else {
            return Ok(());
        };
        let held = self.pool().votes.said.clone();
        let mut judged = Vec::new();
        for (subject, said) in &held {
            judged.push((*subject, judge.keeps(subject, said)?));
        }
        let mut pool = self.pool();
        pool.votes.advance(judge.tip, &judged);
        let held = pool.votes.said.len();
        gauge!(metric::ATTESTER_MESSAGES).set(counterpoint_service::to_f64(held as u64));
        Ok(())
    }

    /// Waits, for `grace` at the most, until attesters have decided about all bundles that the next
    /// height may release. A rollup whose attesters let us wait in vain is not waited for again soon,
    /// so that silence does not slow the chain.
    ///
    /// # Errors
    /// [`StoreError`] if the store is broken.
    pub(crate) async fn wait_for_votes(&self, grace: Duration) -> Result<(), StoreError> {
        if grace.is_zero() {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let voted = self.voted.notified();
            tokio::pin!(voted);
            // What comes while we look is not missed.
            voted.as_mut().enable();
            let missing = self.missing_votes()?;
            if missing.is_empty() {
                break;
            }
            if timeout_at(start + grace, voted).await.is_err() {
                debug!(?missing, "attesters were waited for in vain");
                self.pool().votes.note_silent(missing);
                break;
            }
        }
        histogram!(metric::ATTESTATION_WAIT_SECONDS).record(start.elapsed());
        Ok(())
    }

    /// Those whose votes are worth waiting for.
    fn missing_votes(&self) -> Result<BTreeSet<Absent>, StoreError> {
        let state = self.store.state();
        let tip = state.tip().map_err(into_fault)?.height;
        let said = self.pool().votes.of_next_slot();
        let bundles = undecided(&state, &said, tip)?;
        let pool = self.pool();
        let worth = bundles
            .into_iter()
            .filter(|missing| pool.votes.is_worth_waiting(missing));
        Ok(worth.flatten().collect())
    }
}

#[cfg(test)]
mod tests;
