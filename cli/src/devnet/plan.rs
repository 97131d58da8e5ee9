//! What a development network consists of, decided once and kept, so that it can be resumed.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use alloy_primitives::keccak256;
use alloy_signer_local::PrivateKeySigner;
use counterpoint_core::{atomic::AttesterKeys, fees::FeeParams};
use eyre::{OptionExt, WrapErr, bail};
use serde::{Deserialize, Serialize};

use super::ports;

/// Names of rollups, in order; those after them get the same ones with a number.
const ROLLUP_NAMES: [&str; 24] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi",
    "psi", "omega",
];
/// Most rollups: more do not fit on one machine.
const MAX_ROLLUPS: usize = 32;
/// Chain id of the first rollup; the others follow.
const FIRST_EVM_CHAIN_ID: u64 = 412_000;
/// Accounts with money on every rollup.
const ACCOUNTS: usize = 5;
/// Most validators: a full mesh of more does not fit on one machine.
const MAX_VALIDATORS: usize = 16;
/// Longest chain id that CometBFT takes.
const MAX_CHAIN_ID: usize = 50;

/// What somebody asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything of the network lies.
    pub dir: PathBuf,
    /// How many validators.
    pub validators: usize,
    /// How many rollups.
    pub rollups: usize,
    /// Whether rollups have neither clients nor conductors, and the network no composer. Attesters need
    /// none of them.
    pub without_clients: bool,
    /// Lengths of slots, for the rollups in turn.
    pub slot_secs: Vec<u8>,
    /// How many attesters each rollup has: its conductor, and others beside it. None, and it takes no
    /// legs of bundles.
    pub attesters: usize,
    /// Pause between sequencer blocks, in milliseconds.
    pub block_interval_ms: u64,
    /// The first of a row of ports; free ones are picked if there is none.
    pub base_port: Option<u16>,
    /// Most bytes of a sequencer block.
    pub max_block_bytes: u64,
    /// What the sequencer's fees are worked out from, if not from the defaults.
    pub fees: Option<FeeParams>,
    /// The `counterpoint` program that runs the services.
    pub program: PathBuf,
    /// What runs beside each CometBFT.
    pub application: Application,
    /// How CometBFT reaches it.
    pub abci: Abci,
    /// Whose mempool holds transactions.
    pub mempool: Mempool,
    /// What stands between the parts; nothing unless a test watches or disturbs them.
    pub detours: Detours,
}

impl Options {
    /// One validator and no rollup, blocks 200 ms apart.
    #[must_use]
    pub fn new(dir: PathBuf, program: PathBuf) -> Self {
        Self {
            dir,
            validators: 1,
            rollups: 0,
            without_clients: false,
            slot_secs: vec![1],
            attesters: 0,
            block_interval_ms: 200,
            base_port: None,
            max_block_bytes: MAX_BLOCK_BYTES,
            fees: None,
            program,
            application: Application::Sequencer,
            abci: Abci::Unix,
            mempool: Mempool::App,
            detours: Detours::default(),
        }
    }
}

fn rollup_name(at: usize) -> String {
    let name = ROLLUP_NAMES[at % ROLLUP_NAMES.len()];
    match at / ROLLUP_NAMES.len() {
        0 => name.into(),
        before => format!("{name}-{}", before + 1),
    }
}

/// How CometBFT reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abci {
    /// Through a unix socket.
    Unix,
    /// Through a port.
    Tcp,
}

/// Whose mempool holds transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mempool {
    /// The application's.
    #[default]
    App,
    /// CometBFT's.
    Flood,
}

/// Where connections of a new network lead instead of straight to their ends. Whoever asks for a
/// detour listens there before the network starts, and passes on to where [`Plan`] and
/// [`Layout`](super::setup::Layout) say that the end is.
#[derive(Clone, Debug, Default)]
pub struct Detours {
    /// By place of a node: the socket that its CometBFT takes for the application's.
    pub abci: BTreeMap<usize, PathBuf>,
    /// By places of two validators, the lower first: where the lower one finds the other, which
    /// never dials. Validators without an entry dial each other.
    pub peers: BTreeMap<(usize, usize), SocketAddr>,
}

/// What runs beside each CometBFT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Application {
    /// Ours.
    Sequencer,
    /// One that does nothing with what it is given by gRPC, for benchmarks: this program. There can
    /// be no rollups then.
    Noop(PathBuf),
}

/// Most bytes of a sequencer block unless asked otherwise, 4 MiB.
pub const MAX_BLOCK_BYTES: u64 = 4 << 20;

