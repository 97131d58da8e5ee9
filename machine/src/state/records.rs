use borsh::{BorshDeserialize, BorshSerialize};
use counterpoint_core::{
    primitive::{Amount, EvmAddress, Hash, Height, Nonce},
    registry::RollupConfig,
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
    /// Openings of its slot length up to and including `first_height`, once that has come; block
    /// numbers count from there.
    pub first_opening: Option<u64>,
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
    /// Who is credited on the rollup.
    pub address: EvmAddress,
    /// How much.
    pub amount_gwei: u64,
}

/// Facts about the chain as a whole. `supply` is always the sum of all balances, `burned` and
/// `locked`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Chain {
    pub(crate) chain_id: String,
    pub(crate) initial_height: Height,
    pub(crate) supply: Amount,
    pub(crate) burned: Amount,
    /// In deposits and registrations.
    pub(crate) locked: Amount,
    pub(crate) rollups: u32,
}

/// What the next block must know of the one before, since ABCI does not tell a proposer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct LastHeader {
    /// Its hash; zero before the first block.
    pub(crate) hash: Hash,
    /// Its time; none before the first block.
    pub(crate) time: Option<HeaderTime>,
    /// The time of the one before it.
    pub(crate) previous_time: Option<HeaderTime>,
}
