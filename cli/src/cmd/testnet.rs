use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use eyre::bail;
use serde_json::json;

use super::{Output, devnet::interval};
use crate::{
    devnet::{
        Options,
        plan::{Hosts, Plan},
        testnet::{readme, write},
    },
    keys::Keys,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterpoint genesis testnet --validators 4 --host '{name}.example.org' network\n  counterpoint genesis testnet --validators 2 --host val-0=10.0.0.1 --host val-1=10.0.0.2 --host 10.0.0.3 network\n  counterpoint genesis testnet --host 127.0.0.1 --listen 127.0.0.1 --base-port 21000 --home /tmp/network network"
)]
pub(crate) struct TestnetArgs {
    /// How many validators: val-0, val-1, …
    #[arg(long, default_value_t = 4)]
    validators: usize,
    /// How many rollups, each with geth and a conductor: alpha, beta, …; with one, a composer too.
    #[arg(long, default_value_t = 2)]
    rollups: usize,
    /// How many attesters each rollup has, its conductor counted, of which most must agree.
    #[arg(long, default_value_t = 1)]
    attesters: usize,
    /// Length of a rollup's slot in seconds.
    #[arg(long, default_value_t = 1)]
    slot_secs: u8,
    /// Pause between sequencer blocks.
    #[arg(long, value_parser = interval, default_value = "200ms")]
    block_interval: u64,
    /// The sequencer's chain id.
    #[arg(long, default_value = "counterpoint-testnet")]
    chain_id: String,
    /// Where parts are found: NAME=HOST for one of them, or a host for all others, in which {name} is
    /// the part's name.
    #[arg(long = "host", value_name = "HOST", default_value = "{name}")]
    hosts: Vec<String>,
    /// The address that parts listen at.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    listen: IpAddr,
    /// Use a row of ports from here on, for parts that share hosts, instead of the usual ones.
    #[arg(long)]
    base_port: Option<u16>,
    /// Where each part's folder will lie on its host.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/counterpoint")]
    home: PathBuf,
    /// Make all keys from this text instead of randomness, to have the same network again. Whoever
    /// knows the text has the keys: for trying only.
    #[arg(long, value_name = "TEXT", requires = "genesis_time")]
    seed: Option<String>,
    /// When the chain begins, in seconds since 1970; now unless given.
    #[arg(long, value_name = "SECONDS")]
    genesis_time: Option<u32>,
    /// How the parts are shown.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Where to write it: a new directory, or one that holds this network already.
    dir: PathBuf,
}

pub(crate) fn run(args: TestnetArgs) -> eyre::Result<()> {
    let hosts = hosts(&args.hosts, args.listen)?;
    let options = Options {
        validators: args.validators,
        rollups: args.rollups,
        slot_secs: vec![args.slot_secs],
        attesters: args.attesters,
        block_interval_ms: args.block_interval,
        base_port: args.base_port,
        ..Options::new(args.dir.clone(), PathBuf::new())
    };
    let plan = Plan::on_hosts(&options, args.chain_id, hosts)?;
    let time = match args.genesis_time {
        Some(time) => Duration::from_secs(time.into()),
        None => SystemTime::now().duration_since(UNIX_EPOCH)?,
    };
    let keys = args.seed.map_or(Keys::Random, Keys::Seed);
    let parts = write(&plan, &keys, time, &args.home, &args.dir)?;
    match args.output {
        Output::Text => print!("{}", readme(&plan, &args.home, &parts)),
        Output::Json => {
            let network = json!({ "chain_id": plan.chain_id, "parts": parts });
            println!("{}", serde_json::to_string_pretty(&network)?);
        }
    }
    Ok(())
}

fn hosts(given: &[String], listen: IpAddr) -> eyre::Result<Hosts> {
    let mut hosts = Hosts {
        listen,
        template: "{name}".to_owned(),
        named: BTreeMap::new(),
    };
    let mut templates = Vec::new();
    for text in given {
        match text.split_once('=') {
            None => templates.push(text.clone()),
            Some((name, host)) => {
                if hosts.named.insert(name.into(), host.into()).is_some() {
                    bail!("--host {name}=… is given twice");
                }
            }
        }
    }
    match templates.as_slice() {
        [] => Ok(hosts),
        [template] => Ok(Hosts {
            template: template.clone(),
            ..hosts
        }),
        [one, other, ..] => {
            bail!("--host {one} and --host {other}: give one, and NAME=HOST for others")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[&str], part: &str, expected: &str) {
        let given: Vec<_> = given.iter().map(|&text| text.to_owned()).collect();
        let hosts = hosts(&given, [0, 0, 0, 0].into());
        let found = hosts.map_or_else(|error| error.to_string(), |hosts| hosts.of(part));
        assert_eq!(found, expected, "{given:?}");
    }

    #[test]
    fn parts_are_found_by_name_or_as_the_others_are() {
        check(&["{name}.example.org"], "val-0", "val-0.example.org");
        check(&["val-0=10.0.0.1"], "val-0", "10.0.0.1");
        check(&["val-0=10.0.0.1"], "val-1", "val-1");
        check(&["val-0=10.0.0.1", "10.0.0.9"], "val-1", "10.0.0.9");
        check(
            &["a", "b"],
            "val-0",
            "--host a and --host b: give one, and NAME=HOST for others",
        );
        check(
            &["val-0=a", "val-0=b"],
            "val-0",
            "--host val-0=… is given twice",
        );
    }
}
