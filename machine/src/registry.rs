//! The registry of rollups: who is in it, what changes when, and how one leaves.
//!
//! A change takes effect after a notice as long as any transaction may be valid. So whoever signed
//! for a rollup before its owner's change was known is still served under the old terms.

use counterpoint_core::{
    primitive::{Amount, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    state::{PendingConfig, Table},
};

use crate::{
    check::MAX_VALID_HEIGHTS,
    state::{
        AtomicRollup, DepositQueue, Key, QueuedDeposit, ReadRecords, RollupRecord, StateDelta,
        StateRead, StoreError,
    },
};

/// Heights of rent that a registration pays in advance.
pub(crate) const FIRST_RENT_HEIGHTS: u64 = 10_000_000;

/// Heights after which an announced exit is a part of the configuration.
const VISIBLE_HEIGHTS: u64 = 2;

/// The first height at which what is asked for at `height` may take effect.
pub(crate) fn after_notice(height: Height) -> Height {
    let notice = MAX_VALID_HEIGHTS.saturating_add(1);
    Height::new(height.get().saturating_add(notice))
}

/// Writes a new rollup into the registry; its configuration was checked.
pub(crate) fn put<S: StateRead>(
    config: RollupConfig,
    deposit: Amount,
    paid_until: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let mut chain = delta.chain()?;
    chain.rollups = chain.rollups.saturating_add(1);
    delta.put(&Key::Chain, &chain)?;
    let id = config.rollup_id;
    if let Some(set) = &config.attesters.0 {
        let epochs = set.epoch;
        let atomic = AtomicRollup {
            epochs,
            ..AtomicRollup::default()
        };
        delta.put(&Key::AtomicRollup(id), &atomic)?;
    }
    delta.put(&Key::RollupName(&config.name), &id)?;
    delta.put(&Key::EvmChainId(config.evm_chain_id), &id)?;
    let openings = Key::Openings(config.slot_secs);
    if delta.get(&openings.encode())?.is_none() {
        delta.put(&openings, &0_u64)?;
    }
    let mut record = RollupRecord {
        config_hash: config.hash(),
        config,
        first_opening: None,
        pending: None,
        deposit,
        paid_until: Height::new(u64::MAX),
    };
    move_rent(&mut record, paid_until, delta)?;
    delta.put(&Key::Rollup(id), &record)
}

/// Notes that the rent runs out at `until`; the caller writes the record down.
pub(crate) fn move_rent<S: StateRead>(
    record: &mut RollupRecord,
    until: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let id = record.config.rollup_id;
    delta.delete(&Key::RentDue(record.paid_until, id));
    record.paid_until = until;
    if until != Height::new(u64::MAX) {
        delta.put(&Key::RentDue(until, id), &())?;
    }
    Ok(())
}

/// Announces that a rollup leaves, in place of any other change that was planned.
pub(crate) fn announce_exit<S: StateRead>(
    mut record: RollupRecord,
    height: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let from = Height::new(height.get().saturating_add(VISIBLE_HEIGHTS));
    let config = RollupConfig {
        status: RollupStatus::Exiting(after_notice(height)),
        ..record.config.clone()
    };
    record.pending = Some(PendingConfig { from, config });
    delta.put(&Key::Rollup(record.config.rollup_id), &record)
}

/// Announces the exit of every rollup whose rent runs out at `height`.
pub(crate) fn collect_rent<S: StateRead>(
    height: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let prefix = [&[Table::RentDue as u8][..], &height.get().to_be_bytes()].concat();
    for (key, _) in delta.scan(&prefix)? {
        let id = key.get(prefix.len()..).and_then(|id| id.try_into().ok());
        let broken = || StoreError::corrupt(format!("rent under key {key:02x?}"));
        let id = RollupId::new(id.ok_or_else(broken)?);
        delta.delete_encoded(key);
        let missing = || StoreError::corrupt(format!("rent of rollup {id}, which is not there"));
        let record = delta.rollup(id)?.ok_or_else(missing)?;
        if !record.leaves() {
            announce_exit(record, height, delta)?;
        }
    }
    Ok(())
}

/// Lets a rollup go: what still waits for it goes back, and its name stays taken.
pub(crate) fn leave<S: StateRead>(
    record: &RollupRecord,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let id = record.config.rollup_id;
    let queue = delta.deposit_queue(id)?;
    for index in queue.emitted..queue.queued {
        let key = Key::Deposit(id, index);
        let missing = || StoreError::corrupt(format!("deposit {index} of rollup {id} is missing"));
        let deposit: QueuedDeposit = delta.read(&key)?.ok_or_else(missing)?;
        delta.unlock(deposit.depositor, Amount::new(deposit.amount_gwei.into()))?;
        delta.delete(&key);
    }
    if queue.emitted < queue.queued {
        delta.release_deposits(queue.queued.saturating_sub(queue.emitted))?;
        let queued = queue.emitted;
        delta.put(&Key::DepositQueue(id), &DepositQueue { queued, ..queue })?;
    }
    if record.deposit > Amount::ZERO {
        delta.unlock(record.config.owner, record.deposit)?;
    }
    delta.delete(&Key::RentDue(record.paid_until, id));
    delta.delete(&Key::Rollup(id));
    delta.put(&Key::FormerRollup(id), record)?;
    let mut chain = delta.chain()?;
    chain.rollups = chain.rollups.saturating_sub(1);
    delta.put(&Key::Chain, &chain)
}
