//! Reads a conductor's stream, and reads on where it broke.

use std::{sync::Arc, time::Duration};

use counterpoint_proto::conductor::{
    SubscribeReceiptsRequest, conductor_client::ConductorClient,
    subscribe_receipts_request::From as FromPlace,
};
use eyre::WrapErr;
use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tracing::{debug, info, warn};

use super::{Early, Malformed};
use crate::upstream::{Upstream, UpstreamError};

/// How long a conductor may take to begin, or to answer a sign of life.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the stream is asked for again.
const RETRY: Duration = Duration::from_millis(200);
/// Longest message: the logs of the greatest transaction, and much room.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Follows the conductor of one rollup.
#[derive(Debug)]
pub(crate) struct Follower {
    rollup: String,
    early: Arc<Early>,
    client: ConductorClient<Channel>,
    upstream: Upstream,
    /// The block where the stream broke. Without one, the first that the client does not have.
    resume: Option<u64>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl Follower {
    /// Follows the conductor at `url` of a rollup whose execution client is `upstream`.
    ///
    /// # Errors
    /// The URL is none.
    pub(crate) fn new(
        rollup: String,
        url: &str,
        early: Arc<Early>,
        upstream: Upstream,
    ) -> eyre::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .wrap_err_with(|| format!("rollup {rollup}: conductor_grpc_url {url} is not a URL"))?;
        let channel = endpoint
            .connect_timeout(TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(TIMEOUT)
            .keep_alive_timeout(TIMEOUT)
            .connect_lazy();
        Ok(Self {
            rollup,
            early,
            client: ConductorClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            upstream,
            resume: None,
        })
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut well = true;
        loop {
            let before = self.resume;
            let Err(ended) = self.follow().await;
            let rollup = &self.rollup;
            if well || self.resume != before {
                warn!(rollup, error = %ended, "no early receipts, trying again");
            } else {
                debug!(rollup, error = %ended, "no early receipts");
            }
            well = false;
            if is_lost(&ended) {
                self.resume = None;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads until the stream ends.
    async fn follow(&mut self) -> Result<std::convert::Infallible, Ended> {
        let number = match self.resume {
            Some(number) => number,
            None => self.upstream.head().await?.number.saturating_add(1),
        };
        let from = Some(FromPlace::Number(number));
        let asked = self
            .client
            .subscribe_receipts(SubscribeReceiptsRequest { from });
        let begun = timeout(TIMEOUT, asked).await;
        let begun =
            begun.map_err(|_| Status::deadline_exceeded("the conductor does not answer"))?;
        let mut stream = begun?.into_inner();
        info!(rollup = self.rollup, number, "early receipts");
        self.resume = Some(number);
        while let Some(message) = stream.message().await? {
            if let Some(resume) = self.early.hear(message.events)? {
                self.resume = Some(resume);
            }
        }
        Err(Status::unavailable("the stream ended").into())
    }
}

/// Whether the stream cannot go on where it broke: the client has, or will have, what is missed.
fn is_lost(ended: &Ended) -> bool {
    match ended {
        Ended::Malformed(_) => true,
        Ended::Status(status) => status.code() == Code::OutOfRange,
        Ended::Upstream(_) => false,
    }
}
