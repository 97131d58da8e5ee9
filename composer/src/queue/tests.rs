use std::{path::Path, sync::Arc};

use alloy_primitives::U256;

use super::{
    testing::{checked, raw},
    *,
};

fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

fn tx(signer: u8, nonce: u64, max_fee: u128) -> Arc<Checked> {
    checked(alpha(), raw(signer, nonce, max_fee))
}

/// A batch that was signed once per version.
fn batch(nonce: u64, seqs: &[u64], versions: &[&'static str]) -> Batch {
    let hash = |version: &&str| Hash::digest(&[version.as_bytes()]);
    Batch {
        nonce,
        seqs: seqs.to_vec(),
        hashes: versions.iter().map(hash).collect(),
        newest: versions.last().copied().unwrap_or_default().into(),
    }
}

fn pending_nonce(queue: &Queue, sender: Address) -> u64 {
    queue.look(|state| state.pending_nonce(alpha(), sender, 0))
}

/// What a restart must find again, as far as it decides about sending.
#[derive(Debug, PartialEq)]
struct Essence {
    queued: Vec<u64>,
    open: Vec<Arc<Batch>>,
    next_nonce: Option<u64>,
    sequenced: Vec<(u64, Place)>,
}

fn essence(queue: &Queue) -> Essence {
    let state = queue.state();
    let queued = state.items.values();
    let queued = queued.filter(|item| item.stage == Stage::Queued);
    let queued = queued.map(|item| item.seq).collect();
    drop(state);
    Essence {
        queued,
        open: queue.open_batches(),
        next_nonce: queue.next_nonce(),
        sequenced: queue.sequenced(alpha()),
    }
}

#[tokio::test]
async fn every_step_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for step in 0..8 {
        match step {
            0..3 => queue.put(tx(1, step, 10), None).await.unwrap(),
            3 => queue.signed(batch(7, &[0, 1], &["first"])).await.unwrap(),
            4 => queue
                .signed(batch(7, &[0, 1], &["first", "second"]))
                .await
                .unwrap(),
            5 => {
                let places = vec![(0, Some(4)), (1, None)];
                queue.included(7, Height::new(9), places).await.unwrap();
            }
            6 => queue.signed(batch(8, &[1, 2], &["third"])).await.unwrap(),
            _ => queue.compact().await.unwrap(),
        }
        let before = essence(&queue);
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
        assert_eq!(essence(&queue), before, "after step {step}");
    }
    let [batch] = &queue.open_batches()[..] else {
        panic!("not one batch");
    };
    assert_eq!((batch.nonce, &batch.seqs[..]), (8, &[1, 2][..]));
    assert_eq!(
        queue.sequenced(alpha())[0].1,
        Place {
            height: Height::new(9),
            index: 4
        }
    );
}

/// What a process finds that died in the middle of a change, at every byte of its write: all of the
/// change or nothing of it.
async fn check_deaths(
    queue: &Queue,
    directory: &Path,
    change: impl AsyncFnOnce(&Queue) -> Result<(), LogError>,
) {
    let log = || std::fs::read(directory.join("queue.log")).unwrap();
    let found = |bytes: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("queue.log"), bytes).unwrap();
        let queue = Queue::open(directory.path()).unwrap();
        let mut stages: Vec<_> = queue.look(|state| {
            let items = state.items.values();
            items
                .map(|item| (item.seq, item.stage, item.delayed))
                .collect()
        });
        stages.sort_unstable_by_key(|stage| stage.0);
        (essence(&queue), stages)
    };
    let before = log();
    change(queue).await.unwrap();
    let after = log();
    assert!(after.len() > before.len() && after.starts_with(&before));
    let (old, new) = (found(&before), found(&after));
    assert_ne!(old, new);
    for cut in before.len()..after.len() {
        assert_eq!(found(&after[..cut]), old, "{cut} of {}", after.len());
    }
}

