//! Writes every file that a network's processes read.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use alloy_primitives::{U256, utils::Unit};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use counterpoint_conductor::{
    chain_spec::{Specification, dev_genesis},
    evm::MemStore,
};
use counterpoint_core::{
    atomic::{AttesterKeys, AttesterSet, Attesters},
    authority::Authority,
    genesis::{GenesisAccount, SequencerGenesis},
    key::{PublicKey, SecretKey},
    primitive::{Address, Amount, EvmAddress, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    slot::SlotSecs,
};
use eyre::{OptionExt, WrapErr};
use serde_json::json;
use tendermint::Time;

use super::clients::Geth;
use super::plan::{Detours, Plan, RollupPlan, ValidatorPlan, accounts, address, url};
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
/// Heights between snapshots: a network on one machine is short-lived.
pub const SNAPSHOT_INTERVAL: u64 = 50;
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

    /// The key that a validator votes with.
    #[must_use]
    pub fn consensus_key(&self, validator: &str) -> PathBuf {
        let home = self.cometbft_home(validator);
        home.join("config/priv_validator_key.json")
    }

    /// The key that peers know a node by.
    #[must_use]
    pub fn node_key(&self, validator: &str) -> PathBuf {
        self.cometbft_home(validator).join("config/node_key.json")
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

    /// geth's socket. Paths of sockets are short.
    #[must_use]
    pub fn geth_ipc(&self, rollup: &str) -> PathBuf {
        socket(self.dir.join(rollup).join("geth.ipc"))
    }

    /// A rollup's geth.
    #[must_use]
    pub fn geth(&self, rollup: &RollupPlan) -> Geth {
        Geth {
            data: self.geth_data(&rollup.name),
            jwt: self.jwt(&rollup.name),
            chain_id: rollup.evm_chain_id,
            gas_limit: GAS_LIMIT,
            engine: rollup.engine,
            ipc: self.geth_ipc(&rollup.name),
        }
    }

    /// The composer's sequencer account.
    #[must_use]
    pub fn composer_key(&self) -> PathBuf {
        self.dir.join("composer.key")
    }

    /// The composer's sequencer account for atomic bundles.
    #[must_use]
    pub fn bundles_key(&self) -> PathBuf {
        self.dir.join("bundles.key")
    }

    /// A sequencer account with money, for people.
    #[must_use]
    pub fn faucet_key(&self) -> PathBuf {
        self.dir.join("faucet.key")
    }

    /// The key of an attester, which is a rollup's conductor or a part of its own.
    #[must_use]
    pub fn attester_key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-attester.key"))
    }

    /// What was said with that key.
    #[must_use]
    pub fn votes(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-votes"))
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
    let bundles = keys::create(&layout.bundles_key())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let others = plan.attesters.iter();
    let others = others.map(|attester| keys::create(&layout.attester_key(&attester.name)));
    let others: Vec<PublicKey> = others
        .map(|key| Ok(key?.public_key()))
        .collect::<eyre::Result<_>>()?;
    let rollups = plan
        .rollups
        .iter()
        .map(|rollup| {
            let attesters = match plan.attested {
                true => attesters(rollup, layout, &others)?,
                false => Attesters::default(),
            };
            write_rollup(rollup, layout, geth, now, &faucet, attesters)
        })
        .collect::<eyre::Result<_>>()?;
    let funded = [&faucet, &composer, &bundles].map(|key| GenesisAccount {
        address: key.public_key().address(),
        balance: Amount::new(SEQUENCER_BALANCE),
    });
    let genesis = SequencerGenesis {
        accounts: funded.to_vec(),
        rollups,
        authority: Some(Authority::new(1, vec![faucet.public_key().address()])?),
        fees: plan.fees.clone(),
    };
    write_validators(plan, layout, &genesis, now, detours)?;
    write_services(plan, layout)
}

/// A rollup's conductor and the others; most of them must agree.
fn attesters(
    rollup: &RollupPlan,
    layout: &Layout,
    others: &[PublicKey],
) -> eyre::Result<Attesters> {
    let conductor = keys::create(&layout.attester_key(&rollup.name))?.public_key();
    let mut keys = [&[conductor], others].concat();
    keys.sort();
    let threshold = u8::try_from(keys.len() / 2 + 1)?;
    Ok(Attesters(Some(AttesterSet {
        epoch: 1,
        members: AttesterKeys::new(keys, threshold)?,
    })))
}

fn write_rollup(
    rollup: &RollupPlan,
    layout: &Layout,
    geth: &Path,
    now: Duration,
    owner: &SecretKey,
    attesters: Attesters,
) -> eyre::Result<RollupConfig> {
    fs::create_dir_all(layout.dir.join(&rollup.name))?;
    let timestamp = now.as_secs() - GENESIS_MARGIN_SECS;
    let balance = U256::from(1_000_000) * Unit::ETHER.wei();
    let alloc = accounts()
        .into_iter()
        .map(|account| (account.address(), balance));
    let mut genesis = dev_genesis(rollup.evm_chain_id, GAS_LIMIT, timestamp, alloc)?;
    genesis.alloc.extend(counterpoint_contracts::predeploys());
    let path = layout.rollup_genesis(&rollup.name);
    fs::write(&path, serde_json::to_vec_pretty(&genesis)?)?;
    let specification = Specification::load(&path, &MemStore::default())?;
    write_secret(&layout.jwt(&rollup.name), &hex::encode(keys::random()?))?;
    layout.geth(rollup).init(geth, &path)?;
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
        attesters,
        status: RollupStatus::Active,
    })
}

