use alloy_rpc_types_engine::PayloadStatusEnum;
use counterpoint_service::sequencer::Client;

use super::*;
use crate::{
    engine::{MockClient, Script},
    evm::MemStore,
    legs::Auditor,
    testing::{Rollup, config, paid, specification, trusted, whole},
};

struct Fixture {
    committer: Committer<MockClient>,
    rollup: Rollup,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let directory = tempfile::tempdir().unwrap();
        let nobody = Client::new(&["http://127.0.0.1:1".into()]).unwrap();
        let (_, audit) = Auditor::new(
            nobody,
            config().rollup_id,
            trusted(),
            Arc::clone(&store),
            directory.path().to_owned(),
        );
        let fixture = Self {
            committer: Committer {
                pending: Arc::new(Pending::new(Arc::clone(&store))),
                store,
                driver: Arc::new(Driver::new(MockClient::new(), specification())),
                client_head: 0,
                data_dir: directory.path().to_owned(),
                board: Board::new(),
                voter: None,
                audit,
            },
            rollup: Rollup::new(),
            directory,
        };
        assert_eq!(fixture.stored(), 0);
        fixture
    }

    /// The last block in the store.
    fn stored(&self) -> u64 {
        let first = config().first_height;
        let store = self.committer.store.as_ref();
        let progress = Progress::open(store, &specification(), first, &trusted());
        progress.unwrap().header.number
    }

    /// Executes the next block on top of those that wait.
    fn execute(&mut self) -> Executed {
        let nonce = self.rollup.progress.header.number;
        let closed = self.rollup.push(whole(vec![paid(1, nonce)])).unwrap();
        let (progress, block, batch) = Progress::after(closed.unwrap(), &specification()).unwrap();
        self.committer.pending.push(Arc::new(batch));
        Executed {
            block,
            progress,
            config: config(),
            time: HeaderTime {
                seconds: 0,
                nanos: 0,
            },
            arrived: Instant::now(),
            legs: Vec::new(),
        }
    }

    async fn run(&mut self, blocks: usize) -> eyre::Result<()> {
        let (sender, receiver) = mpsc::channel(blocks);
        for _ in 0..blocks {
            sender.send(self.execute()).await.unwrap();
        }
        drop(sender);
        self.committer.run(receiver).await
    }

    fn script(&self, scripts: Vec<Script>) {
        self.committer.driver.client().state().on_payload = scripts.into();
    }

    fn payloads(&self) -> Vec<u64> {
        self.committer.driver.client().state().payloads.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_written_in_order_and_only_when_the_client_has_them() {
    let mut fixture = Fixture::new();
    let syncing = Script::Say(PayloadStatusEnum::Syncing);
    fixture.script(vec![Script::HangUp, syncing]);
    fixture.run(3).await.unwrap();
    assert_eq!(fixture.payloads(), [1, 1, 1, 2, 3]);
    assert_eq!(fixture.stored(), 3);
    assert_eq!(fixture.committer.driver.client().state().head.number, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_follows_an_invalid_block_is_handed_in_or_written() {
    let mut fixture = Fixture::new();
    fixture.run(1).await.unwrap();
    fixture.script(vec![Script::Say(PayloadStatusEnum::Invalid {
        validation_error: "bad state root".into(),
    })]);
    let halt = fixture.run(2).await.unwrap_err().to_string();
    assert!(halt.ends_with("invalid: bad state root"), "{halt}");
    assert_eq!(fixture.payloads(), [1, 2]);
    assert_eq!(fixture.stored(), 1);
    let kept = fixture.directory.path().join("evidence");
    assert_eq!(std::fs::read_dir(kept).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_ahead_must_have_the_same_blocks() {
    let mut fixture = Fixture::new();
    fixture.committer.client_head = 1;
    fixture.committer.driver.client().state().head = BlockId {
        number: 1,
        hash: B256::repeat_byte(9),
    };
    let halt = fixture.run(1).await.unwrap_err().to_string();
    assert!(
        halt.starts_with("execution client has block 1 as"),
        "{halt}"
    );
    assert_eq!((fixture.payloads(), fixture.stored()), (vec![], 0));
}
