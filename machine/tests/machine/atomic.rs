//! Atomic bundles, rule by rule.

mod model;
mod support;

use self::support::{
    ATTESTERS, EXTRA, Sample, abort, all_say, attest, attested, cancel, chain, code, commit, id,
    legs, outcomes, record, reveal, sample, schedule, set, status, submit, tip, wait_for_slot,
};
pub(crate) use self::support::{any_action, attesters};
use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitBundle, SubmitData, UpdateRollup},
    atomic::{
        AtomicBundle, Attestation, AttesterFault, AttesterMessage, Attesters, BundleTerms,
        EvmSignature, Executed, Failure, FaultProof, LegOutcome, OnAbort, OutcomeVote, SealedTx,
        Statement, SystemItem, VerifiedMessage, keccak, testing,
    },
    block::RollupItem,
    primitive::{Amount, Hash, Height, RollupId},
    registry::RollupConfig,
    state::{AbortReason, BundleStatus, Key, SealedSender},
};
use counterpoint_machine::{
    Absent, ExecuteError, ItemRefusal, Outcome, Refusal, StateRead, check_tx, is_wanted, query,
    undecided,
};

use crate::support::{CHAIN_ID, Chain, GENESIS_SECS, address, key, rollup};

#[test]
fn a_bundle_with_a_quorum_of_every_rollup_is_released_first_in_its_slot() {
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "gamma"], 0, |_| {});
    schedule(&mut chain, &sample);
    let expected = tip(&chain);
    chain.messages = all_say(&chain, commit);
    let plain = SubmitData::new(id("alpha"), vec![Bytes::from_static(b"plain")]).unwrap();
    let tx = chain.sign(1, 0, 0, vec![Action::SubmitData(plain)]);
    let before = query::chain(&chain.state).unwrap();
    let (_, outcome) = chain.advance(vec![tx], 100);
    let released = legs(&outcome);
    assert_eq!(released.len(), 2);
    for (rollup_id, bundle_id, _) in &released {
        assert_eq!(*bundle_id, sample.bundle.id());
        let of = |slice: &&counterpoint_machine::RollupSlice| slice.leaf.rollup_id == *rollup_id;
        let slice = outcome.rollups.iter().find(of).unwrap();
        assert!(matches!(slice.items[0], RollupItem::Leg { .. }));
        let leg = expected[0]
            .legs
            .iter()
            .find(|leg| leg.ballot.rollup_id == *rollup_id);
        assert_eq!(slice.leaf.env.beacon_root, leg.unwrap().env.beacon_root);
        assert_eq!(slice.leaf.env.number, leg.unwrap().env.number);
    }
    // Half of the tip is burned with what two owners cannot share; the second attempt is given back.
    let after = query::chain(&chain.state).unwrap();
    assert_eq!(before.locked.get() - after.locked.get(), 2 * 1_001);
    assert_eq!(status(&chain, &sample), BundleStatus::Released);

    let release = record(&chain, &sample).release.unwrap();
    for leg in 0..2 {
        chain.messages = outcomes(&release, &sample, leg, None);
        let wanted = |message: &VerifiedMessage| {
            is_wanted(&chain.state, message.message(), Height::new(chain.height)).unwrap()
        };
        assert!(chain.messages.iter().all(wanted));
        chain.advance(vec![], 10);
    }
    assert_eq!(status(&chain, &sample), BundleStatus::Executed);
}

#[test]
fn silence_and_omission_use_attempts_that_are_burned() {
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "beta"], 0, |_| {});
    schedule(&mut chain, &sample);
    let before = query::chain(&chain.state).unwrap();
    // A proposer leaves all votes out.
    chain.advance(vec![], 100);
    let after = query::chain(&chain.state).unwrap();
    assert_eq!(status(&chain, &sample), BundleStatus::Queued);
    assert_eq!(after.locked.get(), before.locked.get() - 1_001);
    wait_for_slot(&mut chain, &sample);
    chain.advance(vec![], 100);
    let offline = BundleStatus::Aborted(AbortReason::AttestersOffline);
    assert_eq!(status(&chain, &sample), offline);
    let locked = query::chain(&chain.state).unwrap().locked.get();
    assert_eq!(locked, after.locked.get() - 1_001);
}

