//! Choosing a block and judging one, by the same code.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterpoint_core::{
    atomic::{SystemItem, VerifiedMessage},
    block::{
        BlockItemError, Preamble,
        order::{self, OrderKey},
    },
    primitive::{Address, Hash, Height, Nonce},
    slot::HeaderTime,
    state::{Upgrade, Validator},
    transaction::{RawTransaction, SignedTransaction, TransactionError},
};

use crate::{
    atomic::{self, ItemError, ItemRefusal, Slot},
    check::{Existed, charge},
    consensus::{self, ParamsUpdate},
    execute::{self, ExecuteError, TxContext},
    fees::{Income, Prices},
    lists::{Lists, RollupSlice},
    rejection::Rejection,
    room::{MAX_RECOVERIES, recoveries},
    state::{Changes, Key, LastHeader, ReadRecords, StateDelta, StateRead, StoreError},
    validators::{self, PowerUpdate, ValidatorSet},
};

/// What the header of a block says, as far as execution depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockContext {
    /// Which block.
    pub height: Height,
    /// When it was proposed.
    pub time: HeaderTime,
    /// The address of the key that proposed it.
    pub proposer: Address,
    /// Addresses of keys that signed two blocks of one height, by evidence in this one.
    pub misbehaved: Vec<Address>,
}

/// A block whose items decode and whose signatures hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    preamble: Preamble,
    preamble_hash: Hash,
    system: Vec<(SystemItem, Hash)>,
    transactions: Vec<SignedTransaction>,
}

/// Why a proposal is rejected: the proposer's fault, and the same verdict on every node.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is not even a preamble.
    #[error("block has no items")]
    Empty,
    /// Item 0 is not a preamble.
    #[error("item 0 is not a preamble")]
    Preamble(#[source] BlockItemError),
    /// A system item does not decode.
    #[error("system item {index} does not decode")]
    SystemItem {
        /// Place in the block.
        index: usize,
        /// What is wrong with it.
        source: BlockItemError,
    },
    /// A system item breaks a rule.
    #[error("system item {index} is refused: {refusal}")]
    System {
        /// Place in the block.
        index: usize,
        /// Which rule.
        refusal: ItemRefusal,
    },
    /// An item is not a valid transaction.
    #[error("item {index} is not a transaction")]
    Item {
        /// Place in the block.
        index: usize,
        /// What is wrong with it.
        source: TransactionError,
    },
    /// A transaction may not be in a block.
    #[error("transaction at item {index} may not be included: {rejection}")]
    Transaction {
        /// Place in the block.
        index: usize,
        /// Why not.
        rejection: Rejection,
    },
    /// A rollup would have more items or bytes than its share.
    #[error("transaction at item {index} overfills a rollup's share of the block")]
    Overfull {
        /// Place in the block.
        index: usize,
    },
    /// The block seals and reveals more transactions of bundles than there is time for.
    #[error("transaction at item {index} seals or reveals more than a block may")]
    Recoveries {
        /// Place in the block.
        index: usize,
    },
    /// The proposer chose the order.
    #[error("transactions are not in the verifiable order")]
    Order,
    /// The preamble does not commit to the lists that the block makes.
    #[error("preamble does not match the lists")]
    Commitment,
}

/// How judging a block can end badly.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The proposer's fault.
    #[error("proposal refused")]
    Refused(#[from] Refusal),
    /// A broken node: it stops instead of voting.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a valid block does, known before its hash is.
#[derive(Clone, Debug)]
pub struct Execution {
    time: HeaderTime,
    last: LastHeader,
    outcome: Outcome,
}

/// What a decided block did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Code and text of every block item; 0 for the preamble and for what was executed.
    pub codes: Vec<(u32, String)>,
    /// What to commit.
    pub changes: Changes,
    /// Each rollup's part, in the order of identifiers.
    pub rollups: Vec<RollupSlice>,
    /// Item 0.
    pub preamble: Preamble,
    /// Validators whose power is another one now, each once.
    pub validators: Vec<PowerUpdate>,
    /// What CometBFT is to change.
    pub params: ParamsUpdate,
}

