//! What a proposer makes of attesters' messages: exactly the canonical quorums.

use std::collections::{BTreeMap, BTreeSet};

use counterpoint_core::{
    atomic::{
        AtomicAbort, AtomicOutcome, AtomicRelease, Attestation, AttesterFault, AttesterMessage,
        FaultProof, LegOutcome, OutcomeVote, Quorum, Statement, SystemItem, VerifiedMessage, Vote,
        Votes,
    },
    key::PublicKey,
    primitive::{Hash, RollupId},
};

use super::{
    items::{Scheduled, Slot},
    rules::{self, Expected},
};
use crate::{
    lists::Lists,
    state::{StateRead, StoreError},
};

/// The system items that follow from `messages`, in the order of a block. Whether each is legal is
/// found out by trying it.
pub(crate) fn aggregate<S: StateRead>(
    slot: &Slot,
    messages: &[VerifiedMessage],
    lists: &Lists,
    state: &S,
) -> Result<Vec<SystemItem>, StoreError> {
    let (mut attestations, mut outcomes) = (Vec::new(), Vec::new());
    for message in messages {
        match message.message() {
            AttesterMessage::Attestation(attestation) => attestations.push(attestation),
            AttesterMessage::Outcome(vote) => outcomes.push(vote),
        }
    }
    let (said, told) = (by_leg(&attestations, leg_of), by_leg(&outcomes, told_of));
    let mut items = faults(&said, &told);
    items.extend(executed(&outcomes, lists, state)?);
    for scheduled in slot.bundles.values() {
        match decide(slot, scheduled, &said, lists, state)? {
            Decision::Item(item) => items.push(*item),
            Decision::Open(_) | Decision::Never => {}
        }
    }
    items.sort_by_key(SystemItem::order_key);
    items.dedup_by_key(|item| item.order_key());
    Ok(items)
}

/// Messages by the leg that they are about, so that each is looked at for that one alone.
pub(super) type ByLeg<'a, T> = BTreeMap<(Hash, RollupId), Vec<&'a T>>;

/// Puts messages in order.
pub(super) fn by_leg<'a, T>(messages: &[&'a T], leg: fn(&T) -> (Hash, RollupId)) -> ByLeg<'a, T> {
    let mut legs = ByLeg::new();
    for message in messages {
        legs.entry(leg(message)).or_default().push(*message);
    }
    legs
}

/// The leg that an attestation is about.
pub(super) fn leg_of(attestation: &Attestation) -> (Hash, RollupId) {
    let ballot = &attestation.ballot;
    (ballot.bundle_id, ballot.rollup_id)
}

fn told_of(vote: &OutcomeVote) -> (Hash, RollupId) {
    (vote.executed.bundle_id, vote.executed.rollup_id)
}

/// Who has not spoken, and so keeps a bundle from being decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absent {
    /// Attesters of a rollup.
    Attesters(RollupId),
    /// Somebody whom the bundle itself names. Anybody may name keys that never speak, and rollups must
    /// not be blamed for them.
    Extras,
}

/// What attesters decide about a scheduled bundle.
#[derive(Debug)]
pub(super) enum Decision {
    /// Its release, or what shows that it would fail.
    Item(Box<SystemItem>),
    /// Nothing yet; that is up to these, one for each leg that lacks votes.
    Open(Vec<Absent>),
    /// Nothing, whoever else speaks.
    Never,
}

/// What `attestations` decide about a bundle.
pub(super) fn decide<S: StateRead>(
    slot: &Slot,
    scheduled: &Scheduled,
    attestations: &ByLeg<'_, Attestation>,
    lists: &Lists,
    state: &S,
) -> Result<Decision, StoreError> {
    let bundle_id = scheduled.bundle.id();
    let extras = &scheduled.bundle.terms().extra_attesters;
    let (mut quorums, mut missing, mut split) = (Vec::new(), Vec::new(), false);
    for leg in &scheduled.record.legs {
        let Some(config) = lists.config(leg.rollup_id) else {
            return Ok(Decision::Never);
        };
        let Some(set) = &config.attesters.0 else {
            return Ok(Decision::Never);
        };
        let expected = Expected::of(&scheduled.bundle, leg.rollup_id, set.epoch, slot.pin);
        let (members, threshold) = (rules::voters(config, state)?, set.members.threshold());
        let of_leg = attestations.get(&(bundle_id, leg.rollup_id));
        let said = by_statement(&expected, of_leg.map_or(&[], Vec::as_slice));
        let quorum = |extras: &[PublicKey], wanted: &dyn Fn(&Statement) -> bool| {
            let mut wanted = said.iter().filter(|(statement, _)| wanted(statement));
            wanted.find_map(|(statement, votes)| {
                let votes = canonical(votes, &members, threshold, extras)?;
                let statement = (*statement).clone();
                Some(Quorum { statement, votes })
            })
        };
        let aborts = |statement: &Statement| matches!(statement.outcome, LegOutcome::Abort { tx, .. } if tx < leg.txs);
        if let Some(quorum) = quorum(&[], &aborts) {
            let abort = SystemItem::Abort(AtomicAbort {
                bundle_id,
                pin_height: slot.pin.height,
                rollup_id: leg.rollup_id,
                quorum,
            });
            return Ok(Decision::Item(Box::new(abort)));
        }
        let commits = |statement: &Statement| {
            matches!(statement.outcome, LegOutcome::Commit { in_hash, out_hash, .. }
                if (in_hash, out_hash) == (expected.in_hash, expected.out_hash))
        };
        if let Some(quorum) = quorum(extras, &commits) {
            quorums.push(quorum);
            continue;
        }
        let spoke = |key: &PublicKey| said.iter().any(|(_, votes)| votes.contains_key(key));
        split |= members.iter().chain(extras).all(spoke);
        missing.push(match quorum(&[], &commits) {
            Some(_) => Absent::Extras,
            None => Absent::Attesters(leg.rollup_id),
        });
    }
    Ok(if split {
        Decision::Never
    } else if missing.is_empty() {
        let release = SystemItem::Release(AtomicRelease {
            bundle_id,
            pin_height: slot.pin.height,
            quorums,
        });
        Decision::Item(Box::new(release))
    } else {
        Decision::Open(missing)
    })
}