#[test]
fn a_quorum_of_aborts_ends_or_delays_a_bundle() {
    for (on_abort, nonce) in [(OnAbort::FailFast, 0), (OnAbort::Retry, 1)] {
        let mut chain = chain();
        let sample = sample(&chain, &["alpha", "beta"], nonce, |t| t.on_abort = on_abort);
        schedule(&mut chain, &sample);
        chain.messages = all_say(&chain, abort);
        chain.advance(vec![], 100);
        if on_abort == OnAbort::FailFast {
            let rollup_id = sample.bundle.terms().legs[0].rollup_id;
            let (tx, failure) = (0, Failure::Revert);
            let reason = AbortReason::Attested {
                rollup_id,
                tx,
                failure,
            };
            assert_eq!(status(&chain, &sample), BundleStatus::Aborted(reason));
            continue;
        }
        assert_eq!(status(&chain, &sample), BundleStatus::Queued);
        wait_for_slot(&mut chain, &sample);
        chain.advance(vec![], 100);
        let attempts = BundleStatus::Aborted(AbortReason::Attempts);
        assert_eq!(status(&chain, &sample), attempts);
    }
}

/// Value that is no account's: burned, and locked.
fn sunk(chain: &Chain) -> (u128, u128) {
    let record = query::chain(&chain.state).unwrap();
    (record.burned.get(), record.locked.get())
}

#[test]
fn a_doomed_bundle_with_a_huge_tip_pays_for_every_slot_that_it_takes() {
    const TIP: u128 = 10_000_000_000;
    const ATTEMPTS: u8 = 5;
    let mut chain = chain();
    let doomed = sample(&chain, &["alpha", "beta"], 0, |t| {
        t.tip_per_attempt = Amount::new(TIP);
        t.max_attempts = ATTEMPTS;
    });
    let modest = sample(&chain, &["alpha", "beta"], 1, |t| {
        t.tip_per_attempt = Amount::new(10);
    });
    let account = |chain: &Chain| {
        let account = query::account(&chain.state, address(2)).unwrap().unwrap();
        account.balance.get()
    };
    for sample in [&doomed, &modest] {
        assert_eq!(code(&mut chain, submit(sample)), 0);
        assert_eq!(code(&mut chain, reveal(sample)), 0);
    }
    let (mut slots, paid) = (0, account(&chain));
    let (burned, locked) = sunk(&chain);
    assert_eq!(locked, TIP * u128::from(ATTEMPTS) + 20);
    while status(&chain, &modest) == BundleStatus::Queued {
        if matches!(status(&chain, &doomed), BundleStatus::Scheduled(_)) {
            let before = sunk(&chain);
            // Its attesters see it fail, or say nothing, or nobody hears them.
            chain.messages = match slots % 3 {
                0 => all_say(&chain, abort),
                _ => vec![],
            };
            slots += 1;
            chain.advance(vec![], 100);
            let after = sunk(&chain);
            assert_eq!((after.0 - before.0, before.1 - after.1), (TIP, TIP));
        } else {
            chain.advance(vec![], 400);
        }
    }
    assert_eq!(slots, ATTEMPTS, "and then it is others' turn");
    let attempts = BundleStatus::Aborted(AbortReason::Attempts);
    assert_eq!(status(&chain, &doomed), attempts);
    let total = TIP * u128::from(ATTEMPTS);
    assert_eq!(sunk(&chain), (burned + total, 20), "all of it is burned");
    assert_eq!(account(&chain), paid, "and nothing comes back");
    chain.messages = all_say(&chain, commit);
    chain.advance(vec![], 100);
    assert_eq!(status(&chain, &modest), BundleStatus::Released);
}

#[test]
fn a_flood_of_doomed_bundles_ends_and_pays() {
    let mut chain = chain();
    let flood: Vec<Sample> = (0..12)
        .map(|nonce| {
            sample(&chain, &["alpha", "beta"], nonce, |t| {
                t.tip_per_attempt = Amount::new(1_000_000 + 2 * u128::from(nonce));
                t.max_attempts = 1;
                t.on_abort = OnAbort::FailFast;
            })
        })
        .collect();
    let honest = sample(&chain, &["alpha", "beta"], 100, |_| {});
    for sample in flood.iter().chain([&honest]) {
        let txs = [submit(sample), reveal(sample)].into_iter().enumerate();
        let sign = |(place, action)| chain.sign(2, chain.nonce(2) + place as u64, 0, vec![action]);
        let txs = txs.map(sign).collect();
        // All within a second, so that none is scheduled meanwhile.
        let (_, outcome) = chain.advance(txs, 0);
        assert!(outcome.codes.iter().all(|(code, _)| *code == 0));
    }
    let (burned, locked) = sunk(&chain);
    for place in 0..flood.len() {
        let doomed = &flood[flood.len() - 1 - place];
        wait_for_slot(&mut chain, doomed);
        assert_eq!(status(&chain, &honest), BundleStatus::Queued);
        chain.messages = all_say(&chain, abort);
        chain.advance(vec![], 100);
        assert!(!status(&chain, doomed).is_live(), "one slot each");
    }
    let mut paid = 0;
    for sample in &flood {
        paid += sample.bundle.tips().get();
    }
    assert_eq!(sunk(&chain), (burned + paid, locked - paid));
    wait_for_slot(&mut chain, &honest);
}

