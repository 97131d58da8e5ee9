//! A rollup for tests: wallets, transactions, and a sequencer that needs no signatures.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_genesis::Genesis;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, Signature, TxKind, U256, utils::Unit};
use alloy_signer_local::PrivateKeySigner;
use bytes::Bytes;
use counterpoint_core::{
    block::{ENV_VERSION, RollupEnv, RollupItem, RollupLeaf, VerifiedList},
    light::{TrustedState, VerifiedHeader},
    primitive::{EvmAddress, Hash, Height},
    registry::RollupConfig,
    slot::{HeaderTime, Slot},
};

use crate::{
    assembly::{Assembler, AssemblyError, Closed},
    chain_spec::{Specification, dev_genesis},
    evm::{Batch, Entry, MemStore, Store, StoreError, Table, balance},
    pending::Pending,
    progress::Progress,
    receipts::{Event, Receipts, Skip, Told},
};

pub(crate) const CHAIN_ID: u64 = 412_000;
pub(crate) const GENESIS_TIME: u64 = 1_700_000_000;
const FIRST_HEIGHT: u64 = 2;

/// Wallets 1 to 3 are rich, all others poor.
pub(crate) fn wallet(seed: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[seed; 32]).unwrap()
}

pub(crate) fn specification() -> Specification {
    specification_in(&MemStore::default())
}

pub(crate) fn specification_in(store: &dyn Store) -> Specification {
    Specification::new(&genesis(), store).unwrap()
}

pub(crate) fn genesis() -> Genesis {
    let balance = U256::from(1_000) * Unit::ETHER.wei();
    let alloc = (1..=3).map(|seed| (wallet(seed).address(), balance));
    dev_genesis(CHAIN_ID, 30_000_000, GENESIS_TIME, alloc).unwrap()
}

/// Heights from one to another, as a place among lists.
fn heights(from: Height, to: Height) -> usize {
    usize::try_from(to.get() - from.get()).unwrap()
}

/// Four transfers fill a block of this rollup.
pub(crate) fn config() -> RollupConfig {
    RollupConfig {
        evm_chain_id: CHAIN_ID,
        genesis_time: GENESIS_TIME,
        first_height: Height::new(FIRST_HEIGHT),
        gas_limit: 100_000,
        max_tx_gas: 25_000,
        fee_recipient: EvmAddress::new([0xfe; 20]),
        ..RollupConfig::example("alpha")
    }
}

/// A transfer of one wei to `0x77…`.
pub(crate) fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0x77)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

/// Any transaction, signed and encoded.
pub(crate) fn sign<T>(seed: u8, mut tx: T) -> Bytes
where
    T: SignableTransaction<Signature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = wallet(seed).sign_transaction_sync(&mut tx).unwrap();
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

/// A list item with a transfer.
pub(crate) fn paid(seed: u8, nonce: u64) -> RollupItem {
    RollupItem::Transaction(sign(seed, transfer(nonce)))
}

/// A list item with a leg's transaction.
pub(crate) fn leg(raw: Bytes) -> RollupItem {
    let bundle_id = Hash::new([0xb0; 32]);
    RollupItem::Leg { bundle_id, raw }
}

/// A call that fails: the precompile is given no point of its curve.
pub(crate) fn failing(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        to: TxKind::Call(Address::with_last_byte(6)),
        value: U256::ZERO,
        input: vec![1].into(),
        gas_limit: 25_000,
        ..transfer(nonce)
    }
}

pub(crate) fn trusted() -> TrustedState {
    TrustedState::unchecked("test".parse().unwrap(), Height::new(1))
}

/// What the sequencer says of one height.
#[derive(Clone, Debug)]
pub(crate) struct SlicePlan {
    pub(crate) opens: bool,
    pub(crate) closes: bool,
    pub(crate) items: Vec<RollupItem>,
}

