//! One process of a network: its own log, its own group, ended by its own handle.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use eyre::WrapErr;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// How to start one process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name in the network.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A process that was started, and perhaps has ended.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    launcher: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. `launcher` is a `counterpoint` program: it starts the
    /// process so that it ends with this one.
    #[must_use]
    pub fn new(spec: Spec, launcher: &Path) -> Self {
        Self {
            spec,
            launcher: launcher.into(),
            child: None,
        }
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// Runs another program from the next start on.
    pub fn install(&mut self, program: &Path) {
        self.spec.program = program.into();
    }

    /// Starts it, appending to its log.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self) -> eyre::Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.spec.log)?;
        let mut command = std::process::Command::new(&self.launcher);
        command
            .args(["child", "--parent", &std::process::id().to_string()])
            .arg(&self.spec.program)
            .args(&self.spec.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for the supervisor, which stops things in order.
            .process_group(0);
        let child = Command::from(command).kill_on_drop(true).spawn();
        let child = child.wrap_err_with(|| format!("failed to start {}", self.spec.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        match child.try_wait() {
            Ok(None) => child.id(),
            _ => None,
        }
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn kill(&mut self) -> eyre::Result<()> {
        if let Some(mut child) = self.child.take() {
            child
                .kill()
                .await
                .wrap_err_with(|| format!("failed to kill {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Asks it to end, and ends it if it does not within `patience`.
    ///
    /// # Errors
    /// It cannot be signalled or waited for.
    pub async fn stop(&mut self, patience: Duration) -> eyre::Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(pid)?);
        kill(pid, Signal::SIGTERM)?;
        let ended = match self.child.as_mut() {
            Some(child) => tokio::time::timeout(patience, child.wait()).await.is_ok(),
            None => true,
        };
        if !ended {
            self.kill().await?;
        }
        self.child = None;
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.spec.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
