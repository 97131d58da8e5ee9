//! A rollup's blocks without a sequencer: items and withdrawals in, executed blocks out.

use std::{collections::BTreeMap, sync::Arc};

use alloy_consensus::Header;
use alloy_eips::{
    eip1559::{BaseFeeParams, calc_next_block_base_fee},
    eip4895::Withdrawal,
};
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Bytes, U256, utils::Unit};
use alloy_rlp::Encodable;
use bytes::Bytes as Item;
use counterpoint_conductor::{
    chain_spec::{Specification, dev_genesis},
    derive::Rules,
    evm::{
        Batch, BlockBuilder, BlockInputs, BuiltBlock, MemStore, Outcome, RollupBlock, StateSource,
        Store, Table,
    },
};
use counterpoint_core::chain_spec::Fork;

use super::{
    candidates::{
        AUTHORITIES, CONTRACT_WALLET, Candidate, Candidates, Expect, SENDERS, Terms, wallet,
    },
    programs::{self, World},
    random::Random,
};

const CHAIN_ID: u64 = 412_000;
const GENESIS_TIME: u64 = 1_700_000_000;
const GAS_LIMIT: u64 = 10_000_000;
const EXTRA: Bytes = Bytes::from_static(&[1; 21]);
/// When the forks after Cancun begin.
const PRAGUE: u64 = GENESIS_TIME + 1_000_000;
const OSAKA: u64 = GENESIS_TIME + 2_000_000;
/// Programs that are there from the start.
const PROGRAMS: usize = 16;

/// A chain that begins under Cancun and crosses two forks, and the state that it begins with.
pub(super) fn genesis(random: &mut Random) -> (Genesis, World) {
    let rich = U256::from(1_000_000) * Unit::ETHER.wei();
    let funded = (1..=SENDERS).chain(AUTHORITIES).chain([CONTRACT_WALLET]);
    let funded: Vec<Address> = funded.map(|seed| wallet(seed).address()).collect();
    let alloc = funded.iter().map(|address| (*address, rich));
    let mut genesis = dev_genesis(CHAIN_ID, GAS_LIMIT, GENESIS_TIME, alloc).unwrap();
    genesis.config.prague_time = Some(PRAGUE);
    genesis.config.osaka_time = Some(OSAKA);
    let blobs = &mut genesis.config.blob_schedule;
    blobs.insert("osaka".into(), blobs["prague"]);
    let at = |index: usize| Address::left_padding_from(&[0xc0, u8::try_from(index).unwrap()]);
    let mut world = World { accounts: funded };
    world.accounts.extend((0..PROGRAMS + 3).map(at));
    let mut codes: Vec<Vec<u8>> = (0..PROGRAMS)
        .map(|_| programs::program(random, &world))
        .collect();
    codes.extend([programs::phoenix(0), programs::phoenix(1), programs::deep()]);
    for (index, code) in codes.into_iter().enumerate() {
        genesis.alloc.insert(at(index), contract(code, random));
    }
    let owner = genesis
        .alloc
        .get_mut(&wallet(CONTRACT_WALLET).address())
        .unwrap();
    (owner.nonce, owner.code) = (Some(1), Some(programs::deep().into()));
    (genesis, world)
}

fn contract(code: Vec<u8>, random: &mut Random) -> GenesisAccount {
    let storage = (0..random.below(5)).map(|slot| {
        let slot = B256::with_last_byte(u8::try_from(slot).unwrap());
        (slot, B256::with_last_byte(random.byte()))
    });
    GenesisAccount {
        nonce: Some(1),
        balance: U256::from(1_000),
        code: Some(code.into()),
        storage: Some(storage.collect::<BTreeMap<_, _>>()),
        ..GenesisAccount::default()
    }
}

/// What a block holds beside what it was offered.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) included: usize,
    pub(super) succeeded: usize,
    /// Blocks that ended before an item that found no room.
    pub(super) ended: usize,
    pub(super) skips: BTreeMap<&'static str, usize>,
}

