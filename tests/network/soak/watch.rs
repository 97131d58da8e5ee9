//! Watches every rollup from outside: its verified lists as they come, and its client's head.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_network::Ethereum;
use alloy_primitives::{B256, keccak256};
use alloy_provider::{DynProvider, Provider};
use counterpoint_core::{block::RollupItem, primitive::Height};
use counterpoint_service::sequencer::{Client, Follower};
use tokio::task::JoinHandle;

use super::{ROLLUPS, book::Book};
use crate::support::{Network, wait_for};

/// Pause between two looks for a block.
const POLL: Duration = Duration::from_millis(20);

/// Where an item stands in the verified order: height and index.
pub(super) type Place = (u64, usize);

/// What a rollup's lists have held so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub(super) height: u64,
    pub(super) items: Vec<(Place, B256)>,
}

/// Watchers of all rollups; they end when this is dropped.
pub(super) struct Watch {
    lists: Vec<Arc<Mutex<Lists>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(network: &Network, book: &Book) -> Self {
        let nodes = network.info.validators.iter();
        let nodes: Vec<String> = nodes.map(|node| node.grpc.clone()).collect();
        let (mut lists, mut tasks) = (Vec::new(), Vec::new());
        for rollup in 0..ROLLUPS {
            let id = network.info.rollups[rollup].rollup_id;
            let client = Client::new(&nodes).unwrap();
            let follower = Follower::new(client, id, network.trust(), Height::new(2));
            let shared = Arc::<Mutex<Lists>>::default();
            lists.push(Arc::clone(&shared));
            tasks.push(tokio::spawn(follow(follower, shared, book.clone())));
            tasks.push(tokio::spawn(look(network.geth(rollup), book.clone())));
        }
        Self { lists, tasks }
    }

    /// A rollup's lists, once those up to a height are there.
    pub(super) async fn lists(&self, rollup: usize, height: u64) -> Lists {
        let what = format!("the lists of rollup {rollup} up to height {height}");
        wait_for(&what, || async {
            let lists = self.lists[rollup].lock().unwrap();
            (lists.height >= height).then(|| lists.clone())
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn follow(mut follower: Follower, lists: Arc<Mutex<Lists>>, book: Book) {
    for height in 2.. {
        let block = follower.next().await.unwrap();
        let mut lists = lists.lock().unwrap();
        lists.height = height;
        for (index, item) in block.list.items().iter().enumerate() {
            let RollupItem::Transaction(raw) = item else {
                panic!("nobody sent {item:?}");
            };
            let hash = keccak256(raw);
            book.ordered(&hash);
            lists.items.push(((height, index), hash));
        }
    }
}

/// A client that was killed may come back with fewer blocks, and gets the same ones again.
async fn look(client: DynProvider<Ethereum>, book: Book) {
    for number in 1_u64.. {
        let block = loop {
            match client.get_block_by_number(number.into()).await {
                Ok(Some(block)) => break block,
                _ => tokio::time::sleep(POLL).await,
            }
        };
        for hash in block.transactions.hashes() {
            book.executed(&hash);
        }
    }
}
