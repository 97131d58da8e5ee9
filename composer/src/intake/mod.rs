//! From raw transactions to acknowledgements: checked against the rollup's rules and the senders'
//! accounts, and in the queue on disk.
//!
//! ```text
//! group ─▶ seats, size, type ─▶ known? decode, rules, signatures ─▶ accounts ─▶ judged, on disk together
//!          └──── at once ───┘   └───────── worker threads ───────┘  └─ kept ─┘  └─ the queue's lock ──┘
//! ```
//! What is cheap comes first, so that a flood of garbage costs little. The calls of one JSON-RPC batch
//! are a group: its signatures are one job, its accounts one question, its records one append.

mod bundle;
mod validate;

use std::{
    collections::BTreeSet,
    num::NonZero,
    sync::Arc,
    thread::available_parallelism,
    time::{Instant, SystemTime},
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use counterpoint_core::{primitive::RollupId, registry::RollupConfig};
use counterpoint_service::traces::{self, Hop};
use metrics::{counter, histogram};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use validate::{Refusal, check_fees, check_lag, judge, recover};
pub(crate) use validate::{check_envelope, decode};

use crate::{
    admission::Admission,
    metric,
    queue::{Checked, Queue},
    rpc::RpcError,
    upstream::{Head, Upstream, UpstreamError},
};

/// Seats for transactions that are being checked or written, of one rollup.
const SEATS: usize = 4_096;
/// Bytes of a transaction that a seat holds.
const SEAT_BYTES: usize = 4_096;
/// How often a group is judged: again after its accounts have changed, or after what has the same
/// sender and nonce is on disk.
const ATTEMPTS: usize = 8;

/// Where the transactions of one rollup are taken in.
#[derive(Debug)]
pub(crate) struct Intake {
    rollup: RollupId,
    admission: Admission,
    queue: Arc<Queue>,
    upstream: Upstream,
    seats: Arc<Semaphore>,
    /// Jobs that recover signatures at the same time: one for each core.
    jobs: Semaphore,
}

/// A transaction that has a seat, and its place in its group.
struct Seated {
    at: usize,
    raw: Bytes,
    seat: OwnedSemaphorePermit,
}

/// What holds for a whole group.
struct Known {
    rules: Arc<RollupConfig>,
    /// Whether anything is taken in at all.
    admitted: Result<(), RpcError>,
    head: Result<Head, UpstreamError>,
}

/// What is known of a transaction without its sender's account.
enum Inspected {
    /// It was taken in before, or is being written.
    Known(B256),
    /// It follows the rules.
    New(Arc<Checked>),
}

/// A transaction that waits for a verdict.
struct Candidate {
    at: usize,
    checked: Arc<Checked>,
    _seat: OwnedSemaphorePermit,
}

impl Intake {
    /// The intake of a rollup.
    #[must_use]
    pub(crate) fn new(
        rollup: RollupId,
        admission: Admission,
        queue: Arc<Queue>,
        upstream: Upstream,
    ) -> Self {
        Self {
            rollup,
            admission,
            queue,
            upstream,
            seats: Arc::new(Semaphore::new(SEATS)),
            jobs: Semaphore::new(available_parallelism().map_or(1, NonZero::get)),
        }
    }

    /// Acknowledges a transaction once it is on disk. Sent again, it is acknowledged again.
    ///
    /// # Errors
    /// [`RpcError`] in geth's words if it is refused.
    pub(crate) async fn send(self: &Arc<Self>, raw: Bytes) -> Result<B256, RpcError> {
        let mut answers = self.send_all(vec![raw]).await;
        answers.pop().unwrap_or_else(|| Err(unanswered()))
    }

    /// The same for a group, whose members are judged in their order.
    ///
    /// It is a task of its own: a wallet that hangs up must not stop it half-way.
    pub(crate) async fn send_all(
        self: &Arc<Self>,
        raws: Vec<Bytes>,
    ) -> Vec<Result<B256, RpcError>> {
        let (started, called, count) = (Instant::now(), SystemTime::now(), raws.len());
        let intake = Arc::clone(self);
        let task = tokio::spawn(async move { intake.take_in(raws, called).await });
        let answers = task.await.unwrap_or_else(|panic| {
            let panicked = RpcError::internal(panic);
            vec![Err(panicked); count]
        });
        let accepted = answers.iter().flatten().count();
        for (outcome, count) in [("accepted", accepted), ("refused", count - accepted)] {
            counter!(metric::RECEIVED, "outcome" => outcome).increment(count as u64);
        }
        histogram!(metric::ACKNOWLEDGE_SECONDS).record_many(started.elapsed(), count);
        answers
    }

    /// The nonce after all that a sender has executed or waiting here without a gap.
    ///
    /// # Errors
    /// [`RpcError`] if the execution client does not answer.
    pub(crate) async fn pending_nonce(&self, sender: Address) -> Result<u64, RpcError> {
        loop {
            self.upstream.read_accounts(&[sender].into()).await?;
            let pending = self.queue.look(|queue| {
                let account = self.upstream.account(sender)?;
                Some(queue.pending_nonce(self.rollup, sender, account.nonce))
            });
            if let Some(pending) = pending {
                return Ok(pending);
            }
        }
    }

    async fn take_in(
        self: Arc<Self>,
        raws: Vec<Bytes>,
        called: SystemTime,
    ) -> Vec<Result<B256, RpcError>> {
        let mut answers = vec![Err(unanswered()); raws.len()];
        let mut seated = Vec::new();
        for (at, raw) in raws.into_iter().enumerate() {
            match self.seat(&raw) {
                Ok(seat) => seated.push(Seated { at, raw, seat }),
                Err(error) => answers[at] = Err(error),
            }
        }
        let candidates = self.inspect(seated, &mut answers).await;
        self.decide(candidates, called, &mut answers).await;
        answers
    }

    fn seat(&self, raw: &[u8]) -> Result<OwnedSemaphorePermit, RpcError> {
        check_envelope(raw, &self.admission.rules())?;
        let seats = u32::try_from(raw.len().div_ceil(SEAT_BYTES)).unwrap_or(u32::MAX);
        let seat = Arc::clone(&self.seats).try_acquire_many_owned(seats);
        seat.map_err(|_| RpcError::overloaded("the composer is overloaded, try again later"))
    }

    /// Answers those that are known or break a rule; gives the others.
    async fn inspect(
        self: &Arc<Self>,
        seated: Vec<Seated>,
        answers: &mut [Result<B256, RpcError>],
    ) -> Vec<Candidate> {
        if seated.is_empty() {
            return Vec::new();
        }
        let rules = self.admission.rules();
        let mut head = self.upstream.recent_head().await;
        if head
            .as_ref()
            .is_ok_and(|head| check_lag(head, &rules).is_err())
        {
            // It may have caught up since.
            head = self.upstream.fresh_head().await;
        }
        let known = Known {
            rules,
            admitted: self.admission.check(),
            head,
        };
        let intake = Arc::clone(self);
        let inspect = move |seated: Seated| (intake.inspect_one(&seated.raw, &known), seated);
        let is_alone = seated.len() == 1;
        let inspect_all = move || seated.into_iter().map(inspect).collect::<Vec<_>>();
        let inspected = if is_alone {
            // One signature takes less time than to hand it to another thread and back.
            inspect_all()
        } else {
            let _job = self.jobs.acquire().await;
            spawn_blocking(inspect_all).await.unwrap_or_default()
        };
        let (mut candidates, mut known) = (Vec::new(), Vec::new());
        for (inspected, Seated { at, seat, .. }) in inspected {
            match inspected {
                Ok(Inspected::Known(hash)) => known.push((at, hash)),
                Ok(Inspected::New(checked)) => candidates.push(Candidate {
                    at,
                    checked,
                    _seat: seat,
                }),
                Err(error) => answers[at] = Err(error),
            }
        }
        self.acknowledge(&known, answers).await;
        candidates
    }

    fn inspect_one(&self, raw: &Bytes, known: &Known) -> Result<Inspected, RpcError> {
        let hash = keccak256(raw);
        if self.is_known(hash) {
            return Ok(Inspected::Known(hash));
        }
        let rules = &known.rules;
        known.admitted.clone()?;
        let tx = decode(raw, rules)?;
        let head = known.head.as_ref().map_err(Clone::clone)?;
        check_lag(head, rules)?;
        let sender = recover(&tx)?;
        check_fees(&tx, sender, head.next_base_fee, rules)?;
        Ok(Inspected::New(Arc::new(Checked {
            rollup: self.rollup,
            raw: raw.0.clone(),
            tx,
            sender,
            received: Some(Instant::now()),
        })))
    }

    fn is_known(&self, hash: B256) -> bool {
        let stage = self.queue.stage(self.rollup, hash);
        stage.is_some_and(|stage| !stage.may_be_sent_again())
    }

    /// Answers what was taken in before, once that is on disk.
    async fn acknowledge(&self, known: &[(usize, B256)], answers: &mut [Result<B256, RpcError>]) {
        if known.is_empty() {
            return;
        }
        let durable = self.queue.barrier().await;
        for (at, hash) in known {
            let durable = durable.as_ref().map_err(RpcError::internal);
            answers[*at] = durable.map(|()| *hash);
        }
    }

    /// Answers each one once it is on disk or refused.
    async fn decide(
        &self,
        mut candidates: Vec<Candidate>,
        called: SystemTime,
        answers: &mut [Result<B256, RpcError>],
    ) {
        for _ in 0..ATTEMPTS {
            if candidates.is_empty() {
                return;
            }
            let senders: BTreeSet<Address> =
                candidates.iter().map(|one| one.checked.sender).collect();
            if let Err(error) = self.upstream.read_accounts(&senders).await {
                let error = RpcError::from(error);
                for Candidate { at, .. } in candidates {
                    answers[at] = Err(error.clone());
                }
                return;
            }
            let checked = candidates.iter().map(|one| Arc::clone(&one.checked));
            let judge = |queue: &_, checked: &Checked| {
                let account = self
                    .upstream
                    .account(checked.sender)
                    .ok_or(Refusal::Passing)?;
                judge(queue, checked, account)
            };
            let verdicts = self.queue.accept(checked.collect(), judge).await;
            let mut again = Vec::new();
            for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
                match verdict {
                    Ok(()) => {
                        let hash = *candidate.checked.tx.tx_hash();
                        traces::record(Hop::Submit, &hash, called, Vec::new);
                        answers[candidate.at] = Ok(hash);
                    }
                    Err(Refusal::Final(error)) => answers[candidate.at] = Err(error),
                    Err(Refusal::Passing) => again.push(candidate),
                }
            }
            candidates = self.await_writers(again, answers).await;
        }
        for Candidate { at, .. } in candidates {
            answers[at] = Err(RpcError::overloaded(
                "the composer is overloaded, try again later",
            ));
        }
    }

    /// Waits until what was being written is on disk, and acknowledges what is known by then.
    async fn await_writers(
        &self,
        candidates: Vec<Candidate>,
        answers: &mut [Result<B256, RpcError>],
    ) -> Vec<Candidate> {
        if candidates.is_empty() || self.queue.barrier().await.is_err() {
            return candidates;
        }
        tokio::task::yield_now().await;
        let is_known = |one: &Candidate| self.is_known(*one.checked.tx.tx_hash());
        let (known, again): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_known);
        for candidate in known {
            answers[candidate.at] = Ok(*candidate.checked.tx.tx_hash());
        }
        again
    }
}

fn unanswered() -> RpcError {
    RpcError::internal("the composer has no answer")
}

#[cfg(test)]
mod tests;
