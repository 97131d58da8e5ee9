//! The state machine and the conductors of four rollups, without network or disk: whatever the times
//! of sequencer blocks are, each rollup's blocks keep to its slots, and everything runs once.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{U256, utils::Unit};
use counterpoint_core::{
    action::{Action, SubmitData},
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    light::{TrustedState, VerifiedHeader},
    primitive::{Address, Amount, Hash, Nonce},
    slot::{HeaderTime, MAX_BACKLOG_SECS, SlotSecs},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_machine::{
    Block, BlockContext, ChainStart, MemState, RollupSlice, finalize, init_chain, prepare, process,
};
use proptest::prelude::*;

use super::*;
use crate::{
    chain_spec::dev_genesis,
    evm::{MemStore, Store},
    testing::{GENESIS_TIME, config, sign, told, transfer, trusted, wallet},
};

const NAMES: [&str; 4] = ["one", "two", "five", "twelve"];
const SLOT_SECS: [u8; 4] = [1, 2, 5, 12];
const CHAIN_ID: &str = "simulation";

/// Milliseconds from one sequencer block to the next, in a row of blocks.
#[derive(Clone, Debug)]
struct Pace {
    millis: u64,
    blocks: usize,
}

/// Fast, slow, a clock that stands still or jumps, a halt of minutes.
fn any_paces() -> impl Strategy<Value = Vec<Pace>> {
    let pace = prop_oneof![
        (20_u64..400, 5_usize..40),
        (900_u64..1_100, 2_usize..12),
        (1_500_u64..8_000, 2_usize..8),
        (1_u64..3, 2_usize..20),
        (10_000_u64..20_000, 1_usize..2),
        (60_000_u64..600_000, 1_usize..2),
    ];
    let pace = pace.prop_map(|(millis, blocks)| Pace { millis, blocks });
    prop::collection::vec(pace, 1..8)
}

fn rollup(at: usize) -> RollupConfig {
    RollupConfig {
        evm_chain_id: 1_000 + at as u64,
        slot_secs: SlotSecs::new(SLOT_SECS[at]).unwrap(),
        genesis_time: GENESIS_TIME,
        max_items_per_block: 1_000,
        rollup_id: RollupConfig::example(NAMES[at]).rollup_id,
        name: NAMES[at].into(),
        ..config()
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn address(seed: u8) -> Address {
    key(seed).public_key().address()
}

/// One validator's state and clock.
struct Sequencer {
    state: MemState,
    height: u64,
    millis: u64,
    nonce: u64,
}

impl Sequencer {
    fn new() -> Self {
        let genesis = SequencerGenesis {
            accounts: vec![GenesisAccount {
                address: address(1),
                balance: Amount::new(1_000_000_000_000_000),
            }],
            rollups: (0..NAMES.len()).map(rollup).collect(),
            ..SequencerGenesis::default()
        };
        let millis = (GENESIS_TIME + 100) * 1_000;
        let start = ChainStart::example(CHAIN_ID, time(millis), &[10]);
        let mut state = MemState::default();
        state.apply(init_chain(&genesis, &start).unwrap());
        Self {
            state,
            height: 0,
            millis,
            nonce: 0,
        }
    }

    /// The next block, some time after the last, with one item for a rollup.
    fn block(&mut self, millis: u64, item: Option<(usize, Bytes)>) -> Vec<RollupSlice> {
        self.height += 1;
        self.millis += millis;
        let ctx = BlockContext {
            height: Height::new(self.height),
            time: time(self.millis),
            proposer: address(101),
            misbehaved: vec![],
        };
        let candidates = item.map(|(at, raw)| self.sign(at, raw));
        let candidates = candidates.into_iter().collect();
        let items = prepare(&self.state, &ctx, &[], candidates, 1 << 20).unwrap();
        let block = Block::decode(&items, |_| None).unwrap();
        let execution = process(&self.state, &ctx, &block).unwrap();
        let outcome = finalize(execution, Hash::new([7; 32])).unwrap();
        self.state.apply(outcome.changes);
        outcome.rollups
    }

    fn sign(&mut self, at: usize, raw: Bytes) -> SignedTransaction {
        let data = SubmitData::new(rollup(at).rollup_id, vec![raw]).unwrap();
        let body = TransactionBody {
            chain_id: CHAIN_ID.into(),
            signer: key(1).public_key(),
            nonce: Nonce::new(self.nonce),
            tip_per_byte: 0,
            max_fee: Amount::new(1_000_000_000),
            valid_until: Height::new(self.height + 100),
            actions: vec![Action::SubmitData(data)],
        };
        self.nonce += 1;
        SignedTransaction::sign(body, &key(1)).unwrap()
    }
}

fn time(millis: u64) -> HeaderTime {
    HeaderTime {
        seconds: millis / 1_000,
        nanos: u32::try_from(millis % 1_000).unwrap() * 1_000_000,
    }
}

/// A rollup's conductor.
struct Conductor {
    config: RollupConfig,
    specification: Specification,
    store: Arc<dyn Store>,
    progress: Progress,
    receipts: Arc<Receipts>,
    assembler: Assembler,
    /// Timestamps of its blocks.
    blocks: Vec<u64>,
}

impl Conductor {
    fn new(at: usize) -> Self {
        let config = rollup(at);
        let balance = U256::from(1_000) * Unit::ETHER.wei();
        let alloc = [(wallet(1).address(), balance)];
        let genesis = dev_genesis(config.evm_chain_id, config.gas_limit, GENESIS_TIME, alloc);
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let specification = Specification::new(&genesis.unwrap(), store.as_ref()).unwrap();
        let first = config.first_height;
        let progress = Progress::open(store.as_ref(), &specification, first, &trusted()).unwrap();
        let receipts = Arc::new(Receipts::after(0, &progress.extra));
        let assembler = Assembler::new(
            Arc::new(Arc::clone(&store)),
            specification.clone(),
            progress.cursor(),
            Arc::clone(&receipts),
        );
        Self {
            config,
            specification,
            store,
            progress,
            receipts,
            assembler,
            blocks: Vec::new(),
        }
    }

    /// Items that wait for room.
    fn waits(&self) -> usize {
        let lists = self.assembler.pending.iter();
        let items = lists.filter_map(|list| list.items.as_ref()).map(Vec::len);
        items.sum::<usize>() - self.assembler.next_index as usize
    }

    fn push(&mut self, slice: RollupSlice, header: VerifiedHeader) {
        assert_eq!(slice.config, self.config);
        let list = VerifiedList::unchecked(header, slice.leaf, slice.items);
        let (config, tip): (_, TrustedState) = (&self.config, trusted());
        let pushed = self
            .assembler
            .push(&list, config, trusted(), &tip, &self.progress);
        pushed.unwrap();
        assert!(self.assembler.wanted().is_none());
        if let Some(closed) = self.assembler.close().unwrap() {
            self.blocks.push(closed.built.block.header.timestamp);
            let (progress, _, batch) = Progress::after(closed, &self.specification).unwrap();
            self.store.commit(batch).unwrap();
            self.progress = progress;
        }
    }
}

fn slot(slot_secs: u8, millis: u64) -> u64 {
    millis / 1_000 / u64::from(slot_secs) * u64::from(slot_secs)
}

/// The slot of a list: a height belongs to the slot of the block before it.
fn list_slot(slot_secs: u8, millis: &[u64], height: Height) -> u64 {
    slot(
        slot_secs,
        millis[usize::try_from(height.get()).unwrap() - 2],
    )
}

/// What a rollup's blocks must be, given the times of the sequencer's.
fn expected(slot_secs: u8, millis: &[u64]) -> Vec<u64> {
    // The first list is that of height 2.
    let mut slots: Vec<u64> = millis
        .iter()
        .map(|millis| slot(slot_secs, *millis))
        .collect();
    let last = slots.pop().unwrap();
    slots.dedup();
    // The slot of the last height is still open, unless the next height is known to open another.
    if slots.last() == Some(&last) {
        slots.pop();
    }
    slots
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn blocks_keep_to_their_slots_at_any_pace(paces in any_paces()) {
        let mut sequencer = Sequencer::new();
        let mut conductors: Vec<_> = (0..NAMES.len()).map(Conductor::new).collect();
        let (mut times, mut sent) = (Vec::new(), BTreeMap::<usize, usize>::new());
        let steps = paces.iter().flat_map(|pace| vec![pace.millis; pace.blocks]);
        for (step, millis) in steps.enumerate() {
            let at = step % NAMES.len();
            // The first height has no lists.
            let item = (step > 0).then(|| {
                let nonce = sent.entry(at).or_default();
                let mut tx = transfer(*nonce as u64);
                tx.chain_id = conductors[at].config.evm_chain_id;
                *nonce += 1;
                (at, sign(1, tx))
            });
            let slices = sequencer.block(millis, item);
            times.push(sequencer.millis);
            prop_assert_eq!(slices.len(), if step == 0 { 0 } else { NAMES.len() });
            for slice in slices {
                let header = VerifiedHeader::unchecked(
                    Height::new(sequencer.height),
                    Hash::new([7; 32]),
                    time(sequencer.millis),
                    Hash::ZERO,
                    Hash::ZERO,
                );
                let of = |conductor: &&mut Conductor| {
                    conductor.config.rollup_id == slice.leaf.rollup_id
                };
                conductors.iter_mut().find(of).unwrap().push(slice, header);
            }
        }
        for (at, conductor) in conductors.iter().enumerate() {
            prop_assert_eq!(&conductor.blocks, &expected(SLOT_SECS[at], &times));
            prop_assert!(conductor.blocks.is_sorted_by(|a, b| a < b));
            let (mut included, mut skipped, mut stale) = (0, 0, false);
            for told in told(&conductor.receipts) {
                let waited = |place: &Place| {
                    told.block.timestamp - list_slot(SLOT_SECS[at], &times, place.height)
                };
                let longest = MAX_BACKLOG_SECS + u64::from(SLOT_SECS[at]);
                match told.event.as_ref() {
                    Event::Included { place, .. } => {
                        prop_assert!(waited(place) <= longest);
                        included += 1;
                    }
                    Event::Skipped(skip) => {
                        // What waited for room through a halt is stale; what follows has no nonce.
                        stale |= waited(&skip.place) > longest;
                        let reason = if waited(&skip.place) > longest {
                            SkipReason::Stale
                        } else {
                            SkipReason::Nonce
                        };
                        prop_assert!(stale && skip.reason == reason, "{skip:?}");
                        skipped += 1;
                    }
                    Event::Opened { .. } | Event::Closed { .. } => {}
                }
            }
            let waits = conductor.waits();
            let sent = sent.get(&at).copied().unwrap_or_default();
            prop_assert_eq!(included + skipped + waits, sent);
        }
    }
}
