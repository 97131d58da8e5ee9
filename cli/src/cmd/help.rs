//! What shells and `man` know about the command.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command};
use eyre::WrapErr;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint completions bash > ~/.local/share/bash-completion/completions/counterpoint"
)]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Where the pages go; it is made if it is not there.
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) {
    clap_complete::generate(args.shell, &mut command, "counterpoint", &mut io::stdout());
}

pub(crate) fn man(args: &ManArgs, command: Command) -> eyre::Result<()> {
    let directory = &args.directory;
    let failed = || format!("failed to write pages to {}", directory.display());
    fs::create_dir_all(directory).wrap_err_with(failed)?;
    clap_mangen::generate_to(command, directory).wrap_err_with(failed)
}
