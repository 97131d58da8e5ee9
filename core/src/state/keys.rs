use crate::{
    key::PublicKey,
    primitive::{Address, EvmAddress, Hash, Height, RollupId},
    slot::SlotSecs,
};

/// Every key of the state: one prefix byte per table, integers big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// [`Account`](super::Account).
    Account(Address),
    /// [`RollupRecord`](super::RollupRecord) of a rollup that has not left.
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
    /// [`RollupRecord`](super::RollupRecord) of a rollup that has left, as it was then.
    FormerRollup(RollupId),
    /// Nothing: at this height the rent of this rollup has run out.
    RentDue(Height, RollupId),
    /// [`Validator`](super::Validator), by the address of its consensus key.
    Validator(Address),
    /// [`Tombstone`](super::Tombstone), by the address of a consensus key.
    Tombstone(Address),
    /// [`AuthorityRecord`](super::AuthorityRecord).
    Authority,
    /// [`Approval`](super::Approval) of a [proposal](crate::authority::Authority::proposal).
    Approval(Hash),
    /// [`FeeParams`](crate::fees::FeeParams).
    FeeParams,
    /// `u64`: the base fee of the next block.
    BaseFee,
    /// [`Upgrade`](super::Upgrade).
    Upgrade,
    /// [`ConsensusRecord`](super::ConsensusRecord).
    Consensus,
    /// [`AtomicRollup`](super::AtomicRollup): what atomic bundles need to know of a rollup.
    AtomicRollup(RollupId),
    /// The identifier of the bundle that sealed a transaction of this sender.
    Seal(RollupId, Hash, EvmAddress),
    /// [`SealedSender`](super::SealedSender): somebody sealed a transaction with this hash.
    SealedHash(RollupId, Hash),
    /// The identifier of the bundle that has this session.
    Session(Hash),
    /// [`BundleRecord`](super::BundleRecord).
    Bundle(Hash),
    /// [`AtomicBundle`](crate::atomic::AtomicBundle), while it lives.
    BundleBody(Hash),
    /// The raw transactions of each leg, while the bundle lives.
    BundleLegs(Hash),
    /// [`QueuedBundle`](super::QueuedBundle).
    QueuedBundle(RollupId, Hash),
    /// The identifiers of the bundles that the next height may release.
    Scheduled,
    /// The identifiers of the bundles whose last second is this one.
    Ending(u64),
    /// [`BundleEnds`](super::BundleEnds).
    BundleEnds,
    /// The identifiers of the bundles that this height released.
    ReleasedAt(Height),
    /// [`Suspension`](super::Suspension).
    Suspension(RollupId, PublicKey),
}

/// Prefixes of what is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Accounts.
    Accounts = 0x01,
    /// Rollups that have not left.
    Rollups = 0x02,
    /// Slot lengths in use.
    Openings = 0x05,
    /// Rents, by the height at which they run out.
    RentDue = 0x0b,
    /// Validators.
    Validators = 0x0c,
    /// Proposals on which not enough members of the authority have agreed.
    Approvals = 0x0f,
    /// Hashes that somebody sealed, by rollup.
    SealedHashes = 0x16,
    /// Bundles that wait, by rollup.
    QueuedBundles = 0x1b,
}

