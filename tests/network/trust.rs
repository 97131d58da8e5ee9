//! Trust that does not start at genesis, nodes that lie in between, and a rollup that leaves.

use std::{fs, sync::Arc};

use bytes::Bytes;
use counterpoint::devnet::setup::Layout;
use counterpoint_core::{
    action::{Action, ExitRollup, SubmitData, ValidatorUpdate},
    block::RollupItem,
    key::PublicKey,
    light::TrustedHeader,
    primitive::{Address, Hash, Height, RollupId},
};
use counterpoint_proto::sequencer::{RollupBlock, sequencer_client::SequencerClient};
use counterpoint_service::sequencer::{
    Client, Evidence, Follower, TrustRoot, registration,
    testing::{Lie, Running, Scripted, Source},
};
use serde_json::Value;

use crate::support::{Network, decide, registration as register, sequence_at, wait_for};

const VALIDATORS: usize = 4;
const PAYOUT: Address = Address::new([9; 20]);

/// A node that has its blocks from a real one, and leaves an item out of each list or invents one.
async fn liar(network: &Network) -> Running {
    let url = network.info.validators[0].grpc.clone();
    let node = SequencerClient::connect(url).await.unwrap();
    let lie = Lie::Alter(Arc::new(|block: &mut RollupBlock| {
        let mut items: Vec<RollupItem> = borsh::from_slice(&block.borsh_list).unwrap();
        if items.pop().is_none() {
            items.push(RollupItem::Transaction(Bytes::from_static(b"invented")));
        }
        block.borsh_list = borsh::to_vec(&items).unwrap().into();
    }));
    Scripted::new(Source::Node(node), lie, 1).start().await
}