/// Votes by attester.
type ByAttester = BTreeMap<PublicKey, Vote>;

/// What attesters say of a leg in this slot, and who says it.
fn by_statement<'a>(
    expected: &Expected,
    attestations: &[&'a Attestation],
) -> Vec<(&'a Statement, ByAttester)> {
    let mut said: Vec<(&Statement, ByAttester)> = Vec::new();
    for attestation in attestations
        .iter()
        .filter(|one| one.ballot == expected.ballot)
    {
        let vote = Vote {
            attester: attestation.attester,
            signature: attestation.signature,
        };
        let statement = &attestation.statement;
        match said.iter_mut().find(|(other, _)| *other == statement) {
            Some((_, votes)) => drop(votes.insert(vote.attester, vote)),
            None => said.push((statement, ByAttester::from([(vote.attester, vote)]))),
        }
    }
    said
}

/// The canonical quorum among votes for the same, if there is one: all extras, and of the set as many
/// as it takes.
fn canonical(
    votes: &ByAttester,
    members: &[PublicKey],
    threshold: u8,
    extras: &[PublicKey],
) -> Option<Votes> {
    let mut chosen: BTreeSet<PublicKey> = extras.iter().copied().collect();
    let bound = extras.iter().filter(|key| members.contains(key)).count();
    let missing = usize::from(threshold).saturating_sub(bound);
    let others = votes
        .keys()
        .filter(|key| members.contains(key) && !extras.contains(key));
    chosen.extend(others.take(missing));
    let chosen = chosen.iter().map(|key| votes.get(key).copied());
    let votes = Votes::new(chosen.collect::<Option<Vec<Vote>>>()?).ok()?;
    votes.check_voters(members, threshold, extras).ok()?;
    Some(votes)
}

/// Quorums of what attesters saw executed.
fn executed<S: StateRead>(
    outcomes: &[&OutcomeVote],
    lists: &Lists,
    state: &S,
) -> Result<Vec<SystemItem>, StoreError> {
    let mut said: BTreeMap<(Hash, RollupId, Hash), (&OutcomeVote, ByAttester)> = BTreeMap::new();
    for outcome in outcomes {
        let executed = &outcome.executed;
        let digest = Hash::tagged("", executed);
        let key = (executed.bundle_id, executed.rollup_id, digest);
        let vote = Vote {
            attester: outcome.attester,
            signature: outcome.signature,
        };
        let entry = said.entry(key).or_insert((outcome, ByAttester::new()));
        entry.1.insert(outcome.attester, vote);
    }
    let mut items = Vec::new();
    for ((_, rollup_id, _), (outcome, votes)) in said {
        let Some(config) = lists.config(rollup_id) else {
            continue;
        };
        let Some(set) = &config.attesters.0 else {
            continue;
        };
        let members = rules::voters(config, state)?;
        if let Some(votes) = canonical(&votes, &members, set.members.threshold(), &[]) {
            let executed = outcome.executed;
            items.push(SystemItem::Outcome(AtomicOutcome { executed, votes }));
        }
    }
    Ok(items)
}

/// Attesters whose own messages about one leg cannot all be honest.
fn faults(said: &ByLeg<'_, Attestation>, told: &ByLeg<'_, OutcomeVote>) -> Vec<SystemItem> {
    let mut items = Vec::new();
    for (leg, attestations) in said {
        let mut of: BTreeMap<PublicKey, Vec<&Attestation>> = BTreeMap::new();
        for attestation in attestations {
            of.entry(attestation.attester)
                .or_default()
                .push(attestation);
        }
        let outcomes = told.get(leg).map_or(&[][..], Vec::as_slice);
        for (key, attestations) in of {
            let pairs = attestations.iter().enumerate().flat_map(|(place, first)| {
                let rest = attestations.iter().skip(place.saturating_add(1));
                rest.map(|second| FaultProof::TwoStatements((*first).clone(), (*second).clone()))
            });
            let kept = outcomes.iter().filter(|vote| vote.attester == key);
            let broken = kept.flat_map(|vote| {
                let said = attestations.iter();
                said.map(|first| FaultProof::Contradiction((*first).clone(), (*vote).clone()))
            });
            let mut faults = pairs.chain(broken).map(|proof| AttesterFault { proof });
            let fault = faults.find(AttesterFault::contradicts_itself);
            items.extend(fault.map(|fault| SystemItem::Fault(Box::new(fault))));
        }
    }
    items
}
