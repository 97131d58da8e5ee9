//! What a forger may try, and what honest validators say of it.

use borsh::BorshSerialize;
use bytes::Bytes;
use counterpoint_core::{
    atomic::{
        AtomicBundle, Attestation, AttesterFault, Ballot, Executed, Failure, FaultProof, LegEnv,
        LegOutcome, OutcomeVote, Statement, SystemItem, Vote, inbox_hash, outbox_hash,
    },
    block::Tag,
    primitive::{Hash, Height, RollupId},
    state::ReleaseRecord,
};

use super::{EXTRA, attesters};
use crate::bundles::{ROLLUPS, key};

/// Not an attester of anything.
const STRANGER: u8 = 49;

/// A slot of a bundle that the user's own attester guards.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) pin: u64,
    pub(super) bundle: AtomicBundle,
    pub(super) legs: Vec<(Ballot, LegEnv)>,
}

/// A bundle whose outcome is waited for.
#[derive(Clone)]
pub(super) struct Released {
    pub(super) bundle: AtomicBundle,
    pub(super) release: ReleaseRecord,
}

/// What the forger knows when it proposes.
pub(super) struct Scene {
    /// The last slot that anybody knows of.
    pub(super) slot: Slot,
    pub(super) released: Released,
}

/// At which of its turns the forger tries something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// When the slot opens.
    Opening,
    /// When it has opened before.
    Later,
}

/// One thing that the forger tries.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) when: When,
    /// The items behind the preamble.
    pub(super) forge: fn(&Scene) -> Vec<Bytes>,
    /// What honest validators must say.
    pub(super) reason: &'static str,
}

const fn row(
    name: &'static str,
    when: When,
    forge: fn(&Scene) -> Vec<Bytes>,
    reason: &'static str,
) -> Row {
    Row {
        name,
        when,
        forge,
        reason,
    }
}

const NO_VOTE: &str = "has no vote";
const TOO_FEW: &str = "1 attesters of the set voted, not 2";
const TOO_MANY: &str = "3 attesters of the set voted, not 2";
const SIGNATURE: &str = "a signature does not verify";
const STATEMENT: &str = "the statement is another";
const ENVIRONMENT: &str = "the environment is another";
const UNDECODABLE: &str = "system item 1 does not decode";
const NOT_SCHEDULED: &str = "is not scheduled for this height";
const ORDER: &str = "it is out of order";
const NOBODY_WAITS: &str = "nobody waits for this outcome";
const NO_PROOF: &str = "it proves nothing against an attester that has a vote";

use When::{Later, Opening};