/// The header of a height, as an operator sees it at a node that he trusts.
async fn header(network: &Network, height: u64) -> TrustedHeader {
    let commit = network.commit(0, height).await["commit"].take();
    let text = commit["block_id"]["hash"].as_str().unwrap().to_lowercase();
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap();
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    let (height, hash) = (Height::new(height), Hash::new(hash));
    TrustedHeader { height, hash }
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_survives_the_rotation_of_every_validator() {
    let mut network = Network::start(VALIDATORS, 0).await;
    let genesis = network.trust();
    network.reach(0, 2).await;
    for validator in 0..VALIDATORS {
        rotate(&mut network, validator).await;
    }
    let first = network.reach(0, 1).await + 10;
    decide(&network, vec![register("alpha", first, 100_000)]).await;
    network.reach(0, first).await;
    let root = header(&network, first - 2).await;
    let item = vec![Bytes::from_static(b"opaque")];
    let id = RollupId::from_name("alpha");
    let data = SubmitData::new(id, item).unwrap();
    let last = decide(&network, vec![Action::SubmitData(data)]).await;

    let directory = tempfile::tempdir().unwrap();
    let liar = liar(&network).await;
    let urls = [liar.url.clone(), network.info.validators[1].grpc.clone()];
    let evidence = Evidence::open(directory.path()).unwrap();
    let client = Client::with_evidence(&urls, evidence).unwrap();
    // From genesis, over headers in between: none of its validators has a say any more.
    let record = registration(&client, &genesis, id).await.unwrap().unwrap();
    assert_eq!(record.config.first_height, Height::new(first));
    // From the header that the operator names.
    let root = TrustRoot::unchecked(genesis, Some(root));
    let trusted = root.start(None, &client).await.unwrap();
    let mut follower = Follower::new(client.clone(), id, trusted, Height::new(first));
    let mut items = 0;
    for height in first..=last {
        let block = follower.next().await.unwrap();
        assert_eq!(block.list.header().height().get(), height);
        items += block.list.items().len();
    }
    assert_eq!(items, 1);
    let status = client.status();
    assert_eq!(status[0]["bad_proofs"], 1, "{status}");
    assert_eq!(status[1]["bad_proofs"], 0, "{status}");
    network.stop().await;
}

/// A validator's key is taken from it; it gets a new one, and with that its old power.
async fn rotate(network: &mut Network, validator: usize) {
    let (name, layout) = (format!("val-{validator}"), network.layout());
    let old = network.devnet.consensus_key(&name).unwrap();
    network
        .devnet
        .kill(&format!("{name}-cometbft"))
        .await
        .unwrap();
    fs::remove_file(layout.consensus_key(&name)).unwrap();
    fs::remove_file(signed_so_far(&layout, &name)).unwrap();
    // CometBFT makes a key where there is none.
    network
        .devnet
        .launch(&format!("{name}-cometbft"))
        .await
        .unwrap();
    let new = wait_for("a new key", || async {
        network.devnet.consensus_key(&name).ok()
    })
    .await;
    assert_ne!(new, old);
    let other = (validator + 1) % VALIDATORS;
    let inclusion = sequence_at(network, other, vec![update(old, 0), update(new, 10)]).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    // It has a say two heights later, and is needed for the next one.
    let height = inclusion.header.height().get();
    for node in 0..VALIDATORS {
        network.reach(node, height + 4).await;
    }
}

fn update(public_key: PublicKey, power: u64) -> Action {
    Action::ValidatorUpdate(ValidatorUpdate::new(public_key, power, PAYOUT).unwrap())
}

fn signed_so_far(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout
        .cometbft_home(name)
        .join("data/priv_validator_state.json")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conductor_starts_anew_beside_a_liar_and_ends_with_its_rollup() {
    let mut network = Network::start_with(1, 1, |options| options.block_interval_ms = 50).await;
    let name = network.info.rollups[0].name.clone();
    let conductor = format!("{name}-conductor");
    network.reach(0, 20).await;
    network.devnet.kill(&conductor).await.unwrap();

    // Its store is lost, the operator names a header, and the first node of its list lies.
    let layout = network.layout();
    fs::remove_dir_all(layout.dir.join(&name).join("conductor")).unwrap();
    let (root, liar) = (header(&network, 1).await, liar(&network).await);
    let path = layout.service_config(&conductor);
    let config = fs::read_to_string(&path).unwrap();
    let sequencers = format!("sequencers = [\"{}\", ", liar.url);
    let config = config.replace("sequencers = [", &sequencers);
    let trust = format!(
        "trust_height = {}\ntrust_hash = \"{}\"\n",
        root.height, root.hash
    );
    fs::write(&path, trust + &config).unwrap();
    let tip = network.reach(0, 1).await;
    network.devnet.launch(&conductor).await.unwrap();
    let url = format!("{}/status", network.info.rollups[0].conductor_http);
    let status = wait_for("the conductor to pass the tip of its start", || async {
        let status: Value = reqwest::get(&url).await.ok()?.json().await.ok()?;
        let height = status["progress"]["next_opening"].as_u64()?;
        (height > tip).then_some(status)
    })
    .await;
    let nodes = &status["sequencers"];
    assert_eq!(nodes[0]["url"], liar.url);
    let reason = nodes[0]["bad_proof"].as_str().unwrap();
    assert!(
        reason.starts_with("bad proof at height 2: proof"),
        "{reason}"
    );
    assert_eq!(nodes[1]["bad_proofs"], 0, "{nodes}");
    let evidence = layout.dir.join(&name).join("conductor/evidence");
    assert!(fs::read_dir(evidence).unwrap().count() > 0);

    // The rollup leaves: after its notice the conductor says so, and ends.
    let rollup_id = network.info.rollups[0].rollup_id;
    let exit = Action::ExitRollup(ExitRollup { rollup_id });
    let announced = decide(&network, vec![exit]).await;
    for step in 1..=6 {
        network.reach(0, announced + 100 * step).await;
    }
    network.ended(&conductor).await;
    let said = "the rollup has left the sequencer; docs/rollup-exit.md says how to go on";
    assert!(network.log(&conductor).contains(said));
    // Once more, with nothing left to be read.
    network.devnet.launch(&conductor).await.unwrap();
    network.ended(&conductor).await;
    assert_eq!(network.log(&conductor).matches(said).count(), 2);
    network.stop().await;
}
