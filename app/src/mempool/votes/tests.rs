use counterpoint_core::{
    atomic::{Attestation, Executed, SystemItem},
    key::count::verified,
    state::BundleStatus,
};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::testing::{
    Node,
    attest::{ATTESTERS, Sample, Says, attest, now},
    key, transfer,
};

/// A node on which a bundle is scheduled.
async fn scheduled() -> (TempDir, Node, Sample) {
    let directory = tempdir().unwrap();
    let node = Node::start_attested(directory.path()).await;
    let sample = Sample::new(0, |_| {});
    node.schedule(&sample).await;
    (directory, node, sample)
}

fn held(node: &Node) -> usize {
    node.mempool.attester_messages().len()
}

/// The same message with a signature that is none.
fn forge(message: &Bytes) -> Bytes {
    let mut forged = message.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    forged.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn attesters_are_heard_once_while_their_word_counts() {
    let (_directory, node, sample) = scheduled().await;
    let [said, other] =
        [ATTESTERS[0], ATTESTERS[1]].map(|seed| attest(&now(&node), seed, Says::Commit));
    let before = verified();
    assert_eq!(node.check(&said[0]).await.0, 0);
    assert_eq!(node.mempool.submit(&said[1]).unwrap().1.code, 0);
    assert_eq!(node.check(&said[0]).await.0, 0, "it is known");
    assert_eq!((held(&node), verified() - before), (2, 2));
    let bundles = node.reap().await;
    assert_eq!(bundles, GossipBundle::pack(said.clone()), "at once");
    assert!(node.reap().await.is_empty(), "and once");
    // A peer's are passed on, byte for byte.
    let bundle = GossipBundle::pack(other.clone()).remove(0);
    assert_eq!(node.insert(&bundle).await, 0);
    assert_eq!(node.insert(&bundle).await, 0);
    assert_eq!((held(&node), verified() - before), (4, 4));
    assert_eq!(node.reap().await, [bundle]);

    let (block, _) = node.advance().await;
    let item = SystemItem::decode(&block.items[1]).unwrap();
    assert!(matches!(item, Some(SystemItem::Release(_))), "{item:?}");
    assert_eq!(sample.status(&node), BundleStatus::Released);
    assert_eq!(held(&node), 4, "what they say next may contradict it");
    let late = attest(&[], ATTESTERS[2], Says::Commit);
    assert!(late.is_empty());
    for seed in [ATTESTERS[0], ATTESTERS[1]] {
        for outcome in sample.outcomes(&node, seed) {
            assert_eq!(node.check(&outcome).await, (0, String::new()));
        }
    }
    assert_eq!(held(&node), 8);
    node.advance().await;
    assert_eq!(sample.status(&node), BundleStatus::Executed);
    assert_eq!(held(&node), 0);
    let outcome = &sample.outcomes(&node, ATTESTERS[2])[0];
    assert_eq!(node.check(outcome).await.0, code::UNWANTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cost_no_signature_and_stale_votes_are_dropped() {
    let (_directory, node, sample) = scheduled().await;
    let slot = now(&node);
    let before = verified();
    let strangers = attest(&slot, 49, Says::Commit);
    for message in &strangers {
        assert_eq!(node.check(message).await.0, code::UNWANTED);
    }
    let bundle = GossipBundle::pack(strangers).remove(0);
    assert_eq!(node.insert(&bundle).await, 0);
    assert_eq!(node.check(&Bytes::from_static(b"\x21junk")).await.0, 1);
    assert_eq!((held(&node), verified() - before), (0, 0));

    let said = attest(&slot, ATTESTERS[0], Says::Commit);
    assert_eq!(
        node.insert(&GossipBundle::pack(said.clone()).remove(0))
            .await,
        0
    );
    assert_eq!(held(&node), 2);
    node.advance().await;
    assert_eq!(
        sample.status(&node),
        BundleStatus::Queued,
        "one is no quorum"
    );
    assert_eq!(held(&node), 0);
    assert_eq!(
        node.check(&said[0]).await.0,
        code::UNWANTED,
        "the slot has passed"
    );
    node.until_scheduled(&sample).await;
    assert_eq!(
        node.check(&said[0]).await.0,
        code::UNWANTED,
        "and this is another"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_statements_about_one_leg_are_evidence_and_a_third_costs_nothing() {
    let (_directory, node, _) = scheduled().await;
    let slot = now(&node);
    let says = |says| attest(&slot, ATTESTERS[0], says).remove(0);
    assert_eq!(node.check(&says(Says::Commit)).await.0, 0);
    assert_eq!(node.check(&forge(&says(Says::Lie))).await.0, 1, "is none");
    assert_eq!(node.check(&says(Says::Lie)).await.0, 0);
    let before = verified();
    assert_eq!(node.check(&says(Says::Abort)).await.0, code::TAKEN);
    assert_eq!((held(&node), verified() - before), (2, 0));
    assert_eq!(node.reap().await.len(), 1, "others shall know it too");
    let (block, _) = node.advance().await;
    let item = SystemItem::decode(&block.items[1]).unwrap();
    assert!(matches!(item, Some(SystemItem::Fault(_))), "{item:?}");
    assert_eq!(held(&node), 0, "it has no vote any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_is_left_out_is_kept() {
    let (_directory, node, _) = scheduled().await;
    let slot = now(&node);
    // Somebody else proposes, who knows of nothing.
    let empty = node.prepare(0).await;
    for says in [Says::Commit, Says::Abort] {
        assert_eq!(node.check(&attest(&slot, ATTESTERS[0], says)[0]).await.0, 0);
    }
    node.replay(&empty).await;
    assert_eq!(held(&node), 2);
    let (block, _) = node.advance().await;
    let item = SystemItem::decode(&block.items[1]).unwrap();
    assert!(matches!(item, Some(SystemItem::Fault(_))), "{item:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_contradicts_an_attestation_is_reported() {
    let (_directory, node, sample) = scheduled().await;
    for seed in [ATTESTERS[0], ATTESTERS[1]] {
        for message in attest(&now(&node), seed, Says::Commit) {
            assert_eq!(node.check(&message).await.0, 0);
        }
    }
    node.advance().await;
    node.advance().await;
    let wrong = |seed, change: fn(&mut Executed)| sample.outcomes_but(&node, seed, change);
    let elsewhere = &wrong(ATTESTERS[0], |executed| executed.block_number += 1)[0];
    assert_eq!(node.check(elsewhere).await.0, code::UNWANTED);
    let broken = &wrong(ATTESTERS[0], |executed| executed.receipts_hash = Hash::ZERO)[0];
    assert_eq!(node.check(broken).await.0, 0);
    let truth = &sample.outcomes(&node, ATTESTERS[0])[0];
    assert_eq!(node.check(truth).await.0, code::TAKEN, "one word each");
    let (block, _) = node.advance().await;
    let item = SystemItem::decode(&block.items[1]).unwrap();
    assert!(matches!(item, Some(SystemItem::Fault(_))), "{item:?}");
    assert_eq!(sample.status(&node), BundleStatus::Violated);
    assert_eq!(held(&node), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_a_block_ahead_is_heard() {
    let directories = [tempdir().unwrap(), tempdir().unwrap()];
    let [ahead, behind] = [
        Node::start_attested(directories[0].path()).await,
        Node::start_attested(directories[1].path()).await,
    ];
    let sample = Sample::new(0, |_| {});
    for tx in sample.transactions(2, 0) {
        assert_eq!(ahead.check(&tx).await.0, 0);
    }
    loop {
        let block = ahead.prepare(0).await;
        ahead.replay(&block).await;
        if matches!(sample.status(&ahead), BundleStatus::Scheduled(_)) {
            let slot = now(&ahead);
            let mut said = attest(&slot, ATTESTERS[0], Says::Commit);
            said.extend(attest(&slot, ATTESTERS[1], Says::Commit));
            assert_eq!(behind.insert(&GossipBundle::pack(said).remove(0)).await, 0);
            let stranger = attest(&slot, 49, Says::Commit).remove(0);
            assert_eq!(behind.check(&stranger).await.0, code::UNWANTED);
            assert_eq!(held(&behind), 4);
            behind.replay(&block).await;
            break;
        }
        behind.replay(&block).await;
    }
    behind.advance().await;
    assert_eq!(sample.status(&behind), BundleStatus::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgery_ends_its_offer_and_no_other() {
    let (_directory, node, _) = scheduled().await;
    let slot = now(&node);
    let mut bad = vec![forge(&attest(&slot, ATTESTERS[0], Says::Commit)[0])];
    bad.extend(attest(&slot, ATTESTERS[1], Says::Commit));
    let before = verified();
    for bundle in GossipBundle::pack(bad) {
        assert_eq!(node.insert(&bundle).await, 0);
    }
    assert_eq!((held(&node), verified() - before), (0, 1));
    assert!(node.reap().await.is_empty());
    let good = attest(&slot, ATTESTERS[2], Says::Commit);
    assert_eq!(node.insert(&good[0]).await, 0, "single ones are taken too");
    assert_eq!(held(&node), 1);
    // Transactions do not hide messages, nor messages transactions.
    let mixed = vec![transfer(1, 0, 1), good[1].clone()];
    assert_eq!(node.insert(&GossipBundle::pack(mixed).remove(0)).await, 0);
    assert_eq!((held(&node), node.mempool.size().0), (1, 1));
    let mixed = vec![
        attest(&slot, ATTESTERS[0], Says::Commit).remove(0),
        transfer(1, 1, 1),
    ];
    assert_eq!(node.insert(&GossipBundle::pack(mixed).remove(0)).await, 0);
    assert_eq!((held(&node), node.mempool.size().0), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tx_looks_at_only_so_many_between_two_blocks() {
    let (_directory, node, _) = scheduled().await;
    let forged = forge(&attest(&now(&node), ATTESTERS[0], Says::Commit)[0]);
    for _ in 0..super::super::CHECK_MESSAGES {
        assert_eq!(node.check(&forged).await.0, 1);
    }
    assert_eq!(node.check(&forged).await.0, code::BUSY);
    assert_eq!(
        node.mempool.submit(&forged).unwrap().1.code,
        1,
        "gRPC goes on"
    );
    assert_eq!(
        node.check(&transfer(1, 0, 1)).await.0,
        0,
        "and transactions do"
    );
    node.advance().await;
    assert_eq!(node.check(&forged).await.0, code::UNWANTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_stand_behind_no_transaction_and_behind_no_stranger_for_long() {
    let (_directory, node, _) = scheduled().await;
    let slot = now(&node);
    for seed in [1, 3, 4] {
        let txs = (0..1_000).map(|nonce| transfer(seed, nonce, 1)).collect();
        assert_eq!(node.mempool.insert(&GossipBundle::pack(txs).remove(0)), 0);
    }
    let strangers = attest(&slot, 49, Says::Commit);
    let strangers = GossipBundle::pack(vec![strangers[0].clone(); 2_000]).remove(0);
    assert_eq!(node.mempool.insert(&strangers), 0);
    let said = attest(&slot, ATTESTERS[0], Says::Commit);
    assert_eq!(node.mempool.insert(&said[0]), 0);
    for _ in 0..2 {
        assert!(node.mempool.take_in_next().unwrap());
    }
    assert_eq!(held(&node), 1);
    node.mempool.take_in_all().unwrap();
    assert_eq!((held(&node), node.mempool.size().0), (1, 3_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn cometbfts_own_mempool_lists_votes_while_they_count() {
    let directory = tempdir().unwrap();
    let node = Node::open_flood(directory.path());
    node.init_attested().await;
    let sample = Sample::new(0, |_| {});
    let txs = sample.transactions(2, 0);
    for tx in &txs {
        assert_eq!(node.check(tx).await.0, 0);
    }
    let block = node.prepare_from(0, &txs).await;
    node.replay(&block).await;
    node.until_scheduled(&sample).await;
    let slot = now(&node);
    let said: Vec<Bytes> = [50, 51]
        .map(|seed| attest(&slot, seed, Says::Commit))
        .concat();
    assert_eq!(node.mempool.examine(&said[0]).unwrap().1, Prospect::Sound);
    for message in &said {
        assert_eq!(node.check(message).await.0, 0);
        assert_eq!(node.recheck(message).await, 0);
    }
    assert!(node.reap().await.is_empty());
    assert_eq!(
        node.mempool.examine(&said[0]).unwrap().1,
        Prospect::Included
    );
    let block = node.prepare_from(0, &said).await;
    assert_eq!(block.items.len(), 2);
    node.replay(&block).await;
    assert_eq!(sample.status(&node), BundleStatus::Released);
    for message in &attest(&slot, 52, Says::Commit) {
        assert_eq!(node.check(message).await.0, code::UNWANTED);
        assert_eq!(node.recheck(message).await, code::GONE);
    }
}

/// What one attester says of a leg of some bundle, pinned to some hash.
fn say(seed: u8, bundle: u64, pin: u8) -> VerifiedMessage {
    use counterpoint_core::atomic::{Ballot, Failure, LegOutcome, Pin, Statement};
    let statement = Statement {
        parent_hash: Hash::ZERO,
        env_hash: Hash::ZERO,
        base_fee: 0,
        outcome: LegOutcome::Abort {
            failure: Failure::Policy,
            tx: 0,
        },
    };
    let ballot = Ballot {
        bundle_id: Hash::digest(&[&bundle.to_be_bytes()]),
        rollup_id: RollupId::from_name("alpha"),
        epoch: 1,
        pin: Pin {
            height: Height::new(1),
            hash: Hash::new([pin; 32]),
        },
    };
    let attestation = Attestation::sign("chain", ballot, statement, &key(seed));
    AttesterMessage::Attestation(attestation)
        .verify("chain")
        .unwrap()
}

#[test]
fn one_attester_takes_only_its_own_places() {
    let mut votes = Votes::default();
    let all = (0..MAX_OF_ONE as u64 + 10).map(|bundle| say(1, bundle, 0));
    let taken = all.filter(|message| votes.insert(message.clone(), Due::Now) == Look::Accepted);
    assert_eq!(taken.count(), MAX_OF_ONE);
    for seed in [0, 2] {
        assert_eq!(votes.insert(say(seed, 0, 0), Due::Now), Look::Accepted);
    }
    assert_eq!(votes.insert(say(1, 0, 0), Due::Now), Look::Known);
}

#[test]
fn an_attester_names_few_pins_of_one_height() {
    let mut votes = Votes::default();
    let looks: Vec<Look> = [3, 1, 2, 4]
        .map(|pin| votes.insert(say(1, 0, pin), Due::Now))
        .to_vec();
    let taken = [Look::Accepted, Look::Accepted, Look::TAKEN, Look::TAKEN];
    assert_eq!(looks, taken);
    assert_eq!(votes.insert(say(1, 1, 1), Due::Now), Look::Accepted);
}

#[test]
fn what_is_early_leaves_room_for_what_counts_now() {
    let mut votes = Votes::default();
    let (keys, each) = (MAX_EARLY / MAX_OF_ONE, MAX_OF_ONE as u64);
    for seed in 1..=u8::try_from(keys).unwrap() {
        for bundle in 0..each {
            let early = say(seed, bundle, 0);
            assert_eq!(votes.insert(early, Due::Early), Look::Accepted);
        }
    }
    assert_eq!(votes.insert(say(100, 0, 0), Due::Early), Look::FULL);
    assert_eq!(votes.insert(say(100, 0, 0), Due::Now), Look::Accepted);
    // Its time comes, or it never does; and then there is room again.
    let [first, second] = [0, 1].map(|bundle| Subject::of(say(1, bundle, 0).message()));
    let judged = [(first, Some(Due::Now)), (second, None)];
    votes.advance(Height::new(1), &judged);
    for bundle in 1..3 {
        assert_eq!(
            votes.insert(say(100, bundle, 0), Due::Early),
            Look::Accepted
        );
    }
    assert_eq!(votes.insert(say(100, 3, 0), Due::Early), Look::FULL);
}

#[test]
fn silence_of_extra_attesters_is_not_that_of_rollups() {
    let mut votes = Votes::default();
    let [alpha, beta] = ["alpha", "beta"].map(|name| Absent::Attesters(RollupId::from_name(name)));
    votes.note_silent([Absent::Extras, beta]);
    assert!(votes.is_worth_waiting(&[alpha]));
    assert!(!votes.is_worth_waiting(&[alpha, beta]));
    assert!(!votes.is_worth_waiting(&[alpha, Absent::Extras]));
    votes.advance(Height::new(SILENT_HEIGHTS), &[]);
    assert!(
        votes.is_worth_waiting(&[beta, Absent::Extras]),
        "for a while only"
    );
}

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(LONG / 10, what).await;
    done.expect("nothing to wait for")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposer_waits_for_those_who_may_answer() {
    let (_directory, node, _) = scheduled().await;
    let slot = now(&node);
    let waiting = {
        let mempool = std::sync::Arc::clone(&node.mempool);
        tokio::spawn(async move { mempool.wait_for_votes(LONG).await })
    };
    for (seed, says) in [(50, Says::Commit), (51, Says::Lie)] {
        for message in attest(&slot, seed, says) {
            assert_eq!(node.check(&message).await.0, 0);
        }
        assert!(!waiting.is_finished(), "they do not agree");
    }
    for message in attest(&slot, 52, Says::Commit) {
        assert_eq!(node.check(&message).await.0, 0);
    }
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposer_does_not_wait_where_all_have_spoken_or_nobody_does() {
    let (_directory, node, sample) = scheduled().await;
    for (seed, says) in [(50, Says::Commit), (51, Says::Lie), (52, Says::Abort)] {
        let message = &attest(&now(&node), seed, says)[0];
        assert_eq!(node.check(message).await.0, 0);
    }
    soon(node.mempool.wait_for_votes(LONG)).await.unwrap();
    node.advance().await;
    node.until_scheduled(&sample).await;
    node.mempool
        .wait_for_votes(Duration::from_millis(1))
        .await
        .unwrap();
    soon(node.mempool.wait_for_votes(LONG)).await.unwrap();
    let (block, _) = node.advance().await;
    assert_eq!(block.items.len(), 1);
    soon(node.mempool.wait_for_votes(LONG)).await.unwrap();
}