/// An ed25519 key in CometBFT's files.
struct NodeKey(ed25519_consensus::SigningKey);

impl NodeKey {
    fn new() -> eyre::Result<Self> {
        Ok(Self(keys::random()?.into()))
    }

    /// Reads the key from one of CometBFT's files.
    fn read(path: &Path) -> eyre::Result<Self> {
        let read = || -> eyre::Result<Self> {
            let file: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
            let key = file["priv_key"]["value"].as_str().ok_or_eyre("no key")?;
            let both = BASE64.decode(key)?;
            let secret = both.first_chunk::<32>().ok_or_eyre("key is too short")?;
            Ok(Self((*secret).into()))
        };
        read().wrap_err_with(|| format!("failed to read {}", path.display()))
    }

    fn public(&self) -> [u8; 32] {
        self.0.verification_key().to_bytes()
    }

    /// First 20 bytes of the public key's SHA-256, in hexadecimal; CometBFT writes the same.
    fn address(&self) -> String {
        let address: Address = PublicKey::new(self.public()).address();
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
    for (validator, (key, node)) in plan.validators.iter().zip(&keys) {
        let home = layout.cometbft_home(&validator.name);
        fs::create_dir_all(home.join("config"))?;
        fs::create_dir_all(home.join("data"))?;
        fs::write(home.join("config/genesis.json"), &document)?;
        write_keys(layout, validator, key, node)?;
    }
    for validator in &plan.validators {
        write_cometbft_config(
            plan,
            layout,
            validator,
            &json!({ "enable": false }),
            detours,
        )?;
    }
    Ok(())
}

/// Where CometBFT finds the application.
fn abci_address(layout: &Layout, validator: &ValidatorPlan) -> String {
    match validator.abci {
        Some(port) => format!("tcp://{}", address(port)),
        None => format!("unix://{}", layout.abci_socket(&validator.name).display()),
    }
}

fn write_keys(
    layout: &Layout,
    validator: &ValidatorPlan,
    key: &NodeKey,
    node: &NodeKey,
) -> eyre::Result<()> {
    let private = json!({
        "address": key.address().to_uppercase(),
        "pub_key": key.public_json(),
        "priv_key": key.private_json(),
    });
    write_secret(&layout.consensus_key(&validator.name), &private.to_string())?;
    let state = json!({ "height": "0", "round": 0, "step": 0 });
    let home = layout.cometbft_home(&validator.name);
    fs::write(
        home.join("data/priv_validator_state.json"),
        state.to_string(),
    )?;
    let node = json!({ "priv_key": node.private_json() });
    write_secret(&layout.node_key(&validator.name), &node.to_string())
}

/// Whom a node that joins believes: the header of this height has this hash.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Which header.
    pub height: u64,
    /// Its hash, in hexadecimal.
    pub hash: String,
}

