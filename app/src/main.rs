//! The sequencer's ABCI application as a program of its own.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    counterpoint_app::run(&counterpoint_app::Args::parse())
}
