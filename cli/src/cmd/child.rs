//! What the supervisor starts its parts by: a part that dies with its supervisor, however that ends.

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command};

use clap::Args;
use eyre::{WrapErr, bail};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};

#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// The supervisor.
    #[arg(long)]
    parent: i32,
    /// What to become.
    program: PathBuf,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Becomes the program; returns only if that fails.
pub(crate) fn run(args: ChildArgs) -> eyre::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != args.parent {
        bail!("the supervisor is gone");
    }
    let error = Command::new(&args.program).args(args.args).exec();
    Err(error).wrap_err_with(|| format!("failed to run {}", args.program.display()))
}
