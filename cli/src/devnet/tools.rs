//! The pinned programs that a network needs beside ours, built from source on first use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eyre::{WrapErr, bail, eyre};
use nix::fcntl::{Flock, FlockArg};

/// An external program, pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
    build_minutes: u8,
}

/// Consensus.
pub const COMETBFT: Tool = Tool {
    name: "cometbft",
    package: "github.com/cometbft/cometbft/cmd/cometbft",
    version: "v0.40.0",
    build_minutes: 3,
};

/// Execution.
pub const GETH: Tool = Tool {
    name: "geth",
    package: "github.com/ethereum/go-ethereum/cmd/geth",
    version: "v1.17.5",
    build_minutes: 6,
};

/// The oldest Go that builds both.
const MIN_GO: (u32, u32) = (1, 25);

/// Where tools are kept: `$COUNTERPOINT_TOOLS`, or a cache of the user's.
///
/// # Errors
/// Neither the variable nor a home directory is known.
pub fn directory() -> eyre::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("COUNTERPOINT_TOOLS") {
        return Ok(directory.into());
    }
    let home = std::env::var_os("HOME").ok_or_else(|| eyre!("set COUNTERPOINT_TOOLS or HOME"))?;
    Ok(Path::new(&home).join(".cache/counterpoint/tools"))
}

impl Tool {
    /// The program, built by `go install` if it is not there yet. `say` is told before a build.
    ///
    /// # Errors
    /// Go is missing or too old, or the build fails; the message says what to do.
    pub fn install(self, say: &dyn Fn(&str)) -> eyre::Result<PathBuf> {
        let tools = directory()?;
        let home = tools.join(format!("{}-{}", self.name, self.version));
        let program = home.join(self.name);
        if program.is_file() {
            return Ok(program);
        }
        fs::create_dir_all(&tools)
            .wrap_err_with(|| format!("failed to create {}", tools.display()))?;
        let lock = fs::File::create(tools.join(format!("{}.lock", self.name)))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| eyre!("failed to lock {}: {errno}", tools.display()))?;
        if !program.is_file() {
            check_go()?;
            let (name, version, minutes) = (self.name, self.version, self.build_minutes);
            say(&format!(
                "building {name} {version}, about {minutes} minutes, once"
            ));
            self.build(&tools, &home)?;
        }
        Ok(program)
    }

    /// Builds into a directory of its own and renames it: half a build is never taken for a tool.
    fn build(self, tools: &Path, home: &Path) -> eyre::Result<()> {
        let staging = tools.join(format!("{}-{}.part", self.name, self.version));
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir_all(&staging)?;
        let output = Command::new("go")
            .args(["install", &format!("{}@{}", self.package, self.version)])
            .env("GOBIN", &staging)
            .env("GOFLAGS", "-mod=mod")
            .current_dir(&staging)
            .stdin(Stdio::null())
            .output()
            .wrap_err("failed to run go")?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr);
            bail!(
                "failed to build {} {}:\n{}",
                self.name,
                self.version,
                log.trim()
            );
        }
        let _ = fs::remove_dir_all(home);
        fs::rename(&staging, home).wrap_err("failed to move the new tool into place")
    }
}

fn check_go() -> eyre::Result<()> {
    let (major, minor) = MIN_GO;
    let advice = format!("install Go {major}.{minor} or newer from https://go.dev/dl");
    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    let output = output.map_err(|_| eyre!("go is not installed: {advice}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = parse_go(text.trim());
    if found.is_none_or(|found| found < MIN_GO) {
        bail!("go is too old ({}): {advice}", text.trim());
    }
    Ok(())
}

/// `go1.26.8` as numbers.
fn parse_go(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("go")?.split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_as_numbers() {
        assert_eq!(parse_go("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_go("go1.9"), Some((1, 9)));
        assert!(parse_go("go1.9") < Some(MIN_GO));
        assert_eq!(parse_go("devel"), None);
    }
}
