//! Bundles against a model: whatever users, attesters and proposers do, a bundle is in all its rollups' blocks at one
//! height, or in none ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitData},
    atomic::{
        AtomicBundle, AttesterMessage, LegSeal, OnAbort, Statement, SystemItem, VerifiedMessage,
        keccak,
    },
    block::RollupItem,
    primitive::{Amount, Hash, Height, RollupId},
    state::{AbortReason, BundleStatus},
};
use counterpoint_machine::{Block, BlockContext, MemState, Outcome, finalize, process, query};
use proptest::{prelude::*, test_runner::TestRunner};

use super::support::{
    ATTESTERS, EXTRA, Sample, abort, attest, cancel, chain, commit, id, legs, reveal, sample,
    submit, tip,
};
use crate::support::{CHAIN_ID, Chain, key};

/// What happens in one block.
#[derive(Clone, Debug)]
struct Round {
    submits: Option<Plan>,
    /// Which of the bundles so far is revealed, and which called off.
    reveals: Option<prop::sample::Index>,
    cancels: Option<prop::sample::Index>,
    /// A leg that somebody tries to run alone.
    lifts: Option<prop::sample::Index>,
    /// A bundle whose first leg fails from now on: its sender has used the nonce otherwise.
    races: Option<prop::sample::Index>,
    votes: Votes,
    /// Proposals that are accepted and not decided, before the one that is.
    rounds: usize,
    /// Whether a node that was away comes back and replays what it missed.
    restarts: bool,
    millis: u64,
}

#[derive(Clone, Debug)]
struct Plan {
    names: Vec<&'static str>,
    tip: u32,
    attempts: u8,
    fail_fast: bool,
    extra: bool,
    life_secs: u64,
    /// Of which leg, if any, attesters see that it would fail.
    fails: Option<usize>,
}

/// How attesters and the proposer behave in one block.
#[derive(Clone, Debug)]
struct Votes {
    omitted: bool,
    /// One of each rollup's attesters, who says the opposite or something made up.
    liar: usize,
    lies: bool,
    /// Another, who says nothing.
    silent: bool,
    stale: bool,
    wrong_epoch: bool,
    twice: bool,
    extra_silent: bool,
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let names = prop::sample::subsequence(vec!["alpha", "beta", "gamma"], 2..=3);
    let fails = prop::option::weighted(0.3, 0_usize..2);
    let flags = (any::<bool>(), prop::bool::weighted(0.3));
    (names, 0_u32..2_000, 1_u8..4, flags, 1_u64..20, fails).prop_map(
        |(names, tip, attempts, (fail_fast, extra), life_secs, fails)| Plan {
            names,
            tip,
            attempts,
            fail_fast,
            extra,
            life_secs,
            fails,
        },
    )
}

