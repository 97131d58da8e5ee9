use std::{
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use eyre::{WrapErr, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{DIR_VARIABLE, Output, show};
use crate::devnet::{
    Devnet, Info, Options, clear,
    control::{Request, ask, listen, serve},
    info::quoted,
    is_running,
    plan::Plan,
    tools::{COMETBFT, GETH},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  counterpoint devnet --validators 4 --rollups 2\n  counterpoint devnet status\n  counterpoint devnet kill val-0-app"
)]
pub(crate) struct DevnetArgs {
    #[command(subcommand)]
    command: Option<DevnetCommand>,
    /// How many validators; 1 unless given.
    #[arg(long)]
    validators: Option<usize>,
    /// How many rollups, each with its own geth; 2 unless given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rollups: Option<u64>,
    /// Length of a rollup's slot in seconds; 1 unless given.
    #[arg(long)]
    slot_secs: Option<u8>,
    /// How many attesters each rollup has, its conductor counted, of which most must agree; 1 unless given.
    #[arg(long)]
    attesters: Option<usize>,
    /// Pause between sequencer blocks, such as 1s; 200ms unless given.
    #[arg(long, value_parser = interval)]
    block_interval: Option<u64>,
    /// Use a row of ports from here on, instead of free ones.
    #[arg(long)]
    base_port: Option<u16>,
    /// Print devnet.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Where everything of the network lies; started again on the same directory, it resumes.
    #[arg(long, default_value = ".devnet", env = DIR_VARIABLE, hide_env_values = true, global = true)]
    dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum DevnetCommand {
    /// Say which parts run.
    #[command(after_help = "Example:\n  counterpoint devnet status --output json")]
    Status {
        /// How to show the result.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print addresses and a key, as variables of a shell.
    #[command(
        after_help = "Example:\n  eval \"$(counterpoint devnet env)\" && cast chain-id --rpc-url $ALPHA"
    )]
    Env,
    /// Show a part's log.
    #[command(after_help = "Example:\n  counterpoint devnet logs alpha-conductor --follow")]
    Logs {
        /// Its name, as `status` shows it.
        name: String,
        /// Keep showing what comes.
        #[arg(short, long)]
        follow: bool,
    },
    /// End a part at once, as a crash would.
    #[command(after_help = "Example:\n  counterpoint devnet kill val-0-app")]
    Kill {
        /// Its name.
        name: String,
    },
    /// Start a part again.
    #[command(after_help = "Example:\n  counterpoint devnet start val-0-app")]
    Start {
        /// Its name.
        name: String,
    },
    /// Forget the network: removes its directory.
    #[command(after_help = "Example:\n  counterpoint devnet reset")]
    Reset,
}

impl DevnetArgs {
    fn shapes_a_network(&self) -> bool {
        let parts = [self.validators, self.attesters];
        let counts = parts.iter().any(Option::is_some) || self.rollups.is_some();
        let times = self.slot_secs.is_some() || self.block_interval.is_some();
        counts || times || self.base_port.is_some() || self.json
    }
}

pub(crate) async fn run(args: DevnetArgs) -> eyre::Result<()> {
    let dir = args.dir.clone();
    if args.command.is_some() && args.shapes_a_network() {
        bail!("only --dir goes with a subcommand: the other flags shape a network that is started");
    }
    match args.command {
        None => up(args).await,
        Some(DevnetCommand::Status { output }) => status(&dir, &Request::Status, output).await,
        Some(DevnetCommand::Env) => env(&dir),
        Some(DevnetCommand::Kill { name }) => {
            status(&dir, &Request::Kill { name }, Output::Text).await
        }
        Some(DevnetCommand::Start { name }) => {
            status(&dir, &Request::Start { name }, Output::Text).await
        }
        Some(DevnetCommand::Logs { name, follow }) => logs(&dir, &name, follow).await,
        Some(DevnetCommand::Reset) => reset(&dir),
    }
}

async fn up(args: DevnetArgs) -> eyre::Result<()> {
    std::fs::create_dir_all(&args.dir)
        .wrap_err_with(|| format!("failed to create {}", args.dir.display()))?;
    let dir = std::fs::canonicalize(&args.dir)?;
    let options = options(&args, dir.clone())?;
    let style = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}")?;
    let progress = ProgressBar::new_spinner().with_style(style);
    progress.enable_steady_tick(Duration::from_millis(100));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let say = |step: &str| progress.set_message(step.to_owned());
    let mut devnet = tokio::select! {
        started = Devnet::start(&options, &say) => started?,
        _ = interrupt.recv() => bail!("interrupted while starting"),
    };
    let listener = listen(&dir)?;
    progress.finish_and_clear();
    let info = devnet.info();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&info)?);
    } else {
        print_table(&info);
    }
    std::io::stdout().flush()?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted
                    && let Err(error) = serve(stream, &mut devnet).await
                {
                    eprintln!("counterpoint: control socket: {error:#}");
                }
            }
        }
    }
    eprintln!("stopping");
    devnet.stop().await
}