/// What wallets see of a rollup's lists: slots, block numbers and plaintext.
fn seen(outcome: &Outcome) -> Vec<(RollupId, u64, u64, bool, bool, Vec<RollupItem>)> {
    let slice = |slice: &counterpoint_machine::RollupSlice| {
        let env = &slice.leaf.env;
        let slot = (env.slot.get(), env.number, env.opens, env.closes);
        (
            slice.leaf.rollup_id,
            slot.0,
            slot.1,
            slot.2,
            slot.3,
            slice.items.clone(),
        )
    };
    outcome.rollups.iter().map(slice).collect()
}

#[test]
fn a_block_seals_and_reveals_only_so_much() {
    let mut chain = chain();
    chain.max_bytes = 4_000_000;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut largest = sample(&chain, &names, 0, |_| {}).bundle.terms().clone();
    let seal = |number| SealedTx {
        tx_hash: Hash::new([number; 32]),
        auth: EvmSignature::EMPTY,
    };
    for leg in &mut largest.legs {
        leg.txs = (0..8).map(seal).collect();
    }
    let bundle = AtomicBundle::new(largest).unwrap();
    let submit = Action::SubmitBundle(SubmitBundle { bundle });
    let sealing = |count| vec![submit.clone(); count];
    let next = Height::new(chain.height + 1);
    let refused = check_tx(&chain.state, chain.sign(2, 0, 0, sealing(65)), next);
    let Err(ExecuteError::Rejected(rejection)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(rejection.code(), 59);
    let txs = [2, 3].map(|seed| chain.sign(seed, 0, 0, sealing(33)));
    let items = chain.propose(txs.to_vec());
    assert_eq!(items.len(), 2, "one of them fits");
    chain.judge(&items).unwrap();
    let [a, b] = txs.map(|tx| tx.as_bytes().clone());
    let both = [[&a, &b], [&b, &a]]
        .map(|[first, second]| chain.judge(&[items[0].clone(), first.clone(), second.clone()]));
    let overfull =
        |verdict: &Result<(), Refusal>| matches!(verdict, Err(Refusal::Recoveries { index: 2 }));
    assert!(both.iter().any(overfull), "{both:?}");
}

#[test]
fn silent_attesters_never_slow_a_rollup() {
    let (mut calm, mut silent) = (chain(), chain());
    for nonce in 0..3 {
        let sample = sample(&silent, &["alpha", "beta", "gamma"], nonce, |t| {
            t.max_attempts = 3;
        });
        let txs = [submit(&sample), reveal(&sample)].into_iter().enumerate();
        let sign =
            |(place, action)| silent.sign(2, silent.nonce(2) + place as u64, 0, vec![action]);
        let txs = txs.map(sign).collect();
        silent.advance(txs, 0);
        calm.advance(vec![], 0);
    }
    let mut attempts = 0;
    for round in 0..120_u64 {
        attempts += tip(&silent).len();
        let items: Vec<Bytes> = vec![Bytes::from(round.to_be_bytes().to_vec())];
        let name = ["alpha", "beta", "gamma"][usize::try_from(round % 3).unwrap()];
        let data = || Action::SubmitData(SubmitData::new(id(name), items.clone()).unwrap());
        let [there, here] = [&mut calm, &mut silent].map(|chain| {
            let tx = chain.sign(1, chain.nonce(1), 0, vec![data()]);
            seen(&chain.advance(vec![tx], 300).1)
        });
        assert_eq!(there, here, "round {round}");
    }
    assert_eq!(attempts, 9, "every attempt was made");
    assert_eq!(sunk(&silent).1, 0, "and paid");
}

#[test]
fn submission_names_what_is_wrong() {
    #[track_caller]
    fn check(names: &[&str], change: impl FnOnce(&mut BundleTerms), expect: u32) {
        let mut chain = chain();
        let sample = sample(&chain, names, 0, change);
        assert_eq!(code(&mut chain, submit(&sample)), expect);
        let locked = query::chain(&chain.state).unwrap().locked.get();
        assert_eq!(locked > 0, expect == 0, "what is refused locks nothing");
    }
    check(&["alpha", "beta"], |_| {}, 0);
    check(&["alpha", "nobody"], |_| {}, 18);
    check(&["alpha", "beta"], |t| t.chain_id = "other".into(), 46);
    let past = |t: &mut BundleTerms| t.valid_until = t.valid_from;
    check(&["alpha", "beta"], past, 47);
    // Gamma opens at even seconds only.
    let odd = |t: &mut BundleTerms| {
        t.valid_from = GENESIS_SECS + 5;
        t.valid_until = GENESIS_SECS + 5;
    };
    check(&["alpha", "gamma"], odd, 47);
    check(&["alpha", "beta"], odd, 0);
    let far = |t: &mut BundleTerms| {
        t.valid_from += 10;
        t.valid_until = t.valid_from + 3_600;
    };
    check(&["alpha", "beta"], far, 47);
    let dear = |t: &mut BundleTerms| t.tip_per_attempt = Amount::new(crate::support::RICH);
    check(&["alpha", "beta"], dear, 16);

    let mut chain = Chain::new(vec![rollup("alpha", 1), attested("beta", 1)], 5);
    chain.advance(vec![], 250);
    let unattested = sample(&chain, &["alpha", "beta"], 0, |_| {});
    assert_eq!(code(&mut chain, submit(&unattested)), 48);

    let mut chain = self::chain();
    let first = sample(&chain, &["alpha", "beta"], 0, |_| {});
    assert_eq!(code(&mut chain, submit(&first)), 0);
    assert_eq!(code(&mut chain, submit(&first)), 49);
    let session = sample(&chain, &["alpha", "beta"], 1, |t| {
        t.session_salt = first.bundle.terms().session_salt;
    });
    assert_eq!(code(&mut chain, submit(&session)), 50);
    let again = sample(&chain, &["alpha", "beta"], 0, |t| {
        t.session_salt = Hash::new([9; 32]);
    });
    assert_eq!(code(&mut chain, submit(&again)), 52);
    let mut unsigned = sample(&chain, &["alpha", "beta"], 2, |_| {});
    let mut terms = unsigned.bundle.terms().clone();
    terms.legs[1].txs[0].auth = EvmSignature::EMPTY;
    unsigned.bundle = AtomicBundle::new(terms).unwrap();
    assert_eq!(code(&mut chain, submit(&unsigned)), 51);
}

#[test]
fn only_what_was_sealed_is_revealed() {
    let mut chain = chain();
    let sealed = sample(&chain, &["alpha", "beta"], 0, |_| {});
    assert_eq!(code(&mut chain, reveal(&sealed)), 54);
    assert_eq!(code(&mut chain, submit(&sealed)), 0);
    let mut other = sealed.clone();
    other.legs[1] = vec![testing::raw_transaction(1, 1_098, 9)];
    assert_eq!(code(&mut chain, reveal(&other)), 56);
    other.legs[1] = [sealed.legs[1].clone(), sealed.legs[1].clone()].concat();
    assert_eq!(code(&mut chain, reveal(&other)), 56);
    assert_eq!(code(&mut chain, reveal(&sealed)), 0);
    assert_eq!(
        code(&mut chain, reveal(&sealed)),
        55,
        "it is not sealed any more"
    );

    // A transaction for another chain id than the rollup's, and a stranger's auth.
    let mut chain = self::chain();
    let mut foreign = sample(&chain, &["alpha", "beta"], 0, |_| {});
    let mut terms = foreign.bundle.terms().clone();
    foreign.legs[0] = vec![testing::raw_transaction(1, 5, 0)];
    terms.legs[0].txs[0].tx_hash = keccak(&foreign.legs[0][0]);
    testing::sign_auths(&mut terms, 1);
    foreign.bundle = AtomicBundle::new(terms).unwrap();
    assert_eq!(code(&mut chain, submit(&foreign)), 0);
    assert_eq!(code(&mut chain, reveal(&foreign)), 56);
    let mut stranger = sample(&chain, &["alpha", "beta"], 1, |_| {});
    let mut terms = stranger.bundle.terms().clone();
    testing::sign_auths(&mut terms, 2);
    stranger.bundle = AtomicBundle::new(terms).unwrap();
    assert_eq!(code(&mut chain, submit(&stranger)), 0);
    assert_eq!(code(&mut chain, reveal(&stranger)), 56);
}

fn data(name: &str, raw: &Bytes) -> Action {
    Action::SubmitData(SubmitData::new(id(name), vec![raw.clone()]).unwrap())
}

fn plaintext(outcome: &Outcome) -> usize {
    let items = outcome.rollups.iter().flat_map(|slice| &slice.items);
    let plain = items.filter(|item| matches!(item, RollupItem::Transaction(_)));
    plain.count()
}

#[test]
fn a_sealed_transaction_is_in_no_other_lane_from_its_seal_on() {
    let mut chain = chain();
    let sealed = sample(&chain, &["alpha", "beta"], 0, |_| {});
    let first = sealed.bundle.terms().legs[0].rollup_id;
    let name = if first == id("alpha") {
        "alpha"
    } else {
        "beta"
    };
    let raw = sealed.legs[0][0].clone();
    let alone =
        |chain: &Chain, seed, tip| chain.sign(seed, chain.nonce(seed), tip, vec![data(name, &raw)]);
    let (_, outcome) = chain.advance(vec![alone(&chain, 1, 0)], 10);
    assert_eq!(plaintext(&outcome), 1, "nobody has sealed it");

    // In the block of the seal it is dropped even before the seal.
    let seal = chain.sign(2, 0, 1, vec![submit(&sealed)]);
    let (items, outcome) = chain.advance(vec![alone(&chain, 1, 9), seal], 10);
    assert_eq!((items.len(), plaintext(&outcome)), (3, 0));
    assert_eq!(code(&mut chain, cancel(&sealed)), 0);
    let (_, outcome) = chain.advance(vec![alone(&chain, 1, 0)], 10);
    assert_eq!(plaintext(&outcome), 0, "also when the bundle has ended");

    // Somebody else's seal of a hash is inert.
    let mut strangers = sample(&chain, &["alpha", "beta"], 7, |_| {});
    let mut terms = strangers.bundle.terms().clone();
    testing::sign_auths(&mut terms, 2);
    strangers.bundle = AtomicBundle::new(terms).unwrap();
    assert_eq!(code(&mut chain, submit(&strangers)), 0);
    let raw = strangers.legs[0][0].clone();
    let tx = chain.sign(1, chain.nonce(1), 0, vec![data(name, &raw)]);
    let (_, outcome) = chain.advance(vec![tx], 10);
    assert_eq!(plaintext(&outcome), 1);
    let key = Key::SealedHash(strangers.bundle.terms().legs[0].rollup_id, keccak(&raw));
    let sender = testing::account(1);
    let known = borsh::to_vec(&SealedSender::Account(sender)).unwrap();
    let stored = chain.state.get(&key.encode()).unwrap();
    assert_eq!(stored, Some(known), "the sender is recovered once for ever");
    let own = sample(&chain, &["alpha", "beta"], 7, |t| {
        t.session_salt = Hash::new([3; 32]);
    });
    assert_eq!(
        code(&mut chain, submit(&own)),
        0,
        "and keeps nobody from sealing it"
    );
}

/// The refusal of the block with an honest release after `forge` has changed that.
fn judge_forged(
    change: impl FnOnce(&mut BundleTerms),
    forge: impl FnOnce(&mut Chain, &mut Vec<SystemItem>),
) -> Result<(), Refusal> {
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "beta"], 0, change);
    schedule(&mut chain, &sample);
    chain.messages = all_say(&chain, commit);
    let items = chain.propose(vec![]);
    chain.judge(&items)?;
    let decode = |item: &Bytes| SystemItem::decode(item).unwrap();
    let mut system: Vec<SystemItem> = items.iter().filter_map(decode).collect();
    assert_eq!(system.len(), 1);
    forge(&mut chain, &mut system);
    let forged = [
        vec![items[0].clone()],
        system.iter().map(SystemItem::encode).collect(),
    ];
    chain.judge(&forged.concat())
}

