use serde_json::json;

/// A transfer that its sender has signed for the chain that is played.
const RAW: &str = "0x02f86b8203e980830f4240843b9aca00825208944343434343434343434343434343434343434343\
                   0180c001a039dfacede355c420927522753c8edd0c69d8704fa5dd0598c5edef0cfbd0630ba02724\
                   7d7b76b6cf87fb0b385f06c5b7d5365b0132f81dbde324de1da5505dedf6";

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let call = |id, method: &str, params| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let filter =
        json!([{ "fromBlock": "0x1", "toBlock": "latest", "address": [], "topics": [null] }]);
    let calls = [
        call(json!(1), "eth_sendRawTransaction", json!([RAW])),
        call(
            json!("two"),
            "eth_sendRawTransactionSync",
            json!([RAW, "0x10"]),
        ),
        call(
            json!(null),
            "eth_call",
            json!([{ "nonce": "0x7" }, "pending"]),
        ),
        call(json!(4), "eth_getLogs", filter),
        call(
            json!(5),
            "eth_sendBundle",
            json!([{ "txs": [RAW], "revertingTxHashes": [] }]),
        ),
        json!({ "jsonrpc": "2.0", "method": "eth_chainId" }),
        json!({ "jsonrpc": "2.0", "id": {}, "method": 7 }),
    ];
    let batch = json!(calls);
    calls
        .iter()
        .chain([&batch])
        .map(|body| body.to_string().into())
        .collect()
}

pub(crate) fn run(data: &[u8]) {
    counterpoint_composer::read_body(data);
}
