//! The pinned programs that a network needs beside ours, built or fetched on first use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eyre::{WrapErr, bail, ensure, eyre};
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
    /// The tools of a Go module, each package of which is pinned, and the one that is asked for.
    GoModule {
        program: &'static str,
        manifest: &'static str,
        sums: &'static str,
        /// The package whose variables say which version this is.
        version: &'static str,
        minutes: u8,
    },
    /// A crate, built by `cargo install`.
    Crate { features: &'static str, minutes: u8 },
    /// Packages of npm, each with its digest, and the program among them.
    Npm {
        program: &'static str,
        manifest: &'static str,
        lock: &'static str,
    },
    /// Packages of PyPI, each with its digests, and the Python that finds them.
    Python { requirements: &'static str },
    /// A package of Debian, unpacked and not installed, and the program in it.
    Debian {
        package: &'static str,
        program: &'static str,
    },
    /// The same with all packages that it needs and that are not installed, and a script that starts
    /// the program with them.
    DebianTree {
        package: &'static str,
        program: &'static str,
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
        program: "ethereumjs",
        manifest: include_str!("ethereumjs/package.json"),
        lock: include_str!("ethereumjs/package-lock.json"),
    },
};

/// `cast`, and beside it viem, ethers and `solcjs`, the compiler of our contracts, for tests. Another version of any of
/// them is another version of this.
pub const WALLETS: Tool = Tool {
    name: "wallets",
    version: "1",
    source: Source::Npm {
        program: "cast",
        manifest: include_str!("wallets/package.json"),
        lock: include_str!("wallets/package-lock.json"),
    },
};

/// A Python that has web3.py, for tests.
pub const WEB3_PY: Tool = Tool {
    name: "web3.py",
    version: "8.0.0",
    source: Source::Python {
        requirements: include_str!("wallets/requirements.txt"),
    },
};

/// Charts, for tests.
pub const HELM: Tool = Tool {
    name: "helm",
    version: "v4.2.4",
    source: Source::Go {
        package: "helm.sh/helm/v4/cmd/helm",
        minutes: 4,
    },
};

/// A Python that has Kubernetes' schemas, for tests.
pub const KUBERNETES_VALIDATE: Tool = Tool {
    name: "kubernetes-validate",
    version: "1.37.0",
    source: Source::Python {
        requirements: include_str!("kubernetes/requirements.txt"),
    },
};

/// Kubernetes' API server, for tests, and beside it its other programs and etcd, `server`.
pub const KUBERNETES: Tool = Tool {
    name: "kubernetes",
    version: "v1.35.4",
    source: Source::GoModule {
        program: "kube-apiserver",
        manifest: include_str!("kubernetes/go.mod"),
        sums: include_str!("kubernetes/go.sum"),
        version: "k8s.io/component-base/version",
        minutes: 13,
    },
};

/// What pretends to be Kubernetes' nodes, for tests.
pub const KWOK: Tool = Tool {
    name: "kwok",
    version: "v0.8.0",
    source: Source::Go {
        package: "sigs.k8s.io/kwok/cmd/kwok",
        minutes: 2,
    },
};

/// Keeps the key that a validator votes with, for tests.
pub const TMKMS: Tool = Tool {
    name: "tmkms",
    version: "0.15.0",
    source: Source::Crate {
        features: "softsign",
        minutes: 2,
    },
};

/// Starts a control plane with it, for tests.
pub const KWOKCTL: Tool = Tool {
    name: "kwokctl",
    version: "v0.8.0",
    source: Source::Go {
        package: "sigs.k8s.io/kwok/cmd/kwokctl",
        minutes: 1,
    },
};

/// Checks alerts, for tests. Any version since 2.42 will do.
pub const PROMTOOL: Tool = Tool {
    name: "promtool",
    version: "debian",
    source: Source::Debian {
        package: "prometheus",
        program: "usr/bin/promtool",
    },
};

/// A browser, for tests. Any version since 137 will do: it must know Ed25519.
pub const CHROMIUM: Tool = Tool {
    name: "chromium",
    version: "debian",
    source: Source::DebianTree {
        package: "chromium",
        program: "usr/lib/chromium/chromium",
    },
};

/// What drives a browser, and what looks for barriers in a page, for tests.
pub const PLAYWRIGHT: Tool = Tool {
    name: "playwright",
    version: "1.65.1",
    source: Source::Npm {
        program: "playwright-core",
        manifest: include_str!("playwright/package.json"),
        lock: include_str!("playwright/package-lock.json"),
    },
};

/// The oldest Go that builds all of them.
const MIN_GO: (u32, u32) = (1, 25);
/// The oldest Rust that builds tmkms.
const MIN_CARGO: (u32, u32) = (1, 85);
/// The oldest Node.js that runs them.
const MIN_NODE: (u32, u32) = (20, 0);
/// The oldest Python that web3.py's packages are pinned for.
const MIN_PYTHON: (u32, u32) = (3, 10);

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
        let (home, program) = self.places(&tools);
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

    /// Says where the program is, or that it can be made; nothing is.
    ///
    /// # Errors
    /// It is not there, and what it takes is missing or too old; the message says what to do.
    pub fn look(self) -> eyre::Result<String> {
        let (_, program) = self.places(&directory()?);
        if program.is_file() {
            return Ok(format!("{} is there", program.display()));
        }
        let toolchain = match self.source {
            Source::Go { .. } | Source::GoModule { .. } => &GO,
            Source::Crate { .. } => &CARGO,
            Source::Npm { .. } => &NODE,
            Source::Python { .. } => &PYTHON,
            Source::Debian { .. } | Source::DebianTree { .. } => {
                bail!("{} is not there", program.display())
            }
        };
        check(toolchain)?;
        Ok(format!("{} builds it when it is needed", toolchain.program))
    }

    /// What it is called, and in which version.
    #[must_use]
    pub fn title(self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Its directory, and the program in it.
    fn places(self, tools: &Path) -> (PathBuf, PathBuf) {
        let home = tools.join(format!("{}-{}", self.name, self.version));
        let program = match self.source {
            Source::Go { .. } | Source::DebianTree { .. } => home.join(self.name),
            Source::Crate { .. } => home.join("bin").join(self.name),
            Source::Npm { program, .. } => home.join("node_modules/.bin").join(program),
            Source::Python { .. } => home.join("bin/python"),
            Source::GoModule { program, .. } | Source::Debian { program, .. } => home.join(program),
        };
        (home, program)
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
        let building = |minutes: u8| {
            say(&format!(
                "building {name} {version}, about {minutes} minutes, once"
            ));
        };
        let commands = match self.source {
            Source::Go { package, minutes } => {
                check(&GO)?;
                building(minutes);
                let mut install = Command::new("go");
                install
                    .args(["install", &format!("{package}@{version}")])
                    .env("GOBIN", &staging)
                    .env("GOFLAGS", "-mod=mod");
                vec![install]
            }
            Source::GoModule {
                manifest,
                sums,
                version: package,
                minutes,
                ..
            } => {
                check(&GO)?;
                building(minutes);
                fs::write(staging.join("go.mod"), manifest)?;
                fs::write(staging.join("go.sum"), sums)?;
                let (major, minor) = parse_version(version, "v").unwrap_or_default();
                let stamp = [
                    format!("-X {package}.gitVersion={version}"),
                    format!("-X {package}.gitMajor={major}"),
                    format!("-X {package}.gitMinor={minor}"),
                ];
                let mut build = Command::new("go");
                build
                    .args(["build", "-mod=readonly", "-trimpath", "-o", "."])
                    .args(["-ldflags", &format!("-s -w {}", stamp.join(" ")), "tool"])
                    .env("GOFLAGS", "");
                vec![build]
            }
            Source::Crate { features, minutes } => {
                check(&CARGO)?;
                building(minutes);
                let mut install = Command::new("cargo");
                // A test needs no fast code, and its build is waited for.
                install
                    .args(["install", name, "--version", version, "--locked", "--debug"])
                    .args(["--features", features, "--root", "."])
                    .args(["--target-dir", "target"])
                    .env("CARGO_PROFILE_DEV_DEBUG", "0");
                let mut tidy = Command::new("rm");
                tidy.args(["-r", "target"]);
                vec![install, tidy]
            }
            Source::Npm { manifest, lock, .. } => {
                check(&NODE)?;
                say(&format!("fetching {name} {version}, once"));
                fs::write(staging.join("package.json"), manifest)?;
                fs::write(staging.join("package-lock.json"), lock)?;
                let mut install = Command::new("npm");
                // No script of any of the packages is run.
                install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                vec![install]
            }
            Source::Python { requirements } => {
                check(&PYTHON)?;
                say(&format!("fetching {name} {version}, once"));
                fs::write(staging.join("requirements.txt"), requirements)?;
                let mut environment = Command::new("python3");
                environment.args(["-m", "venv", "."]);
                let mut install = Command::new(staging.join("bin/python"));
                install.args(["-m", "pip", "install", "--disable-pip-version-check"]);
                // Nothing is built, so nothing of the packages is run.
                install.args(["--require-hashes", "--only-binary", ":all:"]);
                install.args(["--requirement", "requirements.txt"]);
                vec![environment, install]
            }
            Source::Debian { package, program } => {
                say(&format!("fetching {name}, once"));
                let advice = format!(
                    "`apt-get download {package}` gives no package: run `apt-get update`, or put \
                     {name} at {}",
                    home.join(program).display()
                );
                let mut download = Command::new("apt-get");
                download.args(["download", package]).current_dir(&staging);
                let output = download.output().wrap_err_with(|| advice.clone())?;
                ensure!(output.status.success(), advice);
                let mut unpack = Command::new("sh");
                unpack.args(["-c", "dpkg-deb --extract *.deb . && rm *.deb"]);
                vec![unpack]
            }
            Source::DebianTree { package, program } => {
                say(&format!("fetching {name} and what it needs, once"));
                let start = start_script(program);
                fs::write(staging.join(name), start)?;
                let mut fetch = Command::new("sh");
                fetch.args(["-c", FETCH_TREE, "sh", package, name]);
                vec![fetch]
            }
        };
        for mut command in commands {
            let output = command
                .current_dir(&staging)
                .stdin(Stdio::null())
                .output()
                .wrap_err_with(|| format!("failed to run {:?}", command.get_program()))?;
            if !output.status.success() {
                let log = [output.stdout, output.stderr].concat();
                let log = String::from_utf8_lossy(&log);
                bail!("failed to build {name} {version}:\n{}", log.trim());
            }
        }
        let _ = fs::remove_dir_all(home);
        fs::rename(&staging, home).wrap_err("failed to move the new tool into place")
    }
}

/// Unpacks package `$1` and those it needs beside the script `$2`.
const FETCH_TREE: &str = r#"set -e
needed=$(apt-get install --simulate --no-install-recommends "$1" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
apt-get download "$1" $needed || { echo "run apt-get update first" >&2; exit 1; }
for package in *.deb; do dpkg-deb --extract "$package" .; done
rm ./*.deb
chmod +x "$2""#;

/// Starts a program with the libraries that were unpacked beside it.
fn start_script(program: &str) -> String {
    format!(
        r#"#!/bin/sh
home=$(dirname "$(readlink -f "$0")")
for libraries in "$home"/usr/lib/*-linux-gnu "$home"/usr/lib/*-linux-gnu/pulseaudio; do
    LD_LIBRARY_PATH="$libraries${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
done
export LD_LIBRARY_PATH
exec "$home/{program}" "$@"
"#
    )
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

const CARGO: Toolchain = Toolchain {
    program: "cargo",
    version: &["--version"],
    prefix: "cargo ",
    oldest: MIN_CARGO,
    advice: "install Rust 1.85 or newer from https://rustup.rs",
};

const NODE: Toolchain = Toolchain {
    program: "node",
    version: &["--version"],
    prefix: "v",
    oldest: MIN_NODE,
    advice: "install Node.js 20 or newer with npm from https://nodejs.org",
};

const PYTHON: Toolchain = Toolchain {
    program: "python3",
    version: &["--version"],
    prefix: "Python ",
    oldest: MIN_PYTHON,
    advice: "install Python 3.10 or newer with venv (on Debian: python3 and python3-venv)",
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
        let cargo = parse_version("cargo 1.95.0 (abc 2026-03-21)", "cargo ");
        assert_eq!(cargo, Some((1, 95)));
        assert_eq!(parse_version("v20.20.2", "v"), Some((20, 20)));
        assert_eq!(parse_version("Python 3.11.7", "Python "), Some((3, 11)));
    }
}