/// Everything that is tried.
pub(super) const ROWS: [Row; 54] = [
    row(
        "the release without the legs in the lists",
        Opening,
        |s| release(s, |_| {}),
        "preamble does not match the lists",
    ),
    row(
        "a release without a leg",
        Opening,
        |s| sealed(s, |d| drop(d.quorums.pop())),
        "it has 1 quorums, the bundle has other legs",
    ),
    row(
        "legs in another order",
        Opening,
        |s| sealed(s, |d| d.quorums.swap(0, 1)),
        NO_VOTE,
    ),
    row(
        "a release with something behind it",
        Opening,
        |s| vec![[&release(s, |_| {})[0][..], &[0]].concat().into()],
        UNDECODABLE,
    ),
    row(
        "the same release twice",
        Opening,
        |s| [release(s, |_| {}), release(s, |_| {})].concat(),
        ORDER,
    ),
    row(
        "an abort behind the release",
        Opening,
        |s| [release(s, |_| {}), abort(s, |_| {})].concat(),
        ORDER,
    ),
    row(
        "a release that is pinned to an earlier height",
        Opening,
        |s| sealed(s, |d| d.pin_height = Height::new(s.slot.pin - 1)),
        "which is not the one before",
    ),
    row(
        "votes pinned to an earlier height",
        Opening,
        |s| release(s, |l| l[0].ballot.pin.height = Height::new(s.slot.pin - 1)),
        SIGNATURE,
    ),
    row(
        "votes pinned to another block",
        Opening,
        |s| release(s, |l| l[0].ballot.pin.hash = Hash::ZERO),
        SIGNATURE,
    ),
    row(
        "votes on another bundle",
        Opening,
        |s| release(s, |l| l[0].ballot.bundle_id = s.released.bundle.id()),
        SIGNATURE,
    ),
    row(
        "votes on another rollup's leg",
        Opening,
        |s| release(s, |l| l[0].ballot.rollup_id = l[1].ballot.rollup_id),
        SIGNATURE,
    ),
    row(
        "votes of another chain",
        Opening,
        |s| release(s, |l| l[1].chain_id = "another-chain".into()),
        SIGNATURE,
    ),
    row(
        "votes of an old epoch",
        Opening,
        |s| release(s, |l| l[0].ballot.epoch -= 1),
        SIGNATURE,
    ),
    row(
        "votes of an epoch to come",
        Opening,
        |s| release(s, |l| l[1].ballot.epoch += 1),
        SIGNATURE,
    ),
    row(
        "a vote that is none",
        Opening,
        |s| {
            sealed(s, |d| {
                d.quorums[1].1[0].signature = d.quorums[1].1[1].signature;
            })
        },
        SIGNATURE,
    ),
    row(
        "votes on two statements",
        Opening,
        |s| sealed(s, |d| d.quorums[0].0.parent_hash = Hash::ZERO),
        SIGNATURE,
    ),
    row(
        "the other bundle's release",
        Opening,
        |s| sealed(s, |d| d.bundle_id = s.released.bundle.id()),
        NOT_SCHEDULED,
    ),
    row(
        "the release of a bundle that nobody knows",
        Opening,
        |s| sealed(s, |d| d.bundle_id = Hash::ZERO),
        NOT_SCHEDULED,
    ),
    row(
        "a vote too few",
        Opening,
        |s| release(s, |l| at(l, "alpha").signers = vec![50, EXTRA]),
        TOO_FEW,
    ),
    row(
        "a vote too many",
        Opening,
        |s| release(s, |l| at(l, "beta").signers.push(55)),
        TOO_MANY,
    ),
    row(
        "a vote that is counted twice",
        Opening,
        |s| {
            sealed(s, |d| {
                let twice = d.quorums[0].1[0];
                d.quorums[0].1.insert(0, twice);
            })
        },
        UNDECODABLE,
    ),
    row(
        "votes in another order",
        Opening,
        |s| sealed(s, |d| d.quorums[0].1.reverse()),
        UNDECODABLE,
    ),
    row(
        "no votes",
        Opening,
        |s| sealed(s, |d| d.quorums[0].1.clear()),
        UNDECODABLE,
    ),
    row(
        "the vote of a liar who was caught",
        Opening,
        |s| release(s, |l| at(l, "alpha").signers = vec![50, 52, EXTRA]),
        NO_VOTE,
    ),
    row(
        "the vote of another rollup's attester",
        Opening,
        |s| release(s, |l| at(l, "alpha").signers = vec![50, 53, EXTRA]),
        NO_VOTE,
    ),
    row(
        "a stranger's vote",
        Opening,
        |s| release(s, |l| at(l, "beta").signers = vec![STRANGER, 53, EXTRA]),
        NO_VOTE,
    ),
    row(
        "no word of the user's own attester",
        Opening,
        |s| release(s, |l| l[1].signers.retain(|seed| *seed != EXTRA)),
        "the vote of extra attester",
    ),
    row(
        "another environment",
        Opening,
        |s| release(s, |l| l[0].statement.env_hash = Hash::ZERO),
        ENVIRONMENT,
    ),
    row(
        "another base fee",
        Opening,
        |s| release(s, |l| l[0].statement.base_fee += 1),
        ENVIRONMENT,
    ),
    row(
        "other messages received",
        Opening,
        |s| release(s, |l| commit(&mut l[0], |c| *c.0 = Hash::ZERO)),
        STATEMENT,
    ),
    row(
        "other messages sent",
        Opening,
        |s| release(s, |l| commit(&mut l[1], |c| *c.1 = Hash::ZERO)),
        STATEMENT,
    ),
    row(
        "the release of a leg that fails",
        Opening,
        |s| release(s, |l| l[0].statement.outcome = FAILS),
        STATEMENT,
    ),
    row(
        "an abort by too few",
        Opening,
        |s| abort(s, |l| l.signers.truncate(1)),
        TOO_FEW,
    ),
    row(
        "an abort by a liar who was caught",
        Opening,
        |s| abort(s, |l| l.signers = vec![51, 52]),
        NO_VOTE,
    ),
    row(
        "an abort by the user's own attester",
        Opening,
        |s| abort(s, |l| l.signers.push(EXTRA)),
        NO_VOTE,
    ),
    row(
        "an abort that says commit",
        Opening,
        |s| abort(s, |l| l.statement = statement(s, 0)),
        STATEMENT,
    ),
    row(
        "an abort for a transaction that is not there",
        Opening,
        |s| {
            abort(s, |l| {
                l.statement.outcome = LegOutcome::Abort {
                    failure: Failure::Nonce,
                    tx: 1,
                }
            })
        },
        STATEMENT,
    ),
    row(
        "an abort in another environment",
        Opening,
        |s| abort(s, |l| l.statement.env_hash = Hash::ZERO),
        ENVIRONMENT,
    ),
    row(
        "an abort of another slot",
        Opening,
        |s| abort(s, |l| l.ballot.pin.hash = Hash::ZERO),
        SIGNATURE,
    ),
    row(
        "an abort for a rollup that is not touched",
        Opening,
        |s| abort_of(s, RollupId::from_name("gamma"), |_| {}),
        "the bundle has no leg for rollup",
    ),
    row(
        "a release after its slot",
        Later,
        |s| release(s, |_| {}),
        NOT_SCHEDULED,
    ),
    row(
        "an abort after its slot",
        Later,
        |s| abort(s, |_| {}),
        NOT_SCHEDULED,
    ),
    row(
        "the outcome of what was not released",
        Later,
        |s| outcome(s, &s.slot.bundle, |_| {}, &[50, 51]),
        NOBODY_WAITS,
    ),
    row(
        "the outcome in another block",
        Later,
        |s| outcome(s, &s.released.bundle, |e| e.block_number += 1, &[50, 51]),
        NOBODY_WAITS,
    ),
    row(
        "an outcome by too few",
        Later,
        |s| outcome(s, &s.released.bundle, |_| {}, &[50]),
        TOO_FEW,
    ),
    row(
        "an outcome by another rollup's attesters",
        Later,
        |s| outcome(s, &s.released.bundle, |_| {}, &[53, 54]),
        NO_VOTE,
    ),
    row(
        "an outcome that nobody signed",
        Later,
        |s| {
            vec![forge_last_byte(
                &outcome(s, &s.released.bundle, |_| {}, &[50, 51])[0],
            )]
        },
        SIGNATURE,
    ),
    row(
        "the same outcome twice",
        Later,
        |s| {
            let one = outcome(s, &s.released.bundle, |_| {}, &[50, 51]);
            [one.clone(), one].concat()
        },
        ORDER,
    ),
    row(
        "the same word twice as a lie",
        Later,
        |s| fault(s, 50, |_| {}),
        NO_PROOF,
    ),
    row(
        "words about two slots as a lie",
        Later,
        |s| fault(s, 50, |second| second.ballot.pin.height = Height::new(1)),
        NO_PROOF,
    ),
    row(
        "a stranger's lie",
        Later,
        |s| fault(s, STRANGER, |second| second.statement.base_fee += 1),
        NO_PROOF,
    ),
    row(
        "a lie that its attester did not sign",
        Later,
        fault_unsigned,
        SIGNATURE,
    ),
    row(
        "a word that was kept as a lie",
        Later,
        |s| contradiction(s, |_, _| {}),
        NO_PROOF,
    ),
    row(
        "a word about another slot as a lie",
        Later,
        |s| {
            contradiction(s, |said, kept| {
                said.ballot.pin.hash = Hash::ZERO;
                kept.receipts_hash = Hash::ZERO;
            })
        },
        NO_PROOF,
    ),
];

