//! What is wrong with a machine, or with what a service needs; nothing is changed.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::U64;
use clap::Args;
use counterpoint_abci::ListenAddress;
use counterpoint_core::registry::RollupConfig;
use counterpoint_service::{
    ConfigError, Settings,
    doctor::{self, Check, Finding, PATIENCE},
    files::read_key,
    sequencer::Client,
    settings,
};
use serde_json::{Value, json};
use tendermint::Time;

use super::{Output, config::Service, genesis::specification, show};
use crate::devnet::tools::{self, COMETBFT, GETH};

/// What says that this machine's clock is set by systemd.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterpoint doctor\n  counterpoint doctor composer --config composer.toml\n  counterpoint doctor conductor --config conductor.toml --output json"
)]
pub(crate) struct DoctorArgs {
    /// Which service; this machine unless given.
    service: Option<Service>,
    /// The service's file.
    #[arg(long, value_name = "FILE", requires = "service")]
    config: Option<PathBuf>,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(args: DoctorArgs) -> eyre::Result<()> {
    let file = args.config.as_deref();
    let version = format!("counterpoint {}", env!("CARGO_PKG_VERSION"));
    let mut checks = vec![Check::of("version", Ok(version))];
    match args.service {
        None => checks.extend(machine()?),
        Some(Service::App) => {
            if let Some(config) = read("app", file, &mut checks) {
                checks.extend(app(&config).await);
            }
        }
        Some(Service::Composer) => {
            if let Some(config) = read("composer", file, &mut checks) {
                checks.extend(composer(&config).await);
            }
        }
        Some(Service::Conductor) => {
            if let Some(config) = read("conductor", file, &mut checks) {
                checks.extend(counterpoint_conductor::examine(&config).await?);
            }
        }
        Some(Service::Attester) => {
            if let Some(config) = read("attester", file, &mut checks) {
                checks.extend(attester(&config).await);
            }
        }
    }
    match args.output {
        Output::Json => show(&json!(checks), Output::Json)?,
        Output::Text => checks.iter().for_each(|check| print!("{}", check.line())),
    }
    doctor::conclude(&checks)
}

/// The configuration, if a service would start with it.
fn read<C: Settings>(service: &str, file: Option<&Path>, checks: &mut Vec<Check>) -> Option<C> {
    let read: Result<C, ConfigError> = settings(service, file, json!({}));
    let (finding, config) = match read {
        Ok(config) => (
            Ok("every key is known, every file there".to_owned()),
            Some(config),
        ),
        Err(error) => {
            let advice =
                "docs/configuration.md lists the keys; `counterpoint config print` shows yours";
            (Err((error.to_string(), advice)), None)
        }
    };
    checks.push(Check::of("configuration", finding));
    config
}

/// What a development network takes.
fn machine() -> eyre::Result<Vec<Check>> {
    let tool = |tool: tools::Tool| {
        let finding = tool.look().map_err(|error| {
            (
                format!("{error:#}"),
                "install what is missing, or put the program there yourself",
            )
        });
        Check::of(tool.title(), finding)
    };
    let clock = match Path::new(SYNCHRONIZED).exists() {
        true => Check::of("clock", Ok("set by NTP".to_owned())),
        false => Check::unknown(
            "clock",
            "systemd does not say whether it is set by NTP",
            "see that something sets it: validators stop at a minute's difference",
        ),
    };
    Ok(vec![
        tool(COMETBFT),
        tool(GETH),
        doctor::room("tools", &tools::directory()?),
        doctor::room("this directory", Path::new(".devnet")),
        clock,
    ])
}

async fn app(config: &counterpoint_app::Config) -> Vec<Check> {
    let mut listens = vec![("grpc_listen", config.grpc_listen)];
    let mut checks = Vec::new();
    match &config.abci_listen {
        ListenAddress::Tcp(address) => listens.push(("abci_listen", *address)),
        ListenAddress::Unix(path) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            checks.push(doctor::room("abci_listen", parent));
        }
    }
    checks.extend(doctor::ports(config.http_listen, &listens).await);
    checks.push(doctor::room("data_dir", &config.data_dir));
    checks.extend(cometbft(&config.cometbft_rpc).await);
    checks
}

