use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address as EvmAddress, U256, utils::Unit};
use clap::Subcommand;
use counterpoint_conductor::{
    chain_spec::{Specification, dev_genesis},
    evm::DiskStore,
};
use counterpoint_core::{
    authority::Authority,
    genesis::{GenesisAccount, SequencerGenesis},
    primitive::{Address, Amount},
};
use eyre::{WrapErr, eyre};
use serde_json::json;

use super::{
    Output, show,
    testnet::{self, TestnetArgs},
};
use crate::devnet::setup::GENESIS_MARGIN_SECS;

/// Memory for a state that is worked out once.
const SCRATCH_CACHE_BYTES: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum GenesisCommand {
    /// Write the `app_state` of CometBFT's genesis file, to be put there by you.
    #[command(
        after_help = "Example:\n  counterpoint genesis sequencer --account cpt1…=1000000000000 --authority cpt1…"
    )]
    Sequencer {
        /// Accounts and their balances in base units, as ADDRESS=AMOUNT.
        #[arg(long = "account", value_name = "ADDRESS=AMOUNT", required = true)]
        accounts: Vec<String>,
        /// Who decides about validators, fees and upgrades; nobody ever unless given.
        #[arg(long = "authority", value_name = "ADDRESS")]
        authority: Vec<Address>,
        /// How many of them must agree.
        #[arg(long, default_value_t = 1, requires = "authority")]
        threshold: u8,
    },
    /// Write a rollup's genesis file for geth and conductor.
    #[command(
        after_help = "Example:\n  counterpoint genesis rollup --chain-id 777 --fund 0x… omega.json"
    )]
    Rollup {
        /// EIP-155 chain id.
        #[arg(long)]
        chain_id: u64,
        /// Gas limit of every block.
        #[arg(long, default_value_t = 30_000_000)]
        gas_limit: u64,
        /// Accounts that start with a million ether.
        #[arg(long = "fund", value_name = "ADDRESS")]
        funded: Vec<EvmAddress>,
        /// Where to put it.
        file: PathBuf,
    },
    /// Write a whole network for many hosts: a folder of keys, genesis and configuration for each part,
    /// and what runs there.
    Testnet(TestnetArgs),
    /// Check a rollup's genesis file and show what must be registered.
    #[command(after_help = "Example:\n  counterpoint genesis check omega.json --output json")]
    Check {
        /// The file.
        file: PathBuf,
        /// How to show the result.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

pub(crate) fn run(command: GenesisCommand) -> eyre::Result<()> {
    match command {
        GenesisCommand::Sequencer {
            accounts,
            mut authority,
            threshold,
        } => {
            let accounts = accounts
                .iter()
                .map(|text| account(text))
                .collect::<Result<_, _>>()?;
            authority.sort();
            let authority = (!authority.is_empty())
                .then(|| Authority::new(threshold, authority))
                .transpose()?;
            let genesis = SequencerGenesis {
                accounts,
                authority,
                ..SequencerGenesis::default()
            };
            genesis.supply()?;
            println!("{}", serde_json::to_string_pretty(&genesis)?);
            Ok(())
        }
        GenesisCommand::Rollup {
            chain_id,
            gas_limit,
            funded,
            file,
        } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let timestamp = now.saturating_sub(GENESIS_MARGIN_SECS);
            let balance = U256::from(1_000_000) * Unit::ETHER.wei();
            let alloc = funded.into_iter().map(|address| (address, balance));
            let mut genesis = dev_genesis(chain_id, gas_limit, timestamp, alloc)?;
            genesis.alloc.extend(counterpoint_contracts::predeploys());
            let text = serde_json::to_vec_pretty(&genesis)?;
            std::fs::write(&file, text)
                .wrap_err_with(|| format!("failed to write {}", file.display()))?;
            check(&file, Output::Text)
        }
        GenesisCommand::Testnet(args) => testnet::run(args),
        GenesisCommand::Check { file, output } => check(&file, output),
    }
}

/// What a rollup's genesis file says, however many accounts it has.
pub(super) fn specification(file: &Path) -> eyre::Result<Specification> {
    let scratch = tempfile::tempdir()?;
    let store = DiskStore::open(scratch.path(), SCRATCH_CACHE_BYTES)?;
    Ok(Specification::load(file, &store)?)
}

fn check(file: &Path, output: Output) -> eyre::Result<()> {
    let specification = specification(file)?;
    let spec = specification.chain_spec();
    let shown = json!({
        "genesis_hash": format!("0x{}", spec.genesis_hash),
        "evm_chain_id": spec.evm_chain_id,
        "chain_spec_hash": spec.hash(),
    });
    show(&shown, output)
}

fn account(text: &str) -> eyre::Result<GenesisAccount> {
    let malformed = || eyre!("{text} is not ADDRESS=AMOUNT");
    let (address, balance) = text.split_once('=').ok_or_else(malformed)?;
    let address: Address = address.parse().wrap_err_with(malformed)?;
    let balance: Amount = balance.parse().wrap_err_with(malformed)?;
    Ok(GenesisAccount { address, balance })
}
