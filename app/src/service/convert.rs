//! From ABCI's words to the machine's, and back.

use bytes::Bytes;
use counterpoint_abci::{
    BoxError,
    proto::{
        abci::{Misbehavior, RequestInitChain, ValidatorUpdate},
        crypto::{PublicKey as ProtoPublicKey, public_key},
        types::{AbciParams, BlockParams, ConsensusParams, VersionParams},
    },
};
use counterpoint_core::{
    key::PublicKey,
    primitive::{Address, Hash, Height},
    slot::HeaderTime,
};
use counterpoint_machine::{
    AppVersion, BlockContext, ChainStart, MAX_BLOCK_BYTES, ParamsUpdate, PowerUpdate,
};

/// What a block's header and evidence say.
pub(super) fn context(
    height: i64,
    time: Option<&prost_types::Timestamp>,
    proposer: &[u8],
    misbehavior: &[Misbehavior],
) -> Result<BlockContext, BoxError> {
    let accused = misbehavior
        .iter()
        .filter_map(|case| case.validator.as_ref());
    let misbehaved = accused.map(|validator| address(&validator.address));
    Ok(BlockContext {
        height: Height::new(u64::try_from(height)?),
        time: header_time(time)?,
        proposer: address(proposer)?,
        misbehaved: misbehaved.collect::<Result<_, _>>()?,
    })
}

fn address(bytes: &[u8]) -> Result<Address, BoxError> {
    let bytes = <[u8; 20]>::try_from(bytes).map_err(|_| "validator address has not 20 bytes")?;
    Ok(Address::new(bytes))
}

/// What the chain begins with, as CometBFT's genesis file says.
pub(super) fn chain_start(request: &RequestInitChain) -> Result<ChainStart, BoxError> {
    let params = request.consensus_params.as_ref();
    let params = params.ok_or("InitChain carries no consensus_params")?;
    let block = params
        .block
        .as_ref()
        .ok_or("consensus_params has no block")?;
    let evidence = params.evidence.as_ref();
    let extensions = params.abci.as_ref();
    let extensions = extensions.map_or(0, |abci| abci.vote_extensions_enable_height);
    let validators = request.validators.iter().map(|validator| {
        let key = validator.pub_key.as_ref().and_then(|key| key.sum.as_ref());
        let Some(public_key::Sum::Ed25519(key)) = key else {
            return Err(BoxError::from("genesis: validators must have ed25519 keys"));
        };
        let key = <[u8; 32]>::try_from(&key[..]).map_err(|_| "validator key has not 32 bytes")?;
        Ok((PublicKey::new(key), u64::try_from(validator.power)?))
    });
    let number = params
        .version
        .as_ref()
        .map_or(0, |version| version.app)
        .max(1);
    let unknown = || format!("genesis: app version {number} is not one that this software knows");
    Ok(ChainStart {
        chain_id: request.chain_id.clone(),
        initial_height: Height::new(u64::try_from(request.initial_height)?.max(1)),
        time: header_time(request.time.as_ref())?,
        validators: validators.collect::<Result<_, _>>()?,
        // -1 stands for whatever CometBFT can carry.
        max_block_bytes: u64::try_from(block.max_bytes).unwrap_or(MAX_BLOCK_BYTES),
        max_evidence_bytes: u64::try_from(evidence.map_or(0, |evidence| evidence.max_bytes))?,
        vote_extensions_height: Height::new(u64::try_from(extensions)?),
        version: AppVersion::from_number(number).ok_or_else(unknown)?,
    })
}

/// What CometBFT must change after a block.
pub(super) fn params_update(update: &ParamsUpdate) -> Result<Option<ConsensusParams>, BoxError> {
    if *update == ParamsUpdate::default() {
        return Ok(None);
    }
    let block = update.max_block_bytes.map(i64::try_from).transpose()?;
    let extensions = update
        .vote_extensions_height
        .map(|height| i64::try_from(height.get()));
    Ok(Some(ConsensusParams {
        block: block.map(|max_bytes| BlockParams {
            max_bytes,
            max_gas: -1,
        }),
        abci: extensions
            .transpose()?
            .map(|vote_extensions_enable_height| AbciParams {
                vote_extensions_enable_height,
            }),
        version: update.app_version.map(|app| VersionParams { app }),
        ..ConsensusParams::default()
    }))
}

/// What CometBFT is told of one validator.
pub(super) fn power_update(update: &PowerUpdate) -> Result<ValidatorUpdate, BoxError> {
    let key = Bytes::copy_from_slice(update.public_key.as_bytes());
    Ok(ValidatorUpdate {
        pub_key: Some(ProtoPublicKey {
            sum: Some(public_key::Sum::Ed25519(key)),
        }),
        power: i64::try_from(update.power)?,
    })
}

fn header_time(time: Option<&prost_types::Timestamp>) -> Result<HeaderTime, BoxError> {
    let time = time.ok_or("request carries no time")?;
    let (seconds, nanos) = (u64::try_from(time.seconds)?, u32::try_from(time.nanos)?);
    Ok(HeaderTime { seconds, nanos })
}

/// The hash of a block.
pub(super) fn hash(bytes: &[u8]) -> Result<Hash, BoxError> {
    Ok(Hash::new(
        bytes
            .try_into()
            .map_err(|_| "block hash has not 32 bytes")?,
    ))
}
