//! Verified sequencer blocks in, Engine API payloads out.
//!
//! ```text
//! sequencer ─▶ Follower (signatures, proofs) ─▶ Assembler (slots, cursor) ─▶ BlockBuilder (revm)
//!                                                                               │ block
//! execution client ◀─ Driver (newPayload, forkchoice) ◀─────────────────────────┤
//!                        └ VALID ─▶ Progress: state, block and cursor in one write
//! ```

pub mod assembly;
pub mod chain_spec;
mod config;
pub mod derive;
pub mod engine;
pub mod evm;
mod metric;
mod node;
mod parallel;
pub mod progress;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

pub use config::{Args, Config};

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    counterpoint_service::run("conductor", args.config.as_deref(), args, node::work)
}
