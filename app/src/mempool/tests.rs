use counterpoint_core::{
    action::{Action, Transfer},
    key::count::verified,
    primitive::Amount,
    transaction::{MAX_BUNDLE_BYTES, TransactionBody},
};
use tempfile::tempdir;

use super::*;
use crate::testing::{Node, RICH, address, batch, data, key, sign, transfer};

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
    let mut limits = Limits::default();
    limits.all.count = 1;
    let pool = Mempool::new(node.store.clone(), limits, Gossip::Direct);
    assert_eq!(pool.submit(&transfer(1, 0, 5)).unwrap().1.code, 0);
    assert_eq!(pool.submit(&transfer(2, 0, 5)).unwrap().1.code, 32_000);
    let offered = vec![vec![0x10; 1 << 20]; 8];
    let codes: Vec<u32> = offered.iter().map(|item| pool.insert(item)).collect();
    assert_eq!(codes, [vec![0; 7], vec![32_000]].concat(), "of garbage");
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

/// The same transaction with a signature that is none.
fn forge(tx: &Bytes) -> Bytes {
    let mut forged = tx.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    forged.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_member_spoils_neither_the_others_nor_other_nodes() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut members: Vec<Bytes> = (0..70).map(|nonce| transfer(1, nonce, 1)).collect();
    members.insert(5, forge(&transfer(2, 0, 1)));
    let bundle = GossipBundle::pack(members).remove(0);
    assert_eq!(node.insert(&bundle).await, 0);
    assert_eq!(node.mempool.size().0, 63, "the rest of its batch lives");
    assert!(
        node.reap().await.is_empty(),
        "nobody else gets it from here"
    );
    let forged: Vec<Bytes> = (0..1_000)
        .map(|nonce| forge(&transfer(2, nonce, 1)))
        .collect();
    let before = verified();
    assert_eq!(node.insert(&GossipBundle::pack(forged).remove(0)).await, 0);
    assert_eq!(
        verified() - before,
        2 * UnverifiedTransaction::BATCH,
        "and no more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_block_can_hold_is_never_verified() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    assert_eq!(node.check(&transfer(1, 0, 1)).await.0, 0);
    node.advance().await;
    let change = |seed: u8, change: fn(&mut TransactionBody)| {
        let tx = SignedTransaction::decode(&transfer(seed, 0, 1)).unwrap();
        let mut body = tx.body().clone();
        change(&mut body);
        let tx = SignedTransaction::sign(body, &key(seed)).unwrap();
        tx.as_bytes().clone()
    };
    let garbage = [
        (change(2, |body| body.chain_id = "another".into()), 2),
        (change(1, |body| body.tip_per_byte = 2), 3),
        (change(9, |_| {}), 4),
        (change(2, |body| body.valid_until = Height::new(1)), 5),
        (change(2, |body| body.valid_until = Height::new(700)), 6),
        (change(2, |body| body.max_fee = Amount::new(10)), 7),
        (
            change(2, |body| {
                (body.tip_per_byte, body.max_fee) = (u64::MAX, Amount::new(u128::MAX));
            }),
            8,
        ),
    ];
    let before = verified();
    for (item, code) in &garbage {
        assert_eq!(node.check(item).await.0, *code);
    }
    let members = garbage.iter().map(|(item, _)| item.clone()).collect();
    assert_eq!(node.insert(&GossipBundle::pack(members).remove(0)).await, 0);
    assert_eq!((verified() - before, node.mempool.size().0), (0, 0));
    assert_eq!(node.check(&sign(2, 0, 1, transfer_of(RICH / 2))).await.0, 0);
    assert_eq!(verified() - before, 1);
}

fn transfer_of(amount: u128) -> Action {
    let (to, amount) = (address(3), Amount::new(amount));
    Action::Transfer(Transfer { to, amount })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_full_costs_no_more_signatures() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let limit = Limits::default().account.count;
    let flood: Vec<Bytes> = (0..2_000).map(|nonce| transfer(1, nonce, 1)).collect();
    let before = verified();
    for bundle in GossipBundle::pack(flood) {
        assert_eq!(node.mempool.insert(&bundle), 0);
    }
    assert_eq!(node.mempool.insert(&transfer(2, 0, 1)), 0);
    for _ in 0..2 {
        assert!(node.mempool.take_in_next().unwrap());
    }
    let waits = |seed| node.mempool.next_nonce(&address(seed), Nonce::new(0)).get();
    assert_eq!(
        (waits(1), waits(2)),
        (64, 1),
        "nobody waits for the whole of it"
    );
    node.mempool.take_in_all().unwrap();
    assert_eq!(node.mempool.size().0, limit + 1);
    assert!(verified() - before <= limit + UnverifiedTransaction::BATCH + 1);
    let before = verified();
    let verdict = node.mempool.submit(&transfer(1, 5_000, 1)).unwrap().1;
    assert_eq!((verdict.code, verified() - before), (code::ACCOUNT_FULL, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tx_does_only_so_much_between_two_blocks() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let most = CHECK_BYTES / (SIGNATURE_BYTES + transfer(1, 0, 1).len());
    let junk = forge(&transfer(1, 0, 1));
    for _ in 0..most {
        assert_eq!(node.check(&junk).await.0, 1);
    }
    let good = transfer(1, 0, 1);
    assert_eq!(node.check(&good).await.0, code::BUSY);
    let before = node.mempool.size().0;
    node.mempool.submit(&transfer(2, 0, 1)).unwrap();
    assert_eq!(node.mempool.size().0, before + 1, "gRPC goes on");
    node.advance().await;
    assert_eq!(node.check(&good).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_flood_in_all_names_delays_others_by_one_turn() {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let pool = &node.mempool;
    let flood = |seed: u8| {
        let members = (0..2_000)
            .map(|nonce| forge(&transfer(seed, nonce, 1)))
            .collect();
        GossipBundle::pack(members).remove(0)
    };
    let bundles: Vec<Bytes> = (1..=4).map(flood).collect();
    for bundle in bundles.iter().cycle().take(100) {
        let _ = pool.insert(bundle);
    }
    assert_eq!(
        pool.insert(&transfer(5, 0, 1)),
        0,
        "there is room for a fifth"
    );
    let before = verified();
    for _ in 0..5 {
        assert!(pool.take_in_next().unwrap());
    }
    assert_eq!(pool.size().0, 1);
    assert_eq!(
        verified() - before,
        4 * 2 * UnverifiedTransaction::BATCH + 1
    );
}

mod flood {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn blocks_are_made_of_what_cometbft_lists() {
        let directory = tempdir().unwrap();
        let node = Node::start_with(directory.path(), Gossip::Flood).await;
        let txs: Vec<Bytes> = (0..3).map(|nonce| transfer(1, nonce, 1)).collect();
        assert_eq!(node.check(&txs[1]).await.0, code::GAP);
        for tx in &txs {
            assert_eq!(node.check(tx).await.0, 0);
        }
        let other = transfer(2, 0, 5);
        assert_eq!(node.check(&other).await.0, 0);
        assert_eq!(
            node.check(&other).await.0,
            0,
            "it may have been dropped there"
        );
        assert!(node.reap().await.is_empty());
        assert_eq!(node.prepare(0).await.items.len(), 1, "nothing is listed");
        let unknown = transfer(3, 0, 1);
        let listed = [txs[0].clone(), unknown, other.clone(), txs[2].clone()];
        let block = node.prepare_from(0, &listed).await;
        assert_eq!(block.items[1..], [other.clone(), txs[0].clone()]);
        node.replay(&block).await;
        assert_eq!(node.recheck(&other).await, code::GONE, "a block holds it");
        assert_eq!(node.recheck(&txs[1]).await, 0);
        assert_eq!(node.check(&other).await.0, 3, "and it does not come back");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_replaced_or_expires_leaves_cometbft() {
        let directory = tempdir().unwrap();
        let node = Node::start_with(directory.path(), Gossip::Flood).await;
        let (cheap, dear) = (transfer(1, 0, 1), transfer(1, 0, 2));
        assert_eq!(node.check(&cheap).await.0, 0);
        assert_eq!(node.check(&dear).await.0, 0);
        let block = node.prepare_from(0, &[cheap.clone(), dear.clone()]).await;
        assert_eq!(block.items[1..], *std::slice::from_ref(&dear));
        assert_eq!(node.recheck(&cheap).await, code::GONE);
        assert_eq!(node.recheck(&dear).await, 0);
        // Its predecessor expires, and the second has no place any more.
        let short = {
            let tx = SignedTransaction::decode(&transfer(2, 0, 1)).unwrap();
            let mut body = tx.body().clone();
            body.valid_until = Height::new(1);
            let tx = SignedTransaction::sign(body, &key(2)).unwrap();
            tx.as_bytes().clone()
        };
        let behind = transfer(2, 1, 1);
        assert_eq!(node.check(&short).await.0, 0);
        assert_eq!(node.check(&behind).await.0, 0);
        node.advance().await;
        assert_eq!(node.recheck(&short).await, code::GONE);
        assert_eq!(node.recheck(&behind).await, code::GONE);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn peers_cannot_keep_out_what_came_by_grpc() {
        let directory = tempdir().unwrap();
        let node = Node::start_with(directory.path(), Gossip::Flood).await;
        let junk = forge(&transfer(1, 0, 1));
        while node.check(&junk).await.0 != code::BUSY {}
        let tx = transfer(2, 0, 1);
        assert_eq!(node.check(&tx).await.0, code::BUSY);
        assert_eq!(node.mempool.examine(&tx).unwrap().1, Prospect::Sound);
        assert_eq!(node.check(&tx).await.0, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_grpc_has_verified_is_not_verified_again() {
        let directory = tempdir().unwrap();
        let node = Node::start_with(directory.path(), Gossip::Flood).await;
        let tx = transfer(1, 0, 1);
        let before = verified();
        let (hash, prospect) = node.mempool.examine(&tx).unwrap();
        assert_eq!((prospect, node.mempool.size().0), (Prospect::Sound, 0));
        assert!(
            !node.mempool.is_pending(&hash),
            "cometbft has not asked yet"
        );
        assert_eq!(node.check(&tx).await.0, 0);
        let block = node.prepare_from(0, std::slice::from_ref(&tx)).await;
        node.replay(&block).await;
        assert_eq!(verified() - before, 1);
        assert_eq!(node.mempool.examine(&tx).unwrap().1, Prospect::Included);
        let refused = node.mempool.examine(&forge(&transfer(2, 0, 1))).unwrap().1;
        assert!(matches!(
            refused,
            Prospect::Refused(Verdict { code: 1, .. })
        ));
    }
}