/// What was asked for, which must be what a network that is resumed already has.
fn options(args: &DevnetArgs, dir: PathBuf) -> eyre::Result<Options> {
    let plan = Plan::read(&dir)?;
    let slot_secs = |plan: &Plan| plan.rollups.first().map(|rollup| rollup.slot_secs);
    let attesters = |plan: &Plan| usize::from(plan.attested) + plan.attesters.len();
    let has = plan.as_ref();
    let rollups = args.rollups.map(usize::try_from).transpose()?;
    Ok(Options {
        validators: pick(
            "validators",
            args.validators,
            has.map(|plan| plan.validators.len()),
            1,
        )?,
        rollups: pick("rollups", rollups, has.map(|plan| plan.rollups.len()), 2)?,
        slot_secs: vec![pick(
            "slot-secs",
            args.slot_secs,
            has.and_then(slot_secs),
            1,
        )?],
        attesters: pick("attesters", args.attesters, has.map(attesters), 1)?,
        block_interval_ms: pick(
            "block-interval",
            args.block_interval,
            has.map(|plan| plan.block_interval_ms),
            200,
        )?,
        base_port: args.base_port,
        ..Options::new(dir, std::env::current_exe()?)
    })
}

fn pick<T: Copy + PartialEq + std::fmt::Display>(
    flag: &str,
    asked: Option<T>,
    has: Option<T>,
    default: T,
) -> eyre::Result<T> {
    match (asked, has) {
        (Some(asked), Some(has)) if asked != has => bail!(
            "--{flag} {asked}: the network in this directory was made with {has}; leave the flag \
             out to resume it, or run `devnet reset` first"
        ),
        _ => Ok(asked.or(has).unwrap_or(default)),
    }
}

/// Where the explorer's page is: a composer knows more than a node.
fn explorer(info: &Info) -> String {
    match info.validators.first() {
        Some(first) if info.rollups.is_empty() => format!("{}/explorer/", first.http),
        _ => info.composer.explorer.clone(),
    }
}

fn print_table(info: &Info) {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(["", "chain id", "wallets connect to"]);
    for rollup in &info.rollups {
        let id = rollup.evm_chain_id.to_string();
        table.add_row([rollup.name.clone(), id, rollup.composer_rpc.clone()]);
    }
    println!("{table}");
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(["", "gRPC", "CometBFT RPC", "probes"]);
    for validator in &info.validators {
        let row = [
            &validator.name,
            &validator.grpc,
            &validator.cometbft_rpc,
            &validator.http,
        ];
        table.add_row(row);
    }
    println!("{table}");
    println!(
        "blocks, transactions and bundles, for a browser: {}",
        explorer(info)
    );
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(["funded on every rollup", "private key"]);
    for account in &info.accounts {
        table.add_row([&account.address, &account.private_key]);
    }
    println!("{table}");
    if let (Some(rollup), [from, to, ..]) = (info.rollups.first(), info.accounts.as_slice()) {
        println!(
            "\nSend a first transaction (`counterpoint devnet env` has all this for a shell):\n"
        );
        println!(
            "  cast send --rpc-url {} --private-key {} --value 1ether {}\n",
            rollup.composer_rpc, from.private_key, to.address
        );
    }
    println!("Stop with Ctrl-C; start again in the same directory to resume.");
}

