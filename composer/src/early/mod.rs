//! What a conductor has told before the execution client has the block.
//!
//! ```text
//! conductor ─ SubscribeReceipts ─▶ stream ─▶ Early ─▶ receipts, status, eth_sendRawTransactionSync
//! ```
//! This is never on disk, and the queue follows the client, so that nothing that a conductor says can
//! send a transaction twice. The conductor is the operator's own: it is believed about what it has
//! skipped, and about the rest until the client has an answer.

mod stream;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy_consensus::{Eip658Value, ReceiptEnvelope, TxType};
use alloy_primitives::{Address, B256, LogData};
use alloy_rpc_types_eth::{Log, TransactionReceipt};
use counterpoint_core::primitive::Height;
use counterpoint_proto::conductor as proto;
pub(crate) use stream::Follower;
use tokio::sync::watch;

use crate::{followers::Followers, queue::Place};

/// Most bytes of what is remembered of one rollup, about: many slots of full blocks.
const MAX_BYTES: usize = 32 << 20;
/// Most skips that nobody has taken yet; those before them are found when the client has the block.
const MAX_FRESH: usize = 16_384;

/// A transaction that has run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Included {
    /// Where it was ordered.
    pub(crate) place: Place,
    /// Its block's timestamp, in seconds.
    pub(crate) timestamp: u64,
    /// Its block's number.
    pub(crate) block_number: u64,
    /// Its receipt as the client will show it, without a block hash while the block is open.
    pub(crate) receipt: TransactionReceipt,
}

