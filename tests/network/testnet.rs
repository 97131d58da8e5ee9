//! A network of many hosts from the folders that `genesis testnet` writes, all of its hosts being this one.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use alloy_provider::{Provider, ProviderBuilder};
use counterpoint::devnet::{
    plan::accounts,
    process::{Process, Spec},
    tools::{COMETBFT, GETH},
};
use serde_json::Value;

use crate::support::{receipt, say, sign_transfer, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");
/// More ports than the network has.
const ROW: u16 = 24;

/// The first of a row of ports that nobody has.
fn row_of_ports() -> u16 {
    let first = u16::try_from(std::process::id() % 300).unwrap() * ROW + 10_000;
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut rows = (0..300).map(|row| first + row * ROW);
    rows.find(|first| (*first..first + ROW).all(is_free))
        .unwrap()
}

fn testnet(home: &Path, base_port: u16, dir: &Path) -> Result<Value, String> {
    let output = Command::new(PROGRAM)
        .args([
            "genesis",
            "testnet",
            "--validators",
            "2",
            "--rollups",
            "1",
            "--attesters",
            "2",
        ])
        .args([
            "--host",
            "127.0.0.1",
            "--listen",
            "127.0.0.1",
            "--output",
            "json",
            "--home",
        ])
        .arg(home)
        .args(["--base-port", &base_port.to_string()])
        .arg(dir)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

fn copy(folder: &Path, home: &Path) {
    let copied = Command::new("cp")
        .arg("-R")
        .arg(folder.join("."))
        .arg(home)
        .status();
    assert!(copied.unwrap().success());
}

/// The command's program as it lies on this host, and its arguments.
fn command(command: &Value) -> (PathBuf, Vec<String>) {
    let mut words: Vec<String> = serde_json::from_value(command.clone()).unwrap();
    let args = words.split_off(1);
    let program = match words[0].as_str() {
        "cometbft" => COMETBFT.install(&say).unwrap(),
        "geth" => GETH.install(&say).unwrap(),
        _ => PROGRAM.into(),
    };
    (program, args)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_run_what_their_folders_say() {
    let directory = tempfile::tempdir().unwrap();
    let (dir, home) = (
        directory.path().join("network"),
        directory.path().join("home"),
    );
    fs::create_dir(&home).unwrap();
    let base_port = row_of_ports();
    let network = testnet(&home, base_port, &dir).unwrap();
    // Another one, with other keys, is not put in its place.
    let refused = testnet(&home, base_port, &dir).unwrap_err();
    assert!(refused.contains("holds something else"), "{refused}");

    let parts = network["parts"].as_array().unwrap();
    let names: Vec<&str> = parts
        .iter()
        .map(|part| part["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["val-0", "val-1", "composer", "alpha", "attester-1"]);
    let mut processes = Vec::new();
    for part in parts {
        let name = part["name"].as_str().unwrap();
        copy(&dir.join(name), &home);
        for prepare in part["prepare"].as_array().unwrap() {
            let (program, args) = command(prepare);
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{name}: {output:?}");
        }
        for run in part["run"].as_array().unwrap() {
            let (program, args) = command(run);
            let name = format!("{name}-{}", processes.len());
            let log = home.join(format!("{name}.log"));
            let spec = Spec {
                name,
                program,
                args,
                log,
            };
            let mut process = Process::new(spec, PROGRAM.as_ref());
            process.start().unwrap();
            processes.push(process);
        }
    }
    for part in parts {
        let url = format!("http://127.0.0.1:{}/readyz", part["ports"]["probes"]);
        wait_for(&format!("{} to be ready", part["name"]), || async {
            let answer = reqwest::get(&url).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    let provider = |part: usize, port: &str, path: &str| {
        let url = format!("http://127.0.0.1:{}/{path}", parts[part]["ports"][port]);
        ProviderBuilder::new()
            .connect_http(url.parse().unwrap())
            .erased()
    };
    let (composer, geth) = (provider(2, "rpc", "alpha"), provider(3, "execution", ""));
    let chain_id = composer.get_chain_id().await.unwrap();
    let raw = sign_transfer(accounts().remove(0), chain_id, 0, |request| request).await;
    let hash = *composer.send_raw_transaction(&raw).await.unwrap().tx_hash();
    assert!(receipt(&geth, hash).await.status());

    // What a key has signed is in no folder, so that no copy takes it back.
    let state = "cometbft/data/priv_validator_state.json";
    assert!(home.join("val-0").join(state).is_file());
    assert!(!dir.join("val-0/val-0").join(state).exists());
}
