//! Atomic bundles on a network of four: votes that attesters hand in at different nodes meet in the next
//! proposal, whoever makes it. The attesters here execute nothing; they say what they are told to.

use std::time::{SystemTime, UNIX_EPOCH};

use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint_core::{
    action::{Action, RegisterRollup, RevealLegs, SubmitBundle},
    atomic::{
        AtomicBundle, Attestation, AttesterKeys, AttesterMessage, Ballot, BundleTerms,
        EvmSignature, Executed, Failure, LegEnv, LegOutcome, LegSeal, OnAbort, OutcomeVote,
        SealedTx, Statement, inbox_hash, keccak, outbox_hash, testing,
    },
    key::{PublicKey, SecretKey},
    primitive::{Amount, Hash, RollupId},
    state::BundleRecord,
};
use counterpoint_proto::sequencer::{
    BundleStage, GetBundleRequest, ScheduledBundle, StreamBundlesRequest, StreamScheduledRequest,
    bundles_client::BundlesClient,
};

use crate::support::{Network, PATIENCE, decide, nodes_agree, registration, say, wait_for};

pub(crate) const ROLLUPS: [(&str, u64); 2] = [("alpha", 1_001), ("beta", 1_002)];

/// The seeds of every rollup's three attesters, of which two must agree.
const ATTESTERS: [u8; 3] = [50, 51, 52];

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn attesters() -> [SecretKey; 3] {
    ATTESTERS.map(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_from_all_nodes_release_bundles_and_abort_them() {
    let network = Network::start(4, 0).await;
    register(&network, |_| ATTESTERS).await;
    let good = Sample::new(&network, 0, |_| {}).await;
    let bad = Sample::new(&network, 1, |_| {}).await;

    say("a bundle is released and executed");
    hand_in(&network, &good).await;
    attest(&network, &good, Says::Commit).await;
    outcomes(&network, &good).await;
    say("another one is aborted");
    hand_in(&network, &bad).await;
    attest(&network, &bad, Says::Abort).await;

    for (sample, stage) in [(&good, BundleStage::Executed), (&bad, BundleStage::Aborted)] {
        for node in 0..4 {
            let told = format!("node {node} to know that a bundle is {stage:?}");
            wait_for(&told, || async {
                (look(&network, node, sample).await.0 == stage).then_some(())
            })
            .await;
        }
    }
    nodes_agree(&network).await;
    network.stop().await;
}

/// Registers both rollups with attesters of these seeds; gives the height of their first lists.
pub(crate) async fn register(network: &Network, attesters: fn(&str) -> [u8; 3]) -> u64 {
    let first_height = network.reach(0, 1).await + 30;
    let register = |(name, evm_chain_id): (&str, u64)| {
        let mut keys: Vec<PublicKey> = attesters(name).map(|seed| key(seed).public_key()).to_vec();
        keys.sort();
        let Action::RegisterRollup(registration) = registration(name, first_height, 100_000) else {
            unreachable!("a registration is one");
        };
        Action::RegisterRollup(RegisterRollup {
            evm_chain_id,
            attesters: Some(AttesterKeys::new(keys, 2).unwrap()),
            ..registration
        })
    };
    decide(network, ROLLUPS.map(register).to_vec()).await;
    network.reach(0, first_height).await;
    first_height
}

/// A bundle with its raw legs, one transaction for each rollup.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) chain_id: String,
    pub(crate) bundle: AtomicBundle,
    pub(crate) legs: Vec<Vec<Bytes>>,
}

impl Sample {
    /// One that differs from those of other numbers.
    pub(crate) async fn new(
        network: &Network,
        number: u64,
        change: impl FnOnce(&mut BundleTerms),
    ) -> Self {
        let info = network.sequencer(0).info().await.unwrap();
        let mut rollups = ROLLUPS.map(|(name, id)| (RollupId::from_name(name), id));
        rollups.sort();
        let legs = rollups.map(|(_, id)| vec![testing::raw_transaction(1, id, number)]);
        let seals = rollups.iter().zip(&legs);
        let seals = seals.map(|((rollup_id, _), raws)| LegSeal {
            rollup_id: *rollup_id,
            txs: vec![SealedTx {
                tx_hash: keccak(&raws[0]),
                auth: EvmSignature::EMPTY,
            }],
        });
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut terms = BundleTerms {
            chain_id: info.chain_id.clone(),
            session_salt: Hash::digest(&[&number.to_be_bytes()]),
            callers: vec![],
            legs: seals.collect(),
            messages: vec![],
            valid_from: now - 60,
            valid_until: now + 3_000,
            on_abort: OnAbort::FailFast,
            max_attempts: 32,
            extra_attesters: vec![],
            tip_per_attempt: Amount::new(10),
        };
        change(&mut terms);
        testing::sign_auths(&mut terms, 1);
        Self {
            chain_id: info.chain_id,
            bundle: AtomicBundle::new(terms).unwrap(),
            legs: legs.to_vec(),
        }
    }

    fn id(&self) -> Bytes {
        Bytes::copy_from_slice(self.bundle.id().as_bytes())
    }
}

pub(crate) async fn hand_in(network: &Network, sample: &Sample) {
    let bundle = sample.bundle.clone();
    decide(network, vec![Action::SubmitBundle(SubmitBundle { bundle })]).await;
    let reveal = RevealLegs::new(sample.bundle.id(), sample.legs.clone()).unwrap();
    decide(network, vec![Action::RevealLegs(reveal)]).await;
}

#[derive(Clone, Copy)]
enum Says {
    Commit,
    Abort,
}

/// Attesters follow one node, and hand in what they say at three others, until the bundle is decided.
async fn attest(network: &Network, sample: &Sample, says: Says) {
    let url = |node: usize| network.info.validators[node].grpc.clone();
    let mut client = BundlesClient::connect(url(0)).await.unwrap();
    let rollup_ids = sample.bundle.rollups().into_iter();
    let request = StreamScheduledRequest {
        rollup_ids: rollup_ids
            .map(|id| Bytes::copy_from_slice(id.as_bytes()))
            .collect(),
    };
    let mut scheduled = client.stream_scheduled(request).await.unwrap().into_inner();
    let mut client = BundlesClient::connect(url(3)).await.unwrap();
    let request = StreamBundlesRequest {
        bundle_ids: vec![sample.id()],
        ..StreamBundlesRequest::default()
    };
    let mut stages = client.stream_bundles(request).await.unwrap().into_inner();
    let decided = tokio::time::timeout(PATIENCE, async {
        loop {
            tokio::select! {
                slot = scheduled.message() => vote(network, sample, slot.unwrap().unwrap(), says).await,
                told = stages.message() => match told.unwrap().unwrap().stage() {
                    BundleStage::Released | BundleStage::Aborted => return,
                    _ => {}
                }
            }
        }
    });
    assert!(decided.await.is_ok(), "waited for a bundle to be decided");
}

async fn vote(network: &Network, sample: &Sample, slot: ScheduledBundle, says: Says) {
    let bundle = AtomicBundle::try_from_slice(&slot.borsh_bundle).unwrap();
    if bundle != sample.bundle {
        return;
    }
    for leg in slot.legs {
        let ballot = Ballot::try_from_slice(&leg.borsh_ballot).unwrap();
        let mut env = LegEnv::try_from_slice(&leg.borsh_env).unwrap();
        env.base_fee = 7;
        let (rollup_id, messages) = (ballot.rollup_id, &bundle.terms().messages);
        let outcome = match says {
            Says::Commit => LegOutcome::Commit {
                in_hash: inbox_hash(&rollup_id, messages),
                out_hash: outbox_hash(&rollup_id, messages),
                receipts_hash: Hash::digest(&[rollup_id.as_bytes()]),
            },
            Says::Abort => LegOutcome::Abort {
                failure: Failure::Revert,
                tx: 0,
            },
        };
        let statement = Statement {
            parent_hash: Hash::ZERO,
            env_hash: env.hash(),
            base_fee: 7,
            outcome,
        };
        for (place, key) in attesters().iter().enumerate() {
            let said = Attestation::sign(&sample.chain_id, ballot, statement.clone(), key);
            let message = AttesterMessage::Attestation(said).encode();
            // It may be late, and then the next slot is theirs.
            let node = network.sequencer(1 + place);
            node.submit(message).await.unwrap();
        }
    }
}

/// What a node says of a bundle.
pub(crate) async fn look(
    network: &Network,
    node: usize,
    sample: &Sample,
) -> (BundleStage, BundleRecord) {
    let url = network.info.validators[node].grpc.clone();
    let mut client = BundlesClient::connect(url).await.unwrap();
    let request = GetBundleRequest {
        bundle_id: sample.id(),
    };
    let bundle = client.get_bundle(request).await.unwrap().into_inner();
    let record = BundleRecord::try_from_slice(&bundle.borsh_record).unwrap();
    (bundle.stage(), record)
}

/// Two attesters, at two nodes, say what became of the legs.
async fn outcomes(network: &Network, sample: &Sample) {
    let release = wait_for("the release", || async {
        look(network, 0, sample).await.1.release
    })
    .await;
    for (rollup_id, leg) in sample.bundle.rollups().into_iter().zip(release.legs) {
        let executed = Executed {
            bundle_id: sample.bundle.id(),
            rollup_id,
            block_number: leg.block_number,
            block_hash: Hash::ZERO,
            receipts_hash: leg.receipts_hash,
        };
        for (node, key) in [(0, &attesters()[0]), (2, &attesters()[1])] {
            let vote = OutcomeVote::sign(&sample.chain_id, executed, key);
            let message = AttesterMessage::Outcome(vote).encode();
            wait_for("an outcome to be taken in", || async {
                let answer = network.sequencer(node).submit(message.clone()).await;
                (answer.unwrap().code == 0).then_some(())
            })
            .await;
        }
    }
}