#[track_caller]
fn check_forged(expect: &str, forge: impl FnOnce(&mut counterpoint_core::atomic::AtomicRelease)) {
    let verdict = judge_forged(
        |_| {},
        |_, system| {
            if let SystemItem::Release(release) = &mut system[0] {
                forge(release);
            }
        },
    );
    let Err(Refusal::System { refusal, .. }) = verdict else {
        panic!("{verdict:?}");
    };
    let actual = format!("{refusal:?}");
    assert!(actual.starts_with(expect), "{actual}");
}

#[test]
fn forged_releases_are_rejected() {
    use counterpoint_core::atomic::Votes;
    check_forged("Pin", |r| {
        r.pin_height = Height::new(r.pin_height.get() - 1);
    });
    check_forged("NotScheduled", |r| r.bundle_id = Hash::ZERO);
    check_forged("Legs", |r| drop(r.quorums.pop()));
    check_forged("Environment", |r| r.quorums.swap(0, 1));
    check_forged("Environment", |r| r.quorums[0].statement.base_fee += 1);
    check_forged("Quorum", |r| {
        let votes = r.quorums[1].votes.as_slice()[..1].to_vec();
        r.quorums[1].votes = Votes::new(votes).unwrap();
    });
    check_forged("Signature", |r| {
        r.quorums[0].statement.parent_hash = Hash::ZERO;
    });
    check_forged("Signature", |r| {
        let mut votes = r.quorums[0].votes.as_slice().to_vec();
        votes[0].signature = votes[1].signature;
        r.quorums[0].votes = Votes::new(votes).unwrap();
    });
    check_forged("Statement", |r| {
        if let LegOutcome::Commit { in_hash, .. } = &mut r.quorums[0].statement.outcome {
            *in_hash = Hash::ZERO;
        }
    });
    check_forged("Statement", |r| {
        let (failure, tx) = (Failure::Revert, 0);
        r.quorums[0].statement.outcome = LegOutcome::Abort { failure, tx };
    });
    let twice = judge_forged(|_| {}, |_, system| system.push(system[0].clone()));
    let order = ItemRefusal::Order;
    assert!(matches!(twice, Err(Refusal::System { refusal, .. }) if refusal == order));
    // Leaving it out costs the proposer nothing, and the bundle one attempt.
    let omitted = judge_forged(|_| {}, |_, system| system.clear());
    assert!(
        matches!(omitted, Err(Refusal::Commitment)),
        "the preamble has the legs"
    );
}

