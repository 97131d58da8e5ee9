//! A chain in memory that takes every block down all four paths and compares them.
#![expect(unreachable_pub, reason = "shared by test files")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, RegisterRollup},
    atomic::VerifiedMessage,
    genesis::{GenesisAccount, SequencerGenesis},
    key::{PublicKey, SecretKey},
    primitive::{Address, Amount, Hash, Height, Nonce},
    registry::RollupConfig,
    slot::{HeaderTime, SlotSecs},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_machine::{
    Block, BlockContext, ChainStart, MemState, Outcome, PowerUpdate, ProcessError, Refusal,
    StateRead, finalize, init_chain, prepare, process, query, tree,
};

pub const CHAIN_ID: &str = "counterpoint-test";
pub const GENESIS_SECS: u64 = 1_800_000_000;
pub const RICH: u128 = 1_000_000_000_000;

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub fn address(seed: u8) -> Address {
    key(seed).public_key().address()
}

pub fn rollup(name: &str, slot_secs: u8) -> RollupConfig {
    RollupConfig {
        evm_chain_id: 1_000 + u64::from(name.as_bytes()[0]),
        genesis_time: GENESIS_SECS - 100,
        slot_secs: SlotSecs::new(slot_secs).unwrap(),
        owner: address(1),
        max_bytes_per_block: 2_000,
        max_items_per_block: 20,
        ..RollupConfig::example(name)
    }
}

/// Registers the rollup that [`rollup`] describes.
pub fn register(name: &str, first_height: u64) -> Action {
    let config = rollup(name, 1);
    Action::RegisterRollup(RegisterRollup {
        name: config.name,
        evm_chain_id: config.evm_chain_id,
        chain_spec_hash: config.chain_spec_hash,
        genesis_time: config.genesis_time,
        first_height: Height::new(first_height),
        slot_secs: config.slot_secs,
        gas_limit: config.gas_limit,
        max_tx_gas: config.max_tx_gas,
        min_tip_wei: config.min_tip_wei,
        allow_unprotected: config.allow_unprotected,
        fee_recipient: config.fee_recipient,
        tip_share_bps: config.tip_share_bps,
        max_bytes_per_block: config.max_bytes_per_block,
        max_items_per_block: config.max_items_per_block,
        attesters: None,
    })
}

pub struct Chain {
    pub state: MemState,
    pub tree: tree::Pages,
    pub height: u64,
    pub millis: u64,
    pub app_hash: Hash,
    /// The validators as CometBFT knows them.
    pub cometbft: BTreeMap<PublicKey, u64>,
    /// Evidence that the next block carries.
    pub accused: Vec<Address>,
    /// What attesters have sent for the next block.
    pub messages: Vec<VerifiedMessage>,
    /// Room for items in a block.
    pub max_bytes: u64,
    last_hash: Hash,
}

impl Chain {
    pub fn new(rollups: Vec<RollupConfig>, accounts: u8) -> Self {
        let account = |seed| GenesisAccount {
            address: address(seed),
            balance: Amount::new(RICH),
        };
        let genesis = SequencerGenesis {
            accounts: (1..=accounts).map(account).collect(),
            rollups,
            ..SequencerGenesis::default()
        };
        Self::start(&genesis, &[10; 4])
    }

    /// A chain whose validators, with keys of seeds from 101 on, have these powers.
    pub fn start(genesis: &SequencerGenesis, powers: &[u64]) -> Self {
        let time = HeaderTime {
            seconds: GENESIS_SECS,
            nanos: 0,
        };
        let start = ChainStart::example(CHAIN_ID, time, powers);
        let changes = init_chain(genesis, &start).unwrap();
        let (app_hash, tree) = tree::update(&tree::Pages::new(), &changes).unwrap();
        let mut state = MemState::default();
        state.apply(changes);
        Self {
            state,
            tree,
            height: 0,
            millis: GENESIS_SECS * 1_000,
            app_hash,
            cometbft: start.validators.into_iter().collect(),
            accused: Vec::new(),
            messages: Vec::new(),
            max_bytes: 8_000,
            last_hash: Hash::ZERO,
        }
    }

    /// The context of the next block. The first block carries the genesis time.
    pub fn ctx(&self) -> BlockContext {
        let time = HeaderTime {
            seconds: self.millis / 1_000,
            nanos: 0,
        };
        BlockContext {
            height: Height::new(self.height + 1),
            time,
            proposer: address(101),
            misbehaved: self.accused.clone(),
        }
    }

    pub fn sign(&self, seed: u8, nonce: u64, tip: u64, actions: Vec<Action>) -> SignedTransaction {
        let body = TransactionBody {
            chain_id: CHAIN_ID.into(),
            signer: key(seed).public_key(),
            nonce: Nonce::new(nonce),
            tip_per_byte: tip,
            max_fee: Amount::new(RICH),
            valid_until: Height::new(self.height + 10),
            actions,
        };
        SignedTransaction::sign(body, &key(seed)).unwrap()
    }

