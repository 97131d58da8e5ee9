use std::fmt;

use counterpoint_core::{
    atomic::LegTransactionError,
    fees::FeeParamsError,
    primitive::{Address, Amount, Hash, Height, Nonce, RollupId},
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

/// What is wrong with a revealed transaction of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegFault {
    /// There are more transactions or legs than were sealed, or fewer.
    #[error("another number was sealed")]
    Count,
    /// It is not the one that was sealed.
    #[error("another transaction was sealed")]
    Hash,
    /// No leg can hold it.
    #[error("{0}")]
    Transaction(LegTransactionError),
    /// It is for another EVM chain.
    #[error("it is for another chain id than the rollup's")]
    ChainId,
    /// Somebody else than its sender signed the auth.
    #[error("the auth is not by its sender")]
    Sender,
    /// It asks for more gas than one may, or the leg for more gas or bytes than the rollup's block has.
    #[error("the rollup's block has no room for it")]
    Room,
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
    /// No block has room for it.
    #[error("transaction has {length} bytes, a block has room for {limit}")]
    TooLong {
        /// Its bytes.
        length: u64,
        /// The room.
        limit: u64,
    },
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
    /// Somebody else owns the rollup.
    #[error("signer does not own rollup {0}")]
    NotOwner(RollupId),
    /// The rollup's exit is announced, and cannot be called off.
    #[error("rollup {0} is about to leave")]
    Exiting(RollupId),
    /// As many deposits wait as a rollup, or the chain, may have.
    #[error("too many deposits wait, the next would be for rollup {0}")]
    DepositsFull(RollupId),
    /// The signer is no member of the authority, or there is none.
    #[error("signer is not a member of the authority")]
    NotAuthority,
    /// Members agree on whole transactions, which must hold nothing else.
    #[error("actions of the authority and others must be in transactions of their own")]
    MixedAuthority,
    /// The signer has agreed already.
    #[error("signer has approved these actions already")]
    AlreadyApproved,
    /// The signer began too many proposals that are still open.
    #[error("signer began too many proposals that are still open")]
    TooManyProposals,
    /// The key signed two blocks of one height, and never has power again.
    #[error("validator {0} double-signed and stays out for ever")]
    Tombstoned(Address),
    /// There is no such validator.
    #[error("no validator {0}")]
    UnknownValidator(Address),
    /// Nobody would be left.
    #[error("the last validator cannot leave")]
    NoValidators,
    /// The set would be too large for CometBFT or for light clients.
    #[error("too many validators or too much power in total")]
    TooManyValidators,
    /// Light clients could not follow: only so much power may come or go per block.
    #[error("{moved} power would come or go in one block, at most a third, {limit}, may")]
    PowerMoves {
        /// How much would.
        moved: u64,
        /// How much may.
        limit: u64,
    },
    /// A fee parameter is out of bounds.
    #[error("invalid fee parameters: {0}")]
    FeeParams(FeeParamsError),
    /// The upgrade is too near for nodes to see it coming.
    #[error("upgrade height is too early: {0}")]
    UpgradeHeight(Mismatch<Height>),
    /// Versions follow one another.
    #[error("wrong app_version: {0}")]
    UpgradeVersion(Mismatch<u64>),
    /// Blocks of this size leave no room, or CometBFT does not take them.
    #[error("max_block_bytes is {bytes}, must lie in {least}..=104857600")]
    BlockBytes {
        /// What was asked for.
        bytes: u64,
        /// What a transaction and evidence need.
        least: u64,
    },
    /// The height is too near for votes to carry extensions, or too far.
    #[error("vote_extensions_height is not within reach: {0}")]
    VoteExtensions(Mismatch<Height>),
    /// The rollup would hold a place for too long before it starts.
    #[error("first_height is too far ahead: at most {}, found {}", .0.expected, .0.actual)]
    FirstHeightFar(Mismatch<Height>),
    /// Conductors cannot follow another chain specification yet.
    #[error("chain_spec_hash of rollup {0} cannot change in this version")]
    ChainSpec(RollupId),
    /// Once on, vote extensions stay on.
    #[error("vote extensions are on already")]
    VoteExtensionsOn,
    /// The bundle is for another sequencer chain.
    #[error("bundle is for another chain")]
    BundleChain,
    /// It could never run, or would wait for too long.
    #[error("bundle can run at {opening} at the earliest, and must end until {latest}")]
    BundleTime {
        /// The next second at which all its rollups open a block.
        opening: u64,
        /// The last second that it may end at.
        latest: u64,
    },
    /// The rollup has nobody who executes legs.
    #[error("rollup {0} has no attesters")]
    NoAttesters(RollupId),
    /// The same bundle was submitted before.
    #[error("bundle {0} was submitted before")]
    BundleKnown(Hash),
    /// Another bundle had the same session.
    #[error("the bundle's session was used before, choose another salt")]
    SessionTaken,
    /// The auth is no valid signature.
    #[error("leg {leg}, transaction {tx}: auth is no signature with a low s and v of 27 or 28")]
    Auth {
        /// Which leg.
        leg: usize,
        /// Which of its transactions.
        tx: usize,
    },
    /// Its sender sealed the transaction before.
    #[error("leg {leg}, transaction {tx}: it was sealed before")]
    SealTaken {
        /// Which leg.
        leg: usize,
        /// Which of its transactions.
        tx: usize,
    },
    /// As many bundles end then as a block has time for.
    #[error("too many bundles end at {0}, choose another valid_until")]
    BundlesFull(u64),
    /// There is no such bundle.
    #[error("no bundle {0}")]
    UnknownBundle(Hash),
    /// It is too far, or has ended.
    #[error("bundle {0} is not in a state that allows this")]
    BundleStatus(Hash),
    /// A revealed transaction cannot be a part of its leg.
    #[error("leg {leg}, transaction {tx}: {fault}")]
    Leg {
        /// Which leg.
        leg: usize,
        /// Which of its transactions.
        tx: usize,
        /// What is wrong with it.
        fault: LegFault,
    },
    /// As many bundles with tips as high wait for the rollup as may.
    #[error("the queue of rollup {0} is full of bundles with tips as high")]
    QueueFull(RollupId),
    /// Somebody else submitted it.
    #[error("signer did not submit bundle {0}")]
    NotSubmitter(Hash),
    /// The bundle would wait in queues for too long before it may run.
    #[error("bundle may be revealed from {from} on")]
    RevealEarly {
        /// Seconds since 1970.
        from: u64,
    },
    /// No block may have it.
    #[error("{count} transactions of bundles are sealed or revealed, at most {limit} may be")]
    Recoveries {
        /// How many it has.
        count: u64,
        /// How many a block may have.
        limit: u64,
    },
}