async fn status(dir: &Path, request: &Request, output: Output) -> eyre::Result<()> {
    let processes = ask(dir, request).await?.processes;
    if output == Output::Json {
        let process = |(name, pid)| json!({ "name": name, "pid": pid });
        let processes: Vec<_> = processes.into_iter().map(process).collect();
        return show(&json!(processes), output);
    }
    for (name, pid) in processes {
        let state = pid.map_or_else(|| "stopped".to_owned(), |pid| format!("running, pid {pid}"));
        println!("{name:20}  {state}");
    }
    Ok(())
}

fn env(dir: &Path) -> eyre::Result<()> {
    let path = dir.join("devnet.json");
    let text = std::fs::read_to_string(&path)
        .wrap_err_with(|| format!("no network: {}; start one with `devnet`", path.display()))?;
    let info: Info = serde_json::from_str(&text)
        .wrap_err_with(|| format!("{} is of another release", path.display()))?;
    print!("{}", info.shell());
    // So that commands find this network from any folder, and no other.
    let dir = std::fs::canonicalize(dir)?;
    println!("export {DIR_VARIABLE}={}", quoted(&dir.display()));
    // What the guides call by name: this program, and those that the network was started with.
    let say = |step: &str| eprintln!("{step}");
    let mut programs = vec![std::env::current_exe()?];
    programs.extend([COMETBFT.install(&say)?, GETH.install(&say)?]);
    let folders: Vec<_> = programs.iter().filter_map(|path| path.parent()).collect();
    let folders = std::env::join_paths(folders)?;
    println!("export PATH=\"$PATH\":{}", quoted(&folders.display()));
    Ok(())
}

async fn logs(dir: &Path, name: &str, follow: bool) -> eyre::Result<()> {
    let path = dir.join("logs").join(format!("{name}.log"));
    let mut log = std::fs::File::open(&path)
        .wrap_err_with(|| format!("no log {}; `devnet status` shows the names", path.display()))?;
    loop {
        std::io::copy(&mut log, &mut std::io::stdout())?;
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (length, at) = (log.metadata()?.len(), log.stream_position()?);
        if length < at {
            log.seek(SeekFrom::Start(0))?;
        }
    }
}

fn reset(dir: &Path) -> eyre::Result<()> {
    if is_running(dir) {
        bail!(
            "the network in {} runs; stop it with Ctrl-C first",
            dir.display()
        );
    }
    clear(dir)?;
    std::fs::remove_dir_all(dir).wrap_err_with(|| format!("failed to remove {}", dir.display()))
}

/// `200ms` or `2s`, in milliseconds.
pub(super) fn interval(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not an interval such as 200ms or 1s");
    let (digits, factor) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, 1_000),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(factor)
        .filter(|ms| (1..=60_000).contains(ms))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit() {
        assert_eq!(interval("200ms"), Ok(200));
        assert_eq!(interval("2s"), Ok(2_000));
        assert!(interval("200").is_err() && interval("0s").is_err() && interval("2h").is_err());
    }

    #[test]
    fn a_network_that_is_resumed_keeps_its_shape() {
        assert_eq!(pick("validators", None, None, 1).unwrap(), 1);
        assert_eq!(pick("validators", Some(4), None, 1).unwrap(), 4);
        assert_eq!(pick("validators", None, Some(4), 1).unwrap(), 4);
        assert_eq!(pick("validators", Some(4), Some(4), 1).unwrap(), 4);
        let error = pick("validators", Some(3), Some(4), 1).unwrap_err();
        assert!(error.to_string().starts_with("--validators 3: the network"));
    }
}
