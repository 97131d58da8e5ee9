use std::fmt;

use counterpoint_core::{
    primitive::{Amount, Height, Nonce, RollupId},
    registry::RollupConfigError,
};

/// What was needed, and what there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch<T> {
    /// What was needed.
    pub expected: T,
    /// What there was.
    pub actual: T,
}

impl<T: fmt::Display> fmt::Display for Mismatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {}", self.expected, self.actual)
    }
}

/// Why a transaction is refused: the sender's fault, and the same verdict on every node.
///
/// Codes 2 to 15 keep a transaction out of every block; from 16 on it is in the block, has paid and
/// had no other effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Signed for another chain.
    #[error("wrong chain id: {0}")]
    ChainId(Mismatch<String>),
    /// The nonce is not the account's next one.
    #[error("wrong nonce: {0}")]
    Nonce(Mismatch<Nonce>),
    /// The signer has no account in the state before the block.
    #[error("account does not exist yet")]
    NoAccount,
    /// The last height at which it could be included has passed.
    #[error("expired after height {valid_until}, next height is {height}")]
    Expired {
        /// What the transaction says.
        valid_until: Height,
        /// The height it would be included at.
        height: Height,
    },
    /// The transaction would block its nonce for too long.
    #[error("valid_until {valid_until} is too far ahead, at most {limit}")]
    TooFarAhead {
        /// What the transaction says.
        valid_until: Height,
        /// The greatest value allowed now.
        limit: Height,
    },
    /// The fee is greater than the signer allows.
    #[error("max_fee is below the fee: {0}")]
    MaxFee(Mismatch<Amount>),
    /// The signer cannot pay the fee.
    #[error("insufficient balance for the fee: {0}")]
    Fee(Mismatch<Amount>),
    /// Its data alone is more than a block may hold of the rollup.
    #[error("data for rollup {0} passes the rollup's share of a block")]
    Share(RollupId),
    /// The signer cannot pay for an action.
    #[error("insufficient balance: {0}")]
    Balance(Mismatch<Amount>),
    /// A balance would be greater than an [`Amount`] can count.
    #[error("balance overflows")]
    Overflow,
    /// Nobody registered this rollup.
    #[error("no rollup {0} is registered")]
    UnknownRollup(RollupId),
    /// The rollup has not started, or has left.
    #[error("rollup {0} takes no items at this height")]
    InactiveRollup(RollupId),
    /// A field of the rollup's configuration is out of bounds.
    #[error("invalid rollup configuration: {0}")]
    RollupConfig(RollupConfigError),
    /// The name was registered before.
    #[error("rollup name {0} is taken")]
    NameTaken(String),
    /// The EVM chain id was registered before.
    #[error("evm chain id {0} is taken")]
    EvmChainIdTaken(u64),
    /// The first height is too near for everybody to know of it.
    #[error("first_height is too early: {0}")]
    FirstHeight(Mismatch<Height>),
    /// The rollup's first block would not be later than its genesis block.
    #[error("genesis_time {0} does not lie before the current slot")]
    GenesisTime(u64),
    /// As many rollups as the chain takes are registered.
    #[error("too many rollups are active")]
    TooManyRollups,
}

impl Rejection {
    /// Whether a transaction refused with this code may be acceptable some blocks later: what it
    /// lacks may be on its way.
    #[must_use]
    pub fn can_pass(code: u32) -> bool {
        matches!(code, 4 | 6 | 8 | 16 | 18 | 19 | 23 | 24)
    }

    /// The code on the wire: stable, never reused. 1 is a transaction that does not decode.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::ChainId(_) => 2,
            Self::Nonce(_) => 3,
            Self::NoAccount => 4,
            Self::Expired { .. } => 5,
            Self::TooFarAhead { .. } => 6,
            Self::MaxFee(_) => 7,
            Self::Fee(_) => 8,
            Self::Share(_) => 9,
            Self::Balance(_) => 16,
            Self::Overflow => 17,
            Self::UnknownRollup(_) => 18,
            Self::InactiveRollup(_) => 19,
            Self::RollupConfig(_) => 20,
            Self::NameTaken(_) => 21,
            Self::EvmChainIdTaken(_) => 22,
            Self::FirstHeight(_) => 23,
            Self::GenesisTime(_) => 24,
            Self::TooManyRollups => 25,
        }
    }
}
