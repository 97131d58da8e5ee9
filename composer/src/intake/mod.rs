//! From a raw transaction to an acknowledgement: checked against the rollup's rules and the sender's
//! account, and in the queue on disk.

mod validate;

use std::{sync::Arc, time::Instant};

use alloy_consensus::Transaction as _;
use alloy_primitives::{B256, Bytes};
use counterpoint_core::registry::RollupConfig;
use metrics::{counter, histogram};
use tokio::sync::{Mutex, Semaphore};
use validate::{check_balance, check_fees, check_lag, check_nonce, check_replacement, decode};

use crate::{
    metric,
    queue::{Checked, Item, Queue, QueueError, Stage},
    rpc::RpcError,
    upstream::Upstream,
};

/// Senders whose transactions are checked at the same time; one sender's never are. As many as a
/// byte has values.
const STRIPES: usize = 256;
/// Most transactions that are being checked or written, of one rollup.
const MAX_INTAKE: usize = 4_096;

/// Where the transactions of one rollup are taken in.
#[derive(Debug)]
pub(crate) struct Intake {
    config: RollupConfig,
    queue: Arc<Queue>,
    upstream: Upstream,
    senders: [Mutex<()>; STRIPES],
    seats: Arc<Semaphore>,
}

impl Intake {
    /// The intake of a rollup, with the configuration that a verified block proves.
    #[must_use]
    pub(crate) fn new(config: RollupConfig, queue: Arc<Queue>, upstream: Upstream) -> Self {
        Self {
            config,
            queue,
            upstream,
            senders: [const { Mutex::const_new(()) }; STRIPES],
            seats: Arc::new(Semaphore::new(MAX_INTAKE)),
        }
    }

    /// Acknowledges a transaction once it is on disk. Sent again, it is acknowledged again.
    ///
    /// It is a task of its own: a wallet that hangs up must not stop it half-way.
    ///
    /// # Errors
    /// [`RpcError`] in geth's words if it is refused.
    pub(crate) async fn send(self: &Arc<Self>, raw: Bytes) -> Result<B256, RpcError> {
        let started = Instant::now();
        let seat = Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| RpcError::overloaded("the composer is overloaded, try again later"))?;
        let intake = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _seat = seat;
            intake.try_send(&raw).await
        });
        let sent = task
            .await
            .unwrap_or_else(|panic| Err(RpcError::internal(panic)));
        let outcome = if sent.is_ok() { "accepted" } else { "refused" };
        counter!(metric::RECEIVED, "outcome" => outcome).increment(1);
        histogram!(metric::ACKNOWLEDGE_SECONDS).record(started.elapsed());
        sent
    }

    async fn try_send(&self, raw: &[u8]) -> Result<B256, RpcError> {
        let (tx, sender) = decode(raw, &self.config)?;
        let (hash, rollup) = (*tx.tx_hash(), self.config.rollup_id);
        // The last byte of an address, whose greatest value is the last place.
        let _sender = self.senders[usize::from(sender[19])].lock().await;
        let known = self.queue.get(rollup, hash);
        if known.is_some_and(|item| !matches!(item.stage, Stage::Skipped(_))) {
            self.queue.barrier().await.map_err(RpcError::internal)?;
            return Ok(hash);
        }
        let head = self.upstream.recent_head().await?;
        check_lag(&head, &self.config)?;
        check_fees(&tx, sender, head.next_base_fee, &self.config)?;
        let account = self.upstream.account(sender).await?;
        let pending = self.queue.pending_nonce(rollup, sender, account.nonce);
        check_nonce(tx.nonce(), account.nonce, pending)?;
        let replaces = match self.queue.by_nonce(rollup, sender, tx.nonce()) {
            None => None,
            Some(Item {
                stage: Stage::Queued,
                tx: old,
                seq,
                ..
            }) => {
                check_replacement(&tx, &old)?;
                Some(seq)
            }
            Some(_) => return Err(QueueError::TooLate.into()),
        };
        let queued = self
            .queue
            .pending_cost(rollup, sender, account.nonce, replaces);
        check_balance(&tx, account.balance, queued)?;
        let checked = Checked {
            rollup,
            raw: bytes::Bytes::copy_from_slice(raw),
            tx,
            sender,
        };
        self.queue.accept(checked, replaces).await?;
        Ok(hash)
    }
}
