use counterpoint_core::{
    action::{Action, Transfer},
    primitive::Amount,
    transaction::MAX_BUNDLE_BYTES,
};
use tempfile::tempdir;

use super::*;
use crate::testing::{Node, address, batch, data, sign, transfer};

#[tokio::test(flavor = "multi_thread")]
async fn a_local_transaction_is_offered_once_and_relayed_once_byte_for_byte() {
    let directories = [tempdir().unwrap(), tempdir().unwrap()];
    let a = Node::start(directories[0].path()).await;
    let b = Node::start(directories[1].path()).await;
    let (first, second) = (transfer(1, 0, 1), transfer(1, 1, 1));
    for tx in [&first, &second, &first] {
        assert_eq!(a.check(tx).await.0, 0);
    }
    let bundles = a.reap().await;
    assert_eq!(bundles, GossipBundle::pack(vec![first, second.clone()]));
    assert!(a.reap().await.is_empty());
    assert_eq!(b.insert(&bundles[0]).await, 0);
    assert_eq!(b.mempool.size(), a.mempool.size());
    assert_eq!(b.reap().await, bundles);
    assert_eq!(b.insert(&bundles[0]).await, 0);
    assert_eq!(a.insert(&bundles[0]).await, 0);
    assert!(a.reap().await.is_empty() && b.reap().await.is_empty());
    assert_eq!(b.insert(&second).await, 0, "single ones are taken too");
    let next = b.mempool.next_nonce(&address(1), Nonce::new(0));
    assert_eq!(next, Nonce::new(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_waits_is_offered_again_after_a_while() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let parked = transfer(1, 7, 1);
    assert_eq!(node.check(&parked).await.0, 0);
    let bundles = node.reap().await;
    for _ in 1..REOFFER_HEIGHTS {
        node.advance().await;
    }
    assert!(node.reap().await.is_empty());
    node.advance().await;
    assert_eq!(node.reap().await, bundles);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_stable_codes() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.advance().await; // The rollup takes items from height 2 on.
    let check = async |tx: &[u8]| node.check(&Bytes::copy_from_slice(tx)).await.0;
    assert_eq!(check(b"").await, 1);
    assert_eq!(check(b"\x10garbage").await, 1);
    assert_eq!(check(&transfer(9, 0, 1)).await, 4, "no such account");
    assert_eq!(
        check(&transfer(1, 0, u64::MAX)).await,
        7,
        "dearer than max_fee"
    );
    assert_eq!(check(&transfer(1, 0, 1)).await, 0);
    assert_eq!(check(&data(1, 0, b"other")).await, 64, "nonce is taken");
    assert_eq!(check(&transfer(1, 0, 2)).await, 0, "more tip replaces");
    node.advance().await;
    assert_eq!(check(&transfer(1, 0, 2)).await, 0, "a block holds it");
    assert_eq!(check(&transfer(1, 0, 1)).await, 3, "nonce is used");
    let mut forged = transfer(2, 0, 1).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(check(&forged).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_of_garbage_do_no_harm() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let insert = async |item: Vec<u8>| node.insert(&item.into()).await;
    assert_eq!(insert(vec![0x20]).await, 1);
    assert_eq!(insert(vec![0x20, 255, 255, 255, 255]).await, 1);
    assert_eq!(insert(vec![0x20; MAX_BUNDLE_BYTES + 1]).await, 1);
    assert_eq!(insert(vec![]).await, 1);
    let junk = vec![Bytes::from_static(b"\x10x"), transfer(1, 0, 1)];
    let bundle = GossipBundle::pack(junk).remove(0);
    assert_eq!(node.insert(&bundle).await, 0, "members are judged alone");
    assert_eq!(node.mempool.size().0, 1);
    let nested = GossipBundle::pack(vec![bundle]).remove(0);
    assert_eq!(node.insert(&nested).await, 0);
    assert_eq!(node.mempool.size().0, 1, "a bundle in a bundle is junk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_asks_to_come_back() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let limits = Limits {
        count: 1,
        ..Limits::default()
    };
    let pool = Mempool::new(node.store.clone(), limits, Relay::Nothing);
    assert_eq!(pool.submit(&transfer(1, 0, 5)).unwrap().1.code, 0);
    assert_eq!(pool.submit(&transfer(2, 0, 5)).unwrap().1.code, 32_000);
    let offered = vec![vec![0x10; 1 << 20]; 65];
    let codes: Vec<u32> = offered.iter().map(|item| pool.insert(item)).collect();
    assert_eq!(codes, [vec![0; 64], vec![32_000]].concat());
    pool.take_in_all().unwrap();
    assert_eq!(pool.size().0, 1, "garbage is dropped");
    assert_eq!(pool.submit(&transfer(2, 0, 6)).unwrap().1.code, 0);
    assert!(pool.get(&Hash::digest(&[&transfer(1, 0, 5)])).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_no_block_can_hold_does_not_keep_others_out() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    node.advance().await;
    let too_many = batch(1, 0, 9, 1_001);
    assert_eq!(
        node.check(&too_many).await.0,
        9,
        "more than a block may hold"
    );
    // Each of these fits alone; two do not, and whoever pays less waits.
    for seed in 1..4 {
        assert_eq!(node.check(&batch(seed, 0, u64::from(seed), 600)).await.0, 0);
    }
    assert_eq!(node.check(&transfer(4, 0, 0)).await.0, 0);
    let (block, _) = node.advance().await;
    assert_eq!(block.items[1..], [batch(3, 0, 3, 600), transfer(4, 0, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_a_block_ahead_loses_nothing() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    // Account 6 does not exist before account 5 has paid it.
    let (to, amount) = (address(6), Amount::new(1_000_000));
    let pay = sign(5, 0, 1, Action::Transfer(Transfer { to, amount }));
    assert_eq!(node.check(&pay).await.0, 0);
    let bundle = GossipBundle::pack(vec![transfer(6, 0, 0)]).remove(0);
    assert_eq!(node.insert(&bundle).await, 0);
    assert_eq!(node.mempool.size().0, 1);
    node.advance().await;
    node.mempool.take_in_all().unwrap();
    assert_eq!(node.mempool.size().0, 1, "it is looked at again");
}
