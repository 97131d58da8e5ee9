use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use clap::{Args, ValueEnum};
use counterpoint_core::{
    atomic::{
        BundleDocument, CallerDocument, LegDocument, LegTransaction, MessageDocument,
        OnAbortDocument, SealedDocument, rollup_id,
    },
    key::PublicKey,
    primitive::{Amount, RollupId},
    registry::RollupConfig,
};
use counterpoint_service::sequencer::Client;
use eyre::{WrapErr, bail, ensure, eyre};
use serde_json::json;

use super::{
    BundleArgs,
    file::{BundleFile, Place, hex_or_file},
};
use crate::{cmd::show, keys};

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// A raw signed transaction and the rollup that executes it: ROLLUP=0x… or ROLLUP=FILE. Those of one
    /// rollup run in the order given.
    #[arg(long = "leg", value_name = "ROLLUP=RAW", required = true)]
    legs: Vec<String>,
    /// The bundle file to write.
    #[arg(long, value_name = "FILE", default_value = "bundle.json")]
    out: PathBuf,
    /// Seconds from now on in which it may run; 3600 at the most.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    valid_secs: u64,
    /// How many slots it may take up.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    max_attempts: u8,
    /// What becomes of it when attesters show that a leg would fail.
    #[arg(long, value_enum, default_value_t)]
    on_abort: OnAbort,
    /// Base units for each slot that it takes up.
    #[arg(long, value_name = "UNITS", default_value = "0")]
    tip: Amount,
    /// A key without whose word it must not run, such as that of your own attester.
    #[arg(long = "attester", value_name = "KEY")]
    attesters: Vec<PublicKey>,
    /// Who opens the session on a rollup that exchanges messages: ROLLUP=ADDRESS.
    #[arg(long = "caller", value_name = "ROLLUP=ADDRESS")]
    callers: Vec<String>,
    /// JSON file with the messages: a list of src, dst, index, sender, receiver, data.
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Makes the session one of a kind; random unless given.
    #[arg(long, value_name = "HASH")]
    salt: Option<B256>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OnAbort {
    /// It ends.
    #[default]
    FailFast,
    /// It waits for another slot.
    Retry,
}

pub(super) async fn run(build: &BuildArgs, args: &BundleArgs) -> eyre::Result<()> {
    let client = args.node.client()?;
    let chain_id = client.info().await?.chain_id;
    let file = build.file(chain_id)?;
    let bundle = file.bundle()?;
    for (place, _) in file.senders()? {
        is_for_its_rollup(&file, place, &client).await?;
    }
    file.write(&build.out)?;
    let shown = json!({
        "bundle_id": format!("0x{}", bundle.id()),
        "session_id": format!("0x{}", bundle.session_id()),
        "valid_until": bundle.terms().valid_until,
        "file": build.out,
    });
    show(&shown, args.output)?;
    eprintln!(
        "Keep {} to yourself until the bundle is sealed; sign it next.",
        build.out.display()
    );
    Ok(())
}

/// An error that is found before anything is signed costs nothing.
async fn is_for_its_rollup(file: &BundleFile, place: Place, client: &Client) -> eyre::Result<()> {
    let Place { leg, tx } = place;
    let name = &file.bundle.legs[leg].rollup;
    if name.starts_with("0x") {
        return Ok(());
    }
    let config: RollupConfig = client
        .rollup(name)
        .await
        .wrap_err_with(|| format!("leg {leg}: rollup {name}"))?;
    ensure!(
        !config.attesters.is_empty(),
        "leg {leg}: rollup {name} has no attesters, so that nobody can say how a leg ends there"
    );
    let (given, expected) = (
        LegTransaction::read(&file.legs[leg][tx])?.chain_id,
        config.evm_chain_id,
    );
    ensure!(
        given == expected,
        "{place}: it is for chain id {given}, rollup {name} has {expected}"
    );
    Ok(())
}

impl BuildArgs {
    /// The bundle, in the order that the chain asks for.
    fn file(&self, chain_id: String) -> eyre::Result<BundleFile> {
        let mut legs: BTreeMap<RollupId, (String, Vec<Bytes>)> = BTreeMap::new();
        for leg in &self.legs {
            let (rollup, raw) = pair(leg)?;
            let place = legs.entry(rollup_id(rollup)?);
            let leg = place.or_insert_with(|| (rollup.to_owned(), Vec::new()));
            leg.1.push(hex_or_file(raw)?);
        }
        ensure!(legs.len() > 1, "a bundle has legs on at least two rollups");
        let mut callers = BTreeMap::new();
        for caller in &self.callers {
            let (rollup, address) = pair(caller)?;
            let address: Address = address.parse().wrap_err_with(|| caller.clone())?;
            let rollup = rollup.to_owned();
            callers.insert(rollup_id(&rollup)?, CallerDocument { rollup, address });
        }
        let mut messages: Vec<MessageDocument> = match &self.messages {
            Some(path) => serde_json::from_slice(&fs::read(path)?)
                .wrap_err_with(|| format!("{} is no list of messages", path.display()))?,
            None => Vec::new(),
        };
        for message in &messages {
            rollup_id(&message.src)?;
        }
        messages.sort_by_key(|message| (rollup_id(&message.src).ok(), message.index));
        let mut extra_attesters = self.attesters.clone();
        extra_attesters.sort();
        let salt = match self.salt {
            Some(salt) => salt,
            None => B256::new(keys::random()?),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let document = |(rollup, raws): &(String, Vec<Bytes>)| LegDocument {
            rollup: rollup.clone(),
            transactions: raws.iter().map(sealed).collect(),
        };
        Ok(BundleFile {
            bundle: BundleDocument {
                chain_id,
                session_salt: salt,
                callers: callers.into_values().collect(),
                legs: legs.values().map(document).collect(),
                messages,
                valid_from: now,
                valid_until: now.saturating_add(self.valid_secs),
                on_abort: match self.on_abort {
                    OnAbort::FailFast => OnAbortDocument::FailFast,
                    OnAbort::Retry => OnAbortDocument::Retry,
                },
                max_attempts: self.max_attempts,
                extra_attesters,
                tip_per_attempt: self.tip,
            },
            legs: legs.into_values().map(|(_, raws)| raws).collect(),
        })
    }
}

fn sealed(raw: &Bytes) -> SealedDocument {
    SealedDocument {
        hash: keccak256(raw),
        auth: None,
    }
}

fn pair(text: &str) -> eyre::Result<(&str, &str)> {
    match text.split_once('=') {
        Some(("", _)) => bail!("{text}: the rollup's name is missing"),
        pair => pair.ok_or_else(|| eyre!("{text}: ROLLUP=… is expected")),
    }
}