/// A conductor tells what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the conductor sent a malformed {0}")]
pub(crate) struct Malformed(&'static str);

/// The recent past of one rollup, as its conductor tells it. Empty without a conductor.
#[derive(Debug)]
pub(crate) struct Early {
    told: Mutex<Told>,
    changed: watch::Sender<()>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Told {
    receipts: HashMap<B256, Included>,
    /// A skip is about one place: the same transaction can be in a block at another one.
    skips: BTreeMap<(B256, Place), String>,
    /// Those that nobody has taken yet.
    fresh: Vec<(B256, Place)>,
    /// Hashes of complete blocks.
    blocks: HashMap<u64, B256>,
    /// All of them, oldest first.
    line: VecDeque<Key>,
    bytes: usize,
    /// The last complete block.
    closed: Option<u64>,
    followers: Followers<B256>,
}

#[derive(Clone, Copy, Debug)]
enum Key {
    Receipt(B256),
    Skip(B256, Place),
    Block(u64),
}

impl Default for Early {
    fn default() -> Self {
        Self::with_limit(MAX_BYTES)
    }
}

impl Early {
    fn with_limit(limit: usize) -> Self {
        Self {
            told: Mutex::default(),
            changed: watch::Sender::new(()),
            limit,
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receipt of a transaction that has run not long ago.
    #[must_use]
    pub(crate) fn receipt(&self, hash: &B256) -> Option<Included> {
        let told = self.told();
        let mut included = told.receipts.get(hash)?.clone();
        if let Some(block) = told.blocks.get(&included.block_number) {
            set_block_hash(&mut included.receipt, *block);
        }
        Some(included)
    }

    /// Why the transaction at a place is in no block, if it was skipped there and ran nowhere else.
    #[must_use]
    pub(crate) fn skip(&self, hash: &B256, place: Place) -> Option<String> {
        let told = self.told();
        let reason = told.skips.get(&(*hash, place))?;
        (!told.receipts.contains_key(hash)).then(|| reason.clone())
    }

    /// The skips that were told since they were taken the last time.
    pub(crate) fn take_skips(&self) -> Vec<(B256, Place)> {
        std::mem::take(&mut self.told().fresh)
    }

    /// The last block that is complete, if any was told.
    #[must_use]
    pub(crate) fn closed(&self) -> Option<u64> {
        self.told().closed
    }

    /// Wakes whenever more is told of a transaction.
    #[must_use]
    pub(crate) fn follow(&self, hash: B256) -> watch::Receiver<()> {
        self.told().followers.follow(hash)
    }

    /// Wakes whenever more is told.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Remembers what is told; told again, it is the same. Gives the block to resume at, if a block
    /// begins or ends.
    pub(crate) fn hear(&self, events: Vec<proto::Event>) -> Result<Option<u64>, Malformed> {
        let mut resume = None;
        for event in events.into_iter().filter_map(|event| event.event) {
            match event {
                proto::event::Event::Opened(block) => resume = Some(block.number),
                proto::event::Event::Closed(block) => {
                    resume = Some(block.number.saturating_add(1));
                    let hash = word(&block.hash, "block hash")?;
                    self.told().close(block.number, hash);
                }
                proto::event::Event::Receipt(receipt) => {
                    let included = included(receipt)?;
                    self.told().include(included);
                }
                proto::event::Event::Skip(skip) => {
                    let hash = word(&skip.tx_hash, "transaction hash")?;
                    let place = place(skip.place)?;
                    self.told().skip(hash, place, skip.reason);
                }
            }
        }
        self.told().shrink(self.limit);
        self.changed.send_replace(());
        Ok(resume)
    }
}

impl Told {
    fn include(&mut self, included: Included) {
        let hash = included.receipt.transaction_hash;
        self.followers.changed(&hash);
        self.bytes += size_of_receipt(&included);
        match self.receipts.insert(hash, included) {
            Some(before) => self.bytes -= size_of_receipt(&before),
            None => self.line.push_back(Key::Receipt(hash)),
        }
    }

    fn skip(&mut self, hash: B256, place: Place, reason: String) {
        self.followers.changed(&hash);
        self.bytes += size_of_skip(&reason);
        if self.fresh.len() < MAX_FRESH {
            self.fresh.push((hash, place));
        }
        match self.skips.insert((hash, place), reason) {
            Some(before) => self.bytes -= size_of_skip(&before),
            None => self.line.push_back(Key::Skip(hash, place)),
        }
    }

    fn close(&mut self, number: u64, hash: B256) {
        self.closed = Some(number);
        if self.blocks.insert(number, hash).is_none() {
            self.bytes += ENTRY;
            self.line.push_back(Key::Block(number));
        }
    }

    /// Forgets what is oldest until the rest fits.
    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let freed = match self.line.pop_front() {
                None => return,
                Some(Key::Receipt(hash)) => {
                    self.receipts.remove(&hash).as_ref().map(size_of_receipt)
                }
                Some(Key::Skip(hash, place)) => {
                    let reason = self.skips.remove(&(hash, place));
                    reason.as_deref().map(size_of_skip)
                }
                Some(Key::Block(number)) => self.blocks.remove(&number).map(|_| ENTRY),
            };
            self.bytes -= freed.unwrap_or_default();
        }
    }
}

/// What an entry of the maps takes beside its contents, about.
const ENTRY: usize = 2 * size_of::<(B256, Place, Key)>();

fn size_of_skip(reason: &str) -> usize {
    ENTRY + reason.len()
}

fn size_of_receipt(included: &Included) -> usize {
    let log = |log: &Log| size_of_val(log) + size_of_val(log.topics()) + log.data().data.len();
    let logs: usize = included.receipt.logs().iter().map(log).sum();
    ENTRY + size_of::<Included>() + logs
}

fn set_block_hash(receipt: &mut TransactionReceipt, hash: B256) {
    receipt.block_hash = Some(hash);
    let set = |log: Log| Log {
        block_hash: Some(hash),
        ..log
    };
    receipt.inner = receipt.inner.clone().map_logs(set);
}

/// A receipt in the client's shape.
fn included(told: proto::Receipt) -> Result<Included, Malformed> {
    let transaction_hash = word(&told.tx_hash, "transaction hash")?;
    let log = |log: proto::Log| -> Result<Log, Malformed> {
        let topics = log.topics.iter().map(|topic| word(topic, "topic"));
        let data = LogData::new(topics.collect::<Result<_, _>>()?, log.data.into());
        Ok(Log {
            inner: alloy_primitives::Log {
                address: address(&log.address)?,
                data: data.ok_or(Malformed("log"))?,
            },
            block_hash: None,
            block_number: Some(told.block_number),
            block_timestamp: Some(told.block_timestamp),
            transaction_hash: Some(transaction_hash),
            transaction_index: Some(told.transaction_index.into()),
            log_index: Some(log.index),
            removed: false,
        })
    };
    let logs = told.logs.into_iter().map(log);
    let receipt = alloy_consensus::Receipt {
        status: Eip658Value::Eip658(told.success),
        cumulative_gas_used: told.cumulative_gas_used,
        logs: logs.collect::<Result<Vec<_>, _>>()?,
    };
    let tx_type = u8::try_from(told.transaction_type).ok();
    let tx_type = tx_type.and_then(|tx_type| TxType::try_from(tx_type).ok());
    let tx_type = tx_type.ok_or(Malformed("transaction type"))?;
    let price = told.effective_gas_price.parse();
    let receipt = TransactionReceipt {
        inner: ReceiptEnvelope::from_typed(tx_type, receipt),
        transaction_hash,
        transaction_index: Some(told.transaction_index.into()),
        block_hash: None,
        block_number: Some(told.block_number),
        gas_used: told.gas_used,
        effective_gas_price: price.map_err(|_| Malformed("gas price"))?,
        blob_gas_used: None,
        blob_gas_price: None,
        from: address(&told.from)?,
        to: optional_address(&told.to)?,
        contract_address: optional_address(&told.contract_address)?,
    };
    Ok(Included {
        place: place(told.place)?,
        timestamp: told.block_timestamp,
        block_number: told.block_number,
        receipt,
    })
}

fn word(bytes: &[u8], what: &'static str) -> Result<B256, Malformed> {
    B256::try_from(bytes).map_err(|_| Malformed(what))
}

fn address(bytes: &[u8]) -> Result<Address, Malformed> {
    Address::try_from(bytes).map_err(|_| Malformed("address"))
}

fn optional_address(bytes: &[u8]) -> Result<Option<Address>, Malformed> {
    (!bytes.is_empty()).then(|| address(bytes)).transpose()
}

fn place(place: Option<proto::Place>) -> Result<Place, Malformed> {
    let place = place.ok_or(Malformed("place"))?;
    Ok(Place {
        height: Height::new(place.height),
        index: place.index,
    })
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
