//! The queue against a naive model, over random steps with crashes between any two bytes written.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use alloy_consensus::Transaction as _;
use alloy_primitives::U256;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    testing::{checked, raw},
    *,
};

const SENDERS: u8 = 3;

/// A sender and a nonce.
type Key = (u8, u64);

/// Where the model has a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// `released` is forgotten by a crash, unless it was kept.
    Delayed {
        place: Place,
        released: bool,
    },
    Waiting,
    /// In a batch; a crash before it is signed undoes it.
    Batched {
        nonce: u64,
        signed: bool,
    },
    Sequenced(Place),
    /// `kept` until the log is written anew; a crash forgets that it ran.
    Ran {
        place: Place,
        kept: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Tx {
    fee: u128,
    fate: Fate,
}

/// One step; numbers choose among what is possible.
#[derive(Clone, Debug)]
enum Step {
    Accept { sender: u8, gap: u64 },
    Replace(usize),
    Bundle,
    Take(usize),
    SignAgain,
    Include { placed: bool },
    Resolve { runs: bool, again: bool },
    Release(usize),
    Expire,
    Compact,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..=SENDERS, 0..3_u64).prop_map(|(sender, gap)| Step::Accept { sender, gap }),
        1 => any::<usize>().prop_map(Step::Replace),
        1 => Just(Step::Bundle),
        4 => (1..6_usize).prop_map(Step::Take),
        1 => Just(Step::SignAgain),
        4 => any::<bool>().prop_map(|placed| Step::Include { placed }),
        6 => any::<(bool, bool)>().prop_map(|(runs, again)| Step::Resolve { runs, again }),
        3 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Expire),
        1 => Just(Step::Compact),
        2 => Just(Step::Crash),
    ]
}

struct World {
    directory: TempDir,
    queue: Option<Queue>,
    txs: BTreeMap<Key, Tx>,
    /// Nonces that the rollup has executed.
    executed: BTreeMap<u8, u64>,
    open: Vec<(u64, Vec<Key>)>,
    next_nonce: u64,
    height: u64,
    fee: u128,
}

fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            queue: Some(Queue::open(directory.path()).unwrap()),
            directory,
            txs: BTreeMap::new(),
            executed: (1..=SENDERS).map(|sender| (sender, 0)).collect(),
            open: Vec::new(),
            next_nonce: 0,
            height: 0,
            fee: 10,
        }
    }

    fn queue(&self) -> &Queue {
        self.queue.as_ref().unwrap()
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("queue.log")
    }

    fn checked(&self, (sender, nonce): Key, fee: u128) -> Arc<Checked> {
        checked(alpha(), raw(sender, nonce, fee))
    }

    fn item(&self, key: Key) -> Option<Item> {
        let tx = self.checked(key, self.txs[&key].fee);
        self.queue().get(alpha(), *tx.tx.tx_hash())
    }

    fn seq(&self, key: Key) -> u64 {
        self.item(key).unwrap().seq
    }

    fn key(&self, item: &Item) -> Key {
        let sender = |sender: &u8| self.checked((*sender, 0), 1).sender == item.sender;
        ((1..=SENDERS).find(sender).unwrap(), item.tx.nonce())
    }

    fn keys(&self, is: impl Fn(Fate) -> bool) -> Vec<Key> {
        let keys = self.txs.iter().filter(|(_, tx)| is(tx.fate));
        keys.map(|(key, _)| *key).collect()
    }

    fn set(&mut self, key: Key, fate: Fate) {
        self.txs.get_mut(&key).unwrap().fate = fate;
    }

    fn next_free(&self, sender: u8) -> u64 {
        let mut next = self.executed[&sender];
        while self.txs.contains_key(&(sender, next)) {
            next += 1;
        }
        next
    }

    async fn accept(&mut self, key: Key) {
        if self.txs.contains_key(&key) {
            return;
        }
        self.fee += 1;
        let tx = self.checked(key, self.fee);
        let claim = Claim {
            floor: self.executed[&key.0],
            replaces: None,
        };
        let judge = |_: &State, _: &Checked| Ok::<_, QueueError>(claim);
        let accepted = self.queue().accept(vec![tx], judge).await;
        assert!(accepted[0].is_ok());
        let (fee, fate) = (self.fee, Fate::Waiting);
        self.txs.insert(key, Tx { fee, fate });
    }

    async fn replace(&mut self, at: usize) {
        let waiting = self.keys(|fate| fate == Fate::Waiting);
        let Some(key) = at.checked_rem(waiting.len()).map(|at| waiting[at]) else {
            return;
        };
        let item = self.item(key).unwrap();
        self.fee += 1;
        let replaced = self
            .queue()
            .put(self.checked(key, self.fee), Some(item.seq))
            .await;
        match replaced {
            Ok(()) => self.txs.get_mut(&key).unwrap().fee = self.fee,
            Err(error) => assert!(item.is_bundled(), "{error}"),
        }
    }

    async fn bundle(&mut self) {
        self.fee += 1;
        let keys: Vec<Key> = (1..=2).map(|of| (of, self.next_free(of))).collect();
        let txs = keys.iter().map(|key| self.checked(*key, self.fee));
        let judge = |state: &State, checked: &Checked| {
            let floor = self.executed[&self.sender(checked.sender)];
            let next = state.next_to_run(alpha(), checked.sender, floor);
            if checked.tx.nonce() != next {
                return Err(QueueError::TooLate);
            }
            let replaces = None;
            Ok(Claim { floor, replaces })
        };
        let name = B256::from(U256::from(self.fee));
        let taken = self.queue().accept_bundle(name, txs.collect(), judge).await;
        if taken.is_ok() {
            for key in keys {
                let (fee, fate) = (self.fee, Fate::Waiting);
                self.txs.insert(key, Tx { fee, fate });
            }
        }
    }

    fn sender(&self, address: Address) -> u8 {
        let is = |sender: &u8| self.checked((*sender, 0), 1).sender == address;
        (1..=SENDERS).find(is).unwrap()
    }

    /// Takes so many groups into a batch, and signs it.
    async fn take(&mut self, groups: usize) {
        let nonce = self.next_nonce;
        let some = |lines: Vec<(RollupId, Line<'_>)>| {
            let waiting = lines.into_iter().flat_map(|(_, line)| line);
            waiting.take(groups).flatten().cloned().collect()
        };
        let taken = self.queue().take(nonce, some).await;
        let keys: Vec<Key> = taken.iter().map(|item| self.key(item)).collect();
        self.check_order(&keys);
        self.check_bundles(&taken);
        for key in &keys {
            self.set(
                *key,
                Fate::Batched {
                    nonce,
                    signed: false,
                },
            );
        }
        if keys.is_empty() {
            return;
        }
        let seqs = taken.iter().map(|item| item.seq).collect();
        self.queue().signed(version(nonce, seqs)).await.unwrap();
        for key in &keys {
            self.set(
                *key,
                Fate::Batched {
                    nonce,
                    signed: true,
                },
            );
        }
        self.open.push((nonce, keys));
        self.next_nonce += 1;
    }

    /// One sender's transactions follow one another, and everything before them is in a list.
    fn check_order(&self, keys: &[Key]) {
        for (sender, executed) in &self.executed {
            let taken = keys.iter().filter(|(of, _)| of == sender);
            let nonces: Vec<u64> = taken.map(|(_, nonce)| *nonce).collect();
            assert!(nonces.is_sorted(), "{nonces:?}");
            let Some((first, last)) = nonces.first().zip(nonces.last()) else {
                continue;
            };
            for before in *executed..*last {
                let fate = self.txs.get(&(*sender, before)).map(|tx| tx.fate);
                let is_there = nonces.contains(&before)
                    || matches!(fate, Some(Fate::Sequenced(_) | Fate::Ran { .. }));
                assert!(is_there, "{before} before {first}: {fate:?}");
            }
        }
    }

    /// Those of a bundle that was in no list yet stand next to each other, and none is missing.
    fn check_bundles(&self, taken: &[Item]) {
        for (at, item) in taken.iter().enumerate() {
            let Some(bundle) = item.bundle.filter(|_| item.skip.is_none()) else {
                continue;
            };
            let all = self.queue().bundle(alpha(), bundle).unwrap();
            let seqs = |items: &[Item]| items.iter().map(|it| it.seq).collect::<Vec<_>>();
            let before = all.iter().position(|member| member.seq == item.seq);
            let start = at - before.unwrap();
            assert_eq!(seqs(&taken[start..start + all.len()]), seqs(&all));
        }
    }

    async fn sign_again(&mut self) {
        if let Some((nonce, keys)) = self.open.first() {
            let seqs = keys.iter().map(|key| self.seq(*key)).collect();
            self.queue().signed(version(*nonce, seqs)).await.unwrap();
        }
    }

    async fn include(&mut self, placed: bool) {
        if self.open.is_empty() {
            return;
        }
        let (nonce, keys) = self.open.remove(0);
        self.height += 1;
        let height = Height::new(self.height);
        let places = (0_u32..).zip(&keys);
        let places = places.map(|(at, key)| (self.seq(*key), placed.then_some(at)));
        let places = places.collect();
        self.queue().included(nonce, height, places).await.unwrap();
        for (index, key) in (0..).zip(keys) {
            let place = Place { height, index };
            let fate = if placed {
                Fate::Sequenced(place)
            } else {
                Fate::Waiting
            };
            self.set(key, fate);
        }
    }

    /// Execution comes to the next place.
    async fn resolve(&mut self, runs: bool, again: bool) {
        let placed = self.txs.iter().filter_map(|(key, tx)| match tx.fate {
            Fate::Sequenced(place) => Some((place, *key)),
            _ => None,
        });
        let Some((place, key)) = placed.min() else {
            return;
        };
        let (sender, nonce) = key;
        let executed = self.executed[&sender];
        // What ran before a crash has its receipt still.
        if nonce < executed || (runs && nonce == executed) {
            self.executed.insert(sender, executed.max(nonce + 1));
            let hash = *self.item(key).unwrap().tx.tx_hash();
            let execution = Execution {
                block_number: 1,
                success: true,
            };
            let ran = [(hash, execution)].into_iter();
            assert_eq!(self.queue().executed(alpha(), ran), 1);
            self.set(key, Fate::Ran { place, kept: true });
            return;
        }
        let skip = Skip {
            seq: self.seq(key),
            place,
            reason: "nonce".into(),
            again,
        };
        self.queue().skipped(vec![skip.clone()]).await.unwrap();
        // Told again, or late, it changes nothing.
        self.queue()
            .skipped(vec![Skip {
                again: true,
                ..skip
            }])
            .await
            .unwrap();
        if again {
            self.set(
                key,
                Fate::Delayed {
                    place,
                    released: false,
                },
            );
        } else {
            self.txs.remove(&key);
        }
    }

    fn release(&mut self, at: usize) {
        let delayed = self.keys(|fate| matches!(fate, Fate::Delayed { .. }));
        let Some(key) = at.checked_rem(delayed.len()).map(|at| delayed[at]) else {
            return;
        };
        self.queue().release(self.seq(key), self.executed[&key.0]);
        if let Fate::Delayed { place, .. } = self.txs[&key].fate {
            self.set(
                key,
                Fate::Delayed {
                    place,
                    released: true,
                },
            );
        }
    }

    async fn expire(&mut self) {
        let before: Vec<Key> = self.txs.keys().copied().collect();
        self.queue().expire(alpha(), u64::MAX).await.unwrap();
        for key in before {
            let Some(item) = self.item(key) else {
                continue;
            };
            if matches!(item.stage, Stage::Rejected(_)) {
                let fate = self.txs.remove(&key).unwrap().fate;
                let waited = matches!(fate, Fate::Waiting | Fate::Delayed { released: true, .. });
                assert!(waited, "{fate:?}");
            }
        }
    }

    async fn compact(&mut self) {
        self.queue().compact().await.unwrap();
        for tx in self.txs.values_mut() {
            match &mut tx.fate {
                Fate::Ran { kept, .. } => *kept = false,
                Fate::Delayed { released: true, .. } => tx.fate = Fate::Waiting,
                _ => {}
            }
        }
    }

    fn crash(&mut self) {
        drop(self.queue.take());
        self.queue = Some(Queue::open(self.directory.path()).unwrap());
        self.txs
            .retain(|_, tx| !matches!(tx.fate, Fate::Ran { kept: false, .. }));
        for tx in self.txs.values_mut() {
            match tx.fate {
                Fate::Ran { place, .. } => tx.fate = Fate::Sequenced(place),
                Fate::Batched { signed: false, .. } => tx.fate = Fate::Waiting,
                Fate::Delayed { place, .. } => {
                    tx.fate = Fate::Delayed {
                        place,
                        released: false,
                    };
                }
                _ => {}
            }
        }
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Accept { sender, gap } => {
                let nonce = self.next_free(*sender) + gap;
                self.accept((*sender, nonce)).await;
            }
            Step::Replace(at) => self.replace(*at).await,
            Step::Bundle => self.bundle().await,
            Step::Take(groups) => self.take(*groups).await,
            Step::SignAgain => self.sign_again().await,
            Step::Include { placed } => self.include(*placed).await,
            Step::Resolve { runs, again } => self.resolve(*runs, *again).await,
            Step::Release(at) => self.release(*at),
            Step::Expire => self.expire().await,
            Step::Compact => self.compact().await,
            Step::Crash => self.crash(),
        }
    }

    /// Nothing that was acknowledged is lost, and everything stands where the model has it.
    fn check(&self) {
        for (key, tx) in &self.txs {
            let item = self.item(*key);
            let stage = item.as_ref().map(|item| (item.stage, item.delayed));
            let agrees = match (tx.fate, stage) {
                (Fate::Waiting, Some((Stage::Queued, delayed))) => !delayed,
                (Fate::Delayed { released, .. }, Some((Stage::Queued, delayed))) => {
                    delayed != released
                }
                (Fate::Batched { nonce, .. }, Some((Stage::Batched(now), _))) => nonce == now,
                (Fate::Sequenced(place), Some((Stage::Sequenced(now), _))) => place == now,
                (Fate::Ran { .. }, Some((Stage::Executed(..), _))) => true,
                _ => false,
            };
            assert!(agrees, "{key:?}: {tx:?}, but {stage:?}");
        }
        let unfinished = self.keys(|fate| !matches!(fate, Fate::Ran { .. }));
        assert_eq!(self.queue().live(), unfinished.len());
        let open = self.queue().open_batches();
        let mut seqs: Vec<u64> = open.iter().flat_map(|batch| batch.seqs.clone()).collect();
        let count = seqs.len();
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(seqs.len(), count, "one is in two batches");
        let nonces: Vec<u64> = self.open.iter().map(|(nonce, _)| *nonce).collect();
        let found: Vec<u64> = open.iter().map(|batch| batch.nonce).collect();
        assert_eq!(found, nonces);
    }
}

