//! Bundles as callers see them.

use std::{collections::BTreeMap, fmt::Display};

use counterpoint_core::{
    primitive::{Hash, Height, RollupId},
    state::{AbortReason, BundleRecord, BundleStatus},
};
use counterpoint_proto::sequencer::GetStateProofResponse;
use serde_json::{Map, Value, json};

use super::{Site, store::Entry};

/// Stages from which on nothing changes.
pub(super) const FINAL: [&str; 5] = ["executed", "unconfirmed", "violated", "aborted", "refused"];

type Sites = BTreeMap<RollupId, Site>;

/// What is 32 bytes, as wallets write it.
pub(super) fn hex(hash: impl Display) -> String {
    format!("0x{hash}")
}

/// A bundle that was sent here.
pub(super) fn entry(entry: &Entry, sites: &Sites) -> Value {
    let (id, terms) = (entry.bundle.id(), entry.bundle.terms());
    let mut shown = match &entry.known {
        Some((known, height)) => record(id, known, *height, sites),
        None => json!({
            "bundleId": hex(id),
            "stage": "accepted",
            "validFrom": terms.valid_from,
            "validUntil": terms.valid_until,
            "attemptsLeft": terms.max_attempts,
            "tipPerAttempt": terms.tip_per_attempt,
            "legs": terms.legs.iter().map(|leg| named(leg.rollup_id, sites)).collect::<Vec<_>>(),
        }),
    };
    if let Some(why) = &entry.refused {
        (shown["stage"], shown["reason"]) = ("refused".into(), why.as_str().into());
    }
    if let Some(trouble) = &entry.trouble {
        shown["trouble"] = trouble.as_str().into();
    }
    shown["revealed"] = json!(
        entry
            .status()
            .is_some_and(|status| status != BundleStatus::Sealed)
            || entry.legs.is_some()
    );
    let stages = entry.stages.iter();
    let stages =
        stages.map(|(status, height)| json!({ "stage": status.to_string(), "height": height }));
    shown["stages"] = stages.collect();
    let legs = shown["legs"].as_array_mut().into_iter().flatten();
    for (leg, seal) in legs.zip(&terms.legs) {
        let txs = seal.txs.iter().map(|tx| {
            let signer = entry.bundle.signer(&tx.tx_hash, &tx.auth);
            json!({ "hash": hex(tx.tx_hash), "signer": signer })
        });
        leg["transactions"] = txs.collect();
    }
    shown
}

/// What the state has of a bundle.
pub(super) fn record(id: Hash, record: &BundleRecord, height: Height, sites: &Sites) -> Value {
    let legs = record.legs.iter().enumerate().map(|(place, leg)| {
        let mut shown = named(leg.rollup_id, sites);
        let released = record
            .release
            .as_ref()
            .and_then(|release| release.legs.get(place));
        if let Some(released) = released {
            shown["blockNumber"] = json!(released.block_number);
            shown["receiptsHash"] = json!(hex(released.receipts_hash));
            shown["confirmed"] = json!(released.confirmed);
        }
        shown
    });
    let mut shown = json!({
        "bundleId": hex(id),
        "stage": record.status.to_string(),
        "asOf": height,
        "sealedAt": record.height,
        "submitter": record.submitter,
        "validFrom": record.valid_from,
        "validUntil": record.valid_until,
        "attemptsLeft": record.attempts_left,
        "tipPerAttempt": record.tip_per_attempt,
        "legs": legs.collect::<Vec<_>>(),
    });
    match record.status {
        BundleStatus::Scheduled(at) => shown["scheduledFor"] = json!(at),
        BundleStatus::Aborted(reason) => {
            shown["reason"] = json!(reason.explain(|id| site_name(id, sites)));
            if let AbortReason::Attested {
                rollup_id,
                tx,
                failure,
            } = reason
            {
                let leg = record
                    .legs
                    .iter()
                    .position(|leg| leg.rollup_id == rollup_id);
                let failure = failure.to_string();
                shown["failure"] = json!({ "leg": leg, "transaction": tx, "failure": failure });
            }
        }
        _ => {}
    }
    if let Some(release) = &record.release {
        shown["releasedAt"] = json!(release.pin.height.get().saturating_add(1));
    }
    shown
}

fn site_name(id: &RollupId, sites: &Sites) -> String {
    let site = sites.get(id);
    site.map_or_else(|| hex(id), |site| site.name.clone())
}

fn named(id: RollupId, sites: &Sites) -> Value {
    let mut shown = Map::new();
    if let Some(site) = sites.get(&id) {
        shown.insert("rollup".into(), site.name.clone().into());
    }
    shown.insert("rollupId".into(), hex(id).into());
    shown.into()
}

/// A proof as a node gives it, for whoever verifies it.
pub(super) fn proof(answer: &GetStateProofResponse) -> Value {
    let hex = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
    json!({
        "height": answer.height,
        "stateProof": hex(&answer.borsh_proof),
        "signedHeader": hex(&answer.signed_header),
        "validators": hex(&answer.validators),
    })
}
