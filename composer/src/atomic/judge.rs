//! Which bundles and legs are taken in. Pure: what the state says of rollups, and the time, are arguments.
//!
//! These are the rules by which the chain judges, so that whoever would be refused there is refused
//! here, before anybody pays, and is told which leg and which transaction is at fault.

use std::collections::BTreeMap;

use counterpoint_core::{
    action::RevealLegs,
    atomic::{
        AtomicBundle, EvmSignature, LegTransaction, LegTransactionError, MAX_SPAN_SECS, keccak,
        next_opening,
    },
    primitive::{Height, RollupId},
    registry::RollupConfig,
    state::RollupRecord,
};
use serde_json::{Value, json};

/// What the state has of the rollups that a bundle touches: nothing of one that is unknown or has left.
pub(super) type Rollups = BTreeMap<RollupId, RollupRecord>;

/// Why a bundle or its legs are not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the bundle is for chain {0}")]
    Chain(String),
    #[error("leg {leg}: no rollup {rollup} is registered at the sequencer")]
    UnknownRollup { leg: usize, rollup: RollupId },
    #[error("leg {leg}: rollup {rollup} starts at sequencer height {height}")]
    NotStarted {
        leg: usize,
        rollup: String,
        height: Height,
    },
    #[error("leg {leg}: rollup {rollup} is about to leave the sequencer")]
    Leaves { leg: usize, rollup: String },
    #[error(
        "leg {leg}: rollup {rollup} has no attesters, so that nobody can say how a leg ends there"
    )]
    NoAttesters { leg: usize, rollup: String },
    #[error("leg {leg}, transaction {tx}: auth is missing")]
    AuthMissing { leg: usize, tx: usize },
    #[error("leg {leg}, transaction {tx}: auth is no signature with a low s and v of 27 or 28")]
    Auth { leg: usize, tx: usize },
    #[error("valid_until {until} has passed: it is {now}")]
    Expired { until: u64, now: u64 },
    #[error(
        "valid_until {until}: all its rollups open a block together at {opening} at the earliest"
    )]
    NoSlot { until: u64, opening: u64 },
    #[error("valid_until {until} must be at most {latest}, an hour from now")]
    TooFar { until: u64, latest: u64 },
    #[error("legs: the bundle has {sealed}, and {given} are given")]
    Legs { sealed: usize, given: usize },
    #[error("leg {leg}: {sealed} transactions are sealed, and {given} are given")]
    Transactions {
        leg: usize,
        sealed: usize,
        given: usize,
    },
    #[error("leg {leg}, transaction {tx}: another transaction was sealed")]
    Hash { leg: usize, tx: usize },
    #[error("leg {leg}, transaction {tx}: {why}")]
    Transaction {
        leg: usize,
        tx: usize,
        why: LegTransactionError,
    },
    #[error("leg {leg}, transaction {tx}: it is for chain id {given}, the rollup has {expected}")]
    ChainId {
        leg: usize,
        tx: usize,
        given: u64,
        expected: u64,
    },
    #[error("leg {leg}, transaction {tx}: the auth is not by its sender")]
    Sender { leg: usize, tx: usize },
    #[error("leg {leg}, transaction {tx}: the rollup's block has no room for it")]
    Room { leg: usize, tx: usize },
}

impl Refusal {
    /// The leg and the transaction that is at fault, for programs.
    pub(super) fn place(&self) -> Value {
        match self {
            Self::UnknownRollup { leg, .. }
            | Self::NotStarted { leg, .. }
            | Self::Leaves { leg, .. }
            | Self::NoAttesters { leg, .. }
            | Self::Transactions { leg, .. } => json!({ "leg": leg }),
            Self::AuthMissing { leg, tx }
            | Self::Auth { leg, tx }
            | Self::Hash { leg, tx }
            | Self::Transaction { leg, tx, .. }
            | Self::ChainId { leg, tx, .. }
            | Self::Sender { leg, tx }
            | Self::Room { leg, tx } => json!({ "leg": leg, "transaction": tx }),
            Self::Chain(_)
            | Self::Expired { .. }
            | Self::NoSlot { .. }
            | Self::TooFar { .. }
            | Self::Legs { .. } => Value::Null,
        }
    }
}

