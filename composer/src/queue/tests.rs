use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::TxKind;
use alloy_signer_local::PrivateKeySigner;

use super::*;

fn raw(signer: u8, nonce: u64) -> Bytes {
    let signer = PrivateKeySigner::from_slice(&[signer; 32]).unwrap();
    let mut tx = TxEip1559 {
        chain_id: 1,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(Address::ZERO),
        ..TxEip1559::default()
    };
    let signature = signer.sign_transaction_sync(&mut tx).unwrap();
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

/// What a restart must find again, as far as it decides about sending.
fn essence(queue: &Queue) -> (Vec<u64>, Option<Batch>, Option<u64>, Vec<(u64, Place)>) {
    let queued = queue
        .queued(usize::MAX)
        .into_iter()
        .map(|item| item.seq)
        .collect();
    let sequenced = queue.sequenced(alpha(), usize::MAX);
    let sequenced = sequenced
        .into_iter()
        .map(|(seq, _, place)| (seq, place))
        .collect();
    (queued, queue.open_batch(), queue.next_nonce(), sequenced)
}

#[tokio::test]
async fn every_step_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    for step in 0..8 {
        match step {
            0..3 => queue.accept(alpha(), raw(1, step), None).await.unwrap(),
            3 => queue
                .signed(7, vec![0, 1], Bytes::from_static(b"first"))
                .await
                .unwrap(),
            4 => queue
                .signed(7, vec![0, 1], Bytes::from_static(b"second"))
                .await
                .unwrap(),
            5 => {
                let places = vec![(0, Some(4)), (1, None)];
                queue.included(7, Height::new(9), places).await.unwrap();
            }
            6 => queue
                .signed(8, vec![1, 2], Bytes::from_static(b"third"))
                .await
                .unwrap(),
            _ => queue.compact().await.unwrap(),
        }
        let before = essence(&queue);
        drop(queue);
        queue = Queue::open(directory.path()).unwrap();
        assert_eq!(essence(&queue), before, "after step {step}");
    }
    let batch = queue.open_batch().unwrap();
    assert_eq!((batch.nonce, batch.seqs), (8, vec![1, 2]));
    assert_eq!(
        queue.sequenced(alpha(), 9)[0].2,
        Place {
            height: Height::new(9),
            index: 4
        }
    );
}

#[tokio::test]
async fn what_fails_on_the_sequencer_is_queued_again_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    for nonce in 0..3 {
        queue.accept(alpha(), raw(1, nonce), None).await.unwrap();
    }
    queue
        .signed(0, vec![0, 1], Bytes::from_static(b"batch"))
        .await
        .unwrap();
    queue
        .included(0, Height::new(3), vec![(0, None), (1, None)])
        .await
        .unwrap();
    assert_eq!(essence(&queue).0, vec![0, 1, 2]);
}

#[tokio::test]
async fn a_replacement_takes_the_place_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.accept(alpha(), raw(1, 0), None).await.unwrap();
    let sender = queue.queued(usize::MAX)[0].sender;
    queue.accept(alpha(), raw(1, 1), None).await.unwrap();
    assert_eq!(queue.pending_nonce(alpha(), sender, 0), 2);
    queue.accept(alpha(), raw(2, 0), Some(0)).await.unwrap();
    assert_eq!(essence(&queue).0, vec![1, 2]);
    assert_eq!(queue.pending_nonce(alpha(), sender, 0), 0);
    drop(queue);
    assert_eq!(
        essence(&Queue::open(directory.path()).unwrap()).0,
        vec![1, 2]
    );
}

#[tokio::test]
async fn finished_transactions_keep_their_status_and_not_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let queue = Queue::open(directory.path()).unwrap();
    queue.accept(alpha(), raw(1, 0), None).await.unwrap();
    let hash = *queue.queued(usize::MAX)[0].tx.tx_hash();
    queue
        .signed(0, vec![0], Bytes::from_static(b"batch"))
        .await
        .unwrap();
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
        queue.get(&hash).unwrap().stage,
        Stage::Executed(place, execution)
    );
    assert_eq!((queue.live(), queue.sequenced(alpha(), 9).len()), (0, 0));
}
