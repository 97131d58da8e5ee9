//! Intake beside a flood, and choosing a block.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has no result"
)]
#![expect(missing_docs, reason = "the macros make undocumented functions")]

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use counterpoint_app::bench::Pool;
use counterpoint_core::{
    action::{Action, Transfer},
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    primitive::{Address, Amount, Height, Nonce},
    transaction::{GossipBundle, SignedTransaction, TransactionBody},
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const CHAIN_ID: &str = "counterpoint-bench";
const ACCOUNTS: u32 = 1_000;
/// Honest transactions that come in at once: one of each of so many accounts.
const HONEST: u32 = 200;
/// Who floods; nobody honest.
const HOSTILE: u32 = ACCOUNTS - 1;
/// Bundles of the flood that wait already, of 1 MiB each.
const FLOOD: usize = 7;

fn key(at: u32) -> SecretKey {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&at.to_le_bytes());
    SecretKey::from_seed(seed)
}

fn transfer(account: u32, nonce: u64, tip: u64) -> Bytes {
    let key = key(account);
    let to = Address::new([7; 20]);
    let body = TransactionBody {
        chain_id: CHAIN_ID.into(),
        signer: key.public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: tip,
        max_fee: Amount::new(1_000_000_000),
        valid_until: Height::new(500),
        actions: vec![Action::Transfer(Transfer {
            to,
            amount: Amount::new(1),
        })],
    };
    SignedTransaction::sign(body, &key)
        .unwrap()
        .as_bytes()
        .clone()
}

fn pool() -> (Pool, tempfile::TempDir) {
    let account = |at| GenesisAccount {
        address: key(at).public_key().address(),
        balance: Amount::new(1_000_000_000_000),
    };
    let genesis = SequencerGenesis {
        accounts: (0..ACCOUNTS).map(account).collect(),
        rollups: Vec::new(),
        ..SequencerGenesis::default()
    };
    let directory = tempfile::tempdir().unwrap();
    (
        Pool::new(directory.path(), CHAIN_ID, &genesis).unwrap(),
        directory,
    )
}

fn forge(tx: &Bytes) -> Bytes {
    let mut forged = tx.to_vec();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    forged.into()
}

/// Bundles of one account's transactions, more than it may have waiting.
fn flood(change: fn(&Bytes) -> Bytes) -> Vec<Bytes> {
    let txs = (0..FLOOD as u64 * 4_000).map(|nonce| change(&transfer(HOSTILE, nonce, 9)));
    GossipBundle::pack(txs.collect())
}

/// Until the honest ones are in, whatever else waits to be looked at.
fn intake(criterion: &mut Criterion) {
    let honest: Vec<Bytes> = (0..HONEST).map(|account| transfer(account, 0, 1)).collect();
    let last = transfer(HONEST - 1, 0, 1);
    let honest = GossipBundle::pack(honest).remove(0);
    let floods = [
        ("none", Vec::new()),
        ("valid", flood(Bytes::clone)),
        ("forged", flood(forge)),
    ];
    let mut group = criterion.benchmark_group("mempool::intake");
    group.throughput(Throughput::Elements(HONEST.into()));
    for (name, flood) in &floods {
        let set_up = || {
            let (pool, directory) = pool();
            for bundle in flood {
                let _ = pool.offer(bundle);
            }
            (pool, directory)
        };
        group.bench_function(format!("flood={name}"), |bencher| {
            bencher.iter_batched(
                set_up,
                |(pool, directory)| {
                    assert_eq!(pool.offer(&honest), 0);
                    while !pool.holds(&last) {
                        assert!(pool.take_in_next().unwrap());
                    }
                    (pool, directory)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A block out of 100,000 waiting transactions.
fn select(criterion: &mut Criterion) {
    let (pool, _directory) = pool();
    for account in 0..ACCOUNTS {
        let txs = (0..100).map(|nonce| transfer(account, nonce, u64::from(account % 7)));
        for bundle in GossipBundle::pack(txs.collect()) {
            assert_eq!(pool.offer(&bundle), 0);
            while pool.take_in_next().unwrap() {}
        }
    }
    assert_eq!(pool.len(), 100_000);
    let mut group = criterion.benchmark_group("mempool::select/waiting=100000");
    for mebibytes in [1, 4, 16] {
        group.bench_function(format!("block_mib={mebibytes}"), |bencher| {
            bencher.iter(|| black_box(pool.select(mebibytes << 20).unwrap()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = intake, select
}
criterion_main!(benches);