/// A height with a block of its own.
pub(crate) fn whole(items: Vec<RollupItem>) -> SlicePlan {
    SlicePlan {
        opens: true,
        closes: true,
        items,
    }
}

/// All that was told.
pub(crate) fn told(receipts: &Receipts) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        let more = receipts.read(told.len() as u64).unwrap();
        if more.is_empty() {
            return told;
        }
        told.extend(more);
    }
}

/// Dies at one of its writes.
#[derive(Debug)]
pub(crate) struct Dying {
    store: Arc<dyn Store>,
    left: AtomicU64,
}

impl Dying {
    /// Has so many writes left.
    pub(crate) fn new(store: Arc<dyn Store>, writes: u64) -> Self {
        let left = AtomicU64::new(writes);
        Self { store, left }
    }

    /// What was written.
    pub(crate) fn live_on(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn live(&self) -> Result<(), StoreError> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        left.map(drop).map_err(|_| StoreError::new("killed"))
    }
}

impl Store for Dying {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    fn keys(&self, table: Table, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.keys(table, prefix)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.store.scan(table, from, limit)
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        self.live()?;
        self.store.clear(table)
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.live()?;
        self.store.commit(batch)
    }
}

/// What a process begins with.
fn start(
    pending: &Arc<Pending>,
    specification: &Specification,
    progress: &Progress,
) -> (Arc<Receipts>, Assembler) {
    let receipts = Arc::new(Receipts::after(progress.header.number, &progress.extra));
    let assembler = Assembler::new(
        Arc::new(Arc::clone(pending) as Arc<dyn Store>),
        specification.clone(),
        progress.cursor(),
        Arc::clone(&receipts),
    );
    (receipts, assembler)
}

/// A rollup that is fed height by height.
#[derive(Debug)]
pub(crate) struct Rollup {
    pub(crate) config: RollupConfig,
    pub(crate) progress: Progress,
    pub(crate) env_version: u8,
    pub(crate) receipts: Arc<Receipts>,
    specification: Specification,
    store: Arc<dyn Store>,
    pending: Arc<Pending>,
    /// Blocks that are executed and not committed, and how many of them there may be.
    waiting: usize,
    depth: usize,
    assembler: Assembler,
    lists: Vec<(SlicePlan, Slot, u64)>,
    /// Heights that were fed to the present assembler.
    fed: usize,
    limit: usize,
}

impl Rollup {
    pub(crate) fn new() -> Self {
        Self::open(Arc::new(MemStore::default())).unwrap()
    }

    /// Goes on from what is in a store.
    pub(crate) fn open(store: Arc<dyn Store>) -> eyre::Result<Self> {
        let config = config();
        let specification = Specification::new(&genesis(), store.as_ref())?;
        let first = config.first_height;
        let progress = Progress::open(store.as_ref(), &specification, first, &trusted())?;
        let pending = Arc::new(Pending::new(Arc::clone(&store)));
        let (receipts, assembler) = start(&pending, &specification, &progress);
        let fed = heights(first, progress.cursor().height);
        Ok(Self {
            config,
            progress,
            env_version: ENV_VERSION,
            receipts,
            specification,
            store,
            pending,
            waiting: 0,
            depth: 0,
            assembler,
            lists: Vec::new(),
            fed,
            limit: usize::MAX,
        })
    }

