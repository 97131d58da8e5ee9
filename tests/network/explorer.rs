//! The explorer's page in a real browser, on a network with bundles; and what its server does with
//! questions that make no sense.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use alloy_primitives::{hex, keccak256};
use counterpoint::devnet::tools::{CHROMIUM, PLAYWRIGHT};
use counterpoint_proto::sequencer::BundleStage;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    attesters::bundle::{self, Transfers, account},
    support::{Network, raw_transfer, receipt, say, wait_for},
};

/// How long the browser may take for everything: it has eleven views to draw, up to four times.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_and_verifies_what_the_network_does() {
    let chromium = CHROMIUM.install(&say).unwrap();
    let packages = PLAYWRIGHT.install(&say).unwrap();
    let with = |options: &mut counterpoint::devnet::Options| options.attesters = 2;
    let network = Network::start_with(2, 2, with).await;

    let executed = Transfers::default().sample(&network, account(0)).await;
    executed.hand_in(&network).await;
    executed.ends_as(&network, BundleStage::Executed).await;
    let aborted = bundle::reverting(&network, account(0)).await;
    aborted.hand_in(&network).await;
    aborted.ends_as(&network, BundleStage::Aborted).await;

    let rollup = &network.info.rollups[0];
    let raw = raw_transfer(&network, rollup.evm_chain_id, 1, 0, |request| request).await;
    let sent = network
        .rpc(0, "eth_sendRawTransaction", json!([raw]))
        .await
        .unwrap();
    let hash = serde_json::from_value(sent).unwrap();
    receipt(&network.geth(0), hash).await;
    let place = wait_for("the place of a transaction", || async {
        let status = network.status(0, hash).await;
        status["index"].is_number().then_some(status)
    })
    .await;
    let later = raw_transfer(&network, rollup.evm_chain_id, 1, 1, |request| request).await;

    let composer = &network.info.composer.explorer;
    refuses_nonsense(composer, &network.info.validators[0].http).await;

    let kept = std::env::var_os("COUNTERPOINT_PICTURES");
    let told = json!({
        "chromium": chromium,
        "composer": composer,
        "node": format!("{}/explorer/", network.info.validators[0].http),
        "rpc": rollup.composer_rpc,
        "rollups": network.info.rollups.iter().map(|rollup| &rollup.name).collect::<Vec<_>>(),
        "validators": network.info.validators.len(),
        "transaction": hash,
        "place": { "height": place["height"], "index": place["index"] },
        "root": place["height"].as_u64().unwrap() - 2,
        "later": { "raw": hex::encode_prefixed(&later), "hash": keccak256(&later) },
        "executed": format!("0x{}", executed.bundle.id()),
        "aborted": format!("0x{}", aborted.bundle.id()),
        "every": kept.is_some(),
        "pictures": kept.map_or_else(|| network.layout().dir.join("pictures"), Into::into),
    });
    look(&network, &packages, &told).await;
    network.stop().await;
}

/// Drives the browser.
async fn look(network: &Network, packages: &Path, told: &Value) {
    let directory = network.layout().dir.join("explorer");
    fs::create_dir(&directory).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("explorer/page.mjs");
    fs::copy(script, directory.join("page.mjs")).unwrap();
    let modules = packages.ancestors().nth(2).unwrap();
    symlink(modules, directory.join("node_modules")).unwrap();
    fs::write(directory.join("told.json"), told.to_string()).unwrap();
    let driven = Command::new("node")
        .arg("page.mjs")
        .env("EXPLORER", "told.json")
        .current_dir(&directory)
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(PATIENCE, driven).await;
    let status = status.expect("the browser is done in time").unwrap();
    assert!(status.success(), "see what the browser said above");
}

/// Every question has an answer, and none breaks the server.
async fn refuses_nonsense(composer: &str, node: &str) {
    let hash = "00".repeat(32);
    let ends = [composer.to_owned(), format!("{node}/explorer/")];
    for (path, expected) in [
        ("api/blocks/0", StatusCode::NOT_FOUND),
        ("api/blocks/x", StatusCode::BAD_REQUEST),
        ("api/blocks/-1", StatusCode::BAD_REQUEST),
        ("api/blocks/18446744073709551616", StatusCode::BAD_REQUEST),
        ("api/blocks/18446744073709551615", StatusCode::NOT_FOUND),
        ("api/headers/18446744073709551615", StatusCode::NOT_FOUND),
        ("api/blocks?limit=0", StatusCode::BAD_REQUEST),
        ("api/blocks?limit=33", StatusCode::BAD_REQUEST),
        ("api/blocks?before=%00", StatusCode::BAD_REQUEST),
        ("api/rollups/nobody", StatusCode::NOT_FOUND),
        ("api/rollups/%3Cb%3E", StatusCode::NOT_FOUND),
        ("api/rollups?after=zz", StatusCode::BAD_REQUEST),
        ("api/rollups/alpha/lists/99999999", StatusCode::NOT_FOUND),
        ("api/rollups/alpha/lists/x", StatusCode::BAD_REQUEST),
        ("api/rollups/alpha/lists/5/99/proof", StatusCode::NOT_FOUND),
        (
            "api/rollups/alpha/lists/5/-1/proof",
            StatusCode::BAD_REQUEST,
        ),
        ("api/transactions/12", StatusCode::BAD_REQUEST),
        (
            &format!("api/transactions/{hash}/proof"),
            StatusCode::NOT_FOUND,
        ),
        (&format!("api/transactions/{hash}"), StatusCode::OK),
        (&format!("api/bundles/{hash}"), StatusCode::NOT_FOUND),
        ("api/bundles/%ff", StatusCode::BAD_REQUEST),
        ("api/events?after=x", StatusCode::BAD_REQUEST),
        ("api/nothing", StatusCode::NOT_FOUND),
        ("nothing.js", StatusCode::NOT_FOUND),
        ("..%2f..%2fetc%2fpasswd", StatusCode::NOT_FOUND),
    ] {
        for end in &ends {
            let answer = reqwest::get(format!("{end}{path}")).await.unwrap();
            assert_eq!(answer.status(), expected, "{end}{path}");
            if path.starts_with("api/") && expected != StatusCode::OK {
                let said: Value = answer.json().await.unwrap();
                let text = said["error"].as_str().unwrap();
                assert!(!text.is_empty() && text.len() < 200, "{text}");
            }
        }
    }
}