    /// Pretends that nothing happened until `height`.
    pub fn skip_to(&mut self, height: u64) {
        self.height = height;
    }

    pub fn nonce(&self, seed: u8) -> u64 {
        query::account(&self.state, address(seed))
            .unwrap()
            .map_or(0, |account| account.nonce.get())
    }

    /// Judges a block as a validator does.
    pub fn judge(&self, items: &[Bytes]) -> Result<(), Refusal> {
        let block = Block::decode(items, |_| None)?;
        match process(&self.state, &self.ctx(), &block) {
            Ok(_) => Ok(()),
            Err(ProcessError::Refused(refusal)) => Err(refusal),
            Err(ProcessError::Store(fault)) => panic!("memory never fails: {fault}"),
        }
    }

    /// Proposes, judges, decides and commits one block, and checks every law on the way.
    pub fn advance(
        &mut self,
        candidates: Vec<SignedTransaction>,
        millis: u64,
    ) -> (Vec<Bytes>, Outcome) {
        let known = candidates.clone();
        let items = self.propose(candidates);
        let lookup = |item: &Bytes| known.iter().find(|tx| tx.as_bytes() == item).cloned();
        let remembered = Block::decode(&items, lookup).unwrap();
        let decoded = Block::decode(&items, |_| None).unwrap();
        assert_eq!(remembered, decoded);
        let replayed = self.execute(&remembered);
        let outcome = self.commit(&items, millis);
        assert_eq!(outcome, replayed, "replay must repeat the block");
        (items, outcome)
    }

    /// The next block as its proposer builds it.
    pub fn propose(&self, transactions: Vec<SignedTransaction>) -> Vec<Bytes> {
        let (ctx, room) = (self.ctx(), self.max_bytes);
        prepare(&self.state, &ctx, &self.messages, transactions, room).unwrap()
    }

    /// The hash of the last block's header.
    pub fn last_hash(&self) -> Hash {
        self.last_hash
    }

    /// Decides and commits a block that validators accept.
    pub fn commit(&mut self, items: &[Bytes], millis: u64) -> Outcome {
        let ctx = self.ctx();
        let outcome = self.execute(&Block::decode(items, |_| None).unwrap());
        assert_eq!(outcome.codes.len(), items.len());
        let (app_hash, pages) = tree::update(&self.tree, &outcome.changes).unwrap();
        self.tree.extend(pages);
        self.state.apply(outcome.changes.clone());
        self.last_hash = self.hash();
        (self.app_hash, self.height) = (app_hash, ctx.height.get());
        self.accused.clear();
        self.messages.clear();
        self.tell_cometbft(&outcome.validators);
        self.millis += millis;
        self.check_supply();
        outcome
    }

    fn execute(&self, block: &Block) -> Outcome {
        let execution = process(&self.state, &self.ctx(), block).expect("own proposal is accepted");
        finalize(execution, self.hash()).unwrap()
    }

    /// The hash of the next block's header.
    fn hash(&self) -> Hash {
        Hash::digest(&[b"header", &self.height.to_be_bytes()])
    }

    /// Applies updates as CometBFT does, which stops for ever on any that it does not accept.
    fn tell_cometbft(&mut self, updates: &[PowerUpdate]) {
        let keys: BTreeSet<PublicKey> = updates.iter().map(|update| update.public_key).collect();
        assert_eq!(keys.len(), updates.len(), "a key is named twice");
        for PowerUpdate { public_key, power } in updates {
            if *power == 0 {
                let removed = self.cometbft.remove(public_key);
                assert!(removed.is_some(), "a key is removed that is absent");
            } else {
                self.cometbft.insert(*public_key, *power);
            }
        }
        assert!(!self.cometbft.is_empty(), "nobody is left");
        assert!(self.cometbft.values().all(|power| *power < 1 << 54));
        let ours = query::validators(&self.state).unwrap();
        let ours = ours
            .iter()
            .map(|validator| (validator.public_key, validator.power));
        assert_eq!(self.cometbft, ours.collect());
    }

    /// The root of a tree that is built from the state at once.
    pub fn root_of_everything(&self) -> Hash {
        let entries = self.state.scan(&[]).unwrap();
        let entries = entries.into_iter().map(|(key, value)| (key, Some(value)));
        let (root, _) = tree::update(&tree::Pages::new(), &entries.collect()).unwrap();
        root
    }

    fn check_supply(&self) {
        let accounts = self.state.scan(&[0x01]).unwrap();
        let balance = |value: &[u8]| u128::from_le_bytes(value[8..24].try_into().unwrap());
        let mut balances = 0;
        for (_, value) in &accounts {
            balances += balance(value);
        }
        let supply = query::chain(&self.state).unwrap();
        let waiting = self.state.scan(&[0x09]).unwrap();
        assert_eq!(waiting.len(), supply.waiting_deposits as usize);
        assert_eq!(
            balances + supply.burned.get() + supply.locked.get(),
            supply.supply.get()
        );
    }
}
