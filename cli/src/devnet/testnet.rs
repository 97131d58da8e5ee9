//! A network on many machines: a folder for each part, to be copied to the part's host, and what runs
//! there.
//!
//! A folder is laid out as a development network's directory is, but holds one part's files only, and
//! nothing that the part writes itself: copying it once more never takes back what a key has signed.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, time::Duration};

use eyre::{WrapErr, bail};
use serde::Serialize;

use super::{
    Application, Programs,
    clients::init_args,
    plan::{Detours, Plan, accounts},
    process::Spec,
    setup::{Layout, Network, Place},
};
use crate::keys::Keys;

/// Longest path of a home: a unix socket lies in it.
const MAX_HOME: usize = 64;

/// One part of a network, and its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name, and that of its folder.
    pub name: String,
    /// Where others find it.
    pub host: String,
    /// Ports that others use, by purpose.
    pub ports: BTreeMap<&'static str, u16>,
    /// Commands that end, to be run in this order before each start.
    pub prepare: Vec<Vec<String>>,
    /// Commands that run on, each to be started again when it ends.
    pub run: Vec<Vec<String>>,
}

/// Writes a network to `dir`, where it must be the first: all files appear at once. `home` is where
/// each part's folder will lie on its host, and `time` when the chain begins, since the Unix epoch.
///
/// If `dir` already holds the very same network, it stays as it is.
///
/// # Errors
/// `dir` holds anything else, or a file cannot be written.
pub fn write(
    plan: &Plan,
    keys: &Keys,
    time: Duration,
    home: &Path,
    dir: &Path,
) -> eyre::Result<Vec<Part>> {
    if !home.is_absolute() || home.as_os_str().len() > MAX_HOME {
        bail!("--home is an absolute path of at most {MAX_HOME} bytes");
    }
    let home = Layout { dir: home.into() };
    let parts = parts(plan, &home);
    let failed = || format!("failed to write {}", dir.display());
    let beside = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(beside).wrap_err_with(failed)?;
    let staging = tempfile::tempdir_in(beside).wrap_err_with(failed)?;
    let network = Network::new(plan, keys, time)?;
    write_folders(plan, &network, &home, staging.path()).wrap_err_with(failed)?;
    let readme = readme(plan, &home.dir, &parts);
    fs::write(staging.path().join("README.md"), readme).wrap_err_with(failed)?;
    match fs::rename(staging.path(), dir) {
        Ok(()) => drop(staging.keep()),
        Err(_) if holds(dir, staging.path()).wrap_err_with(failed)? => {}
        Err(_) if dir.exists() => {
            bail!(
                "{} holds something else; choose another directory",
                dir.display()
            )
        }
        Err(error) => return Err(error).wrap_err_with(failed),
    }
    Ok(parts)
}

fn write_folders(
    plan: &Plan,
    network: &Network<'_>,
    home: &Layout,
    dir: &Path,
) -> eyre::Result<()> {
    let place = |part: &str| -> eyre::Result<Place> {
        let files = Layout {
            dir: dir.join(part),
        };
        fs::create_dir_all(&files.dir)?;
        Ok(Place {
            files,
            home: home.clone(),
        })
    };
    network.write_faucet(&Layout { dir: dir.into() })?;
    for (at, node) in plan.validators.iter().enumerate() {
        network.write_validator(at, &place(&node.name)?, &Detours::default())?;
    }
    if !plan.rollups.is_empty() {
        network.write_composer(&place("composer")?)?;
    }
    for (at, rollup) in plan.rollups.iter().enumerate() {
        network.write_rollup(at, &place(&rollup.name)?)?;
    }
    for (at, attester) in plan.attesters.iter().enumerate() {
        network.write_attester(at, &place(&attester.name)?)?;
    }
    Ok(())
}

