//! New blocks of one rollup, read once for all who subscribe.
//!
//! ```text
//! execution client ─ head, block, logs ─▶ Feed ─▶ subscriptions of every connection
//!        conductor ─ block complete ─wakes─┘
//! ```
//! A block is told when the client has it, each exactly once and in order, however many come
//! between two looks. Whoever reads too slowly misses some and is told so; nobody waits for it.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Log, LogData, U64};
use futures::{StreamExt, future, stream::BoxStream};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tracing::{debug, warn};

use crate::{
    early::Early,
    upstream::{Upstream, UpstreamError},
};

/// Pause between two looks at the client's head.
const PERIOD: Duration = Duration::from_millis(100);
/// The same, while the client is about to have a block that its conductor has completed.
const SOON: Duration = Duration::from_millis(20);
/// Pause between two looks whether the client catches up.
const SYNCING_PERIOD: Duration = Duration::from_secs(1);
/// Blocks that a reader may be behind.
const MAX_BEHIND: usize = 64;
/// Most blocks that are told at once: a reader can follow.
const MAX_BLOCKS: u64 = 16;
/// How often a block's logs are asked for if the client answers with an error.
const MAX_TRIES: u32 = 10;

/// Members of a header, as geth tells it: null where a fork has none.
const HEADER: [&str; 24] = [
    "parentHash",
    "sha3Uncles",
    "miner",
    "stateRoot",
    "transactionsRoot",
    "receiptsRoot",
    "logsBloom",
    "difficulty",
    "number",
    "gasLimit",
    "gasUsed",
    "timestamp",
    "extraData",
    "mixHash",
    "nonce",
    "baseFeePerGas",
    "withdrawalsRoot",
    "blobGasUsed",
    "excessBlobGas",
    "parentBeaconBlockRoot",
    "requestsHash",
    "blockAccessListHash",
    "slotNumber",
    "hash",
];

/// A block as subscriptions tell it, written once for all of them.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    pub(crate) header: String,
    /// Nothing if the client could not say.
    pub(crate) logs: Option<Vec<BlockLog>>,
}

/// A log of a block.
#[derive(Debug)]
pub(crate) struct BlockLog {
    /// What a filter looks at.
    pub(crate) log: Log,
    pub(crate) text: String,
}

/// Blocks as they come; an error says that some were missed.
pub(crate) type Blocks = BoxStream<'static, Result<Arc<Block>, BroadcastStreamRecvError>>;

/// The blocks of one rollup.
#[derive(Debug)]
pub(crate) struct Feed {
    upstream: Upstream,
    early: Arc<Early>,
    blocks: broadcast::Sender<Arc<Block>>,
    /// What `syncing` tells.
    syncing: watch::Sender<Value>,
}

impl Feed {
    /// The feed of a rollup with this execution client.
    #[must_use]
    pub(crate) fn new(upstream: Upstream, early: Arc<Early>) -> Self {
        Self {
            upstream,
            early,
            blocks: broadcast::Sender::new(MAX_BEHIND),
            syncing: watch::Sender::new(Value::Bool(false)),
        }
    }

    /// All blocks that the client does not have yet: what can be read already is not new to anybody,
    /// though the feed may still be about to tell it.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say what it has.
    pub(crate) async fn blocks(&self) -> Result<Blocks, UpstreamError> {
        let blocks = BroadcastStream::new(self.blocks.subscribe());
        let head: U64 = self.upstream.call("eth_blockNumber", &json!([])).await?;
        let head: u64 = head.to();
        let is_new = move |block: &Result<Arc<Block>, _>| {
            future::ready(block.as_ref().map_or(true, |block| block.number > head))
        };
        Ok(blocks.filter(is_new).boxed())
    }

