//! Atomic bundles as people send them: by the command line and by the composer's JSON-RPC, on rollups whose
//! attesters the test plays. They execute nothing; of a bundle whose tip is odd they say that it reverts.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::hex;
use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint::devnet::tools::WALLETS;
use counterpoint_core::{
    action::{Action, RegisterRollup},
    atomic::{
        AtomicBundle, Attestation, AttesterKeys, AttesterMessage, Ballot, BundleTerms,
        EvmSignature, Executed, Failure, LegEnv, LegOutcome, LegSeal, OnAbort, OutcomeVote,
        SealedTx, Statement, inbox_hash, keccak, outbox_hash, testing,
    },
    key::SecretKey,
    primitive::{Amount, Hash, RollupId},
    slot::SlotSecs,
    state::BundleRecord,
};
use counterpoint_proto::sequencer::{
    Bundle, BundleStage, ScheduledBundle, StreamBundlesRequest, StreamScheduledRequest,
    bundles_client::BundlesClient,
};
use counterpoint_service::files::read_key;
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinHandle};

use crate::support::{Network, decide, raw_transfer, receipt, registration, say, wait_for};

const COMPOSER: &str = "composer";
/// Name, chain id and length of a slot; ascending by identifier.
const ROLLUPS: [(&str, u64, u8); 3] = [
    ("epsilon", 7_003, 60),
    ("delta", 7_002, 1),
    ("gamma", 7_001, 1),
];

const NAMES: [&str; 3] = ["epsilon", "delta", "gamma"];

fn has_odd_tip(bundle: &AtomicBundle) -> bool {
    bundle.terms().tip_per_attempt.get() % 2 == 1
}

