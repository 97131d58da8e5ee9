//! Driving the execution client by the standard Engine API.
//!
//! [`client`] speaks the protocol; [`driver`] decides what an answer means.

mod client;
mod driver;

pub use client::{BlockId, EngineClient, EngineError, ExecutionClient};
pub(crate) use client::{FORKCHOICE, new_payload};
#[cfg(test)]
pub(crate) use driver::tests::{MockClient, Script};
pub use driver::{Driver, DriverError, Progress};
