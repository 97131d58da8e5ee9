//! The composer as a program of its own.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    counterpoint_composer::run(&counterpoint_composer::Args::parse())
}