/// Makes quorums of attesters' messages, chooses transactions, puts them into the verifiable order and
/// commits to the lists they make.
///
/// `messages` and `candidates` are what the mempool offers, in any order; what cannot be included is
/// left out, and so is what would make the block longer than `max_bytes`, counted as CometBFT counts.
///
/// # Errors
/// [`StoreError`] if the store is broken.
pub fn prepare<S: StateRead>(
    state: &S,
    ctx: &BlockContext,
    messages: &[VerifiedMessage],
    candidates: Vec<SignedTransaction>,
    max_bytes: u64,
) -> Result<Vec<Bytes>, StoreError> {
    let mut executor = BlockExecutor::open(state, ctx)?;
    let empty_preamble = Preamble::new(&[]).encode();
    let mut room = max_bytes.saturating_sub(item_cost(&empty_preamble));
    let mut items = Vec::new();
    let aggregated = atomic::aggregate(&executor.slot, messages, &executor.lists, &executor.delta)?;
    for item in aggregated {
        let encoded = item.encode();
        let cost = item_cost(&encoded);
        if cost > room {
            continue;
        }
        match executor.apply(&item) {
            Ok(()) => {
                room = room.saturating_sub(cost);
                items.push(encoded);
            }
            Err(ItemError::Store(fault)) => return Err(fault),
            Err(ItemError::Refused(_)) => {}
        }
    }
    executor.settle()?;
    let candidates = next_in_turn(state, candidates)?;
    for tx in order::sort(candidates, &executor.last.hash, order_key) {
        let cost = item_cost(tx.as_bytes());
        if cost > room {
            continue;
        }
        match executor.include(&tx) {
            Ok(()) => {
                room = room.saturating_sub(cost);
                items.push(tx.as_bytes().clone());
            }
            Err(Excluded::Store(fault)) => return Err(fault),
            Err(Excluded::Rejected(_) | Excluded::Overfull | Excluded::Recoveries) => {}
        }
    }
    items.insert(0, executor.close()?.outcome.preamble.encode());
    Ok(items)
}

/// Of each account, the unbroken run of nonces from its next one on. A transaction that was left out
/// of the run would still hold back those behind it when the block is put into order.
fn next_in_turn<S: StateRead>(
    state: &S,
    candidates: Vec<SignedTransaction>,
) -> Result<Vec<SignedTransaction>, StoreError> {
    let mut accounts: BTreeMap<Address, BTreeMap<Nonce, SignedTransaction>> = BTreeMap::new();
    for tx in candidates {
        let queue = accounts.entry(tx.signer()).or_default();
        let rank = |tx: &SignedTransaction| (tx.body().tip_per_byte, tx.hash());
        let nonce = tx.body().nonce;
        if queue
            .get(&nonce)
            .is_none_or(|other| rank(&tx) > rank(other))
        {
            queue.insert(nonce, tx);
        }
    }
    let mut runs = Vec::new();
    for (signer, mut queue) in accounts {
        let mut next = state.account(signer)?.map(|account| account.nonce);
        while let Some(tx) = next.and_then(|nonce| queue.remove(&nonce)) {
            next = tx.body().nonce.next();
            runs.push(tx);
        }
    }
    Ok(runs)
}

/// Executes `block` if every rule holds.
///
/// # Errors
/// [`ProcessError::Refused`] is a vote against the block, [`ProcessError::Store`] is not.
pub fn process<S: StateRead>(
    state: &S,
    ctx: &BlockContext,
    block: &Block,
) -> Result<Execution, ProcessError> {
    let mut executor = BlockExecutor::open(state, ctx)?;
    let keys: Vec<OrderKey> = block.transactions.iter().map(order_key).collect();
    if order::sort(keys.clone(), &executor.last.hash, |key| *key) != keys {
        return Err(Refusal::Order.into());
    }
    for (place, (item, _)) in block.system.iter().enumerate() {
        let index = place.saturating_add(1);
        executor.apply(item).map_err(|error| match error {
            ItemError::Refused(refusal) => Refusal::System { index, refusal }.into(),
            ItemError::Store(fault) => ProcessError::Store(fault),
        })?;
    }
    executor.settle()?;
    for (place, tx) in block.transactions.iter().enumerate() {
        let index = place.saturating_add(block.system.len()).saturating_add(1);
        executor.include(tx).map_err(|excluded| match excluded {
            Excluded::Rejected(rejection) => Refusal::Transaction { index, rejection }.into(),
            Excluded::Overfull => Refusal::Overfull { index }.into(),
            Excluded::Recoveries => Refusal::Recoveries { index }.into(),
            Excluded::Store(fault) => ProcessError::Store(fault),
        })?;
    }
    let execution = executor.close()?;
    if execution.outcome.preamble != block.preamble {
        return Err(Refusal::Commitment.into());
    }
    Ok(execution)
}

/// Completes an execution with the hash that consensus decided.
///
/// # Errors
/// [`StoreError`] if the last header cannot be written down.
pub fn finalize(execution: Execution, block_hash: Hash) -> Result<Outcome, StoreError> {
    let Execution {
        time,
        last,
        mut outcome,
    } = execution;
    let next = LastHeader {
        hash: block_hash,
        time: Some(time),
        previous_time: last.time,
    };
    let value = borsh::to_vec(&next).map_err(|error| StoreError::corrupt(error.to_string()))?;
    outcome
        .changes
        .insert(Key::LastHeader.encode(), Some(value));
    Ok(outcome)
}