/// The node's own CometBFT.
async fn cometbft(url: &str) -> Vec<Check> {
    let advice = "start CometBFT, and set cometbft_rpc to its rpc.laddr";
    let mut answer = match get(&format!("{}/status", url.trim_end_matches('/'))).await {
        Ok(answer) => answer,
        Err(error) => return vec![Check::of("cometbft", Err((error, advice)))],
    };
    let status = answer["result"].take();
    let sync = &status["sync_info"];
    let (Some(height), Some(time)) = (
        sync["latest_block_height"].as_str(),
        sync["latest_block_time"].as_str(),
    ) else {
        let told = format!("{url} does not answer as CometBFT does");
        return vec![Check::of("cometbft", Err((told, advice)))];
    };
    let chain = status["node_info"]["network"].as_str().unwrap_or("?");
    let found = format!("chain {chain}, height {height}");
    let mut checks = vec![Check::of("cometbft", Ok(found))];
    checks.push(Check::of("caught up", match sync["catching_up"].as_bool() {
        Some(false) => Ok("yes".to_owned()),
        _ => Err((
            format!("at height {height}"),
            "wait; if it does not move, see that persistent_peers names nodes that have the blocks",
        )),
    }));
    checks.push(Check::of(
        "clock",
        match time.parse::<Time>() {
            Ok(time) => doctor::clock(
                u64::try_from(time.unix_timestamp()).unwrap_or_default(),
                now(),
            ),
            Err(_) => Err((format!("{time} is no time"), advice)),
        },
    ));
    let power = status["validator_info"]["voting_power"]
        .as_str()
        .unwrap_or("0");
    checks.push(Check::of(
        "votes",
        Ok(match power {
            "0" => "none: this node is no validator".to_owned(),
            power => format!("with power {power}"),
        }),
    ));
    let peers = get(&format!("{}/net_info", url.trim_end_matches('/'))).await;
    let peers = peers
        .ok()
        .and_then(|info| info["result"]["n_peers"].as_str().map(str::to_owned));
    checks.push(match peers.as_deref() {
        None => Check::unknown("peers", "CometBFT does not tell", advice),
        Some("0") => Check::unknown(
            "peers",
            "none",
            "right for a lone validator; else see persistent_peers and the firewall of port 26656",
        ),
        Some(peers) => Check::of("peers", Ok(peers.to_owned())),
    });
    checks
}

async fn composer(config: &counterpoint_composer::Config) -> Vec<Check> {
    let listens = [("rpc_listen", config.rpc_listen)];
    let mut checks = doctor::ports(config.http_listen, &listens).await;
    checks.push(doctor::room("data_dir", &config.data_dir));
    let client = sequencer(&config.sequencer_genesis, &config.sequencers, &mut checks).await;
    checks.push(Check::of(
        "account",
        funds(client.as_ref(), &config.key_file).await,
    ));
    if let Some(bundles) = &config.bundles {
        checks.push(Check::of(
            "bundles' account",
            funds(client.as_ref(), &bundles.key_file).await,
        ));
    }
    for rollup in &config.rollups {
        let name = &rollup.name;
        checks.push(Check::of(
            name.clone(),
            execution(client.as_ref(), rollup).await,
        ));
        if let Some(url) = &rollup.conductor_url {
            let ready = get(&format!("{}/readyz", url.trim_end_matches('/'))).await;
            let finding = match ready {
                Ok(answer) if answer["ready"] == true => Ok(format!("{url} is ready")),
                Ok(answer) => Err((
                    format!("{url} is not ready: {}", answer["reasons"]),
                    "ask its own doctor: `counterpoint doctor conductor`",
                )),
                Err(error) => Err((error, "start the conductor, or mend conductor_url")),
            };
            checks.push(Check::of(format!("{name} conductor"), finding));
        }
    }
    checks
}

async fn attester(config: &counterpoint_conductor::attester::Config) -> Vec<Check> {
    let mut checks = doctor::ports(config.http_listen, &[]).await;
    checks.push(doctor::room("data_dir", &config.data_dir));
    checks.push(doctor::room("votes_dir", &config.votes_dir));
    let client = sequencer(&config.sequencer_genesis, &config.sequencers, &mut checks).await;
    let key = read_key(&config.key_file);
    checks.push(Check::of(
        "key",
        match &key {
            Ok(key) => Ok(key.public_key().to_string()),
            Err(error) => Err((error.to_string(), "make one by `counterpoint key new`")),
        },
    ));
    for rollup in &config.rollups {
        let finding = match specification(&rollup.genesis) {
            Ok(specification) => {
                let ours = specification.chain_spec().hash().to_string();
                let told = |config: &RollupConfig| config.chain_spec_hash.to_string();
                registered(client.as_ref(), &rollup.name, &ours, told).await
            }
            Err(error) => Err((format!("{error:#}"), "name the file that was registered")),
        };
        checks.push(Check::of(rollup.name.clone(), finding));
    }
    checks
}