    /// Whether the client catches up, now and whenever that changes.
    pub(crate) fn syncing(&self) -> watch::Receiver<Value> {
        self.syncing.subscribe()
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut cursor = Cursor::default();
        let mut told = self.early.watch();
        let mut sync_at = Instant::now();
        loop {
            if let Err(error) = self.look(&mut cursor).await {
                debug!(%error, "no new blocks");
            }
            if self.syncing.receiver_count() > 0 && sync_at <= Instant::now() {
                self.look_whether_syncing().await;
                sync_at = Instant::now() + SYNCING_PERIOD;
            }
            if self.early.closed() > cursor.last {
                sleep(SOON).await;
                continue;
            }
            told.mark_unchanged();
            let closed = async {
                while self.early.closed() <= cursor.last {
                    if told.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = closed => {}
                () = sleep(PERIOD) => {}
            }
        }
    }

    /// Tells what the client has beyond the cursor.
    async fn look(&self, cursor: &mut Cursor) -> Result<(), UpstreamError> {
        let head = self.upstream.head().await?.number;
        // Whoever is not there yet has not missed anything.
        let Some(last) = cursor.last.filter(|_| self.blocks.receiver_count() > 0) else {
            cursor.last = cursor.last.max(Some(head));
            return Ok(());
        };
        let until = head.min(last.saturating_add(MAX_BLOCKS));
        for number in last.saturating_add(1)..=until {
            let Some(block) = self.block(number, cursor).await? else {
                break;
            };
            cursor.last = Some(number);
            cursor.tries = 0;
            let _nobody = self.blocks.send(Arc::new(block));
        }
        Ok(())
    }

    async fn block(
        &self,
        number: u64,
        cursor: &mut Cursor,
    ) -> Result<Option<Block>, UpstreamError> {
        let asked = json!([U64::from(number), false]);
        let block = self.upstream.call("eth_getBlockByNumber", &asked).await?;
        let Some::<Map<String, Value>>(mut block) = block else {
            return Ok(None);
        };
        let logs = match self.logs(&block).await {
            Ok(logs) => Some(logs),
            Err(UpstreamError::Unreachable(error)) => {
                return Err(UpstreamError::Unreachable(error));
            }
            Err(error) if cursor.tries < MAX_TRIES => {
                cursor.tries += 1;
                return Err(error);
            }
            Err(error) => {
                warn!(%error, number, "no logs of a block: its subscribers are cut off");
                None
            }
        };
        let member = |name: &&str| {
            let value = block.remove(*name).unwrap_or_default();
            ((*name).to_owned(), value)
        };
        let header: Map<String, Value> = HEADER.iter().map(member).collect();
        let header = Value::Object(header).to_string();
        Ok(Some(Block {
            number,
            header,
            logs,
        }))
    }

    async fn logs(&self, block: &Map<String, Value>) -> Result<Vec<BlockLog>, UpstreamError> {
        let bloom = block.get("logsBloom").and_then(Value::as_str);
        let is_empty = |bloom: &str| {
            bloom
                .trim_start_matches("0x")
                .bytes()
                .all(|byte| byte == b'0')
        };
        if bloom.is_some_and(is_empty) {
            return Ok(Vec::new());
        }
        let asked = json!([{ "blockHash": block.get("hash") }]);
        let logs: Vec<Value> = self.upstream.call("eth_getLogs", &asked).await?;
        logs.into_iter().map(BlockLog::new).collect()
    }

    async fn look_whether_syncing(&self) {
        let Ok(answer) = self.upstream.call("eth_syncing", &json!([])).await else {
            return;
        };
        let told = match answer {
            Value::Bool(_) => answer,
            status => json!({ "syncing": true, "status": status }),
        };
        self.syncing.send_if_modified(|before| {
            let is_new = *before != told;
            *before = told;
            is_new
        });
    }
}

/// The last block that was told, and how often the next one was asked for.
#[derive(Debug, Default)]
struct Cursor {
    last: Option<u64>,
    tries: u32,
}

impl BlockLog {
    fn new(value: Value) -> Result<Self, UpstreamError> {
        #[derive(Deserialize)]
        struct Matched {
            address: Address,
            topics: Vec<B256>,
        }
        let text = value.to_string();
        let Matched { address, topics } = read(value)?;
        let data = LogData::new_unchecked(topics, alloy_primitives::Bytes::new());
        let log = Log { address, data };
        Ok(Self { log, text })
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, UpstreamError> {
    serde_json::from_value(value).map_err(|error| UpstreamError::Malformed(error.to_string()))
}
