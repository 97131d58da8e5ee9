//! JSON-RPC 2.0 over HTTP and WebSocket, at `/{rollup}`, `/{rollup}/{key}` and `/`.
//!
//! ```text
//! server ─ connection ─▶ http ─┬─ body ──────▶ dispatch ─ table ─┬─▶ methods (here)
//!  (seats, slow clients)       └─▶ session ──▶                   └─▶ execution client
//!                                    ▲ subscriptions ◀─ feed, queue, early
//! ```
//! `limits` bounds what each caller may take, `message` reads and writes what is on the wire, and
//! `table` lists every method there is.

mod bundle;
mod dispatch;
mod error;
mod feed;
mod filters;
#[cfg(feature = "test-utils")]
mod fuzz;
mod http;
mod keys;
mod limits;
mod log_filter;
mod message;
mod methods;
mod openrpc;
mod pending;
mod schema;
mod server;
mod session;
mod subscribe;
mod table;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use error::RpcError;
#[cfg(feature = "test-utils")]
pub use fuzz::read_body;
pub use limits::Limits;
pub(crate) use limits::{Gate, Meter, Payer};
pub(crate) use methods::Rollup;
pub(crate) use server::serve;
#[cfg(test)]
pub(crate) use subscribe::subscribe_bundle;
use tokio_util::sync::CancellationToken;

use crate::atomic::Bundles;

/// All rollups that are served, by name, and to whom.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) rollups: BTreeMap<String, Arc<Rollup>>,
    pub(crate) default: Option<String>,
    pub(crate) gate: Arc<Gate>,
    /// Atomic bundles, if the operator pays for them.
    pub(crate) bundles: Option<Arc<Bundles>>,
    /// Ends connections that would last.
    pub(crate) shutdown: CancellationToken,
}

/// An id that nobody guesses, in geth's shape.
fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:#x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