fn any_votes() -> impl Strategy<Value = Votes> {
    let rarely = || prop::bool::weighted(0.15);
    let flags = (
        rarely(),
        any::<bool>(),
        rarely(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (flags, rarely(), 0_usize..3).prop_map(|(flags, extra_silent, liar)| {
        let (omitted, lies, silent, stale, wrong_epoch, twice) = flags;
        Votes {
            omitted,
            liar,
            lies,
            silent,
            stale,
            wrong_epoch,
            twice,
            extra_silent,
        }
    })
}

fn any_bundle_round() -> impl Strategy<Value = Round> {
    let index = |often| prop::option::weighted(often, any::<prop::sample::Index>());
    let submits = prop::option::weighted(0.4, any_plan());
    let millis = prop_oneof![8 => 50_u64..900, 1 => 900_u64..5_000];
    (
        submits,
        index(0.6),
        index(0.1),
        index(0.5),
        index(0.1),
        any_votes(),
        prop_oneof![4 => Just(0_usize), 1 => 1_usize..3],
        prop::bool::weighted(0.1),
        millis,
    )
        .prop_map(
            |(submits, reveals, cancels, lifts, races, votes, rounds, restarts, millis)| Round {
                submits,
                reveals,
                cancels,
                lifts,
                races,
                votes,
                rounds,
                restarts,
                millis,
            },
        )
}

/// What the model knows of a bundle.
struct Known {
    sample: Sample,
    plan: Plan,
    /// Whether the nonce of its first leg was used otherwise.
    raced: bool,
    released: bool,
    last: Option<BundleStatus>,
}

impl Known {
    /// Whether honest attesters see this leg fail.
    fn fails(&self, leg: usize) -> bool {
        self.plan.fails == Some(leg) || (self.raced && leg == 0)
    }
}

/// The bundle's life as its attesters and the proposer shape it.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    stale: Vec<VerifiedMessage>,
    sealed: BTreeSet<(RollupId, Hash)>,
}

impl Model {
    fn of(&self, bundle: &AtomicBundle) -> &Known {
        let mut known = self.known.iter();
        let found = known.find(|known| known.sample.bundle.id() == bundle.id());
        found.expect("only known bundles are scheduled")
    }

    /// What attesters send, and the bundles that must be released if all of it is used.
    fn vote(&self, chain: &Chain, votes: &Votes) -> (Vec<VerifiedMessage>, BTreeSet<Hash>) {
        let (mut messages, mut due) = (Vec::new(), BTreeSet::new());
        for scheduled in tip(chain) {
            let known = self.of(&scheduled.bundle);
            let mut complete = !known.plan.extra || !votes.extra_silent;
            for (place, leg) in scheduled.legs.iter().enumerate() {
                let honest = if known.fails(place) { abort } else { commit };
                let lie = if known.fails(place) { commit } else { abort };
                let mut said = Vec::new();
                for (voter, seed) in ATTESTERS.iter().enumerate() {
                    if votes.lies && voter == votes.liar {
                        said.push((*seed, lie(&scheduled.bundle, leg)));
                    } else if !votes.silent || voter != (votes.liar + 1) % 3 {
                        said.push((*seed, honest(&scheduled.bundle, leg)));
                    }
                }
                let agreed = |(_, said): &&(u8, Statement)| *said == honest(&scheduled.bundle, leg);
                complete &= said.iter().filter(agreed).count() >= 2 && !known.fails(place);
                if known.plan.extra && !votes.extra_silent {
                    said.push((EXTRA, honest(&scheduled.bundle, leg)));
                }
                let mut other = leg.clone();
                other.ballot.epoch += 1;
                for (seed, statement) in said {
                    messages.push(attest(leg, statement.clone(), seed));
                    if votes.twice {
                        messages.push(attest(leg, statement.clone(), seed));
                    }
                    if votes.wrong_epoch {
                        messages.push(attest(&other, statement, seed));
                    }
                }
            }
            if complete {
                due.insert(scheduled.bundle.id());
            }
        }
        if votes.stale {
            messages.extend(self.stale.iter().cloned());
        }
        (messages, due)
    }

    fn submit(&mut self, chain: &Chain, plan: Plan) -> Action {
        let nonce = 1_000 + self.known.len() as u64;
        let sample = sample(chain, &plan.names, nonce, |t| {
            t.tip_per_attempt = Amount::new(plan.tip.into());
            t.max_attempts = plan.attempts;
            t.valid_until = t.valid_from + plan.life_secs;
            t.on_abort = if plan.fail_fast {
                OnAbort::FailFast
            } else {
                OnAbort::Retry
            };
            if plan.extra {
                t.extra_attesters = vec![key(EXTRA).public_key()];
            }
        });
        let action = submit(&sample);
        self.known.push(Known {
            sample,
            plan,
            raced: false,
            released: false,
            last: None,
        });
        action
    }

    /// The invariants I1 to I4 after a block.
    fn check(&mut self, chain: &Chain, items: &[Bytes], outcome: &Outcome, height: u64, pin: Hash) {
        let sealed = |known: &&Known| {
            query::bundle(&chain.state, known.sample.bundle.id())
                .unwrap()
                .is_some()
        };
        for known in self.known.iter().filter(sealed) {
            for (seal, raws) in known
                .sample
                .bundle
                .terms()
                .legs
                .iter()
                .zip(&known.sample.legs)
            {
                let hashes = raws.iter().map(|raw| (seal.rollup_id, keccak(raw)));
                self.sealed.extend(hashes);
            }
        }
        let mut released: BTreeMap<Hash, BTreeMap<RollupId, Vec<Bytes>>> = BTreeMap::new();
        for slice in &outcome.rollups {
            let mut bundles = BTreeSet::new();
            for item in &slice.items {
                match item {
                    RollupItem::Leg { bundle_id, raw } => {
                        bundles.insert(*bundle_id);
                        let legs = released.entry(*bundle_id).or_default();
                        legs.entry(slice.leaf.rollup_id)
                            .or_default()
                            .push(raw.clone());
                        assert!(slice.leaf.env.opens, "I1: only in the block that opens");
                    }
                    RollupItem::Transaction(raw) => {
                        let key = (slice.leaf.rollup_id, keccak(raw));
                        assert!(!self.sealed.contains(&key), "I2: sealed {raw:?}");
                    }
                    RollupItem::Deposit { .. } => {}
                }
            }
            assert!(bundles.len() <= 1, "I3: one release per rollup and slot");
        }
        for known in &mut self.known {
            let id = known.sample.bundle.id();
            if let Some(legs) = released.remove(&id) {
                assert!(!std::mem::replace(&mut known.released, true), "I1: once");
                let terms = known.sample.bundle.terms();
                let sealed = terms.legs.iter().zip(&known.sample.legs);
                let all = sealed.map(|(leg, raws)| (leg.rollup_id, raws.clone()));
                assert_eq!(legs, all.collect(), "I1: all legs, complete");
                let fails = (0..terms.legs.len()).any(|leg| known.fails(leg));
                assert!(!fails, "a leg ran that honest attesters saw fail");
            }
            let status = query::bundle(&chain.state, id)
                .unwrap()
                .map(|record| record.status);
            if let Some(last) = known
                .last
                .filter(|last| !last.is_live() && *last != BundleStatus::Released)
            {
                assert_eq!(status, Some(last), "I3: an end is for ever");
            }
            if let Some(BundleStatus::Aborted(_)) = status {
                assert!(!known.released, "I1: aborted and released");
            }
            known.last = status;
        }
        assert!(released.is_empty(), "only what was sealed is released");
        check_votes(items, height, pin);
    }
}

/// I4: every vote of a release has the pin and the epoch of its slot.
fn check_votes(items: &[Bytes], height: u64, pin: Hash) {
    use counterpoint_core::atomic::{Ballot, Pin};
    for item in items
        .iter()
        .filter_map(|item| SystemItem::decode(item).unwrap())
    {
        let SystemItem::Release(release) = item else {
            continue;
        };
        for quorum in &release.quorums {
            let signed = ["alpha", "beta", "gamma"].into_iter().find(|name| {
                let ballot = Ballot {
                    bundle_id: release.bundle_id,
                    rollup_id: id(name),
                    epoch: 1,
                    pin: Pin {
                        height: Height::new(height - 1),
                        hash: pin,
                    },
                };
                let digest = ballot.digest(CHAIN_ID, &quorum.statement);
                let mut votes = quorum.votes.signed(digest);
                votes.all(|(key, digest, signature)| {
                    key.verify(digest.as_bytes(), &signature).is_ok()
                })
            });
            assert!(signed.is_some(), "I4: a vote has another pin or epoch");
        }
    }
}

/// A node that is away now and then, and replays what it missed when it comes back.
struct Replica {
    state: MemState,
    missed: Vec<(BlockContext, Vec<Bytes>, Hash)>,
}

impl Replica {
    fn restart(&mut self) {
        for (ctx, items, hash) in self.missed.drain(..) {
            let block = Block::decode(&items, |_| None).unwrap();
            let execution = process(&self.state, &ctx, &block).expect("a decided block is valid");
            self.state.apply(finalize(execution, hash).unwrap().changes);
        }
    }
}

/// What became of the bundles of all cases, so that one can see that the test is not about nothing.
#[derive(Debug, Default)]
struct Tally {
    bundles: AtomicUsize,
    released: AtomicUsize,
    attested: AtomicUsize,
    offline: AtomicUsize,
    other: AtomicUsize,
    live: AtomicUsize,
}

impl Tally {
    fn count(&self, model: &Model) {
        let add = |counter: &AtomicUsize| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        for known in model.known.iter().filter(|known| known.last.is_some()) {
            add(&self.bundles);
            add(match known.last {
                _ if known.released => &self.released,
                Some(BundleStatus::Aborted(
                    AbortReason::Attested { .. } | AbortReason::Attempts,
                )) => &self.attested,
                Some(BundleStatus::Aborted(AbortReason::AttestersOffline)) => &self.offline,
                Some(BundleStatus::Aborted(_)) => &self.other,
                _ => &self.live,
            });
        }
    }
}

fn play(rounds: Vec<Round>, tally: &Tally) {
    let (mut chain, mut model) = (chain(), Model::default());
    let mut replica = Replica {
        state: chain.state.clone(),
        missed: Vec::new(),
    };
    for round in rounds {
        let mut actions = Vec::new();
        if let Some(plan) = round.submits {
            actions.push(model.submit(&chain, plan));
        }
        let pick = |index: &prop::sample::Index| {
            let known = (!model.known.is_empty()).then(|| index.index(model.known.len()));
            known.map(|place| (place, model.known[place].sample.clone()))
        };
        let picked = |index: &Option<prop::sample::Index>| index.as_ref().and_then(pick);
        actions.extend(picked(&round.reveals).map(|(_, sample)| reveal(&sample)));
        actions.extend(picked(&round.cancels).map(|(_, sample)| cancel(&sample)));
        let (lifted, raced) = (picked(&round.lifts), picked(&round.races));
        let mut txs = Vec::new();
        for (place, action) in actions.into_iter().enumerate() {
            let nonce = chain.nonce(2) + place as u64;
            txs.push(chain.sign(2, nonce, 1, vec![action]));
        }
        if let Some((_, sample)) = lifted {
            let legs = sample.bundle.terms().legs.iter().zip(&sample.legs);
            let lift = |(leg, raws): (&LegSeal, &Vec<Bytes>)| {
                Action::SubmitData(SubmitData::new(leg.rollup_id, raws.clone()).unwrap())
            };
            txs.push(chain.sign(3, chain.nonce(3), 5, legs.map(lift).collect()));
        }
        if let Some((place, _)) = raced {
            let known = &mut model.known[place];
            known.raced |= !known.released;
        }
        let (messages, due) = model.vote(&chain, &round.votes);
        let honest = |message: &&VerifiedMessage| matches!(message.message(), AttesterMessage::Attestation(one) if one.commits());
        model.stale = messages.iter().filter(honest).cloned().collect();
        // Other proposers hear fewer attesters; what they propose is valid, and without effect.
        for heard in 0..round.rounds {
            let some = messages.iter().skip(1).step_by(1 + heard);
            chain.messages = some.cloned().collect();
            let items = chain.propose(txs.clone());
            chain
                .judge(&items)
                .expect("every honest proposal is accepted");
        }
        let omitted = round.votes.omitted;
        chain.messages = if omitted { vec![] } else { messages };
        let (ctx, pin) = (chain.ctx(), chain.last_hash());
        let height = ctx.height.get();
        let (items, outcome) = chain.advance(txs, round.millis);
        model.check(&chain, &items, &outcome, height, pin);
        let released: BTreeSet<Hash> = legs(&outcome).iter().map(|(_, id, _)| *id).collect();
        if omitted {
            assert!(released.is_empty());
        } else {
            assert_eq!(
                released, due,
                "what all agree on is released, and nothing else"
            );
        }
        replica.missed.push((ctx, items, chain.last_hash()));
        if round.restarts {
            replica.restart();
        }
    }
    replica.restart();
    assert_eq!(replica.state, chain.state, "a replay is the same");
    assert_eq!(chain.app_hash, chain.root_of_everything());
    tally.count(&model);
}

/// At least so many bundles are tried by `COUNTERPOINT_BUNDLES`.
fn bundles() -> usize {
    std::env::var("COUNTERPOINT_BUNDLES").map_or(300, |count| count.parse().unwrap())
}

#[test]
fn bundles_run_whole_or_never() {
    let tally = Tally::default();
    let rounds = prop::collection::vec(any_bundle_round(), 10..40);
    while tally.bundles.load(Ordering::Relaxed) < bundles() {
        let config = ProptestConfig {
            cases: 16,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = TestRunner::new(config);
        let played = runner.run(&rounds, |rounds| {
            play(rounds, &tally);
            Ok(())
        });
        played.unwrap_or_else(|failure| panic!("{failure}"));
    }
    println!("{tally:?}");
    let all = [
        &tally.released,
        &tally.attested,
        &tally.offline,
        &tally.other,
    ];
    assert!(
        all.iter().all(|count| count.load(Ordering::Relaxed) > 0),
        "{tally:?}"
    );
}
