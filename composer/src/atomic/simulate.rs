//! What execution clients say of legs now. It is advice: attesters decide, on the state before the slot.

use std::collections::BTreeMap;

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::Log;
use bytes::Bytes;
use counterpoint_contracts::Mail;
use counterpoint_core::{
    action::RevealLegs,
    atomic::{AtomicBundle, inbox_hash, sender, ticket},
    primitive::RollupId,
};
use serde_json::{Value, json};

use super::{Site, show};
use crate::upstream::UpstreamError;

/// Why a leg fails that tells the others something else than was agreed.
const MISMATCH: &str = "its messages to or from other legs are not those of the bundle";

/// What becomes of each leg at the client of its rollup, if that is served here.
pub(super) async fn run(
    bundle: &AtomicBundle,
    legs: &RevealLegs,
    sites: &BTreeMap<RollupId, Site>,
) -> Value {
    let (mut shown, mut failure) = (Vec::new(), Value::Null);
    let mut all = true;
    for (leg, (rollup, raws)) in bundle.rollups().iter().zip(legs.legs()).enumerate() {
        let Some(site) = sites.get(rollup) else {
            all = false;
            let reason = "this composer does not serve the rollup";
            shown.push(json!({ "rollupId": show::hex(rollup), "reason": reason }));
            continue;
        };
        let mut outcome = simulate(bundle, *rollup, raws, site).await;
        outcome["rollup"] = site.name.clone().into();
        if failure.is_null() && outcome["failed"].is_number() {
            failure = json!({
                "leg": leg, "rollup": site.name,
                "transaction": outcome["failed"], "reason": outcome["reason"],
            });
        }
        all &= outcome["transactions"].is_array();
        shown.push(outcome);
    }
    json!({
        "bundleId": show::hex(bundle.id()),
        "success": failure.is_null() && all,
        "failure": failure,
        "legs": shown,
    })
}

/// One leg: its transactions in order, in a block with the bundle's ticket.
async fn simulate(bundle: &AtomicBundle, rollup: RollupId, raws: &[Bytes], site: &Site) -> Value {
    let terms = bundle.terms();
    let inbox = inbox_hash(&rollup, &terms.messages);
    let ticket = ticket(&terms.chain_id, &rollup, &bundle.session_id(), &inbox);
    let calls: Vec<Value> = raws.iter().map(call).collect();
    // A call that is no transaction at all fails the whole request: then the shortest run that does
    // names it.
    let answer = ask(site, show::hex(ticket), &calls).await;
    let results = match answer {
        Err(UpstreamError::Rpc(error)) => {
            let mut failed = 0;
            while failed + 1 < calls.len()
                && ask(site, show::hex(ticket), &calls[..=failed])
                    .await
                    .is_ok()
            {
                failed += 1;
            }
            return json!({ "failed": failed, "reason": error["message"] });
        }
        Err(error) => return json!({ "reason": error.to_string() }),
        Ok(answer) => answer[0]["calls"].as_array().cloned().unwrap_or_default(),
    };
    let txs = results.iter().map(|result| {
        json!({
            "success": result["status"] == "0x1",
            "gasUsed": result["gasUsed"],
            "error": result["error"],
        })
    });
    let mut shown = json!({ "transactions": txs.collect::<Vec<_>>() });
    if let Some((failed, reason)) = failure(&results, Mail::expected(&rollup, &terms.messages)) {
        shown["failed"] = json!(failed);
        shown["reason"] = reason.into();
    }
    shown
}

/// The first transaction for which a leg cannot be executed, and why; the last one if messages are missing
/// at the end.
fn failure(results: &[Value], mut mail: Mail) -> Option<(usize, String)> {
    for (at, result) in results.iter().enumerate() {
        if result["status"] != "0x1" {
            let message = result["error"]["message"].as_str();
            return Some((at, message.unwrap_or("it fails").into()));
        }
        let logs: Vec<Log> = serde_json::from_value(result["logs"].clone()).unwrap_or_default();
        if !mail.deliver(&logs) {
            return Some((at, MISMATCH.into()));
        }
    }
    let last = results.len().saturating_sub(1);
    (!mail.is_complete()).then(|| (last, MISMATCH.into()))
}

async fn ask(site: &Site, ticket: String, calls: &[Value]) -> Result<Value, UpstreamError> {
    let options = json!({
        "blockStateCalls": [{ "blockOverrides": { "beaconRoot": ticket }, "calls": calls }],
        "validation": true,
    });
    site.upstream
        .call("eth_simulateV1", &json!([options, "latest"]))
        .await
}

/// A raw transaction as a call.
fn call(raw: &Bytes) -> Value {
    let Ok(tx) = TxEnvelope::decode_2718_exact(raw) else {
        return Value::Null;
    };
    let quantity = |number: u128| format!("{number:#x}");
    let mut call = json!({
        "from": sender(raw), "to": tx.to(), "input": tx.input(), "value": tx.value(),
        "nonce": quantity(tx.nonce().into()), "gas": quantity(tx.gas_limit().into()),
    });
    if let Some(list) = tx.access_list() {
        call["accessList"] = json!(list);
    }
    match tx.max_priority_fee_per_gas() {
        Some(tip) => {
            call["maxFeePerGas"] = quantity(tx.max_fee_per_gas()).into();
            call["maxPriorityFeePerGas"] = quantity(tip).into();
        }
        None => call["gasPrice"] = quantity(tx.max_fee_per_gas()).into(),
    }
    call
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use alloy_sol_types::SolEvent;
    use counterpoint_contracts::{IAtomicMailbox::MessageSent, MAILBOX};
    use counterpoint_core::{atomic::Message, primitive::EvmAddress};

    use super::*;

    #[test]
    fn legs_must_say_what_was_agreed() {
        let [src, dst] = ["alpha", "beta"].map(RollupId::from_name);
        let message = Message {
            src,
            dst,
            index: 0,
            sender: EvmAddress::new([1; 20]),
            receiver: EvmAddress::new([2; 20]),
            data: Bytes::from_static(b"hello"),
        };
        let sent = |hash: B256| {
            let topics = [MessageSent::SIGNATURE_HASH, B256::ZERO, hash];
            let log = json!({ "address": MAILBOX, "topics": topics, "data": "0x" });
            json!({ "status": "0x1", "logs": [log] })
        };
        let right = sent(B256::new(*message.hash().as_bytes()));
        let (silent, wrong) = (json!({ "status": "0x1", "logs": [] }), sent(B256::ZERO));
        let reverted = json!({ "status": "0x0", "error": { "message": "execution reverted" } });
        let messages = [message];
        let check = |results: &[&Value]| {
            let results: Vec<_> = results.iter().map(|result| (*result).clone()).collect();
            failure(&results, Mail::expected(&src, &messages))
        };
        let mismatch = |at| Some((at, MISMATCH.to_owned()));
        assert_eq!(check(&[&silent, &right, &silent]), None);
        assert_eq!(check(&[&silent, &silent]), mismatch(1));
        assert_eq!(check(&[&right, &right, &silent]), mismatch(1));
        assert_eq!(check(&[&wrong, &right]), mismatch(0));
        let (at, why) = check(&[&right, &reverted]).unwrap();
        assert_eq!((at, why.as_str()), (1, "execution reverted"));
    }
}
