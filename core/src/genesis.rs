//! The sequencer's genesis: what `app_state` of CometBFT's genesis file holds.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    authority::Authority,
    fees::{FeeParams, FeeParamsError},
    primitive::{Address, Amount, Height},
    registry::{RollupConfig, RollupConfigError, RollupStatus},
};

/// The first state of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequencerGenesis {
    /// Accounts and what they hold.
    pub accounts: Vec<GenesisAccount>,
    /// Rollups that start at the second height.
    pub rollups: Vec<RollupConfig>,
    /// Who decides about validators, fees and upgrades; nobody ever if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
    /// What fees are worked out from; the defaults, with half of a full block as target, if they are
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fees: Option<FeeParams>,
}

/// One account of the first state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// Whose it is.
    pub address: Address,
    /// What it holds, in base units, as a decimal string.
    pub balance: Amount,
}

/// Why a genesis cannot start a chain.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// Not JSON, an unknown field, or a value outside its bounds.
    #[error("app_state is not a sequencer genesis")]
    Parse(#[from] serde_json::Error),
    /// An account is listed twice.
    #[error("account {0} is listed twice")]
    Account(Address),
    /// The balances add up to more than an amount can count.
    #[error("the balances of all accounts overflow")]
    Supply,
    /// A fee parameter is out of bounds.
    #[error("fees")]
    Fees(#[from] FeeParamsError),
    /// A rollup's configuration is out of bounds.
    #[error("rollup {name}")]
    Rollup {
        /// Its name.
        name: String,
        /// The field that is out of bounds.
        source: RollupConfigError,
    },
    /// Two rollups share a name or an EVM chain id.
    #[error("rollup {0} shares its name or evm_chain_id with another")]
    Duplicate(String),
    /// A rollup of the genesis must start right after the initial height.
    #[error("rollup {name} must have first_height {expected} and be active")]
    Start {
        /// Its name.
        name: String,
        /// Where it must start.
        expected: Height,
    },
    /// The chain counts sets of attesters from 1 on.
    #[error("rollup {0}: the attesters of the genesis must have epoch 1")]
    Epoch(String),
    /// The first rollup block would not be later than the rollup's genesis block.
    #[error(
        "rollup {0}: genesis_time must lie before the first slot of the sequencer's own genesis time"
    )]
    Time(String),
}

impl SequencerGenesis {
    /// Parses `app_state` and checks everything that does not need the chain's own parameters.
    ///
    /// # Errors
    /// [`GenesisError`] says which account or rollup is wrong, and why.
    pub fn parse(app_state: &[u8]) -> Result<Self, GenesisError> {
        let genesis: Self = serde_json::from_slice(app_state)?;
        genesis.check()?;
        Ok(genesis)
    }

    /// All value that exists.
    ///
    /// # Errors
    /// [`GenesisError::Supply`] if it overflows.
    pub fn supply(&self) -> Result<Amount, GenesisError> {
        let add = |total: Amount, account: &GenesisAccount| total.checked_add(account.balance);
        self.accounts
            .iter()
            .try_fold(Amount::ZERO, add)
            .ok_or(GenesisError::Supply)
    }

    fn check(&self) -> Result<(), GenesisError> {
        let mut addresses = BTreeSet::new();
        for account in &self.accounts {
            if !addresses.insert(account.address) {
                return Err(GenesisError::Account(account.address));
            }
        }
        self.supply()?;
        self.fees.as_ref().map_or(Ok(()), FeeParams::check)?;
        let (mut names, mut chain_ids) = (BTreeSet::new(), BTreeSet::new());
        for rollup in &self.rollups {
            let name = || rollup.name.clone();
            rollup.check().map_err(|source| GenesisError::Rollup {
                name: name(),
                source,
            })?;
            let epoch = rollup.attesters.0.as_ref().map_or(1, |set| set.epoch);
            if epoch != 1 {
                return Err(GenesisError::Epoch(name()));
            }
            if !names.insert(&rollup.name) || !chain_ids.insert(rollup.evm_chain_id) {
                return Err(GenesisError::Duplicate(name()));
            }
        }
        Ok(())
    }

    /// Checks what depends on the chain: where rollups start, and that their time moves forward.
    ///
    /// # Errors
    /// [`GenesisError::Start`] or [`GenesisError::Time`] names the rollup.
    pub fn check_start(&self, initial: Height, time_secs: u64) -> Result<(), GenesisError> {
        use crate::slot::{HeaderTime, Slot};
        let expected = Height::new(initial.get().saturating_add(1));
        for rollup in &self.rollups {
            if rollup.first_height != expected || rollup.status != RollupStatus::Active {
                return Err(GenesisError::Start {
                    name: rollup.name.clone(),
                    expected,
                });
            }
            let time = HeaderTime {
                seconds: time_secs,
                nanos: 0,
            };
            if Slot::of(Some(time), rollup.slot_secs).get() <= rollup.genesis_time {
                return Err(GenesisError::Time(rollup.name.clone()));
            }
        }
        Ok(())
    }
}
