//! What nodes say is scheduled, and what of it is true.
//!
//! A schedule is a hint: it tells what to execute, and everything that is signed is compared with what we
//! have verified, or with digests in it. What only the next block will prove, the deposits and a
//! configuration that begins with it, stands in no statement but through `env_hash`, which the chain
//! compares with its own: a node that lies about them can cost a vote, never bend one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_consensus::Header;
use alloy_primitives::{Address, B256};
use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint_core::{
    atomic::{AtomicBundle, Ballot, LegEnv, LegSeal, Pin, inbox_hash, keccak, sender, ticket},
    block::prev_randao,
    key::PublicKey,
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
    slot::{HeaderTime, Slot},
};
use counterpoint_proto::sequencer::{ScheduledBundle, scheduled_bundle};
use counterpoint_service::sequencer::{Client, NodeId};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::evm::BlockInputs;

/// Hints that wait for one rollup.
const WAITING: usize = 64;
/// First pause before a stream is opened again; it doubles, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A stream that lived so long was a good one.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// Where a rollup stands between two blocks, all of it verified: what legs are executed on.
#[derive(Clone, Debug)]
pub(crate) struct Tip {
    /// The last block.
    pub(crate) header: Header,
    pub(crate) hash: B256,
    /// The sequencer block that closed it.
    pub(crate) pin: Pin,
    /// The time of that block.
    pub(crate) time: HeaderTime,
    /// The configuration in force there.
    pub(crate) config: RollupConfig,
    /// When it was there, verified.
    pub(crate) arrived: std::time::Instant,
}

/// What a node says is scheduled for a rollup's next slot.
#[derive(Clone, Debug)]
pub(super) struct Hint {
    pub(super) node: NodeId,
    pub(super) height: Height,
    pub(super) bundle: AtomicBundle,
    pub(super) ballot: Ballot,
    pub(super) env: LegEnv,
    pub(super) txs: Vec<Bytes>,
}

/// What nodes say of one rollup. The streams end when all rollups' are dropped.
#[derive(Debug)]
pub(crate) struct Hints {
    pub(super) told: mpsc::Receiver<Hint>,
    _streams: Arc<Vec<AbortOnDropHandle<()>>>,
}

impl Hints {
    /// Follows all nodes, by one stream each for all rollups; gives the hints of each.
    pub(crate) fn follow(client: &Client, rollups: &[RollupId]) -> Vec<Self> {
        let mut senders = BTreeMap::new();
        let mut receivers = Vec::new();
        for id in rollups {
            let (sender, receiver) = mpsc::channel(WAITING);
            senders.insert(*id, sender);
            receivers.push(receiver);
        }
        let follow = |node| {
            let stream = follow(client.clone(), node, senders.clone());
            AbortOnDropHandle::new(tokio::spawn(stream))
        };
        let streams: Arc<Vec<_>> = Arc::new(client.nodes().map(follow).collect());
        let of = |told| Self {
            told,
            _streams: Arc::clone(&streams),
        };
        receivers.into_iter().map(of).collect()
    }
}

/// Passes on what a node says, for ever.
async fn follow(client: Client, node: NodeId, rollups: BTreeMap<RollupId, mpsc::Sender<Hint>>) {
    let ids: Vec<RollupId> = rollups.keys().copied().collect();
    let mut pause = MIN_PAUSE;
    loop {
        let opened = Instant::now();
        let ended = match client.scheduled(node, &ids).await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(message)) => pass_on(node, message, &rollups),
                    Ok(None) => break "the node has closed it".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            },
            Err(status) => status.message().to_owned(),
        };
        if opened.elapsed() > GOOD_LIFE {
            pause = MIN_PAUSE;
        }
        debug!(url = client.url(node), reason = ended, "schedule ended");
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(MAX_PAUSE);
    }
}

fn pass_on(
    node: NodeId,
    message: ScheduledBundle,
    rollups: &BTreeMap<RollupId, mpsc::Sender<Hint>>,
) {
    let height = Height::new(message.height);
    let Ok(bundle) = AtomicBundle::try_from_slice(&message.borsh_bundle) else {
        return;
    };
    for leg in message.legs {
        let Ok((ballot, env)) = decode(&leg) else {
            continue;
        };
        let Some(sender) = rollups.get(&ballot.rollup_id) else {
            continue;
        };
        // If nobody takes it in time, it is of no use any more.
        let _ = sender.try_send(Hint {
            node,
            height,
            bundle: bundle.clone(),
            ballot,
            env,
            txs: leg.transactions,
        });
    }
}

