//! The application of a later release: the same, but for the newest rules that it follows.

use std::process::ExitCode;

use clap::Parser;
use counterpoint_machine::AppVersion;

#[derive(Parser)]
enum Command {
    App(counterpoint_app::Args),
}

fn main() -> ExitCode {
    let Command::App(args) = Command::parse();
    counterpoint_app::run_up_to(AppVersion::Test, &args)
}
