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
pub mod attester;
mod board;
pub mod chain_spec;
mod commit;
mod config;
mod derivation;
pub mod derive;
mod doctor;
pub mod engine;
pub mod evm;
mod exit;
pub mod legs;
mod metric;
mod mode;
mod node;
mod parallel;
pub mod pending;
pub mod progress;
mod rebuild;
pub mod receipts;
mod snapshot;
mod start;
#[cfg(test)]
mod testing;
pub mod thin;
mod verify;

use std::process::ExitCode;

pub use config::{Args, Command, Config};
pub use doctor::{Doctor, examine};
pub use metric::ALL as METRICS;
pub use mode::Mode;
pub use snapshot::Snapshot;
pub use verify::Range;

/// Runs the service until SIGTERM or SIGINT, or what else was asked for until it is done.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let file = args.config.as_deref();
    match args.command.clone() {
        None => counterpoint_service::run("conductor", file, args, node::work),
        Some(Command::Verify(range)) => {
            let work = |config, _, shutdown| verify::work(config, range, shutdown);
            counterpoint_service::run("conductor", file, args, work)
        }
        Some(Command::Rebuild) => {
            let work = |config, _, shutdown| rebuild::work(config, shutdown);
            counterpoint_service::run("conductor", file, args, work)
        }
        Some(Command::Doctor(doctor)) => {
            let work = |config, _, shutdown| doctor::work(config, doctor, shutdown);
            counterpoint_service::run("conductor", file, args, work)
        }
        Some(Command::Snapshot(what)) => {
            let work = |config, _, shutdown| snapshot::work(config, what, shutdown);
            counterpoint_service::run("conductor", file, args, work)
        }
    }
}
