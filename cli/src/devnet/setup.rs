//! Writes every file that a network's processes read.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use alloy_primitives::{U256, utils::Unit};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use counterpoint_conductor::chain_spec::{Specification, dev_genesis};
use counterpoint_core::{
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    primitive::{Address, Amount, EvmAddress, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    slot::SlotSecs,
};
use eyre::{WrapErr, bail};
use serde_json::json;
use tendermint::Time;

use super::plan::{Detours, Plan, RollupPlan, accounts, address, url};
use crate::keys;

/// Most bytes of a block that evidence may take.
const MAX_EVIDENCE_BYTES: u64 = 1 << 20;
/// Gas limit of every rollup block.
const GAS_LIMIT: u64 = 30_000_000;
/// What an account of the sequencer starts with: a million tokens of 9 decimals.
const SEQUENCER_BALANCE: u128 = 1_000_000_000_000_000;
/// A rollup's genesis block lies so many seconds in the past, so that its first slot is later
/// whatever a slot's length.
pub const GENESIS_MARGIN_SECS: u64 = 120;
/// Longest path of a unix socket.
const MAX_SOCKET_PATH: usize = 100;

/// Where the parts of a network lie.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The network's directory.
    pub dir: PathBuf,
}

impl Layout {
    /// CometBFT's home of a validator.
    #[must_use]
    pub fn cometbft_home(&self, validator: &str) -> PathBuf {
        self.dir.join(validator).join("cometbft")
    }

    /// The sequencer's genesis file, which everybody trusts.
    #[must_use]
    pub fn sequencer_genesis(&self) -> PathBuf {
        self.dir.join("sequencer-genesis.json")
    }

    /// The socket between CometBFT and the application. Paths of sockets are short.
    #[must_use]
    pub fn abci_socket(&self, validator: &str) -> PathBuf {
        socket(self.dir.join(validator).join("abci.sock"))
    }

