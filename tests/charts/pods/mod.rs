//! The pods of the charts as processes: what is rendered is started, as the user and on the volumes that
//! it names, and makes a network.
//!
//! A node of namespaces stands for the cluster, which takes root: `just pods` runs it.

mod kubelet;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use alloy_network::{EthereumWallet, TransactionBuilder};
use alloy_primitives::{Address, U256};
use alloy_provider::{Provider, ProviderBuilder};
use alloy_rpc_types_eth::TransactionRequest;
use counterpoint::devnet::{
    Detours, Options,
    plan::{Plan, accounts},
    setup::{self, Layout},
    tools::{COMETBFT, GETH, TMKMS},
};
use nix::unistd::{AccessFlags, access};
use serde_json::{Value, json};

use self::kubelet::{Files, Node, Pod};
use crate::render::{CHARTS, helm, of_kind, parse, render, say};

/// Tells the test that it is in the node.
const INSIDE: &str = "COUNTERPOINT_TEST_NODE";
const TEST: &str = "pods::pods_make_a_network";
/// Brings up the loopback device of a new network: SIOCSIFFLAGS with IFF_UP.
const LOOPBACK: &str = "import fcntl, socket, struct; \
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 1))";
/// What the charts call the images of our programs.
const IMAGES: [&str; 3] = ["counterpoint", "cometbft", "ethereum/client-go"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes namespaces and users, as root: `just pods` runs it"]
async fn pods_make_a_network() {
    if env::var_os(INSIDE).is_none() {
        return enter();
    }
    let up = Command::new("python3").args(["-c", LOOPBACK]).status();
    assert!(up.unwrap().success(), "the node has no network");
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(directory.path());
    let mut sequencer = cluster.install("sequencer", &sequencer_values()).await;
    sequencer.turns_green().await;
    let conductor_values = conductor_values(&cluster.plan);
    let mut conductor = cluster.install("conductor", &conductor_values).await;
    conductor.turns_green().await;
    let mut composer = cluster.install("composer", &composer_values()).await;
    composer.turns_green().await;
    for pod in [&sequencer, &conductor, &composer] {
        pod.statuses()
            .iter()
            .for_each(|status| is_restricted(status));
    }
    for name in CHARTS {
        cluster.node.test(&cluster.objects[name]).await;
    }
    send(0).await;

    eprintln!("cometbft is gone, and comes back");
    sequencer.kill("cometbft").await;
    sequencer.turns_red().await;
    sequencer.restart("cometbft").await;
    sequencer.turns_green().await;
    send(1).await;

    eprintln!("the app is gone: cometbft ends, and both come back");
    sequencer.kill("app").await;
    sequencer.turns_red().await;
    let ended = sequencer.ends("cometbft").await;
    eprintln!("cometbft ended: {ended:?}");
    sequencer.restart("app").await;
    sequencer.restart("cometbft").await;
    sequencer.turns_green().await;
    send(2).await;

    eprintln!("the client is gone, and comes back");
    conductor.kill("client").await;
    conductor.turns_red().await;
    conductor.restart("client").await;
    conductor.turns_green().await;
    send(3).await;

    eprintln!("conductor and composer are gone, and come back");
    conductor.kill("conductor").await;
    composer.kill("composer").await;
    conductor.turns_red().await;
    composer.turns_red().await;
    conductor.restart("conductor").await;
    composer.restart("composer").await;
    conductor.turns_green().await;
    composer.turns_green().await;
    send(4).await;

    eprintln!("thin mode, on the same volumes");
    composer.stop().await;
    conductor.stop().await;
    let mut thin = conductor_values.clone();
    thin["config"]["mode"] = json!("thin");
    let mut conductor = cluster.install("conductor", &thin).await;
    conductor.turns_green().await;
    let mut composer = cluster.install("composer", &composer_values()).await;
    composer.turns_green().await;
    send(5).await;
    composer.stop().await;
    conductor.stop().await;
    sequencer.stop().await;

    eprintln!("a remote signer votes for the node");
    let mut signer = cluster.hand_key_over();
    let mut values = sequencer_values();
    values["consensusKey"] = json!({});
    values["remoteSigner"] = json!({ "enabled": true });
    let mut sequencer = cluster.install("sequencer", &values).await;
    sequencer.turns_green().await;
    sequencer.stop().await;
    signer.kill().unwrap();
    signer.wait().unwrap();
}

/// Runs the test in namespaces of its own: ports, mounts and processes go with it.
fn enter() {
    let root = access("/etc/shadow", AccessFlags::R_OK).is_ok();
    assert!(root, "namespaces, mounts and other users take root");
    // In there nothing can be fetched.
    for tool in [COMETBFT, GETH, TMKMS] {
        tool.install(&say).unwrap();
    }
    assert!(helm(&["version"]).status.success());
    let test = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--mount-proc", "--kill-child"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", TEST, "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(test.unwrap().success());
}

/// What charts are installed into.
struct Cluster {
    node: Node,
    plan: Plan,
    /// What was rendered last, by chart.
    objects: BTreeMap<&'static str, Vec<Value>>,
}

impl Cluster {
    /// A node, and in it the genesis files and keys of a network of one validator and one rollup.
    fn new(dir: &Path) -> Self {
        let layout = Layout {
            dir: dir.join("network"),
        };
        let options = Options {
            rollups: 1,
            ..Options::new(layout.dir.clone(), PathBuf::new())
        };
        let plan = Plan::new(&options).unwrap();
        let [cometbft, geth] = [COMETBFT, GETH].map(|tool| tool.install(&say).unwrap());
        fs::create_dir(&layout.dir).unwrap();
        setup::write(&plan, &layout, &geth, &Detours::default()).unwrap();
        let file =
            |name: &str, path: PathBuf| Files::from([(name.to_owned(), fs::read(path).unwrap())]);
        let config_maps = [
            (
                "chain-genesis",
                file("genesis.json", layout.sequencer_genesis()),
            ),
            (
                "alpha-genesis",
                file("genesis.json", layout.rollup_genesis("alpha")),
            ),
        ];
        let secrets = [
            (
                "consensus",
                file("priv_validator_key.json", layout.consensus_key("val-0")),
            ),
            ("node", file("node_key.json", layout.node_key("val-0"))),
            ("account", file("composer.key", layout.composer_key())),
            ("bundles", file("bundles.key", layout.bundles_key())),
            ("jwt", file("jwt.hex", layout.jwt("alpha"))),
        ];
        let program = PathBuf::from(env!("CARGO_BIN_EXE_counterpoint-under-test"));
        let named = |(name, files): (&str, Files)| (name.to_owned(), files);
        let node = Node {
            dir: dir.to_owned(),
            programs: IMAGES.into_iter().zip([program, cometbft, geth]).collect(),
            config_maps: config_maps.map(named).into(),
            secrets: secrets.map(named).into(),
            hosts: Vec::new(),
        };
        Self {
            node,
            plan,
            objects: BTreeMap::new(),
        }
    }

    /// Renders a chart with these values and starts its pod.
    async fn install(&mut self, chart: &'static str, values: &Value) -> Pod {
        eprintln!("installing {chart}");
        let file = self.node.dir.join(format!("{chart}.yaml"));
        fs::write(&file, values.to_string()).unwrap();
        let objects = parse(&render(chart, &file, &[]).unwrap());
        for service in of_kind(&objects, "Service") {
            let name = service["metadata"]["name"].as_str().unwrap().to_owned();
            self.node.hosts.push(name);
        }
        let pod = self.node.start(&objects).await;
        self.objects.insert(chart, objects);
        pod
    }

    /// Starts a signer with the validator's key and with what its CometBFT has signed, which has stopped.
    fn hand_key_over(&self) -> Child {
        let (home, tmkms) = (self.node.dir.join("signer"), TMKMS.install(&say).unwrap());
        fs::create_dir(&home).unwrap();
        let (shown, chain_id) = (home.display(), &self.plan.chain_id);
        let config = format!(
            "[[chain]]\nid = \"{chain_id}\"\nkey_format = {{ type = \"hex\" }}\n\
             state_file = \"{shown}/state.json\"\n\
             [[validator]]\nchain_id = \"{chain_id}\"\naddr = \"tcp://127.0.0.1:26659\"\n\
             secret_key = \"{shown}/identity.key\"\n\
             [[providers.softsign]]\nchain_ids = [\"{chain_id}\"]\nkey_type = \"consensus\"\n\
             path = \"{shown}/consensus.key\"\n"
        );
        fs::write(home.join("tmkms.toml"), config).unwrap();
        let key = home.join("priv_validator_key.json");
        fs::write(
            &key,
            &self.node.secrets["consensus"]["priv_validator_key.json"],
        )
        .unwrap();
        let signed = self.node.dir.join("claims/r-sequencer-0/cometbft/data");
        let program = &self.node.programs["counterpoint"];
        let path = |name| home.join(name).into_os_string();
        let run = |program: &Path, args: &[OsString]| {
            assert!(Command::new(program).args(args).status().unwrap().success());
        };
        let word = OsString::from;
        run(
            &tmkms,
            &[
                word("softsign"),
                word("import"),
                key.into(),
                path("consensus.key"),
            ],
        );
        run(
            &tmkms,
            &[word("softsign"), word("keygen"), path("identity.key")],
        );
        run(
            program,
            &[
                word("signing-state"),
                signed.into(),
                word("--tmkms"),
                path("state.json"),
            ],
        );
        let mut signer = Command::new(tmkms);
        signer.args(["start", "-c"]).arg(path("tmkms.toml"));
        signer.spawn().unwrap()
    }
}

fn sequencer_values() -> Value {
    json!({
        "genesis": { "existingConfigMap": "chain-genesis" },
        "consensusKey": { "existingSecret": "consensus" },
        "nodeKey": { "existingSecret": "node" },
    })
}

fn conductor_values(plan: &Plan) -> Value {
    json!({
        "sequencerGenesis": { "existingConfigMap": "chain-genesis" },
        "rollupGenesis": { "existingConfigMap": "alpha-genesis" },
        "jwt": { "existingSecret": "jwt" },
        "config": { "rollup": "alpha", "sequencers": ["http://r-sequencer:9090"] },
        "client": { "sidecar": {
            "chainId": plan.rollups[0].evm_chain_id,
            "gasLimit": 30_000_000,
            "cacheMb": 64,
        } },
    })
}

fn composer_values() -> Value {
    json!({
        "genesis": { "existingConfigMap": "chain-genesis" },
        "accountKey": { "existingSecret": "account" },
        "bundlesKey": { "existingSecret": "bundles" },
        "config": {
            "sequencers": ["http://r-sequencer:9090"],
            "bundles": { "public": true },
            "rollups": [{
                "name": "alpha",
                "execution_url": "http://r-conductor:8645",
                "conductor_url": "http://r-conductor:9093",
                "conductor_grpc_url": "http://r-conductor:9094",
            }],
        },
    })
}

/// Pod Security's word, kept by the process.
fn is_restricted(status: &str) {
    let line = |name: &str| {
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(line("Uid:"), ["65532"; 4].join("\t"));
    assert_eq!(line("Gid:"), ["65532"; 4].join("\t"));
    assert_eq!(line("CapEff:"), "0".repeat(16));
    assert_eq!(line("NoNewPrivs:"), "1");
}

/// A wallet sends a transfer to the composer, and sees its receipt at the client.
async fn send(nonce: u64) {
    let wallet = EthereumWallet::from(accounts()[0].clone());
    let composer = "http://127.0.0.1:8545/alpha".parse().unwrap();
    let composer = ProviderBuilder::new().wallet(wallet).connect_http(composer);
    let transfer = TransactionRequest::default()
        .with_to(Address::repeat_byte(0x77))
        .with_value(U256::from(1))
        .with_nonce(nonce);
    let hash = *composer.send_transaction(transfer).await.unwrap().tx_hash();
    let client = ProviderBuilder::new().connect_http("http://127.0.0.1:8645".parse().unwrap());
    let receipt = async {
        loop {
            if let Ok(Some(receipt)) = client.get_transaction_receipt(hash).await {
                return receipt;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let receipt = tokio::time::timeout(Duration::from_secs(90), receipt).await;
    assert!(
        receipt
            .unwrap_or_else(|_| panic!("no receipt of {hash}"))
            .status()
    );
}