#[test]
fn a_release_is_of_one_slot_alone() {
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "beta"], 0, |_| {});
    schedule(&mut chain, &sample);
    let stale = all_say(&chain, commit);
    let wanted = |chain: &Chain, message: &VerifiedMessage| {
        is_wanted(&chain.state, message.message(), Height::new(chain.height)).unwrap()
    };
    assert_eq!(
        stale
            .iter()
            .filter(|message| wanted(&chain, message))
            .count(),
        6
    );
    chain.advance(vec![], 100);
    wait_for_slot(&mut chain, &sample);
    assert!(!stale.iter().any(|message| wanted(&chain, message)));
    chain.messages = stale;
    let (items, outcome) = chain.advance(vec![], 100);
    assert_eq!((items.len(), legs(&outcome).len()), (1, 0));
}

#[test]
fn nothing_runs_without_the_word_of_an_extra_attester() {
    let extra = |t: &mut BundleTerms| t.extra_attesters = vec![key(EXTRA).public_key()];
    assert!(judge_forged(extra, |_, _| {}).is_ok());
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "beta"], 0, extra);
    schedule(&mut chain, &sample);
    chain.messages = all_say(&chain, commit);
    let extra = key(EXTRA).public_key();
    chain.messages.retain(|message| match message.message() {
        AttesterMessage::Attestation(attestation) => attestation.attester != extra,
        AttesterMessage::Outcome(_) => true,
    });
    let open = undecided(&chain.state, &chain.messages, Height::new(chain.height)).unwrap();
    assert_eq!(open, [[Absent::Extras; 2]], "no rollup is to blame");
    let (items, outcome) = chain.advance(vec![], 100);
    assert_eq!((items.len(), legs(&outcome).len()), (1, 0));
    assert_eq!(status(&chain, &sample), BundleStatus::Queued);
}

