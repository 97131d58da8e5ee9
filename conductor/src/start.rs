//! What must hold before the first block: the right sequencer, registration, files and client.

use std::{path::Path, time::Duration};

use alloy_primitives::B256;
use counterpoint_core::{light::TrustedState, primitive::RollupId, registry::RollupConfig};
use counterpoint_service::{
    ConfigError, Readiness,
    sequencer::{Client, ClientError, Evidence, TrustRoot, registration},
};
use eyre::{bail, eyre};
use tracing::{info, warn};

use crate::{
    Config,
    board::{Board, CLIENT},
    chain_spec::{GenesisError, Specification},
    derivation::Source,
    engine::{EngineClient, EngineError, ExecutionClient, FORKCHOICE, new_payload},
    evm::Store,
    progress::Progress,
};

/// How long a start waits for peers between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// Those whom a conductor deals with, after they were checked against its files.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) specification: Specification,
    /// What trust in the sequencer starts from.
    pub(crate) trusted: TrustedState,
    pub(crate) sequencer: Client,
    pub(crate) client: EngineClient,
    pub(crate) rollup: RollupConfig,
}

/// What a rollup's blocks are derived from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) specification: Specification,
    /// What trust in the sequencer starts from.
    pub(crate) trusted: TrustedState,
    pub(crate) rollup: RollupConfig,
}

impl Origin {
    /// Where `store` stands, trusting what is trusted now.
    pub(crate) fn progress(&self, store: &dyn Store) -> eyre::Result<Progress> {
        let first = self.rollup.first_height;
        let mut progress = Progress::open(store, &self.specification, first, &self.trusted)?;
        let (trusted, next) = (self.trusted.height(), progress.cursor().height);
        eyre::ensure!(
            trusted < next,
            "trust_height {trusted} must lie below height {next}, the next to be executed"
        );
        progress.trusted = self.trusted.clone();
        Ok(progress)
    }
}

impl Peers {
    /// Where `store` stands, trusting what is trusted now.
    pub(crate) fn progress(&self, store: &dyn Store) -> eyre::Result<Progress> {
        let origin = Origin {
            specification: self.specification.clone(),
            trusted: self.trusted.clone(),
            rollup: self.rollup.clone(),
        };
        origin.progress(store)
    }

    /// Where blocks come from, and who takes them.
    pub(crate) fn split(self, readiness: Readiness) -> (Source, EngineClient) {
        let source = Source {
            specification: self.specification,
            rollup: self.rollup,
            sequencer: self.sequencer,
            readiness,
        };
        (source, self.client)
    }
}

/// Waits for all of them, to go on with what is in `store`.
pub(crate) async fn meet(config: &Config, board: &Board, store: &dyn Store) -> eyre::Result<Peers> {
    let root = TrustRoot::read(
        &config.sequencer_genesis,
        config.trust_height,
        config.trust_hash.as_deref(),
    )?;
    let client = EngineClient::new(&config.engine_url, &config.jwt_file)
        .map_err(|error| ConfigError::File(error.to_string()))?;
    let evidence = Evidence::open(&config.data_dir)?;
    evidence.refuse_fork()?;
    let sequencer = Client::with_evidence(&config.sequencers, evidence)?;
    board.watch(sequencer.clone());
    let files = (config.rollup.as_str(), config.rollup_genesis.as_path());
    let Origin {
        specification,
        trusted,
        rollup,
    } = origin(files, &root, &sequencer, store).await?;
    check_client(&client, &specification, &board.readiness).await?;
    Ok(Peers {
        specification,
        trusted,
        sequencer,
        client,
        rollup,
    })
}

/// Reads a rollup's genesis file, and waits for the sequencer to prove that it is the one registered
/// under its name.
pub(crate) async fn origin(
    (name, genesis): (&str, &Path),
    root: &TrustRoot,
    sequencer: &Client,
    store: &dyn Store,
) -> eyre::Result<Origin> {
    let specification = tokio::task::block_in_place(|| {
        info!("reading rollup_genesis; the first time its accounts are imported");
        Specification::load(genesis, store)
    });
    let specification = specification.map_err(|error| match error {
        GenesisError::Store(fault) => fault.into(),
        error => eyre::Report::from(ConfigError::File(format!("{:#}", eyre!(error)))),
    })?;
    let stored = Progress::trusted(store)?;
    let trusted = root.start(stored.as_ref(), sequencer).await?;
    let rollup = match Progress::left(store)? {
        // The sequencer may have forgotten it.
        Some(rollup) => rollup,
        None => registered(sequencer, name, &trusted).await?,
    };
    check_registration(&rollup, name, &specification)?;
    Ok(Origin {
        specification,
        trusted,
        rollup,
    })
}

/// Asks until a node proves what the rollup's registration is; that there is none is an answer.
async fn registered(
    sequencer: &Client,
    name: &str,
    trusted: &TrustedState,
) -> eyre::Result<RollupConfig> {
    loop {
        match registration(sequencer, trusted, RollupId::from_name(name)).await {
            Ok(Some(record)) => return Ok(record.config),
            Ok(None) => {
                bail!("no rollup {name} is registered at the sequencer: register it first")
            }
            Err(ClientError::Fork(fork)) => return Err(fork.into()),
            Err(error) => warn!(%error, "waiting for the sequencer"),
        }
        if let Some(theirs) = sequencer.other_chain(trusted.chain_id()).await {
            let ours = trusted.chain_id();
            bail!("the sequencer follows chain {theirs}, sequencer_genesis is of {ours}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a configuration is the one that the genesis file was made for.
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
    for wanted in specification.forks().map(new_payload).chain([FORKCHOICE]) {
        let known = methods.iter().any(|method| method == wanted);
        eyre::ensure!(
            known,
            "the client does not know {wanted}: install a newer one"
        );
    }
    let genesis = genesis.ok_or_else(|| eyre!("the client has no genesis block: run its init"))?;
    let expected = B256::new(*specification.chain_spec().genesis_hash.as_bytes());
    eyre::ensure!(
        genesis.hash == expected,
        "the client's genesis is {}, rollup_genesis gives {expected}: initialise it with that file",
        genesis.hash
    );
    Ok(())
}