const FAILS: LegOutcome = LegOutcome::Abort {
    failure: Failure::Revert,
    tx: 0,
};

/// A leg, before its votes are signed.
pub(super) struct Leg {
    pub(super) chain_id: String,
    pub(super) ballot: Ballot,
    pub(super) statement: Statement,
    pub(super) signers: Vec<u8>,
}

/// A release whose votes are signed: it is encoded as an `AtomicRelease` is, without its checks.
#[derive(BorshSerialize)]
struct Draft {
    bundle_id: Hash,
    pin_height: Height,
    quorums: Vec<(Statement, Vec<Vote>)>,
}

fn name(rollup_id: RollupId) -> &'static str {
    let mut names = ROLLUPS.iter().map(|(name, _)| *name);
    names
        .find(|name| RollupId::from_name(name) == rollup_id)
        .unwrap()
}

fn at<'a>(legs: &'a mut [Leg], rollup: &str) -> &'a mut Leg {
    let id = RollupId::from_name(rollup);
    let mut legs = legs.iter_mut();
    legs.find(|leg| leg.ballot.rollup_id == id).unwrap()
}

fn place(bundle: &AtomicBundle, rollup: &str) -> usize {
    let id = RollupId::from_name(rollup);
    let mut rollups = bundle.rollups().into_iter();
    rollups.position(|other| other == id).unwrap()
}

