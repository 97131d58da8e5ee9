//! Writes every file that a network's processes read.

use std::{
    collections::BTreeMap,
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
use super::plan::{AttesterPlan, Detours, Plan, RollupPlan, ValidatorPlan, accounts, address, url};
use crate::keys::{self, Keys};

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
/// Streams that one address may read of a node: all readers are on one machine.
const READERS: u32 = 256;
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

/// Where a part's files are put, and where the part will find them.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where they are put.
    pub files: Layout,
    /// Where the part will find them.
    pub home: Layout,
}

impl Place {
    /// Where they are put is where they stay.
    #[must_use]
    pub fn same(layout: &Layout) -> Self {
        Self {
            files: layout.clone(),
            home: layout.clone(),
        }
    }
}

/// Everything of a network that is decided before a file is written: what all its parts agree on, and
/// their keys. The same plan, keys and time give the same files.
#[derive(Debug)]
pub struct Network<'a> {
    plan: &'a Plan,
    /// CometBFT's genesis file.
    genesis: Vec<u8>,
    nodes: Vec<NodeKeys>,
    rollups: Vec<RollupFiles>,
    faucet: [u8; 32],
    composer: [u8; 32],
    bundles: [u8; 32],
    /// By name: of a rollup's conductor, or of an attester of its own.
    attesters: BTreeMap<&'a str, [u8; 32]>,
}

/// The files of a rollup that its conductor and its client share.
#[derive(Debug)]
struct RollupFiles {
    genesis: Vec<u8>,
    jwt: [u8; 32],
}

/// The key that a node votes with, and the one that peers know it by.
#[derive(Debug)]
struct NodeKeys {
    consensus: NodeKey,
    node: NodeKey,
}

impl NodeKeys {
    fn new(keys: &Keys, name: &str) -> eyre::Result<Self> {
        let key = |purpose| -> eyre::Result<NodeKey> {
            Ok(NodeKey(keys.secret(&format!("{name}/{purpose}"))?.into()))
        };
        Ok(Self {
            consensus: key("consensus")?,
            node: key("node")?,
        })
    }
}

impl<'a> Network<'a> {
    /// Decides on a network that begins at `time`, since the Unix epoch.
    ///
    /// # Errors
    /// The system has no randomness, or a parameter is out of bounds.
    pub fn new(plan: &'a Plan, keys: &Keys, time: Duration) -> eyre::Result<Self> {
        let nodes = plan.validators.iter();
        let nodes: Vec<_> = nodes
            .map(|node| NodeKeys::new(keys, &node.name))
            .collect::<eyre::Result<_>>()?;
        let conductors = plan.rollups.iter().filter(|_| plan.attested);
        let conductors = conductors.map(|rollup| rollup.name.as_str());
        let others = plan.attesters.iter().map(|attester| attester.name.as_str());
        let attesters: BTreeMap<_, _> = conductors
            .chain(others)
            .map(|name| Ok((name, keys.secret(&format!("{name}/attester"))?)))
            .collect::<eyre::Result<_>>()?;
        let [faucet, composer, bundles] =
            ["faucet", "composer", "bundles"].map(|name| keys.secret(name));
        let (faucet, composer, bundles) = (faucet?, composer?, bundles?);
        let address = |seed: [u8; 32]| SecretKey::from_seed(seed).public_key().address();
        let mut rollups = Vec::new();
        let mut registered = Vec::new();
        for rollup in &plan.rollups {
            let attesters = set_of_attesters(plan, rollup, &attesters)?;
            let (genesis, config) = rollup_genesis(rollup, time, address(faucet), attesters)?;
            let jwt = keys.secret(&format!("{}/jwt", rollup.name))?;
            rollups.push(RollupFiles { genesis, jwt });
            registered.push(config);
        }
        let funded = [faucet, composer, bundles].map(|seed| GenesisAccount {
            address: address(seed),
            balance: Amount::new(SEQUENCER_BALANCE),
        });
        let state = SequencerGenesis {
            accounts: funded.to_vec(),
            rollups: registered,
            authority: Some(Authority::new(1, vec![address(faucet)])?),
            fees: plan.fees.clone(),
        };
        Ok(Self {
            genesis: sequencer_genesis(plan, &nodes, &state, time)?,
            plan,
            nodes,
            rollups,
            faucet,
            composer,
            bundles,
            attesters,
        })
    }

