//! A page that shows the chain to people, and lets their browser verify what it shows.
//!
//! ```text
//! browser ─ GET /explorer/ ─▶ page (HTML, CSS, JavaScript: in the binary, nothing from elsewhere)
//!    │
//!    ├─ /explorer/api/… ─▶ routes ─▶ ledger ─▶ sequencer nodes, by the gRPC client of every service
//!    │                        └────▶ Host: what only the serving process knows
//!    └─ /explorer/api/events ─▶ events ◀─ ledger
//! ```
//! The server is not trusted: it lists what nodes say, and hands out proofs. The page follows them, in
//! a verifier of its own (`web/verify.js`), from an item to a header that validators signed. Everything
//! here only reads; what one reader may take is bounded, and so is what all of them may.

mod answer;
mod bundles;
mod events;
mod host;
mod ledger;
mod page;
mod proof;
mod routes;
mod show;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use axum::Router;
use counterpoint_core::light::{TrustedHeader, TrustedState};
use counterpoint_service::sequencer::Client;
pub use host::{Host, Part, Standing};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{bundles::Board, ledger::Ledger};

/// Most questions that are worked on at a time.
const MAX_QUESTIONS: usize = 32;
/// Most pages that are told of new blocks.
const MAX_LISTENERS: usize = 64;

/// What a page starts to trust from, unless its reader names something else.
#[derive(Clone, Debug)]
pub enum Root {
    /// The validators of the genesis.
    Genesis(Box<TrustedState>),
    /// A header that the operator named.
    Header(TrustedHeader),
    /// The lowest header that the node still has.
    Lowest,
}

/// The explorer of one process. Clones share it.
#[derive(Clone)]
pub struct Explorer(Arc<Shared>);

struct Shared {
    client: Client,
    root: Root,
    host: OnceLock<Arc<dyn Host>>,
    ledger: Ledger,
    board: Board,
    questions: Semaphore,
    listeners: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl fmt::Debug for Explorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explorer").finish_non_exhaustive()
    }
}

impl Explorer {
    /// An explorer of what the nodes of `client` say. Streams end with `shutdown`.
    #[must_use]
    pub fn new(client: Client, root: Root, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            ledger: Ledger::new(client.clone()),
            board: Board::default(),
            client,
            root,
            host: OnceLock::new(),
            questions: Semaphore::new(MAX_QUESTIONS),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            shutdown,
        }))
    }

    /// From now on `host` is asked, too. The first one stays.
    pub fn attach(&self, host: Arc<dyn Host>) {
        let _first = self.0.host.set(host);
    }

    /// The page and what it asks for, under `/explorer/`.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Follows the chain while anybody looks, and bundles always, until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.0.ledger.run(), self.0.board.run(&self.0.client));
    }

    fn host(&self) -> Option<&Arc<dyn Host>> {
        self.0.host.get()
    }
}
