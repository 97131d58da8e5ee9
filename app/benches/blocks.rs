//! What a block costs the application, as accounts and idle rollups grow.
//!
//! Each figure is the median of whole blocks: chosen, judged, executed, hashed and written. They are
//! printed as JSON lines, since a block changes the chain that the next one is measured on.
#![expect(clippy::unwrap_used, reason = "a benchmark may end")]

use std::time::{Duration, Instant};

use counterpoint_app::bench::Chain;
use counterpoint_core::{
    action::{Action, Transfer},
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    primitive::{Address, Amount, Height, Nonce},
    registry::RollupConfig,
    slot::SlotSecs,
    transaction::{SignedTransaction, TransactionBody},
};

const CHAIN_ID: &str = "bench";
/// Accounts that send, each once a block.
const SENDERS: u32 = 100;
/// Blocks that are measured, after some that are not.
const BLOCKS: u64 = 200;
const WARM_UP: u64 = 20;

fn key(at: u32) -> SecretKey {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&at.to_le_bytes());
    SecretKey::from_seed(seed)
}

/// An account that nobody has the key of.
fn address(at: u32) -> Address {
    let mut bytes = [2; 20];
    bytes[..4].copy_from_slice(&at.to_le_bytes());
    Address::new(bytes)
}

fn genesis(accounts: u32, rollups: u32) -> SequencerGenesis {
    let account = |address| GenesisAccount {
        address,
        balance: Amount::new(1_000_000_000_000),
    };
    let senders = (0..SENDERS).map(|at| key(at).public_key().address());
    let others = (SENDERS..accounts).map(address);
    let rollup = |at: u32| RollupConfig {
        evm_chain_id: 1_000 + u64::from(at),
        slot_secs: SlotSecs::ONE,
        ..RollupConfig::example(&format!("rollup-{at}"))
    };
    SequencerGenesis {
        accounts: senders.chain(others).map(account).collect(),
        rollups: (0..rollups).map(rollup).collect(),
        ..SequencerGenesis::default()
    }
}

fn transfer(from: u32, nonce: u64, to: u32) -> SignedTransaction {
    let key = key(from);
    let body = TransactionBody {
        chain_id: CHAIN_ID.into(),
        signer: key.public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte: 0,
        max_fee: Amount::new(1_000_000_000),
        valid_until: Height::new(500),
        actions: vec![Action::Transfer(Transfer {
            to: address(to),
            amount: Amount::new(1),
        })],
    };
    SignedTransaction::sign(body, &key).unwrap()
}

/// The median time of a block with one transfer of each of `senders`, in microseconds.
fn measure(accounts: u32, rollups: u32, senders: u32) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let genesis = genesis(accounts, rollups);
    let mut chain = Chain::new(directory.path(), CHAIN_ID, &genesis).unwrap();
    let mut times = Vec::new();
    for block in 0..WARM_UP + BLOCKS {
        // Spread over all accounts, as real ones are.
        let to = |from: u32| {
            let step = (block * 7_919 + u64::from(from) * 104_729) % u64::from(accounts.max(1));
            u32::try_from(step).unwrap()
        };
        let txs = (0..senders)
            .map(|from| transfer(from, block, to(from)))
            .collect();
        let start = Instant::now();
        assert_eq!(
            chain.advance(txs).unwrap(),
            usize::try_from(senders).unwrap()
        );
        if block >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times.sort();
    let median: Duration = times[times.len() / 2];
    median.as_secs_f64() * 1e6
}

fn main() {
    for accounts in [1_000, 10_000, 100_000, 1_000_000] {
        let micros = measure(accounts, 0, SENDERS);
        println!(
            "{{\"accounts\": {accounts}, \"transfers\": {SENDERS}, \"block_us\": {micros:.0}}}"
        );
    }
    let empty = measure(SENDERS, 0, 0);
    for rollups in [0, 256, 1_024, 2_048, 4_096] {
        let micros = measure(SENDERS, rollups, 0);
        let each = (micros - empty) / f64::from(rollups.max(1));
        println!(
            "{{\"idle_rollups\": {rollups}, \"block_us\": {micros:.0}, \"per_rollup_us\": {each:.2}}}"
        );
    }
}
