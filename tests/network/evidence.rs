//! The only validator of a chain signs two blocks of one height. The chain lives on by its votes
//! until others are strong enough to let it go.

use std::fs;

use counterpoint::devnet::setup::SNAPSHOT_INTERVAL;
use counterpoint_core::{
    action::{Action, ValidatorUpdate},
    key::{PublicKey, SecretKey},
    primitive::Address,
};
use serde_json::{Value, json};
use tendermint::{PrivateKey, Signature, Vote};

use crate::support::{Network, evidence, nodes_agree, sequence_after, verdict};

const TOMBSTONED: u32 = 33;

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_double_signer_stays_until_others_can_take_over() {
    let mut network = Network::start(1, 0).await;
    let mut trusted = network.trust();
    let signer = network.devnet.consensus_key("val-0").unwrap();
    let signed = network.reach(0, 3).await - 1;
    let proof = double_signature(&network, signed).await;
    report(&network, &proof).await;
    let (height, _) = evidence(&network, signed).await;
    network.reach(0, height + 3).await;
    assert_eq!(
        verdict(&network, vec![update(signer, 20)]).await,
        TOMBSTONED
    );

    network.reach(0, SNAPSHOT_INTERVAL + 5).await;
    network.join().await;
    let joined = network.devnet.consensus_key("val-1").unwrap();
    // At most a third of the power moves in one block.
    for update in [3, 7, 12, 19, 28]
        .map(|power| update(joined, power))
        .into_iter()
        .chain([update(signer, 0)])
    {
        let inclusion = sequence_after(&network, 0, &mut trusted, vec![update]).await;
        assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    }
    let tip = network.reach(1, 1).await;
    network.devnet.kill("val-0-cometbft").await.unwrap();
    network.reach(1, tip + 5).await;
    network.devnet.launch("val-0-cometbft").await.unwrap();
    nodes_agree(&network).await;
    network.stop().await;
}

fn update(key: PublicKey, power: u64) -> Action {
    let payout = Address::new([9; 20]);
    Action::ValidatorUpdate(ValidatorUpdate::new(key, power, payout).unwrap())
}

/// What proves that the validator has signed the block of a height and none at all, as CometBFT
/// wants it: one vote is real, and the other one has the signature of the same key.
async fn double_signature(network: &Network, height: u64) -> Value {
    let signed = network.commit(0, height).await;
    let (commit, real) = (&signed["commit"], &signed["commit"]["signatures"][0]);
    let block = json!({
        "type": 2,
        "height": commit["height"],
        "round": commit["round"],
        "block_id": commit["block_id"],
        "timestamp": real["timestamp"],
        "validator_address": real["validator_address"],
        "validator_index": 0,
        "signature": real["signature"],
        "extension": null,
        "extension_signature": null,
    });
    let mut nil: Vote = serde_json::from_value(block.clone()).unwrap();
    nil.block_id = None;
    let message = nil
        .clone()
        .into_signable_vec(network.info.chain_id.parse().unwrap());
    let signature = secret_key(network, "val-0").sign(&message);
    nil.signature = Signature::new(signature.as_bytes()).unwrap();
    json!({
        "type": "tendermint/DuplicateVoteEvidence",
        "value": {
            "vote_a": nil,
            "vote_b": block,
            "TotalVotingPower": "10",
            "ValidatorPower": "10",
            "Timestamp": signed["header"]["time"],
        },
    })
}

/// Hands evidence to CometBFT.
async fn report(network: &Network, evidence: &Value) {
    let params = json!({ "evidence": evidence });
    let call =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "broadcast_evidence", "params": params });
    let rpc = &network.info.validators[0].cometbft_rpc;
    let answer = reqwest::Client::new().post(rpc).json(&call).send().await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
}

fn secret_key(network: &Network, node: &str) -> SecretKey {
    let file = fs::read(network.layout().consensus_key(node)).unwrap();
    let mut file: Value = serde_json::from_slice(&file).unwrap();
    let key: PrivateKey = serde_json::from_value(file["priv_key"].take()).unwrap();
    let seed = key.ed25519_signing_key().unwrap().as_bytes();
    SecretKey::from_seed(seed.try_into().unwrap())
}
