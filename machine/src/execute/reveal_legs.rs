use counterpoint_core::{
    action::RevealLegs,
    atomic::{AtomicBundle, LegTransaction, keccak},
    primitive::{EvmAddress, Hash, RollupId},
    state::{BundleRecord, BundleStatus, LegRecord},
};

use bytes::Bytes;

use super::{ExecuteError, TxContext, active_rollup};
use crate::{
    atomic::{enqueue, fits},
    rejection::{LegFault, Rejection},
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError},
};

/// Longest time before its first second that a bundle waits in queues. It pays for slots, not for its
/// place there, and would keep others out for nothing.
const MAX_WAIT_SECS: u64 = 60;

/// Takes the raw transactions of a sealed bundle, which waits for a slot from then on.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &RevealLegs,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let id = action.bundle_id();
    let record: Option<BundleRecord> = delta.read(&Key::Bundle(id))?;
    let mut record = record.ok_or(Rejection::UnknownBundle(id))?;
    if record.status != BundleStatus::Sealed {
        return Err(Rejection::BundleStatus(id).into());
    }
    let now = ctx.previous_time.map_or(0, |time| time.seconds);
    let from = record.valid_from.saturating_sub(MAX_WAIT_SECS);
    if now < from {
        return Err(Rejection::RevealEarly { from }.into());
    }
    let missing = || StoreError::corrupt(format!("the terms of bundle {id} are missing"));
    let bundle: AtomicBundle = delta.read(&Key::BundleBody(id))?.ok_or_else(missing)?;
    if action.legs().len() != record.legs.len() {
        let (leg, tx) = (action.legs().len().min(record.legs.len()), 0);
        let fault = LegFault::Count;
        return Err(Rejection::Leg { leg, tx, fault }.into());
    }
    let sealed = bundle.terms().legs.iter().zip(action.legs());
    for (leg, ((seal, raws), leg_record)) in sealed.zip(&mut record.legs).enumerate() {
        let hashes = seal.txs.iter().map(|tx| tx.tx_hash).collect();
        *leg_record = read_leg(ctx, id, leg, *leg_record, hashes, raws, delta)?;
    }
    record.status = BundleStatus::Queued;
    delta.put(&Key::Bundle(id), &record)?;
    delta.put(&Key::BundleLegs(id), &action.legs())?;
    let queued = enqueue(id, &record, delta)?;
    Ok(queued.map_err(Rejection::QueueFull)?)
}

/// Checks every transaction of a leg against its seal and its rollup.
fn read_leg<S: StateRead>(
    ctx: &TxContext<'_>,
    id: Hash,
    leg: usize,
    record: LegRecord,
    hashes: Vec<Hash>,
    raws: &[Bytes],
    delta: &StateDelta<'_, S>,
) -> Result<LegRecord, ExecuteError> {
    let rollup_id = record.rollup_id;
    let config = active_rollup(rollup_id, ctx.height, delta)?.config;
    let refuse = |tx: usize, fault| Rejection::Leg { leg, tx, fault };
    if hashes.len() != raws.len() {
        return Err(refuse(hashes.len().min(raws.len()), LegFault::Count).into());
    }
    let mut read = LegRecord {
        bytes: 0,
        gas: 0,
        max_gas: 0,
        ..record
    };
    for (tx, (raw, hash)) in raws.iter().zip(hashes).enumerate() {
        if keccak(raw) != hash {
            return Err(refuse(tx, LegFault::Hash).into());
        }
        let plain = LegTransaction::read(raw);
        let plain = plain.map_err(|error| refuse(tx, LegFault::Transaction(error)))?;
        if plain.chain_id != config.evm_chain_id {
            return Err(refuse(tx, LegFault::ChainId).into());
        }
        if !is_sealed_by(id, rollup_id, hash, plain.sender, delta)? {
            return Err(refuse(tx, LegFault::Sender).into());
        }
        let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        read.bytes = read.bytes.saturating_add(length);
        read.gas = read.gas.saturating_add(plain.gas_limit);
        read.max_gas = read.max_gas.max(plain.gas_limit);
        if !fits(&read, &config) {
            return Err(refuse(tx, LegFault::Room).into());
        }
    }
    Ok(read)
}

/// Whether this bundle sealed the transaction with an auth by its own sender.
fn is_sealed_by<S: StateRead>(
    id: Hash,
    rollup_id: RollupId,
    tx_hash: Hash,
    sender: EvmAddress,
    delta: &StateDelta<'_, S>,
) -> Result<bool, StoreError> {
    let sealed: Option<Hash> = delta.read(&Key::Seal(rollup_id, tx_hash, sender))?;
    Ok(sealed == Some(id))
}
