use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use counterpoint_core::{
    atomic::{Failure, LegOutcome, Pin},
    key::SecretKey,
};

use super::*;

/// Forgets nothing, and dies at one of its writes.
#[derive(Clone, Default)]
struct Memory {
    entries: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    writes: Arc<AtomicUsize>,
    dies_at: Option<usize>,
}

impl Memory {
    /// The same contents after a restart.
    fn again(&self) -> Self {
        Self {
            entries: Arc::clone(&self.entries),
            ..Self::default()
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VoteError> {
        Ok(self.entries().get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Result<Vec<Entry>, VoteError> {
        let entries = self.entries();
        let range = entries.range(from.to_vec()..to.to_vec());
        Ok(range
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn write(&self, writes: Writes) -> Result<(), VoteError> {
        if Some(self.writes.fetch_add(1, Ordering::Relaxed)) == self.dies_at {
            return Err(broken("killed"));
        }
        let mut entries = self.entries();
        for (key, value) in writes {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }
}

fn attester() -> PublicKey {
    SecretKey::from_seed([1; 32]).public_key()
}

fn votes(disk: &Memory) -> Votes {
    Votes::on(disk.clone(), "test", &attester()).unwrap()
}

fn ballot(height: u64) -> Ballot {
    Ballot {
        bundle_id: Hash::new([2; 32]),
        rollup_id: RollupId::new([3; 32]),
        epoch: 1,
        pin: Pin {
            height: Height::new(height),
            hash: Hash::new([4; 32]),
        },
    }
}

fn statement(tx: u8) -> Statement {
    Statement {
        parent_hash: Hash::ZERO,
        env_hash: Hash::ZERO,
        base_fee: 7,
        outcome: LegOutcome::Abort {
            failure: Failure::Revert,
            tx,
        },
    }
}

fn executed(receipts: u8) -> Executed {
    Executed {
        bundle_id: Hash::new([2; 32]),
        rollup_id: RollupId::new([3; 32]),
        block_number: 5,
        block_hash: Hash::ZERO,
        receipts_hash: Hash::new([receipts; 32]),
    }
}

fn another(what: &'static str) -> Result<(), VoteError> {
    Err(VoteError::Contradiction { what })
}

#[tokio::test]
async fn nothing_else_is_ever_said_of_a_leg_and_slot() {
    let disk = Memory::default();
    for votes in [votes(&disk), votes(&disk.again())] {
        assert_eq!(
            votes.keep_statement(&ballot(9), &statement(0)).await,
            Ok(())
        );
        let other = votes.keep_statement(&ballot(9), &statement(1)).await;
        assert_eq!(other, another("statement"));
        let mut later = ballot(9);
        later.epoch = 2;
        let other = votes.keep_statement(&later, &statement(0)).await;
        assert_eq!(other, another("statement"));
        let mut elsewhere = ballot(9);
        elsewhere.pin.hash = Hash::new([5; 32]);
        assert_eq!(
            votes.keep_statement(&elsewhere, &statement(1)).await,
            Ok(())
        );
        let height = Height::new(10);
        assert_eq!(votes.keep_outcome(height, &executed(1)).await, Ok(()));
        let other = votes.keep_outcome(height, &executed(2)).await;
        assert_eq!(other, another("outcome"));
        assert_eq!(
            votes.outcomes(&RollupId::new([3; 32])),
            Ok(vec![executed(1)])
        );
        let said = votes.statements(&RollupId::new([3; 32]), Height::new(9), &Hash::new([2; 32]));
        assert_eq!(said.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_disk_that_fails_ends_all_votes_and_none_is_signed_that_it_lacks() {
    for dies_at in 1..3 {
        let disk = Memory {
            dies_at: Some(dies_at),
            ..Memory::default()
        };
        let dying = votes(&disk);
        let mut kept = Vec::new();
        for height in 1..4 {
            let said = dying.keep_statement(&ballot(height), &statement(0)).await;
            if said.is_ok() {
                kept.push(height);
            }
        }
        assert_eq!(kept.len(), dies_at - 1);
        let votes = votes(&disk.again());
        for height in 1..4 {
            let other = votes.keep_statement(&ballot(height), &statement(1)).await;
            assert_eq!(other.is_err(), kept.contains(&height), "height {height}");
        }
    }
}

#[tokio::test]
async fn what_is_forgotten_is_never_spoken_of_again() {
    let disk = Memory::default();
    let votes = votes(&disk);
    let rollup_id = RollupId::new([3; 32]);
    votes
        .keep_statement(&ballot(9), &statement(0))
        .await
        .unwrap();
    votes
        .keep_statement(&ballot(10), &statement(0))
        .await
        .unwrap();
    votes
        .forget_before(rollup_id, Height::new(KEPT_HEIGHTS + 10))
        .await;
    votes
        .keep_statement(&ballot(11), &statement(0))
        .await
        .unwrap();
    let height = Height::new(9);
    let past = Err(VoteError::Past { height });
    for tx in [0, 1] {
        assert_eq!(votes.keep_statement(&ballot(9), &statement(tx)).await, past);
    }
    assert_eq!(
        votes.keep_statement(&ballot(10), &statement(0)).await,
        Ok(())
    );
    // It never goes back.
    votes
        .forget_before(rollup_id, Height::new(KEPT_HEIGHTS + 5))
        .await;
    assert_eq!(votes.keep_statement(&ballot(9), &statement(0)).await, past);
    // Another rollup is not meant.
    let mut other = ballot(9);
    other.rollup_id = RollupId::new([7; 32]);
    assert_eq!(votes.keep_statement(&other, &statement(0)).await, Ok(()));
}

#[tokio::test]
async fn votes_belong_to_a_key_and_a_chain_and_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let open = |chain_id, seed| {
        let key = SecretKey::from_seed([seed; 32]).public_key();
        Votes::open(directory.path(), chain_id, &key)
    };
    let votes = open("test", 1).unwrap();
    let all = (0..200).map(|height| {
        let votes = votes.clone();
        async move { votes.keep_statement(&ballot(height), &statement(0)).await }
    });
    assert!(
        futures::future::join_all(all)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let busy = open("test", 1).unwrap_err().to_string();
    assert!(busy.contains("in use by another process"), "{busy}");
    drop(votes);
    let reopened = async |chain_id, seed| loop {
        // The thread that writes ends a moment later.
        match open(chain_id, seed) {
            Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
            opened => return opened,
        }
    };
    for (chain_id, seed) in [("other", 1), ("test", 2)] {
        let refused = reopened(chain_id, seed).await.unwrap_err().to_string();
        assert!(refused.contains("it holds the votes of"), "{refused}");
    }
    let votes = reopened("test", 1).await.unwrap();
    let other = votes.keep_statement(&ballot(199), &statement(1)).await;
    assert_eq!(other, another("statement"));
}
