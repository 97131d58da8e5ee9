//! The whole road on one validator and two rollups: everything that a user does.

use alloy_eips::{BlockNumberOrTag, eip7702::Authorization};
use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, B256, U256, address, hex, keccak256};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionRequest;
use alloy_signer::SignerSync;
use bytes::Bytes;
use counterpoint_core::{
    action::{Action, Deposit, SubmitData, Transfer},
    cursor::ExtraData,
    primitive::{Address as SequencerAddress, Amount, EvmAddress},
};
use counterpoint_service::sequencer::Follower;
use serde_json::json;

use crate::support::{Network, raw_transfer, receipt, sequence, wait_for};

/// Init code of a contract that returns 42 to any call and stores it at slot 0 when deployed.
const ANSWER: &str = "602a600055600a6011600039600a6000f3602a60005260206000f3";

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_reaches_two_unmodified_geths() {
    let network = Network::start(1, 2).await;
    transfers_on_both_rollups(&network).await;
    contracts_deploy_and_answer(&network).await;
    state_is_the_clients_state(&network).await;
    deposits_arrive_once(&network).await;
    invalid_items_are_skipped_with_reasons(&network).await;
    bad_input_is_refused_and_nothing_dies(&network).await;
    every_block_is_proven_from_genesis(&network).await;
    heads_carry_the_cursor(&network).await;
    network.stop().await;
}

async fn transfers_on_both_rollups(network: &Network) {
    for rollup in 0..2 {
        let (wallet, geth) = (network.wallet(rollup, 0), network.geth(rollup));
        let to = Address::repeat_byte(0x11);
        let request = TransactionRequest::default()
            .with_to(to)
            .with_value(U256::from(12_345));
        let sent = wallet.send_transaction(request).await.unwrap();
        let hash = *sent.tx_hash();
        assert!(receipt(&geth, hash).await.status());
        assert_eq!(geth.get_balance(to).await.unwrap(), U256::from(12_345));
        let status = wait_for("status executed", || async {
            Some(network.status(rollup, hash).await).filter(|status| status["status"] == "executed")
        })
        .await;
        assert_eq!(status["success"], true);
    }
}

async fn contracts_deploy_and_answer(network: &Network) {
    let wallet = network.wallet(0, 1);
    let code = hex::decode(ANSWER).unwrap();
    let deploy = TransactionRequest::default().with_deploy_code(code);
    let hash = *wallet.send_transaction(deploy).await.unwrap().tx_hash();
    let deployed = receipt(&network.geth(0), hash).await;
    assert!(deployed.status());
    let contract = deployed.contract_address.unwrap();
    // Read back through the composer, as a wallet does.
    let answer = wallet
        .call(TransactionRequest::default().with_to(contract))
        .await
        .unwrap();
    assert_eq!(U256::from_be_slice(&answer), U256::from(42));
    assert_eq!(
        wallet.get_storage_at(contract, U256::ZERO).await.unwrap(),
        U256::from(42)
    );
}

/// A contract that stores its second argument at its first, and one that sends its balance to
/// nobody while it is being created, so that it never exists.
const WRITER: &str = "6007600c60003960076000f360203560003555";
const GONE_AT_BIRTH: &str = "60016000556000ff";

