//! The supervisor's socket: one JSON request per line, one JSON answer per line.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eyre::{WrapErr, bail, eyre};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{Devnet, is_running, setup::socket};

/// Longest line, in bytes.
const MAX_LINE: u64 = 4_096;
/// How long a request may take: starting a validator stops it first.
const PATIENCE: Duration = Duration::from_secs(20);

/// What another terminal can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Request {
    /// Which parts run?
    Status,
    /// End a part at once.
    Kill {
        /// Which.
        name: String,
    },
    /// Start a part again.
    Start {
        /// Which.
        name: String,
    },
}

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    pub error: String,
    /// Each part and its process id, while it runs.
    pub processes: Vec<(String, Option<u32>)>,
}

/// Opens the socket of a network, whose directory this process has to itself.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(dir: &Path) -> eyre::Result<UnixListener> {
    let path = path(dir);
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path).wrap_err_with(|| format!("failed to listen on {}", path.display()))
}

/// Answers one connection.
///
/// # Errors
/// The peer is gone or sends garbage; the network does not care.
pub async fn serve(stream: UnixStream, devnet: &mut Devnet) -> eyre::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_LINE));
    tokio::time::timeout(Duration::from_secs(1), read.read_line(&mut line)).await??;
    let done = match serde_json::from_str(&line) {
        Ok(Request::Status) => Ok(()),
        Ok(Request::Kill { name }) => devnet.kill(&name).await,
        Ok(Request::Start { name }) => devnet.launch(&name).await,
        Err(error) => Err(eyre!("not a request: {error}")),
    };
    let processes = devnet
        .status()
        .into_iter()
        .map(|status| (status.name, status.pid))
        .collect();
    let error = done
        .as_ref()
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    let answer = Answer {
        ok: done.is_ok(),
        error,
        processes,
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    Ok(write.write_all(&bytes).await?)
}

/// Asks the supervisor of the network in `dir`.
///
/// # Errors
/// No network runs there, or it refuses.
pub async fn ask(dir: &Path, request: &Request) -> eyre::Result<Answer> {
    let not_running = || {
        format!(
            "no network runs in {}; start it with `devnet`",
            dir.display()
        )
    };
    let dir = fs::canonicalize(dir).wrap_err_with(not_running)?;
    let mut stream = match UnixStream::connect(path(&dir)).await {
        Ok(stream) => stream,
        Err(_) if is_running(&dir) => bail!("the network in {} is starting", dir.display()),
        Err(_) => bail!("{}", not_running()),
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    let mut read = BufReader::new(stream);
    tokio::time::timeout(PATIENCE, read.read_line(&mut answer)).await??;
    let answer: Answer = serde_json::from_str(&answer)?;
    if !answer.ok {
        bail!("{}", answer.error);
    }
    Ok(answer)
}

fn path(dir: &Path) -> PathBuf {
    socket(dir.join("control.sock"))
}
