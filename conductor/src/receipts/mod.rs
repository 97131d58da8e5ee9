//! What became of every item, from the moment it ran.
//!
//! ```text
//! Assembler ─▶ record ─▶ Receipts ─▶ SubscribeReceipts, GetReceipt   (gRPC, `grpc`)
//!                           └──────▶ eth_getTransactionReceipt       (JSON-RPC, `rpc`)
//! ```
//! Order is final before a slot ends, and execution depends on nothing else: what stands here of an
//! open block is what the block will hold. A conductor that starts again executes the open block
//! from its first item and records the same once more.
//!
//! Events are numbered as they come and kept as long as they fit into [`MAX_BYTES`]; the log is the
//! only buffer that readers have. An event names its place in the sequencer's order, which need not
//! rise within a block: legs of a bundle run before the items that waited.

mod grpc;
mod rpc;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use alloy_consensus::ReceiptEnvelope;
use alloy_primitives::{Address, B256};
use counterpoint_core::{cursor::ExtraData, primitive::Height};
use counterpoint_service::traces::{self, Attribute, Hop};
use metrics::counter;
use tokio::sync::watch;
use tracing::debug;

pub(crate) use grpc::serve as serve_grpc;
pub(crate) use rpc::routes as rpc_routes;

use crate::{derive::SkipReason, metric};

/// Most bytes of events that are kept, about.
const MAX_BYTES: usize = 64 << 20;
/// Most events that are read at once, and most bytes of them but for the last.
const MAX_READ: (usize, usize) = (256, 256 << 10);

/// Where an item stands in the sequencer's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The height of its list.
    pub height: Height,
    /// Its index there, every item counted.
    pub index: u32,
}

/// The receipt of a transaction, without what its block adds at the end: the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Of the transaction.
    pub hash: B256,
    /// Its place in the block.
    pub index: u64,
    /// Who signed it.
    pub from: Address,
    /// Whom it calls.
    pub to: Option<Address>,
    /// What it creates.
    pub contract: Option<Address>,
    /// Gas that it took alone.
    pub gas_used: u64,
    /// What it paid per gas, in wei.
    pub effective_gas_price: u128,
    /// Place of its first log among all logs of the block.
    pub first_log: u64,
    /// What the block's receipts root commits to.
    pub envelope: ReceiptEnvelope,
}

/// One step of a rollup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block begins.
    Opened {
        /// Its number.
        number: u64,
        /// Its timestamp.
        timestamp: u64,
        /// The height that opens it.
        height: Height,
    },
    /// A transaction is in the block.
    Included {
        /// Where it was ordered.
        place: Place,
        /// Its receipt.
        receipt: Box<Receipt>,
    },
    /// An item is in no block.
    Skipped(Skip),
    /// The block is complete.
    Closed {
        /// Its hash.
        hash: B256,
        /// The height that closes it.
        height: Height,
    },
}

/// An item that is in no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// keccak-256 of the item: its transaction hash, if it is one.
    pub hash: B256,
    /// Where it was ordered.
    pub place: Place,
    /// Why it is in no block.
    pub reason: SkipReason,
}

impl Event {
    /// The item that it is about.
    fn item(&self) -> Option<B256> {
        match self {
            Self::Included { receipt, .. } => Some(receipt.hash),
            Self::Skipped(skip) => Some(skip.hash),
            Self::Opened { .. } | Self::Closed { .. } => None,
        }
    }

    /// Bytes that it takes, about; its share of the index counted.
    fn size(&self) -> usize {
        const ENTRY: usize = 2 * size_of::<(B256, u64)>();
        let Self::Included { receipt, .. } = self else {
            return size_of::<Self>() + ENTRY;
        };
        let logs = receipt.envelope.logs();
        let log = |log: &alloy_primitives::Log| {
            size_of_val(log) + size_of_val(log.data.topics()) + log.data.data.len()
        };
        size_of::<(Self, Receipt)>() + ENTRY + logs.iter().map(log).sum::<usize>()
    }
}

/// A block that events belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its number.
    pub number: u64,
    /// Its timestamp.
    pub timestamp: u64,
    /// Its hash, once it is complete.
    pub hash: Option<B256>,
}

