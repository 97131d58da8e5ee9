use counterpoint_core::{
    action::RegisterRollup, primitive::Height, registry::MAX_ACTIVE_ROLLUPS, slot::Slot,
};

use super::{ExecuteError, TxContext, debit, lock};
use crate::{
    registry,
    rejection::{Mismatch, Rejection},
    state::{Key, ReadRecords, StateDelta, StateRead},
};

/// Heights between a registration and the rollup's first: everybody must know of it by then.
const NOTICE_HEIGHTS: u64 = 2;

/// Most heights between a registration and the rollup's first: until then it holds a place, and can
/// neither change nor leave.
const MAX_AHEAD_HEIGHTS: u64 = 1_000_000;

/// Registers a rollup that the signer owns, locks its deposit and burns its first rent.
pub(super) fn execute<S: StateRead>(
    ctx: &TxContext<'_>,
    action: &RegisterRollup,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), ExecuteError> {
    let config = action.clone().into_config(ctx.signer);
    config.check().map_err(Rejection::RollupConfig)?;
    let chain = delta.chain()?;
    if chain.rollups >= MAX_ACTIVE_ROLLUPS {
        return Err(Rejection::TooManyRollups.into());
    }
    if delta
        .get(&Key::RollupName(&config.name).encode())?
        .is_some()
    {
        return Err(Rejection::NameTaken(config.name).into());
    }
    if delta
        .get(&Key::EvmChainId(config.evm_chain_id).encode())?
        .is_some()
    {
        return Err(Rejection::EvmChainIdTaken(config.evm_chain_id).into());
    }
    let expected = Height::new(ctx.height.get().saturating_add(NOTICE_HEIGHTS));
    if config.first_height < expected {
        let actual = config.first_height;
        return Err(Rejection::FirstHeight(Mismatch { expected, actual }).into());
    }
    let actual = config.first_height;
    let latest = Height::new(ctx.height.get().saturating_add(MAX_AHEAD_HEIGHTS));
    if actual > latest {
        let expected = latest;
        return Err(Rejection::FirstHeightFar(Mismatch { expected, actual }).into());
    }
    if Slot::of(ctx.previous_time, config.slot_secs).get() <= config.genesis_time {
        return Err(Rejection::GenesisTime(config.genesis_time).into());
    }
    let params = &ctx.prices.params;
    lock(ctx.signer, params.registration_deposit, delta)?;
    let rent = ctx.prices.first_rent();
    debit(ctx.signer, rent, delta)?;
    delta.burn(rent)?;
    let heights = ctx.prices.heights_of_rent(rent);
    let paid_until = Height::new(config.first_height.get().saturating_add(heights));
    Ok(registry::put(
        config,
        params.registration_deposit,
        paid_until,
        delta,
    )?)
}
