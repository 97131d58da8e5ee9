//! What the chain has, as the page shows it.

use std::collections::BTreeMap;

use counterpoint_core::{
    block::RollupItem,
    primitive::{Hash, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    state::{BundleStatus, RollupRecord},
};
use serde_json::{Value, json};
use sha3::{Digest, Keccak256};

use crate::{bundles::Entry, proof::hex};

/// Rollups by their names.
pub(crate) type Names = BTreeMap<RollupId, String>;

/// A rollup with its terms.
pub(crate) fn rollup(record: &RollupRecord, queued_deposits: u64) -> Value {
    let config = &record.config;
    json!({
        "name": config.name,
        "rollup_id": config.rollup_id,
        "terms": terms(config),
        "attesters": attesters(config),
        "pending": record.pending.as_ref().map(|pending| json!({
            "from": pending.from,
            "terms": terms(&pending.config),
        })),
        "deposit": record.deposit.to_string(),
        "paid_until": (record.paid_until.get() != u64::MAX).then_some(record.paid_until),
        "queued_deposits": queued_deposits,
    })
}

fn terms(config: &RollupConfig) -> Value {
    json!({
        "evm_chain_id": config.evm_chain_id.to_string(),
        "first_height": config.first_height,
        "slot_secs": config.slot_secs,
        "gas_limit": config.gas_limit,
        "max_tx_gas": config.max_tx_gas,
        "min_tip_wei": config.min_tip_wei.to_string(),
        "max_bytes_per_block": config.max_bytes_per_block,
        "max_items_per_block": config.max_items_per_block,
        "tip_share_bps": config.tip_share_bps,
        "allow_unprotected": config.allow_unprotected,
        "owner": config.owner,
        "fee_recipient": config.fee_recipient,
        "config_hash": config.hash(),
        "exit": match config.status {
            RollupStatus::Active => None,
            RollupStatus::Exiting(from) => Some(from),
        },
    })
}

fn attesters(config: &RollupConfig) -> Value {
    let Some(set) = &config.attesters.0 else {
        return Value::Null;
    };
    json!({
        "epoch": set.epoch,
        "threshold": set.members.threshold(),
        "keys": set.members.keys(),
    })
}

/// What an item is, without most of it.
pub(crate) fn item(index: u32, item: &RollupItem) -> Value {
    match item {
        RollupItem::Transaction(raw) => json!({
            "index": index, "kind": "transaction", "hash": item_hash(raw), "bytes": raw.len(),
        }),
        RollupItem::Deposit {
            index: deposit,
            address,
            amount_gwei,
        } => json!({
            "index": index, "kind": "deposit", "deposit": deposit.to_string(),
            "address": address, "amount_gwei": amount_gwei.to_string(),
        }),
        RollupItem::Leg { bundle_id, raw } => json!({
            "index": index, "kind": "leg", "hash": item_hash(raw), "bytes": raw.len(),
            "bundle_id": bundle_id,
        }),
    }
}

/// The hash by which wallets know a transaction.
fn item_hash(raw: &[u8]) -> String {
    hex(Keccak256::digest(raw))
}

/// The height whose lists have the legs of a bundle, if any have.
pub(crate) fn released_at(entry: &Entry) -> Option<Height> {
    entry.record.release.as_ref()?.pin.height.next()
}

/// A bundle with its legs and how it came to where it is.
pub(crate) fn bundle(entry: &Entry, names: &Names) -> Value {
    let Entry { id, record, stages } = entry;
    let name = |id: &RollupId| names.get(id).cloned();
    let legs = record.legs.iter().enumerate().map(|(place, leg)| {
        let release = record.release.as_ref();
        let released = release.and_then(|release| release.legs.get(place));
        json!({
            "rollup": name(&leg.rollup_id),
            "rollup_id": leg.rollup_id,
            "transactions": leg.txs,
            "bytes": leg.bytes,
            "gas": leg.gas,
            "block_number": released.map(|leg| leg.block_number),
            "receipts_hash": released.map(|leg| leg.receipts_hash),
            "confirmed": released.map(|leg| leg.confirmed),
        })
    });
    let reason = match &record.status {
        BundleStatus::Aborted(reason) => {
            let reason = reason.explain(|id| name(id).unwrap_or_else(|| id.to_string()));
            Some(reason)
        }
        _ => None,
    };
    let scheduled = match &record.status {
        BundleStatus::Scheduled(at) => Some(at),
        _ => None,
    };
    json!({
        "bundle_id": id,
        "stage": record.status.to_string(),
        "reason": reason,
        "scheduled_for": scheduled,
        "sealed_at": record.height,
        "released_at": released_at(entry),
        "submitter": record.submitter,
        "valid_from": record.valid_from,
        "valid_until": record.valid_until,
        "attempts_left": record.attempts_left,
        "tip_per_attempt": record.tip_per_attempt.to_string(),
        "stages": stages,
        "legs": legs.collect::<Vec<_>>(),
    })
}

/// The items of a list that belong to a bundle.
pub(crate) fn legs_of(bundle: &Hash, items: &[RollupItem]) -> Vec<Value> {
    let of_bundle = |(_, one): &(usize, &RollupItem)| matches!(one, RollupItem::Leg { bundle_id, .. } if bundle_id == bundle);
    let shown =
        |(index, one): (usize, &RollupItem)| item(u32::try_from(index).unwrap_or(u32::MAX), one);
    items
        .iter()
        .enumerate()
        .filter(of_bundle)
        .map(shown)
        .collect()
}
