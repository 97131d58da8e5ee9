//! One rollup's blocks, one after another, over reconnects and from node to node.

use std::time::{Duration, Instant, SystemTime};

use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint_core::{
    block::RollupLeaf,
    light::{LightError, TrustedState, decode_signed_header},
    primitive::{Height, RollupId},
    registry::RollupStatus,
    state::{Key, RollupRecord},
};
use counterpoint_proto::sequencer::RollupBlock;
use metrics::histogram;
use tokio::{sync::watch, task::JoinSet};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Client, ClientError, Fork, NodeId, VerifiedBlock, Verifier, VerifyError,
    endpoints::doubled,
    metric,
    verify::{verify_pivot, verify_record},
};

/// How long a block may take until another node is asked for it. Doubles while no block arrives in
/// time, for the line may be slow, or the chain.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// Longest such time.
const MAX_SILENCE: Duration = Duration::from_secs(120);
/// How often other nodes are asked whether they have the same header.
const COMPARE_EVERY: Duration = Duration::from_secs(30);
/// A node is slow if, for so long, it brought a reader that is as far behind no nearer to the tip.
const TOO_SLOW: Duration = Duration::from_secs(10);

/// A header further ahead of the clock here shows that one of two clocks is wrong. Validators bear no
/// more with each other.
const MAX_DRIFT_SECS: u64 = 60;

/// Why following cannot go on at all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FollowError {
    /// Two headers of one height were signed: nobody can say which chain is right.
    #[error(transparent)]
    Fork(#[from] Fork),
    /// The rollup has left the sequencer, proven: all its blocks were yielded.
    #[error("the rollup left the sequencer at height {height}")]
    Left {
        /// The first height without a leaf of it.
        height: Height,
    },
    /// The task that reads has panicked.
    #[error("reading the sequencer has failed")]
    Failed,
}

/// Verifies a rollup's block of one height above what is `trusted`; gives what is trusted with it.
///
/// # Errors
/// [`FollowError`] if the chain has forked or the rollup has left; everything else is tried again.
pub async fn verified_block(
    client: &Client,
    rollup: RollupId,
    trusted: &TrustedState,
    height: Height,
) -> Result<(VerifiedBlock, TrustedState), FollowError> {
    let verifier = Verifier::new(rollup, trusted.clone(), height);
    let mut reader = Reader::new(client.clone(), verifier, SILENCE);
    let block = reader.next().await?;
    Ok((block, reader.verifier.trusted().clone()))
}

/// What the state says of a rollup, proven; even if it has left. Nodes are asked until one proves it.
///
/// # Errors
/// [`ClientError`] if none of the nodes does now.
pub async fn registration(
    client: &Client,
    trusted: &TrustedState,
    rollup: RollupId,
) -> Result<Option<RollupRecord>, ClientError> {
    let (mut absent, mut last) = (false, ClientError::NobodyLeft);
    for node in client.order() {
        for key in [Key::Rollup(rollup), Key::FormerRollup(rollup)] {
            match record(client, node, &mut trusted.clone(), &key).await {
                Ok((Some(record), _)) => return Ok(Some(record)),
                // It may prove what was long ago: another one may know better.
                Ok((None, _)) => absent |= matches!(key, Key::FormerRollup(_)),
                Err(fork @ ClientError::Fork(_)) => return Err(fork),
                Err(error) => {
                    last = error;
                    break;
                }
            }
        }
    }
    if absent { Ok(None) } else { Err(last) }
}

/// What the state of a node that answers first has under a key, proven.
#[derive(Clone, Debug)]
pub struct ProvenRecord<T> {
    /// The record, or that there is none.
    pub record: Option<T>,
    /// The height that left it.
    pub height: Height,
    /// Who proved it. It may have stopped long ago.
    pub node: NodeId,
}