impl Block {
    /// Decodes all items; `known` gives transactions with exactly these bytes whose signatures were
    /// verified before, so that nothing is hashed or verified twice.
    ///
    /// # Errors
    /// [`Refusal`] names the first item that no block may have.
    pub fn decode(
        items: &[Bytes],
        known: impl Fn(&Bytes) -> Option<SignedTransaction>,
    ) -> Result<Self, Refusal> {
        let (first, rest) = items.split_first().ok_or(Refusal::Empty)?;
        let preamble = Preamble::decode(first).map_err(Refusal::Preamble)?;
        let (mut system, mut transactions) = (Vec::new(), Vec::new());
        for (place, item) in rest.iter().enumerate() {
            let index = place.saturating_add(1);
            // Behind a transaction a system item is none.
            if transactions.is_empty() {
                let decoded = SystemItem::decode(item);
                let decoded = decoded.map_err(|source| Refusal::SystemItem { index, source })?;
                if let Some(decoded) = decoded {
                    system.push((decoded, Hash::digest(&[item])));
                    continue;
                }
            }
            let tx = known(item).map_or_else(|| RawTransaction::new(item.clone()).verify(), Ok);
            transactions.push(tx.map_err(|source| Refusal::Item { index, source })?);
        }
        Ok(Self {
            preamble,
            preamble_hash: Hash::digest(&[first]),
            system,
            transactions,
        })
    }

    /// The SHA-256 digest of every item, which `data_hash` commits to.
    #[must_use]
    pub fn item_hashes(&self) -> Vec<Hash> {
        let system = self.system.iter().map(|(_, hash)| *hash);
        let transactions = self.transactions.iter().map(SignedTransaction::hash);
        std::iter::once(self.preamble_hash)
            .chain(system)
            .chain(transactions)
            .collect()
    }

    /// What stands between preamble and transactions, in order.
    pub fn system_items(&self) -> impl Iterator<Item = &SystemItem> {
        self.system.iter().map(|(item, _)| item)
    }

    /// The transactions, in order.
    #[must_use]
    pub fn transactions(&self) -> &[SignedTransaction] {
        &self.transactions
    }
}

/// Why a transaction cannot be the block's next.
enum Excluded {
    Rejected(Rejection),
    Overfull,
    Recoveries,
    Store(StoreError),
}

impl From<StoreError> for Excluded {
    fn from(fault: StoreError) -> Self {
        Self::Store(fault)
    }
}

impl From<Rejection> for Excluded {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<ExecuteError> for Excluded {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Rejected(rejection) => Self::Rejected(rejection),
            ExecuteError::Store(fault) => Self::Store(fault),
        }
    }
}

/// Executes a block, transaction by transaction: the one path that all of us take.
struct BlockExecutor<'a, S> {
    state: &'a S,
    ctx: BlockContext,
    last: LastHeader,
    delta: StateDelta<'a, S>,
    prices: Prices,
    /// The account that the block earns for.
    payout: Address,
    /// The set before any transaction of this block, once one is about it.
    validators: Option<ValidatorSet>,
    slot: Slot,
    lists: Lists,
    income: Income,
    /// Bytes of all transactions.
    bytes: u64,
    /// Transactions of bundles that they may still seal or reveal.
    recoveries: u64,
    codes: Vec<(u32, String)>,
}

impl<'a, S: StateRead> BlockExecutor<'a, S> {
    fn open(state: &'a S, ctx: &BlockContext) -> Result<Self, StoreError> {
        let mut delta = StateDelta::new(state);
        let last = state.last_header()?;
        let proposer: Option<Validator> = state.read(&Key::Validator(ctx.proposer))?;
        upgrade(ctx.height, &mut delta)?;
        for address in &ctx.misbehaved {
            validators::punish(*address, ctx.height, &mut delta)?;
        }
        let lists = Lists::open(ctx.height, ctx.time, &last, &mut delta)?;
        let slot = Slot::open(ctx.height, &last, &mut delta)?;
        Ok(Self {
            state,
            ctx: ctx.clone(),
            last,
            prices: Prices::read(&delta)?,
            delta,
            // A key that has just left the set may still propose, and has no record any more.
            payout: proposer.map_or(ctx.proposer, |validator| validator.payout),
            validators: None,
            slot,
            lists,
            income: Income::default(),
            bytes: 0,
            recoveries: MAX_RECOVERIES,
            // Item 0 is the preamble.
            codes: vec![(0, String::new())],
        })
    }

    /// Applies the block's next system item. On an error nothing has changed.
    fn apply(&mut self, item: &SystemItem) -> Result<(), ItemError> {
        self.slot.apply(item, &mut self.lists, &mut self.delta)?;
        self.codes.push((0, String::new()));
        Ok(())
    }

