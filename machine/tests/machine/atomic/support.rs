//! Rollups with attesters, bundles, and what attesters say of them.

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, CancelBundle, RevealLegs, SubmitBundle},
    atomic::{
        AtomicBundle, Attestation, AttesterKeys, AttesterMessage, AttesterSet, Attesters,
        BundleTerms, EvmSignature, Executed, Failure, LegOutcome, LegSeal, OnAbort, OutcomeVote,
        SealedTx, Statement, VerifiedMessage, inbox_hash, keccak, outbox_hash, testing,
    },
    block::RollupItem,
    key::PublicKey,
    primitive::{Amount, Hash, Height, RollupId},
    registry::RollupConfig,
    state::{BundleRecord, BundleStatus, ReleaseRecord},
};
use counterpoint_machine::{Outcome, ScheduledBundle, ScheduledLeg, query, scheduled};
use proptest::prelude::*;

use crate::support::{CHAIN_ID, Chain, GENESIS_SECS, key, rollup};

/// Attesters have the seeds 50, 51 and 52; two make a quorum.
pub(super) const ATTESTERS: [u8; 3] = [50, 51, 52];
/// Somebody whose word a bundle may ask for.
pub(super) const EXTRA: u8 = 60;

pub(super) fn set(epoch: u64, seeds: &[u8]) -> AttesterSet {
    let mut keys: Vec<PublicKey> = seeds.iter().map(|seed| key(*seed).public_key()).collect();
    keys.sort();
    let members = AttesterKeys::new(keys, 2).unwrap();
    AttesterSet { epoch, members }
}

pub(super) fn attested(name: &str, slot_secs: u8) -> RollupConfig {
    RollupConfig {
        attesters: attesters(),
        ..rollup(name, slot_secs)
    }
}

pub(super) fn chain() -> Chain {
    let rollups = vec![
        attested("alpha", 1),
        attested("beta", 1),
        attested("gamma", 2),
    ];
    let mut chain = Chain::new(rollups, 5);
    chain.max_bytes = 100_000;
    chain.advance(vec![], 250);
    chain
}

pub(super) fn id(name: &str) -> RollupId {
    RollupId::from_name(name)
}

pub(super) fn now(chain: &Chain) -> u64 {
    chain.millis / 1_000
}

/// A bundle with its raw legs.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) bundle: AtomicBundle,
    pub(super) legs: Vec<Vec<Bytes>>,
}

/// Seals one transaction per rollup, whose nonces start at `nonce` so that no two are equal.
pub(super) fn sample(
    chain: &Chain,
    names: &[&str],
    nonce: u64,
    change: impl FnOnce(&mut BundleTerms),
) -> Sample {
    sample_at(now(chain), names, nonce, change)
}

pub(super) fn sample_at(
    now: u64,
    names: &[&str],
    nonce: u64,
    change: impl FnOnce(&mut BundleTerms),
) -> Sample {
    let mut rollups: Vec<(RollupId, u64)> = names
        .iter()
        .map(|name| (id(name), rollup(name, 1).evm_chain_id))
        .collect();
    rollups.sort();
    let legs: Vec<Vec<Bytes>> = rollups
        .iter()
        .map(|(_, chain_id)| vec![testing::raw_transaction(1, *chain_id, nonce)])
        .collect();
    let seal = |raw: &Bytes| SealedTx {
        tx_hash: keccak(raw),
        auth: EvmSignature::EMPTY,
    };
    let seals = rollups
        .iter()
        .zip(&legs)
        .map(|((rollup_id, _), raws)| LegSeal {
            rollup_id: *rollup_id,
            txs: raws.iter().map(seal).collect(),
        });
    let mut terms = BundleTerms {
        chain_id: CHAIN_ID.into(),
        session_salt: Hash::digest(&[&nonce.to_be_bytes()]),
        callers: vec![],
        legs: seals.collect(),
        messages: vec![],
        valid_from: now,
        valid_until: now + 60,
        on_abort: OnAbort::Retry,
        max_attempts: 2,
        extra_attesters: vec![],
        tip_per_attempt: Amount::new(1_001),
    };
    change(&mut terms);
    testing::sign_auths(&mut terms, 1);
    let bundle = AtomicBundle::new(terms).unwrap();
    Sample { bundle, legs }
}

/// What users may ask for in the rounds of other tests.
pub(crate) fn any_action() -> impl Strategy<Value = Action> {
    let pairs = vec![["alpha", "beta"], ["alpha", "beta"], ["alpha", "gamma"]];
    let names = prop::sample::select(pairs);
    (names, 0_u64..3, 0_u128..2, 0_u8..3).prop_map(|(names, nonce, tip, what)| {
        let tip_per_attempt = Amount::new(tip * 1_000_000);
        let sample = sample_at(GENESIS_SECS, &names, nonce, |t| {
            t.tip_per_attempt = tip_per_attempt;
        });
        [submit, reveal, cancel][usize::from(what)](&sample)
    })
}

/// The attesters of a rollup that takes bundles.
pub(crate) fn attesters() -> Attesters {
    Attesters(Some(set(1, &ATTESTERS)))
}

