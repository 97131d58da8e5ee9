use counterpoint_core::{
    action::SubmitBundle,
    atomic::{AtomicBundle, LegSeal, MAX_SPAN_SECS, next_opening},
    state::{BundleRecord, BundleStatus, LegRecord},
};

use super::{ExecuteError, TxContext, active_rollup, lock};
use crate::{
    atomic::{note_end, seal},
    rejection::Rejection,
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Seals the bundle's transactions, and locks what all its attempts would cost.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &SubmitBundle,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let bundle = &action.bundle;
    let (id, terms) = (bundle.id(), bundle.terms());
    if terms.chain_id != delta.chain()?.chain_id {
        return Err(Rejection::BundleChain.into());
    }
    let legs = legs(ctx, bundle, delta)?;
    if delta.read::<BundleRecord>(&Key::Bundle(id))?.is_some() {
        return Err(Rejection::BundleKnown(id).into());
    }
    let session = Key::Session(bundle.session_id());
    if delta.get(&session.encode())?.is_some() {
        return Err(Rejection::SessionTaken.into());
    }
    delta.put(&session, &id)?;
    seal_all(bundle, delta)?;
    lock(ctx.signer, bundle.tips(), delta)?;
    let now = ctx.previous_time.map_or(0, |time| time.seconds);
    let noted = note_end(id, terms.valid_until, now, delta)?;
    noted.ok_or(Rejection::BundlesFull(terms.valid_until))?;
    let record = BundleRecord {
        submitter: ctx.signer,
        height: ctx.height,
        valid_from: terms.valid_from,
        valid_until: terms.valid_until,
        tip_per_attempt: terms.tip_per_attempt,
        attempts_left: terms.max_attempts,
        answered: false,
        legs,
        status: BundleStatus::Sealed,
        release: None,
    };
    delta.put(&Key::Bundle(id), &record)?;
    Ok(delta.put(&Key::BundleBody(id), bundle)?)
}

/// The legs, if every rollup can take one before the bundle ends.
fn legs<S: StateRead>(
    ctx: &TxContext<'_>,
    bundle: &AtomicBundle,
    delta: &StateDelta<'_, S>,
) -> Result<Vec<LegRecord>, ExecuteError> {
    let terms = bundle.terms();
    let (mut legs, mut slots) = (Vec::new(), Vec::new());
    for LegSeal { rollup_id, txs } in &terms.legs {
        let record = active_rollup(*rollup_id, ctx.height, delta)?;
        if record.leaves() {
            return Err(Rejection::Exiting(*rollup_id).into());
        }
        if record.config.attesters.is_empty() {
            return Err(Rejection::NoAttesters(*rollup_id).into());
        }
        slots.push(record.config.slot_secs.get());
        legs.push(LegRecord {
            rollup_id: *rollup_id,
            // A leg has at most 8.
            txs: u8::try_from(txs.len()).unwrap_or(u8::MAX),
            bytes: 0,
            gas: 0,
            max_gas: 0,
        });
    }
    let now = ctx.previous_time.map_or(0, |time| time.seconds);
    let earliest = terms.valid_from.max(now.saturating_add(1));
    let opening = next_opening(earliest, slots.into_iter());
    let latest = now.saturating_add(MAX_SPAN_SECS);
    if !(opening..=latest).contains(&terms.valid_until) {
        return Err(Rejection::BundleTime { opening, latest }.into());
    }
    Ok(legs)
}

fn seal_all<S: StateRead>(
    bundle: &AtomicBundle,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    for (leg, LegSeal { rollup_id, txs }) in bundle.terms().legs.iter().enumerate() {
        for (tx, sealed) in txs.iter().enumerate() {
            let sender = bundle.signer(&sealed.tx_hash, &sealed.auth);
            let sender = sender.ok_or(Rejection::Auth { leg, tx })?;
            let free = seal(bundle.id(), *rollup_id, sealed.tx_hash, sender, delta)?;
            free.ok_or(Rejection::SealTaken { leg, tx })?;
        }
    }
    Ok(())
}