#[tokio::test]
async fn a_death_in_the_middle_of_a_write_is_a_death_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (path, queue) = (directory.path(), Queue::open(directory.path()).unwrap());
    for signer in 1..=5 {
        queue.put(tx(signer, 0, 10), None).await.unwrap();
    }
    let place = |index| Place {
        height: Height::new(9),
        index,
    };
    let skip = |seq, index, again| Skip {
        seq,
        place: place(index),
        reason: "nonce".into(),
        again,
    };
    let (one, two) = (batch(7, &[0, 1], &["one"]), batch(8, &[2, 3], &["two"]));
    check_deaths(&queue, path, async |queue| queue.signed(one).await).await;
    check_deaths(&queue, path, async |queue| queue.signed(two).await).await;
    let places = vec![(0, Some(0)), (1, Some(1))];
    let height = Height::new(9);
    check_deaths(&queue, path, async |queue| {
        queue.included(7, height, places).await
    })
    .await;
    let skips = vec![skip(0, 0, true), skip(1, 1, false)];
    check_deaths(&queue, path, async |queue| queue.skipped(skips).await).await;
    check_deaths(&queue, path, async |queue| {
        queue.dissolved(vec![8], 8).await
    })
    .await;
    let items = queue.items(&[2, 4]);
    check_deaths(&queue, path, async |queue| {
        queue.reject(&items, Rejection::Sealed).await
    })
    .await;
    check_deaths(&queue, path, async |queue| {
        queue.reject_all(alpha(), Rejection::RollupLeft).await
    })
    .await;
    let stages = queue.items(&[0, 1, 2, 3, 4]).into_iter();
    let left = Stage::Rejected(Rejection::RollupLeft);
    let sealed = Stage::Rejected(Rejection::Sealed);
    assert_eq!(
        stages.map(|item| item.stage).collect::<Vec<_>>(),
        [left, Stage::Skipped(place(1)), sealed, left, sealed]
    );
}

#[tokio::test]
async fn several_batches_are_on_their_way_and_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for signer in 1..=4 {
        queue.put(tx(signer, 0, 10), None).await.unwrap();
    }
    for step in 0..7 {
        match step {
            0 => queue.signed(batch(7, &[0], &["first"])).await.unwrap(),
            1 => queue.signed(batch(8, &[1], &["second"])).await.unwrap(),
            2 => queue.signed(batch(9, &[2], &["third"])).await.unwrap(),
            3 | 6 => queue.compact().await.unwrap(),
            4 => {
                let again = batch(8, &[1], &["second", "again"]);
                queue.signed(again).await.unwrap();
            }
            _ => {
                let places = vec![(0, Some(4))];
                queue.included(7, Height::new(9), places).await.unwrap();
            }
        }
        let before = essence(&queue);
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
        assert_eq!(essence(&queue), before, "after step {step}");
    }
    let open = queue.open_batches();
    let nonces: Vec<u64> = open.iter().map(|batch| batch.nonce).collect();
    assert_eq!((nonces, open[0].hashes.len()), (vec![8, 9], 2));
    assert_eq!(
        (queue.next_nonce(), essence(&queue).queued),
        (Some(10), vec![3])
    );
}

#[tokio::test]
async fn what_is_dissolved_waits_again_and_its_nonce_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for signer in 1..=4 {
        queue.put(tx(signer, 0, 10), None).await.unwrap();
    }
    for (nonce, seq) in [(7, 0), (8, 1), (9, 2)] {
        queue
            .signed(batch(nonce, &[seq], &["batch"]))
            .await
            .unwrap();
    }
    for step in 0..4 {
        match step {
            0 => queue.dissolved(vec![7, 8], 7).await.unwrap(),
            1 | 3 => queue.compact().await.unwrap(),
            _ => queue.signed(batch(7, &[0, 3], &["again"])).await.unwrap(),
        }
        let before = essence(&queue);
        let (queued, next) = if step < 2 {
            (vec![0, 1, 3], 7)
        } else {
            (vec![1], 8)
        };
        assert_eq!((&before.queued, before.next_nonce), (&queued, Some(next)));
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
        assert_eq!(essence(&queue), before, "after step {step}");
    }
    let open: Vec<u64> = queue.open_batches().iter().map(|one| one.nonce).collect();
    assert_eq!(open, vec![7, 9], "what may still be in a block stays");
    // A foreign transaction took a nonce: the account is ahead of what was ours.
    queue.dissolved(vec![7], 9).await.unwrap();
    assert_eq!(queue.next_nonce(), Some(10));
}