pub(super) fn submit(sample: &Sample) -> Action {
    let bundle = sample.bundle.clone();
    Action::SubmitBundle(SubmitBundle { bundle })
}

pub(super) fn reveal(sample: &Sample) -> Action {
    let legs = sample.legs.clone();
    Action::RevealLegs(RevealLegs::new(sample.bundle.id(), legs).unwrap())
}

pub(super) fn cancel(sample: &Sample) -> Action {
    let bundle_id = sample.bundle.id();
    Action::CancelBundle(CancelBundle { bundle_id })
}

pub(super) fn record(chain: &Chain, sample: &Sample) -> BundleRecord {
    let record = query::bundle(&chain.state, sample.bundle.id()).unwrap();
    record.expect("the bundle is known")
}

pub(super) fn status(chain: &Chain, sample: &Sample) -> BundleStatus {
    record(chain, sample).status
}

pub(super) fn tip(chain: &Chain) -> Vec<ScheduledBundle> {
    scheduled(&chain.state, Height::new(chain.height)).unwrap()
}

/// What an attester says of a leg that commits.
pub(super) fn commit(bundle: &AtomicBundle, leg: &ScheduledLeg) -> Statement {
    let (rollup_id, messages) = (leg.ballot.rollup_id, &bundle.terms().messages);
    let mut env = leg.env.clone();
    env.base_fee = 7;
    Statement {
        parent_hash: Hash::new([1; 32]),
        env_hash: env.hash(),
        base_fee: 7,
        outcome: LegOutcome::Commit {
            in_hash: inbox_hash(&rollup_id, messages),
            out_hash: outbox_hash(&rollup_id, messages),
            receipts_hash: Hash::digest(&[bundle.id().as_bytes(), rollup_id.as_bytes()]),
        },
    }
}

pub(super) fn abort(bundle: &AtomicBundle, leg: &ScheduledLeg) -> Statement {
    let (failure, tx) = (Failure::Revert, 0);
    Statement {
        outcome: LegOutcome::Abort { failure, tx },
        ..commit(bundle, leg)
    }
}

pub(super) fn attest(leg: &ScheduledLeg, statement: Statement, seed: u8) -> VerifiedMessage {
    let attestation = Attestation::sign(CHAIN_ID, leg.ballot, statement, &key(seed));
    AttesterMessage::Attestation(attestation)
        .verify(CHAIN_ID)
        .unwrap()
}

/// All attesters of all scheduled legs say the same.
pub(super) fn all_say(
    chain: &Chain,
    what: fn(&AtomicBundle, &ScheduledLeg) -> Statement,
) -> Vec<VerifiedMessage> {
    let mut messages = Vec::new();
    for scheduled in tip(chain) {
        for leg in &scheduled.legs {
            let statement = what(&scheduled.bundle, leg);
            let voters = ATTESTERS.iter().chain([&EXTRA]);
            messages.extend(voters.map(|seed| attest(leg, statement.clone(), *seed)));
        }
    }
    messages
}

/// What the attesters of a released leg say afterwards.
pub(super) fn outcomes(
    release: &ReleaseRecord,
    sample: &Sample,
    leg: usize,
    receipts_hash: Option<Hash>,
) -> Vec<VerifiedMessage> {
    let executed = Executed {
        bundle_id: sample.bundle.id(),
        rollup_id: sample.bundle.terms().legs[leg].rollup_id,
        block_number: release.legs[leg].block_number,
        block_hash: Hash::new([2; 32]),
        receipts_hash: receipts_hash.unwrap_or(release.legs[leg].receipts_hash),
    };
    let sign = |seed: &u8| {
        let vote = OutcomeVote::sign(CHAIN_ID, executed, &key(*seed));
        AttesterMessage::Outcome(vote).verify(CHAIN_ID).unwrap()
    };
    ATTESTERS.iter().map(sign).collect()
}

pub(super) fn code(chain: &mut Chain, action: Action) -> u32 {
    let tx = chain.sign(2, chain.nonce(2), 0, vec![action]);
    let (_, outcome) = chain.advance(vec![tx], 10);
    outcome.codes.last().unwrap().0
}

/// Submits, reveals and waits for the slot.
pub(super) fn schedule(chain: &mut Chain, sample: &Sample) {
    assert_eq!(code(chain, submit(sample)), 0);
    assert_eq!(code(chain, reveal(sample)), 0);
    wait_for_slot(chain, sample);
}

pub(super) fn wait_for_slot(chain: &mut Chain, sample: &Sample) {
    for _ in 0..20 {
        if matches!(status(chain, sample), BundleStatus::Scheduled(_)) {
            return;
        }
        chain.advance(vec![], 400);
    }
    panic!("never scheduled: {:?}", record(chain, sample));
}

pub(super) fn legs(outcome: &Outcome) -> Vec<(RollupId, Hash, Bytes)> {
    let mut legs = Vec::new();
    for slice in &outcome.rollups {
        for item in &slice.items {
            if let RollupItem::Leg { bundle_id, raw } = item {
                legs.push((slice.leaf.rollup_id, *bundle_id, raw.clone()));
            }
        }
    }
    legs
}
