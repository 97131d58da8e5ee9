//! The pinned programs that a network needs beside ours, built or fetched on first use.

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
    version: &'static str,
    source: Source,
}

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A Go package, built by `go install`.
    Go { package: &'static str, minutes: u8 },
    /// Packages of npm, each with its digest.
    Npm {
        manifest: &'static str,
        lock: &'static str,
    },
}

/// Consensus.
pub const COMETBFT: Tool = Tool {
    name: "cometbft",
    version: "v0.40.0",
    source: Source::Go {
        package: "github.com/cometbft/cometbft/cmd/cometbft",
        minutes: 3,
    },
};

/// Execution.
pub const GETH: Tool = Tool {
    name: "geth",
    version: "v1.17.5",
    source: Source::Go {
        package: "github.com/ethereum/go-ethereum/cmd/geth",
        minutes: 6,
    },
};

/// Execution by another client, for tests.
pub const ETHEREUMJS: Tool = Tool {
    name: "ethereumjs",
    version: "0.10.5",
    source: Source::Npm {
        manifest: include_str!("ethereumjs/package.json"),
        lock: include_str!("ethereumjs/package-lock.json"),
    },
};

/// The compiler of our contracts, for tests.
pub const SOLC: Tool = Tool {
    name: "solcjs",
    version: "0.8.37",
    source: Source::Npm {
        manifest: include_str!("solc/package.json"),
        lock: include_str!("solc/package-lock.json"),
    },
};

/// The oldest Go that builds both.
const MIN_GO: (u32, u32) = (1, 25);
/// The oldest Node.js that runs them.
const MIN_NODE: (u32, u32) = (20, 0);

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
    /// The program, built or fetched if it is not there yet. `say` is told before.
    ///
    /// # Errors
    /// What it takes is missing or too old, or fails; the message says what to do.
    pub fn install(self, say: &dyn Fn(&str)) -> eyre::Result<PathBuf> {
        let tools = directory()?;
        let home = tools.join(format!("{}-{}", self.name, self.version));
        let program = match self.source {
            Source::Go { .. } => home.join(self.name),
            Source::Npm { .. } => home.join("node_modules/.bin").join(self.name),
        };
        if program.is_file() {
            return Ok(program);
        }
        fs::create_dir_all(&tools)
            .wrap_err_with(|| format!("failed to create {}", tools.display()))?;
        let lock = fs::File::create(tools.join(format!("{}.lock", self.name)))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| eyre!("failed to lock {}: {errno}", tools.display()))?;
        if !program.is_file() {
            self.make(&tools, &home, say)?;
        }
        Ok(program)
    }

    /// The sources that a Go program is built from; they bring public test vectors along.
    ///
    /// # Errors
    /// Go is missing, or cannot fetch them.
    pub fn sources(self) -> eyre::Result<PathBuf> {
        let Source::Go { package, .. } = self.source else {
            bail!("{} is not built from Go", self.name);
        };
        check(&GO)?;
        let module = package
            .split_once("/cmd/")
            .map_or(package, |(module, _)| module);
        let output = Command::new("go")
            .args(["mod", "download", "-json"])
            .arg(format!("{module}@{}", self.version))
            .stdin(Stdio::null())
            .output()
            .wrap_err("failed to run go")?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
            .wrap_err_with(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let directory = answer["Dir"].as_str();
        let directory = directory.ok_or_else(|| eyre!("failed to fetch {module}: {answer}"))?;
        Ok(directory.into())
    }

    /// Builds into a directory of its own and renames it: half a build is never taken for a tool.
    fn make(self, tools: &Path, home: &Path, say: &dyn Fn(&str)) -> eyre::Result<()> {
        let (name, version) = (self.name, self.version);
        let staging = tools.join(format!("{name}-{version}.part"));
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir_all(&staging)?;
        let mut command = match self.source {
            Source::Go { package, minutes } => {
                check(&GO)?;
                say(&format!(
                    "building {name} {version}, about {minutes} minutes, once"
                ));
                let mut command = Command::new("go");
                command
                    .args(["install", &format!("{package}@{version}")])
                    .env("GOBIN", &staging)
                    .env("GOFLAGS", "-mod=mod");
                command
            }
            Source::Npm { manifest, lock } => {
                check(&NODE)?;
                say(&format!("fetching {name} {version}, once"));
                fs::write(staging.join("package.json"), manifest)?;
                fs::write(staging.join("package-lock.json"), lock)?;
                let mut command = Command::new("npm");
                // No script of any of the packages is run.
                command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                command
            }
        };
        let output = command
            .current_dir(&staging)
            .stdin(Stdio::null())
            .output()
            .wrap_err_with(|| format!("failed to run {:?}", command.get_program()))?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr);
            bail!("failed to build {name} {version}:\n{}", log.trim());
        }
        let _ = fs::remove_dir_all(home);
        fs::rename(&staging, home).wrap_err("failed to move the new tool into place")
    }
}

/// What builds or runs a tool.
struct Toolchain {
    program: &'static str,
    version: &'static [&'static str],
    prefix: &'static str,
    oldest: (u32, u32),
    advice: &'static str,
}

const GO: Toolchain = Toolchain {
    program: "go",
    version: &["env", "GOVERSION"],
    prefix: "go",
    oldest: MIN_GO,
    advice: "install Go 1.25 or newer from https://go.dev/dl",
};

const NODE: Toolchain = Toolchain {
    program: "node",
    version: &["--version"],
    prefix: "v",
    oldest: MIN_NODE,
    advice: "install Node.js 20 or newer with npm from https://nodejs.org",
};

fn check(toolchain: &Toolchain) -> eyre::Result<()> {
    let Toolchain {
        program, advice, ..
    } = toolchain;
    let output = Command::new(program).args(toolchain.version).output();
    let output = output.map_err(|_| eyre!("{program} is not installed: {advice}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = parse_version(text.trim(), toolchain.prefix);
    if found.is_none_or(|found| found < toolchain.oldest) {
        bail!("{program} is too old ({}): {advice}", text.trim());
    }
    Ok(())
}

/// `go1.26.8` as numbers.
fn parse_version(version: &str, prefix: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix(prefix)?.split(['.', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let go = |version| parse_version(version, "go");
        assert_eq!(go("go1.26.8"), Some((1, 26)));
        assert_eq!(go("go1.9"), Some((1, 9)));
        assert!(go("go1.9") < Some(MIN_GO));
        assert_eq!(go("devel"), None);
        assert_eq!(parse_version("v20.20.2", "v"), Some((20, 20)));
    }
}