#[tokio::test]
async fn a_sender_is_in_one_batch_only() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    assert_eq!(take_all(&queue, 5).await, vec![0]);
    queue.signed(batch(5, &[0], &["first"])).await.unwrap();
    queue.put(tx(1, 1, 10), None).await.unwrap();
    queue.put(tx(2, 0, 10), None).await.unwrap();
    assert_eq!(take_all(&queue, 6).await, vec![2]);
    queue.signed(batch(6, &[2], &["second"])).await.unwrap();
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    assert!(take_all(&queue, 7).await.is_empty(), "after a restart, too");
    let failed = vec![(0, None)];
    queue.included(5, Height::new(3), failed).await.unwrap();
    assert_eq!(take_all(&queue, 7).await, vec![0, 1], "in order");
}

#[tokio::test]
async fn what_fails_on_the_sequencer_is_queued_again_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    for nonce in 0..3 {
        queue.put(tx(1, nonce, 10), None).await.unwrap();
    }
    queue.signed(batch(0, &[0, 1], &["batch"])).await.unwrap();
    queue
        .included(0, Height::new(3), vec![(0, None), (1, None)])
        .await
        .unwrap();
    assert_eq!(essence(&queue).queued, vec![0, 1, 2]);
}

/// Takes everything that waits into the batch with this nonce.
async fn take_all(queue: &Queue, nonce: u64) -> Vec<u64> {
    let taken = queue.take_all(nonce);
    taken.await.iter().map(|item| item.seq).collect()
}

#[tokio::test]
async fn a_replacement_keeps_the_place_in_line() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    for nonce in 0..2 {
        queue.put(tx(1, nonce, 10), None).await.unwrap();
    }
    let old = queue.items(&[0])[0].clone();
    let better = raw(1, 0, 20);
    queue
        .put(checked(alpha(), better.clone()), Some(0))
        .await
        .unwrap();
    let check = |queue: &Queue| {
        assert_eq!(essence(queue).queued, vec![0, 1], "ahead of the next nonce");
        assert_eq!(queue.items(&[0])[0].raw, better);
        assert_eq!(pending_nonce(queue, old.sender), 2);
        assert!(queue.get(alpha(), *old.tx.tx_hash()).is_none());
        assert!(queue.was_replaced(old.tx.tx_hash()));
        assert_eq!(queue.live(), 2);
    };
    check(&queue);
    drop(queue);
    check(&Queue::open(directory.path()).unwrap());
}

#[tokio::test]
async fn a_replacement_is_not_rejected_for_the_seal_of_what_it_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    for signer in 1..=2 {
        queue.put(tx(signer, 0, 10), None).await.unwrap();
    }
    queue.signed(batch(7, &[0, 1], &["batch"])).await.unwrap();
    let sealed = queue.items(&[0, 1]);
    let places = vec![(0, None), (1, None)];
    queue.included(7, Height::new(9), places).await.unwrap();
    // Between what the block says and what follows from it, a wallet replaces one.
    queue.put(tx(1, 0, 20), Some(0)).await.unwrap();
    queue.reject(&sealed, Rejection::Sealed).await.unwrap();
    let check = |queue: &Queue| {
        let stages = queue.items(&[0, 1]).into_iter().map(|item| item.stage);
        let expect = [Stage::Queued, Stage::Rejected(Rejection::Sealed)];
        assert_eq!(stages.collect::<Vec<_>>(), expect);
    };
    check(&queue);
    drop(queue);
    check(&Queue::open(directory.path()).unwrap());
}

#[tokio::test]
async fn what_is_in_a_batch_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    assert_eq!(take_all(&queue, 3).await, vec![0]);
    let late = queue.put(tx(1, 0, 20), Some(0)).await;
    assert!(matches!(late, Err(QueueError::TooLate)));
    assert!(take_all(&queue, 3).await.is_empty());
    // It was never signed, so nobody can have sent it: after a restart it waits again.
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    assert_eq!(essence(&queue).queued, vec![0]);
    queue.put(tx(1, 0, 20), Some(0)).await.unwrap();
}

#[tokio::test]
async fn a_batch_waits_for_replacements_that_have_begun() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    let better = raw(1, 0, 20);
    let (replaced, taken) = tokio::join!(
        biased;
        queue.put(checked(alpha(), better.clone()), Some(0)),
        queue.take_all(0),
    );
    replaced.unwrap();
    assert_eq!(taken[0].raw, better);
}