/// Writes the files of a node that joins a network by state sync.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_joining(
    plan: &Plan,
    layout: &Layout,
    node: &ValidatorPlan,
    trust: &Trust,
    detours: &Detours,
) -> eyre::Result<()> {
    let home = layout.cometbft_home(&node.name);
    fs::create_dir_all(home.join("config"))?;
    fs::create_dir_all(home.join("data"))?;
    fs::copy(layout.sequencer_genesis(), home.join("config/genesis.json"))?;
    write_keys(layout, node, &NodeKey::new()?, &NodeKey::new()?)?;
    // The light client wants a second opinion, if there is one.
    let servers: Vec<String> = plan
        .validators
        .iter()
        .cycle()
        .take(2)
        .map(|validator| url(validator.rpc))
        .collect();
    let state_sync = json!({
        "enable": true,
        "rpc_servers": servers.join(","),
        "trust_height": trust.height,
        "trust_hash": trust.hash,
        "trust_period": "168h0m0s",
        "discovery_time": "5s",
        "chunk_request_timeout": "10s",
    });
    write_cometbft_config(plan, layout, node, &state_sync, detours)?;
    write_app_config(plan, layout, node)
}

/// The public key that a node votes with, once it is a validator.
///
/// # Errors
/// There is no such node.
pub fn consensus_key(layout: &Layout, node: &str) -> eyre::Result<PublicKey> {
    let key = NodeKey::read(&layout.consensus_key(node))?;
    Ok(PublicKey::new(key.public()))
}

/// Settings of a node whose peers are all others of the plan.
fn write_cometbft_config(
    plan: &Plan,
    layout: &Layout,
    node: &ValidatorPlan,
    state_sync: &serde_json::Value,
    detours: &Detours,
) -> eyre::Result<()> {
    // One that joins is not in the plan yet.
    let known = plan.nodes().position(|other| other.name == node.name);
    let at = known.unwrap_or_else(|| plan.nodes().count());
    let peers = peers_of(at, plan, layout, detours)?.join(",");
    let proxy_app = detours.abci.get(&at).map_or_else(
        || abci_address(layout, node),
        |socket| format!("unix://{}", socket.display()),
    );
    let config = cometbft_config(plan, node, &proxy_app, &peers, state_sync);
    let path = layout.cometbft_home(&node.name).join("config/config.toml");
    Ok(fs::write(path, toml::to_string(&config)?)?)
}

/// Whom a node dials: everybody, but for detours that the other one is not to take.
fn peers_of(
    at: usize,
    plan: &Plan,
    layout: &Layout,
    detours: &Detours,
) -> eyre::Result<Vec<String>> {
    let mut peers = Vec::new();
    for (other, node) in plan.nodes().enumerate() {
        let found_at = match detours.peers.get(&(at.min(other), at.max(other))) {
            _ if other == at => None,
            Some(detour) => (at < other).then_some(*detour),
            None => Some(address(node.p2p)),
        };
        if let Some(address) = found_at {
            let id = NodeKey::read(&layout.node_key(&node.name))?.address();
            peers.push(format!("{id}@{address}"));
        }
    }
    Ok(peers)
}

