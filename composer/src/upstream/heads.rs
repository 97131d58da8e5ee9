//! The last executed block: asked for by every sender, so it is kept for a moment.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{Bytes, U64};
use counterpoint_core::cursor::ExtraData;
use serde::Deserialize;
use tokio::sync::Mutex as AsyncMutex;

use super::{INTAKE_TIMEOUT, Upstream, UpstreamError};

/// How long the last block is taken for the last without asking again.
const HEAD_AGE: Duration = Duration::from_millis(200);
/// How long it is while the client is being asked again.
const MAX_HEAD_AGE: Duration = Duration::from_secs(2);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Heads {
    kept: Mutex<Kept>,
    /// Held by who asks: answers are remembered in the order in which they were given.
    asking: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    last: Option<Answered>,
    /// When the client was asked for that.
    asked: Option<Instant>,
    /// The greatest number ever seen.
    known: u64,
}

/// When the client answered about its last block, and what it said.
type Answered = (Instant, Result<Head, UpstreamError>);

/// The last executed block, as far as we look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Its number.
    pub(crate) number: u64,
    /// Its timestamp, in seconds.
    pub(crate) timestamp: u64,
    /// The base fee of the block after it, in wei.
    pub(crate) next_base_fee: u64,
    /// How far execution has come; nothing while it is the genesis block.
    pub(crate) progress: Option<ExtraData>,
}

/// How far a block has brought execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockEnd {
    /// Its timestamp, in seconds.
    pub(crate) timestamp: u64,
    /// Where it stopped; nothing for the genesis block.
    pub(crate) progress: Option<ExtraData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    number: U64,
    timestamp: U64,
    gas_used: U64,
    gas_limit: U64,
    base_fee_per_gas: U64,
    extra_data: Bytes,
}

impl Upstream {
    /// The last executed block, of a moment ago. While the client is slow it may be older, up to
    /// [`MAX_HEAD_AGE`]; a failure counts as long.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn recent_head(&self) -> Result<Head, UpstreamError> {
        let kept = self.heads().last.clone();
        match kept {
            Some((since, head)) if since.elapsed() < HEAD_AGE => return head,
            Some((since, head)) if since.elapsed() < MAX_HEAD_AGE => {
                let upstream = self.clone();
                tokio::spawn(async move {
                    if let Ok(_turn) = upstream.heads.asking.try_lock() {
                        let _ = upstream.ask_head().await;
                    }
                });
                return head;
            }
            _ => {}
        }
        let _turn = self.heads.asking.lock().await;
        let kept = self.heads().last.clone();
        match kept {
            Some((since, head)) if since.elapsed() < HEAD_AGE => head,
            _ => self.ask_head().await,
        }
    }

    /// The last executed block, of now: who comes while the client is being asked shares the next
    /// answer.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn fresh_head(&self) -> Result<Head, UpstreamError> {
        let now = Instant::now();
        let _turn = self.heads.asking.lock().await;
        let kept = {
            let kept = self.heads();
            kept.last.clone().filter(|_| kept.asked >= Some(now))
        };
        match kept {
            Some((_, head)) => head,
            None => self.ask_head().await,
        }
    }

    /// The last executed block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn head(&self) -> Result<Head, UpstreamError> {
        let _turn = self.heads.asking.lock().await;
        self.ask_head().await
    }

    /// How far a block has brought execution; nothing if the client has no such block.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn block_end(&self, number: u64) -> Result<Option<BlockEnd>, UpstreamError> {
        let params = (U64::from(number), false);
        let header: Option<Header> = self.call("eth_getBlockByNumber", &params).await?;
        Ok(header.map(|header| BlockEnd {
            timestamp: header.timestamp.to(),
            progress: ExtraData::decode(&header.extra_data).ok(),
        }))
    }

    /// The number of the newest block that the client ever told of.
    #[must_use]
    pub(super) fn known_head(&self) -> u64 {
        self.heads().known
    }

    fn heads(&self) -> MutexGuard<'_, Kept> {
        let kept = self.heads.kept.lock();
        kept.unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the head. A new one becomes known once the accounts after it are, so that who sends
    /// is judged by the last one meanwhile and waits for nothing.
    async fn ask_head(&self) -> Result<Head, UpstreamError> {
        let asked = Instant::now();
        let head = self.try_ask_head().await;
        let answered = Instant::now();
        let number = head.as_ref().map_or(0, |head| head.number);
        if number > self.known_head() {
            self.renew_accounts(number).await;
        }
        let mut kept = self.heads();
        kept.asked = Some(asked);
        kept.known = kept.known.max(number);
        kept.last = Some((answered, head.clone()));
        head
    }

    async fn try_ask_head(&self) -> Result<Head, UpstreamError> {
        let header = self.call_within(INTAKE_TIMEOUT, "eth_getBlockByNumber", &("latest", false));
        let header: Header = header.await?;
        let next_base_fee = calc_next_block_base_fee(
            header.gas_used.to(),
            header.gas_limit.to(),
            header.base_fee_per_gas.to(),
            BaseFeeParams::ethereum(),
        );
        Ok(Head {
            number: header.number.to(),
            timestamp: header.timestamp.to(),
            next_base_fee,
            progress: ExtraData::decode(&header.extra_data).ok(),
        })
    }
}