/// Whether a bundle can ever be scheduled.
pub(super) fn bundle(
    bundle: &AtomicBundle,
    chain_id: &str,
    rollups: &Rollups,
    height: Height,
    now: u64,
) -> Result<(), Refusal> {
    let terms = bundle.terms();
    if terms.chain_id != chain_id {
        return Err(Refusal::Chain(terms.chain_id.clone()));
    }
    let mut slots = Vec::new();
    for (leg, seal) in terms.legs.iter().enumerate() {
        let record = takes_legs(leg, seal.rollup_id, rollups, height)?;
        slots.push(record.config.slot_secs.get());
    }
    let until = terms.valid_until;
    if until <= now {
        return Err(Refusal::Expired { until, now });
    }
    let earliest = terms.valid_from.max(now.saturating_add(1));
    let opening = next_opening(earliest, slots.into_iter());
    if opening > until {
        return Err(Refusal::NoSlot { until, opening });
    }
    let latest = now.saturating_add(MAX_SPAN_SECS);
    if until > latest {
        return Err(Refusal::TooFar { until, latest });
    }
    Ok(())
}

fn takes_legs(
    leg: usize,
    rollup: RollupId,
    rollups: &Rollups,
    height: Height,
) -> Result<&RollupRecord, Refusal> {
    let record = rollups
        .get(&rollup)
        .ok_or(Refusal::UnknownRollup { leg, rollup })?;
    let config = &record.config;
    let rollup = config.name.clone();
    if config.first_height.get() > height.get().saturating_add(1) {
        let height = config.first_height;
        return Err(Refusal::NotStarted {
            leg,
            rollup,
            height,
        });
    }
    if record.leaves() {
        return Err(Refusal::Leaves { leg, rollup });
    }
    if config.attesters.is_empty() {
        return Err(Refusal::NoAttesters { leg, rollup });
    }
    Ok(record)
}

/// Whether every transaction has an auth that somebody signed.
pub(super) fn auths(bundle: &AtomicBundle) -> Result<(), Refusal> {
    for (leg, seal) in bundle.terms().legs.iter().enumerate() {
        for (tx, sealed) in seal.txs.iter().enumerate() {
            if sealed.auth == EvmSignature::EMPTY {
                return Err(Refusal::AuthMissing { leg, tx });
            }
            let signer = bundle.signer(&sealed.tx_hash, &sealed.auth);
            signer.ok_or(Refusal::Auth { leg, tx })?;
        }
    }
    Ok(())
}

/// Whether these are the legs that the bundle has sealed, and their rollups can execute them. An auth
/// that is missing is not asked for.
pub(super) fn legs(
    bundle: &AtomicBundle,
    legs: &RevealLegs,
    rollups: &Rollups,
) -> Result<(), Refusal> {
    let seals = &bundle.terms().legs;
    let (sealed, given) = (seals.len(), legs.legs().len());
    if sealed != given {
        return Err(Refusal::Legs { sealed, given });
    }
    for (leg, (seal, raws)) in seals.iter().zip(legs.legs()).enumerate() {
        let (sealed, given) = (seal.txs.len(), raws.len());
        if sealed != given {
            return Err(Refusal::Transactions { leg, sealed, given });
        }
        let rollup = seal.rollup_id;
        let record = rollups.get(&rollup);
        let config = &record.ok_or(Refusal::UnknownRollup { leg, rollup })?.config;
        let (mut bytes, mut gas) = (0, 0_u64);
        for (tx, (sealed, raw)) in seal.txs.iter().zip(raws).enumerate() {
            if keccak(raw) != sealed.tx_hash {
                return Err(Refusal::Hash { leg, tx });
            }
            let read = LegTransaction::read(raw);
            let read = read.map_err(|why| Refusal::Transaction { leg, tx, why })?;
            let (given, expected) = (read.chain_id, config.evm_chain_id);
            if given != expected {
                return Err(Refusal::ChainId {
                    leg,
                    tx,
                    given,
                    expected,
                });
            }
            let signer = bundle.signer(&sealed.tx_hash, &sealed.auth);
            if sealed.auth != EvmSignature::EMPTY && signer != Some(read.sender) {
                return Err(Refusal::Sender { leg, tx });
            }
            bytes += raw.len();
            gas = gas.saturating_add(read.gas_limit);
            if read.gas_limit > config.max_tx_gas || !has_room(config, tx + 1, bytes, gas) {
                return Err(Refusal::Room { leg, tx });
            }
        }
    }
    Ok(())
}

/// Whether a leg leaves room for one more transaction, and is within the rollup's share of a block.
fn has_room(config: &RollupConfig, txs: usize, bytes: usize, gas: u64) -> bool {
    gas <= config.gas_limit.saturating_sub(config.max_tx_gas)
        && bytes <= config.max_bytes_per_block as usize
        && txs <= config.max_items_per_block as usize
}

