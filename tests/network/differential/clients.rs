//! A stock client alone, behind its authenticated port.

use std::{fs, path::PathBuf, time::Duration};

use alloy_genesis::Genesis;
use alloy_network::Ethereum;
use alloy_provider::{DynProvider, Provider, ProviderBuilder};
use counterpoint::devnet::{
    clients::{EthereumJs, Geth},
    ports,
    process::{Process, Spec},
    tools,
};
use counterpoint_conductor::{
    engine::{EngineClient, ExecutionClient},
    thin::Ipc,
};
use tempfile::TempDir;

use crate::support::{say, wait_for};

const SECRET: &str = "7365637265747365637265747365637265747365637265747365637265747365";

/// A client that runs; its directory goes with it.
pub(super) struct Client {
    process: Process,
    ports: Ports,
    files: Files,
}

/// The files of a client that is about to start.
struct Files {
    directory: TempDir,
    genesis: PathBuf,
    jwt: PathBuf,
    data: PathBuf,
}

impl Files {
    fn write(genesis: &Genesis) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = Self {
            genesis: path("genesis.json"),
            jwt: path("jwt.hex"),
            data: path("data"),
            directory,
        };
        fs::write(&files.genesis, serde_json::to_vec(genesis).unwrap()).unwrap();
        fs::write(&files.jwt, SECRET).unwrap();
        fs::create_dir(&files.data).unwrap();
        files
    }
}

impl Files {
    fn ipc(&self) -> PathBuf {
        self.directory.path().join("geth.ipc")
    }
}

impl Client {
    pub(super) async fn geth(genesis: &Genesis) -> Self {
        let program = tools::GETH.install(&say).unwrap();
        let (files, ports) = (Files::write(genesis), Ports::free());
        let geth = Geth {
            data: files.data.clone(),
            jwt: files.jwt.clone(),
            chain_id: genesis.config.chain_id,
            gas_limit: genesis.gas_limit,
            engine: ports.engine,
            ipc: files.ipc(),
        };
        geth.init(&program, &files.genesis).unwrap();
        Self::start("geth", program, geth.args(Some(ports.rpc)), ports, files).await
    }

    pub(super) async fn ethereumjs(genesis: &Genesis) -> Self {
        let program = tools::ETHEREUMJS.install(&say).unwrap();
        let (files, ports) = (Files::write(genesis), Ports::free());
        let client = EthereumJs {
            data: files.data.clone(),
            genesis: files.genesis.clone(),
            jwt: files.jwt.clone(),
            engine: ports.engine,
            rpc: ports.rpc,
        };
        Self::start("ethereumjs", program, client.args(), ports, files).await
    }

    async fn start(
        name: &str,
        program: PathBuf,
        args: Vec<String>,
        ports: Ports,
        files: Files,
    ) -> Self {
        let spec = Spec {
            name: name.to_owned(),
            program,
            args,
            log: files.directory.path().join("log"),
        };
        let launcher = PathBuf::from(env!("CARGO_BIN_EXE_counterpoint-under-test"));
        let mut process = Process::new(spec, &launcher);
        process.start().unwrap();
        let client = Self {
            process,
            ports,
            files,
        };
        let engine = client.engine();
        wait_for(&format!("{name} answers"), || async {
            engine.chain_id().await.ok()
        })
        .await;
        client
    }

    /// Speaks to it as a conductor does.
    pub(super) fn engine(&self) -> EngineClient {
        EngineClient::new(
            &format!("http://127.0.0.1:{}", self.ports.engine),
            &self.files.jwt,
        )
        .unwrap()
    }

    /// geth's socket.
    pub(super) fn ipc(&self) -> Ipc {
        Ipc::new(&self.files.ipc())
    }

    /// Its public port.
    pub(super) fn rpc(&self) -> DynProvider<Ethereum> {
        let url = format!("http://127.0.0.1:{}", self.ports.rpc);
        ProviderBuilder::new()
            .connect_http(url.parse().unwrap())
            .erased()
    }

    /// The end of its log.
    pub(super) fn log(&self) -> String {
        self.process.log_tail()
    }

    pub(super) async fn stop(mut self) {
        self.process.stop(Duration::from_secs(10)).await.unwrap();
    }
}

/// Where a client listens.
#[derive(Clone, Copy)]
struct Ports {
    engine: u16,
    rpc: u16,
}

impl Ports {
    fn free() -> Self {
        // Both are held until both are known.
        let listeners = [ports::free().unwrap(), ports::free().unwrap()];
        let [engine, rpc] = listeners
            .each_ref()
            .map(|at| at.local_addr().unwrap().port());
        Self { engine, rpc }
    }
}
