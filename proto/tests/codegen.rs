//! Generates `src/generated/` from `proto/`, or checks that it is current.

use std::{fs, path::Path};

use prost::Message;

const FILES: [&str; 2] = [
    "proto/counterpoint/conductor/v1/conductor.proto",
    "proto/counterpoint/sequencer/v1/sequencer.proto",
];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let temp = tempfile::tempdir().expect("a temporary directory");
    let sources = FILES.map(|file| root.join(file));
    let descriptors = protox::compile(sources, [root.join("proto")]).expect("valid .proto files");
    fs::write(
        temp.path().join("descriptors.bin"),
        descriptors.encode_to_vec(),
    )
    .expect("write");
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(temp.path())
        .compile_fds(descriptors)
        .expect("generated code");
    let generated = root.join("src/generated");
    for entry in fs::read_dir(temp.path()).expect("read directory") {
        let path = entry.expect("entry").path();
        let target = generated.join(path.file_name().expect("file name"));
        let fresh = fs::read(&path).expect("read");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::create_dir_all(&generated).expect("create directory");
            fs::write(&target, &fresh).expect("write");
        }
        assert!(
            fs::read(&target).is_ok_and(|current| current == fresh),
            "{} is stale: run with UPDATE_GENERATED=1",
            target.display()
        );
    }
}
