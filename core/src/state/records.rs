use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    action::ScheduleUpgrade,
    authority::Authority,
    key::PublicKey,
    primitive::{Address, Amount, EvmAddress, Hash, Height, Nonce},
    registry::{RollupConfig, RollupStatus},
    slot::HeaderTime,
};

/// A sequencer account; one that never received anything does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Account {
    /// Transactions executed so far.
    pub nonce: Nonce,
    /// What it holds, in base units.
    pub balance: Amount,
}

/// A registered rollup.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RollupRecord {
    /// The configuration applied at its last opening.
    pub config: RollupConfig,
    /// The digest of `config`.
    pub config_hash: Hash,
    /// Openings of its slot length up to and including `first_height`, once that has come; block
    /// numbers count from there.
    pub first_opening: Option<u64>,
    /// What the configuration becomes.
    pub pending: Option<PendingConfig>,
    /// What its registration locked, for its owner.
    pub deposit: Amount,
    /// The height at which its rent has run out; the greatest one for rollups of the genesis.
    pub paid_until: Height,
}

impl RollupRecord {
    /// Whether its exit is announced.
    #[must_use]
    pub fn leaves(&self) -> bool {
        let pending = self.pending.as_ref().map(|pending| &pending.config);
        let mut configs = pending.into_iter().chain([&self.config]);
        configs.any(|config| config.status != RollupStatus::Active)
    }
}

/// A configuration that waits to be applied.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct PendingConfig {
    /// It applies at the first opening at or above this height.
    pub from: Height,
    /// The whole configuration.
    pub config: RollupConfig,
}

/// Deposits of one rollup: those from `emitted` to `queued` wait for an opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DepositQueue {
    /// How many have been in a list so far; the next one's index.
    pub emitted: u64,
    /// How many were made so far.
    pub queued: u64,
}

/// A deposit that waits for an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct QueuedDeposit {
    /// Who gets it back if the rollup leaves first.
    pub depositor: Address,
    /// Who is credited on the rollup.
    pub address: EvmAddress,
    /// How much.
    pub amount_gwei: u64,
}

/// A member of the validator set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Validator {
    /// Its consensus key.
    pub public_key: PublicKey,
    /// Its voting power, above 0.
    pub power: u64,
    /// The account that its blocks earn for.
    pub payout: Address,
}

/// A consensus key that signed two blocks of one height: it never has power again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Tombstone {
    /// The height that recorded the evidence.
    pub height: Height,
}

/// Who decides about the chain, if anybody does.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AuthorityRecord {
    /// Counts authorities, so that what members agreed on dies with theirs.
    pub epoch: u64,
    /// The accounts.
    pub authority: Authority,
}

/// A proposal that some members of the authority have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Approval {
    /// Those who have, in the order in which they did.
    pub members: Vec<Address>,
    /// The last height at which others can join them.
    pub valid_until: Height,
}

/// Other rules that are to come.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Upgrade {
    /// What was scheduled.
    pub plan: ScheduleUpgrade,
}

/// CometBFT's parameters as far as the chain changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ConsensusRecord {
    /// Greatest size of a block, in bytes.
    pub max_block_bytes: u64,
    /// The least that it can become: a transaction and all evidence must have room.
    pub min_block_bytes: u64,
    /// The first height whose votes carry an extension; 0 if there is none.
    pub vote_extensions_height: Height,
}

/// What atomic bundles need to know of a rollup; nothing stands there until something of it is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AtomicRollup {
    /// Sets of attesters that its owner has asked for so far.
    pub epochs: u64,
    /// Transactions sealed so far.
    pub seals: u64,
    /// Bundles that wait in its queue.
    pub queued: u32,
}

/// Who sent a transaction that somebody sealed, as far as the chain has found out: a signature is
/// recovered once, however often the transaction is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum SealedSender {
    /// It has been in no block.
    Unseen = 0,
    /// No rollup could execute it.
    Nobody = 1,
    /// This account of the rollup.
    Account(EvmAddress) = 2,
}

/// Facts about the chain as a whole. `supply` is always the sum of all balances, `burned` and
/// `locked`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Chain {
    /// CometBFT's identifier of it.
    pub chain_id: String,
    /// The height of the first block.
    pub initial_height: Height,
    /// The rules in force.
    pub app_version: u64,
    /// All value that exists or was burned.
    pub supply: Amount,
    /// Paid for bytes and rent.
    pub burned: Amount,
    /// In deposits and registrations.
    pub locked: Amount,
    /// Rollups that have not left.
    pub rollups: u32,
    /// Deposits that wait for an opening, of all rollups together.
    pub waiting_deposits: u32,
}

/// What the next block must know of the one before, since ABCI does not tell a proposer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LastHeader {
    /// Its hash; zero before the first block.
    pub hash: Hash,
    /// Its time; none before the first block.
    pub time: Option<HeaderTime>,
    /// The time of the one before it.
    pub previous_time: Option<HeaderTime>,
}