    /// Between system items and transactions: bundles that were not released have lost their slot.
    fn settle(&mut self) -> Result<(), StoreError> {
        self.slot.settle(&mut self.delta)
    }

    /// Executes the block's next transaction. On `Excluded` nothing has changed.
    fn include(&mut self, tx: &SignedTransaction) -> Result<(), Excluded> {
        let left = self.recoveries.checked_sub(recoveries(tx));
        let unrecovered = left.ok_or(Excluded::Recoveries)?;
        let existed = match self.state.account(tx.signer())? {
            Some(_) => Existed::Yes,
            None => Existed::No,
        };
        if self.validators.is_none() && validators::are_changed_by(tx) {
            self.validators = Some(self.delta.validators()?);
        }
        let mut charged = StateDelta::new(&self.delta);
        let fee = charge(tx, self.ctx.height, existed, &self.prices, &mut charged)?;
        let ctx = TxContext {
            signer: tx.signer(),
            height: self.ctx.height,
            previous_time: self.last.time,
            prices: &self.prices,
            validators: self.validators.as_ref().unwrap_or(&NO_VALIDATORS),
        };
        let mut executed = StateDelta::new(&charged);
        let (code, submitted, effects) =
            match execute::actions(&ctx, &tx.body().actions, &mut executed) {
                Ok(items) if !self.lists.fit(&items) => return Err(Excluded::Overfull),
                Ok(items) => ((0, String::new()), items, executed.into_changes()),
                Err(ExecuteError::Rejected(rejection)) => {
                    let code = (rejection.code(), rejection.to_string());
                    (code, Vec::new(), Changes::new())
                }
                Err(ExecuteError::Store(fault)) => return Err(fault.into()),
            };
        let owners = if submitted.is_empty() {
            Vec::new()
        } else {
            self.lists.owner_shares(tx)
        };
        self.income.take(&fee, self.payout, &owners)?;
        charged.apply(effects);
        let changes = charged.into_changes();
        self.delta.apply(changes);
        self.lists.push(submitted);
        self.codes.push(code);
        self.recoveries = unrecovered;
        self.bytes = self.bytes.saturating_add(tx.as_bytes().len() as u64);
        Ok(())
    }

    fn close(mut self) -> Result<Execution, StoreError> {
        let (height, now) = (self.ctx.height, self.ctx.time.seconds);
        atomic::close(height, now, &self.lists, &mut self.delta)?;
        self.income.pay(&mut self.delta)?;
        // Of the parameters that this block may just have changed.
        let params = Prices::read(&self.delta)?.params;
        let base_fee = params.next_base_fee(self.prices.base_fee, self.bytes);
        if base_fee != self.prices.base_fee {
            self.delta.put(&Key::BaseFee, &base_fee)?;
        }
        let params = consensus::update(self.state, &self.delta)?;
        let rollups = self.lists.close(&mut self.delta)?;
        let leaves: Vec<_> = rollups.iter().map(|slice| slice.leaf.clone()).collect();
        let preamble = Preamble::new(&leaves);
        let changes = self.delta.into_changes();
        let outcome = Outcome {
            codes: self.codes,
            validators: validators::updates(self.state, &changes)?,
            changes,
            rollups,
            preamble,
            params,
        };
        Ok(Execution {
            time: self.ctx.time,
            last: self.last,
            outcome,
        })
    }
}

/// What a transaction that is not about validators sees of them.
static NO_VALIDATORS: ValidatorSet = ValidatorSet::new();

/// Puts the planned rules in force, if their height has come.
fn upgrade<S: StateRead>(height: Height, delta: &mut StateDelta<'_, S>) -> Result<(), StoreError> {
    let planned: Option<Upgrade> = delta.read(&Key::Upgrade)?;
    let Some(Upgrade { plan }) = planned.filter(|upgrade| upgrade.plan.height() <= height) else {
        return Ok(());
    };
    let mut chain = delta.chain()?;
    chain.app_version = plan.app_version();
    delta.put(&Key::Chain, &chain)?;
    delta.delete(&Key::Upgrade);
    Ok(())
}

fn order_key(tx: &SignedTransaction) -> OrderKey {
    let body = tx.body();
    OrderKey {
        signer: body.signer,
        nonce: body.nonce,
        tip_per_byte: body.tip_per_byte,
    }
}

/// Bytes of a block item as CometBFT counts them: with its protobuf field and length prefix.
fn item_cost(item: &Bytes) -> u64 {
    let len = item.len() as u64;
    let bits = u64::BITS.saturating_sub((len | 1).leading_zeros());
    let prefix = u64::from(bits.div_ceil(7));
    len.saturating_add(prefix).saturating_add(1)
}