/// Where the parts of a network are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The address that they listen at.
    pub listen: IpAddr,
    /// Where each of them is found: a host's name or address, with `{name}` for the part's name.
    pub template: String,
    /// Where some of them are found instead, by their names.
    pub named: BTreeMap<String, String>,
}

impl Default for Hosts {
    /// All on this machine.
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            template: Ipv4Addr::LOCALHOST.to_string(),
            named: BTreeMap::new(),
        }
    }
}

impl Hosts {
    /// Where a part is found.
    #[must_use]
    pub fn of(&self, part: &str) -> String {
        let named = self.named.get(part).cloned();
        named.unwrap_or_else(|| self.template.replace("{name}", part))
    }

    /// Refuses names that are nobody's, and what is no host.
    fn check(&self, parts: &[&str]) -> eyre::Result<()> {
        if let Some(name) = self
            .named
            .keys()
            .find(|name| !parts.contains(&name.as_str()))
        {
            bail!("there is no part {name}; there are {}", parts.join(", "));
        }
        for part in parts {
            let host = self.of(part);
            if !is_host(&host) {
                bail!("{host} is no host for {part}: give a name or an address, without a port");
            }
        }
        Ok(())
    }
}

/// Whether a text is an address, or a name that DNS may know.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(known)
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(is_label))
}

/// A network: names, ports and parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The sequencer's chain id.
    pub chain_id: String,
    /// Where its parts are.
    #[serde(default)]
    pub hosts: Hosts,
    /// Pause between sequencer blocks, in milliseconds.
    pub block_interval_ms: u64,
    /// Most bytes of a sequencer block.
    pub max_block_bytes: u64,
    /// What the sequencer's fees are worked out from, if not from the defaults.
    #[serde(default)]
    pub fees: Option<FeeParams>,
    /// Whose mempool holds transactions.
    #[serde(default)]
    pub mempool: Mempool,
    /// Validators of the genesis.
    pub validators: Vec<ValidatorPlan>,
    /// Nodes that came later; the chain may have made them validators since.
    #[serde(default)]
    pub joined: Vec<ValidatorPlan>,
    /// The composer, which runs if there are rollups.
    pub composer: ComposerPlan,
    /// Rollups.
    pub rollups: Vec<RollupPlan>,
    /// Whether rollups have neither clients nor conductors, and the network no composer.
    #[serde(default)]
    pub without_clients: bool,
    /// Whether conductors are attesters of their rollups.
    #[serde(default)]
    pub attested: bool,
    /// Attesters of all rollups beside the conductors.
    #[serde(default)]
    pub attesters: Vec<AttesterPlan>,
}

/// An attester of every rollup that has no client of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttesterPlan {
    /// `attester-1`, `attester-2`, …
    pub name: String,
    /// Its probes.
    pub http: u16,
}

/// One validator: CometBFT and our application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorPlan {
    /// `val-0`, `val-1`, …
    pub name: String,
    /// CometBFT's peer-to-peer port.
    pub p2p: u16,
    /// CometBFT's RPC port.
    pub rpc: u16,
    /// The application's gRPC port.
    pub grpc: u16,
    /// The application's probes.
    pub http: u16,
    /// The port where CometBFT reaches the application, if that is no socket.
    #[serde(default)]
    pub abci: Option<u16>,
}

/// The composer's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposerPlan {
    /// JSON-RPC.
    pub rpc: u16,
    /// Probes.
    pub http: u16,
}

/// One rollup: geth and a conductor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollupPlan {
    /// `alpha`, `beta`, …
    pub name: String,
    /// EIP-155 chain id.
    pub evm_chain_id: u64,
    /// Length of a slot.
    pub slot_secs: u8,
    /// geth's public RPC port.
    pub el_rpc: u16,
    /// geth's authenticated port.
    pub engine: u16,
    /// The conductor's probes.
    pub conductor_http: u16,
    /// The conductor's receipts by gRPC.
    pub conductor_grpc: u16,
    /// The conductor's receipts by JSON-RPC.
    pub conductor_rpc: u16,
}

impl Plan {
    /// Reads the plan of a network that was started before.
    ///
    /// # Errors
    /// The file is not a plan.
    pub fn read(dir: &Path) -> eyre::Result<Option<Self>> {
        let path = dir.join("plan.json");
        let Ok(bytes) = fs::read(&path) else {
            return Ok(None);
        };
        let plan = serde_json::from_slice(&bytes)
            .wrap_err_with(|| format!("{} is damaged; run `devnet reset`", path.display()))?;
        Ok(Some(plan))
    }