impl Key<'_> {
    /// The bytes under which the record stands.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let concat = |table: u8, parts: &[&[u8]]| [&[table], parts.concat().as_slice()].concat();
        match self {
            Self::Account(address) => concat(Table::Accounts as u8, &[address.as_bytes()]),
            Self::Rollup(id) => concat(Table::Rollups as u8, &[id.as_bytes()]),
            Self::RollupName(name) => concat(0x03, &[name.as_bytes()]),
            Self::EvmChainId(id) => concat(0x04, &[&id.to_be_bytes()]),
            Self::Openings(slot_secs) => concat(Table::Openings as u8, &[&[slot_secs.get()]]),
            Self::Chain => concat(0x06, &[]),
            Self::LastHeader => concat(0x07, &[]),
            Self::DepositQueue(id) => concat(0x08, &[id.as_bytes()]),
            Self::Deposit(id, index) => concat(0x09, &[id.as_bytes(), &index.to_be_bytes()]),
            Self::FormerRollup(id) => concat(0x0a, &[id.as_bytes()]),
            Self::RentDue(height, id) => {
                let height = height.get().to_be_bytes();
                concat(Table::RentDue as u8, &[&height, id.as_bytes()])
            }
            Self::Validator(address) => concat(Table::Validators as u8, &[address.as_bytes()]),
            Self::Tombstone(address) => concat(0x0d, &[address.as_bytes()]),
            Self::Authority => concat(0x0e, &[]),
            Self::Approval(proposal) => concat(Table::Approvals as u8, &[proposal.as_bytes()]),
            Self::FeeParams => concat(0x10, &[]),
            Self::BaseFee => concat(0x11, &[]),
            Self::Upgrade => concat(0x12, &[]),
            Self::Consensus => concat(0x13, &[]),
            Self::AtomicRollup(id) => concat(0x14, &[id.as_bytes()]),
            Self::Seal(id, tx_hash, sender) => {
                let parts: [&[u8]; 3] = [id.as_bytes(), tx_hash.as_bytes(), sender.as_bytes()];
                concat(0x15, &parts)
            }
            Self::SealedHash(id, tx_hash) => {
                let parts: [&[u8]; 2] = [id.as_bytes(), tx_hash.as_bytes()];
                concat(Table::SealedHashes as u8, &parts)
            }
            Self::Session(session) => concat(0x17, &[session.as_bytes()]),
            Self::Bundle(bundle) => concat(0x18, &[bundle.as_bytes()]),
            Self::BundleBody(bundle) => concat(0x19, &[bundle.as_bytes()]),
            Self::BundleLegs(bundle) => concat(0x1a, &[bundle.as_bytes()]),
            Self::QueuedBundle(id, bundle) => {
                let table = Table::QueuedBundles as u8;
                concat(table, &[id.as_bytes(), bundle.as_bytes()])
            }
            Self::Scheduled => concat(0x1c, &[]),
            Self::Ending(second) => concat(0x1d, &[&second.to_be_bytes()]),
            Self::BundleEnds => concat(0x1e, &[]),
            Self::ReleasedAt(height) => concat(0x1f, &[&height.get().to_be_bytes()]),
            Self::Suspension(id, key) => concat(0x20, &[id.as_bytes(), key.as_bytes()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_frozen() {
        let (address, id) = (Address::new([7; 20]), RollupId::new([8; 32]));
        let keys = [
            Key::Account(address),
            Key::Rollup(id),
            Key::RollupName("alpha"),
            Key::EvmChainId(1_001),
            Key::Openings(SlotSecs::ONE),
            Key::Chain,
            Key::LastHeader,
            Key::DepositQueue(id),
            Key::Deposit(id, 258),
            Key::FormerRollup(id),
            Key::RentDue(Height::new(258), id),
            Key::Validator(address),
            Key::Tombstone(address),
            Key::Authority,
            Key::Approval(Hash::new([9; 32])),
            Key::FeeParams,
            Key::BaseFee,
            Key::Upgrade,
            Key::Consensus,
            Key::AtomicRollup(id),
            Key::Seal(id, Hash::new([9; 32]), EvmAddress::new([10; 20])),
            Key::SealedHash(id, Hash::new([9; 32])),
            Key::Session(Hash::new([9; 32])),
            Key::Bundle(Hash::new([9; 32])),
            Key::BundleBody(Hash::new([9; 32])),
            Key::BundleLegs(Hash::new([9; 32])),
            Key::QueuedBundle(id, Hash::new([9; 32])),
            Key::Scheduled,
            Key::Ending(258),
            Key::BundleEnds,
            Key::ReleasedAt(Height::new(258)),
            Key::Suspension(id, PublicKey::new([11; 32])),
        ];
        let lines = keys.map(|key| format!("{} {key:?}", hex::encode(key.encode())));
        insta::assert_snapshot!(lines.join("\n"));
    }
}