fn decode(leg: &scheduled_bundle::Leg) -> borsh::io::Result<(Ballot, LegEnv)> {
    let ballot = Ballot::try_from_slice(&leg.borsh_ballot)?;
    Ok((ballot, LegEnv::try_from_slice(&leg.borsh_env)?))
}

/// What is wrong with a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("it is of another sequencer block than the one that closed our last")]
    Pin,
    #[error("its bundle is another one, or of another chain or time")]
    Bundle,
    #[error("the bundle has no such leg, or other transactions")]
    Leg,
    #[error("a transaction was not sealed by its sender")]
    Auth,
    #[error("the next block has another environment")]
    Env,
    #[error("the rollup's configuration is another")]
    Config,
}

/// Compares a hint with what is verified. `config` is the rollup's in the slot that opens.
///
/// `vouched` is the bundle whose senders were last seen to have sealed the leg. Its identifier says which
/// leg that is, so that a further attempt need not recover them again.
pub(super) fn check(
    hint: &Hint,
    tip: &Tip,
    config: &RollupConfig,
    vouched: &mut Option<Hash>,
) -> Result<(), Wrong> {
    let (bundle, ballot, env) = (&hint.bundle, &hint.ballot, &hint.env);
    let (terms, rollup_id) = (bundle.terms(), config.rollup_id);
    if ballot.pin != tip.pin || ballot.rollup_id != rollup_id {
        return Err(Wrong::Pin);
    }
    let in_time = (terms.valid_from..=terms.valid_until).contains(&tip.time.seconds);
    if ballot.bundle_id != bundle.id() || !in_time {
        return Err(Wrong::Bundle);
    }
    let leg = terms.legs.iter().find(|leg| leg.rollup_id == rollup_id);
    let leg = leg.ok_or(Wrong::Leg)?;
    let sealed = leg.txs.iter().map(|tx| tx.tx_hash);
    if !sealed.eq(hint.txs.iter().map(|raw| keccak(raw))) {
        return Err(Wrong::Leg);
    }
    if *vouched != Some(bundle.id()) {
        if !are_sealed_by_senders(bundle, leg, &hint.txs) {
            return Err(Wrong::Auth);
        }
        *vouched = Some(bundle.id());
    }
    let inbox = inbox_hash(&rollup_id, &terms.messages);
    let ticket = ticket(&terms.chain_id, &rollup_id, &bundle.session_id(), &inbox);
    let ours = LegEnv {
        number: tip.header.number.saturating_add(1),
        timestamp: Slot::of(Some(tip.time), config.slot_secs).get(),
        gas_limit: config.gas_limit,
        fee_recipient: config.fee_recipient,
        prev_randao: prev_randao(&rollup_id, &tip.pin.hash),
        base_fee: 0,
        beacon_root: *ticket.as_bytes(),
        deposits_hash: env.deposits_hash,
    };
    if (env.fee_recipient, ballot.epoch) != (config.fee_recipient, epoch(config)) {
        return Err(Wrong::Config);
    }
    if ours != *env {
        return Err(Wrong::Env);
    }
    Ok(())
}

fn are_sealed_by_senders(bundle: &AtomicBundle, leg: &LegSeal, txs: &[Bytes]) -> bool {
    leg.txs.iter().zip(txs).all(|(sealed, raw)| {
        let signer = bundle.signer(&sealed.tx_hash, &sealed.auth);
        signer.is_some() && signer == sender(raw)
    })
}

fn epoch(config: &RollupConfig) -> u64 {
    let set = config.attesters.0.as_ref();
    set.map_or(0, |set| set.epoch)
}

/// Whether the word of `key` is asked for: it is the rollup's attester, or the bundle's.
pub(super) fn is_asked(key: &PublicKey, bundle: &AtomicBundle, config: &RollupConfig) -> bool {
    is_member(key, config) || bundle.terms().extra_attesters.contains(key)
}

/// Whether `key` is one of the rollup's attesters.
pub(super) fn is_member(key: &PublicKey, config: &RollupConfig) -> bool {
    let set = config.attesters.0.as_ref();
    set.is_some_and(|set| set.members.keys().contains(key))
}

/// What the leg's block starts from. Its deposits are credited at its end, and no leg sees them.
pub(super) fn inputs(env: &LegEnv) -> BlockInputs {
    BlockInputs {
        number: env.number,
        timestamp: env.timestamp,
        prev_randao: B256::new(env.prev_randao),
        beacon_root: B256::new(env.beacon_root),
        fee_recipient: Address::new(*env.fee_recipient.as_bytes()),
        gas_limit: env.gas_limit,
        withdrawals: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
