//! Bad transactions, sent to the composer and to the pool of a geth of its own: both say the same.

use std::{fs, path::PathBuf};

use alloy_consensus::{
    SignableTransaction, TxEip1559, TxEip7702, TxEnvelope, TxLegacy,
    transaction::RlpEcdsaEncodableTx,
};
use alloy_eips::eip2718::Encodable2718;
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, keccak256, uint};
use counterpoint::devnet::{
    clients::Geth,
    ports,
    process::{Process, Spec},
    tools,
};
use serde_json::{Value, json};

use crate::support::{Network, receipt, say, wait_for};

/// The order of the curve.
const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// A geth that takes transactions in and makes no blocks. One account has executed one already.
struct Pool {
    process: Process,
    url: String,
    _directory: tempfile::TempDir,
}

impl Pool {
    async fn start(network: &Network, executed_one: Address) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (rollup, path) = (&network.info.rollups[0], |name| directory.path().join(name));
        let genesis = fs::read(network.layout().rollup_genesis(&rollup.name)).unwrap();
        let mut genesis: Value = serde_json::from_slice(&genesis).unwrap();
        let alloc = genesis["alloc"].as_object_mut().unwrap();
        let (_, account) = alloc
            .iter_mut()
            .find(|(address, _)| address.parse::<Address>().unwrap() == executed_one)
            .unwrap();
        account["nonce"] = json!("0x1");
        fs::write(path("genesis.json"), genesis.to_string()).unwrap();
        fs::write(path("jwt"), "73".repeat(32)).unwrap();
        let port = || ports::free().unwrap().local_addr().unwrap().port();
        let geth = Geth {
            data: path("data"),
            jwt: path("jwt"),
            chain_id: rollup.evm_chain_id,
            gas_limit: 30_000_000,
            engine: port(),
            ipc: path("ipc"),
        };
        let (program, rpc) = (tools::GETH.install(&say).unwrap(), port());
        geth.init(&program, &path("genesis.json")).unwrap();
        let pool = ["--txpool.pricelimit", "1", "--rpc.txfeecap", "0"].map(str::to_owned);
        let spec = Spec {
            name: "pool".into(),
            program,
            args: geth.args(Some(rpc)).into_iter().chain(pool).collect(),
            log: path("log"),
        };
        let launcher = PathBuf::from(env!("CARGO_BIN_EXE_counterpoint-under-test"));
        let mut process = Process::new(spec, &launcher);
        process.start().unwrap();
        let pool = Self {
            process,
            url: format!("http://127.0.0.1:{rpc}"),
            _directory: directory,
        };
        wait_for("geth's answer", || async { pool.ask("0x").await.ok() }).await;
        pool
    }

    /// The error that geth has for a transaction, if it has one; without more than code and message.
    async fn ask(&self, raw: &str) -> reqwest::Result<Value> {
        ask(&self.url, raw).await
    }
}

async fn ask(url: &str, raw: &str) -> reqwest::Result<Value> {
    let request = json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw],
    });
    let sent = reqwest::Client::new().post(url).json(&request).send();
    let answer: Value = sent.await?.json().await?;
    let error = &answer["error"];
    Ok(json!({ "code": error["code"], "message": error["message"] }))
}

