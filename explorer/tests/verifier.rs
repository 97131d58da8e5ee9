//! The page's verifier, run by Node.js on the vectors that core writes.

use std::{path::Path, process::Command};

#[test]
fn the_page_refuses_whatever_core_refuses() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify.test.mjs");
    let output = Command::new("node").arg("--test").arg(tests).output();
    let output = output.expect("node runs: install Node.js 20 or newer from https://nodejs.org");
    let said = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
}