    /// Decides names and ports of a new network on this machine.
    ///
    /// # Errors
    /// Too many of something, or no free port.
    pub fn new(options: &Options) -> eyre::Result<Self> {
        let ports = Ports::Free {
            next: options.base_port,
            taken: Vec::new(),
        };
        Self::with(options, "counterpoint-devnet".to_owned(), ports)
    }

    /// Decides names and ports of a new network on hosts that nobody has asked: the ports of the guides,
    /// or a row of them from `options.base_port` on.
    ///
    /// # Errors
    /// Too many of something, or a host that is none.
    pub fn on_hosts(options: &Options, chain_id: String, hosts: Hosts) -> eyre::Result<Self> {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=MAX_CHAIN_ID).contains(&chain_id.len()) || !chain_id.chars().all(known) {
            bail!(
                "--chain-id has 1 to {MAX_CHAIN_ID} letters, digits, hyphens, underscores and dots"
            );
        }
        let ports = options.base_port.map_or(Ports::Usual, Ports::Row);
        let plan = Self::with(options, chain_id, ports)?;
        hosts.check(&plan.parts())?;
        Ok(Self { hosts, ..plan })
    }

    fn with(options: &Options, chain_id: String, mut ports: Ports) -> eyre::Result<Self> {
        if !(1..=MAX_VALIDATORS).contains(&options.validators) {
            bail!("--validators must lie in 1..={MAX_VALIDATORS}");
        }
        if options.attesters > AttesterKeys::MAX_KEYS {
            bail!("--attesters must be at most {}", AttesterKeys::MAX_KEYS);
        }
        if options.rollups > MAX_ROLLUPS {
            bail!("--rollups must be at most {MAX_ROLLUPS}");
        }
        let lengths = &options.slot_secs;
        if lengths.is_empty() || lengths.iter().any(|secs| !(1..=60).contains(secs)) {
            bail!("--slot-secs must lie in 1..=60");
        }
        let rollup = |(at, slot_secs): (usize, u8), ports: &mut Ports| {
            Ok(RollupPlan {
                name: rollup_name(at),
                evm_chain_id: FIRST_EVM_CHAIN_ID + at as u64,
                slot_secs,
                el_rpc: ports.take(8645)?,
                engine: ports.take(8551)?,
                conductor_http: ports.take(9093)?,
                conductor_grpc: ports.take(9094)?,
                conductor_rpc: ports.take(9095)?,
            })
        };
        let composer = ComposerPlan {
            rpc: ports.take(8545)?,
            http: ports.take(9092)?,
        };
        let validators = (0..options.validators)
            .map(|at| ValidatorPlan::new(at, options.abci, &mut ports))
            .collect::<eyre::Result<_>>()?;
        let rollups = (0..options.rollups)
            .zip(lengths.iter().copied().cycle())
            .map(|placed| rollup(placed, &mut ports))
            .collect::<eyre::Result<_>>()?;
        let beside = |at| {
            Ok(AttesterPlan {
                name: format!("attester-{at}"),
                http: ports.take(9096)?,
            })
        };
        let attesters = match options.rollups {
            0 => Vec::new(),
            _ => (1..options.attesters)
                .map(beside)
                .collect::<eyre::Result<_>>()?,
        };
        Ok(Self {
            chain_id,
            hosts: Hosts::default(),
            block_interval_ms: options.block_interval_ms,
            max_block_bytes: options.max_block_bytes,
            fees: options.fees.clone(),
            mempool: options.mempool,
            validators,
            joined: Vec::new(),
            composer,
            rollups,
            without_clients: options.without_clients,
            attested: options.attesters > 0,
            attesters,
        })
    }

    /// The rollups that have a client and a conductor.
    #[must_use]
    pub fn driven(&self) -> &[RollupPlan] {
        if self.without_clients {
            &[]
        } else {
            &self.rollups
        }
    }

    /// Every node: validators of the genesis, then those that joined.
    pub fn nodes(&self) -> impl Iterator<Item = &ValidatorPlan> {
        self.validators.iter().chain(&self.joined)
    }

    /// Decides name and ports of one more node.
    ///
    /// # Errors
    /// There are too many, or no free port.
    pub fn another(&self) -> eyre::Result<ValidatorPlan> {
        let at = self.nodes().count();
        if at >= MAX_VALIDATORS {
            bail!("a network has at most {MAX_VALIDATORS} nodes");
        }
        let mut ports = Ports::Free {
            next: None,
            taken: Vec::new(),
        };
        // Like the others.
        let abci = if self
            .validators
            .iter()
            .any(|validator| validator.abci.is_some())
        {
            Abci::Tcp
        } else {
            Abci::Unix
        };
        ValidatorPlan::new(at, abci, &mut ports)
    }

    /// The names of what may have a host of its own; a rollup's client is where its conductor is.
    #[must_use]
    pub fn parts(&self) -> Vec<&str> {
        let composer = (!self.rollups.is_empty()).then_some("composer");
        let nodes = self.nodes().map(|node| node.name.as_str());
        let rollups = self.rollups.iter().map(|rollup| rollup.name.as_str());
        let attesters = self.attesters.iter().map(|attester| attester.name.as_str());
        nodes
            .chain(composer)
            .chain(rollups)
            .chain(attesters)
            .collect()
    }

    /// `HOST:PORT`, where others reach a part.
    #[must_use]
    pub fn reach(&self, part: &str, port: u16) -> String {
        let host = self.hosts.of(part);
        match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{port}"),
            Err(_) => format!("{host}:{port}"),
        }
    }

    /// `http://HOST:PORT`, where others reach a part.
    #[must_use]
    pub fn url(&self, part: &str, port: u16) -> String {
        format!("http://{}", self.reach(part, port))
    }

    /// The address that a part listens at with a port for others.
    #[must_use]
    pub fn listen(&self, port: u16) -> SocketAddr {
        (self.hosts.listen, port).into()
    }

    /// Where a part's own host reaches such a port.
    #[must_use]
    pub fn own(&self, port: u16) -> SocketAddr {
        let host = match self.hosts.listen {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        (host, port).into()
    }

    /// Keeps the plan for the next start.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, dir: &Path) -> eyre::Result<()> {
        let path = dir.join("plan.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .wrap_err_with(|| format!("failed to write {}", path.display()))
    }
}