    /// The configuration file of one of our services.
    #[must_use]
    pub fn service_config(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    /// A rollup's genesis file.
    #[must_use]
    pub fn rollup_genesis(&self, rollup: &str) -> PathBuf {
        self.dir.join(rollup).join("genesis.json")
    }

    /// The secret that geth and conductor share.
    #[must_use]
    pub fn jwt(&self, rollup: &str) -> PathBuf {
        self.dir.join(rollup).join("jwt.hex")
    }

    /// geth's data.
    #[must_use]
    pub fn geth_data(&self, rollup: &str) -> PathBuf {
        self.dir.join(rollup).join("geth-data")
    }

    /// geth's file that keeps it from listening to peers; a flag alone does not.
    #[must_use]
    pub fn geth_config(&self) -> PathBuf {
        self.dir.join("p2p-off.toml")
    }

    /// The composer's sequencer account.
    #[must_use]
    pub fn composer_key(&self) -> PathBuf {
        self.dir.join("composer.key")
    }

    /// A sequencer account with money, for people.
    #[must_use]
    pub fn faucet_key(&self) -> PathBuf {
        self.dir.join("faucet.key")
    }

    /// A process's log.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }
}

/// A path for a socket: the wanted one, unless it is too long to be one.
#[must_use]
pub fn socket(wanted: PathBuf) -> PathBuf {
    if wanted.as_os_str().len() <= MAX_SOCKET_PATH {
        return wanted;
    }
    let digest = alloy_primitives::keccak256(wanted.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("cpt-{}.sock", hex::encode(&digest[..8])))
}

/// Writes a new network to disk.
///
/// # Errors
/// A file cannot be written, or geth cannot be initialised.
pub fn write(plan: &Plan, layout: &Layout, geth: &Path, detours: &Detours) -> eyre::Result<()> {
    fs::create_dir_all(layout.dir.join("logs"))
        .wrap_err_with(|| format!("failed to create {}", layout.dir.display()))?;
    let faucet = keys::create(&layout.faucet_key())?;
    let composer = keys::create(&layout.composer_key())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let rollups = plan
        .rollups
        .iter()
        .map(|rollup| write_rollup(rollup, layout, geth, now, &faucet))
        .collect::<eyre::Result<_>>()?;
    let funded = [&faucet, &composer].map(|key| GenesisAccount {
        address: key.public_key().address(),
        balance: Amount::new(SEQUENCER_BALANCE),
    });
    let genesis = SequencerGenesis {
        accounts: funded.to_vec(),
        rollups,
    };
    write_validators(plan, layout, &genesis, now, detours)?;
    write_services(plan, layout)
}

fn write_rollup(
    rollup: &RollupPlan,
    layout: &Layout,
    geth: &Path,
    now: Duration,
    owner: &SecretKey,
) -> eyre::Result<RollupConfig> {
    fs::create_dir_all(layout.dir.join(&rollup.name))?;
    let timestamp = now.as_secs() - GENESIS_MARGIN_SECS;
    let balance = U256::from(1_000_000) * Unit::ETHER.wei();
    let alloc = accounts()
        .into_iter()
        .map(|account| (account.address(), balance));
    let genesis = dev_genesis(rollup.evm_chain_id, GAS_LIMIT, timestamp, alloc)?;
    let path = layout.rollup_genesis(&rollup.name);
    fs::write(&path, serde_json::to_vec_pretty(&genesis)?)?;
    let specification = Specification::load(&path)?;
    write_secret(&layout.jwt(&rollup.name), &hex::encode(keys::random()?))?;
    init_geth(geth, &layout.geth_data(&rollup.name), &path)?;
    Ok(RollupConfig {
        rollup_id: RollupId::from_name(&rollup.name),
        name: rollup.name.clone(),
        evm_chain_id: rollup.evm_chain_id,
        chain_spec_hash: specification.chain_spec().hash(),
        genesis_time: timestamp,
        first_height: Height::new(2),
        slot_secs: SlotSecs::new(rollup.slot_secs)?,
        gas_limit: GAS_LIMIT,
        max_tx_gas: GAS_LIMIT / 4,
        min_tip_wei: 1,
        allow_unprotected: false,
        fee_recipient: EvmAddress::new([0xfe; 20]),
        owner: owner.public_key().address(),
        tip_share_bps: 0,
        max_bytes_per_block: 2 << 20,
        max_items_per_block: 20_000,
        attesters: Vec::new(),
        status: RollupStatus::Active,
    })
}

fn init_geth(geth: &Path, data: &Path, genesis: &Path) -> eyre::Result<()> {
    let output = Command::new(geth)
        .args(["init", "--state.scheme", "hash", "--datadir"])
        .arg(data)
        .arg(genesis)
        .output()
        .wrap_err_with(|| format!("failed to run {}", geth.display()))?;
    if !output.status.success() {
        bail!(
            "geth init failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// An ed25519 key in CometBFT's files.
struct NodeKey(ed25519_consensus::SigningKey);

impl NodeKey {
    fn new() -> eyre::Result<Self> {
        Ok(Self(keys::random()?.into()))
    }

    fn public(&self) -> [u8; 32] {
        self.0.verification_key().to_bytes()
    }

    /// First 20 bytes of the public key's SHA-256, in hexadecimal; CometBFT writes the same.
    fn address(&self) -> String {
        let address: Address = counterpoint_core::key::PublicKey::new(self.public()).address();
        hex::encode(address.as_bytes())
    }

    fn public_json(&self) -> serde_json::Value {
        json!({ "type": "tendermint/PubKeyEd25519", "value": BASE64.encode(self.public()) })
    }

    fn private_json(&self) -> serde_json::Value {
        let both = [&self.0.to_bytes()[..], &self.public()].concat();
        json!({ "type": "tendermint/PrivKeyEd25519", "value": BASE64.encode(both) })
    }
}

fn write_validators(
    plan: &Plan,
    layout: &Layout,
    genesis: &SequencerGenesis,
    now: Duration,
    detours: &Detours,
) -> eyre::Result<()> {
    let mut keys = Vec::new();
    for _ in &plan.validators {
        keys.push((NodeKey::new()?, NodeKey::new()?));
    }
    let validators: Vec<_> = plan
        .validators
        .iter()
        .zip(&keys)
        .map(|(validator, (key, _))| {
            json!({
                "address": key.address().to_uppercase(),
                "pub_key": key.public_json(),
                "power": "10",
                "name": validator.name,
            })
        })
        .collect();
    let genesis_time = Time::from_unix_timestamp(i64::try_from(now.as_secs())?, 0)?;
    let document = json!({
        "genesis_time": genesis_time.to_rfc3339(),
        "chain_id": plan.chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": { "max_bytes": plan.max_block_bytes.to_string(), "max_gas": "-1" },
            "evidence": {
                "max_age_num_blocks": "100000",
                "max_age_duration": "172800000000000",
                "max_bytes": MAX_EVIDENCE_BYTES.min(plan.max_block_bytes).to_string(),
            },
            "validator": { "pub_key_types": ["ed25519"] },
            "version": { "app": "1" },
            "abci": { "vote_extensions_enable_height": "0" },
        },
        "validators": validators,
        "app_hash": "",
        "app_state": genesis,
    });
    let document = serde_json::to_vec_pretty(&document)?;
    fs::write(layout.sequencer_genesis(), &document)?;
    let ids: Vec<String> = keys.iter().map(|(_, node)| node.address()).collect();
    for (at, (validator, (key, node))) in plan.validators.iter().zip(&keys).enumerate() {
        let home = layout.cometbft_home(&validator.name);
        fs::create_dir_all(home.join("config"))?;
        fs::create_dir_all(home.join("data"))?;
        fs::write(home.join("config/genesis.json"), &document)?;
        let private = json!({
            "address": key.address().to_uppercase(),
            "pub_key": key.public_json(),
            "priv_key": key.private_json(),
        });
        write_secret(
            &home.join("config/priv_validator_key.json"),
            &private.to_string(),
        )?;
        let state = json!({ "height": "0", "round": 0, "step": 0 });
        fs::write(
            home.join("data/priv_validator_state.json"),
            state.to_string(),
        )?;
        let node = json!({ "priv_key": node.private_json() });
        write_secret(&home.join("config/node_key.json"), &node.to_string())?;
        let peers = peers_of(at, plan, &ids, detours).join(",");
        let config = cometbft_config(plan, layout, at, &peers, detours);
        fs::write(home.join("config/config.toml"), toml::to_string(&config)?)?;
    }
    Ok(())
}

/// Whom a validator dials: everybody, but for detours that the other one is not to take.
fn peers_of(at: usize, plan: &Plan, ids: &[String], detours: &Detours) -> Vec<String> {
    let peer = |(other, id): (usize, &String)| {
        let found_at = match detours.peers.get(&(at.min(other), at.max(other))) {
            _ if other == at => None,
            Some(detour) => (at < other).then_some(*detour),
            None => Some(address(plan.validators[other].p2p)),
        };
        found_at.map(|address| format!("{id}@{address}"))
    };
    ids.iter().enumerate().filter_map(peer).collect()
}

/// CometBFT's settings; what is left out keeps its default.
fn cometbft_config(
    plan: &Plan,
    layout: &Layout,
    at: usize,
    peers: &str,
    detours: &Detours,
) -> serde_json::Value {
    let validator = &plan.validators[at];
    let straight = layout.abci_socket(&validator.name);
    let socket = detours.abci.get(&at).unwrap_or(&straight);
    json!({
        "proxy_app": format!("unix://{}", socket.display()),
        "moniker": validator.name,
        "log_level": "info",
        "rpc": { "laddr": format!("tcp://{}", address(validator.rpc)) },
        "p2p": {
            "laddr": format!("tcp://{}", address(validator.p2p)),
            "persistent_peers": peers,
            "pex": false,
            "addr_book_strict": false,
            "allow_duplicate_ip": true,
            "flush_throttle_timeout": "1ms",
            "max_packet_msg_payload_size": 65_536,
            "send_rate": 104_857_600,
            "recv_rate": 104_857_600,
        },
        "mempool": { "type": "app", "reap_interval": "20ms" },
        "consensus": {
            "timeout_propose": "500ms",
            "timeout_commit": format!("{}ms", plan.block_interval_ms),
            "create_empty_blocks": true,
            "peer_gossip_sleep_duration": "5ms",
        },
        "storage": { "discard_abci_responses": true },
        "tx_index": { "indexer": "null" },
    })
}

fn write_services(plan: &Plan, layout: &Layout) -> eyre::Result<()> {
    let sequencers: Vec<String> = plan
        .validators
        .iter()
        .map(|validator| url(validator.grpc))
        .collect();
    let write = |name: &str, config: &serde_json::Value| {
        fs::write(layout.service_config(name), toml::to_string(config)?)
            .wrap_err_with(|| format!("failed to write the configuration of {name}"))
    };
    for validator in &plan.validators {
        let config = json!({
            "abci_listen": layout.abci_socket(&validator.name),
            "grpc_listen": address(validator.grpc),
            "http_listen": address(validator.http),
            "cometbft_rpc": url(validator.rpc),
            "data_dir": layout.dir.join(&validator.name).join("app"),
            "relay_gossip": false,
        });
        write(&format!("{}-app", validator.name), &config)?;
    }
    let rollups: Vec<_> = plan
        .rollups
        .iter()
        .map(|rollup| {
            json!({
                "name": rollup.name,
                "execution_url": url(rollup.el_rpc),
                "conductor_url": url(rollup.conductor_http),
            })
        })
        .collect();
    let Some(default_rollup) = plan.rollups.first() else {
        return Ok(());
    };
    let composer = json!({
        "rpc_listen": address(plan.composer.rpc),
        "http_listen": address(plan.composer.http),
        "data_dir": layout.dir.join("composer"),
        "sequencers": sequencers,
        "sequencer_genesis": layout.sequencer_genesis(),
        "key_file": layout.composer_key(),
        "default_rollup": default_rollup.name,
        "rollups": rollups,
    });
    write("composer", &composer)?;
    for rollup in &plan.rollups {
        let config = json!({
            "rollup": rollup.name,
            "sequencers": sequencers,
            "sequencer_genesis": layout.sequencer_genesis(),
            "rollup_genesis": layout.rollup_genesis(&rollup.name),
            "engine_url": url(rollup.engine),
            "jwt_file": layout.jwt(&rollup.name),
            "data_dir": layout.dir.join(&rollup.name).join("conductor"),
            "http_listen": address(rollup.conductor_http),
        });
        write(&format!("{}-conductor", rollup.name), &config)?;
    }
    let off = "[Node.P2P]\nListenAddr = \"\"\nMaxPeers = 0\nNoDiscovery = true\nNoDial = true\n";
    Ok(fs::write(layout.geth_config(), off)?)
}

fn write_secret(path: &Path, text: &str) -> eyre::Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