    /// Writes the key of the account that has money and decides about the chain.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn write_faucet(&self, layout: &Layout) -> eyre::Result<()> {
        keys::write(&layout.faucet_key(), &self.faucet)
    }

    /// Writes the files of a validator and its application, but for what it will sign.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_validator(&self, at: usize, place: &Place, detours: &Detours) -> eyre::Result<()> {
        let (node, keys) = (&self.plan.validators[at], &self.nodes[at]);
        make_home(&place.files, node)?;
        let home = place.files.cometbft_home(&node.name);
        fs::write(home.join("config/genesis.json"), &self.genesis)?;
        write_keys(&place.files, node, keys)?;
        let ids: Vec<String> = self.nodes.iter().map(|keys| keys.node.address()).collect();
        let state_sync = json!({ "enable": false });
        write_cometbft_config(self.plan, place, node, &ids, &state_sync, detours)?;
        write_app_config(self.plan, place, node)
    }

    /// Writes the files of the composer.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_composer(&self, place: &Place) -> eyre::Result<()> {
        self.write_genesis(place)?;
        keys::write(&place.files.composer_key(), &self.composer)?;
        keys::write(&place.files.bundles_key(), &self.bundles)?;
        let Some(default) = self.plan.rollups.first() else {
            return Ok(());
        };
        let config = composer_config(self.plan, default, &place.home);
        write_config(&place.files, "composer", &config)
    }

    /// Writes the files of a rollup's conductor and its client.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_rollup(&self, at: usize, place: &Place) -> eyre::Result<()> {
        let (rollup, name) = (&self.plan.rollups[at], &self.plan.rollups[at].name);
        self.write_genesis(place)?;
        self.write_rollup_genesis(at, place)?;
        write_secret(&place.files.jwt(name), &hex::encode(self.rollups[at].jwt))?;
        place.files.geth(rollup).write_config()?;
        if let Some(key) = self.attesters.get(name.as_str()) {
            keys::write(&place.files.attester_key(name), key)?;
        }
        let config = conductor_config(self.plan, rollup, &place.home);
        write_config(&place.files, &format!("{name}-conductor"), &config)
    }

    /// Writes the files of an attester of every rollup.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_attester(&self, at: usize, place: &Place) -> eyre::Result<()> {
        let attester = &self.plan.attesters[at];
        self.write_genesis(place)?;
        for rollup in 0..self.rollups.len() {
            self.write_rollup_genesis(rollup, place)?;
        }
        let key = &self.attesters[attester.name.as_str()];
        keys::write(&place.files.attester_key(&attester.name), key)?;
        let config = attester_config(self.plan, attester, &place.home);
        write_config(&place.files, &attester.name, &config)
    }

    fn write_genesis(&self, place: &Place) -> eyre::Result<()> {
        Ok(fs::write(place.files.sequencer_genesis(), &self.genesis)?)
    }

    fn write_rollup_genesis(&self, at: usize, place: &Place) -> eyre::Result<()> {
        let name = &self.plan.rollups[at].name;
        fs::create_dir_all(place.files.dir.join(name))?;
        let path = place.files.rollup_genesis(name);
        Ok(fs::write(path, &self.rollups[at].genesis)?)
    }
}