/// Blocks with storage set, changed and cleared, contracts that die at birth, a delegation that is
/// set and used, and system contracts that are read: geth computes every root anew.
pub(crate) async fn state_is_the_clients_state(network: &Network) {
    let (wallet, geth) = (network.wallet(0, 3), network.geth(0));
    let run = async |request: TransactionRequest| {
        let request = request.with_gas_limit(1_000_000);
        let hash = *wallet.send_transaction(request).await.unwrap().tx_hash();
        receipt(&geth, hash).await
    };
    let deploy =
        |code: &str| TransactionRequest::default().with_deploy_code(hex::decode(code).unwrap());
    let writer = run(deploy(WRITER)).await.contract_address.unwrap();
    let write = |slot: u64, value: u64| {
        let data = [B256::from(U256::from(slot)), B256::from(U256::from(value))].concat();
        TransactionRequest::default()
            .with_to(writer)
            .with_input(data)
    };
    for (slot, value) in [
        (1, 7),
        (2, 8),
        (3, 9),
        (2, 0),
        (1, 5),
        (3, 0),
        (1, 0),
        (9, 1),
    ] {
        assert!(run(write(slot, value)).await.status());
    }
    let at = async |slot: u64| geth.get_storage_at(writer, U256::from(slot)).await.unwrap();
    assert_eq!((at(1).await, at(9).await), (U256::ZERO, U256::from(1)));
    let born = run(deploy(GONE_AT_BIRTH).with_value(U256::from(5))).await;
    assert!(
        geth.get_code_at(born.contract_address.unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    let beacon = address!("000F3df6D732807Ef1319fB7B8bB8522d0Beac02");
    let latest = geth
        .get_block_by_number(BlockNumberOrTag::Latest)
        .await
        .unwrap()
        .unwrap();
    let asked = B256::from(U256::from(latest.header.timestamp));
    let ask = TransactionRequest::default()
        .with_to(beacon)
        .with_input(asked.to_vec());
    let root = geth.call(ask).await.unwrap();
    assert_eq!(
        root[..],
        latest.header.parent_beacon_block_root.unwrap()[..]
    );
    // An account that delegates to the writer becomes one.
    let signer = network.signer(4);
    let authorization = Authorization {
        chain_id: U256::from(network.info.rollups[0].evm_chain_id),
        address: writer,
        nonce: 0,
    };
    let signature = signer
        .sign_hash_sync(&authorization.signature_hash())
        .unwrap();
    let mut delegate = write(4, 2).with_to(signer.address());
    delegate.authorization_list = Some(vec![authorization.into_signed(signature)]);
    assert!(run(delegate).await.status());
    let stored = geth
        .get_storage_at(signer.address(), U256::from(4))
        .await
        .unwrap();
    assert_eq!(stored, U256::from(2));
}

async fn deposits_arrive_once(network: &Network) {
    let to = EvmAddress::new([0x22; 20]);
    let id = network.info.rollups[1].rollup_id;
    let deposit = Deposit::new(id, to, 25_000_000).unwrap();
    let transfer = Transfer {
        to: SequencerAddress::new([3; 20]),
        amount: Amount::new(1_000_000),
    };
    let inclusion = sequence(
        network,
        vec![
            Action::Deposit(deposit.clone()),
            Action::Transfer(transfer),
            Action::Deposit(deposit),
        ],
    )
    .await;
    assert_eq!(inclusion.code, 0);
    let geth = network.geth(1);
    let balance = wait_for("the deposit on the rollup", || async {
        let balance = geth.get_balance(Address::new([0x22; 20])).await.unwrap();
        (!balance.is_zero()).then_some(balance)
    })
    .await;
    assert_eq!(
        balance,
        U256::from(2 * 25_000_000_u64) * U256::from(1_000_000_000_u64)
    );
    let latest = geth.get_block_number().await.unwrap();
    let mut withdrawals = Vec::new();
    for number in 1..=latest {
        let block = geth
            .get_block_by_number(number.into())
            .await
            .unwrap()
            .unwrap();
        withdrawals.extend(block.withdrawals.unwrap_or_default().into_inner());
    }
    let arrived: Vec<_> = withdrawals
        .iter()
        .map(|withdrawal| (withdrawal.index, withdrawal.amount))
        .collect();
    assert_eq!(
        arrived,
        [(0, 25_000_000), (1, 25_000_000)],
        "each arrives once"
    );
}

/// Items that no composer would send go straight to the sequencer, between good ones.
async fn invalid_items_are_skipped_with_reasons(network: &Network) {
    let rollup = &network.info.rollups[0];
    let chain_id = rollup.evm_chain_id;
    let geth = network.geth(0);
    let nonce = geth
        .get_transaction_count(network.address(2))
        .await
        .unwrap();
    let transfer = |nonce, chain_id| raw_transfer(network, chain_id, 2, nonce, |request| request);
    let poor = raw_transfer(network, chain_id, 2, nonce + 1, |request| {
        request.with_value(U256::MAX >> 8)
    });
    let good = [
        transfer(nonce, chain_id).await,
        transfer(nonce + 1, chain_id).await,
    ];
    let bad = [
        (transfer(nonce + 7, chain_id).await, "nonce"),
        (poor.await, "balance"),
        (transfer(nonce + 1, 1).await, "chain_id"),
        (vec![0x02, 0xff, 0x01].into(), "decode"),
        (vec![0x03, 0x01].into(), "type"),
        (good[0].clone(), "nonce"),
    ];
    let mut items: Vec<Bytes> = vec![good[0].to_vec().into()];
    items.extend(bad.iter().map(|(raw, _)| Bytes::from(raw.to_vec())));
    items.push(good[1].to_vec().into());
    let data = SubmitData::new(rollup.rollup_id, items).unwrap();
    sequence(network, vec![Action::SubmitData(data)]).await;
    for raw in &good {
        assert!(
            receipt(&geth, keccak256(raw)).await.status(),
            "good ones run between bad ones"
        );
    }
    for (raw, reason) in &bad[..bad.len() - 1] {
        let url = format!("{}/skips/{}", rollup.conductor_http, keccak256(raw));
        let skip: serde_json::Value = reqwest::get(&url).await.unwrap().json().await.unwrap();
        assert_eq!(skip["reason"], *reason, "{raw}");
    }
}

async fn bad_input_is_refused_and_nothing_dies(network: &Network) {
    let http = reqwest::Client::new();
    let url = &network.info.rollups[0].composer_rpc;
    for body in [
        "",
        "{",
        "[]",
        "[1,2]",
        "{\"method\":1}",
        "\u{0}\u{1}",
        &"[".repeat(50_000),
    ] {
        let call = http.post(url).header("content-type", "application/json");
        let answer = call.body(body.to_owned()).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        let error = answer.get("error").or_else(|| answer[0].get("error"));
        assert!(error.is_some(), "{body:?} gives {answer}");
    }
    let forbidden = [
        "engine_newPayloadV4",
        "admin_peers",
        "debug_setHead",
        "personal_sign",
        "miner_start",
        "txpool_content",
        "testing_buildBlockV1",
        "ENGINE_newPayloadV4",
        "eth_sendTransaction",
        "eth_sign",
        " eth_chainId",
    ];
    for method in forbidden {
        let error = network.rpc(0, method, json!([])).await.unwrap_err();
        assert_eq!(error["code"], -32_601, "{method}");
    }
    let refused = |params| network.rpc(0, "eth_sendRawTransaction", params);
    assert_eq!(refused(json!(["zz"])).await.unwrap_err()["code"], -32_602);
    assert_eq!(refused(json!(["0x"])).await.unwrap_err()["code"], -32_000);
    let stale = raw_transfer(network, network.info.rollups[0].evm_chain_id, 0, 0, |tx| tx).await;
    let error = refused(json!([stale])).await.unwrap_err();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("nonce too low"),
        "{error}"
    );
    // Garbage on gRPC, probes and geth's authenticated port.
    for port in [
        &network.info.validators[0].grpc,
        &network.info.validators[0].http,
    ] {
        let _ = http.post(port).body(vec![0xff; 10_000]).send().await;
    }
    assert!(network.sequencer(0).info().await.unwrap().height > 0);
}

/// What a stranger can check with nothing but the genesis file.
async fn every_block_is_proven_from_genesis(network: &Network) {
    let id = network.info.rollups[0].rollup_id;
    let tip = network.sequencer(0).info().await.unwrap().height;
    let first = counterpoint_core::primitive::Height::new(2);
    let mut follower = Follower::new(network.sequencer(0), id, network.trust(), first);
    let mut opened = 0;
    for height in 2..=tip {
        let block = follower.next().await.unwrap();
        assert_eq!(block.list.header().height().get(), height);
        assert_eq!(block.config.name, "alpha");
        let env = &block.list.leaf().env;
        opened += u64::from(env.opens);
        assert_eq!(env.number, opened, "numbers count openings");
    }
    assert_eq!(follower.trusted().height().get(), tip);
}

async fn heads_carry_the_cursor(network: &Network) {
    for rollup in 0..2 {
        let geth = network.geth(rollup);
        let head = geth.get_block_by_number(BlockNumberOrTag::Latest).await;
        let head = head.unwrap().unwrap().header;
        let extra = ExtraData::decode(&head.extra_data).unwrap();
        assert_eq!(
            extra.cursor.height, extra.next_opening,
            "nothing is left over"
        );
        let finalized = geth.get_block_by_number(BlockNumberOrTag::Finalized).await;
        assert!(finalized.unwrap().unwrap().header.number + 1 >= head.number);
    }
}
