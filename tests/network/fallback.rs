//! What an operator can fall back to: CometBFT's own mempool, and ABCI over TCP.

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, U256, hex};
use alloy_provider::Provider;
use alloy_rpc_types_eth::TransactionRequest;
use bytes::Bytes;
use counterpoint::devnet::{Abci, Mempool};
use counterpoint_core::{
    action::{Action, Transfer},
    primitive::{Address as SequencerAddress, Amount, Height, Nonce},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use serde_json::Value;

use crate::support::{Network, receipt, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn cometbfts_own_mempool_over_tcp_carries_everything() {
    let network = Network::start_with(2, 1, |options| {
        (options.abci, options.mempool) = (Abci::Tcp, Mempool::Flood);
    })
    .await;
    a_wallet_reaches_geth(&network).await;
    refusals_say_why(&network).await;
    every_node_takes_its_turn(&network).await;
    network.stop().await;
}

async fn a_wallet_reaches_geth(network: &Network) {
    let (wallet, geth) = (network.wallet(0, 0), network.geth(0));
    let to = Address::repeat_byte(0x11);
    for _ in 0..3 {
        let request = TransactionRequest::default()
            .with_to(to)
            .with_value(U256::from(5));
        let sent = wallet.send_transaction(request).await.unwrap();
        assert!(receipt(&geth, *sent.tx_hash()).await.status());
    }
    assert_eq!(geth.get_balance(to).await.unwrap(), U256::from(15));
}

/// A transfer of the faucet's, `ahead` of its next nonce.
async fn transfer(network: &Network, ahead: u64, tip: u64) -> SignedTransaction {
    let (client, key) = (network.sequencer(0), network.faucet());
    let address = key.public_key().address();
    let (info, account) = (
        client.info().await.unwrap(),
        client.account(&address).await.unwrap(),
    );
    let (to, amount) = (SequencerAddress::new([7; 20]), Amount::new(1_000));
    let body = TransactionBody {
        chain_id: info.chain_id,
        signer: key.public_key(),
        nonce: Nonce::new(account.nonce + ahead),
        tip_per_byte: tip,
        max_fee: Amount::new(u128::MAX),
        valid_until: Height::new(info.height + 300),
        actions: vec![Action::Transfer(Transfer { to, amount })],
    };
    SignedTransaction::sign(body, &key).unwrap()
}

async fn submit(network: &Network, validator: usize, tx: &SignedTransaction) -> u32 {
    let answer = network
        .sequencer(validator)
        .submit(tx.as_bytes().clone())
        .await;
    answer.unwrap().code
}

async fn refusals_say_why(network: &Network) {
    let gap = transfer(network, 5, 0).await;
    assert_eq!(
        submit(network, 0, &gap).await,
        32_003,
        "no nonce may be missing"
    );
    let mut forged = transfer(network, 0, 0).await.as_bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let answer = network
        .sequencer(0)
        .submit(Bytes::from(forged))
        .await
        .unwrap();
    assert_eq!(answer.code, 1, "{}", answer.log);
}

/// A run of nonces by both nodes and by CometBFT's own RPC; one of them twice, one replaced.
async fn every_node_takes_its_turn(network: &Network) {
    let mut txs = Vec::new();
    for ahead in 0..20 {
        txs.push(transfer(network, ahead, 1).await);
    }
    // Blocks go on, but the account's nonces were read before any of these is in one.
    let first = txs[0].body().nonce;
    let in_order = txs.iter().zip(first.get()..);
    assert!(
        in_order
            .clone()
            .all(|(tx, nonce)| tx.body().nonce.get() == nonce)
    );
    for (tx, at) in txs.iter().zip(0..) {
        wait_for("a transaction to be taken in", || async {
            // The other node may not have heard of the one before yet.
            (submit(network, at % 2, tx).await == 0).then_some(())
        })
        .await;
        assert_eq!(submit(network, at % 2, tx).await, 0, "again");
    }
    for tx in &txs {
        included(network, tx).await;
    }
    let last = transfer(network, 0, 1).await;
    assert_eq!(broadcast(network, &last).await["result"]["code"], 0);
    included(network, &last).await;
    assert_eq!(submit(network, 0, &last).await, 0, "a block holds it");
    wait_for("both mempools of CometBFT to be empty", || async {
        let mut empty = true;
        for validator in &network.info.validators {
            let url = format!("{}/num_unconfirmed_txs", validator.cometbft_rpc);
            let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
            empty &= answer["result"]["total"] == "0";
        }
        empty.then_some(())
    })
    .await;
}

async fn broadcast(network: &Network, tx: &SignedTransaction) -> Value {
    let url = &network.info.validators[1].cometbft_rpc;
    let tx = hex::encode(tx.as_bytes());
    let answer = reqwest::get(format!("{url}/broadcast_tx_sync?tx=0x{tx}")).await;
    answer.unwrap().json().await.unwrap()
}

async fn included(network: &Network, tx: &SignedTransaction) {
    let client = network.sequencer(0);
    let code = wait_for(&format!("the block of {}", tx.hash()), || async {
        match client.transaction(&tx.hash()).await.unwrap() {
            Status::Included(included) => Some(included.code),
            _ => None,
        }
    })
    .await;
    assert_eq!(code, 0);
}