/// What honest attesters say of a leg that commits.
pub(super) fn statement_of(bundle: &AtomicBundle, ballot: &Ballot, env: &LegEnv) -> Statement {
    let (rollup_id, messages) = (ballot.rollup_id, &bundle.terms().messages);
    let env = LegEnv {
        base_fee: 7,
        ..env.clone()
    };
    Statement {
        parent_hash: Hash::new([1; 32]),
        env_hash: env.hash(),
        base_fee: 7,
        outcome: LegOutcome::Commit {
            in_hash: inbox_hash(&rollup_id, messages),
            out_hash: outbox_hash(&rollup_id, messages),
            receipts_hash: Hash::digest(&[rollup_id.as_bytes()]),
        },
    }
}

fn statement(scene: &Scene, leg: usize) -> Statement {
    let (ballot, env) = &scene.slot.legs[leg];
    statement_of(&scene.slot.bundle, ballot, env)
}

/// The leg with the votes that release it.
fn leg(scene: &Scene, place: usize) -> Leg {
    let ballot = scene.slot.legs[place].0;
    let [first, second, _] = attesters(name(ballot.rollup_id));
    Leg {
        chain_id: scene.slot.bundle.terms().chain_id.clone(),
        ballot,
        statement: statement(scene, place),
        signers: vec![first, second, EXTRA],
    }
}

fn sign(leg: &Leg) -> (Statement, Vec<Vote>) {
    let vote = |seed: &u8| {
        let statement = leg.statement.clone();
        let said = Attestation::sign(&leg.chain_id, leg.ballot, statement, &key(*seed));
        Vote {
            attester: said.attester,
            signature: said.signature,
        }
    };
    let mut votes: Vec<Vote> = leg.signers.iter().map(vote).collect();
    votes.sort_by_key(|vote| vote.attester);
    (leg.statement.clone(), votes)
}

fn encode(tag: Tag, body: &impl BorshSerialize) -> Bytes {
    [vec![tag.byte()], borsh::to_vec(body).unwrap()]
        .concat()
        .into()
}

/// The release of the slot, but for what `change` does before its votes are signed.
fn release(scene: &Scene, change: impl FnOnce(&mut Vec<Leg>)) -> Vec<Bytes> {
    let mut legs = vec![leg(scene, 0), leg(scene, 1)];
    change(&mut legs);
    let draft = Draft {
        bundle_id: scene.slot.bundle.id(),
        pin_height: Height::new(scene.slot.pin),
        quorums: legs.iter().map(sign).collect(),
    };
    vec![encode(Tag::AtomicRelease, &draft)]
}

/// The release of the slot, but for what `change` does after its votes are signed.
fn sealed(scene: &Scene, change: impl FnOnce(&mut Draft)) -> Vec<Bytes> {
    let mut draft = Draft {
        bundle_id: scene.slot.bundle.id(),
        pin_height: Height::new(scene.slot.pin),
        quorums: [0, 1].map(|place| sign(&leg(scene, place))).to_vec(),
    };
    change(&mut draft);
    vec![encode(Tag::AtomicRelease, &draft)]
}

