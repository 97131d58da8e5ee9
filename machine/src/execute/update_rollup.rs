use counterpoint_core::{
    action::UpdateRollup,
    primitive::{Amount, Height},
    state::PendingConfig,
};

use super::{ExecuteError, TxContext, debit, owned_rollup};
use crate::{
    registry,
    rejection::Rejection,
    state::{AtomicRollup, Key, ReadRecords, StateDelta, StateRead},
};

/// Plans the rollup's next configuration and pays rent in advance.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &UpdateRollup,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let mut record = owned_rollup(action.rollup_id, ctx, delta)?;
    if action.chain_spec_hash != record.config.chain_spec_hash {
        return Err(Rejection::ChainSpec(action.rollup_id).into());
    }
    let atomic = delta.atomic_rollup(action.rollup_id)?;
    let epochs = atomic.epochs.saturating_add(1);
    let config = action.clone().apply_to(record.config.clone(), epochs);
    config.check().map_err(Rejection::RollupConfig)?;
    if config.attesters != record.config.attesters {
        let atomic = AtomicRollup { epochs, ..atomic };
        delta.put(&Key::AtomicRollup(action.rollup_id), &atomic)?;
    }
    let from = registry::after_notice(ctx.height);
    record.pending = (config != record.config).then_some(PendingConfig { from, config });
    if action.rent > Amount::ZERO {
        debit(ctx.signer, action.rent, delta)?;
        delta.burn(action.rent)?;
        let heights = ctx.prices.heights_of_rent(action.rent);
        let until = Height::new(record.paid_until.get().saturating_add(heights));
        registry::move_rent(&mut record, until, delta)?;
    }
    Ok(delta.put(&Key::Rollup(action.rollup_id), &record)?)
}
