//! What only the authority may do. With several members, each gives the same command.

use std::{path::PathBuf, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use clap::Subcommand;
use counterpoint_core::{
    action::{
        Action, AuthorityChange, ConsensusChange, FeeChange, ScheduleUpgrade, ValidatorUpdate,
    },
    authority::Authority,
    fees::FeeParams,
    key::PublicKey,
    primitive::{Address, Height},
};
use eyre::{WrapErr, eyre};

#[derive(Debug, Subcommand)]
pub(super) enum AuthorityCommand {
    /// Add, change and remove validators, all at once.
    #[command(after_help = "Examples:\n  counterpoint tx validators KEY=10\n  \
                      counterpoint tx validators OLD=0 NEW=10,cpt1…  (rotates a key)\n\
                      KEY is what CometBFT's priv_validator_key.json calls pub_key.value.")]
    Validators {
        /// KEY=POWER or KEY=POWER,PAYOUT; power 0 removes. Rewards go to the key's own account
        /// unless a payout account is given.
        #[arg(required = true, value_name = "KEY=POWER[,PAYOUT]")]
        updates: Vec<ValidatorArg>,
    },
    /// Hand the authority over to others.
    #[command(after_help = "Example:\n  counterpoint tx authority 2 cpt1… cpt1… cpt1…")]
    Authority {
        /// How many of them must agree.
        threshold: u8,
        /// Who they are.
        #[arg(required = true)]
        members: Vec<Address>,
    },
    /// Replace the fee parameters.
    #[command(
        after_help = "Example:\n  counterpoint query fees --output json | jq .params > fees.json\n  \
                      counterpoint tx fees fees.json"
    )]
    Fees {
        /// JSON file with every parameter.
        file: PathBuf,
    },
    /// Schedule other rules from a height on; the version in force calls off what was planned.
    #[command(after_help = "Example:\n  counterpoint tx upgrade 500000 'fair order' 2")]
    Upgrade {
        /// The first height under the new rules.
        height: u64,
        /// What operators know it by.
        name: String,
        /// The version of the rules.
        app_version: u64,
    },
    /// Change parameters of CometBFT.
    #[command(after_help = "Example:\n  counterpoint tx consensus --vote-extensions-height 500000")]
    Consensus {
        /// Greatest size of a block, in bytes.
        #[arg(long, value_name = "BYTES")]
        max_block_bytes: Option<u64>,
        /// The first height whose votes carry an extension.
        #[arg(long, value_name = "HEIGHT")]
        vote_extensions_height: Option<u64>,
    },
}

/// A validator as people name it.
#[derive(Clone, Debug)]
pub(super) struct ValidatorArg(ValidatorUpdate);

impl FromStr for ValidatorArg {
    type Err = eyre::Report;

    fn from_str(text: &str) -> eyre::Result<Self> {
        // The key's own encoding may end in '='.
        let (key, rest) = text
            .rsplit_once('=')
            .ok_or_else(|| eyre!("expected KEY=POWER or KEY=POWER,PAYOUT"))?;
        let key = parse_key(key)?;
        let (power, payout) = match rest.split_once(',') {
            Some((power, payout)) => (power, payout.parse()?),
            None => (rest, key.address()),
        };
        let power = power.parse().wrap_err("power is not a number")?;
        Ok(Self(ValidatorUpdate::new(key, power, payout)?))
    }
}

/// A key in base64, as CometBFT writes it, or in hexadecimal.
fn parse_key(text: &str) -> eyre::Result<PublicKey> {
    let bytes = hex::decode(text)
        .or_else(|_| BASE64.decode(text))
        .map_err(|_| eyre!("{text} is neither base64 nor hexadecimal"))?;
    let bytes = bytes.try_into().map_err(|_| eyre!("a key has 32 bytes"))?;
    Ok(PublicKey::new(bytes))
}

/// The actions that a command stands for.
pub(super) fn actions(command: AuthorityCommand) -> eyre::Result<Vec<Action>> {
    Ok(match command {
        AuthorityCommand::Validators { updates } => updates
            .into_iter()
            .map(|ValidatorArg(update)| Action::ValidatorUpdate(update))
            .collect(),
        AuthorityCommand::Authority {
            threshold,
            mut members,
        } => {
            members.sort();
            let authority = Authority::new(threshold, members)?;
            vec![Action::AuthorityChange(AuthorityChange { authority })]
        }
        AuthorityCommand::Fees { file } => {
            let text = std::fs::read_to_string(&file)
                .wrap_err_with(|| format!("failed to read {}", file.display()))?;
            let params: FeeParams = serde_json::from_str(&text)
                .wrap_err_with(|| format!("{} is no fee parameters", file.display()))?;
            params.check()?;
            vec![Action::FeeChange(FeeChange { params })]
        }
        AuthorityCommand::Upgrade {
            height,
            name,
            app_version,
        } => {
            let plan = ScheduleUpgrade::new(Height::new(height), name, app_version)?;
            vec![Action::ScheduleUpgrade(plan)]
        }
        AuthorityCommand::Consensus {
            max_block_bytes,
            vote_extensions_height,
        } => vec![Action::ConsensusChange(ConsensusChange {
            max_block_bytes,
            vote_extensions_height: vote_extensions_height.map(Height::new),
        })],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_are_read_as_cometbft_writes_them() {
        let key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let ValidatorArg(update) = format!("{key}=10").parse().unwrap();
        assert_eq!(
            (update.power(), update.payout()),
            (10, update.public_key().address())
        );
        let payout = Address::new([7; 20]);
        let ValidatorArg(update) = format!("{key}=0,{payout}").parse().unwrap();
        assert_eq!((update.power(), update.payout()), (0, payout));
        for broken in [
            key,
            "AAAA=1",
            "zz=1",
            &format!("{key}=x"),
            &format!("{key}=1,cpt"),
        ] {
            assert!(broken.parse::<ValidatorArg>().is_err(), "{broken}");
        }
    }
}
