//! `eth_sendBundle`: what of its parameters can be honoured, when the order is made before execution.

use alloy_primitives::{B256, Bytes, keccak256};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::RpcError;

/// The transactions of a bundle, every parameter beside them being one that is honoured.
///
/// # Errors
/// [`RpcError`] names the parameter that is not, and why.
pub(super) fn parse(params: Value) -> Result<Vec<Bytes>, RpcError> {
    let Ok((mut bundle,)) = serde_json::from_value::<(Map<String, Value>,)>(params) else {
        return Err(RpcError::invalid_params("one object with txs is expected"));
    };
    bundle.retain(|_, value| !value.is_null());
    let txs: Vec<Bytes> = take(&mut bundle, "txs")?.unwrap_or_default();
    let reverting: Option<Vec<B256>> = take(&mut bundle, "revertingTxHashes")?;
    let may_revert = |tx: &Bytes| {
        let hash = keccak256(tx);
        reverting.iter().flatten().any(|listed| *listed == hash)
    };
    if !txs.iter().all(may_revert) {
        let why = "must list every transaction: the order is final before execution, so that none \
                   can be left out because it reverts or is skipped";
        return refuse("revertingTxHashes", why);
    }
    for (key, value) in &bundle {
        match key.as_str() {
            "blockNumber" => {
                return refuse(
                    key,
                    "no block can be promised: leave it out, and the next one takes it",
                );
            }
            "minTimestamp" | "maxTimestamp" if *value == 0 || value == "0x0" => {}
            "minTimestamp" | "maxTimestamp" => {
                return refuse(
                    key,
                    "the time of a block is not known when the order is made",
                );
            }
            "droppingTxHashes" if value.as_array().is_some_and(Vec::is_empty) => {}
            "droppingTxHashes" => return refuse(key, "a bundle is ordered as a whole"),
            "replacementUuid" | "uuid" => return refuse(key, "a bundle is not replaced"),
            _ => return refuse(key, "it is not supported"),
        }
    }
    Ok(txs)
}

fn take<T: DeserializeOwned>(
    bundle: &mut Map<String, Value>,
    key: &str,
) -> Result<Option<T>, RpcError> {
    let value = bundle.remove(key).map(serde_json::from_value).transpose();
    value.map_err(|error| RpcError::invalid_params(format!("{key}: {error}")))
}

fn refuse<T>(key: &str, why: &str) -> Result<T, RpcError> {
    Err(RpcError::invalid_params(format!("{key}: {why}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Map<String, Value>), expect: &str) {
        let mut bundle = Map::new();
        bundle.insert("txs".into(), json!(["0x01", "0x02"]));
        let hashes = [keccak256([1]), keccak256([2])];
        bundle.insert("revertingTxHashes".into(), json!(hashes));
        change(&mut bundle);
        match parse(json!([bundle])) {
            Ok(txs) => assert_eq!((txs.len(), "ok"), (2, expect)),
            Err(error) => {
                let error = error.into_value();
                let message = error["message"].as_str().unwrap();
                assert_eq!(error["code"], -32_602);
                assert!(message.starts_with(expect), "{message}");
            }
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        check(|_| (), "ok");
        for (key, value) in [
            ("blockNumber", json!("0x7")),
            ("minTimestamp", json!(1)),
            ("maxTimestamp", json!(1)),
            ("droppingTxHashes", json!([B256::ZERO])),
            ("replacementUuid", json!("a")),
            ("refundPercent", json!(9)),
            ("revertingTxHashes", json!([keccak256([1])])),
            ("revertingTxHashes", json!("all")),
            ("txs", json!([1])),
        ] {
            let expect = format!("{key}: ");
            check(
                |bundle| {
                    bundle.insert(key.into(), value);
                },
                &expect,
            );
        }
        check(
            |bundle| {
                for key in ["minTimestamp", "maxTimestamp"] {
                    bundle.insert(key.into(), json!(0));
                }
                bundle.insert("droppingTxHashes".into(), json!([]));
                bundle.insert("blockNumber".into(), Value::Null);
            },
            "ok",
        );
        assert!(parse(json!([])).is_err() && parse(json!({})).is_err());
    }
}
