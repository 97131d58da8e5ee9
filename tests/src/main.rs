//! The command that these tests run.

use std::process::ExitCode;

fn main() -> ExitCode {
    counterpoint::main()
}
