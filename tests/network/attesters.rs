//! Atomic bundles on real clients, with attesters that execute: conductors, and programs beside them.

pub(crate) mod bundle;
mod storm;
mod token;

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_provider::Provider;
use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint_core::{
    atomic::{
        Attestation, AttesterMessage, Ballot, Failure, LegEnv, LegOutcome, OnAbort, Statement,
        inbox_hash, outbox_hash,
    },
    key::SecretKey,
    primitive::{Hash, RollupId},
    state::{AbortReason, BundleStatus},
};
use counterpoint_proto::sequencer::{
    BundleStage, StreamScheduledRequest, bundles_client::BundlesClient,
};
use counterpoint_service::{files::read_key, sequencer::Client};

use self::{
    bundle::{Sample, Transfers, account},
    token::{SUPPLY, Token},
};
use crate::support::{Network, PATIENCE, nodes_agree, say, wait_for};

/// A network whose rollups have so many attesters each, of which most must agree.
async fn start(validators: usize, rollups: usize, attesters: usize) -> Network {
    let with = |options: &mut counterpoint::devnet::Options| options.attesters = attesters;
    Network::start_with(validators, rollups, with).await
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_run_whole_or_never_and_a_lie_is_shown() {
    let mut network = start(2, 2, 2).await;
    let ids = bundle::rollups(&network, [0, 1]);

    say("a message is sent on one rollup and received on the other");
    let letter = bundle::letter(&network, account(0)).await;
    let said = letter.simulated(&network).await;
    assert_eq!(said["success"], true, "{said}");
    letter.hand_in(&network).await;
    letter.ends_as(&network, BundleStage::Executed).await;
    letter.ran(&network).await;

    say("a token is burnt on one rollup and minted on the other");
    let token = Token::deploy(&network, account(3)).await;
    let (from, to) = (network.address(3), network.address(4));
    assert_eq!(token.balances(&network, from).await, [SUPPLY, 0]);
    let moved = token.moves(&network, to, 300).await;
    moved.hand_in(&network).await;
    moved.ends_as(&network, BundleStage::Executed).await;
    moved.ran(&network).await;
    assert_eq!(token.balances(&network, from).await, [SUPPLY - 300, 0]);
    assert_eq!(token.balances(&network, to).await, [0, 300]);
    say("more of it than there is moves nowhere");
    let doomed = token.moves(&network, to, SUPPLY).await;
    doomed.hand_in(&network).await;
    doomed.ends_as(&network, BundleStage::Aborted).await;
    doomed.never_ran(&network).await;
    assert_eq!(token.balances(&network, to).await, [0, 300]);

    say("a leg that reverts aborts all of it");
    let reverting = bundle::reverting(&network, account(0)).await;
    reverting.hand_in(&network).await;
    let record = reverting.ends_as(&network, BundleStage::Aborted).await;
    let reason = AbortReason::Attested {
        rollup_id: ids[1],
        tx: 0,
        failure: Failure::Revert,
    };
    assert_eq!(record.status, BundleStatus::Aborted(reason));
    reverting.never_ran(&network).await;

    say("a message that nobody receives aborts it too");
    let unread = bundle::unread(&network, account(0)).await;
    let said = unread.simulated(&network).await;
    let reason = said["failure"]["reason"].as_str();
    assert!(
        reason.is_some_and(|reason| reason.contains("messages")),
        "{said}"
    );
    unread.hand_in(&network).await;
    let record = unread.ends_as(&network, BundleStage::Aborted).await;
    let mismatch = |status: &BundleStatus| {
        matches!(
            status,
            BundleStatus::Aborted(AbortReason::Attested {
                failure: Failure::MessageMismatch,
                ..
            })
        )
    };
    assert!(mismatch(&record.status), "{:?}", record.status);
    unread.never_ran(&network).await;

    say("attesters are killed while they vote, and come back");
    let retried = Transfers::default().on_abort(OnAbort::Retry);
    let retried = retried.sample(&network, account(0)).await;
    retried.hand_in(&network).await;
    for _ in 0..3 {
        scheduled(&network, &retried).await;
        for process in ["attester-1", "alpha-conductor"] {
            network.devnet.kill(process).await.unwrap();
            network.devnet.launch(process).await.unwrap();
        }
    }
    retried.ends_as(&network, BundleStage::Executed).await;
    retried.ran(&network).await;
    for process in ["attester-1", "alpha-conductor"] {
        assert!(!network.log(process).contains("was written down before"));
    }

    say("attesters that are away slow nobody down");
    network.devnet.kill("attester-1").await.unwrap();
    let geth = network.geth(0);
    let alone = Transfers::default().attempts(3);
    let alone = alone.sample(&network, account(0)).await;
    alone.hand_in(&network).await;
    let before = (now(), geth.get_block_number().await.unwrap());
    let record = alone.ends_as(&network, BundleStage::Aborted).await;
    let aborted = BundleStatus::Aborted(AbortReason::AttestersOffline);
    assert_eq!(record.status, aborted);
    alone.never_ran(&network).await;
    wait_for("one block for each second", || async {
        let number = geth.get_block_number().await.unwrap();
        (number - before.1 + 2 >= now() - before.0).then_some(())
    })
    .await;

    say("a quorum that lies is shown by every honest conductor");
    let keys = take_keys(&mut network).await;
    let doomed = bundle::reverting(&network, account(1)).await;
    doomed.hand_in(&network).await;
    lie(&network, &doomed, &keys).await;
    let record = doomed.record(&network).await;
    let block = record.release.unwrap().legs[1].block_number;
    say("the same lie is worth nothing against a user's own attester");
    let own = SecretKey::from_seed([99; 32]).public_key();
    let guarded = Transfers::default().attempts(3).extra(own);
    let guarded = guarded.doomed(&network, account(2)).await;
    guarded.hand_in(&network).await;
    lie(&network, &guarded, &keys).await;
    assert_eq!(guarded.record(&network).await.status, aborted);
    guarded.never_ran(&network).await;
    let report = evidence(&network, ids[1], block).await;
    assert!(report.contains("reverts"), "{report}");
    let name = bundle::name(&network, ids[1]);
    let said = network.log(&format!("{name}-conductor"));
    assert!(said.contains("its attesters have lied"));
    say("a lie about receipts is shown as well, although everything succeeds");
    let otherwise = Transfers::default().sample(&network, account(2)).await;
    otherwise.hand_in(&network).await;
    lie(&network, &otherwise, &keys).await;
    otherwise.ran(&network).await;
    let release = otherwise.record(&network).await.release.unwrap();
    for (id, leg) in ids.into_iter().zip(release.legs) {
        let report = evidence(&network, id, leg.block_number).await;
        assert!(report.contains("other receipts there"), "{report}");
        assert!(report.contains("transaction 0") && report.contains("succeeds"));
    }
    let geth = network.geth(bundle::place(&network, ids[1]));
    wait_for("the rollup to go on", || async {
        (geth.get_block_number().await.ok()? > block + 1).then_some(())
    })
    .await;

    say("legs are derived again, and executed again from the client's blocks, to the same");
    for rollup in network.info.rollups.clone() {
        let process = format!("{}-conductor", rollup.name);
        let head = network.geth(bundle::place(&network, rollup.rollup_id));
        let head = head.get_block_number().await.unwrap().to_string();
        run(&network, &process, &["verify", "--to", &head]).await;
        network.devnet.kill(&process).await.unwrap();
        let data = network.layout().dir.join(&rollup.name).join("conductor");
        fs::remove_dir_all(data).unwrap();
        run(&network, &process, &["rebuild"]).await;
        network.devnet.launch(&process).await.unwrap();
    }
    nodes_agree(&network).await;
    network.stop().await;
}

/// What a conductor has kept of a leg in a block.
async fn evidence(network: &Network, id: RollupId, block: u64) -> String {
    let name = bundle::name(network, id);
    let directory = network.layout().dir.join(name).join("conductor/evidence");
    wait_for("evidence of the lie", || async {
        let kept = fs::read_dir(&directory).ok()?;
        let mut kept = kept.map(|entry| entry.unwrap().path());
        let prefix = format!("leg-{block}-");
        let leg = kept.find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&prefix)
        });
        fs::read_to_string(leg?.join("report.txt")).ok()
    })
    .await
}

