//! Verified sequencer blocks in, Engine API payloads out.
//!
//! ```text
//! sequencer ─▶ Follower (signatures, proofs) ─▶ Assembler (slots, cursor) ─▶ BlockBuilder (revm)
//!                                                  │ what became of each item     │ block
//! readers ◀─ gRPC, JSON-RPC ◀─ Receipts ◀──────────┘                              ▼
//! execution client ◀─ Driver (newPayload, forkchoice) ◀─ Committer ◀─ Pending: state on top of which
//!                                             └ VALID ─▶ store        the next block is executed
//! ```

pub mod assembly;
mod board;
pub mod chain_spec;
mod commit;
mod config;
pub mod derive;
pub mod engine;
pub mod evm;
mod exit;
mod metric;
mod node;
pub mod pending;
pub mod progress;
pub mod receipts;
mod start;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

pub use config::{Args, Config};

/// Runs the service until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    counterpoint_service::run("conductor", args.config.as_deref(), args, node::work)
}
