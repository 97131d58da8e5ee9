//! The first state of a chain.

use counterpoint_core::{
    genesis::{GenesisError, SequencerGenesis},
    primitive::{Height, Nonce},
    registry::RollupConfig,
    slot::HeaderTime,
};

use crate::state::{
    Account, Chain, Changes, Entries, Key, ReadRecords, RollupRecord, StateDelta, StateRead,
    StoreError,
};

/// Why a chain cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The genesis contradicts itself or the chain.
    #[error("invalid sequencer genesis")]
    Genesis(#[from] GenesisError),
    /// The first state cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The state that `genesis` describes.
///
/// # Errors
/// [`InitError`] says which part of the genesis is wrong.
pub fn init_chain(
    genesis: &SequencerGenesis,
    chain_id: &str,
    initial_height: Height,
    time: HeaderTime,
) -> Result<Changes, InitError> {
    genesis.check_start(initial_height, time.seconds)?;
    let mut delta = StateDelta::new(&Nothing);
    let supply = genesis.supply()?;
    let (burned, locked, rollups) = Default::default();
    let chain_id = chain_id.to_owned();
    let chain = Chain {
        chain_id,
        initial_height,
        supply,
        burned,
        locked,
        rollups,
    };
    delta.put(&Key::Chain, &chain)?;
    for account in &genesis.accounts {
        let (nonce, balance) = (Nonce::default(), account.balance);
        delta.put(&Key::Account(account.address), &Account { nonce, balance })?;
    }
    for rollup in &genesis.rollups {
        put_rollup(rollup.clone(), &mut delta)?;
    }
    Ok(delta.into_changes())
}

/// Writes a new rollup into the registry; its configuration was checked.
pub(crate) fn put_rollup<S: StateRead>(
    config: RollupConfig,
    delta: &mut StateDelta<'_, S>,
) -> Result<(), StoreError> {
    let mut chain = delta.chain()?;
    chain.rollups = chain.rollups.saturating_add(1);
    delta.put(&Key::Chain, &chain)?;
    delta.put(&Key::RollupName(&config.name), &config.rollup_id)?;
    delta.put(&Key::EvmChainId(config.evm_chain_id), &config.rollup_id)?;
    let openings = Key::Openings(config.slot_secs);
    if delta.get(&openings.encode())?.is_none() {
        delta.put(&openings, &0_u64)?;
    }
    let id = config.rollup_id;
    delta.put(
        &Key::Rollup(id),
        &RollupRecord {
            config,
            first_opening: None,
        },
    )
}

/// The state before there is one.
struct Nothing;

impl StateRead for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8]) -> Result<Entries, StoreError> {
        Ok(Vec::new())
    }
}