/// CometBFT's settings; what is left out keeps its default.
fn cometbft_config(
    plan: &Plan,
    validator: &ValidatorPlan,
    proxy_app: &str,
    peers: &str,
    state_sync: &serde_json::Value,
) -> serde_json::Value {
    json!({
        "proxy_app": proxy_app,
        "moniker": validator.name,
        "log_level": "info",
        "rpc": {
            "laddr": format!("tcp://{}", address(validator.rpc)),
            // A transaction of the greatest length, in base 64.
            "max_body_bytes": 2_000_000,
        },
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
        "mempool": {
            "type": plan.mempool,
            "reap_interval": "20ms",
            "max_txs_bytes": 4 * plan.max_block_bytes,
        },
        "consensus": {
            "timeout_propose": "500ms",
            "timeout_commit": format!("{}ms", plan.block_interval_ms),
            "create_empty_blocks": true,
            "peer_gossip_sleep_duration": "5ms",
        },
        "statesync": state_sync,
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
    for validator in &plan.validators {
        write_app_config(plan, layout, validator)?;
    }
    let rollups: Vec<_> = plan
        .rollups
        .iter()
        .map(|rollup| {
            json!({
                "name": rollup.name,
                "execution_url": url(rollup.el_rpc),
                "conductor_url": url(rollup.conductor_http),
                "conductor_grpc_url": url(rollup.conductor_grpc),
            })
        })
        .collect();
    let Some(default_rollup) = plan.rollups.first() else {
        return Ok(());
    };
    let composer = json!({
        "rpc_listen": address(plan.composer.rpc),
        "http_listen": address(plan.composer.http),
        "explorer": true,
        "data_dir": layout.dir.join("composer"),
        "sequencers": sequencers,
        "sequencer_genesis": layout.sequencer_genesis(),
        "key_file": layout.composer_key(),
        "default_rollup": default_rollup.name,
        // Everybody is at one address here, load generators too.
        "limits": { "calls_per_second": 0, "max_connections_per_address": 1024 },
        // Keys, tips and budgets are for a composer that strangers can reach.
        "bundles": {
            "key_file": layout.bundles_key(),
            "public": true,
            "max_units_per_hour": 1_000_000_000_000_u64,
            "max_tips": 1_000_000_000,
        },
        "rollups": rollups,
    });
    write_config(layout, "composer", &composer)?;
    for rollup in &plan.rollups {
        let mut config = json!({
            "rollup": rollup.name,
            "sequencers": sequencers,
            "sequencer_genesis": layout.sequencer_genesis(),
            "rollup_genesis": layout.rollup_genesis(&rollup.name),
            "engine_url": url(rollup.engine),
            "jwt_file": layout.jwt(&rollup.name),
            "testing_ipc": layout.geth_ipc(&rollup.name),
            "data_dir": layout.dir.join(&rollup.name).join("conductor"),
            "http_listen": address(rollup.conductor_http),
            "grpc_listen": address(rollup.conductor_grpc),
            "rpc_listen": address(rollup.conductor_rpc),
        });
        if plan.attested {
            config["attester_key_file"] = json!(layout.attester_key(&rollup.name));
            config["votes_dir"] = json!(layout.votes(&rollup.name));
        }
        write_config(layout, &format!("{}-conductor", rollup.name), &config)?;
    }
    let rollups = plan.rollups.iter();
    let rollups = rollups.map(
        |rollup| json!({ "name": rollup.name, "genesis": layout.rollup_genesis(&rollup.name) }),
    );
    let rollups: Vec<_> = rollups.collect();
    for attester in &plan.attesters {
        let config = json!({
            "sequencers": sequencers,
            "sequencer_genesis": layout.sequencer_genesis(),
            "key_file": layout.attester_key(&attester.name),
            "votes_dir": layout.votes(&attester.name),
            "data_dir": layout.dir.join(&attester.name),
            "http_listen": address(attester.http),
            "rollups": rollups,
        });
        write_config(layout, &attester.name, &config)?;
    }
    Ok(())
}

fn write_app_config(plan: &Plan, layout: &Layout, node: &ValidatorPlan) -> eyre::Result<()> {
    let config = json!({
        "abci_listen": abci_address(layout, node),
        "mempool": plan.mempool,
        "grpc_listen": address(node.grpc),
        "http_listen": address(node.http),
        "explorer": true,
        "cometbft_rpc": url(node.rpc),
        "data_dir": layout.dir.join(&node.name).join("app"),
        "relay_gossip": false,
        "snapshot_interval": SNAPSHOT_INTERVAL,
    });
    write_config(layout, &format!("{}-app", node.name), &config)
}

fn write_config(layout: &Layout, name: &str, config: &serde_json::Value) -> eyre::Result<()> {
    fs::write(layout.service_config(name), toml::to_string(config)?)
        .wrap_err_with(|| format!("failed to write the configuration of {name}"))
}

pub(crate) fn write_secret(path: &Path, text: &str) -> eyre::Result<()> {
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