#[cfg(test)]
mod tests {
    use counterpoint_core::{registry::RollupStatus, slot::SlotSecs};

    use super::*;
    use crate::atomic::testing::{CHAIN, NOW, Sample, rollups};

    const HEIGHT: Height = Height::new(10);

    fn judge(sample: &Sample, rollups: &Rollups, now: u64) -> String {
        let bundle = sample.bundle();
        let judged = super::bundle(&bundle, CHAIN, rollups, HEIGHT, now)
            .and_then(|()| auths(&bundle))
            .and_then(|()| {
                let raws = RevealLegs::new(bundle.id(), sample.legs.clone()).unwrap();
                legs(&bundle, &raws, rollups)
            });
        judged.map_or_else(|refusal| refusal.to_string(), |()| "ok".into())
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Sample, &mut Rollups), expect: &str) {
        let (mut sample, mut rollups) = (Sample::new(0), rollups());
        change(&mut sample, &mut rollups);
        let text = judge(&sample, &rollups, NOW);
        assert!(text.starts_with(expect), "{text}");
    }

    fn config(rollups: &mut Rollups, leg: usize) -> &mut RollupConfig {
        &mut rollups.values_mut().nth(leg).unwrap().config
    }

    #[test]
    fn each_rule_says_which_leg_and_which_transaction() {
        check(|_, _| (), "ok");
        check(
            |sample, _| sample.terms.chain_id = "other".into(),
            "the bundle is for chain other",
        );
        check(|_, rollups| drop(rollups.pop_first()), "leg 0: no rollup ");
        check(
            |_, rollups| config(rollups, 1).first_height = Height::new(12),
            "leg 1: rollup alpha starts at sequencer height 12",
        );
        check(
            |_, rollups| {
                config(rollups, 0).status = RollupStatus::Exiting(Height::new(99));
            },
            "leg 0: rollup beta is about to leave",
        );
        check(
            |_, rollups| config(rollups, 1).attesters.0 = None,
            "leg 1: rollup alpha has no attesters",
        );
        check(
            |sample, _| sample.terms.valid_until = NOW,
            "valid_until 1000 has passed: it is 1000",
        );
        check(
            |sample, rollups| {
                config(rollups, 0).slot_secs = SlotSecs::new(7).unwrap();
                config(rollups, 1).slot_secs = SlotSecs::new(60).unwrap();
                sample.terms.valid_until = NOW + 200;
            },
            "valid_until 1200: all its rollups open a block together at 1260",
        );
        check(
            |sample, _| {
                sample.terms.valid_from = NOW + 100;
                sample.terms.valid_until = NOW + 3_601;
            },
            "valid_until 4601 must be at most 4600",
        );
        let auth = |sample: &mut Sample, auth| sample.auths.push((1, 0, auth));
        check(
            |sample, _| auth(sample, EvmSignature::EMPTY),
            "leg 1, transaction 0: auth is missing",
        );
        check(
            |sample, _| auth(sample, EvmSignature::new([1; 65])),
            "leg 1, transaction 0: auth is no signature",
        );
    }

    #[test]
    fn legs_are_the_sealed_ones_and_have_room() {
        check(
            |sample, _| sample.legs.push(sample.legs[0].clone()),
            "legs: the bundle has 2, and 3",
        );
        check(
            |sample, _| {
                let raw = sample.legs[1][0].clone();
                sample.legs[1].push(raw);
            },
            "leg 1: 1 transactions are sealed, and 2",
        );
        check(
            |sample, _| sample.legs.swap(0, 1),
            "leg 0, transaction 0: another transaction",
        );
        check(
            |_, rollups| config(rollups, 1).evm_chain_id = 5,
            "leg 1, transaction 0: it is for chain id 1001, the rollup has 5",
        );
        check(
            |sample, _| sample.signer = 2,
            "leg 0, transaction 0: the auth is not by its sender",
        );
        check(
            |_, rollups| config(rollups, 0).max_tx_gas = 99_999,
            "leg 0, transaction 0: the rollup's block has no room",
        );
        check(
            |_, rollups| {
                let config = config(rollups, 1);
                (config.gas_limit, config.max_tx_gas) = (199_999, 100_000);
            },
            "leg 1, transaction 0: the rollup's block has no room",
        );
        check(
            |_, rollups| config(rollups, 0).max_bytes_per_block = 50,
            "leg 0, transaction 0: the rollup's block has no room",
        );
        check(
            |sample, _| sample.replace(1, 0, bytes::Bytes::from_static(&[3, 1])),
            "leg 1, transaction 0: it must be of type 0",
        );
    }
}