/// Looks at genesis and nodes; gives a client of them if they are as they should be.
async fn sequencer(genesis: &Path, urls: &[String], checks: &mut Vec<Check>) -> Option<Client> {
    let (check, trusted) = doctor::trust(genesis);
    checks.push(check);
    checks.extend(doctor::sequencers(urls, trusted?.chain_id()).await);
    Client::new(urls).ok()
}

/// Whether an account can pay.
async fn funds(client: Option<&Client>, key_file: &Path) -> Finding {
    let key = read_key(key_file)
        .map_err(|error| (error.to_string(), "make one by `counterpoint key new`"))?;
    let address = key.public_key().address();
    let unknown = || {
        (
            format!("{address}: its balance is not known"),
            "mend the sequencer's nodes",
        )
    };
    let client = client.ok_or_else(unknown)?;
    let account = tokio::time::timeout(PATIENCE, client.account(&address)).await;
    let account = account.ok().and_then(Result::ok).ok_or_else(unknown)?;
    match account.balance.trim_start_matches('0') {
        "" => Err((
            format!("{address} has nothing"),
            "send it value: `counterpoint tx transfer`",
        )),
        balance => Ok(format!("{address} has {balance}")),
    }
}

/// Whether an execution client is the rollup's.
async fn execution(
    client: Option<&Client>,
    rollup: &counterpoint_composer::RollupSettings,
) -> Finding {
    let url = &rollup.execution_url;
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let asked = async {
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        http.post(url)
            .json(&request)
            .send()
            .await?
            .json::<Value>()
            .await
    };
    let advice = "start the client, and set execution_url to its public port";
    let answer = asked
        .await
        .map_err(|error| (format!("{url}: {error}"), advice))?;
    let id: Result<U64, _> = serde_json::from_value(answer["result"].clone());
    let id = id.map_err(|_| (format!("{url} does not answer as a client does"), advice))?;
    let (ours, told) = (id.to::<u64>().to_string(), |config: &RollupConfig| {
        config.evm_chain_id.to_string()
    });
    registered(client, &rollup.name, &ours, told).await
}

/// Whether what we have of a rollup is what the sequencer knows of it.
async fn registered(
    client: Option<&Client>,
    name: &str,
    ours: &str,
    told: impl FnOnce(&RollupConfig) -> String,
) -> Finding {
    let unknown = |error: String| {
        (
            format!("{name}: {error}"),
            "register it, or mend its name and the sequencer's nodes",
        )
    };
    let client = client.ok_or_else(|| unknown("the sequencer cannot be asked".to_owned()))?;
    let config = tokio::time::timeout(PATIENCE, client.rollup(name)).await;
    let config = config
        .map_err(|_| unknown(format!("no answer within {PATIENCE:?}")))?
        .map_err(|error| unknown(error.to_string()))?;
    let theirs = told(&config);
    match theirs == ours {
        true => Ok(format!("{ours}, as registered")),
        false => Err((
            format!("{ours}, registered is {theirs}"),
            "it belongs to another rollup: mend the key",
        )),
    }
}

async fn get(url: &str) -> Result<Value, String> {
    let asked = async {
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        http.get(url).send().await?.json().await
    };
    asked
        .await
        .map_err(|error: reqwest::Error| format!("{url}: {error}"))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[tokio::test]
    async fn a_composer_without_anything_is_told_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let genesis = directory.path().join("genesis.json");
        std::fs::write(&genesis, "{}").unwrap();
        let example = include_str!("../../../composer/example.toml");
        let mut config: counterpoint_composer::Config = toml::from_str(example).unwrap();
        config.data_dir = directory.path().join("composer");
        config.sequencer_genesis = genesis;
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        (config.http_listen, config.rpc_listen) = (free, free);
        config.rollups[0].execution_url = "http://127.0.0.1:1".into();
        config.rollups[0].conductor_url = Some("http://127.0.0.1:1".into());
        let checks = composer(&config).await;
        let wrong: Vec<_> = checks
            .iter()
            .filter(|check| check.verdict == doctor::Verdict::Wrong)
            .map(|check| check.check.as_str())
            .collect();
        let expected = [
            "sequencer genesis",
            "account",
            "bundles' account",
            "alpha",
            "alpha conductor",
        ];
        assert_eq!(wrong, expected, "{checks:#?}");
        assert!(
            checks
                .iter()
                .all(|check| check.verdict == doctor::Verdict::Ok || !check.advice.is_empty())
        );
    }
}
