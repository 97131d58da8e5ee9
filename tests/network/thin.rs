//! Thin mode: a conductor without state, beside a geth of its own, makes the blocks that another one
//! makes in embedded mode, through any crash; and both change their mode.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use alloy_network::Ethereum;
use alloy_primitives::B256;
use alloy_provider::{DynProvider, Provider, ProviderBuilder};
use counterpoint::devnet::{
    clients::Geth,
    ports,
    process::{Process, Spec},
    tools::GETH,
};
use counterpoint_proto::sequencer::BundleStage;

use crate::{
    attesters::bundle::{self, account},
    crashes::Traffic,
    road::state_is_the_clients_state,
    support::{Network, wait_for},
};

const CONDUCTOR: &str = "alpha-conductor";
const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn thin_mode_makes_the_same_blocks_and_modes_are_changed() {
    let network = Network::start_with(1, 2, |options| options.attesters = 1).await;
    let mut rollup = Traffic::start(network).await;
    let mut second = Second::start(&rollup.network, "thin").await;
    state_is_the_clients_state(&rollup.network).await;
    let sent = rollup.send().await;
    rollup.arrives(sent).await;
    second.agrees(&rollup.network).await;

    eprintln!("a message of an atomic bundle goes from one rollup to the other");
    let letter = bundle::letter(&rollup.network, account(1)).await;
    letter.hand_in(&rollup.network).await;
    letter.ends_as(&rollup.network, BundleStage::Executed).await;
    letter.ran(&rollup.network).await;
    second.agrees(&rollup.network).await;

    eprintln!("kill -9 of geth, of the conductor, of both");
    for (geth, conductor) in [(true, false), (false, true), (true, true)] {
        let sent = rollup.send().await;
        if geth {
            second.geth.kill().await.unwrap();
        }
        if conductor {
            second.conductor.kill().await.unwrap();
        }
        rollup.arrives(sent).await;
        second.geth.start().unwrap();
        second.conductor.start().unwrap();
        second.agrees(&rollup.network).await;
    }

    eprintln!("the store is lost: the client's blocks are taken over");
    second.conductor.kill().await.unwrap();
    assert!(second.refused(&["snapshot", "export", "nowhere"], "the store has no state"));
    fs::remove_dir_all(&second.data_dir).unwrap();
    let (code, text) = second.run(&["rebuild"]);
    assert_eq!(code, Some(0), "{text}");
    second.conductor.start().unwrap();
    second.agrees(&rollup.network).await;
    assert!(
        !second
            .log()
            .rsplit("starting from")
            .next()
            .unwrap()
            .contains("head=0 ")
    );

    eprintln!("modes are changed");
    for mode in ["embedded", "thin", "embedded"] {
        second
            .conductor
            .stop(Duration::from_secs(30))
            .await
            .unwrap();
        second.set_mode(mode);
        second.conductor.start().unwrap();
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
        second.agrees(&rollup.network).await;
    }
    assert_eq!(
        second
            .log()
            .matches("the store has the state again")
            .count(),
        2
    );

    eprintln!("the conductor that all use is killed, and comes back in thin mode");
    let config = rollup.network.layout().service_config(CONDUCTOR);
    for mode in ["thin", "embedded"] {
        rollup.network.devnet.kill(CONDUCTOR).await.unwrap();
        change(&config, |config| {
            config.insert("mode".into(), mode.into());
            attests_no_more(config);
        });
        rollup.network.devnet.launch(CONDUCTOR).await.unwrap();
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
        second.agrees(&rollup.network).await;
    }

    eprintln!("a client that cannot be asked is named");
    second
        .conductor
        .stop(Duration::from_secs(30))
        .await
        .unwrap();
    second.set_mode("thin");
    change(&second.config, |config| {
        config.remove("testing_ipc");
    });
    let (code, text) = second.run(&[]);
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("testing_ipc: must be set if mode is thin"),
        "{text}"
    );
    second.conductor.kill().await.unwrap();
    second.geth.kill().await.unwrap();
    rollup.network.stop().await;
}