fn version(nonce: u64, seqs: Vec<u64>) -> Batch {
    Batch {
        nonce,
        seqs,
        hashes: vec![Hash::digest(&[b"version"])],
        newest: Bytes::new(),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_and_nothing_runs_twice(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        block_on(async {
            let mut world = World::new();
            for step in &steps {
                world.run(step).await;
                world.check();
            }
        });
    }

    /// What a step was writing when the power went is there as a whole or not at all, and what was
    /// acknowledged before it is there.
    #[test]
    fn a_torn_end_takes_nothing_with_it(
        steps in prop::collection::vec(step(), 1..30),
        last in step(),
        cut in any::<prop::sample::Index>(),
    ) {
        block_on(async {
            let mut world = World::new();
            for step in &steps {
                world.run(step).await;
            }
            world.crash();
            let before = std::fs::read(world.path()).unwrap();
            let (txs, open) = (world.txs.clone(), world.open.clone());
            world.run(&last).await;
            drop(world.queue.take());
            let after = std::fs::read(world.path()).unwrap();
            if !after.starts_with(&before) || after.len() == before.len() {
                return; // It was written anew, in one step.
            }
            let torn = before.len() + cut.index(after.len() - before.len());
            std::fs::write(world.path(), &after[..torn]).unwrap();
            (world.txs, world.open) = (txs, open);
            world.crash();
            world.check();
        });
    }
}