#[test]
fn a_full_queue_gives_way_to_higher_tips_only() {
    let mut chain = chain();
    chain.max_bytes = 1_000_000;
    let tip = |tip: u128| move |t: &mut BundleTerms| t.tip_per_attempt = Amount::new(tip);
    let queued: Vec<Sample> = (0..64)
        .map(|nonce| {
            sample(
                &chain,
                &["alpha", "beta"],
                nonce,
                tip(100 + 2 * u128::from(nonce)),
            )
        })
        .collect();
    for sample in &queued {
        assert_eq!(code(&mut chain, submit(sample)), 0);
    }
    // All within a second, so that none is scheduled meanwhile.
    for sample in &queued {
        let tx = chain.sign(2, chain.nonce(2), 0, vec![reveal(sample)]);
        let (_, outcome) = chain.advance(vec![tx], 0);
        assert_eq!(outcome.codes[1].0, 0);
    }
    let low = sample(&chain, &["beta", "alpha"], 70, tip(101));
    assert_eq!(code(&mut chain, submit(&low)), 0);
    assert_eq!(code(&mut chain, reveal(&low)), 57, "as high is not higher");
    let high = sample(&chain, &["beta", "gamma"], 71, tip(1_000));
    assert_eq!(code(&mut chain, submit(&high)), 0);
    assert_eq!(code(&mut chain, reveal(&high)), 0);
    let superseded = BundleStatus::Aborted(AbortReason::Superseded);
    assert_eq!(status(&chain, &queued[0]), superseded);
    assert_eq!(status(&chain, &queued[1]), BundleStatus::Queued);
}

