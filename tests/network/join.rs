//! A node that was not there at the genesis: it takes a snapshot, follows, and is one like the
//! others.

use counterpoint::devnet::setup::SNAPSHOT_INTERVAL;
use counterpoint_core::{
    action::{Action, SubmitData, Transfer},
    primitive::{Address, Amount, Height},
    state::{Account, Key},
};
use counterpoint_service::sequencer::{Follower, verify_record};

use crate::support::{Network, nodes_agree, sequence, sequence_at, wait_for};

fn transfer() -> Action {
    Action::Transfer(Transfer {
        to: Address::new([7; 20]),
        amount: Amount::new(5),
    })
}

/// Its tree was built anew from a snapshot: a header of the others commits to what it proves.
async fn its_state_is_proven(network: &Network, node: usize) {
    let key = Key::Account(Address::new([7; 20]));
    let answer = network.sequencer(node).state_proof(&key).await.unwrap();
    let mut trusted = network.trust();
    let (account, height) = verify_record::<Account>(&mut trusted, &key, &answer).unwrap();
    assert_eq!(account.unwrap().balance, Amount::new(5));
    assert_eq!(trusted.height().get(), height.get() + 1);
    let nobody = Key::Account(Address::new([8; 20]));
    assert!(verify_record::<Account>(&mut trusted, &nobody, &answer).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_node_joins_by_state_sync_and_follows() {
    let mut network = Network::start(4, 1).await;
    let rollup = network.info.rollups[0].rollup_id;
    sequence(&network, vec![transfer()]).await;
    wait_for("a height with a snapshot", || async {
        let height = network.sequencer(0).info().await.ok()?.height;
        (height > SNAPSHOT_INTERVAL + 5).then_some(())
    })
    .await;
    let joined = network.join().await;
    assert_eq!(joined, 4);
    let client = network.sequencer(joined);
    let lowest = client.info().await.unwrap().lowest_height;
    assert!(lowest > SNAPSHOT_INTERVAL, "it did not replay the chain");
    assert_eq!((lowest - 1) % SNAPSHOT_INTERVAL, 0);
    let account = client.account(&Address::new([7; 20])).await.unwrap();
    assert_eq!(account.balance, "5", "what came before is in its state");
    let below = client.rollup_block(Height::new(lowest - 1), &rollup).await;
    let below = below.unwrap_err().to_string();
    assert!(
        below.contains("the lowest height that this node serves"),
        "{below}"
    );

    // It takes transactions, and proves what it serves.
    let item = vec![bytes::Bytes::from_static(b"opaque")];
    let data = SubmitData::new(rollup, item).unwrap();
    let included = sequence_at(&network, joined, vec![Action::SubmitData(data)]).await;
    let last = included.header.height();
    let from = Height::new(lowest);
    let mut follower = Follower::new(client, rollup, network.trust(), from);
    let mut items = 0;
    for height in lowest..=last.get() {
        let block = follower.next().await.unwrap();
        items += block.list.items().len();
        assert_eq!(follower.trusted().height(), Height::new(height));
    }
    assert!(items > 0);
    its_state_is_proven(&network, joined).await;
    nodes_agree(&network).await;

    // It comes back after a crash, as any other does, and has a key of its own to vote with.
    network.devnet.kill("val-4-app").await.unwrap();
    network.devnet.launch("val-4-app").await.unwrap();
    let client = network.sequencer(joined);
    wait_for("the node to come back", || async {
        client.info().await.ok()
    })
    .await;
    sequence_at(&network, joined, vec![transfer()]).await;
    nodes_agree(&network).await;
    let key = |name: &str| network.devnet.consensus_key(name).unwrap();
    let keys: Vec<_> = (0..4).map(|at| key(&format!("val-{at}"))).collect();
    assert!(!keys.contains(&key("val-4")));

    // It is a part of the network from now on.
    let network = network.restart().await;
    assert_eq!(network.info.validators.len(), 5);
    let client = network.sequencer(joined);
    assert_eq!(client.info().await.unwrap().lowest_height, lowest);
    sequence_at(&network, joined, vec![transfer()]).await;
    nodes_agree(&network).await;
    network.stop().await;
}