/// Runs a command of a conductor with its configuration.
async fn run(network: &Network, process: &str, command: &[&str]) {
    let program = env!("CARGO_BIN_EXE_counterpoint-under-test");
    let output = tokio::process::Command::new(program)
        .arg("conductor")
        .args(command)
        .arg("--config")
        .arg(network.layout().service_config(process))
        .output();
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{process} {command:?}: {said}");
}

/// Waits until a bundle is scheduled, or is over.
async fn scheduled(network: &Network, sample: &Sample) {
    wait_for("a bundle to be scheduled", || async {
        let status = sample.record(network).await.status;
        let waits = matches!(status, BundleStatus::Sealed | BundleStatus::Queued);
        (!waits).then_some(())
    })
    .await;
}

/// Takes the keys away from all attesters; conductors go on without.
async fn take_keys(network: &mut Network) -> Vec<SecretKey> {
    let layout = network.layout();
    let mut keys = vec![read_key(&layout.attester_key("attester-1")).unwrap()];
    for rollup in network.info.rollups.clone() {
        keys.push(read_key(&layout.attester_key(&rollup.name)).unwrap());
        let process = format!("{}-conductor", rollup.name);
        network.devnet.kill(&process).await.unwrap();
        let file = layout.service_config(&process);
        let mut config: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
        config.remove("attester_key_file").unwrap();
        config.remove("votes_dir").unwrap();
        fs::write(&file, config.to_string()).unwrap();
        network.devnet.launch(&process).await.unwrap();
    }
    keys
}

