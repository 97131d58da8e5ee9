//! The `devnet` command itself, as a person runs it: start, look, end it by force, resume, stop.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use counterpoint::devnet::tools;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::wait_for;

const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");

/// A supervisor that ends with the test.
struct Supervisor(Child);

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Supervisor {
    fn start(dir: &Path) -> Self {
        let child = command(dir, &["--rollups", "1"])
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(pid, signal).unwrap();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["devnet", "--dir"]).arg(dir).args(args);
    command
}

/// Standard output of a subcommand that must succeed, and standard error of one that must not.
fn run(dir: &Path, args: &[&str]) -> Result<String, String> {
    let output = command(dir, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// Process ids by name, as `devnet status` shows them, once the network runs.
async fn running(dir: &Path) -> Vec<(String, String)> {
    let status = wait_for("the network to run", || async {
        run(dir, &["status", "--output", "json"]).ok()
    })
    .await;
    let processes: Vec<Value> = serde_json::from_str(&status).unwrap();
    let process = |process: &Value| {
        let name = process["name"].as_str().unwrap();
        (name.to_owned(), process["pid"].to_string())
    };
    processes.iter().map(process).collect()
}

async fn height(dir: &Path) -> u64 {
    let output = Command::new(PROGRAM)
        .args(["query", "info", "--output", "json", "--dir"])
        .arg(dir)
        .output();
    let info: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    info["height"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_ends_with_its_supervisor_and_resumes() {
    // Building them may take minutes, which no deadline below allows for.
    for tool in [tools::COMETBFT, tools::GETH] {
        tool.install(&|step| eprintln!("network: {step}")).unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("net");
    // A first start that was interrupted.
    std::fs::create_dir_all(dir.join("val-0")).unwrap();
    std::fs::write(dir.join("incomplete"), "").unwrap();
    std::fs::write(dir.join("faucet.key"), "half a key").unwrap();
    let supervisor = Supervisor::start(&dir);
    let first = running(&dir).await;
    assert_eq!(first.len(), 5, "{first:?}");
    let second = run(&dir, &[]).unwrap_err();
    assert!(second.contains("a network already runs"), "{second}");
    let reset = run(&dir, &["reset"]).unwrap_err();
    assert!(reset.contains("stop it with Ctrl-C first"), "{reset}");
    let before = height(&dir).await;
    supervisor.signal(Signal::SIGKILL);
    wait_for("every part to end", || async {
        let gone = |(_, pid): &(String, String)| !Path::new("/proc").join(pid).exists();
        first.iter().all(gone).then_some(())
    })
    .await;
    drop(supervisor);
    let contradiction = run(&dir, &["--validators", "2"]).unwrap_err();
    assert!(contradiction.contains("was made with 1"), "{contradiction}");

    let mut supervisor = Supervisor::start(&dir);
    running(&dir).await;
    assert!(height(&dir).await >= before, "the chain goes on");
    supervisor.signal(Signal::SIGINT);
    let status = supervisor.0.wait().unwrap();
    assert!(status.success(), "{status}");
    run(&dir, &["reset"]).unwrap();
    assert!(!dir.exists());
}