/// An event and the block that it belongs to, as far as that is known now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event.
    pub event: Arc<Event>,
    /// Its block.
    pub block: BlockInfo,
}

/// Where a reader wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At what comes next.
    Now,
    /// At the beginning of a block.
    Number(u64),
    /// At the beginning of the block that a height was a part of.
    Height(Height),
}

/// Why nothing can be read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It was recorded before we started, or there was no room to keep it.
    #[error(
        "this is no longer here: ask the execution client, or begin at block {oldest} or later"
    )]
    Gone {
        /// The first block whose events are all here, or to come.
        oldest: u64,
    },
    /// It is too early to ask.
    #[error("block {latest} is the latest that can be asked for")]
    Ahead {
        /// The block that is open, or opens next.
        latest: u64,
    },
}

/// The recent events of one rollup.
#[derive(Debug)]
pub struct Receipts {
    log: Mutex<Log>,
    end: watch::Sender<u64>,
    limit: usize,
}

#[derive(Debug)]
struct Log {
    events: VecDeque<Arc<Event>>,
    /// The number of the first event that is here.
    first: u64,
    bytes: usize,
    /// Blocks of which at least one event is here.
    blocks: VecDeque<Block>,
    by_item: HashMap<B256, u64>,
    skipped: BTreeMap<&'static str, u64>,
    /// When the list whose items run now was there, verified.
    arrived: SystemTime,
    /// The block that opens next.
    next: u64,
    /// No item of a height below this runs any more.
    from: Height,
}

#[derive(Debug)]
struct Block {
    info: BlockInfo,
    opened: Height,
    /// The number of its first event.
    first: u64,
}

impl Log {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.events.len() as u64)
    }

    fn event(&self, number: u64) -> Option<&Arc<Event>> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.events.get(at)
    }

    fn told(&self, number: u64) -> Option<Told> {
        let event = Arc::clone(self.event(number)?);
        let after = self.blocks.partition_point(|block| block.first <= number);
        let block = self.blocks.get(after.checked_sub(1)?)?.info;
        Some(Told { event, block })
    }

    /// The block that is open, or opens next.
    fn latest(&self) -> u64 {
        let last = self.blocks.back().map(|block| block.info);
        let open = last.filter(|block| block.hash.is_none());
        open.map_or(self.next, |block| block.number)
    }

    fn gone(&self) -> ReadError {
        let whole = |block: &&Block| block.first >= self.first;
        let oldest = self.blocks.iter().find(whole);
        ReadError::Gone {
            oldest: oldest.map_or(self.next, |block| block.info.number),
        }
    }

    fn evict(&mut self) {
        let Some(event) = self.events.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(event.size());
        if let Some(hash) = event.item()
            && self.by_item.get(&hash) == Some(&self.first)
        {
            self.by_item.remove(&hash);
        }
        self.first = self.first.saturating_add(1);
        let past = |block: &Block| block.first <= self.first;
        if self.blocks.get(1).is_some_and(past) {
            self.blocks.pop_front();
        }
    }
}

impl Receipts {
    /// Of a rollup whose last block is `number`.
    #[must_use]
    pub fn after(number: u64, extra: &ExtraData) -> Self {
        Self::with_limit(number, extra, MAX_BYTES)
    }

