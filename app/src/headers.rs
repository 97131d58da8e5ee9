//! Signed headers: ABCI never shows them, so they are read from the node's own CometBFT.
//!
//! The header of the tip is there a few milliseconds before the app's Commit returns, so it is asked
//! for right after. A height can be streamed once its header is stored.

use std::time::Duration;

use counterpoint_core::{
    light::{encode_signed_header, encode_validators},
    primitive::Height,
};
use counterpoint_service::{Readiness, to_f64};
use metrics::gauge;
use tendermint::validator;
use tendermint_rpc::{Client, HttpClient, Paging};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{metric, store::Store};

/// Readiness: the last blocks can be proven.
pub(crate) const CONDITION: &str = "headers";

/// Pause before CometBFT is asked again.
const RETRY: Duration = Duration::from_millis(20);
/// After so many failures in a row somebody should know.
const PATIENCE: u32 = 50;

/// Stores the signed header of every committed height.
#[derive(Debug)]
pub(crate) struct Headers {
    store: Store,
    rpc: HttpClient,
    committed: watch::Receiver<Height>,
    streamable: watch::Sender<Height>,
    readiness: Readiness,
    /// The hash of the validators that the last stored header names.
    validators: Option<tendermint::Hash>,
}

impl Headers {
    /// Reads headers from `rpc` and tells `streamable` of every stored one.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        rpc: HttpClient,
        committed: watch::Receiver<Height>,
        streamable: watch::Sender<Height>,
        readiness: Readiness,
    ) -> Self {
        Self {
            store,
            rpc,
            committed,
            streamable,
            readiness,
            validators: None,
        }
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// The database is broken.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut next = 1;
        if let Some(last) = self.store.last_header()? {
            self.streamable.send_replace(last);
            next = last.get() + 1;
        }
        let mut failures = 0;
        loop {
            let tip = *self.committed.borrow_and_update();
            // What lies below a restored snapshot never was here.
            next = next.max(self.store.lowest()?.get());
            if next > tip.get() {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    changed = self.committed.changed() => if changed.is_err() { return Ok(()) },
                }
                continue;
            }
            match self.fetch(Height::new(next)).await {
                Ok(()) => {
                    self.readiness.met(CONDITION);
                    self.streamable.send_replace(Height::new(next));
                    gauge!(metric::HEADER_HEIGHT).set(to_f64(next));
                    (next, failures) = (next + 1, 0);
                }
                Err(error) => {
                    failures += 1;
                    debug!(
                        height = next,
                        error = format!("{error:#}"),
                        "no signed header yet"
                    );
                    if failures % PATIENCE == 0 {
                        let reason = format!("no signed header of height {next}: {error:#}");
                        warn!(reason, "blocks cannot be proven");
                        self.readiness.unmet(CONDITION, reason);
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }

    async fn fetch(&mut self, height: Height) -> anyhow::Result<()> {
        let at = tendermint::block::Height::try_from(height.get())?;
        let signed = self.rpc.commit(at).await?.signed_header;
        anyhow::ensure!(
            signed.header.height == at,
            "asked for {at}, got {}",
            signed.header.height
        );
        // Another node's RPC would give headers of blocks that this one never executed.
        let data_hash = self
            .store
            .data_hash(height)?
            .map(|hash| tendermint::Hash::Sha256(*hash.as_bytes()));
        anyhow::ensure!(
            signed.header.data_hash == data_hash,
            "header {at} of chain {} is of another block: is cometbft_rpc this node's own?",
            signed.header.chain_id
        );
        let set_hash = signed.header.validators_hash;
        let changed = if self.validators == Some(set_hash) {
            None
        } else {
            let validators = self.rpc.validators(at, Paging::All).await?.validators;
            let set = validator::Set::without_proposer(validators);
            anyhow::ensure!(
                set.hash() == set_hash,
                "validators of {at} do not match its header"
            );
            Some(encode_validators(set))
        };
        self.store
            .put_header(height, &encode_signed_header(signed), changed.as_deref())?;
        self.validators = Some(set_hash);
        Ok(())
    }
}