fn change(path: &PathBuf, change: impl FnOnce(&mut toml::Table)) {
    let mut config: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// Without a state of its own a conductor cannot be an attester.
fn attests_no_more(config: &mut toml::Table) {
    config.remove("attester_key_file");
    config.remove("votes_dir");
}

/// Another conductor of the first rollup, with a geth of its own.
struct Second {
    geth: Process,
    conductor: Process,
    rpc: DynProvider<Ethereum>,
    config: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
}

impl Second {
    async fn start(network: &Network, mode: &str) -> Self {
        let layout = network.layout();
        let listeners = [(); 3].map(|()| ports::free().unwrap());
        let [engine, rpc, http] = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().port());
        drop(listeners);
        let at = |name: &str| layout.dir.join(format!("second-{name}"));
        let genesis = layout.rollup_genesis("alpha");
        let told: serde_json::Value = serde_json::from_slice(&fs::read(&genesis).unwrap()).unwrap();
        let gas_limit = told["gasLimit"].as_str().unwrap().trim_start_matches("0x");
        let geth = Geth {
            data: at("geth-data"),
            jwt: layout.jwt("alpha"),
            chain_id: network.info.rollups[0].evm_chain_id,
            gas_limit: u64::from_str_radix(gas_limit, 16).unwrap(),
            engine,
            ipc: at("geth.ipc"),
        };
        let program = GETH.install(&|_| ()).unwrap();
        geth.init(&program, &genesis).unwrap();
        let (config, data_dir) = (at("conductor.toml"), at("conductor"));
        fs::copy(layout.service_config(CONDUCTOR), &config).unwrap();
        change(&config, |config| {
            let url = format!("http://127.0.0.1:{engine}");
            config.insert("engine_url".into(), url.into());
            let ipc = geth.ipc.to_str().unwrap();
            config.insert("testing_ipc".into(), ipc.into());
            config.insert("data_dir".into(), data_dir.to_str().unwrap().into());
            config.insert("http_listen".into(), format!("127.0.0.1:{http}").into());
            config.insert("mode".into(), mode.into());
            attests_no_more(config);
            config.remove("grpc_listen");
            config.remove("rpc_listen");
        });
        let (log, path) = (layout.log("second-conductor"), config.to_str().unwrap());
        let process = |name: &str, program: PathBuf, args: Vec<String>| {
            let spec = Spec {
                name: name.into(),
                program,
                args,
                log: layout.log(name),
            };
            let mut process = Process::new(spec, PROGRAM.as_ref());
            process.start().unwrap();
            process
        };
        let args = ["conductor", "--config", path].map(str::to_owned);
        let url = format!("http://127.0.0.1:{rpc}").parse().unwrap();
        Self {
            geth: process("second-geth", program, geth.args(Some(rpc))),
            conductor: process("second-conductor", PROGRAM.into(), args.into()),
            rpc: ProviderBuilder::new().connect_http(url).erased(),
            config,
            data_dir,
            log,
        }
    }

    fn set_mode(&self, mode: &str) {
        change(&self.config, |config| {
            config.insert("mode".into(), mode.into());
        });
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Comes to where the first client is now, by the same blocks.
    async fn agrees(&self, network: &Network) {
        let head = network.geth(0).get_block_number().await.unwrap();
        for number in 1..=head {
            let ours = block_hash(&network.geth(0), number).await;
            let theirs = block_hash(&self.rpc, number).await;
            assert_eq!(ours, theirs, "block {number}");
        }
        eprintln!("the same {head} blocks");
    }

    /// Runs a command of the conductor; gives its exit code and all that it says.
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(PROGRAM);
        command.arg("conductor").args(args).arg("--config");
        let ended = command.arg(&self.config).output().unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (ended.status.code(), text)
    }

    /// Whether a command ends with a fault that says so.
    fn refused(&self, args: &[&str], reason: &str) -> bool {
        let (code, text) = self.run(args);
        eprintln!("{text}");
        code == Some(1) && text.contains(reason)
    }
}

async fn block_hash(client: &DynProvider<Ethereum>, number: u64) -> B256 {
    wait_for(&format!("block {number}"), || async {
        let block = client.get_block_by_number(number.into()).await.ok()??;
        Some(block.header.hash)
    })
    .await
}
