//! A whole network on one machine: real CometBFT, real geth, our services.
//!
//! [`plan`] decides it, [`setup`] writes it down, [`process`] runs its parts, [`control`] lets
//! another terminal look and interfere. [`testnet`] writes one down for many machines instead.

pub mod clients;
pub mod control;
pub mod info;
pub mod plan;
pub mod ports;
pub mod process;
pub mod setup;
pub mod testnet;
pub mod tools;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use counterpoint_core::key::PublicKey;
use eyre::{OptionExt, WrapErr, bail, eyre};
pub use info::Info;
pub use plan::{Abci, Application, Detours, MAX_BLOCK_BYTES, Mempool, Options};
use plan::{AttesterPlan, Plan, RollupPlan, ValidatorPlan, url};
use process::{Process, Spec};
use setup::{Layout, Trust};

/// Marks a directory whose files are not all written.
const INCOMPLETE: &str = "incomplete";
/// How long a part may take to come up.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that joins may take until it has caught up.
const JOIN_PATIENCE: Duration = Duration::from_secs(180);
/// How long a part may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long CometBFT may: without its application it may ignore SIGTERM.
const COMETBFT_PATIENCE: Duration = Duration::from_secs(2);

/// A running network.
#[derive(Debug)]
pub struct Devnet {
    plan: Plan,
    layout: Layout,
    options: Options,
    programs: Programs,
    processes: BTreeMap<String, Process>,
    http: reqwest::Client,
    /// Held while the network runs, so that nobody else runs or removes it.
    _lock: File,
}

/// Whether a part runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
}

impl Devnet {
    /// Starts a network, or resumes the one in `options.dir`, and waits until it works. `say` is
    /// told of each step.
    ///
    /// # Errors
    /// A tool, a file, a port or a process is not as it must be; the message says what to do.
    pub async fn start(
        options: &Options,
        say: &(dyn Fn(&str) + Send + Sync),
    ) -> eyre::Result<Self> {
        let cometbft = tools::COMETBFT.install(say)?;
        let geth = match options.rollups {
            0 => PathBuf::new(),
            _ => tools::GETH.install(say)?,
        };
        fs::create_dir_all(&options.dir)
            .wrap_err_with(|| format!("failed to create {}", options.dir.display()))?;
        let dir = fs::canonicalize(&options.dir)?;
        let lock = lock(&dir)?;
        let layout = Layout { dir };
        let plan = match Plan::read(&layout.dir)? {
            Some(plan) => {
                say("resuming");
                plan
            }
            None => {
                say("writing genesis, keys and configuration");
                create(options, &layout, &geth)?
            }
        };
        let programs = Programs {
            counterpoint: options.program.clone(),
            application: options.application.clone(),
            cometbft,
            geth,
        };
        let specs = programs.specs(&plan, &layout).into_iter();
        let processes = specs
            .map(|spec| (spec.name.clone(), Process::new(spec, &options.program)))
            .collect();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()?;
        let mut devnet = Self {
            plan,
            layout,
            options: options.clone(),
            programs,
            processes,
            http,
            _lock: lock,
        };
        if let Err(error) = devnet.bring_up(say).await {
            devnet.stop().await?;
            return Err(error);
        }
        Ok(devnet)
    }

