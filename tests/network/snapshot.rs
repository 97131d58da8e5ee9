//! A second conductor begins with the first one's state, and a doctor looks at it.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
};

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, U256};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionRequest;

use crate::support::{Network, receipt, wait_for};

const CONDUCTOR: &str = "alpha-conductor";
const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn a_conductor_goes_on_from_a_snapshot() {
    let mut network = Network::start(1, 1).await;
    let geth = network.geth(0);
    transfer(&network).await;
    wait_for("three blocks", || async {
        geth.get_block_number().await.ok().filter(|head| *head >= 3)
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alpha.snapshot");
    // The store belongs to the conductor that runs.
    refused(&network, "export", &file, "in use by another process").await;
    network.devnet.kill(CONDUCTOR).await.unwrap();
    let (code, text) = snapshot(&network, "export", &file).await;
    assert_eq!(code, Some(0), "{text}");
    refused(&network, "export", &file, "exists already").await;
    refused(&network, "import", &file, "data_dir holds blocks").await;
    let path = file.to_str().unwrap();
    let (code, text) = conductor(&network, &["snapshot", "import", "--if-empty", path]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("data_dir holds blocks already"), "{text}");

    let store = network.layout().dir.join("alpha/conductor");
    fs::remove_dir_all(&store).unwrap();
    let half = directory.path().join("half");
    let bytes = fs::read(&file).unwrap();
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    refused(&network, "import", &half, "ends too early").await;
    killed_in_the_middle(&network, &bytes, directory.path()).await;
    // What that left behind does not matter.
    let (code, text) = snapshot(&network, "import", &file).await;
    assert_eq!(code, Some(0), "{text}");
    let head = geth.get_block_number().await.unwrap();
    network.devnet.launch(CONDUCTOR).await.unwrap();
    transfer(&network).await;
    let log = network.log(CONDUCTOR);
    let last = log.rsplit("starting from").next().unwrap();
    assert!(!last.contains("head=0 "), "it has begun anew: {last}");
    // All blocks, those of both conductors, are what the sequencer's order gives.
    let now = geth.get_block_number().await.unwrap();
    assert!(now > head, "{now} after {head}");
    doctor_finds_what_is_wrong(&mut network).await;
    let to = now.to_string();
    let (code, text) = conductor(&network, &["verify", "--to", &to]).await;
    assert_eq!(code, Some(0), "{text}");
    network.stop().await;
}

async fn doctor_finds_what_is_wrong(network: &mut Network) {
    let (code, text) = conductor(network, &["doctor"]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ok      fork schedule"), "{text}");
    assert!(!text.contains("unknown "), "{text}");
    let jwt = network.layout().jwt(&network.info.rollups[0].name);
    let secret = fs::read(&jwt).unwrap();
    fs::write(&jwt, "0".repeat(64)).unwrap();
    let (code, text) = conductor(network, &["doctor", "--output", "json"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("refuses the JWT"), "{text}");
    fs::write(&jwt, secret).unwrap();
}

/// Kill −9 of an import that waits for the end of its file: a pipe, which gives what a test puts in.
async fn killed_in_the_middle(network: &Network, bytes: &[u8], directory: &Path) {
    let (pipe, log) = (directory.join("pipe"), directory.join("log"));
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let mut import = Command::new(PROGRAM)
        .args(["conductor", "snapshot", "import"])
        .arg(&pipe)
        .arg("--config")
        .arg(network.layout().service_config(CONDUCTOR))
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let start = bytes[..bytes.len() - 40].to_vec();
    let writing = tokio::task::spawn_blocking(move || {
        let mut input = File::create(pipe).unwrap();
        input.write_all(&start).unwrap();
        input
    });
    let input = writing.await.unwrap();
    wait_for("an import in the middle of the state", || async {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("reading the state").then_some(())
    })
    .await;
    import.kill().unwrap();
    assert!(!import.wait().unwrap().success());
    drop(input);
}

async fn transfer(network: &Network) {
    let request = TransactionRequest::default()
        .with_to(Address::repeat_byte(0x11))
        .with_value(U256::from(1));
    let wallet = network.wallet(0, 0);
    let hash = *wallet.send_transaction(request).await.unwrap().tx_hash();
    assert!(receipt(&network.geth(0), hash).await.status());
}

async fn refused(network: &Network, what: &str, file: &Path, reason: &str) {
    let (code, text) = snapshot(network, what, file).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(reason), "{text}");
}

async fn snapshot(network: &Network, what: &str, file: &Path) -> (Option<i32>, String) {
    conductor(network, &["snapshot", what, file.to_str().unwrap()]).await
}

/// Runs another command of the conductor; gives its exit code and all that it says.
async fn conductor(network: &Network, args: &[&str]) -> (Option<i32>, String) {
    let ended = tokio::process::Command::new(PROGRAM)
        .arg("conductor")
        .args(args)
        .arg("--config")
        .arg(network.layout().service_config(CONDUCTOR))
        .output()
        .await
        .unwrap();
    let text = [ended.stdout, ended.stderr].concat();
    (
        ended.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
