//! Generates `src/generated/` from CometBFT's `.proto` files, or checks that it is current.
//!
//! `UPDATE_GENERATED=1 cargo test -p counterpoint-abci --test codegen` rewrites the code.

use std::{fs, path::Path};

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let temp = tempfile::tempdir().expect("a temporary directory");
    let file = root.join("proto/tendermint/abci/types.proto");
    let descriptors = protox::compile([file], [root.join("proto")]).expect("valid .proto files");
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(temp.path())
        .compile_fds(descriptors)
        .expect("generated code");
    let generated = root.join("src/generated");
    for name in [
        "tendermint.abci.rs",
        "tendermint.crypto.rs",
        "tendermint.types.rs",
    ] {
        let fresh = fs::read(temp.path().join(name)).expect("a generated file");
        let target = generated.join(name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&target, &fresh).expect("write");
        }
        assert!(
            fs::read(&target).is_ok_and(|current| current == fresh),
            "{name} is stale: run with UPDATE_GENERATED=1"
        );
    }
}
