//! What execution clients say of legs now. It is advice: attesters decide, on the state before the slot.

use std::collections::BTreeMap;

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use bytes::Bytes;
use counterpoint_core::{
    action::RevealLegs,
    atomic::{AtomicBundle, inbox_hash, sender, ticket},
    primitive::RollupId,
};
use serde_json::{Value, json};

use super::{Site, show};
use crate::upstream::UpstreamError;

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
    let (answer, failed) = match answer {
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
        Ok(answer) => {
            let results = answer[0]["calls"].as_array().cloned().unwrap_or_default();
            let failed = results.iter().position(|result| result["status"] != "0x1");
            (results, failed)
        }
    };
    let txs = answer.iter().map(|result| {
        json!({
            "success": result["status"] == "0x1",
            "gasUsed": result["gasUsed"],
            "error": result["error"],
        })
    });
    let mut shown = json!({ "transactions": txs.collect::<Vec<_>>() });
    if let Some(failed) = failed {
        let message = &answer[failed]["error"]["message"];
        shown["failed"] = json!(failed);
        shown["reason"] = message.as_str().unwrap_or("it fails").into();
    }
    shown
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