#[tokio::test]
async fn finished_transactions_keep_their_status_and_not_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    let hash = *queue.items(&[0])[0].tx.tx_hash();
    queue.signed(batch(0, &[0], &["batch"])).await.unwrap();
    queue
        .included(0, Height::new(3), vec![(0, Some(0))])
        .await
        .unwrap();
    let (seq, place) = queue.sequenced(alpha())[0];
    let execution = Execution {
        block_number: 5,
        success: true,
    };
    queue.finish(seq, Stage::Executed(place, execution));
    assert_eq!(
        queue.get(alpha(), hash).unwrap().stage,
        Stage::Executed(place, execution)
    );
    assert_eq!((queue.live(), queue.sequenced(alpha()).len()), (0, 0));
}

#[tokio::test]
async fn what_was_skipped_can_be_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    let again = tx(1, 0, 10);
    let hash = *again.tx.tx_hash();
    queue.put(again.clone(), None).await.unwrap();
    let place = Place {
        height: Height::new(3),
        index: 0,
    };
    queue.finish(0, Stage::Skipped(place));
    assert_eq!(
        queue.get(alpha(), hash).unwrap().stage,
        Stage::Skipped(place)
    );
    queue.put(again, None).await.unwrap();
    assert_eq!(queue.get(alpha(), hash).unwrap().stage, Stage::Queued);
    let beta = RollupId::from_name("beta");
    assert!(queue.get(beta, hash).is_none(), "every rollup has its own");
}

#[tokio::test]
async fn one_sender_holds_only_its_share() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    let mut state = queue.state();
    let mut admit = |tx: Arc<Checked>, replaces| {
        let claim = Claim { floor: 0, replaces };
        let record = state.admit(tx, claim, 0, None)?;
        state.written(&record);
        Ok::<(), QueueError>(())
    };
    for nonce in 0..MAX_PER_SENDER as u64 {
        admit(tx(1, nonce, 10), None).unwrap();
    }
    let more = tx(1, MAX_PER_SENDER as u64, 10);
    let sender = more.sender;
    assert!(matches!(admit(more, None), Err(QueueError::Sender)));
    admit(tx(1, 3, 20), Some(3)).expect("replacing is no more");
    admit(tx(2, 0, 10), None).unwrap();
    drop(state);
    let each = U256::from(210_000);
    let cost = queue.look(|state| state.pending_cost(alpha(), sender, 250));
    assert_eq!(cost, each * U256::from(6));
}

fn place(height: u64, index: u32) -> Place {
    Place {
        height: Height::new(height),
        index,
    }
}

fn skip(seq: u64, at: Place, reason: &str, again: bool) -> Skip {
    Skip {
        seq,
        place: at,
        reason: reason.into(),
        again,
    }
}

/// Nonces of what would be in the next batch, in its order.
async fn next_nonces(queue: &Queue) -> Vec<(Address, u64)> {
    let seen = queue.take_all(99);
    let seen = seen.await;
    let mut state = queue.state();
    for item in &seen {
        state.set_stage(item.seq, Stage::Queued);
    }
    let nonce = |item: &Item| (item.sender, alloy_consensus::Transaction::nonce(&item.tx));
    seen.iter().map(nonce).collect()
}

async fn nonces(queue: &Queue) -> Vec<u64> {
    let next = next_nonces(queue).await;
    next.into_iter().map(|(_, nonce)| nonce).collect()
}

/// Sends what waits in a batch of its own, which one block then holds.
async fn sequence(queue: &Queue, nonce: u64, height: u64) -> Vec<u64> {
    let seqs = take_all(queue, nonce).await;
    queue.signed(batch(nonce, &seqs, &["batch"])).await.unwrap();
    let places = (0_u32..).zip(&seqs).map(|(at, seq)| (*seq, Some(at)));
    let places = places.collect();
    queue
        .included(nonce, Height::new(height), places)
        .await
        .unwrap();
    seqs
}