fn sign<T>(network: &Network, account: usize, mut tx: T) -> Bytes
where
    T: SignableTransaction<Signature> + RlpEcdsaEncodableTx,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = network.signer(account).sign_transaction_sync(&mut tx);
    let signed = tx.into_signed(signature.unwrap());
    TxEnvelope::from(signed).encoded_2718().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_geth() {
    let network = Network::start(1, 1).await;
    let chain_id = network.info.rollups[0].evm_chain_id;
    let good = || TxEip1559 {
        chain_id,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0x77)),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    let first = sign(&network, 0, good());
    let sent = network
        .rpc(0, "eth_sendRawTransaction", json!([first]))
        .await;
    assert_eq!(sent, Ok(json!(keccak256(&first))));
    receipt(&network.geth(0), keccak256(&first)).await;
    let mut pool = Pool::start(&network, network.address(0)).await;

    let change = |change: fn(&mut TxEip1559)| {
        let mut tx = good();
        change(&mut tx);
        sign(&network, 1, tx)
    };
    let valid = change(|_| {});
    let mut high = good();
    let signature = network.signer(1).sign_transaction_sync(&mut high).unwrap();
    let high = Signature::new(signature.r(), ORDER - signature.s(), !signature.v());
    let unprotected = TxLegacy {
        gas_limit: 21_000,
        gas_price: 100_000_000_000,
        ..TxLegacy::default()
    };
    let no_authorization = TxEip7702 {
        chain_id,
        gas_limit: 100_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        ..TxEip7702::default()
    };
    let cases = [
        (
            "nonce too low",
            sign(
                &network,
                0,
                TxEip1559 {
                    value: U256::ZERO,
                    ..good()
                },
            ),
        ),
        ("nonce has max value", change(|tx| tx.nonce = u64::MAX)),
        ("intrinsic gas", change(|tx| tx.gas_limit = 20_999)),
        (
            "floor data gas",
            change(|tx| (tx.input, tx.gas_limit) = (vec![1; 1_000].into(), 40_000)),
        ),
        ("above the block", change(|tx| tx.gas_limit = 30_000_001)),
        (
            "tip above cap",
            change(|tx| tx.max_priority_fee_per_gas = tx.max_fee_per_gas + 1),
        ),
        ("underpriced", change(|tx| tx.max_priority_fee_per_gas = 0)),
        ("chain id", change(|tx| tx.chain_id += 1)),
        (
            "funds",
            change(|tx| tx.value = U256::from(2_000_000) * uint!(1_000_000_000_000_000_000_U256)),
        ),
        (
            "initcode",
            change(|tx| {
                (tx.to, tx.gas_limit) = (TxKind::Create, 7_000_000);
                tx.input = vec![1; 49_153].into();
            }),
        ),
        (
            "oversized",
            change(|tx| (tx.input, tx.gas_limit) = (vec![1; 131_072].into(), 7_000_000)),
        ),
        ("empty 7702 list", sign(&network, 1, no_authorization)),
        ("unprotected", sign(&network, 1, unprotected)),
        (
            "high s",
            TxEnvelope::from(good().into_signed(high))
                .encoded_2718()
                .into(),
        ),
        ("unknown type", Bytes::from_static(&[0x05, 0xc0])),
        ("only a type", Bytes::from_static(&[0x02])),
        ("nothing", Bytes::new()),
        ("no list", Bytes::from_static(&[0x80, 0xc0])),
        ("cut short", valid.slice(..valid.len() - 1)),
        ("one byte more", [&valid[..], &[0]].concat().into()),
    ];
    let url = &network.info.rollups[0].composer_rpc;
    let mut differences = Vec::new();
    for (what, raw) in cases {
        let raw = raw.to_string();
        let (ours, geth) = (ask(url, &raw).await.unwrap(), pool.ask(&raw).await.unwrap());
        assert_ne!(geth["code"], json!(null), "{what}: geth takes it");
        if ours != geth {
            differences.push(format!("{what}: {ours} instead of {geth}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");

    // Where we differ on purpose: docs/composer-errors.md.
    let again = network
        .rpc(0, "eth_sendRawTransaction", json!([first]))
        .await;
    assert_eq!(
        again,
        Ok(json!(keccak256(&first))),
        "sent again, acknowledged again"
    );
    let cheap = change(|tx| (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (1, 1));
    let refused = ask(url, &cheap.to_string()).await.unwrap();
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("max fee per gas less than block base fee"),
        "{message}"
    );
    let long = change(|tx| tx.gas_limit = 7_500_001);
    let refused = ask(url, &long.to_string()).await.unwrap();
    let message = "transaction gas limit too high (cap: 7500000, tx: 7500001)";
    assert_eq!(refused["message"], message);
    let blob = ask(url, "0x03c0").await.unwrap();
    assert_eq!(blob["message"], "transaction type not supported");

    pool.process.kill().await.unwrap();
    network.stop().await;
}
