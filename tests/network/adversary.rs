//! One validator of four forges what attesters decide, with their own keys: each forgery is really
//! proposed, really refused for its reason, and no leg ever runs alone. Honest attesters meanwhile are
//! heard by nobody, as if every proposer left them out. Then a quorum lies, which no block can show: it
//! is recorded, and the user's own attester prevents it.

mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use alloy_eips::eip7702::Authorization;
use alloy_network::TransactionBuilder7702;
use alloy_primitives::{Address, U256};
use alloy_signer::SignerSync;
use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint::devnet::{Detours, setup::Layout};
use counterpoint_abci::proto::abci::{
    request, response, response_process_proposal::ProposalStatus,
};
use counterpoint_core::{
    action::{Action, RevealLegs, SubmitBundle, SubmitData},
    atomic::{
        AtomicBundle, Attestation, AttesterMessage, Ballot, BundleTerms, EvmSignature, Executed,
        LegEnv, LegOutcome, OnAbort, OutcomeVote, Statement, keccak, testing,
    },
    block::{RollupItem, data_root},
    primitive::{Hash, Height, RollupId},
    state::{AbortReason, BundleStatus, Key, Suspension},
};
use counterpoint_proto::sequencer::{
    BundleStage, ScheduledBundle, StreamScheduledRequest, bundles_client::BundlesClient,
};
use counterpoint_service::sequencer::{Follower, proven_record};
use tokio::task::JoinHandle;

use self::rows::{ROWS, Released, Row, Scene, Slot, When, statement_of};
use crate::{
    bundles::{ROLLUPS, Sample, hand_in, key, look, register},
    proxy::Proxy,
    support::{Network, nodes_agree, say, sequence, sign_transfer, signed, wait_for},
};

/// The validator that forges, and those that do not.
const FORGER: usize = 3;
const HONEST: [usize; 3] = [0, 1, 2];
/// The user's own attester.
const EXTRA: u8 = 60;
/// How long all forgeries together may take: the forger must wait for its turns, and for slots.
const PATIENCE: Duration = Duration::from_secs(1_200);

/// The seeds of a rollup's attesters, two of which must agree.
fn attesters(rollup: &str) -> [u8; 3] {
    if rollup == "alpha" {
        [50, 51, 52]
    } else {
        [53, 54, 55]
    }
}

/// A forgery that was put into an answer.
#[derive(Clone, Debug)]
struct Proposed {
    row: usize,
    height: u64,
    data_hash: Hash,
}

/// What the forger knows, wants and has done.
#[derive(Default)]
struct Forger {
    /// The last slot of a bundle that is guarded.
    slot: Option<Slot>,
    released: Option<Released>,
    left: BTreeSet<usize>,
    proposed: Vec<Proposed>,
}

impl Forger {
    /// What to try at a height: what has been tried least often.
    fn choose(&self, height: u64) -> Option<(usize, Scene)> {
        let scene = Scene {
            slot: self.slot.clone()?,
            released: self.released.clone()?,
        };
        let opening = scene.slot.pin + 1;
        let now = |row: &&usize| match ROWS[**row].when {
            When::Opening => height == opening,
            When::Later => height > opening,
        };
        let tries = |row: &&usize| {
            let same = |one: &&Proposed| one.row == **row;
            self.proposed.iter().filter(same).count()
        };
        let row = *self.left.iter().filter(now).min_by_key(tries)?;
        Some((row, scene))
    }
}

/// Changes the forger's answers: what it proposes, and its vote for that.
fn tamper(forger: &Mutex<Forger>, request: &request::Value, response: &mut response::Value) {
    let mut forger = forger.lock().unwrap();
    match (request, response) {
        (request::Value::PrepareProposal(request), response::Value::PrepareProposal(response)) => {
            let height = u64::try_from(request.height).unwrap();
            let Some((row, scene)) = forger.choose(height) else {
                return;
            };
            let preamble = response.txs[0].clone();
            response.txs = [vec![preamble], (ROWS[row].forge)(&scene)].concat();
            let data_hash = data_root(&response.txs);
            forger.proposed.push(Proposed {
                row,
                height,
                data_hash,
            });
        }
        (_, response::Value::ProcessProposal(response)) if !forger.left.is_empty() => {
            response.status = ProposalStatus::Accept.into();
        }
        _ => {}
    }
}

