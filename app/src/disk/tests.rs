use std::{env, path::Path, process::Command};

use bytes::Bytes;
use nix::sys::resource::{Resource, setrlimit};
use tempfile::tempdir;

use crate::testing::{Node, Proposal, transfer};

/// Tells the test that it is the process which runs out of room, and where.
const FULL: &str = "COUNTERPOINT_TEST_FULL_DISK";
/// Blocks that still find room.
const STORED: usize = 3;

/// The same blocks in every process.
async fn blocks() -> Vec<(Proposal, Bytes)> {
    let directory = tempdir().unwrap();
    let node = Node::start(directory.path()).await;
    let mut blocks = Vec::new();
    for nonce in 0..10 {
        assert_eq!(node.check(&transfer(1, nonce, 1)).await.0, 0);
        blocks.push(node.advance().await);
    }
    blocks
}

/// Takes blocks in until one finds no room; says why.
async fn fill(path: &Path) -> String {
    let blocks = blocks().await;
    let node = Node::start(path).await;
    for (at, (proposal, app_hash)) in blocks.iter().enumerate() {
        if at == STORED {
            // From here on every write fails, as on a full disk.
            setrlimit(Resource::RLIMIT_FSIZE, 1, 1).unwrap();
        }
        let finalized = node.finalize(proposal).await.unwrap();
        assert_eq!(finalized.app_hash, app_hash);
        if let Err(fault) = node.commit().await {
            return format!("block {at}: {fault:#}");
        }
    }
    "every block was acknowledged".into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_node_and_loses_nothing() {
    if let Some(path) = env::var_os(FULL) {
        let end = fill(path.as_ref()).await;
        eprintln!("{end}");
        // Without a clean end: as the node ends, or worse.
        std::process::exit(0);
    }
    let directory = tempdir().unwrap();
    let test = "disk::tests::a_full_disk_ends_the_node_and_loses_nothing";
    // A write beyond the limit is an error only for who ignores the signal.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FULL, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    let end = format!("block {STORED}: failed to write block {}", STORED + 1);
    assert!(said.contains(&end), "{said}");

    let blocks = blocks().await;
    let node = Node::open(directory.path());
    let height = node.info().await.last_block_height;
    assert_eq!(usize::try_from(height).unwrap(), STORED, "{said}");
    // CometBFT has what follows, and replays it.
    for (proposal, app_hash) in &blocks[STORED..] {
        assert_eq!(node.replay(proposal).await, app_hash);
    }
}