#[tokio::test]
async fn what_lies_behind_a_gap_waits_until_it_is_filled() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for nonce in [3, 1, 2] {
        queue.put(tx(1, nonce, 10), None).await.unwrap();
    }
    let sender = queue.items(&[0])[0].sender;
    for _ in 0..2 {
        assert!(nonces(&queue).await.is_empty() && !queue.has_queued());
        assert_eq!(pending_nonce(&queue, sender), 0);
        assert_eq!(queue.waiting(&queue.items(&[0])[0]), Waiting::Nonce(0));
        queue.compact().await.unwrap();
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
    }
    queue.put(tx(1, 0, 10), None).await.unwrap();
    for _ in 0..2 {
        assert_eq!(nonces(&queue).await, vec![0, 1, 2, 3], "not as they came");
        assert_eq!(pending_nonce(&queue, sender), 4);
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
    }
}

#[tokio::test]
async fn an_executed_nonce_fills_a_gap_too() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 2, 10), None).await.unwrap();
    let sender = queue.items(&[0])[0].sender;
    let parked = queue.look(|state| state.parked_senders(alpha(), None).collect::<Vec<_>>());
    assert_eq!(parked, vec![sender]);
    queue.raise(alpha(), sender, 1);
    assert!(nonces(&queue).await.is_empty());
    queue.raise(alpha(), sender, 2);
    assert_eq!(nonces(&queue).await, vec![2]);
    assert!(!queue.look(|state| state.work(alpha())).waiting);
}

/// Geth's `DefaultConfig.AccountQueue` is 64; its `promoteExecutables` drops those with the highest
/// nonces above that. What was acknowledged is not dropped here: the next one is refused.
#[tokio::test]
async fn one_sender_parks_only_so_many() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    for nonce in 1..=MAX_PARKED_PER_SENDER as u64 {
        queue.put(tx(1, nonce, 10), None).await.unwrap();
    }
    let more = queue.put(tx(1, 65, 10), None).await;
    assert!(matches!(more, Err(QueueError::Parked)), "{more:?}");
    queue.put(tx(2, 5, 10), None).await.unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    queue.put(tx(1, 65, 10), None).await.unwrap();
    assert_eq!(nonces(&queue).await.len(), 66, "all but the other sender's");
}

/// Geth's `queue.add` asks for the same price bump of what is queued behind a gap.
#[tokio::test]
async fn what_is_parked_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 1, 10), None).await.unwrap();
    queue.put(tx(1, 1, 20), Some(0)).await.unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    let taken = queue.take_all(0);
    let fees = taken
        .await
        .iter()
        .map(|item| item.raw.clone())
        .collect::<Vec<_>>();
    assert_eq!(fees, vec![raw(1, 0, 10), raw(1, 1, 20)]);
}

#[tokio::test]
async fn what_is_parked_expires_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 7, 10), None).await.unwrap();
    queue.put(tx(2, 0, 10), None).await.unwrap();
    let hash = *queue.items(&[0])[0].tx.tx_hash();
    let accepted = queue.items(&[0])[0].time;
    assert_eq!(queue.expire(alpha(), accepted).await.unwrap(), 0);
    drop(queue);
    queue = Queue::open(directory.path()).unwrap();
    assert_eq!(
        queue.items(&[0])[0].time,
        accepted,
        "a restart gives no time"
    );
    assert_eq!(queue.expire(alpha(), accepted + 1).await.unwrap(), 1);
    let expired = Stage::Rejected(Rejection::Expired { missing: 0 });
    for step in 0..3 {
        assert_eq!(queue.get(alpha(), hash).unwrap().stage, expired, "{step}");
        assert_eq!(queue.live(), 1);
        if step == 1 {
            queue.compact().await.unwrap();
        }
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
    }
    queue.put(tx(1, 7, 10), None).await.unwrap();
    assert_eq!(queue.get(alpha(), hash).unwrap().stage, Stage::Queued);
}

