//! What makes a release or an abort legal, R1 to R7; the proposer, validators and the scheduler ask
//! here.

use counterpoint_core::{
    atomic::{AtomicBundle, Ballot, LegOutcome, Pin, Quorum, inbox_hash, outbox_hash, ticket},
    key::PublicKey,
    primitive::{Hash, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    state::{LegRecord, RollupRecord, Suspension},
};

use crate::{
    room::Share,
    state::{Key, ReadRecords, StateRead, StoreError},
};

/// The configuration that a rollup will have at `height`, if it takes bundles: one that is about to
/// leave does not.
pub(super) fn config_at(record: &RollupRecord, height: Height) -> Option<RollupConfig> {
    if record.leaves() {
        return None;
    }
    let pending = record.pending.as_ref();
    let pending = pending.filter(|pending| pending.from <= height);
    let config = pending.map_or(&record.config, |pending| &pending.config);
    (config.status == RollupStatus::Active).then(|| config.clone())
}

/// R7: whether a leg leaves room for one more transaction, none asks for too much gas, and all of it
/// is within the rollup's share of a sequencer block.
pub(crate) fn fits(leg: &LegRecord, config: &RollupConfig) -> bool {
    let room = config.gas_limit.saturating_sub(config.max_tx_gas);
    let gas = leg.gas <= room && leg.max_gas <= config.max_tx_gas;
    gas && Share::of(config).without(share(leg)).is_some()
}

/// What a leg takes of its rollup's share of a block.
pub(super) fn share(leg: &LegRecord) -> Share {
    Share {
        items: leg.txs.into(),
        bytes: leg.bytes.into(),
    }
}

/// The attesters of a rollup that have a vote: those that were caught in a lie have none.
pub(super) fn voters<S: StateRead>(
    config: &RollupConfig,
    state: &S,
) -> Result<Vec<PublicKey>, StoreError> {
    let keys = config.attesters.0.iter().flat_map(|set| set.members.keys());
    let mut voters = Vec::new();
    for key in keys {
        let suspension = Key::Suspension(config.rollup_id, *key);
        if state.read::<Suspension>(&suspension)?.is_none() {
            voters.push(*key);
        }
    }
    Ok(voters)
}

/// Whether enough attesters of the rollup have a vote for there to be a quorum.
pub(super) fn has_quorum<S: StateRead>(
    config: &RollupConfig,
    state: &S,
) -> Result<bool, StoreError> {
    let Some(set) = &config.attesters.0 else {
        return Ok(false);
    };
    Ok(voters(config, state)?.len() >= usize::from(set.members.threshold()))
}

/// What attesters of a leg must agree to, as far as the chain knows it.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) ballot: Ballot,
    /// The parent beacon block root of the leg's block.
    pub(super) ticket: Hash,
    /// Of the messages that the leg must receive.
    pub(super) in_hash: Hash,
    /// Of those that it must send.
    pub(super) out_hash: Hash,
}

impl Expected {
    pub(super) fn of(bundle: &AtomicBundle, rollup_id: RollupId, epoch: u64, pin: Pin) -> Self {
        let terms = bundle.terms();
        let in_hash = inbox_hash(&rollup_id, &terms.messages);
        Self {
            ballot: Ballot {
                bundle_id: bundle.id(),
                rollup_id,
                epoch,
                pin,
            },
            ticket: ticket(&terms.chain_id, &rollup_id, &bundle.session_id(), &in_hash),
            in_hash,
            out_hash: outbox_hash(&rollup_id, &terms.messages),
        }
    }

    /// R4: whether a quorum says that the leg commits and exchanges exactly the bundle's messages.
    /// Gives what its receipts will be.
    pub(super) fn receipts(&self, quorum: &Quorum) -> Option<Hash> {
        match quorum.statement.outcome {
            LegOutcome::Commit {
                in_hash,
                out_hash,
                receipts_hash,
            } if (in_hash, out_hash) == (self.in_hash, self.out_hash) => Some(receipts_hash),
            LegOutcome::Commit { .. } | LegOutcome::Abort { .. } => None,
        }
    }
}