/// Writes a new network to disk, all in one directory.
///
/// # Errors
/// A file cannot be written, or geth cannot be initialised.
pub fn write(plan: &Plan, layout: &Layout, geth: &Path, detours: &Detours) -> eyre::Result<()> {
    fs::create_dir_all(layout.dir.join("logs"))
        .wrap_err_with(|| format!("failed to create {}", layout.dir.display()))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let network = Network::new(plan, &Keys::Random, now)?;
    let place = Place::same(layout);
    network.write_faucet(layout)?;
    network.write_composer(&place)?;
    for (at, validator) in plan.validators.iter().enumerate() {
        network.write_validator(at, &place, detours)?;
        write_signing_state(layout, validator)?;
    }
    for at in 0..plan.rollups.len() {
        network.write_rollup(at, &place)?;
    }
    for rollup in plan.driven() {
        let genesis = layout.rollup_genesis(&rollup.name);
        layout.geth(rollup).init(geth, &genesis)?;
    }
    for at in 0..plan.attesters.len() {
        network.write_attester(at, &place)?;
    }
    Ok(())
}

/// A rollup's conductor, if it has one, and the others; most of them must agree.
fn set_of_attesters(
    plan: &Plan,
    rollup: &RollupPlan,
    seeds: &BTreeMap<&str, [u8; 32]>,
) -> eyre::Result<Attesters> {
    if !plan.attested {
        return Ok(Attesters::default());
    }
    let others = plan.attesters.iter().map(|attester| &attester.name);
    let conductor = (!plan.without_clients).then_some(&rollup.name);
    let mut keys: Vec<PublicKey> = others
        .chain(conductor)
        .map(|name| SecretKey::from_seed(seeds[name.as_str()]).public_key())
        .collect();
    keys.sort();
    let threshold = u8::try_from(keys.len() / 2 + 1)?;
    Ok(Attesters(Some(AttesterSet {
        epoch: 1,
        members: AttesterKeys::new(keys, threshold)?,
    })))
}

/// A rollup's genesis file, and how it is registered.
fn rollup_genesis(
    rollup: &RollupPlan,
    time: Duration,
    owner: Address,
    attesters: Attesters,
) -> eyre::Result<(Vec<u8>, RollupConfig)> {
    let timestamp = time.as_secs().saturating_sub(GENESIS_MARGIN_SECS);
    let balance = U256::from(1_000_000) * Unit::ETHER.wei();
    let alloc = accounts()
        .into_iter()
        .map(|account| (account.address(), balance));
    let mut genesis = dev_genesis(rollup.evm_chain_id, GAS_LIMIT, timestamp, alloc)?;
    genesis.alloc.extend(counterpoint_contracts::predeploys());
    let specification = Specification::new(&genesis, &MemStore::default())?;
    let config = RollupConfig {
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
        owner,
        tip_share_bps: 0,
        max_bytes_per_block: 2 << 20,
        max_items_per_block: 20_000,
        attesters,
        status: RollupStatus::Active,
    };
    Ok((serde_json::to_vec_pretty(&genesis)?, config))
}

/// An ed25519 key in CometBFT's files.
#[derive(Debug)]
struct NodeKey(ed25519_consensus::SigningKey);

impl NodeKey {
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

/// CometBFT's genesis file.
fn sequencer_genesis(
    plan: &Plan,
    nodes: &[NodeKeys],
    state: &SequencerGenesis,
    time: Duration,
) -> eyre::Result<Vec<u8>> {
    let validators = plan.validators.iter().zip(nodes);
    let validators = validators.map(|(validator, NodeKeys { consensus, .. })| {
        json!({
            "address": consensus.address().to_uppercase(),
            "pub_key": consensus.public_json(),
            "power": "10",
            "name": validator.name,
        })
    });
    let genesis_time = Time::from_unix_timestamp(i64::try_from(time.as_secs())?, 0)?;
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
        "validators": validators.collect::<Vec<_>>(),
        "app_hash": "",
        "app_state": state,
    });
    Ok(serde_json::to_vec_pretty(&document)?)
}

fn make_home(layout: &Layout, node: &ValidatorPlan) -> eyre::Result<()> {
    let home = layout.cometbft_home(&node.name);
    fs::create_dir_all(home.join("config"))?;
    Ok(fs::create_dir_all(home.join("data"))?)
}

/// Where CometBFT finds the application.
fn abci_address(layout: &Layout, validator: &ValidatorPlan) -> String {
    match validator.abci {
        Some(port) => format!("tcp://{}", address(port)),
        None => format!("unix://{}", layout.abci_socket(&validator.name).display()),
    }
}