fn commit(leg: &mut Leg, change: impl FnOnce((&mut Hash, &mut Hash))) {
    if let LegOutcome::Commit {
        in_hash, out_hash, ..
    } = &mut leg.statement.outcome
    {
        change((in_hash, out_hash));
    }
}

/// What shows that alpha's leg would fail, but for what `change` does to it.
fn abort(scene: &Scene, change: impl FnOnce(&mut Leg)) -> Vec<Bytes> {
    abort_of(scene, RollupId::from_name("alpha"), change)
}

fn abort_of(scene: &Scene, rollup_id: RollupId, change: impl FnOnce(&mut Leg)) -> Vec<Bytes> {
    let mut leg = leg(scene, place(&scene.slot.bundle, "alpha"));
    leg.statement.outcome = FAILS;
    leg.signers.retain(|seed| *seed != EXTRA);
    change(&mut leg);
    let quorum = sign(&leg);
    let pin_height = Height::new(scene.slot.pin);
    let body = (scene.slot.bundle.id(), pin_height, rollup_id, quorum);
    vec![encode(Tag::AtomicAbort, &body)]
}

/// What attesters say became of alpha's leg.
fn executed(scene: &Scene, bundle: &AtomicBundle) -> Executed {
    let leg = scene.released.release.legs[place(&scene.released.bundle, "alpha")];
    Executed {
        bundle_id: bundle.id(),
        rollup_id: RollupId::from_name("alpha"),
        block_number: leg.block_number,
        block_hash: Hash::ZERO,
        receipts_hash: leg.receipts_hash,
    }
}

fn outcome(
    scene: &Scene,
    bundle: &AtomicBundle,
    change: impl FnOnce(&mut Executed),
    signers: &[u8],
) -> Vec<Bytes> {
    let mut executed = executed(scene, bundle);
    change(&mut executed);
    let vote = |seed: &u8| {
        let said = OutcomeVote::sign(&bundle.terms().chain_id, executed, &key(*seed));
        Vote {
            attester: said.attester,
            signature: said.signature,
        }
    };
    let mut votes: Vec<Vote> = signers.iter().map(vote).collect();
    votes.sort_by_key(|vote| vote.attester);
    vec![encode(Tag::AtomicOutcome, &(executed, votes))]
}

fn forge_last_byte(item: &Bytes) -> Bytes {
    let mut forged = item.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    forged.into()
}

/// What an attester says of alpha's leg in the slot.
fn attestation(scene: &Scene, seed: u8, change: impl FnOnce(&mut Leg)) -> Attestation {
    let mut leg = leg(scene, place(&scene.slot.bundle, "alpha"));
    change(&mut leg);
    Attestation::sign(&leg.chain_id, leg.ballot, leg.statement, &key(seed))
}

fn accuse(proof: FaultProof) -> Vec<Bytes> {
    let fault = SystemItem::Fault(Box::new(AttesterFault { proof }));
    vec![fault.encode()]
}

/// A word and another one, held against an attester.
fn fault(scene: &Scene, seed: u8, change: impl FnOnce(&mut Leg)) -> Vec<Bytes> {
    let first = attestation(scene, seed, |_| {});
    accuse(FaultProof::TwoStatements(
        first,
        attestation(scene, seed, change),
    ))
}

fn fault_unsigned(scene: &Scene) -> Vec<Bytes> {
    let first = attestation(scene, 50, |_| {});
    let mut second = attestation(scene, 50, |leg| leg.statement.outcome = FAILS);
    second.signature = first.signature;
    accuse(FaultProof::TwoStatements(first, second))
}

/// An attester's word on the released leg, and what it said of it afterwards.
fn contradiction(scene: &Scene, change: impl FnOnce(&mut Leg, &mut Executed)) -> Vec<Bytes> {
    let mut executed = executed(scene, &scene.released.bundle);
    let said = attestation(scene, 50, |leg| {
        leg.ballot.bundle_id = scene.released.bundle.id();
        leg.ballot.pin = scene.released.release.pin;
        change(leg, &mut executed);
    });
    let vote = OutcomeVote::sign(&scene.slot.bundle.terms().chain_id, executed, &key(50));
    accuse(FaultProof::Contradiction(said, vote))
}