impl Rejection {
    /// Whether a transaction refused with this code may be acceptable some blocks later: what it
    /// lacks may be on its way.
    #[must_use]
    pub fn can_pass(code: u32) -> bool {
        matches!(
            code,
            4 | 6 | 7 | 8 | 16 | 18 | 19 | 24 | 28 | 37 | 48 | 53 | 54 | 55 | 57 | 60
        )
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
            Self::TooLong { .. } => 10,
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
            Self::NotOwner(_) => 26,
            Self::Exiting(_) => 27,
            Self::DepositsFull(_) => 28,
            Self::NotAuthority => 29,
            Self::MixedAuthority => 30,
            Self::AlreadyApproved => 31,
            Self::TooManyProposals => 32,
            Self::Tombstoned(_) => 33,
            Self::UnknownValidator(_) => 34,
            Self::NoValidators => 35,
            Self::TooManyValidators => 36,
            Self::PowerMoves { .. } => 37,
            Self::FeeParams(_) => 38,
            Self::UpgradeHeight(_) => 39,
            Self::UpgradeVersion(_) => 40,
            Self::BlockBytes { .. } => 41,
            Self::VoteExtensions(_) => 42,
            Self::VoteExtensionsOn => 43,
            Self::FirstHeightFar(_) => 44,
            Self::ChainSpec(_) => 45,
            Self::BundleChain => 46,
            Self::BundleTime { .. } => 47,
            Self::NoAttesters(_) => 48,
            Self::BundleKnown(_) => 49,
            Self::SessionTaken => 50,
            Self::Auth { .. } => 51,
            Self::SealTaken { .. } => 52,
            Self::BundlesFull(_) => 53,
            Self::UnknownBundle(_) => 54,
            Self::BundleStatus(_) => 55,
            Self::Leg { .. } => 56,
            Self::QueueFull(_) => 57,
            Self::NotSubmitter(_) => 58,
            Self::Recoveries { .. } => 59,
            Self::RevealEarly { .. } => 60,
        }
    }
}