#[test]
fn nobody_waits_in_queues_for_long_before_its_time() {
    let mut chain = chain();
    let later = sample(&chain, &["alpha", "beta"], 0, |t| {
        t.valid_from += 100;
        t.valid_until += 100;
    });
    assert_eq!(code(&mut chain, submit(&later)), 0);
    assert_eq!(code(&mut chain, reveal(&later)), 60);
    chain.advance(vec![], 41_000);
    chain.advance(vec![], 100);
    assert_eq!(code(&mut chain, reveal(&later)), 0);
    chain.advance(vec![], 2_000);
    chain.advance(vec![], 2_000);
    assert_eq!(status(&chain, &later), BundleStatus::Queued, "not yet");
}

#[test]
fn what_expires_or_is_called_off_gets_its_tips_back() {
    let mut chain = chain();
    let before = query::chain(&chain.state).unwrap().locked;
    let short = sample(&chain, &["alpha", "beta"], 0, |t| {
        t.valid_until = t.valid_from + 2;
    });
    assert_eq!(code(&mut chain, submit(&short)), 0);
    let called = sample(&chain, &["alpha", "gamma"], 1, |_| {});
    assert_eq!(code(&mut chain, submit(&called)), 0);
    assert_eq!(code(&mut chain, reveal(&called)), 0);
    let foreign = chain.sign(1, 0, 0, vec![cancel(&called)]);
    let (_, outcome) = chain.advance(vec![foreign], 10);
    assert_eq!(outcome.codes[1].0, 58);
    assert_eq!(code(&mut chain, cancel(&called)), 0);
    assert_eq!(code(&mut chain, cancel(&called)), 55);
    chain.advance(vec![], 4_000);
    chain.advance(vec![], 100);
    let expired = BundleStatus::Aborted(AbortReason::Expired);
    assert_eq!(status(&chain, &short), expired);
    assert_eq!(query::chain(&chain.state).unwrap().locked, before);
    assert_eq!(code(&mut chain, reveal(&short)), 55);
}

