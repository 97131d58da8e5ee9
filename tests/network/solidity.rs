//! The byte code in the repository is what the pinned compiler makes of the sources beside it.
//!
//! `just contracts` rewrites it.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use counterpoint::devnet::tools;
use serde_json::{Value, json};

use crate::support::say;

/// Sources, and what is kept of each contract that is deployed.
const SOURCES: [&str; 3] = ["IAtomicMailbox", "AtomicMailbox", "AtomicToken"];
const KEPT: [(&str, &str, &str); 3] = [
    ("AtomicMailbox", "bytecode", "init"),
    ("AtomicMailbox", "deployedBytecode", "runtime"),
    ("AtomicToken", "bytecode", "init"),
];

#[test]
fn byte_code_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
    let compiled = compile(&root.join("solidity"));
    for (contract, kind, name) in KEPT {
        let output = &compiled["contracts"][&format!("{contract}.sol")][contract];
        let fresh = output["evm"][kind]["object"].as_str().unwrap();
        let file = root.join(format!("generated/{contract}.{name}.hex"));
        if env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&file, fresh).unwrap();
        }
        assert!(
            fs::read_to_string(&file).is_ok_and(|current| current == fresh),
            "{} is stale: run `just contracts`",
            file.display()
        );
    }
}

fn compile(sources: &Path) -> Value {
    let compiler = tools::WALLETS
        .install(&say)
        .unwrap()
        .with_file_name("solcjs");
    let source = |name: &str| {
        let file = format!("{name}.sol");
        let content = fs::read_to_string(sources.join(&file)).unwrap();
        (file, json!({ "content": content }))
    };
    let input = json!({
        "language": "Solidity",
        "sources": SOURCES.map(source).into_iter().collect::<serde_json::Map<_, _>>(),
        "settings": {
            "evmVersion": "cancun",
            "optimizer": { "enabled": true, "runs": 200 },
            // No digest of the sources: a comment does not move the contract.
            "metadata": { "appendCBOR": false, "bytecodeHash": "none" },
            "outputSelection": { "*": { "*": ["evm.bytecode.object", "evm.deployedBytecode.object"] } },
        },
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("input.json");
    fs::write(&file, input.to_string()).unwrap();
    let output = Command::new(compiler)
        .arg("--standard-json")
        .stdin(Stdio::from(fs::File::open(file).unwrap()))
        .output()
        .unwrap();
    // It talks before it answers.
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text
        .find('{')
        .map(|start| &text[start..])
        .unwrap_or_default();
    let compiled: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(compiled["errors"], Value::Null, "{text}");
    compiled
}
