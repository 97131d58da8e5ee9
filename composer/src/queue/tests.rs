use super::{
    testing::{checked, raw},
    *,
};

fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

fn tx(signer: u8, nonce: u64, max_fee: u128) -> Checked {
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

/// What a restart must find again, as far as it decides about sending.
#[derive(Debug, PartialEq)]
struct Essence {
    queued: Vec<u64>,
    open: Vec<Batch>,
    next_nonce: Option<u64>,
    sequenced: Vec<(u64, Place)>,
}

fn essence(queue: &Queue) -> Essence {
    let queued = queue.state().queued.iter().copied().collect();
    let sequenced = queue.sequenced(alpha(), usize::MAX).into_iter();
    Essence {
        queued,
        open: queue.open_batches(),
        next_nonce: queue.next_nonce(),
        sequenced: sequenced.map(|(seq, _, place)| (seq, place)).collect(),
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
        queue.sequenced(alpha(), 9)[0].2,
        Place {
            height: Height::new(9),
            index: 4
        }
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
    let taken = queue.take(nonce, |waiting| waiting.cloned().collect());
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
        assert_eq!(
            queue.look(|state| state.pending_nonce(alpha(), old.sender, 0)),
            2
        );
        assert!(queue.get(alpha(), *old.tx.tx_hash()).is_none());
        assert!(queue.was_replaced(old.tx.tx_hash()));
        assert_eq!(queue.live(), 2);
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
        queue.take(0, |waiting| waiting.cloned().collect()),
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
    let (seq, _, place) = queue.sequenced(alpha(), 9)[0];
    let execution = Execution {
        block_number: 5,
        success: true,
    };
    queue
        .finish(seq, Stage::Executed(place, execution))
        .await
        .unwrap();
    assert_eq!(
        queue.get(alpha(), hash).unwrap().stage,
        Stage::Executed(place, execution)
    );
    assert_eq!((queue.live(), queue.sequenced(alpha(), 9).len()), (0, 0));
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
    queue.finish(0, Stage::Skipped(place)).await.unwrap();
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
    for nonce in 0..MAX_PER_SENDER as u64 {
        let seq = state.admit(tx(1, nonce, 10), None).unwrap();
        state.written(seq);
    }
    let more = tx(1, MAX_PER_SENDER as u64, 10);
    let sender = more.sender;
    assert!(matches!(state.admit(more, None), Err(QueueError::Sender)));
    assert!(
        state.admit(tx(1, 3, 20), Some(3)).is_ok(),
        "replacing is no more"
    );
    assert!(state.admit(tx(2, 0, 10), None).is_ok());
    drop(state);
    let each = U256::from(210_000);
    let cost = queue.look(|state| state.pending_cost(alpha(), sender, 250));
    assert_eq!(cost, each * U256::from(6));
}