/// What attesters of a rollup are asked for, as one node tells it.
struct Asked {
    pin: u64,
    bundle: AtomicBundle,
    legs: Vec<(Ballot, LegEnv)>,
}

impl Asked {
    fn new(told: &ScheduledBundle) -> Self {
        let leg = |leg: &counterpoint_proto::sequencer::scheduled_bundle::Leg| {
            let ballot = Ballot::try_from_slice(&leg.borsh_ballot).unwrap();
            (ballot, LegEnv::try_from_slice(&leg.borsh_env).unwrap())
        };
        Self {
            pin: told.height,
            bundle: AtomicBundle::try_from_slice(&told.borsh_bundle).unwrap(),
            legs: told.legs.iter().map(leg).collect(),
        }
    }
}

/// Follows what one node schedules, until it is dropped.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn listen<F: Future<Output = ()> + Send>(
    network: &Network,
    node: usize,
    mut hear: impl FnMut(Asked) -> F + Send + 'static,
) -> Listener {
    let url = network.info.validators[node].grpc.clone();
    let mut client = BundlesClient::connect(url).await.unwrap();
    let ids = ROLLUPS.map(|(name, _)| RollupId::from_name(name));
    let rollup_ids = ids.map(|id| Bytes::copy_from_slice(id.as_bytes())).to_vec();
    let request = StreamScheduledRequest { rollup_ids };
    let mut scheduled = client.stream_scheduled(request).await.unwrap().into_inner();
    Listener(tokio::spawn(async move {
        while let Ok(Some(told)) = scheduled.message().await {
            hear(Asked::new(&told)).await;
        }
    }))
}

/// Has so many attesters of every rollup say of each slot of a bundle what `says` makes of the truth.
async fn attest(
    network: &Network,
    sample: &Sample,
    seeds: fn(&str) -> Vec<u8>,
    says: fn(&mut Statement),
) -> Listener {
    let nodes = HONEST.map(|node| network.sequencer(node));
    let (bundle, chain_id) = (sample.bundle.clone(), sample.chain_id.clone());
    listen(network, 0, move |asked| {
        let mut messages = Vec::new();
        for (ballot, env) in &asked.legs {
            if asked.bundle != bundle {
                continue;
            }
            let mut statement = statement_of(&bundle, ballot, env);
            says(&mut statement);
            let (rollup, _) = ROLLUPS
                .into_iter()
                .find(|(name, _)| RollupId::from_name(name) == ballot.rollup_id)
                .unwrap();
            for seed in seeds(rollup) {
                let said = Attestation::sign(&chain_id, *ballot, statement.clone(), &key(seed));
                messages.push(AttesterMessage::Attestation(said).encode());
            }
        }
        let nodes = nodes.clone();
        async move {
            for message in messages {
                for node in &nodes {
                    // It may be late, and then the next slot is theirs.
                    node.submit(message.clone()).await.unwrap();
                }
            }
        }
    })
    .await
}

/// Waits until a bundle's record is what is asked for, at every node.
async fn reaches(network: &Network, sample: &Sample, what: impl Fn(&BundleStatus) -> bool) {
    for node in 0..4 {
        wait_for("a bundle to come so far", || async {
            what(&look(network, node, sample).await.1.status).then_some(())
        })
        .await;
    }
}

/// Two attesters of each rollup say what became of its leg.
async fn outcomes(network: &Network, sample: &Sample, receipts_hash: Option<Hash>) {
    let release = look(network, 0, sample).await.1.release.unwrap();
    for (rollup_id, leg) in sample.bundle.rollups().into_iter().zip(release.legs) {
        let executed = Executed {
            bundle_id: sample.bundle.id(),
            rollup_id,
            block_number: leg.block_number,
            block_hash: Hash::ZERO,
            receipts_hash: receipts_hash.unwrap_or(leg.receipts_hash),
        };
        let (rollup, _) = ROLLUPS
            .into_iter()
            .find(|(name, _)| RollupId::from_name(name) == rollup_id)
            .unwrap();
        for seed in &attesters(rollup)[..2] {
            let vote = OutcomeVote::sign(&sample.chain_id, executed, &key(*seed));
            let message = AttesterMessage::Outcome(vote).encode();
            for node in HONEST {
                // Another one may have recorded it already.
                network
                    .sequencer(node)
                    .submit(message.clone())
                    .await
                    .unwrap();
            }
        }
    }
}