fn write_keys(layout: &Layout, node: &ValidatorPlan, keys: &NodeKeys) -> eyre::Result<()> {
    let NodeKeys {
        consensus,
        node: id,
    } = keys;
    let private = json!({
        "address": consensus.address().to_uppercase(),
        "pub_key": consensus.public_json(),
        "priv_key": consensus.private_json(),
    });
    write_secret(&layout.consensus_key(&node.name), &private.to_string())?;
    let id = json!({ "priv_key": id.private_json() });
    write_secret(&layout.node_key(&node.name), &id.to_string())
}

/// Says that the key of a new node has signed nothing.
fn write_signing_state(layout: &Layout, node: &ValidatorPlan) -> eyre::Result<()> {
    let state = json!({ "height": "0", "round": 0, "step": 0 }).to_string();
    let home = layout.cometbft_home(&node.name);
    Ok(fs::write(
        home.join("data/priv_validator_state.json"),
        state,
    )?)
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
    make_home(layout, node)?;
    let home = layout.cometbft_home(&node.name);
    fs::copy(layout.sequencer_genesis(), home.join("config/genesis.json"))?;
    write_keys(layout, node, &NodeKeys::new(&Keys::Random, &node.name)?)?;
    write_signing_state(layout, node)?;
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
    let ids = plan.nodes().map(|node| node_id(layout, &node.name));
    let ids = ids.collect::<eyre::Result<Vec<_>>>()?;
    let place = Place::same(layout);
    write_cometbft_config(plan, &place, node, &ids, &state_sync, detours)?;
    write_app_config(plan, &place, node)
}

/// What peers know a node by.
fn node_id(layout: &Layout, node: &str) -> eyre::Result<String> {
    Ok(NodeKey::read(&layout.node_key(node))?.address())
}

/// The public key that a node votes with, once it is a validator.
///
/// # Errors
/// There is no such node.
pub fn consensus_key(layout: &Layout, node: &str) -> eyre::Result<PublicKey> {
    let key = NodeKey::read(&layout.consensus_key(node))?;
    Ok(PublicKey::new(key.public()))
}

/// Settings of a node whose peers are all others of the plan, known by `ids` in its order.
fn write_cometbft_config(
    plan: &Plan,
    place: &Place,
    node: &ValidatorPlan,
    ids: &[String],
    state_sync: &serde_json::Value,
    detours: &Detours,
) -> eyre::Result<()> {
    // One that joins is not in the plan yet.
    let known = plan.nodes().position(|other| other.name == node.name);
    let at = known.unwrap_or_else(|| plan.nodes().count());
    let peers = peers_of(at, plan, ids, detours).join(",");
    let proxy_app = detours.abci.get(&at).map_or_else(
        || abci_address(&place.home, node),
        |socket| format!("unix://{}", socket.display()),
    );
    let config = cometbft_config(plan, node, &proxy_app, &peers, state_sync);
    let home = place.files.cometbft_home(&node.name);
    Ok(fs::write(
        home.join("config/config.toml"),
        toml::to_string(&config)?,
    )?)
}