/// A rollup on top of which the next block is built.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) specification: Specification,
    store: Arc<dyn Store>,
    parent: Header,
    hash: B256,
    pub(super) tally: Tally,
    /// The state of a client, from which every block is built once more.
    pub(super) thin: Option<Arc<dyn StateSource>>,
}

impl Chain {
    pub(super) fn new(genesis: &Genesis) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let specification = Specification::new(genesis, store.as_ref()).unwrap();
        let parent = specification.genesis_header().clone();
        let hash = parent.hash_slow();
        let block = stored(hash, &RollupBlock::uncle(parent.clone()));
        let genesis = ((Table::Blocks, 0_u64.to_be_bytes().to_vec()), Some(block));
        store.commit(Batch::from([genesis])).unwrap();
        Self {
            specification,
            store,
            parent,
            hash,
            tally: Tally::default(),
            thin: None,
        }
    }

    /// Where blocks are kept.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    pub(super) fn head(&self) -> (&Header, B256) {
        (&self.parent, self.hash)
    }

    /// Builds the next block of `count` items that `make` thinks up, after calls of `precompiles`.
    pub(super) fn build(
        &mut self,
        candidates: &mut Candidates,
        timestamp: u64,
        precompiles: &[u16],
        count: usize,
        make: fn(&mut Candidates, &Terms) -> Candidate,
    ) -> BuiltBlock {
        let terms = self.terms(&mut candidates.random, timestamp);
        let inputs = self.inputs(candidates, timestamp);
        let mut builder = self.begin(Arc::new(self.store()), &terms, inputs.clone());
        let mut items: Vec<Candidate> = precompiles
            .iter()
            .map(|number| candidates.precompile(*number, &terms))
            .collect();
        items.extend((0..count).map(|_| make(candidates, &terms)));
        for (at, item) in items.iter().enumerate() {
            let next = items[at + 1..].iter().map(|next| &next.raw);
            let outcome = builder.execute(&item.raw, next).unwrap();
            if outcome == Outcome::EndOfBlock {
                // What is not valid never ends a block, and the tour fits.
                let valid = matches!(item.expect, Expect::Included | Expect::Either);
                assert!(valid, "the block ended before {item:?}");
                self.tally.ended += 1;
                break;
            }
            self.judge(candidates, item, outcome);
        }
        let built = builder.finish(EXTRA).unwrap();
        if let Some(thin) = &self.thin {
            let items = items.iter().map(|item| &item.raw);
            let mut builder = self.begin(Arc::clone(thin), &terms, inputs);
            for (at, item) in items.clone().enumerate() {
                let next = items.clone().skip(at + 1);
                if builder.execute(item, next).unwrap() == Outcome::EndOfBlock {
                    break;
                }
            }
            let again = builder.finish(EXTRA).unwrap();
            assert_eq!(again.block, built.block, "thin mode builds another block");
        }
        self.commit(&built);
        built
    }

    fn begin(
        &self,
        states: Arc<dyn StateSource>,
        terms: &Terms,
        inputs: BlockInputs,
    ) -> BlockBuilder {
        let (parent, rules) = ((&self.parent, self.hash), terms.rules);
        BlockBuilder::begin(states, &self.specification, rules, parent, inputs).unwrap()
    }

    /// Builds the next block of items that are all valid.
    pub(super) fn carry(
        &mut self,
        timestamp: u64,
        beacon_root: B256,
        items: &[Item],
    ) -> BuiltBlock {
        let rules = Rules {
            chain_id: self.specification.chain_id(),
            max_tx_gas: GAS_LIMIT / 4,
            min_tip_wei: 0,
            allow_unprotected: false,
        };
        let inputs = BlockInputs {
            number: self.parent.number + 1,
            timestamp,
            withdrawals: Vec::new(),
            prev_randao: B256::ZERO,
            beacon_root,
            fee_recipient: Address::ZERO,
            gas_limit: self.parent.gas_limit,
        };
        let states = Arc::new(self.store());
        let parent = (&self.parent, self.hash);
        let mut builder =
            BlockBuilder::begin(states, &self.specification, rules, parent, inputs).unwrap();
        for item in items {
            let outcome = builder.execute(item, items[..0].iter()).unwrap();
            assert!(matches!(outcome, Outcome::Included(_)), "{outcome:?}");
        }
        let built = builder.finish(Bytes::from_static(&[1; 21])).unwrap();
        self.commit(&built);
        built
    }

    fn terms(&self, random: &mut Random, timestamp: u64) -> Terms {
        let rules = Rules {
            chain_id: CHAIN_ID,
            max_tx_gas: GAS_LIMIT / 4,
            min_tip_wei: random.between(1, 2),
            allow_unprotected: random.one_in(2),
        };
        let parent = &self.parent;
        Terms {
            fork: self.specification.fork_at(timestamp).fork,
            rules,
            base_fee: calc_next_block_base_fee(
                parent.gas_used,
                parent.gas_limit,
                parent.base_fee_per_gas.unwrap(),
                BaseFeeParams::ethereum(),
            ),
        }
    }

    fn inputs(&self, candidates: &mut Candidates, timestamp: u64) -> BlockInputs {
        let Candidates { random, world, .. } = candidates;
        let number = self.parent.number + 1;
        let withdrawal = |index: u64, random: &mut Random| Withdrawal {
            index: number * 16 + index,
            validator_index: 0,
            address: if random.one_in(3) {
                Address::from_slice(&random.bytes(20))
            } else {
                *random.pick(&world.accounts)
            },
            amount: random.between(1, 1_000_000_000),
        };
        let count = if random.one_in(2) {
            random.between(0, 16)
        } else {
            0
        };
        let withdrawals = (0..count).map(|index| withdrawal(index, random));
        BlockInputs {
            number,
            timestamp,
            withdrawals: withdrawals.collect(),
            prev_randao: B256::from_slice(&random.bytes(32)),
            beacon_root: B256::from_slice(&random.bytes(32)),
            fee_recipient: Address::repeat_byte(0xfe),
            gas_limit: GAS_LIMIT,
        }
    }

    /// Compares what became of an item with what had to.
    fn judge(&mut self, candidates: &mut Candidates, item: &Candidate, outcome: Outcome) {
        match outcome {
            Outcome::Included(receipt) => {
                let success = receipt.envelope.status();
                let allowed = match item.expect {
                    Expect::Included | Expect::Either => true,
                    Expect::Success => success,
                    Expect::Skipped(_) => false,
                };
                assert!(allowed, "included, {success}: {item:?}");
                self.tally.included += 1;
                self.tally.succeeded += usize::from(success);
                if let Some(contract) = receipt.contract {
                    candidates.created(contract);
                }
            }
            Outcome::Skipped(reason) => {
                let expected = [Expect::Either, Expect::Skipped(reason)];
                assert!(expected.contains(&item.expect), "{reason:?}: {item:?}");
                *self.tally.skips.entry(reason.name()).or_default() += 1;
            }
            Outcome::EndOfBlock => {}
        }
    }

    fn commit(&mut self, built: &BuiltBlock) {
        let mut batch = built.update.batch.clone();
        let number = built.block.header.number.to_be_bytes().to_vec();
        let block = stored(built.hash, &built.block);
        batch.insert((Table::Blocks, number), Some(block));
        self.store.commit(batch).unwrap();
        (self.parent, self.hash) = (built.block.header.clone(), built.hash);
    }
}

fn stored(hash: B256, block: &RollupBlock) -> Vec<u8> {
    let mut stored = hash.to_vec();
    block.encode(&mut stored);
    stored
}

/// The forks of a chain, with the timestamp of their first block.
pub(super) const FORKS: [(Fork, u64); 3] = [
    (Fork::Cancun, GENESIS_TIME + 1),
    (Fork::Prague, PRAGUE),
    (Fork::Osaka, OSAKA),
];