    async fn bring_up(&mut self, say: &(dyn Fn(&str) + Send + Sync)) -> eyre::Result<()> {
        let plan = self.plan.clone();
        say("starting validators");
        for validator in plan.nodes() {
            self.spawn(&format!("{}-app", validator.name))?;
        }
        for validator in plan.nodes() {
            self.spawn(&format!("{}-cometbft", validator.name))?;
        }
        for rollup in plan.driven() {
            self.spawn(&format!("{}-geth", rollup.name))?;
        }
        for validator in plan.nodes() {
            say(&format!(
                "waiting for the first block of {}",
                validator.name
            ));
            match self.options.application {
                Application::Sequencer => {
                    let name = format!("{}-app", validator.name);
                    self.await_ready(&name, &url(validator.http)).await?;
                }
                Application::Noop(_) => {
                    let name = format!("{}-cometbft", validator.name);
                    let first = format!("{}/commit?height=1", url(validator.rpc));
                    self.await_answer(&name, &first, START_PATIENCE).await?;
                }
            }
        }
        self.write_info()?;
        for rollup in plan.driven() {
            self.spawn(&format!("{}-conductor", rollup.name))?;
        }
        for attester in &plan.attesters {
            self.spawn(&attester.name)?;
        }
        if !plan.driven().is_empty() {
            self.spawn("composer")?;
        }
        for rollup in plan.driven() {
            say(&format!("waiting for the first block of {}", rollup.name));
            let name = format!("{}-conductor", rollup.name);
            self.await_ready(&name, &url(rollup.conductor_http)).await?;
        }
        for attester in &plan.attesters {
            say(&format!("waiting for {}", attester.name));
            self.await_ready(&attester.name, &url(attester.http))
                .await?;
        }
        if !plan.driven().is_empty() {
            say("waiting for the composer");
            self.await_ready("composer", &url(plan.composer.http))
                .await?;
        }
        Ok(())
    }

    /// Adds a node that is none of the genesis: it takes a snapshot from the others, and has caught
    /// up when this returns. Gives its name.
    ///
    /// # Errors
    /// A file, a port or a process is not as it must be, or the node does not catch up.
    pub async fn join(&mut self, say: &(dyn Fn(&str) + Send + Sync)) -> eyre::Result<String> {
        let node = self.plan.another()?;
        let trust = self.newest_header().await?;
        say(&format!("{} joins by state sync", node.name));
        setup::write_joining(
            &self.plan,
            &self.layout,
            &node,
            &trust,
            &self.options.detours,
        )?;
        for spec in self.programs.node(&node, &self.layout) {
            let name = spec.name.clone();
            let process = Process::new(spec, &self.options.program);
            self.processes.insert(name, process);
        }
        self.plan.joined.push(node.clone());
        self.plan.write(&self.layout.dir)?;
        // CometBFT ends when its application does, or when it can take no snapshot.
        let cometbft = format!("{}-cometbft", node.name);
        self.launch(&cometbft).await?;
        let ready = format!("{}/readyz", url(node.http));
        self.await_answer(&cometbft, &ready, JOIN_PATIENCE).await?;
        self.write_info()?;
        Ok(node.name)
    }

