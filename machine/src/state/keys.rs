use counterpoint_core::{
    primitive::{Address, RollupId},
    slot::SlotSecs,
};

/// Every key of the state: one prefix byte per table, integers big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// [`Account`](super::Account).
    Account(Address),
    /// [`RollupRecord`](super::RollupRecord).
    Rollup(RollupId),
    /// The [`RollupId`] that holds a name.
    RollupName(&'a str),
    /// The [`RollupId`] that holds an EVM chain id.
    EvmChainId(u64),
    /// `u64`: openings of a slot length so far.
    Openings(SlotSecs),
    /// [`Chain`](super::Chain).
    Chain,
    /// [`LastHeader`](super::LastHeader).
    LastHeader,
    /// [`DepositQueue`](super::DepositQueue).
    DepositQueue(RollupId),
    /// [`QueuedDeposit`](super::QueuedDeposit).
    Deposit(RollupId, u64),
}

/// Table of rollups, for listing them.
pub(crate) const ROLLUPS: u8 = 0x02;
/// Table of slot lengths, for counting their openings.
pub(crate) const OPENINGS: u8 = 0x05;

impl Key<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let concat = |table: u8, parts: &[&[u8]]| [&[table], parts.concat().as_slice()].concat();
        match self {
            Self::Account(address) => concat(0x01, &[address.as_bytes()]),
            Self::Rollup(id) => concat(ROLLUPS, &[id.as_bytes()]),
            Self::RollupName(name) => concat(0x03, &[name.as_bytes()]),
            Self::EvmChainId(id) => concat(0x04, &[&id.to_be_bytes()]),
            Self::Openings(slot_secs) => concat(OPENINGS, &[&[slot_secs.get()]]),
            Self::Chain => concat(0x06, &[]),
            Self::LastHeader => concat(0x07, &[]),
            Self::DepositQueue(id) => concat(0x08, &[id.as_bytes()]),
            Self::Deposit(id, index) => concat(0x09, &[id.as_bytes(), &index.to_be_bytes()]),
        }
    }
}
