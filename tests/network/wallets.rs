//! What wallets are made of, against the composer: cast, viem, ethers and web3.py, each as its
//! users have it, in scripts of its own beside this file; and their calls as they go over the wire,
//! next to what geth answers to them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use counterpoint::devnet::tools::{WALLETS, WEB3_PY};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Network, say};

/// How long a script may take, which waits for some thirty blocks one after the other.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn wallet_libraries_work_unchanged() {
    let packages = WALLETS.install(&say).unwrap();
    let python = WEB3_PY.install(&say).unwrap();
    let network = Network::start(1, 1).await;
    let bench = Bench::new(&network, &packages);
    let contract: Value = serde_json::from_str(&bench.node("compile.mjs", None).await).unwrap();
    // Each of them has an account to itself.
    let told = |account| Some(bench.tell(&network, account, &contract));
    tokio::join!(
        bench.node("cast.mjs", told(0)),
        bench.node("viem.mjs", told(1)),
        bench.node("ethers.mjs", told(2)),
        bench.node("raw.mjs", told(3)),
        bench.run(&python, "web3_py.py", told(4)),
    );
    network.stop().await;
}

/// A directory with the scripts and the packages that they use.
struct Bench {
    directory: PathBuf,
}

impl Bench {
    fn new(network: &Network, packages: &Path) -> Self {
        let directory = network.layout().dir.join("wallets");
        fs::create_dir(&directory).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("network/wallets");
        for script in fs::read_dir(source).unwrap() {
            let script = script.unwrap();
            fs::copy(script.path(), directory.join(script.file_name())).unwrap();
        }
        let modules = packages.ancestors().nth(2).unwrap();
        symlink(modules, directory.join("node_modules")).unwrap();
        Self { directory }
    }

    /// Writes down what a script must know.
    fn tell(&self, network: &Network, account: usize, contract: &Value) -> PathBuf {
        let rollup = &network.info.rollups[0];
        let told = json!({
            "http": rollup.composer_rpc,
            "ws": rollup.composer_rpc.replacen("http", "ws", 1),
            "geth": rollup.el_rpc,
            "chainId": rollup.evm_chain_id,
            "key": network.info.accounts[account].private_key,
            "contract": contract,
        });
        let path = self.directory.join(format!("account-{account}.json"));
        fs::write(&path, told.to_string()).unwrap();
        path
    }

    async fn node(&self, script: &str, told: Option<PathBuf>) -> String {
        self.run(Path::new("node"), script, told).await
    }

    /// Runs a script to its end; gives what it prints.
    async fn run(&self, program: &Path, script: &str, told: Option<PathBuf>) -> String {
        let mut command = Command::new(program);
        command.arg(self.directory.join(script)).args(told);
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {script}"));
        let output = output.unwrap();
        let [said, error] =
            [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        assert!(output.status.success(), "{script}:\n{said}{error}");
        eprintln!("{script}: {} steps", said.lines().count());
        said
    }
}
