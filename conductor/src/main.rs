//! The conductor as a program of its own.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    counterpoint_conductor::run(&counterpoint_conductor::Args::parse())
}
