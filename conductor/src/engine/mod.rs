//! Driving the execution client by the standard Engine API.
//!
//! [`client`] speaks the protocol; [`driver`] decides what an answer means.

mod client;
mod driver;

pub(crate) use client::methods;
pub use client::{BlockId, EngineClient, EngineError, ExecutionClient};
#[cfg(test)]
pub(crate) use driver::tests::{MockClient, Script};
pub use driver::{Driver, DriverError, Progress};