#[test]
fn an_attester_that_lies_loses_its_vote() {
    let mut chain = chain();
    let sample = sample(&chain, &["alpha", "beta"], 0, |_| {});
    schedule(&mut chain, &sample);
    let scheduled = tip(&chain);
    let leg = &scheduled[0].legs[0];
    let says = |what: Statement, seed| attest(leg, what, seed);
    let (yes, no) = (commit(&sample.bundle, leg), abort(&sample.bundle, leg));
    chain.messages = all_say(&chain, commit);
    chain.messages.push(says(no.clone(), 50));
    let (items, outcome) = chain.advance(vec![], 100);
    assert_eq!(
        (items.len(), legs(&outcome).len()),
        (3, 2),
        "release and fault"
    );
    let release = record(&chain, &sample).release.unwrap();
    let vote = |seed: u8, receipts: Hash| {
        let executed = Executed {
            bundle_id: sample.bundle.id(),
            rollup_id: leg.ballot.rollup_id,
            block_number: release.legs[0].block_number,
            block_hash: Hash::ZERO,
            receipts_hash: receipts,
        };
        OutcomeVote::sign(CHAIN_ID, executed, &key(seed))
    };
    let wants = |chain: &Chain, seed| {
        let message = AttesterMessage::Outcome(vote(seed, Hash::ZERO));
        is_wanted(&chain.state, &message, Height::new(chain.height)).unwrap()
    };
    assert!(!wants(&chain, 50) && wants(&chain, 51));
    // Another one says afterwards that its own word did not hold.
    let attestation = Attestation::sign(CHAIN_ID, leg.ballot, yes, &key(51));
    let kept =
        FaultProof::Contradiction(attestation.clone(), vote(51, release.legs[0].receipts_hash));
    let broken = FaultProof::Contradiction(attestation, vote(51, Hash::ZERO));
    let fault = |proof| SystemItem::Fault(Box::new(AttesterFault { proof })).encode();
    let preamble = chain.propose(vec![])[0].clone();
    assert!(chain.judge(&[preamble.clone(), fault(kept)]).is_err());
    let items = vec![preamble, fault(broken)];
    chain.judge(&items).unwrap();
    chain.commit(&items, 100);
    assert_eq!(status(&chain, &sample), BundleStatus::Violated);
    assert!(!wants(&chain, 51), "nobody waits for outcomes any more");
    // One of three has a vote left: the rollup takes no legs until its owner names others, and what
    // waits for it keeps nobody out.
    let next = self::sample(&chain, &["alpha", "beta"], 1, |_| {});
    assert_eq!(code(&mut chain, submit(&next)), 0);
    assert_eq!(code(&mut chain, reveal(&next)), 0);
    for _ in 0..10 {
        chain.advance(vec![], 400);
    }
    let offline = BundleStatus::Aborted(AbortReason::AttestersOffline);
    assert_eq!(status(&chain, &next), offline);
    assert_eq!(sunk(&chain).1, 0, "it took no slot and pays for none");
}

#[test]
fn outcomes_that_differ_from_what_was_attested_are_violations() {
    let mut chain = chain();
    let lied = sample(&chain, &["alpha", "beta"], 0, |_| {});
    schedule(&mut chain, &lied);
    chain.messages = all_say(&chain, commit);
    chain.advance(vec![], 100);
    let release = record(&chain, &lied).release.unwrap();
    chain.messages = outcomes(&release, &lied, 1, Some(Hash::ZERO));
    chain.advance(vec![], 100);
    assert_eq!(status(&chain, &lied), BundleStatus::Violated);
    // And what nobody speaks of is unconfirmed in the end.
    let mut chain = self::chain();
    let silent = sample(&chain, &["alpha", "beta"], 0, |_| {});
    schedule(&mut chain, &silent);
    chain.messages = all_say(&chain, commit);
    chain.advance(vec![], 100);
    let released = chain.height;
    chain.skip_to(released + 599);
    chain.advance(vec![], 100);
    assert_eq!(status(&chain, &silent), BundleStatus::Unconfirmed);
}

#[test]
fn the_chain_counts_sets_of_attesters() {
    let mut chain = chain();
    let mut config = attested("alpha", 1);
    let update = |config: &RollupConfig| vec![Action::UpdateRollup(UpdateRollup::of(config))];
    let send = |chain: &mut Chain, config: &RollupConfig| {
        let tx = chain.sign(1, chain.nonce(1), 0, update(config));
        let (_, outcome) = chain.advance(vec![tx], 1_000);
        assert_eq!(outcome.codes[1].0, 0);
        chain.skip_to(chain.height + 601);
        chain.advance(vec![], 1_000);
        chain.advance(vec![], 1_000);
        let record = query::rollup(&chain.state, id("alpha")).unwrap().unwrap();
        record.config.attesters.0
    };
    assert_eq!(
        send(&mut chain, &config),
        Some(set(1, &ATTESTERS)),
        "no change"
    );
    config.attesters = Attesters(Some(set(9, &[50, 53])));
    assert_eq!(send(&mut chain, &config), Some(set(2, &[50, 53])));
    config.attesters = Attesters::default();
    assert_eq!(send(&mut chain, &config), None);
    config.attesters = Attesters(Some(set(1, &ATTESTERS)));
    assert_eq!(send(&mut chain, &config), Some(set(4, &ATTESTERS)));
}
