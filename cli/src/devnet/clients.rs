//! Stock execution clients as a rollup needs them: no peers, nothing mined, nobody else's blocks.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use eyre::{WrapErr, bail};

/// What keeps geth from listening to peers; a flag alone does not.
const GETH_PEERS: &str =
    "[Node.P2P]\nListenAddr = \"\"\nMaxPeers = 0\nNoDiscovery = true\nNoDial = true\n";

/// One geth: its pool takes nothing in, and its blocks survive a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geth {
    /// Its data.
    pub data: PathBuf,
    /// The file with the secret that it shares with a conductor.
    pub jwt: PathBuf,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The gas limit of its genesis.
    pub gas_limit: u64,
    /// Its authenticated port.
    pub engine: u16,
    /// Its socket, for a conductor in thin mode.
    pub ipc: PathBuf,
}

impl Geth {
    fn config(&self) -> PathBuf {
        self.data.with_extension("toml")
    }

    /// Writes its configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self) -> eyre::Result<()> {
        fs::write(self.config(), GETH_PEERS)
            .wrap_err_with(|| format!("failed to write {}", self.config().display()))
    }

    /// Writes its configuration and its genesis block.
    ///
    /// # Errors
    /// `program` cannot be run, or refuses the genesis file.
    pub fn init(&self, program: &Path, genesis: &Path) -> eyre::Result<()> {
        fs::create_dir_all(&self.data)
            .wrap_err_with(|| format!("failed to create {}", self.data.display()))?;
        self.write_config()?;
        init_geth(program, &self.data, genesis)
    }

    /// Its command line, with a public port of this machine alone or without.
    #[must_use]
    pub fn args(&self, rpc: Option<u16>) -> Vec<String> {
        self.args_at(rpc.map(|port| (Ipv4Addr::LOCALHOST, port).into()))
    }

    /// Its command line, with a public address or without.
    #[must_use]
    pub fn args_at(&self, rpc: Option<SocketAddr>) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut pairs = vec![
            ("--datadir", path(&self.data)),
            ("--config", path(&self.config())),
            ("--networkid", self.chain_id.to_string()),
            ("--state.scheme", "hash".into()),
            ("--gcmode", "archive".into()),
            ("--syncmode", "full".into()),
            ("--maxpeers", "0".into()),
            ("--nat", "none".into()),
            ("--cache", "64".into()),
            ("--miner.gaslimit", self.gas_limit.to_string()),
            ("--txpool.pricelimit", u64::MAX.to_string()),
            ("--ipcpath", path(&self.ipc)),
            ("--authrpc.addr", "127.0.0.1".into()),
            ("--authrpc.port", self.engine.to_string()),
            ("--authrpc.jwtsecret", path(&self.jwt)),
        ];
        let mut flags = vec!["--nodiscover"];
        if let Some(rpc) = rpc {
            flags.push("--http");
            pairs.extend([
                ("--http.addr", rpc.ip().to_string()),
                ("--http.port", rpc.port().to_string()),
                ("--http.api", "eth,net,web3".into()),
            ]);
            if !rpc.ip().is_loopback() {
                // Others call it by its name.
                pairs.push(("--http.vhosts", "*".into()));
            }
        }
        command_line(&flags, pairs)
    }
}

/// What writes geth's genesis block.
pub(crate) fn init_args(data: &Path, genesis: &Path) -> Vec<String> {
    let (data, genesis) = (data.display(), genesis.display());
    let args = ["init", "--state.scheme", "hash", "--datadir"].map(str::to_owned);
    [args.as_slice(), &[data.to_string(), genesis.to_string()]].concat()
}

/// Writes the genesis block of a geth that may have had another.
pub(crate) fn init_geth(program: &Path, data: &Path, genesis: &Path) -> eyre::Result<()> {
    let output = Command::new(program)
        .args(init_args(data, genesis))
        .output()
        .wrap_err_with(|| format!("failed to run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "geth init failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// One EthereumJS. It is slow, and there to disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EthereumJs {
    /// Its data.
    pub data: PathBuf,
    /// The genesis file.
    pub genesis: PathBuf,
    /// The file with the secret that it shares with a conductor.
    pub jwt: PathBuf,
    /// Its authenticated port.
    pub engine: u16,
    /// Its public port.
    pub rpc: u16,
}

impl EthereumJs {
    /// Its command line.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let pairs = vec![
            ("--dataDir", path(&self.data)),
            ("--gethGenesis", path(&self.genesis)),
            ("--jwtSecret", path(&self.jwt)),
            ("--rpcEngineAddr", "127.0.0.1".into()),
            ("--rpcEnginePort", self.engine.to_string()),
            ("--rpcAddr", "127.0.0.1".into()),
            ("--rpcPort", self.rpc.to_string()),
            ("--sync", "none".into()),
            ("--maxPeers", "0".into()),
            ("--discV4", "false".into()),
            ("--discDns", "false".into()),
            ("--logFile", path(&self.data.join("ethereumjs.log"))),
        ];
        command_line(&["--rpc", "--rpcEngine", "--isSingleNode"], pairs)
    }
}

fn command_line(flags: &[&str], pairs: Vec<(&str, String)>) -> Vec<String> {
    let pairs = pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    flags
        .iter()
        .map(|flag| (*flag).to_owned())
        .chain(pairs)
        .collect()
}