    pub(crate) fn with_limit(number: u64, extra: &ExtraData, limit: usize) -> Self {
        let log = Log {
            events: VecDeque::new(),
            first: 0,
            bytes: 0,
            blocks: VecDeque::new(),
            by_item: HashMap::new(),
            skipped: BTreeMap::new(),
            arrived: SystemTime::now(),
            next: number.saturating_add(1),
            from: extra.cursor.height,
        };
        Self {
            log: Mutex::new(log),
            end: watch::Sender::new(0),
            limit,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A verified list is there, of which items may run from now on.
    pub fn arrived(&self) {
        self.log().arrived = SystemTime::now();
    }

    /// Appends what happened; makes room by forgetting what is oldest.
    pub fn record(&self, event: Event) {
        let mut log = self.log();
        let at = log.end();
        match &event {
            Event::Opened {
                number,
                timestamp,
                height,
            } => {
                log.blocks.push_back(Block {
                    info: BlockInfo {
                        number: *number,
                        timestamp: *timestamp,
                        hash: None,
                    },
                    opened: *height,
                    first: at,
                });
                log.next = number.saturating_add(1);
            }
            Event::Closed { hash, .. } => {
                if let Some(block) = log.blocks.back_mut() {
                    block.info.hash = Some(*hash);
                }
            }
            Event::Included { receipt, place } => {
                trace(&receipt.hash, *place, log.arrived, "included");
                log.by_item.insert(receipt.hash, at);
            }
            Event::Skipped(skip) => {
                trace(&skip.hash, skip.place, log.arrived, skip.reason.name());
                debug!(tx_hash = %skip.hash, reason = skip.reason.name(), "skipped");
                counter!(metric::SKIPPED, "reason" => skip.reason.name()).increment(1);
                *log.skipped.entry(skip.reason.name()).or_default() += 1;
                // A transaction that is in a block stays there, however often it comes again.
                let earlier = log.by_item.get(&skip.hash).copied();
                let earlier = earlier.and_then(|earlier| log.event(earlier));
                if !matches!(earlier.map(Arc::as_ref), Some(Event::Included { .. })) {
                    log.by_item.insert(skip.hash, at);
                }
            }
        }
        log.bytes = log.bytes.saturating_add(event.size());
        log.events.push_back(Arc::new(event));
        while log.bytes > self.limit && log.events.len() > 1 {
            log.evict();
        }
        let end = log.end();
        drop(log);
        self.end.send_replace(end);
    }

    /// What became of an item, if it ran not long ago. That it is in a block outweighs that another
    /// occurrence of it was skipped.
    #[must_use]
    pub fn find(&self, hash: &B256) -> Option<Told> {
        let log = self.log();
        log.told(*log.by_item.get(hash)?)
    }

    /// The number of the event where a reader begins.
    ///
    /// # Errors
    /// [`ReadError`] if it is not here.
    pub fn position(&self, start: Start) -> Result<u64, ReadError> {
        let log = self.log();
        let block = match start {
            Start::Now => return Ok(log.end()),
            Start::Number(number) if number > log.latest() => {
                let latest = log.latest();
                return Err(ReadError::Ahead { latest });
            }
            Start::Number(number) if number == log.next => return Ok(log.end()),
            Start::Number(number) => log.blocks.iter().find(|block| block.info.number == number),
            Start::Height(height) => {
                let nothing_lost = log.first == 0 && height >= log.from;
                let opened = log.blocks.iter().rfind(|block| block.opened <= height);
                if opened.is_none() && nothing_lost {
                    return Ok(0);
                }
                opened
            }
        };
        match block {
            Some(block) if block.first >= log.first => Ok(block.first),
            _ => Err(log.gone()),
        }
    }

    /// A handful of events from one on; none if it has not happened yet.
    ///
    /// # Errors
    /// [`ReadError::Gone`] if it was forgotten.
    pub fn read(&self, from: u64) -> Result<Vec<Told>, ReadError> {
        let log = self.log();
        if from < log.first {
            return Err(log.gone());
        }
        let (most, most_bytes) = MAX_READ;
        let (mut told, mut bytes) = (Vec::new(), 0);
        let next = (from..log.end()).take(most);
        for next in next.map_while(|number| log.told(number)) {
            bytes += next.event.size();
            told.push(next);
            if bytes > most_bytes {
                break;
            }
        }
        Ok(told)
    }

    /// Follows the number of the event that comes next.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// How many items were skipped since we started, by reason.
    #[must_use]
    pub fn skipped(&self) -> BTreeMap<&'static str, u64> {
        self.log().skipped.clone()
    }
}

/// Tells that an item has run, and how.
fn trace(hash: &B256, place: Place, arrived: SystemTime, outcome: &str) {
    traces::record(Hop::Execute, hash, arrived, || {
        vec![
            Attribute::Number("height", place.height.get()),
            Attribute::Number("index", u64::from(place.index)),
            Attribute::Text("outcome", outcome.to_owned()),
        ]
    });
}

#[cfg(test)]
mod tests;
