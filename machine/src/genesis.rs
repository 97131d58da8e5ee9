//! The first state of a chain.

use counterpoint_core::{
    action::{ValidatorUpdate, ValidatorUpdateError},
    fees::FeeParams,
    genesis::{GenesisError, SequencerGenesis},
    key::PublicKey,
    primitive::{Amount, Height, Nonce},
    slot::HeaderTime,
    state::{AuthorityRecord, Validator},
};

#[cfg(any(test, feature = "test-utils"))]
use counterpoint_core::key::SecretKey;

use crate::{
    consensus::min_block_bytes,
    registry,
    state::{
        Account, Chain, Changes, ConsensusRecord, Entries, Key, StateDelta, StateRead, StoreError,
    },
    version::AppVersion,
};

/// Why a chain cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The genesis contradicts itself or the chain.
    #[error("invalid sequencer genesis")]
    Genesis(#[from] GenesisError),
    /// There is nobody to decide a block.
    #[error("the genesis has no validators")]
    NoValidators,
    /// A validator that no set can have.
    #[error("validator of the genesis")]
    Validator(#[source] ValidatorUpdateError),
    /// A transaction or evidence would not fit into any block.
    #[error("consensus_params.block.max_bytes must be at least {0}")]
    BlockBytes(u64),
    /// The first state cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What CometBFT says of a chain that begins.
#[derive(Clone, Debug)]
pub struct ChainStart {
    /// Its identifier.
    pub chain_id: String,
    /// The height of its first block.
    pub initial_height: Height,
    /// The time of the genesis.
    pub time: HeaderTime,
    /// Consensus keys and their power.
    pub validators: Vec<(PublicKey, u64)>,
    /// Greatest size of a block, in bytes.
    pub max_block_bytes: u64,
    /// Most bytes of a block that are evidence.
    pub max_evidence_bytes: u64,
    /// The first height whose votes carry an extension; 0 if there is none.
    pub vote_extensions_height: Height,
    /// The rules that the chain begins with.
    pub version: AppVersion,
}

#[cfg(any(test, feature = "test-utils"))]
impl ChainStart {
    /// A chain named `chain_id` that begins at height 1, with validators of the given powers whose
    /// keys have the seeds 101, 102 and so on.
    #[must_use]
    pub fn example(chain_id: &str, time: HeaderTime, powers: &[u64]) -> Self {
        let keys = (101..).map(|seed| SecretKey::from_seed([seed; 32]).public_key());
        Self {
            chain_id: chain_id.into(),
            initial_height: Height::new(1),
            time,
            validators: keys.zip(powers.iter().copied()).collect(),
            max_block_bytes: 4_000_000,
            max_evidence_bytes: 1_048_576,
            vote_extensions_height: Height::new(0),
            version: AppVersion::One,
        }
    }
}

/// The state that `genesis` describes.
///
/// # Errors
/// [`InitError`] says which part of the genesis is wrong.
pub fn init_chain(genesis: &SequencerGenesis, start: &ChainStart) -> Result<Changes, InitError> {
    genesis.check_start(start.initial_height, start.time.seconds)?;
    let mut delta = StateDelta::new(&Nothing);
    let (burned, locked, rollups, waiting_deposits) = Default::default();
    let chain = Chain {
        chain_id: start.chain_id.clone(),
        initial_height: start.initial_height,
        app_version: start.version.number(),
        supply: genesis.supply()?,
        burned,
        locked,
        rollups,
        waiting_deposits,
    };
    delta.put(&Key::Chain, &chain)?;
    put_validators(&start.validators, &mut delta)?;
    put_params(genesis, start, &mut delta)?;
    for account in &genesis.accounts {
        let (nonce, balance) = (Nonce::default(), account.balance);
        delta.put(&Key::Account(account.address), &Account { nonce, balance })?;
    }
    for rollup in &genesis.rollups {
        // Nobody locked anything for these, and they stay for nothing.
        let (deposit, paid_until) = (Amount::ZERO, Height::new(u64::MAX));
        registry::put(rollup.clone(), deposit, paid_until, &mut delta)?;
    }
    Ok(delta.into_changes())
}

fn put_validators(
    validators: &[(PublicKey, u64)],
    delta: &mut StateDelta<'_, Nothing>,
) -> Result<(), InitError> {
    if validators.is_empty() {
        return Err(InitError::NoValidators);
    }
    for (public_key, power) in validators {
        let payout = public_key.address();
        ValidatorUpdate::new(*public_key, *power, payout).map_err(InitError::Validator)?;
        let validator = Validator {
            public_key: *public_key,
            power: *power,
            payout,
        };
        delta.put(&Key::Validator(payout), &validator)?;
    }
    Ok(())
}

fn put_params(
    genesis: &SequencerGenesis,
    start: &ChainStart,
    delta: &mut StateDelta<'_, Nothing>,
) -> Result<(), InitError> {
    let consensus = ConsensusRecord {
        max_block_bytes: start.max_block_bytes,
        min_block_bytes: min_block_bytes(start.max_evidence_bytes),
        vote_extensions_height: start.vote_extensions_height,
    };
    if consensus.max_block_bytes < consensus.min_block_bytes {
        return Err(InitError::BlockBytes(consensus.min_block_bytes));
    }
    delta.put(&Key::Consensus, &consensus)?;
    let half = FeeParams {
        target_block_bytes: start.max_block_bytes >> 1,
        ..FeeParams::default()
    };
    let fees = genesis.fees.clone().unwrap_or(half);
    delta.put(&Key::BaseFee, &fees.min_base_fee)?;
    delta.put(&Key::FeeParams, &fees)?;
    if let Some(authority) = &genesis.authority {
        let (epoch, authority) = (0, authority.clone());
        delta.put(&Key::Authority, &AuthorityRecord { epoch, authority })?;
    }
    Ok(())
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