fn attester() -> SecretKey {
    SecretKey::from_seed([60; 32])
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_bundles_all_the_way() {
    let network = Network::start(1, 1).await;
    register(&network).await;
    let attesters = Attesters::start(&network, &NAMES, has_odd_tip);
    let shell = Shell::new(&network);

    say("a bundle goes through, paid by the composer");
    let done = shell
        .send("one", 0, 10, &["--output", "json"])
        .await
        .unwrap();
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(
        (&done["stage"], &done["verified"]),
        (&json!("executed"), &json!(true)),
        "{done}"
    );
    assert_eq!(done["legs"].as_array().unwrap().len(), 2);
    say("another one is aborted, and the reason told");
    let refused = shell.send("two", 1, 11, &[]).await.unwrap_err();
    let why = "transaction 0 of its leg would fail: revert";
    assert!(
        refused.contains(why) && refused.contains("the bundle is aborted"),
        "{refused}"
    );
    say("an account of its own pays for a third one");
    let faucet = network.info.faucet_key.display().to_string();
    let done = shell
        .send("three", 2, 0, &["--key", &faucet])
        .await
        .unwrap();
    assert!(done.contains("executed"), "{done}");
    // Sent again, it says the same and does nothing.
    let again = shell
        .run(&["bundle", "send", "three.json", "--key", &faucet])
        .await
        .unwrap();
    assert!(again.contains("executed"), "{again}");

    say("what is wrong is said before anything is sent");
    let raw = |chain_id, nonce| hex::encode_prefixed(testing::raw_transaction(1, chain_id, nonce));
    let (gamma, delta) = (
        format!("gamma={}", raw(7_001, 9)),
        format!("delta={}", raw(7_002, 9)),
    );
    let wrong = format!("delta={}", raw(7_001, 9));
    let alpha = format!("alpha={}", raw(7_001, 9));
    for (args, expect) in [
        (vec!["build", "--leg", &gamma], "at least two rollups"),
        (
            vec!["build", "--leg", &gamma, "--leg", "delta=nowhere"],
            "neither 0x… nor a file",
        ),
        (
            vec!["build", "--leg", &gamma, "--leg", &wrong],
            "leg 0, transaction 0: it is for chain id 7001, rollup delta has 7002",
        ),
        (
            vec!["build", "--leg", &gamma, "--leg", &alpha],
            "leg 0: rollup alpha has no attesters",
        ),
        (
            vec![
                "build",
                "--leg",
                &gamma,
                "--leg",
                &delta,
                "--valid-secs",
                "3601",
            ],
            "valid_until must lie",
        ),
        (
            vec![
                "build",
                "--leg",
                &gamma,
                "--leg",
                &delta,
                "--out",
                "four.json",
            ],
            "",
        ),
        (vec!["send", "four.json"], "has not signed for it"),
        (vec!["check", "four.json"], "is not sealed"),
        (vec!["status", "four.json"], "the chain knows no bundle"),
        (
            vec![
                "sign",
                "one.json",
                "--signature",
                &format!("0x{}", "11".repeat(65)),
            ],
            "no transaction's sender has signed",
        ),
    ] {
        let said = shell.run(&[&["bundle"], &args[..]].concat()).await;
        match said {
            Ok(_) => assert_eq!(expect, "", "{args:?}"),
            Err(error) => assert!(
                !expect.is_empty() && error.contains(expect),
                "{args:?}: {error}"
            ),
        }
    }
    attesters.stop().await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_composer_refuses_by_rule_and_goes_on_after_kills() {
    let mut network = Network::start(1, 1).await;
    register(&network).await;
    let attesters = Attesters::start(&network, &NAMES, has_odd_tip);

    say("each rule refuses once");
    for (rule, change, expect) in refusals() {
        let mut sample = Sample::new(&network, 100).await;
        change(&mut sample);
        let error = sample.send(&network).await.unwrap_err();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(expect), "{rule}: {message}");
    }
    let error = network
        .rpc(0, "counterpoint_getBundle", json!([Hash::ZERO]))
        .await;
    assert_eq!(error, Ok(Value::Null));

    say("kill −9 between what is acknowledged and what is done");
    let mut samples = Vec::new();
    for nonce in 0..4 {
        let sample = Sample::new(&network, nonce).await;
        sample.send(&network).await.unwrap();
        network.devnet.kill(COMPOSER).await.unwrap();
        network.devnet.launch(COMPOSER).await.unwrap();
        samples.push(sample);
    }
    for sample in &samples {
        sample.reaches(&network, &["sealed"]).await;
        sample.reveal(&network).await.unwrap();
        network.devnet.kill(COMPOSER).await.unwrap();
        network.devnet.launch(COMPOSER).await.unwrap();
    }
    for sample in &samples {
        let done = sample.reaches(&network, &["executed"]).await;
        assert!(done["legs"][0]["blockNumber"].is_number(), "{done}");
    }
    // One transaction to seal each of them, and one to reveal it.
    let payer = read_key(&network.layout().bundles_key())
        .unwrap()
        .public_key()
        .address();
    let account = network.sequencer(0).account(&payer).await.unwrap();
    assert_eq!(account.nonce, 2 * samples.len() as u64);
    attesters.stop().await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_on_two_rollups() {
    let packages = WALLETS.install(&say).unwrap();
    let network = Network::start_with(1, 2, |options| options.attesters = 1).await;
    let directory = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/atomic-bundle");
    for script in ["main.mjs", "bundle.mjs"] {
        std::fs::copy(example.join(script), directory.path().join(script)).unwrap();
    }
    let modules = packages.ancestors().nth(2).unwrap();
    std::os::unix::fs::symlink(modules, directory.path().join("node_modules")).unwrap();
    let mut command = Command::new("node");
    command
        .arg(directory.path().join("main.mjs"))
        .kill_on_drop(true);
    command.arg(network.layout().dir.join("devnet.json"));
    command.arg(env!("CARGO_BIN_EXE_counterpoint-under-test"));
    let output = command.output().await.unwrap();
    let [said, error] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    assert!(output.status.success(), "{said}{error}");
    for expect in ["simulated true", "sent 0x", "sealed_at"] {
        assert!(said.contains(expect), "{expect}: {said}{error}");
    }
    say("both transfers are in the clients' blocks, and their receipts are told");
    let outcome: Value = serde_json::from_str(&said[said.find("\n{").unwrap()..]).unwrap();
    for leg in outcome["legs"].as_array().unwrap() {
        let rollup = network
            .info
            .rollups
            .iter()
            .position(|one| leg["rollup"] == one.name)
            .unwrap();
        let tx = &leg["transactions"][0];
        assert_eq!(tx["receipt"]["status"], "0x1", "{outcome}");
        let hash = serde_json::from_value(tx["hash"].clone()).unwrap();
        let receipt = receipt(&network.geth(rollup), hash).await;
        assert_eq!(
            (receipt.status(), receipt.transaction_index),
            (true, Some(0))
        );
        assert_eq!(json!(receipt.block_number), leg["blockNumber"]);
    }
    say("what clients say of legs");
    simulations_name_what_fails(&network).await;
    network.stop().await;
}

/// A leg on beta, which is the first one, with a nonce that is missing; and one on alpha that is sound.
async fn simulations_name_what_fails(network: &Network) {
    let chain_id = |rollup: usize| network.info.rollups[rollup].evm_chain_id;
    let bad = raw_transfer(network, chain_id(1), 1, 99, |request| request).await;
    let good = raw_transfer(network, chain_id(0), 1, 0, |request| request).await;
    let leg = |rollup: &str, raw: &[u8]| {
        let hash = format!("0x{}", keccak(raw));
        json!({ "rollup": rollup, "transactions": [{ "hash": hash }] })
    };
    let bundle = json!({
        "chainId": network.info.chain_id, "sessionSalt": format!("0x{}", Hash::ZERO),
        "legs": [leg("beta", &bad), leg("alpha", &good)],
        "validFrom": now(), "validUntil": now() + 300,
    });
    let params = json!([bundle, [[bad], [good]]]);
    let said = network
        .rpc(0, "counterpoint_simulateBundle", params)
        .await
        .unwrap();
    let failure = &said["failure"];
    assert_eq!(
        (&said["success"], &failure["leg"]),
        (&json!(false), &json!(0)),
        "{said}"
    );
    assert_eq!(
        (&failure["rollup"], &failure["transaction"]),
        (&json!("beta"), &json!(0))
    );
    assert!(
        failure["reason"]
            .as_str()
            .unwrap()
            .contains("nonce too high"),
        "{said}"
    );
    assert_eq!(
        said["legs"][1]["transactions"][0]["success"], true,
        "{said}"
    );
}

type Refusal = (&'static str, fn(&mut Sample), &'static str);

/// A bundle that breaks a rule, and what is said of it.
fn refusals() -> Vec<Refusal> {
    vec![
        (
            "chain",
            |sample| sample.terms.chain_id = "other".into(),
            "the bundle is for chain other",
        ),
        (
            "unknown rollup",
            |sample| sample.terms.legs[0].rollup_id = RollupId::new([0; 32]),
            "leg 0: no rollup 00000000",
        ),
        (
            "no attesters",
            |sample| sample.terms.legs[0].rollup_id = RollupId::from_name("alpha"),
            "leg 0: rollup alpha has no attesters",
        ),
        (
            "order",
            |sample| sample.terms.legs.reverse(),
            "leg 1: legs must be in ascending order",
        ),
        (
            "one leg",
            |sample| drop(sample.terms.legs.pop()),
            "1 legs must be 2..=8",
        ),
        (
            "no transaction",
            |sample| sample.terms.legs[1].txs.clear(),
            "leg 1: 0 transactions must be 1..=8",
        ),
        (
            "twice",
            |sample| {
                let tx = sample.terms.legs[1].txs[0];
                sample.terms.legs[1].txs.push(tx);
            },
            "leg 1, transaction 1: its hash stands in the leg before",
        ),
        (
            "auth",
            |sample| sample.is_signed = false,
            "leg 0, transaction 0: auth is missing",
        ),
        (
            "expired",
            |sample| (sample.terms.valid_from, sample.terms.valid_until) = (now() - 9, now() - 5),
            "has passed: it is",
        ),
        (
            "no common slot",
            |sample| {
                sample.terms.legs[0].rollup_id = RollupId::from_name("epsilon");
                // Between two minutes.
                sample.terms.valid_from = (now() / 60 + 2) * 60 + 1;
                sample.terms.valid_until = sample.terms.valid_from + 50;
            },
            "all its rollups open a block together at",
        ),
        (
            "too far",
            |sample| {
                sample.terms.valid_from = now() + 100;
                sample.terms.valid_until = now() + 3_700;
            },
            "an hour from now",
        ),
        (
            "span",
            |sample| sample.terms.valid_from = now() - 9_000,
            "must lie 0..=3600 seconds",
        ),
        (
            "attempts",
            |sample| sample.terms.max_attempts = 33,
            "max_attempts must be 1..=32",
        ),
        (
            "tips",
            |sample| sample.terms.tip_per_attempt = Amount::new(1_000_000_001),
            "this composer pays at most 1000000000 for a bundle",
        ),
    ]
}

async fn register(network: &Network) {
    let attesters = AttesterKeys::new(vec![attester().public_key()], 1).unwrap();
    let first_height = network.reach(0, 1).await + 30;
    let register = |(name, evm_chain_id, secs): (&str, u64, u8)| {
        let Action::RegisterRollup(registration) = registration(name, first_height, 100_000) else {
            unreachable!("a registration is one");
        };
        Action::RegisterRollup(RegisterRollup {
            evm_chain_id,
            slot_secs: SlotSecs::new(secs).unwrap(),
            attesters: Some(attesters.clone()),
            ..registration
        })
    };
    decide(network, ROLLUPS.map(register).to_vec()).await;
    network.reach(0, first_height).await;
}

/// The command, in a directory with the files of bundles.
struct Shell<'a> {
    network: &'a Network,
    directory: tempfile::TempDir,
}

impl<'a> Shell<'a> {
    fn new(network: &'a Network) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("me.hex"), "01".repeat(32)).unwrap();
        Self { network, directory }
    }

    /// Runs it to its end: what it prints, or all that it says if it fails.
    async fn run(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_counterpoint-under-test")));
        command.current_dir(self.directory.path()).args(args);
        command
            .arg("--dir")
            .arg(&self.network.layout().dir)
            .kill_on_drop(true);
        let output = command.output().await.unwrap();
        let [said, error] =
            [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        if output.status.success() {
            Ok(said)
        } else {
            Err(said + &error)
        }
    }

    /// Builds, signs and sends a bundle.
    async fn send(
        &self,
        name: &str,
        nonce: u64,
        tip: u32,
        more: &[&str],
    ) -> Result<String, String> {
        let raw = |chain_id| hex::encode_prefixed(testing::raw_transaction(1, chain_id, nonce));
        let path = self.directory.path().join(format!("{name}.hex"));
        std::fs::write(path, raw(7_002)).unwrap();
        let (gamma, delta) = (format!("gamma={}", raw(7_001)), format!("delta={name}.hex"));
        let (file, tip) = (format!("{name}.json"), tip.to_string());
        let build = [
            "--leg", &gamma, "--leg", &delta, "--tip", &tip, "--out", &file,
        ];
        self.run(&[&["bundle", "build"], &build[..]].concat())
            .await?;
        self.run(&["bundle", "sign", &file, "--evm-key", "me.hex"])
            .await?;
        self.run(&[&["bundle", "send", &file], more].concat()).await
    }
}

/// A bundle of account 1 on delta and gamma.
struct Sample {
    terms: BundleTerms,
    legs: Vec<Vec<Bytes>>,
    is_signed: bool,
}

impl Sample {
    async fn new(network: &Network, nonce: u64) -> Self {
        let info = network.sequencer(0).info().await.unwrap();
        let rollups = &ROLLUPS[1..];
        let legs: Vec<Vec<Bytes>> = rollups
            .iter()
            .map(|(_, id, _)| vec![testing::raw_transaction(1, *id, nonce)])
            .collect();
        let seal = |((name, _, _), raws): (&(&str, u64, u8), &Vec<Bytes>)| LegSeal {
            rollup_id: RollupId::from_name(name),
            txs: vec![SealedTx {
                tx_hash: keccak(&raws[0]),
                auth: EvmSignature::EMPTY,
            }],
        };
        let terms = BundleTerms {
            chain_id: info.chain_id,
            session_salt: Hash::digest(&[&nonce.to_be_bytes()]),
            callers: vec![],
            legs: rollups.iter().zip(&legs).map(seal).collect(),
            messages: vec![],
            valid_from: now() - 60,
            valid_until: now() + 3_000,
            on_abort: OnAbort::FailFast,
            max_attempts: 32,
            extra_attesters: vec![],
            tip_per_attempt: Amount::ZERO,
        };
        Self {
            terms,
            legs,
            is_signed: true,
        }
    }

    fn document(&self) -> Value {
        let mut terms = self.terms.clone();
        if self.is_signed {
            testing::sign_auths(&mut terms, 1);
        }
        let tx = |tx: &SealedTx| {
            let auth = hex::encode_prefixed(tx.auth.as_bytes());
            json!({ "hash": format!("0x{}", tx.tx_hash), "auth": auth })
        };
        let leg = |leg: &LegSeal| {
            let txs: Vec<Value> = leg.txs.iter().map(tx).collect();
            json!({ "rollup": format!("0x{}", leg.rollup_id), "transactions": txs })
        };
        json!({
            "chainId": terms.chain_id,
            "sessionSalt": format!("0x{}", terms.session_salt),
            "legs": terms.legs.iter().map(leg).collect::<Vec<_>>(),
            "validFrom": terms.valid_from, "validUntil": terms.valid_until,
            "maxAttempts": terms.max_attempts, "tipPerAttempt": terms.tip_per_attempt,
        })
    }

    fn id(&self) -> String {
        format!("0x{}", self.terms.bundle_id())
    }

    /// Sends it until the composer answers, which may be starting.
    async fn send(&self, network: &Network) -> Result<Value, Value> {
        ask(network, "counterpoint_sendBundle", json!([self.document()])).await
    }

    async fn reveal(&self, network: &Network) -> Result<Value, Value> {
        let raws = |leg: &Vec<Bytes>| leg.iter().map(hex::encode_prefixed).collect();
        let legs: Vec<Vec<String>> = self.legs.iter().map(raws).collect();
        ask(
            network,
            "counterpoint_revealBundle",
            json!([self.id(), legs]),
        )
        .await
    }

    async fn reaches(&self, network: &Network, stages: &[&str]) -> Value {
        wait_for(&format!("a bundle to be {stages:?}"), || async {
            let known = ask(network, "counterpoint_getBundle", json!([self.id()]))
                .await
                .ok()?;
            stages
                .iter()
                .any(|stage| known["stage"] == *stage)
                .then_some(known)
        })
        .await
    }
}

/// Calls the composer until it answers.
async fn ask(network: &Network, method: &str, params: Value) -> Result<Value, Value> {
    wait_for("the composer to answer", || async {
        match network.rpc(0, method, params.clone()).await {
            Err(error) if error.is_string() || error["code"] == -32_005 => None,
            answer => Some(answer),
        }
    })
    .await
}

/// The one attester of all rollups, at one node.
struct Attesters(JoinHandle<()>);

impl Attesters {
    /// Of these rollups; they say that a bundle reverts if it does by `reverts`.
    fn start(network: &Network, names: &[&str], reverts: fn(&AtomicBundle) -> bool) -> Self {
        let id = |name: &&str| Bytes::copy_from_slice(RollupId::from_name(name).as_bytes());
        let rollup_ids = names.iter().map(id).collect();
        let url = network.info.validators[0].grpc.clone();
        let (chain_id, client) = (network.info.chain_id.clone(), network.sequencer(0));
        Self(tokio::spawn(async move {
            let mut bundles = BundlesClient::connect(url).await.unwrap();
            let request = StreamScheduledRequest { rollup_ids };
            let mut scheduled = bundles
                .stream_scheduled(request)
                .await
                .unwrap()
                .into_inner();
            let request = StreamBundlesRequest::default();
            let mut stages = bundles.stream_bundles(request).await.unwrap().into_inner();
            loop {
                let messages = tokio::select! {
                    slot = scheduled.message() => attestations(&chain_id, slot.unwrap().unwrap(), reverts),
                    told = stages.message() => outcomes(&chain_id, told.unwrap().unwrap()),
                };
                for message in messages {
                    // It may be late, and then the next slot is its.
                    client.submit(message).await.unwrap();
                }
            }
        }))
    }

    async fn stop(self) {
        self.0.abort();
        assert!(
            self.0.await.unwrap_err().is_cancelled(),
            "the attesters failed"
        );
    }
}

fn attestations(
    chain_id: &str,
    slot: ScheduledBundle,
    reverts: fn(&AtomicBundle) -> bool,
) -> Vec<Bytes> {
    let bundle = AtomicBundle::try_from_slice(&slot.borsh_bundle).unwrap();
    let vote = |leg: &counterpoint_proto::sequencer::scheduled_bundle::Leg| {
        let ballot = Ballot::try_from_slice(&leg.borsh_ballot).unwrap();
        let mut env = LegEnv::try_from_slice(&leg.borsh_env).unwrap();
        env.base_fee = 7;
        let (rollup_id, messages) = (ballot.rollup_id, &bundle.terms().messages);
        let outcome = if reverts(&bundle) {
            LegOutcome::Abort {
                failure: Failure::Revert,
                tx: 0,
            }
        } else {
            LegOutcome::Commit {
                in_hash: inbox_hash(&rollup_id, messages),
                out_hash: outbox_hash(&rollup_id, messages),
                receipts_hash: Hash::digest(&[rollup_id.as_bytes()]),
            }
        };
        let statement = Statement {
            parent_hash: Hash::ZERO,
            env_hash: env.hash(),
            base_fee: 7,
            outcome,
        };
        let said = Attestation::sign(chain_id, ballot, statement, &attester());
        AttesterMessage::Attestation(said).encode()
    };
    slot.legs.iter().map(vote).collect()
}

fn outcomes(chain_id: &str, told: Bundle) -> Vec<Bytes> {
    if told.stage() != BundleStage::Released {
        return Vec::new();
    }
    let record = BundleRecord::try_from_slice(&told.borsh_record).unwrap();
    let bundle_id = Hash::new(told.bundle_id[..].try_into().unwrap());
    let release = record.release.unwrap();
    let vote = |(leg, released): (
        &counterpoint_core::state::LegRecord,
        &counterpoint_core::state::ReleasedLeg,
    )| {
        let executed = Executed {
            bundle_id,
            rollup_id: leg.rollup_id,
            block_number: released.block_number,
            block_hash: Hash::ZERO,
            receipts_hash: released.receipts_hash,
        };
        AttesterMessage::Outcome(OutcomeVote::sign(chain_id, executed, &attester())).encode()
    };
    record.legs.iter().zip(&release.legs).map(vote).collect()
}