#[tokio::test]
async fn a_skip_that_can_pass_delays_a_sender_until_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for nonce in 0..3 {
        queue.put(tx(1, nonce, 10), None).await.unwrap();
    }
    sequence(&queue, 0, 5).await;
    let elsewhere = skip(0, place(5, 1), "fee_too_low", true);
    queue.skipped(vec![elsewhere]).await.unwrap();
    assert_eq!(
        queue.sequenced(alpha()).len(),
        3,
        "a skip is about one place"
    );
    let first = skip(0, place(5, 0), "fee_too_low", true);
    let second = skip(1, place(5, 1), "nonce", true);
    queue.skipped(vec![first.clone(), second]).await.unwrap();
    for step in 0..3 {
        assert_eq!(queue.sequenced(alpha()), vec![(2, place(5, 2))]);
        assert!(nonces(&queue).await.is_empty(), "step {step}");
        let delayed = queue.items(&[0])[0].clone();
        assert_eq!(queue.waiting(&delayed), Waiting::Cause);
        assert_eq!(delayed.skip.unwrap().attempts, 1);
        if step == 1 {
            queue.compact().await.unwrap();
        }
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
    }
    // The later one may run by now: it waits for the earlier one all the same.
    queue.release(1, 0);
    assert!(nonces(&queue).await.is_empty());
    assert_eq!(queue.waiting(&queue.items(&[1])[0]), Waiting::Nonce(0));
    queue.release(0, 0);
    assert_eq!(nonces(&queue).await, vec![0, 1]);
    sequence(&queue, 1, 9).await;
    queue.skipped(vec![first]).await.unwrap();
    assert_eq!(queue.items(&[0])[0].stage, Stage::Sequenced(place(9, 0)));
    let again = skip(0, place(9, 0), "fee_too_low", false);
    queue.skipped(vec![again]).await.unwrap();
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    let end = queue.items(&[0])[0].clone();
    assert_eq!(end.stage, Stage::Skipped(place(9, 0)));
    assert_eq!(end.skip.unwrap().attempts, 2);
}

#[tokio::test]
async fn who_waited_long_enough_gives_up() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    sequence(&queue, 0, 5).await;
    let at = place(5, 0);
    queue
        .skipped(vec![skip(0, at, "stale", true)])
        .await
        .unwrap();
    queue
        .skipped(vec![skip(0, at, "stale", false)])
        .await
        .unwrap();
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    assert_eq!(queue.items(&[0])[0].stage, Stage::Skipped(at));
    assert_eq!(queue.live(), 0);
}

#[tokio::test]
async fn who_follows_one_that_is_gone_is_parked() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    sequence(&queue, 0, 5).await;
    queue.put(tx(1, 1, 10), None).await.unwrap();
    assert_eq!(nonces(&queue).await, vec![1]);
    queue
        .skipped(vec![skip(0, place(5, 0), "balance", false)])
        .await
        .unwrap();
    assert!(nonces(&queue).await.is_empty());
    queue.put(tx(1, 0, 20), None).await.unwrap();
    assert_eq!(nonces(&queue).await, vec![0, 1]);
}

/// Puts a bundle of transactions in, by sender and nonce.
async fn bundle(queue: &Queue, name: u8, txs: &[(u8, u64)]) -> Result<(), QueueError> {
    let txs = txs.iter().map(|(signer, nonce)| tx(*signer, *nonce, 10));
    let judge = |_: &State, _: &Checked| Ok::<_, QueueError>(Claim::default());
    let name = B256::repeat_byte(name);
    queue.accept_bundle(name, txs.collect(), judge).await
}

/// Senders by their number in the next batch.
async fn order(queue: &Queue) -> Vec<(u8, u64)> {
    let name = |sender: Address| (1..9).find(|signer| tx(*signer, 0, 1).sender == sender);
    let next = next_nonces(queue).await.into_iter();
    next.map(|(sender, nonce)| (name(sender).unwrap(), nonce))
        .collect()
}