    /// Keeps at most `limit` bytes of items that wait, also after restarts.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit;
        self.assembler.limit(limit);
    }

    /// Commits a block only when `depth` later ones are executed, as a slow client makes us do.
    pub(crate) fn lag(&mut self, depth: usize) {
        self.depth = depth;
    }

    /// The sequencer's next height, `secs` after the last opening if it opens.
    pub(crate) fn sequence(&mut self, plan: SlicePlan, secs: u64) {
        let (slot, number) = self
            .lists
            .last()
            .map_or((GENESIS_TIME, 0), |(_, slot, number)| (slot.get(), *number));
        let opened = u64::from(plan.opens);
        self.lists
            .push((plan, Slot::new(slot + opened * secs), number + opened));
    }

    fn list(&self, at: usize) -> VerifiedList {
        let (plan, slot, number) = self.lists[at].clone();
        let header = VerifiedHeader::unchecked(
            Height::new(FIRST_HEIGHT + at as u64),
            Hash::new([7; 32]),
            HeaderTime::default(),
            Hash::ZERO,
            Hash::ZERO,
        );
        let root = if plan.opens {
            [number.to_be_bytes()[7]; 32]
        } else {
            [0; 32]
        };
        let env = RollupEnv {
            version: self.env_version,
            slot,
            number,
            opens: plan.opens,
            closes: plan.closes,
            beacon_root: root,
            prev_randao: root,
            config_hash: self.config.hash(),
        };
        let leaves = plan.items.iter().map(RollupItem::leaf).collect();
        let leaf = RollupLeaf::new(self.config.rollup_id, env, leaves);
        VerifiedList::unchecked(header, leaf, plan.items)
    }

    /// Takes in the next height, and commits the block that it closes.
    pub(crate) fn feed(&mut self) -> Result<Option<Closed>, AssemblyError> {
        let closed = self.execute()?;
        self.commit().unwrap();
        Ok(closed)
    }

    /// Takes in the next height; the block that it closes waits.
    pub(crate) fn execute(&mut self) -> Result<Option<Closed>, AssemblyError> {
        let list = self.list(self.fed);
        let (config, progress) = (&self.config, &self.progress);
        self.assembler
            .push(&list, config, trusted(), &trusted(), progress)?;
        while let Some((height, _)) = self.assembler.wanted() {
            let at = usize::try_from(height.get() - FIRST_HEIGHT).unwrap();
            let list = self.list(at);
            self.assembler.supply(&list)?;
        }
        let closed = self.assembler.close()?;
        self.fed += 1;
        if let Some(closed) = closed.clone() {
            let (progress, _, batch) = Progress::after(closed, &self.specification).unwrap();
            self.pending.push(Arc::new(batch));
            self.progress = progress;
            self.waiting += 1;
        }
        Ok(closed)
    }

    /// Commits the blocks that have waited long enough.
    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        while self.waiting > self.depth {
            self.pending.commit_oldest()?;
            self.waiting -= 1;
        }
        Ok(())
    }

    /// Sequences one height and takes it in.
    pub(crate) fn push(&mut self, plan: SlicePlan) -> Result<Option<Closed>, AssemblyError> {
        self.sequence(plan, 1);
        self.feed()
    }

    /// All that was told since the last start.
    pub(crate) fn told(&self) -> Vec<Told> {
        told(&self.receipts)
    }

    pub(crate) fn skips(&self) -> Vec<Skip> {
        let skip = |told: Told| match told.event.as_ref() {
            Event::Skipped(skip) => Some(*skip),
            _ => None,
        };
        self.told().into_iter().filter_map(skip).collect()
    }

    /// Forgets all but the store, as a crash does, and starts again at the cursor.
    pub(crate) fn restart(&mut self) {
        let first = self.config.first_height;
        let progress = Progress::open(self.store.as_ref(), &self.specification, first, &trusted());
        self.progress = progress.unwrap();
        let cursor = self.progress.cursor();
        self.pending = Arc::new(Pending::new(Arc::clone(&self.store)));
        self.waiting = 0;
        (self.receipts, self.assembler) = start(&self.pending, &self.specification, &self.progress);
        self.assembler.limit(self.limit);
        self.fed = heights(first, cursor.height);
    }

    /// What an account holds after the last block.
    pub(crate) fn balance(&self, address: Address) -> U256 {
        balance(self.store.as_ref(), address)
    }

    /// What is committed.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Whether heights wait to be taken in.
    pub(crate) fn is_behind(&self) -> bool {
        self.fed < self.lists.len()
    }
}