async fn decided(network: &Network, sample: &Sample) {
    wait_for("a bundle to be decided", || async {
        (!sample.record(network).await.status.is_live()).then_some(())
    })
    .await;
}

/// Signs with all keys that a bundle commits, until it is released or given up.
async fn lie(network: &Network, sample: &Sample, keys: &[SecretKey]) {
    let url = network.info.validators[0].grpc.clone();
    let mut client = BundlesClient::connect(url).await.unwrap();
    let ids = sample.bundle.rollups().into_iter();
    let rollup_ids = ids.map(|id| Bytes::copy_from_slice(id.as_bytes()));
    let request = StreamScheduledRequest {
        rollup_ids: rollup_ids.collect(),
    };
    let mut slots = client.stream_scheduled(request).await.unwrap().into_inner();
    let urls = network.info.validators.iter();
    let urls: Vec<String> = urls.map(|validator| validator.grpc.clone()).collect();
    let nodes = Client::new(&urls).unwrap();
    let lying = tokio::time::timeout(PATIENCE, async {
        loop {
            let slot = tokio::select! {
                slot = slots.message() => slot.unwrap().unwrap(),
                () = decided(network, sample) => return,
            };
            for leg in slot.legs {
                let ballot = Ballot::try_from_slice(&leg.borsh_ballot).unwrap();
                let mut env = LegEnv::try_from_slice(&leg.borsh_env).unwrap();
                env.base_fee = 7;
                let messages = &sample.bundle.terms().messages;
                let statement = Statement {
                    parent_hash: Hash::ZERO,
                    env_hash: env.hash(),
                    base_fee: 7,
                    outcome: LegOutcome::Commit {
                        in_hash: inbox_hash(&ballot.rollup_id, messages),
                        out_hash: outbox_hash(&ballot.rollup_id, messages),
                        receipts_hash: Hash::ZERO,
                    },
                };
                for key in keys {
                    let chain_id = &network.info.chain_id;
                    let said = Attestation::sign(chain_id, ballot, statement.clone(), key);
                    let message = AttesterMessage::Attestation(said).encode();
                    // Not every key is of every rollup. All at once: the slot does not wait.
                    let nodes = nodes.clone();
                    tokio::spawn(async move { nodes.submit_to_all(&message).await });
                }
            }
        }
    });
    assert!(lying.await.is_ok(), "waited for a lie to be believed");
}