/// A record of the state, proven by a header that is trusted from then on. Nodes are asked one after
/// another until one proves it.
///
/// # Errors
/// [`ClientError`] if none of the nodes does now.
pub async fn proven_record<T: BorshDeserialize>(
    client: &Client,
    trusted: &mut TrustedState,
    key: &Key<'_>,
) -> Result<ProvenRecord<T>, ClientError> {
    let mut last = ClientError::NobodyLeft;
    for node in client.order() {
        match record(client, node, trusted, key).await {
            Ok((record, height)) => {
                return Ok(ProvenRecord {
                    record,
                    height,
                    node,
                });
            }
            Err(fork @ ClientError::Fork(_)) => return Err(fork),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A record as one node proves it, and the height that left it.
async fn record<T: BorshDeserialize>(
    client: &Client,
    node: NodeId,
    trusted: &mut TrustedState,
    key: &Key<'_>,
) -> Result<(Option<T>, Height), ClientError> {
    let answer = client.state_proof_of(node, key).await;
    let answer = answer.map_err(|status| {
        client.failed(node, &status.message());
        client.status_error(node, status)
    })?;
    loop {
        let target = Height::new(answer.height.saturating_add(1));
        match verify_record(trusted, key, &answer) {
            Ok(proven) => {
                client.served(node);
                return Ok(proven);
            }
            Err(VerifyError::Header(LightError::Distant { .. })) => {
                client.bridge(trusted, target).await?;
            }
            Err(VerifyError::Header(error @ LightError::Stale { .. })) => {
                client.failed(node, &error);
                return Err(client.status_error(node, Status::unavailable(error.to_string())));
            }
            Err(error) => {
                let header = &answer.signed_header;
                let convicted = client.convict(node, trusted, target, error, header, &answer);
                return Err(convicted.await);
            }
        }
    }
}

/// Reads the blocks of one rollup.
#[derive(Debug)]
pub(super) struct Reader {
    client: Client,
    verifier: Verifier,
    stream: Option<(NodeId, Streaming<RollupBlock>)>,
    /// Whether the height before the next one closed a block, as far as it is known.
    closed: Option<bool>,
    /// How long a block may take.
    silence: Duration,
    /// Blocks in a row that took longer.
    silences: u32,
    pace: Pace,
    comparing: JoinSet<()>,
    /// What the comparison found.
    forked: watch::Sender<Option<Fork>>,
    compared: Option<Instant>,
    /// Whether the last header came from the future.
    drifts: bool,
}

impl Reader {
    pub(super) fn new(client: Client, verifier: Verifier, silence: Duration) -> Self {
        Self {
            verifier: verifier.sharing(client.headers()),
            client,
            stream: None,
            closed: None,
            silence,
            silences: 0,
            pace: Pace::default(),
            comparing: JoinSet::new(),
            forked: watch::Sender::new(None),
            compared: None,
            drifts: false,
        }
    }

    /// The height before the next one is known to have closed a block.
    pub(super) fn after_block(mut self) -> Self {
        self.closed = Some(true);
        self
    }

    /// What is trusted after the last block.
    pub(super) fn trusted(&self) -> &TrustedState {
        self.verifier.trusted()
    }

    /// The next block, verified.
    ///
    /// # Errors
    /// [`FollowError`] if there is none; everything else is tried again elsewhere.
    pub(super) async fn next(&mut self) -> Result<VerifiedBlock, FollowError> {
        loop {
            let waited = Instant::now();
            let mut forked = self.forked.subscribe();
            let (node, message) = tokio::select! {
                biased;
                fork = seen(&mut forked) => return Err(fork.into()),
                received = self.receive() => received?,
            };
            let waited = waited.elapsed();
            let before = self.verifier.trusted().clone();
            match self.accept(&message).await {
                Ok(block) => {
                    self.compare(node, before, &message);
                    self.note(node, &block, waited);
                    return Ok(block);
                }
                Err(Unaccepted::Verify(error)) => {
                    let (trusted, height) = (self.verifier.trusted(), self.verifier.next());
                    let header = &message.signed_header;
                    let (client, stream) = (&self.client, &mut self.stream);
                    let convicted = client.convict(node, trusted, height, error, header, &message);
                    match convicted.await {
                        ClientError::Fork(fork) => return Err(fork.into()),
                        _ => *stream = None,
                    }
                }
                Err(Unaccepted::Bridge(ClientError::Fork(fork))) => return Err(fork.into()),
                Err(Unaccepted::Bridge(error)) => self.pass_over(node, &error),
            }
        }
    }

    /// What a verified block, and the time that it took, say of its node and of the clocks.
    fn note(&mut self, node: NodeId, block: &VerifiedBlock, waited: Duration) {
        self.client.served(node);
        if waited < self.silence {
            self.silences = 0;
        }
        self.closed = Some(block.list.leaf().env.closes);
        let (seconds, now) = (block.list.header().time().seconds, unix_secs());
        let drifts = seconds > now.saturating_add(MAX_DRIFT_SECS);
        if drifts && !self.drifts {
            warn!(header_time = seconds, clock = now, "header from the future");
        }
        self.drifts = drifts;
        if self.pace.is_too_slow(waited, seconds, now) {
            self.pass_over(node, &"it is slower than the chain");
        }
    }

    /// Verifies a message, by headers in between if it is too far from what is trusted.
    async fn accept(&mut self, message: &RollupBlock) -> Result<VerifiedBlock, Unaccepted> {
        loop {
            let started = Instant::now();
            match self.verifier.accept(message) {
                Ok(block) => {
                    histogram!(metric::VERIFY_SECONDS).record(started.elapsed());
                    return Ok(block);
                }
                Err(VerifyError::Header(LightError::Distant { .. })) => {
                    let mut trusted = self.verifier.trusted().clone();
                    let bridged = self.client.bridge(&mut trusted, self.verifier.next()).await;
                    self.verifier.trust(trusted);
                    bridged.map_err(Unaccepted::Bridge)?;
                }
                Err(error) => return Err(Unaccepted::Verify(error)),
            }
        }
    }

    /// The next message of any node.
    async fn receive(&mut self) -> Result<(NodeId, RollupBlock), FollowError> {
        loop {
            let node = match &self.stream {
                Some((node, _)) => *node,
                None => self.client.best().await,
            };
            let patience = doubled(self.silence, self.silences, MAX_SILENCE);
            let received = tokio::time::timeout(patience, self.receive_from(node)).await;
            match received {
                Ok(Ok(Some(message))) => return Ok((node, message)),
                Ok(Ok(None)) => self.pass_over(node, &"the stream ended"),
                Ok(Err(status)) if status.code() == Code::NotFound => {
                    if let Some(height) = self.left(node).await? {
                        return Err(FollowError::Left { height });
                    }
                    self.pass_over(node, &status.message());
                }
                Ok(Err(status)) => self.pass_over(node, &status.message()),
                Err(_) => {
                    self.silences = self.silences.saturating_add(1);
                    self.pass_over(node, &format!("no whole block within {patience:?}"));
                }
            }
        }
    }

    async fn receive_from(&mut self, node: NodeId) -> Result<Option<RollupBlock>, Status> {
        let stream = match &mut self.stream {
            Some((_, stream)) => stream,
            none => {
                let (next, id) = (self.verifier.next(), self.verifier.rollup_id());
                let stream = self.client.stream(node, next, &id).await?;
                self.pace = Pace::default();
                &mut none.insert((node, stream)).1
            }
        };
        stream.message().await
    }

    fn pass_over(&mut self, node: NodeId, reason: &dyn std::fmt::Display) {
        let next = self.verifier.next();
        self.client
            .failed(node, &format!("height {next}: {reason}"));
        self.stream = None;
    }

    /// The next height, if a node proves that the rollup has left there: the state has it among those
    /// that left, and its last block closes where the exit takes effect.
    async fn left(&self, node: NodeId) -> Result<Option<Height>, Fork> {
        let (next, id) = (self.verifier.next(), self.verifier.rollup_id());
        let key = Key::FormerRollup(id);
        let mut trusted = self.verifier.trusted().clone();
        let proven = record::<RollupRecord>(&self.client, node, &mut trusted, &key).await;
        let status = match proven {
            Ok((record, _)) => record.map(|record| record.config.status),
            Err(ClientError::Fork(fork)) => return Err(fork),
            Err(_) => None,
        };
        let Some(RollupStatus::Exiting(from)) = status else {
            return Ok(None);
        };
        let closed = match self.closed {
            Some(closed) => closed,
            None => {
                let leaf = self.leaf_before(node).await;
                leaf.is_some_and(|leaf| leaf.env.closes)
            }
        };
        // It has no leaf from the first opening at or above `from` on, and where one block closes the
        // next would open.
        Ok((closed && from <= next).then_some(next))
    }

    /// The leaf of the block before the next one, which was verified in an earlier life.
    async fn leaf_before(&self, node: NodeId) -> Option<RollupLeaf> {
        let (next, id) = (self.verifier.next(), self.verifier.rollup_id());
        let height = Height::new(next.get().saturating_sub(1));
        let block = self.client.rollup_block_of(node, height, &id).await.ok()?;
        match self.verifier.trusted_leaf(&block) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                debug!(%error, %height, "no leaf before the end");
                None
            }
        }
    }

    /// Asks the other nodes, beside everything else, whether they have the same header.
    fn compare(&mut self, server: NodeId, before: TrustedState, message: &RollupBlock) {
        let due = |at: Instant| at.elapsed() >= COMPARE_EVERY;
        if !self.compared.is_none_or(due) {
            return;
        }
        self.compared = Some(Instant::now());
        self.comparing.abort_all();
        for node in self.client.order() {
            if node != server {
                let (client, ours) = (self.client.clone(), message.signed_header.clone());
                let (before, forked) = (before.clone(), self.forked.clone());
                self.comparing.spawn(async move {
                    if let Some(fork) = compare(&client, node, before, ours).await {
                        forked.send_replace(Some(fork));
                    }
                });
            }
        }
    }
}

/// Waits for a fork.
async fn seen(forked: &mut watch::Receiver<Option<Fork>>) -> Fork {
    if let Ok(fork) = forked.wait_for(Option::is_some).await
        && let Some(fork) = fork.clone()
    {
        return fork;
    }
    std::future::pending().await
}

/// Compares a node's header with one that was verified after `before`.
async fn compare(
    client: &Client,
    node: NodeId,
    mut before: TrustedState,
    ours: Bytes,
) -> Option<Fork> {
    let header = |bytes: &[u8]| Some(decode_signed_header(bytes).ok()?.header);
    let known = header(&ours)?;
    let height = Height::new(known.height.value());
    // One that has not got so far yet is no witness.
    let theirs = client.header(node, height).await.ok()?;
    if header(&theirs.signed_header).is_some_and(|theirs| theirs.hash() == known.hash()) {
        return None;
    }
    let (trusted, url) = (before.clone(), client.url(node).to_owned());
    match verify_pivot(&mut before, height, &theirs) {
        Ok(_) => {
            let headers = vec![ours.to_vec(), theirs.signed_header.to_vec()];
            Some(client.fork(node, &trusted, height, headers).await)
        }
        Err(error) => {
            info!(url, %height, "another header than the one verified");
            client.report(node, &trusted, height, &error, &theirs);
            None
        }
    }
}

/// Why a message is of no use.
enum Unaccepted {
    Verify(VerifyError),
    Bridge(ClientError),
}

/// Whether a node keeps up with the chain.
#[derive(Debug, Default)]
struct Pace {
    /// How long the node was waited for, and the header time at which that began.
    waited: Duration,
    since: Option<u64>,
}

impl Pace {
    /// Notes that a block came after a while. The time that its reader takes does not count.
    fn is_too_slow(&mut self, waited: Duration, header_secs: u64, now_secs: u64) -> bool {
        let since = *self.since.get_or_insert(header_secs);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < TOO_SLOW {
            return false;
        }
        let gained = header_secs.saturating_sub(since);
        let behind = now_secs.saturating_sub(header_secs);
        let slow = gained < self.waited.as_secs() && behind > TOO_SLOW.as_secs();
        (self.waited, self.since) = (Duration::ZERO, Some(header_secs));
        slow
    }
}

/// Seconds since 1970.
pub(super) fn unix_secs() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(blocks: &[(u64, u64)], now_secs: u64, expect: bool) {
        let mut pace = Pace::default();
        let slow = |(waited, header): &(u64, u64)| {
            pace.is_too_slow(Duration::from_secs(*waited), *header, now_secs)
        };
        let slow: Vec<bool> = blocks.iter().map(slow).collect();
        assert_eq!(slow.contains(&true), expect, "{slow:?}");
    }

    #[test]
    fn slow_is_whoever_brings_us_no_nearer_to_the_tip() {
        check(&[(4, 100), (4, 101), (4, 102)], 1_000, true);
        check(&[(4, 100), (4, 200), (4, 300)], 1_000, false);
        check(&[(4, 990), (4, 994), (4, 998)], 1_000, false);
        check(&[(0, 100), (0, 101), (0, 102)], 1_000, false);
    }
}