    /// The newest header that the first validator has: it will not be pruned soon.
    async fn newest_header(&self) -> eyre::Result<Trust> {
        let first = self.plan.validators.first().ok_or_eyre("no validators")?;
        let answer = self.http.get(format!("{}/commit", url(first.rpc)));
        let answer: serde_json::Value = answer.send().await?.json().await?;
        let commit = &answer["result"]["signed_header"]["commit"];
        let text = |value: &serde_json::Value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_eyre("cometbft gave no commit")
        };
        Ok(Trust {
            height: text(&commit["height"])?.parse()?,
            hash: text(&commit["block_id"]["hash"])?,
        })
    }

    /// The public key that a node votes with, once it is a validator.
    ///
    /// # Errors
    /// There is no such node.
    pub fn consensus_key(&self, node: &str) -> eyre::Result<PublicKey> {
        setup::consensus_key(&self.layout, node)
    }

    fn write_info(&self) -> eyre::Result<()> {
        let info = serde_json::to_vec_pretty(&self.info())?;
        Ok(fs::write(self.layout.dir.join("devnet.json"), info)?)
    }

    /// Starts a part that does not run, and nothing else.
    ///
    /// # Errors
    /// There is no such part, or it cannot be started.
    pub fn spawn(&mut self, name: &str) -> eyre::Result<()> {
        self.process(name)?.start()
    }

    /// Waits until a part says that it is ready.
    async fn await_ready(&mut self, name: &str, probes: &str) -> eyre::Result<()> {
        let url = format!("{probes}/readyz");
        self.await_answer(name, &url, START_PATIENCE).await
    }

    /// Waits until a part answers at `url` that all is well.
    async fn await_answer(
        &mut self,
        name: &str,
        url: &str,
        patience: Duration,
    ) -> eyre::Result<()> {
        let deadline = Instant::now() + patience;
        let mut last = String::from("no answer yet");
        while Instant::now() < deadline {
            let process = self.process(name)?;
            if process.pid().is_none() {
                bail!(
                    "{name} ended; its log {} says:\n{}",
                    process.log().display(),
                    process.log_tail()
                );
            }
            match self.http.get(url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let tail = self.process(name)?.log_tail();
        bail!("{name} is not ready after {patience:?}: {last}\nits log ends with:\n{tail}")
    }

    fn process(&mut self, name: &str) -> eyre::Result<&mut Process> {
        let names: Vec<&str> = self.processes.keys().map(String::as_str).collect();
        let unknown = eyre!("no process {name}; there are {}", names.join(", "));
        self.processes.get_mut(name).ok_or(unknown)
    }

    /// What a user of the network must know.
    #[must_use]
    pub fn info(&self) -> Info {
        Info::new(&self.plan, &self.layout)
    }

    /// Whether each part runs.
    pub fn status(&mut self) -> Vec<Status> {
        let status = |(name, process): (&String, &mut Process)| Status {
            name: name.clone(),
            pid: process.pid(),
        };
        self.processes.iter_mut().map(status).collect()
    }

    /// Ends a part at once, as a crash would.
    ///
    /// # Errors
    /// There is no such part.
    pub async fn kill(&mut self, name: &str) -> eyre::Result<()> {
        self.process(name)?.kill().await
    }

    /// Starts a part again. CometBFT and application of a validator always start together: neither
    /// can be trusted to go on after the other is gone.
    ///
    /// # Errors
    /// There is no such part, or it cannot be started.
    pub async fn launch(&mut self, name: &str) -> eyre::Result<()> {
        let validator = name
            .strip_suffix("-app")
            .or_else(|| name.strip_suffix("-cometbft"));
        let Some(validator) = validator else {
            return self.spawn(name);
        };
        let (app, cometbft) = (format!("{validator}-app"), format!("{validator}-cometbft"));
        self.process(&cometbft)?.stop(COMETBFT_PATIENCE).await?;
        self.process(&app)?.stop(STOP_PATIENCE).await?;
        self.spawn(&app)?;
        self.spawn(&cometbft)
    }

    /// Runs a part with another program from its next start on, as whoever installs a release does.
    ///
    /// # Errors
    /// There is no such part.
    pub fn install(&mut self, name: &str, program: &Path) -> eyre::Result<()> {
        self.process(name)?.install(program);
        Ok(())
    }

    /// Stops everything: intake first, consensus last.
    ///
    /// # Errors
    /// A process cannot be stopped.
    pub async fn stop(&mut self) -> eyre::Result<()> {
        let attesters = self.plan.attesters.iter();
        let attesters: Vec<String> = attesters.map(|one| one.name.clone()).collect();
        let attesters = attesters.iter().map(String::as_str);
        let others = ["composer", "-conductor", "-geth", "-cometbft", "-app"];
        for suffix in attesters.chain(others) {
            let patience = if suffix == "-cometbft" {
                COMETBFT_PATIENCE
            } else {
                STOP_PATIENCE
            };
            for (name, process) in &mut self.processes {
                if name.ends_with(suffix) {
                    process.stop(patience).await?;
                }
            }
        }
        Ok(())
    }
}

/// Takes a directory for this process alone.
fn lock(dir: &Path) -> eyre::Result<File> {
    let path = dir.join("lock");
    let lock =
        File::create(&path).wrap_err_with(|| format!("failed to create {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "a network already runs in {}; stop it first, or use another --dir",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).wrap_err_with(|| path.display().to_string()),
    }
}

/// Whether a network runs in a directory, or is being started there.
#[must_use]
pub fn is_running(dir: &Path) -> bool {
    File::open(dir.join("lock"))
        .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Decides on a new network and writes all its files. A first start that was interrupted leaves a
/// mark, and the next one starts over.
fn create(options: &Options, layout: &Layout, geth: &Path) -> eyre::Result<Plan> {
    let mark = layout.dir.join(INCOMPLETE);
    if mark.exists() {
        clear(&layout.dir)?;
    }
    fs::write(&mark, "")?;
    let plan = Plan::new(options)?;
    setup::write(&plan, layout, geth, &options.detours)?;
    plan.write(&layout.dir)?;
    fs::remove_file(mark)?;
    Ok(plan)
}

/// Removes everything of a network but the lock.
///
/// # Errors
/// The directory is not a network's, or something in it cannot be removed.
pub fn clear(dir: &Path) -> eyre::Result<()> {
    let ours = dir.join("plan.json").is_file() || dir.join(INCOMPLETE).is_file();
    eyre::ensure!(ours, "{} is no network's directory", dir.display());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let removed = match path.file_name() {
            Some(name) if name == "lock" || name == INCOMPLETE => continue,
            _ if path.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.wrap_err_with(|| format!("failed to remove {}", path.display()))?;
    }
    Ok(())
}

/// The programs that a network's processes run.
#[derive(Clone, Debug)]
struct Programs {
    counterpoint: PathBuf,
    application: Application,
    cometbft: PathBuf,
    geth: PathBuf,
}

impl Programs {
    /// Every process of a network.
    fn specs(&self, plan: &Plan, layout: &Layout) -> Vec<Spec> {
        let nodes = plan.nodes().flat_map(|node| self.node(node, layout));
        let attesters = plan.attesters.iter();
        let attesters = attesters.map(|attester| self.attester(attester, layout));
        let rollups = plan.driven().iter();
        let rollups = rollups.flat_map(|rollup| self.rollup(plan, rollup, layout));
        nodes
            .chain(attesters)
            .chain(rollups)
            .chain([self.composer(layout)])
            .collect()
    }

    /// The application and CometBFT of one node.
    fn node(&self, node: &ValidatorPlan, layout: &Layout) -> [Spec; 2] {
        let name = format!("{}-app", node.name);
        let app = match &self.application {
            Application::Sequencer => self.service("app", name, layout),
            Application::Noop(program) => {
                let socket = layout.abci_socket(&node.name).display().to_string();
                let listen = format!("127.0.0.1:{}", node.grpc);
                let args = ["--socket", &socket, "inserted", "--grpc-listen", &listen];
                let args = args.map(str::to_owned).to_vec();
                spec(name, program, args, layout)
            }
        };
        let home = layout.cometbft_home(&node.name).display().to_string();
        let name = format!("{}-cometbft", node.name);
        let args = vec!["node".into(), "--home".into(), home];
        [app, spec(name, &self.cometbft, args, layout)]
    }

    /// The client and the conductor of one rollup.
    fn rollup(&self, plan: &Plan, rollup: &RollupPlan, layout: &Layout) -> [Spec; 2] {
        let args = layout
            .geth(rollup)
            .args_at(Some(plan.listen(rollup.el_rpc)));
        let client = spec(format!("{}-geth", rollup.name), &self.geth, args, layout);
        let conductor = format!("{}-conductor", rollup.name);
        [client, self.service("conductor", conductor, layout)]
    }

    fn composer(&self, layout: &Layout) -> Spec {
        self.service("composer", "composer".into(), layout)
    }

    fn attester(&self, attester: &AttesterPlan, layout: &Layout) -> Spec {
        self.service("attester", attester.name.clone(), layout)
    }

    fn service(&self, kind: &str, name: String, layout: &Layout) -> Spec {
        let config = layout.service_config(&name).display().to_string();
        let args = vec![kind.into(), "--config".into(), config];
        spec(name, &self.counterpoint, args, layout)
    }
}

fn spec(name: String, program: &Path, args: Vec<String>, layout: &Layout) -> Spec {
    let log = layout.log(&name);
    Spec {
        name,
        program: program.into(),
        args,
        log,
    }
}
