//! What must hold before the first block: the right sequencer, registration, files and client.

use std::time::Duration;

use alloy_primitives::B256;
use counterpoint_core::{light::TrustedState, primitive::RollupId, registry::RollupConfig};
use counterpoint_service::{
    Readiness, files,
    sequencer::{Client, ClientError},
};
use eyre::{bail, eyre};
use tracing::{info, warn};

use crate::{
    Config,
    board::CLIENT,
    chain_spec::Specification,
    engine::{EngineClient, EngineError, ExecutionClient},
    evm::Store,
};

/// How long a start waits for peers between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// Those whom a conductor deals with, after they were checked against its files.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) specification: Specification,
    /// What trust in the sequencer starts from.
    pub(crate) genesis: TrustedState,
    pub(crate) sequencer: Client,
    pub(crate) client: EngineClient,
    pub(crate) rollup: RollupConfig,
}

/// Waits for all of them; `left` is the configuration of a rollup that the sequencer may have
/// forgotten.
pub(crate) async fn meet(
    config: &Config,
    store: &dyn Store,
    readiness: &Readiness,
    left: Option<RollupConfig>,
) -> eyre::Result<Peers> {
    let specification = tokio::task::block_in_place(|| {
        info!("reading rollup_genesis; the first time its accounts are imported");
        Specification::load(&config.rollup_genesis, store)
    })?;
    let genesis = files::read_trust(&config.sequencer_genesis)?;
    let sequencer = Client::new(&config.sequencers)?;
    let client = EngineClient::new(&config.engine_url, &config.jwt_file)?;
    let rollup = match left {
        Some(rollup) => rollup,
        None => registered(&sequencer, &config.rollup, &genesis).await?,
    };
    check_registration(&rollup, &config.rollup, &specification)?;
    check_client(&client, &specification, readiness).await?;
    Ok(Peers {
        specification,
        genesis,
        sequencer,
        client,
        rollup,
    })
}

/// Asks until the sequencer answers; that the rollup is unknown is an answer.
async fn registered(
    sequencer: &Client,
    name: &str,
    genesis: &TrustedState,
) -> eyre::Result<RollupConfig> {
    loop {
        let asked = async { Ok((sequencer.info().await?, sequencer.rollup(name).await?)) };
        match asked.await {
            Ok((info, rollup)) => {
                let (theirs, ours) = (info.chain_id, genesis.chain_id());
                eyre::ensure!(
                    theirs == ours,
                    "the sequencer follows chain {theirs}, sequencer_genesis is of {ours}"
                );
                return Ok(rollup);
            }
            Err(error) if ClientError::is_not_found(&error) => {
                bail!("no rollup {name} is registered at the sequencer: register it first");
            }
            Err(error) => warn!(%error, "waiting for the sequencer"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a configuration is the one that the genesis file was made for. A node's word at the
/// start, and proven with every block.
pub(crate) fn check_registration(
    rollup: &RollupConfig,
    name: &str,
    specification: &Specification,
) -> eyre::Result<()> {
    let spec = specification.chain_spec();
    let header = specification.genesis_header();
    eyre::ensure!(
        rollup.name == name && rollup.rollup_id == RollupId::from_name(name),
        "asked for rollup {name}, the sequencer told of {} ({})",
        rollup.name,
        rollup.rollup_id
    );
    eyre::ensure!(
        rollup.gas_limit == header.gas_limit,
        "gas_limit: registered {}, rollup_genesis says {}",
        rollup.gas_limit,
        header.gas_limit
    );
    eyre::ensure!(
        rollup.genesis_time == header.timestamp,
        "genesis_time: registered {}, rollup_genesis says {}",
        rollup.genesis_time,
        header.timestamp
    );
    eyre::ensure!(
        rollup.evm_chain_id == spec.evm_chain_id,
        "evm_chain_id: registered {}, rollup_genesis says {}",
        rollup.evm_chain_id,
        spec.evm_chain_id
    );
    eyre::ensure!(
        rollup.chain_spec_hash == spec.hash(),
        "chain_spec_hash: registered {}, rollup_genesis gives {} (genesis block {}): \
         it is not the file that was registered",
        rollup.chain_spec_hash,
        spec.hash(),
        spec.genesis_hash
    );
    Ok(())
}

/// Asks until the client answers, then demands that it is the right one.
async fn check_client(
    client: &EngineClient,
    specification: &Specification,
    readiness: &Readiness,
) -> eyre::Result<()> {
    let (chain_id, methods, genesis) = loop {
        let asked = async {
            Ok((
                client.chain_id().await?,
                client.capabilities().await?,
                client.block(Some(0)).await?,
            ))
        };
        match asked.await {
            Ok(answers) => break answers,
            Err(error @ EngineError::Unreachable { .. }) => {
                readiness.unmet(CLIENT, error.to_string());
                warn!(%error, "waiting for the execution client");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let expected = specification.chain_id();
    eyre::ensure!(
        chain_id == expected,
        "the client has chain id {chain_id}, not {expected}"
    );
    let known = methods.iter().any(|method| method == "engine_newPayloadV4");
    eyre::ensure!(
        known,
        "the client does not know engine_newPayloadV4: install a newer one"
    );
    let genesis = genesis.ok_or_else(|| eyre!("the client has no genesis block: run its init"))?;
    let expected = B256::new(*specification.chain_spec().genesis_hash.as_bytes());
    eyre::ensure!(
        genesis.hash == expected,
        "the client's genesis is {}, rollup_genesis gives {expected}: initialise it with that file",
        genesis.hash
    );
    Ok(())
}