/// What each part runs where its folder lies at `home`.
fn parts(plan: &Plan, home: &Layout) -> Vec<Part> {
    let programs = Programs {
        counterpoint: "counterpoint".into(),
        application: Application::Sequencer,
        cometbft: "cometbft".into(),
        geth: "geth".into(),
    };
    let part = |name: &str, ports: &[(&'static str, u16)], prepare: Vec<_>, run: &[Spec]| Part {
        name: name.to_owned(),
        host: plan.hosts.of(name),
        ports: ports.iter().copied().collect(),
        prepare,
        run: run.iter().map(command).collect(),
    };
    let mut parts = Vec::new();
    for node in &plan.validators {
        let data = home.cometbft_home(&node.name).join("data");
        let begin = ["counterpoint", "signing-state"].map(str::to_owned);
        let begin = [begin.as_slice(), &[data.display().to_string()]].concat();
        let ports = [
            ("p2p", node.p2p),
            ("cometbft_rpc", node.rpc),
            ("grpc", node.grpc),
            ("probes", node.http),
        ];
        let run = programs.node(node, home);
        parts.push(part(&node.name, &ports, vec![begin], &run));
    }
    if !plan.rollups.is_empty() {
        let ports = [("rpc", plan.composer.rpc), ("probes", plan.composer.http)];
        parts.push(part("composer", &ports, vec![], &[programs.composer(home)]));
    }
    for rollup in &plan.rollups {
        let (data, genesis) = (
            home.geth_data(&rollup.name),
            home.rollup_genesis(&rollup.name),
        );
        let init = [vec!["geth".to_owned()], init_args(&data, &genesis)].concat();
        let ports = [
            ("execution", rollup.el_rpc),
            ("probes", rollup.conductor_http),
            ("grpc", rollup.conductor_grpc),
            ("receipts", rollup.conductor_rpc),
        ];
        let run = programs.rollup(plan, rollup, home);
        parts.push(part(&rollup.name, &ports, vec![init], &run));
    }
    for attester in &plan.attesters {
        let run = [programs.attester(attester, home)];
        parts.push(part(
            &attester.name,
            &[("probes", attester.http)],
            vec![],
            &run,
        ));
    }
    parts
}

fn command(spec: &Spec) -> Vec<String> {
    [vec![spec.program.display().to_string()], spec.args.clone()].concat()
}

/// What whoever starts the network must know.
#[must_use]
pub fn readme(plan: &Plan, home: &Path, parts: &[Part]) -> String {
    let mut text = format!(
        "# {}\n\nCopy each folder to its host, as {}: the host's own and no other, for they hold keys. \
         Run what stands here, in this order. What is marked ends, and comes before each start; the \
         rest runs on, and is started again when it ends. CometBFT and its application end together.\n",
        plan.chain_id,
        home.display()
    );
    for part in parts {
        let ports: Vec<_> = part
            .ports
            .iter()
            .map(|(name, port)| format!("{name} {port}"))
            .collect();
        let _ = write!(
            text,
            "\n## {} on {}\nPorts: {}.\n```sh\n",
            part.name,
            part.host,
            ports.join(", ")
        );
        for command in &part.prepare {
            let _ = writeln!(text, "{}  # ends", shell(command));
        }
        for command in &part.run {
            let _ = writeln!(text, "{}", shell(command));
        }
        text += "```\n";
    }
    text += "\n## Money\n`faucet.key` is the account of the sequencer that has money, and its authority. \
             Everybody knows these keys, which have money on every rollup:\n\n";
    for account in accounts() {
        let _ = writeln!(
            text,
            "- {} 0x{}",
            account.address(),
            hex::encode(account.to_bytes())
        );
    }
    text
}

/// A command as a shell reads it.
fn shell(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    let word = |word: &String| match word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Whether every file of `staging` is in `dir` too, and the same.
fn holds(dir: &Path, staging: &Path) -> eyre::Result<bool> {
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        let there = dir.join(entry.file_name());
        let same = if entry.file_type()?.is_dir() {
            holds(&there, &entry.path())?
        } else {
            fs::read(there).ok() == Some(fs::read(entry.path())?)
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devnet::{Options, plan::Hosts};

    const TIME: Duration = Duration::from_secs(1_800_000_000);

    fn plan(template: &str, base_port: Option<u16>) -> eyre::Result<Plan> {
        let options = Options {
            validators: 2,
            rollups: 1,
            attesters: 2,
            base_port,
            ..Options::new("/network".into(), "counterpoint".into())
        };
        let hosts = Hosts {
            listen: [0, 0, 0, 0].into(),
            template: template.into(),
            named: BTreeMap::from([("val-1".into(), "fd00::1".into())]),
        };
        Plan::on_hosts(&options, "try".into(), hosts)
    }

    fn write_to(dir: &Path, seed: &str) -> eyre::Result<Vec<Part>> {
        let plan = plan("{name}.example.org", None)?;
        let keys = Keys::Seed(seed.into());
        write(&plan, &keys, TIME, "/home".as_ref(), dir)
    }

    #[test]
    fn a_seed_gives_the_same_network_again_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        write_to(&one, "a").unwrap();
        write_to(&other, "a").unwrap();
        assert!(holds(&one, &other).unwrap() && holds(&other, &one).unwrap());

        // It is left as it is if it is the same, and if it is not.
        let notes = one.join("val-0/notes");
        fs::write(&notes, "mine").unwrap();
        write_to(&one, "a").unwrap();
        let refused = write_to(&one, "b").unwrap_err().to_string();
        assert!(refused.contains("one holds something else"), "{refused}");
        assert!(holds(&one, &other).unwrap() && notes.is_file());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn parts_find_each_other_by_their_hosts_and_their_files_at_home() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("network");
        let parts = write_to(&dir, "a").unwrap();
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        let config: toml::Table = read("val-0/val-0/cometbft/config/config.toml")
            .parse()
            .unwrap();
        let peers = config["p2p"]["persistent_peers"].as_str().unwrap();
        assert!(peers.ends_with("@[fd00::1]:26656"), "{peers}");
        assert_eq!(config["p2p"]["laddr"].as_str(), Some("tcp://0.0.0.0:26656"));
        let app = read("val-0/val-0-app.toml");
        assert!(app.contains("unix:///home/val-0/abci.sock"), "{app}");
        assert!(app.contains("http://127.0.0.1:26657"), "{app}");
        let composer: toml::Table = read("composer/composer.toml").parse().unwrap();
        let nodes = ["http://val-0.example.org:9090", "http://[fd00::1]:9090"];
        assert_eq!(
            composer["sequencers"],
            nodes.map(toml::Value::from).to_vec().into()
        );
        assert!(!composer.contains_key("limits"));
        let url = composer["rollups"][0]["execution_url"].as_str();
        assert_eq!(url, Some("http://alpha.example.org:8645"));
        assert_eq!(parts[3].prepare[0][..2], ["geth", "init"]);
        assert_eq!(parts[3].run[0].last().unwrap(), "*");
        let readme = read("README.md");
        assert!(readme.contains("\ncometbft node --home /home/val-0/cometbft\n"));
        assert!(readme.contains(" --http.vhosts '*'\n"));
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        let refused = |template: &str, port| plan(template, port).unwrap_err().to_string();
        let said = refused("http://{name}", None);
        assert!(
            said.starts_with("http://val-0 is no host for val-0"),
            "{said}"
        );
        let said = refused("a", Some(65_530));
        assert_eq!(said, "--base-port leaves too few ports");
    }
}
