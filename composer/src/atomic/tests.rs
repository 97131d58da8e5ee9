//! Bundles on a sequencer in memory that proves everything, with crashes and strangers.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::hex;
use counterpoint_core::{
    action::Action,
    atomic::Failure,
    state::{AbortReason, RollupRecord},
    transaction::SignedTransaction,
};
use counterpoint_service::sequencer::{
    TrustRoot,
    testing::{CHAIN, four, genesis},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{testing::Sample, *};
use crate::{
    chain::Watcher,
    rpc::subscribe_bundle,
    submitter::testing::{Fault, Node, Ticking, World, payer},
};

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

struct Fixture {
    world: World,
    node: Node,
    directory: TempDir,
    settings: BundleSettings,
    _ticking: Ticking,
}

/// A composer between two crashes.
struct Running {
    bundles: Arc<Bundles>,
    task: JoinHandle<eyre::Result<()>>,
}

impl Running {
    /// As by kill −9, between whatever it does.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn send(&self, sample: &Sample) -> Result<Value, String> {
        self.send_as(sample, Payer::Rest).await
    }

    async fn send_as(&self, sample: &Sample, caller: Payer) -> Result<Value, String> {
        let sent = self.bundles.send(&json!([document(sample)]), caller).await;
        sent.map_err(|error| error.into_value()["message"].as_str().unwrap().to_owned())
    }

    async fn reveal(&self, sample: &Sample) -> Result<Value, String> {
        let params = json!([id(sample), raws(sample)]);
        let revealed = self.bundles.reveal(&params, Payer::Rest).await;
        revealed.map_err(|error| error.into_value()["message"].as_str().unwrap().to_owned())
    }

    async fn shown(&self, sample: &Sample) -> Value {
        self.bundles
            .get(&json!([id(sample)]))
            .await
            .unwrap_or_default()
    }

    async fn reaches(&self, sample: &Sample, stage: &str) -> Value {
        let looking = async {
            loop {
                let shown = self.shown(sample).await;
                if shown["stage"] == stage {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, looking).await;
        reached.unwrap_or_else(|_| panic!("waited for a bundle to be {stage}"))
    }
}

fn id(sample: &Sample) -> String {
    show::hex(sample.bundle().id())
}

fn raws(sample: &Sample) -> Value {
    let leg = |leg: &Vec<bytes::Bytes>| {
        leg.iter()
            .map(|raw| json!(hex::encode_prefixed(raw)))
            .collect()
    };
    sample.legs.iter().map(leg).collect::<Vec<Value>>().into()
}

fn document(sample: &Sample) -> Value {
    let bundle = sample.bundle();
    let terms = bundle.terms();
    let tx = |tx: &counterpoint_core::atomic::SealedTx| json!({ "hash": show::hex(tx.tx_hash), "auth": hex::encode_prefixed(tx.auth.as_bytes()) });
    let leg = |leg: &counterpoint_core::atomic::LegSeal| {
        let txs: Vec<Value> = leg.txs.iter().map(tx).collect();
        json!({ "rollup": show::hex(leg.rollup_id), "transactions": txs })
    };
    json!({
        "chainId": terms.chain_id,
        "sessionSalt": show::hex(terms.session_salt),
        "legs": terms.legs.iter().map(leg).collect::<Vec<_>>(),
        "validFrom": terms.valid_from,
        "validUntil": terms.valid_until,
        "maxAttempts": terms.max_attempts,
        "tipPerAttempt": terms.tip_per_attempt,
    })
}

/// One that may run from now on.
fn sample(nonce: u64) -> Sample {
    let mut sample = Sample::new(nonce);
    sample.terms.chain_id = CHAIN.into();
    sample.terms.valid_from = unix_secs();
    sample.terms.valid_until = unix_secs() + 3_000;
    sample
}

impl Fixture {
    async fn new() -> Self {
        let world = World::new(&[]);
        for (rollup, record) in testing::rollups() {
            world
                .ledger()
                .rollups
                .insert(rollup, RollupRecord::clone(&record));
        }
        Self {
            node: Node::start(&world, Fault::None).await,
            _ticking: world.run(),
            directory: tempfile::tempdir().unwrap(),
            settings: BundleSettings {
                key_file: PathBuf::new(),
                public: true,
                max_units_per_hour: 1_000_000_000,
                max_tips: 100,
            },
            world,
        }
    }

    async fn start(&self) -> Running {
        let client = Client::new(std::slice::from_ref(&self.node.url)).unwrap();
        let root = TrustRoot::unchecked(genesis(&four(1)), None);
        let trusted = root.start(None, &client).await.unwrap();
        let address = payer().public_key().address();
        let names = BTreeSet::new();
        let watcher = Watcher::start(client.clone(), &trusted, address, &names);
        let (chain, watching) = watcher.await.unwrap().run();
        let (settings, directory) = (self.settings.clone(), self.directory.path());
        let sites = BTreeMap::new();
        let opened = Bundles::open(settings, payer(), directory, client, chain, 1_000, sites);
        let (bundles, keeping) = opened.unwrap();
        let task = tokio::spawn(async move {
            tokio::try_join!(keeping, watching)?;
            Ok(())
        });
        Running { bundles, task }
    }

    /// The transactions that were handed in for a bundle: those that seal it, and those that reveal it.
    fn handed_in(&self, sample: &Sample) -> (usize, usize) {
        let id = sample.bundle().id();
        let ledger = self.world.ledger();
        let counts = |wanted: &dyn Fn(&Action) -> bool| {
            let all = ledger.handed_in.iter();
            all.filter(|tx| SignedTransaction::body(tx).actions.iter().any(wanted))
                .count()
        };
        let seals = |action: &Action| matches!(action, Action::SubmitBundle(submit) if submit.bundle.id() == id);
        let reveals =
            |action: &Action| matches!(action, Action::RevealLegs(legs) if legs.bundle_id() == id);
        (counts(&seals), counts(&reveals))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_goes_on_through_every_crash_and_is_paid_for_once() {
    let fixture = Fixture::new().await;
    let samples: Vec<Sample> = (0..6).map(sample).collect();
    let mut running = fixture.start().await;
    for one in &samples {
        // The crash comes while each is at another step.
        running.send(one).await.unwrap();
        running.kill().await;
        running = fixture.start().await;
    }
    for one in &samples {
        let shown = running.reaches(one, "sealed").await;
        assert_eq!(
            (&shown["revealed"], &shown["stages"][0]["stage"]),
            (&json!(false), &json!("sealed"))
        );
        running.reveal(one).await.unwrap();
        running.reveal(one).await.unwrap();
        running.send(one).await.unwrap();
        running.kill().await;
        running = fixture.start().await;
    }
    for one in &samples {
        running.reaches(one, "queued").await;
        assert_eq!(fixture.handed_in(one), (1, 1));
    }
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_keeps_to_itself_is_signed_again_once_it_cannot_come() {
    let fixture = Fixture::new().await;
    let running = fixture.start().await;
    fixture.world.ledger().jammed = true;
    let samples = [sample(0), sample(1)];
    for one in &samples {
        running.send(one).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, async {
        while fixture.handed_in(&samples[0]).0 < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    fixture.world.ledger().jammed = false;
    for one in &samples {
        running.reaches(one, "sealed").await;
    }
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_by_strangers_is_no_seal() {
    let fixture = Fixture::new().await;
    let running = fixture.start().await;
    let own = sample(0);
    let stranger = Sample {
        terms: own.terms.clone(),
        signer: 2,
        ..sample(0)
    };
    {
        let mut ledger = fixture.world.ledger();
        let height = ledger.tip();
        ledger.seal(&stranger.bundle(), payer().public_key().address(), height);
    }
    running.send(&own).await.unwrap();
    let shown = running.reaches(&own, "refused").await;
    assert!(
        shown["reason"]
            .as_str()
            .unwrap()
            .contains("choose another salt"),
        "{shown}"
    );
    let refused = running.reveal(&own).await.unwrap_err();
    assert!(refused.ends_with("is refused"), "{refused}");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_are_taken_only_once_the_seal_is_proven_and_only_the_sealed_ones() {
    let fixture = Fixture::new().await;
    let running = fixture.start().await;
    let (own, other) = (sample(0), sample(1));
    assert!(
        running
            .reveal(&own)
            .await
            .unwrap_err()
            .ends_with("was sent here")
    );
    fixture.world.ledger().jammed = true;
    running.send(&own).await.unwrap();
    assert!(
        running
            .reveal(&own)
            .await
            .unwrap_err()
            .contains("is not sealed yet")
    );
    fixture.world.ledger().jammed = false;
    running.reaches(&own, "sealed").await;
    let wrong = Sample {
        terms: own.terms.clone(),
        legs: other.legs.clone(),
        ..sample(0)
    };
    let refused = running.reveal(&wrong).await.unwrap_err();
    assert_eq!(
        refused,
        "leg 0, transaction 0: another transaction was sealed"
    );
    assert_eq!(fixture.handed_in(&own), (1, 0));
    running.reveal(&own).await.unwrap();
    running.reaches(&own, "queued").await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_spends_more_of_the_operators_money_than_he_may() {
    let mut fixture = Fixture::new().await;
    fixture.settings.max_units_per_hour = 800_000;
    let running = fixture.start().await;
    let mut dear = sample(0);
    dear.terms.tip_per_attempt = Amount::new(51);
    let refused = running.send(&dear).await.unwrap_err();
    assert!(refused.starts_with("tips: 102 base units"), "{refused}");
    let one = sample(1);
    running.send(&one).await.unwrap();
    running.send(&one).await.unwrap();
    let refused = async {
        for number in 2..9 {
            running.send(&sample(number)).await?;
        }
        Ok::<_, String>(())
    };
    let refused = refused.await.unwrap_err();
    assert!(
        refused.starts_with("budget: this composer pays at most 800000"),
        "{refused}"
    );
    running
        .send_as(&sample(9), Payer::Key("another".into()))
        .await
        .unwrap();
    running.kill().await;

    fixture.settings.public = false;
    let running = fixture.start().await;
    let refused = running.send(&sample(10)).await.unwrap_err();
    assert!(
        refused.contains("callers with an API key only"),
        "{refused}"
    );
    running
        .send_as(&sample(10), Payer::Key("one".into()))
        .await
        .unwrap();
    running.kill().await;

    fixture.settings.public = true;
    fixture.world.ledger().account.balance = Amount::new(1_000);
    let running = fixture.start().await;
    let mut number = 11;
    let empty = async {
        loop {
            // What the state has now is read a block later.
            let caller = Payer::Key(number.to_string());
            if let Err(refused) = running.send_as(&sample(number), caller).await {
                return refused;
            }
            number += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, empty).await.unwrap();
    assert!(refused.contains("nearly empty"), "{refused}");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_tells_each_change_and_ends_with_the_bundle() {
    use futures::StreamExt;
    let fixture = Fixture::new().await;
    let running = fixture.start().await;
    let own = sample(0);
    let key = own.bundle().id();
    let unknown = subscribe_bundle(&running.bundles, key).err().unwrap();
    assert_eq!(unknown.into_value()["message"], "bundle not found");
    fixture.world.ledger().jammed = true;
    running.send(&own).await.unwrap();
    let mut told = subscribe_bundle(&running.bundles, key).unwrap().told;
    let mut next = async || {
        let told = tokio::time::timeout(PATIENCE, told.next()).await.unwrap();
        told.map(|told| serde_json::from_str::<Value>(&told.unwrap()).unwrap())
    };
    assert_eq!(next().await.unwrap()["stage"], "accepted");
    fixture.world.ledger().jammed = false;
    assert_eq!(next().await.unwrap()["stage"], "sealed");
    running.reveal(&own).await.unwrap();
    while next().await.unwrap()["stage"] != "queued" {}
    let reason = AbortReason::Attested {
        rollup_id: RollupId::from_name("beta"),
        tx: 0,
        failure: Failure::Revert,
    };
    {
        let mut ledger = fixture.world.ledger();
        ledger.bundles.get_mut(&key).unwrap().status = BundleStatus::Aborted(reason);
    }
    let last = next().await.unwrap();
    assert_eq!(
        last["failure"],
        json!({ "leg": 0, "transaction": 0, "failure": "revert" })
    );
    assert!(next().await.is_none());
    let stages: Vec<&Value> = last["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["stage"])
        .collect();
    assert_eq!(stages, ["sealed", "queued", "aborted"]);
    running.kill().await;
}