#[tokio::test]
async fn a_bundle_goes_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    queue.put(tx(2, 0, 10), None).await.unwrap();
    let members = [(1, 1), (2, 1), (1, 2), (3, 0)];
    bundle(&queue, 1, &members).await.unwrap();
    queue.put(tx(1, 3, 10), None).await.unwrap();
    queue.put(tx(3, 1, 10), None).await.unwrap();
    for _ in 0..2 {
        let order = order(&queue).await;
        assert_eq!(order.len(), 8);
        assert!(
            order.windows(4).any(|window| window == members),
            "{order:?}"
        );
        let of = |sender| order.iter().filter(move |(of, _)| *of == sender);
        assert!((1..4).all(|sender| of(sender).is_sorted()), "{order:?}");
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
    }
    let replaced = queue.put(tx(3, 0, 20), Some(5)).await;
    assert!(matches!(replaced, Err(QueueError::Bundled)), "{replaced:?}");
    // While one of its senders is in a batch, nobody of the bundle goes.
    queue.signed(batch(0, &[0], &["first"])).await.unwrap();
    assert_eq!(order(&queue).await, vec![(2, 0)]);
    queue
        .included(0, Height::new(3), vec![(0, Some(0))])
        .await
        .unwrap();
    assert_eq!(order(&queue).await.len(), 7);
    // A batch that fails gives it back as it was; once it was in a list, each goes on alone.
    let taken = take_all(&queue, 1).await;
    queue.signed(batch(1, &taken, &["second"])).await.unwrap();
    let failed = taken.iter().map(|seq| (*seq, None)).collect();
    queue.included(1, Height::new(4), failed).await.unwrap();
    assert_eq!(sequence(&queue, 2, 5).await.len(), 7);
    let (seq, at) = *queue
        .sequenced(alpha())
        .iter()
        .find(|(seq, _)| *seq == 5)
        .unwrap();
    queue
        .skipped(vec![skip(seq, at, "fee_too_low", true)])
        .await
        .unwrap();
    queue.release(5, 0);
    assert_eq!(order(&queue).await, vec![(3, 0)]);
    let name = B256::repeat_byte(1);
    assert_eq!(queue.bundle(alpha(), name).unwrap().len(), 4);
}

#[tokio::test]
async fn a_bundle_is_taken_in_as_a_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    let refuse = |state: &State, checked: &Checked| {
        assert_eq!(
            state.pending_nonce(alpha(), checked.sender, 0),
            checked_nonce(checked)
        );
        match checked_nonce(checked) {
            2 => Err(QueueError::TooLate),
            _ => Ok(Claim::default()),
        }
    };
    let txs = (0..3).map(|nonce| tx(1, nonce, 10)).collect();
    let name = B256::repeat_byte(1);
    let refused = queue.accept_bundle(name, txs, refuse).await;
    assert!(matches!(refused, Err(QueueError::TooLate)));
    assert!(queue.bundle(alpha(), name).is_none());
    let sender = tx(1, 0, 10).sender;
    assert_eq!((queue.live(), pending_nonce(&queue, sender)), (0, 0));
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    bundle(&queue, 1, &[(1, 0), (2, 0)]).await.unwrap();
    drop(queue);
    // A crash while it was written leaves nothing of it.
    let path = directory.path().join("queue.log");
    let bytes = std::fs::read(&path).unwrap();
    for cut in 8..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert_eq!(
            Queue::open(directory.path()).unwrap().live(),
            0,
            "cut at {cut}"
        );
    }
}

fn checked_nonce(checked: &Checked) -> u64 {
    alloy_consensus::Transaction::nonce(&checked.tx)
}

#[tokio::test]
async fn a_bundle_with_a_gap_is_rejected_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.put(tx(1, 0, 10), None).await.unwrap();
    sequence(&queue, 0, 5).await;
    bundle(&queue, 1, &[(2, 0), (1, 1)]).await.unwrap();
    assert_eq!(order(&queue).await.len(), 2);
    queue
        .skipped(vec![skip(0, place(5, 0), "balance", false)])
        .await
        .unwrap();
    assert!(order(&queue).await.is_empty(), "not without the other");
    queue.expire(alpha(), 0).await.unwrap();
    let broken = Stage::Rejected(Rejection::Bundle { missing: 0 });
    let stages = |queue: &Queue| {
        let items = queue.items(&[1, 2]).into_iter();
        items.map(|item| item.stage).collect::<Vec<_>>()
    };
    assert_eq!(stages(&queue), vec![broken; 2]);
    bundle(&queue, 1, &[(2, 0), (3, 0)]).await.unwrap();
    assert_eq!(order(&queue).await, vec![(2, 0), (3, 0)], "sent once more");
}

#[tokio::test]
async fn a_log_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.log");
    for length in 0..8 {
        std::fs::write(&path, &b"cpqueue2"[..length]).unwrap();
        let queue = Queue::open(directory.path()).unwrap();
        queue.put(tx(1, 0, 10), None).await.unwrap();
        drop(queue);
        assert_eq!(Queue::open(directory.path()).unwrap().live(), 1);
    }
    std::fs::write(&path, b"an older log").unwrap();
    let refused = Queue::open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("has another format"), "{refused}");
}
