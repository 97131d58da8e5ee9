//! ABCI 2.0 of CometBFT v0.40.0, InsertTx and ReapTxs included.
//!
//! ```text
//! CometBFT ═ four connections ═▶ server ─▶ frame ─▶ route by type ─▶ four tower services
//! ```
//! [`proto`] holds the generated messages, [`frame`] their framing, [`service`] what an application
//! implements and [`server`] the loop between them. `docs/adr/0001-own-abci-server.md` says why this
//! is not a published crate.

mod address;
pub mod frame;
pub mod proto;
pub mod server;
pub mod service;

pub use address::{ListenAddress, ListenAddressError};
pub use server::{Server, ServerError};
pub use service::{
    BoxError, ConsensusRequest, ConsensusResponse, InfoRequest, InfoResponse, MempoolRequest,
    MempoolResponse, SnapshotRequest, SnapshotResponse,
};
