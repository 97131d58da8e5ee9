//! The conductor's blocks against stock clients: random programs and transactions through
//! `BlockBuilder`, and then by the Engine API into a client that executes them by itself.
//!
//! A client computes state root, receipts root, gas and hash anew and calls a block invalid if one
//! differs. So a block that it takes with our hash is right in all of them. What must become of each
//! item is known beforehand: nothing valid is skipped, and nothing invalid is let in. Thin mode builds
//! each block once more, from geth's state and with geth's root.

mod candidates;
mod chain;
mod clients;
mod mailbox;
mod precompiles;
mod programs;
mod random;
mod vectors;

use std::{env, sync::Arc};

use alloy_provider::Provider;
use counterpoint_conductor::{
    engine::{Driver, ExecutionClient},
    evm::{BuiltBlock, StoreError},
    thin::Thin,
};
use counterpoint_service::Readiness;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use self::{
    candidates::{Candidates, wallet},
    chain::{Chain, FORKS, genesis},
    clients::Client,
    random::Random,
};

/// Transactions that are included in all, unless the environment asks for more.
const TRANSACTIONS: usize = 510;

fn setting(name: &str) -> Option<u64> {
    Some(env::var(name).ok()?.parse().unwrap())
}

/// Tells of the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("differential test failed with seed {}", self.0);
        }
    }
}

/// A client takes a block, and has it as its head with all that is in it.
async fn hand_in(client: &Client, driver: &Driver<impl ExecutionClient>, built: &BuiltBlock) {
    let number = built.block.header.number;
    let source = |number| Err(StoreError::new(format!("block {number} was taken before")));
    let submitted = driver.submit(built.hash, &built.block, &source);
    let submitted = tokio::time::timeout(super::support::PATIENCE, submitted).await;
    let submitted = submitted
        .unwrap_or_else(|_| panic!("block {number} is not taken in time\n{}", client.log()));
    submitted.unwrap_or_else(|halt| panic!("block {number}: {halt}\n{}", client.log()));
    let head = client.engine().block(None).await.unwrap().unwrap();
    assert_eq!((head.number, head.hash), (number, built.hash));
    let theirs = client.engine().whole_block(number).await.unwrap().unwrap();
    assert_eq!(theirs, built.block, "block {number}");
}

#[tokio::test(flavor = "multi_thread")]
async fn geth_agrees_on_random_blocks_across_forks() {
    let seed = setting("COUNTERPOINT_DIFFERENTIAL_SEED").unwrap_or(1);
    let wanted = setting("COUNTERPOINT_DIFFERENTIAL_TRANSACTIONS")
        .map_or(TRANSACTIONS, |wanted| usize::try_from(wanted).unwrap());
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let (genesis, world) = genesis(&mut random);
    let mut chain = Chain::new(&genesis);
    let client = Client::geth(&genesis).await;
    let driver = Driver::new(client.engine(), chain.specification.clone());
    let driver = Arc::new(driver);
    let evidence = tempfile::tempdir().unwrap();
    chain.thin = Some(Arc::new(Thin::new(
        client.ipc(),
        Arc::clone(&driver),
        chain.store(),
        evidence.path().to_owned(),
        Readiness::of(&[]),
        CancellationToken::new(),
    )));
    let rpc = client.rpc();
    let mut candidates = Candidates::new(random, world);
    for (era, (fork, start)) in FORKS.into_iter().enumerate() {
        let mut timestamp = start;
        let mut tour = precompiles::of(fork);
        while chain.tally.included < wanted * (era + 1) / FORKS.len() {
            for sender in Candidates::senders() {
                let nonce = rpc.get_transaction_count(wallet(sender).address()).await;
                candidates.set_nonce(sender, nonce.unwrap());
            }
            let count = candidates.random.below(40);
            let tour = std::mem::take(&mut tour);
            let built = block_in_place(|| {
                chain.build(&mut candidates, timestamp, &tour, count, Candidates::next)
            });
            hand_in(&client, &driver, &built).await;
            timestamp += candidates.random.between(1, 12);
        }
        // The next fork begins right behind the last block of this one.
        if let Some((_, next)) = FORKS.get(era + 1) {
            let built =
                block_in_place(|| chain.build(&mut candidates, next - 1, &[], 0, Candidates::next));
            hand_in(&client, &driver, &built).await;
        }
    }
    let tally = &chain.tally;
    eprintln!("seed {seed}: {} blocks, {tally:?}", chain.head().0.number);
    assert!(tally.succeeded > tally.included / 4, "{tally:?}");
    assert!(tally.ended > 0, "{tally:?}");
    let skipped: usize = tally.skips.values().sum();
    assert!(skipped > tally.included / 6, "{tally:?}");
    for reason in [
        "size",
        "decode",
        "type",
        "signature",
        "chain_id",
        "unprotected",
        "gas_limit",
        "nonce",
        "balance",
        "fee_too_low",
        "tip_too_low",
        "intrinsic_gas",
        "initcode_size",
        "sender_has_code",
        "invalid",
    ] {
        assert!(
            tally.skips.contains_key(reason),
            "nothing was skipped for {reason}: {tally:?}"
        );
    }
    client.stop().await;
}

/// A few transfers and withdrawals under each fork: EthereumJS takes seconds for what geth does in
/// milliseconds, and differs from it on the stranger programs.
#[tokio::test(flavor = "multi_thread")]
async fn geth_and_ethereumjs_agree() {
    let seed = setting("COUNTERPOINT_DIFFERENTIAL_SEED").unwrap_or(1);
    let _seed = Seed(seed);
    let mut random = Random::new(seed);
    let (genesis, world) = genesis(&mut random);
    let mut chain = Chain::new(&genesis);
    let clients = [
        Client::geth(&genesis).await,
        Client::ethereumjs(&genesis).await,
    ];
    for client in &clients {
        let known = client.engine().capabilities().await.unwrap();
        for method in [
            "engine_newPayloadV3",
            "engine_newPayloadV4",
            "engine_forkchoiceUpdatedV3",
        ] {
            assert!(known.iter().any(|known| known == method), "{known:?}");
        }
    }
    let drivers = clients
        .each_ref()
        .map(|client| Driver::new(client.engine(), chain.specification.clone()));
    let mut candidates = Candidates::new(random, world);
    for (_, start) in FORKS {
        for block in 0..3 {
            let built = chain.build(&mut candidates, start + block, &[], 6, Candidates::transfer);
            for (client, driver) in clients.iter().zip(&drivers) {
                hand_in(client, driver, &built).await;
            }
        }
    }
    assert!(chain.tally.included > 40, "{:?}", chain.tally);
    for client in clients {
        client.stop().await;
    }
}