/// Whom a node dials: everybody, but for detours that the other one is not to take.
fn peers_of(at: usize, plan: &Plan, ids: &[String], detours: &Detours) -> Vec<String> {
    let mut peers = Vec::new();
    for (other, (node, id)) in plan.nodes().zip(ids).enumerate() {
        let found_at = match detours.peers.get(&(at.min(other), at.max(other))) {
            _ if other == at => None,
            Some(detour) => (at < other).then(|| detour.to_string()),
            None => Some(plan.reach(&node.name, node.p2p)),
        };
        peers.extend(found_at.map(|address| format!("{id}@{address}")));
    }
    peers
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
            "laddr": format!("tcp://{}", plan.listen(validator.rpc)),
            // A transaction of the greatest length, in base 64.
            "max_body_bytes": 2_000_000,
        },
        "p2p": {
            "laddr": format!("tcp://{}", plan.listen(validator.p2p)),
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

/// Where everybody reaches the nodes.
fn sequencers(plan: &Plan) -> Vec<String> {
    let nodes = plan.validators.iter();
    nodes.map(|node| plan.url(&node.name, node.grpc)).collect()
}

fn composer_config(plan: &Plan, default: &RollupPlan, home: &Layout) -> serde_json::Value {
    let rollups = plan.rollups.iter().map(|rollup| {
        json!({
            "name": rollup.name,
            "execution_url": plan.url(&rollup.name, rollup.el_rpc),
            "conductor_url": plan.url(&rollup.name, rollup.conductor_http),
            "conductor_grpc_url": plan.url(&rollup.name, rollup.conductor_grpc),
        })
    });
    let mut config = json!({
        "rpc_listen": plan.listen(plan.composer.rpc),
        "http_listen": plan.listen(plan.composer.http),
        "explorer": true,
        "data_dir": home.dir.join("composer"),
        "sequencers": sequencers(plan),
        "sequencer_genesis": home.sequencer_genesis(),
        "key_file": home.composer_key(),
        "default_rollup": default.name,
        // Keys, tips and budgets are for a composer that strangers can reach.
        "bundles": {
            "key_file": home.bundles_key(),
            "public": true,
            "max_units_per_hour": 1_000_000_000_000_u64,
            "max_tips": 1_000_000_000,
        },
        "rollups": rollups.collect::<Vec<_>>(),
    });
    if plan.hosts.listen.is_loopback() {
        // Everybody is at one address, load generators too.
        config["limits"] = json!({ "calls_per_second": 0, "max_connections_per_address": 1024 });
    }
    config
}

fn conductor_config(plan: &Plan, rollup: &RollupPlan, home: &Layout) -> serde_json::Value {
    let name = &rollup.name;
    let mut config = json!({
        "rollup": name,
        "sequencers": sequencers(plan),
        "sequencer_genesis": home.sequencer_genesis(),
        "rollup_genesis": home.rollup_genesis(name),
        "engine_url": url(rollup.engine),
        "jwt_file": home.jwt(name),
        "testing_ipc": home.geth_ipc(name),
        "data_dir": home.dir.join(name).join("conductor"),
        "http_listen": plan.listen(rollup.conductor_http),
        "grpc_listen": plan.listen(rollup.conductor_grpc),
        "rpc_listen": plan.listen(rollup.conductor_rpc),
    });
    if plan.attested {
        config["attester_key_file"] = json!(home.attester_key(name));
        config["votes_dir"] = json!(home.votes(name));
    }
    config
}

fn attester_config(plan: &Plan, attester: &AttesterPlan, home: &Layout) -> serde_json::Value {
    let rollups = plan.rollups.iter();
    let rollups = rollups
        .map(|rollup| json!({ "name": rollup.name, "genesis": home.rollup_genesis(&rollup.name) }));
    json!({
        "sequencers": sequencers(plan),
        "sequencer_genesis": home.sequencer_genesis(),
        "key_file": home.attester_key(&attester.name),
        "votes_dir": home.votes(&attester.name),
        "data_dir": home.dir.join(&attester.name),
        "http_listen": plan.listen(attester.http),
        "rollups": rollups.collect::<Vec<_>>(),
    })
}

fn write_app_config(plan: &Plan, place: &Place, node: &ValidatorPlan) -> eyre::Result<()> {
    let config = json!({
        "abci_listen": abci_address(&place.home, node),
        "mempool": plan.mempool,
        "grpc_listen": plan.listen(node.grpc),
        "http_listen": plan.listen(node.http),
        "explorer": plan.hosts.listen.is_loopback(),
        "cometbft_rpc": format!("http://{}", plan.own(node.rpc)),
        "data_dir": place.home.dir.join(&node.name).join("app"),
        "relay_gossip": false,
        "readers_per_address": READERS,
        "snapshot_interval": SNAPSHOT_INTERVAL,
    });
    write_config(&place.files, &format!("{}-app", node.name), &config)
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
