//! What all `doctor` commands share: findings, each with what to do about it, and looks at the machine.
//! Nothing is written by any of them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use counterpoint_core::light::TrustedState;
use eyre::ensure;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{disk, files::read_trust, sequencer::Client};

/// How long whoever is asked may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer of a probe that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What to make of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Something is to be done.
    Wrong,
    /// Nobody says.
    Unknown,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: String,
    /// What to make of it.
    pub verdict: Verdict,
    /// What there was.
    pub found: String,
    /// Empty if nothing is to be done.
    pub advice: &'static str,
}

/// What was found, or also what to do about it.
pub type Finding = Result<String, (String, &'static str)>;

impl Check {
    /// A finding as a line.
    pub fn of(check: impl Into<String>, finding: Finding) -> Self {
        let (verdict, found, advice) = match finding {
            Ok(found) => (Verdict::Ok, found, ""),
            Err((found, advice)) => (Verdict::Wrong, found, advice),
        };
        Self {
            check: check.into(),
            verdict,
            found,
            advice,
        }
    }

    /// That nobody says.
    pub fn unknown(check: impl Into<String>, found: &str, advice: &'static str) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Unknown,
            found: found.into(),
            advice,
        }
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Wrong => "WRONG",
            Verdict::Unknown => "unknown",
        };
        let (name, found) = (&self.check, &self.found);
        let mut line = format!("{verdict:8}{name:18}{found}\n");
        if !self.advice.is_empty() {
            line += &format!("{:26}to do: {}\n", "", self.advice);
        }
        line
    }
}

/// Whether all is well, as far as it can be told.
///
/// # Errors
/// Says how many checks have failed.
pub fn conclude(checks: &[Check]) -> eyre::Result<()> {
    let wrong = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Wrong);
    let wrong = wrong.count();
    ensure!(wrong == 0, "{wrong} of {} checks have failed", checks.len());
    Ok(())
}

/// The room of a directory that a service writes to, which it may have to make first.
#[must_use]
pub fn room(key: &str, path: &Path) -> Check {
    let mut there = path.ancestors();
    let there = there.find(|path| path.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() {
        Path::new(".")
    } else {
        there
    };
    let shown = there.display();
    let finding = match (
        access(there, AccessFlags::W_OK | AccessFlags::X_OK),
        disk::free_bytes(there),
    ) {
        _ if !there.is_dir() => Err((format!("{shown} is no directory"), "name a directory")),
        (Err(error), _) => Err((
            format!("{shown} cannot be written: {error}"),
            "make it the property of the user whom the service runs as",
        )),
        (_, Err(error)) => Err((error.to_string(), "mend the disk")),
        (_, Ok(free)) => match disk::low(there, free) {
            Some(low) => Err((low, "make room, or use another disk")),
            None => Ok(format!("{} GiB free in {shown}", free >> 30)),
        },
    };
    Check::of(key, finding)
}

/// The addresses that a service is to listen at, by their keys. That of its probes tells whether it runs
/// already.
pub async fn ports(http_listen: SocketAddr, others: &[(&str, SocketAddr)]) -> Vec<Check> {
    let runs = probe(http_listen, "/livez")
        .await
        .is_ok_and(|answer| answer.contains(" 200 "));
    let judge = |(key, address): (&str, SocketAddr)| {
        let finding = match TcpListener::bind(address) {
            Ok(_) => Ok(format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
                Ok(format!("{address} is in use, and the service runs"))
            }
            Err(error) => Err((
                format!("{address}: {error}"),
                "stop what listens there, or choose another port of this machine",
            )),
        };
        Check::of(key, finding)
    };
    let probes = [("http_listen", http_listen)];
    probes.iter().chain(others).copied().map(judge).collect()
}

/// Asks a service's probe; gives head and body of the answer.
///
/// # Errors
/// It does not answer.
async fn probe(address: SocketAddr, path: &str) -> io::Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_string(&mut answer)
            .await?;
        Ok(answer)
    };
    timeout(PATIENCE, asked).await?
}

/// What trust in the sequencer starts from, if that can be read.
#[must_use]
pub fn trust(genesis: &Path) -> (Check, Option<TrustedState>) {
    match read_trust(genesis) {
        Ok(trusted) => {
            let found = format!("chain {}", trusted.chain_id());
            (Check::of("sequencer genesis", Ok(found)), Some(trusted))
        }
        Err(error) => {
            let advice = "sequencer_genesis must be CometBFT's genesis file of the sequencer";
            let finding = Err((format!("{error:#}"), advice));
            (Check::of("sequencer genesis", finding), None)
        }
    }
}

/// Whether each node answers, and for the right chain.
pub async fn sequencers(urls: &[String], chain_id: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    for url in urls {
        let asked = async {
            let client = Client::new(std::slice::from_ref(url)).map_err(|e| e.to_string())?;
            let info = timeout(PATIENCE, client.info()).await;
            let info = info.map_err(|_| format!("{url} does not answer within {PATIENCE:?}"))?;
            info.map_err(|error| format!("{url}: {error}"))
        };
        let finding = match asked.await {
            Ok(info) if info.chain_id == chain_id => {
                Ok(format!("{url} is at height {}", info.height))
            }
            Ok(info) => Err((
                format!("{url} follows chain {}, not {chain_id}", info.chain_id),
                "take it out of sequencers, or set sequencer_genesis to its chain's file",
            )),
            Err(error) => Err((error, "start the node, or take it out of sequencers")),
        };
        checks.push(Check::of("sequencer node", finding));
    }
    checks
}

/// The age of a block, in whole seconds since 1970, by this clock: block times are those of validators.
///
/// # Errors
/// The block is ahead of the clock.
pub fn clock(block_time: u64, now: u64) -> Finding {
    match block_time.saturating_sub(now) {
        0..=MAX_AHEAD_SECS => Ok(format!(
            "the newest block is {} s old",
            now.saturating_sub(block_time)
        )),
        ahead => Err((
            format!("the newest block is {ahead} s ahead of this clock"),
            "set this machine's clock by NTP",
        )),
    }
}

/// How far a block may be ahead of this machine's clock.
pub const MAX_AHEAD_SECS: u64 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_that_others_use_are_told() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let checks = ports(address, &[("grpc_listen", used.local_addr().unwrap())]).await;
        let verdicts: Vec<_> = checks
            .iter()
            .map(|check| (check.check.as_str(), check.verdict))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("http_listen", Verdict::Ok),
                ("grpc_listen", Verdict::Wrong)
            ]
        );
        assert!(
            conclude(&checks)
                .unwrap_err()
                .to_string()
                .starts_with("1 of 2 checks")
        );
        let line = checks[1].line();
        assert!(line.starts_with("WRONG   grpc_listen"), "{line}");
        assert!(line.contains("to do: stop what listens there"), "{line}");
    }

    #[test]
    fn a_disk_is_looked_at_before_there_is_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let check = room("data_dir", &directory.path().join("not/yet"));
        assert!(
            check
                .found
                .contains(&directory.path().display().to_string()),
            "{check:?}"
        );
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(room("data_dir", &file).verdict, Verdict::Wrong);
    }

    #[test]
    fn a_clock_that_is_behind_is_told() {
        assert!(clock(100, 100 - MAX_AHEAD_SECS).is_ok());
        let (found, advice) = clock(101, 100 - MAX_AHEAD_SECS).unwrap_err();
        assert!(
            found.contains("16 s ahead") && advice.contains("NTP"),
            "{found}"
        );
    }
}