fn guarded(terms: &mut BundleTerms) {
    terms.extra_attesters = vec![key(EXTRA).public_key()];
}

fn first_two(rollup: &str) -> Vec<u8> {
    attesters(rollup)[..2].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attesters_decide_cannot_be_forged() {
    let directory = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(directory.path()).unwrap();
    let layout = Layout { dir: dir.clone() };
    let forger = Arc::new(Mutex::new(Forger::default()));
    let (shared, socket) = (Arc::clone(&forger), dir.join("forger.sock"));
    let app = layout.abci_socket(&format!("val-{FORGER}"));
    let _proxy = Proxy::start(&socket, app, move |request, response| {
        tamper(&shared, request, response);
    });
    let detours = Detours {
        abci: BTreeMap::from([(FORGER, socket)]).into_iter().collect(),
        ..Detours::default()
    };
    let network = Network::start_in(directory, 4, 0, |options| options.detours = detours).await;
    let first_height = register(&network, attesters).await;

    say("a liar is caught, and a bundle released");
    let released = Sample::new(&network, 0, |_| {}).await;
    release(&network, &released).await;
    forger.lock().unwrap().released = Some(Released {
        bundle: released.bundle.clone(),
        release: look(&network, 0, &released).await.1.release.unwrap(),
    });

    say("forgeries");
    let forged = forge(&network, &forger).await;
    let proposed = forger.lock().unwrap().proposed.clone();
    others_were_decided(&network, &proposed).await;

    say("honest attesters are heard again");
    let good = Sample::new(&network, 500, guarded).await;
    hand_in(&network, &good).await;
    let all = attest(
        &network,
        &good,
        |r| [first_two(r), vec![EXTRA]].concat(),
        |_| {},
    )
    .await;
    reaches(&network, &good, |s| *s == BundleStatus::Released).await;
    outcomes(&network, &good, None).await;
    reaches(&network, &good, |s| *s == BundleStatus::Executed).await;
    drop(all);

    say("a quorum lies");
    let spared = lying_quorums(&network).await;
    extracted(&network).await;
    unbundled(&network, &[&released, &forged[0], &spared.1]).await;

    let whole = BTreeSet::from([released, good, spared.0].map(|sample| sample.bundle.id()));
    let never = forged.iter().chain([&spared.1]);
    lists_are_whole(&network, first_height, &whole, never).await;
    nodes_agree(&network).await;
    network.stop().await;
}

/// Has an attester caught that says two things, and then the bundle released by the others.
async fn release(network: &Network, sample: &Sample) {
    hand_in(network, sample).await;
    let liar = attest(network, sample, |_| vec![52], |said| said.base_fee = 1).await;
    let again = attest(network, sample, |_| vec![52], |said| said.base_fee = 2).await;
    wait_for("the liar to be caught", || async {
        caught(network).await.then_some(())
    })
    .await;
    drop((liar, again));
    let honest = attest(network, sample, first_two, |_| {}).await;
    reaches(network, sample, |s| *s == BundleStatus::Released).await;
    drop(honest);
}

/// Whether the third attester of alpha has no vote any more.
async fn caught(network: &Network) -> bool {
    let key = Key::Suspension(RollupId::from_name("alpha"), key(52).public_key());
    let (client, mut trusted) = (network.sequencer(0), network.trust());
    let proven = proven_record::<Suspension>(&client, &mut trusted, &key).await;
    proven.is_ok_and(|proven| proven.record.is_some())
}

/// Lets the forger try everything, on bundles that nobody else votes for; gives these.
async fn forge(network: &Network, forger: &Arc<Mutex<Forger>>) -> Vec<Sample> {
    let shared = Arc::clone(forger);
    let listener = listen(network, FORGER, move |asked| {
        let Asked { pin, bundle, legs } = asked;
        shared.lock().unwrap().slot = Some(Slot { pin, bundle, legs });
        async {}
    })
    .await;
    let mut samples = Vec::new();
    forger.lock().unwrap().left = (0..ROWS.len()).collect();
    let deadline = Instant::now() + PATIENCE;
    while !forger.lock().unwrap().left.is_empty() {
        let live = match samples.last() {
            Some(sample) => look(network, 0, sample).await.0 != BundleStage::Aborted,
            None => false,
        };
        if !live {
            let number = 100 + samples.len() as u64;
            let sample = Sample::new(network, number, guarded).await;
            hand_in(network, &sample).await;
            samples.push(sample);
        }
        let proposed = forger.lock().unwrap().proposed.clone();
        let refused = refused(network, &proposed);
        forger
            .lock()
            .unwrap()
            .left
            .retain(|row| !refused.contains(row));
        let left: Vec<&str> = {
            let forger = forger.lock().unwrap();
            forger.left.iter().map(|row| ROWS[*row].name).collect()
        };
        assert!(Instant::now() < deadline, "never refused: {left:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(listener);
    // The first of them took every slot that it paid for, and got nothing.
    let record = look(network, 0, &samples[0]).await.1;
    if samples.len() > 1 {
        let offline = BundleStatus::Aborted(AbortReason::AttestersOffline);
        assert_eq!((record.status, record.attempts_left), (offline, 0));
    }
    samples
}

/// Rows that every honest validator has refused for the right reason. A busy machine may show a
/// proposal to one of them too late, so the forger tries again.
fn refused(network: &Network, proposed: &[Proposed]) -> BTreeSet<usize> {
    let logs = HONEST.map(|validator| {
        let log = network.log(&format!("val-{validator}-app"));
        let lines = log
            .lines()
            .filter(|line| line.contains("proposal rejected"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    let refused = |one: &&Proposed| {
        let Row { reason, .. } = ROWS[one.row];
        let height = format!("height={} ", one.height);
        let said = |line: &String| line.contains(&height) && line.contains(reason);
        logs.iter().all(|log| log.iter().any(said))
    };
    proposed.iter().filter(refused).map(|one| one.row).collect()
}

/// No forgery was decided, whatever its height was.
async fn others_were_decided(network: &Network, proposed: &[Proposed]) {
    for forged in proposed {
        network.reach(0, forged.height + 1).await;
        let signed = network.commit(0, forged.height).await;
        let decided = signed["header"]["data_hash"].as_str().unwrap();
        let data_hash = forged.data_hash.to_string();
        assert_ne!(decided.to_lowercase(), data_hash, "{forged:?}");
    }
}

/// A quorum of every rollup says what will not be. One bundle is released and its violation recorded;
/// the one that the user's own attester does not speak for is spared.
async fn lying_quorums(network: &Network) -> (Sample, Sample) {
    let lie = |said: &mut Statement| {
        if let LegOutcome::Commit { receipts_hash, .. } = &mut said.outcome {
            *receipts_hash = Hash::digest(&[b"lie"]);
        }
    };
    let spared = Sample::new(network, 600, |terms| {
        guarded(terms);
        terms.max_attempts = 2;
        terms.on_abort = OnAbort::Retry;
    })
    .await;
    hand_in(network, &spared).await;
    let liars = attest(network, &spared, first_two, lie).await;
    let offline = BundleStatus::Aborted(AbortReason::AttestersOffline);
    reaches(network, &spared, |status| *status == offline).await;
    drop(liars);
    let violated = Sample::new(network, 601, |_| {}).await;
    hand_in(network, &violated).await;
    let liars = attest(network, &violated, first_two, lie).await;
    reaches(network, &violated, |s| *s == BundleStatus::Released).await;
    drop(liars);
    outcomes(network, &violated, Some(Hash::digest(&[b"truth"]))).await;
    reaches(network, &violated, |s| *s == BundleStatus::Violated).await;
    (violated, spared)
}

/// A transaction with an authorization, which could be lifted out of its leg, is no part of one.
async fn extracted(network: &Network) {
    let chain_id = ROLLUPS[0].1;
    let signer = network_signer();
    let authorization = Authorization {
        chain_id: U256::from(chain_id),
        address: Address::repeat_byte(9),
        nonce: 1,
    };
    let signature = signer
        .sign_hash_sync(&authorization.signature_hash())
        .unwrap();
    let list = vec![authorization.into_signed(signature)];
    let raw = sign_transfer(signer, chain_id, 0, |request| {
        request.with_authorization_list(list)
    })
    .await;
    assert_eq!(raw[0], 4);
    let raw: Bytes = raw.0;
    let place = |terms: &BundleTerms| {
        let id = RollupId::from_name(ROLLUPS[0].0);
        terms
            .legs
            .iter()
            .position(|leg| leg.rollup_id == id)
            .unwrap()
    };
    let mut sample = Sample::new(network, 700, |terms| {
        let place = place(terms);
        terms.legs[place].txs[0].tx_hash = keccak(&raw);
    })
    .await;
    let mut terms = sample.bundle.terms().clone();
    terms
        .legs
        .iter_mut()
        .flat_map(|leg| &mut leg.txs)
        .for_each(|tx| tx.auth = EvmSignature::EMPTY);
    testing::sign_auths(&mut terms, 1);
    let leg = place(&terms);
    sample.bundle = AtomicBundle::new(terms).unwrap();
    sample.legs[leg] = vec![raw];
    let bundle = sample.bundle.clone();
    let sealed = sequence(network, vec![Action::SubmitBundle(SubmitBundle { bundle })]).await;
    assert_eq!(sealed.code, 0, "{}", sealed.log);
    let reveal = RevealLegs::new(sample.bundle.id(), sample.legs.clone()).unwrap();
    let tx = signed(network, 0, vec![Action::RevealLegs(reveal)]).await;
    let refused = network.sequencer(0).submit(tx.as_bytes().clone()).await;
    let refused = refused.unwrap();
    assert_eq!(refused.code, 56, "{}", refused.log);
    let expected = "it must be of type 0 with a chain id, 1 or 2";
    assert!(refused.log.contains(expected), "{}", refused.log);
}

fn network_signer() -> alloy_signer_local::PrivateKeySigner {
    alloy_signer_local::PrivateKeySigner::from_bytes(&[1; 32].into()).unwrap()
}

/// Somebody orders sealed transactions alone, of bundles that ran and of those that did not.
async fn unbundled(network: &Network, samples: &[&Sample]) {
    let mut actions = Vec::new();
    for sample in samples {
        for (rollup_id, raws) in sample.bundle.rollups().into_iter().zip(&sample.legs) {
            let data = SubmitData::new(rollup_id, raws.clone()).unwrap();
            actions.push(Action::SubmitData(data));
        }
    }
    let inclusion = sequence(network, actions).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
}

/// The legs of `whole` are in the verified lists of one height each, first; nothing else of any bundle
/// is in any list.
async fn lists_are_whole<'a>(
    network: &Network,
    first_height: u64,
    whole: &BTreeSet<Hash>,
    never: impl Iterator<Item = &'a Sample>,
) {
    let client = network.sequencer(0);
    let tip = client.info().await.unwrap().height;
    let mut places: BTreeMap<Hash, BTreeSet<(u64, RollupId)>> = BTreeMap::new();
    for (name, _) in ROLLUPS {
        let id = RollupId::from_name(name);
        let first = Height::new(first_height);
        let mut follower = Follower::new(client.clone(), id, network.trust(), first);
        for height in first_height..=tip {
            let block = follower.next().await.unwrap();
            for (place, item) in block.list.items().iter().enumerate() {
                let RollupItem::Leg { bundle_id, .. } = item else {
                    panic!("{name} has a transaction alone at height {height}: {item:?}");
                };
                assert_eq!(place, 0, "a leg runs first");
                places.entry(*bundle_id).or_default().insert((height, id));
            }
        }
    }
    for sample in never {
        assert!(!places.contains_key(&sample.bundle.id()));
    }
    assert_eq!(places.keys().copied().collect::<BTreeSet<_>>(), *whole);
    for (bundle, legs) in places {
        let heights: BTreeSet<u64> = legs.iter().map(|(height, _)| *height).collect();
        assert_eq!((legs.len(), heights.len()), (ROLLUPS.len(), 1), "{bundle}");
    }
}