impl ValidatorPlan {
    fn new(at: usize, abci: Abci, ports: &mut Ports) -> eyre::Result<Self> {
        Ok(Self {
            name: format!("val-{at}"),
            p2p: ports.take(26_656)?,
            rpc: ports.take(26_657)?,
            grpc: ports.take(9090)?,
            http: ports.take(9091)?,
            abci: match abci {
                Abci::Unix => None,
                Abci::Tcp => Some(ports.take(26_658)?),
            },
        })
    }
}

/// Where ports come from.
enum Ports {
    /// Free ones of this machine, from the next one on if there is one.
    Free {
        next: Option<u16>,
        /// Held until all are chosen, so that none is given twice.
        taken: Vec<TcpListener>,
    },
    /// A row from here on, on hosts that are not asked.
    Row(u16),
    /// The usual one of each purpose: every part has a host of its own.
    Usual,
}

impl Ports {
    fn take(&mut self, usual: u16) -> eyre::Result<u16> {
        match self {
            Self::Free { next, taken } => {
                let listener = match *next {
                    None => ports::free()?,
                    Some(port) => {
                        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).wrap_err_with(|| {
                            format!(
                                "port {port} is in use; choose another --base-port, or leave it out"
                            )
                        })?
                    }
                };
                let port = listener.local_addr()?.port();
                taken.push(listener);
                *next = next.map(|_| port.saturating_add(1));
                Ok(port)
            }
            Self::Row(next) => {
                let port = *next;
                let after = port.checked_add(1).filter(|_| port > 0);
                *next = after.ok_or_eyre("--base-port leaves too few ports")?;
                Ok(port)
            }
            Self::Usual => Ok(usual),
        }
    }
}

/// `http://127.0.0.1:PORT`.
#[must_use]
pub fn url(port: u16) -> String {
    format!("http://{}", address(port))
}

/// `127.0.0.1:PORT`.
#[must_use]
pub fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The keys with money on every rollup; everybody knows them.
///
/// # Panics
/// Never: a digest is a valid key but for one in 2^128.
#[must_use]
pub fn accounts() -> Vec<PrivateKeySigner> {
    let key = |at| {
        let digest = keccak256(format!("counterpoint/devnet/account/{at}"));
        PrivateKeySigner::from_bytes(&digest).expect("a digest is a valid key")
    };
    (0..ACCOUNTS).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for host in ["val-0", "val-0.example.org", "10.0.0.1", "fd00::1"] {
            assert!(is_host(host), "{host}");
        }
        for wrong in [
            "",
            "val-0:26656",
            "http://val-0",
            "a..b",
            "a b",
            "{nmae}",
            "[fd00::1]",
        ] {
            assert!(!is_host(wrong), "{wrong}");
        }
    }
}
