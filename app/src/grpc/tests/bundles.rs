//! Streams of bundles, through a bundle's life.

use std::collections::BTreeSet;

use borsh::BorshDeserialize;
use counterpoint_core::{
    atomic::{AtomicBundle, Ballot, LegEnv},
    primitive::EvmAddress,
    state::{BundleRecord, BundleStatus, Key},
};
use counterpoint_proto::sequencer::{
    Bundle, BundleStage, GetBundleRequest, ListBundlesRequest, StreamBundlesRequest,
    StreamScheduledRequest, bundles_server::Bundles as _,
};
use tempfile::{TempDir, tempdir};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Code;

use super::super::{stream::Feed, *};
use crate::testing::{
    Node,
    attest::{ATTESTERS, Sample, Says, attest, now},
};

/// How long anything may take that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

struct Fixture {
    _directory: TempDir,
    node: Node,
    sequencer: Sequencer,
    shutdown: CancellationToken,
}

async fn start() -> Fixture {
    let directory = tempdir().unwrap();
    let node = Node::start_attested(directory.path()).await;
    let (_, streamable) = watch::channel(Height::new(0));
    let shutdown = CancellationToken::new();
    let rpc = crate::health::rpc_client("http://127.0.0.1:1").unwrap();
    let (store, bundles) = (node.store.clone(), node.bundles.clone());
    let mempool = Arc::clone(&node.mempool);
    let sequencer = Sequencer::new(store, mempool, bundles, rpc, streamable, shutdown.clone());
    let told = node.bundles.clone();
    tokio::spawn(told.run(node.store.clone(), node.commits.clone(), shutdown.clone()));
    Fixture {
        _directory: directory,
        node,
        sequencer,
        shutdown,
    }
}

fn from_peer<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer {
        cut: CancellationToken::new(),
        readers: Arc::new(Semaphore::new(1)),
    });
    request
}

fn id(sample: &Sample) -> Bytes {
    Bytes::copy_from_slice(sample.bundle.id().as_bytes())
}

async fn next<T>(stream: &mut Feed<T>) -> Result<T, Status> {
    let next = timeout(DEADLINE, stream.next()).await;
    next.expect("something is told").expect("it has not ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_is_told_by_height() {
    let Fixture {
        node, sequencer, ..
    } = &start().await;
    let sample = Sample::new(0, |_| {});
    let unknown = sequencer.get_bundle(Request::new(GetBundleRequest {
        bundle_id: id(&sample),
    }));
    assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);
    let all = from_peer(StreamBundlesRequest::default());
    let mut stream = sequencer.stream_bundles(all).await.unwrap().into_inner();
    node.schedule(&sample).await;
    for seed in [ATTESTERS[0], ATTESTERS[1]] {
        for message in attest(&now(node), seed, Says::Commit) {
            assert_eq!(node.check(&message).await.0, 0);
        }
    }
    node.advance().await;
    // Of one leg after the other: the first takes the bundle to no other stage.
    for leg in 0..2 {
        for seed in [ATTESTERS[0], ATTESTERS[1]] {
            let message = &sample.outcomes(node, seed)[leg];
            assert_eq!(node.check(message).await.0, 0);
        }
        node.advance().await;
    }
    let stages = [
        BundleStage::Queued, // It was sealed and revealed in one block.
        BundleStage::Scheduled,
        BundleStage::Released,
        BundleStage::Executed,
    ];
    let (mut height, mut history) = (0, Vec::new());
    for stage in stages {
        let told = next(&mut stream).await.unwrap();
        assert_eq!((told.bundle_id.clone(), told.stage()), (id(&sample), stage));
        assert!(told.height > height);
        height = told.height;
        history.push(told);
    }
    // Who was away is told the same, from any height on that is still here.
    for missed in 0..history.len() {
        let from_height = history[missed].height;
        let mut again = resume(sequencer, from_height).await.unwrap();
        for told in &history[missed..] {
            assert_eq!(next(&mut again).await.unwrap(), *told);
        }
    }
    assert_eq!(height, node.store.tip().unwrap().height.get());
    let known = sequencer.get_bundle(Request::new(GetBundleRequest {
        bundle_id: id(&sample),
    }));
    let known: Bundle = known.await.unwrap().into_inner();
    let record = BundleRecord::try_from_slice(&known.borsh_record).unwrap();
    assert_eq!(record.status, BundleStatus::Executed);
    // Who names bundles is told first how far they are; and who names others is told nothing.
    let named = from_peer(StreamBundlesRequest {
        bundle_ids: vec![id(&sample)],
        ..StreamBundlesRequest::default()
    });
    let mut named = sequencer.stream_bundles(named).await.unwrap().into_inner();
    assert_eq!(next(&mut named).await.unwrap(), known);
    let many = from_peer(StreamBundlesRequest {
        bundle_ids: vec![id(&sample); 65],
        ..StreamBundlesRequest::default()
    });
    let refused = sequencer.stream_bundles(many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let far = resume(sequencer, height + 10_000).await;
    assert_eq!(far.unwrap_err().code(), Code::OutOfRange);
    node.store.raise_lowest(Height::new(height)).unwrap();
    while node.store.prune().unwrap().is_continue() {}
    assert!(resume(sequencer, height).await.is_ok());
    let pruned = resume(sequencer, height - 1).await;
    assert_eq!(pruned.unwrap_err().code(), Code::OutOfRange);
    let kept = node.store.changed_bundles(Height::new(1)).unwrap();
    assert_eq!(kept.unwrap().height, Height::new(height), "nothing below");
}

/// A stream of all bundles from a height on.
async fn resume(sequencer: &Sequencer, from_height: u64) -> Result<Feed<Bundle>, Status> {
    let request = from_peer(StreamBundlesRequest {
        from_height,
        ..StreamBundlesRequest::default()
    });
    Ok(sequencer.stream_bundles(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn attesters_are_told_what_to_execute_while_it_is_scheduled() {
    let Fixture {
        node,
        sequencer,
        shutdown,
        ..
    } = &start().await;
    let sample = Sample::new(0, |_| {});
    let [alpha, beta] = ["alpha", "beta"].map(RollupId::from_name);
    let wanted = |id: RollupId| {
        from_peer(StreamScheduledRequest {
            rollup_ids: vec![Bytes::copy_from_slice(id.as_bytes())],
        })
    };
    let early = sequencer.stream_scheduled(wanted(beta)).await.unwrap();
    let mut early = early.into_inner();
    node.schedule(&sample).await;
    let waiting = sequencer.list_bundles(Request::new(ListBundlesRequest {
        rollup_id: Bytes::copy_from_slice(alpha.as_bytes()),
    }));
    let waiting = waiting.await.unwrap().into_inner().bundles;
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].stage(), BundleStage::Scheduled);
    let slot = &now(node)[0];
    let late = sequencer.stream_scheduled(wanted(alpha)).await.unwrap();
    let mut late = late.into_inner();
    for (stream, rollup_id) in [(&mut early, beta), (&mut late, alpha)] {
        let told = next(stream).await.unwrap();
        assert_eq!(told.height, node.store.tip().unwrap().height.get());
        let bundle = AtomicBundle::try_from_slice(&told.borsh_bundle).unwrap();
        assert_eq!(bundle, sample.bundle);
        let [leg] = &told.legs[..] else {
            panic!("only the leg that was asked for: {told:?}");
        };
        let ballot = Ballot::try_from_slice(&leg.borsh_ballot).unwrap();
        assert_eq!(ballot.rollup_id, rollup_id);
        let legs = slot.legs.iter();
        let mut legs = legs.filter(|leg| leg.ballot == ballot);
        let expected = legs.next().expect("the ballot of this slot");
        let env = LegEnv::try_from_slice(&leg.borsh_env).unwrap();
        assert_eq!((&env, &leg.transactions), (&expected.env, &expected.txs));
    }
    let crowd = sequencer.stream_scheduled(from_peer(StreamScheduledRequest::default()));
    assert_eq!(crowd.await.unwrap_err().code(), Code::InvalidArgument);
    shutdown.cancel();
    let end = next(&mut late).await.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
}

#[test]
fn the_longest_key_of_the_state_may_be_asked_for() {
    let sender = EvmAddress::new([2; 20]);
    let seal = Key::Seal(RollupId::new([1; 32]), Hash::ZERO, sender);
    assert!(seal.encode().len() <= MAX_KEY_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_lags_is_told_where_to_resume() {
    const BUNDLES: u64 = 70;
    let mut fixture = start().await;
    fixture.sequencer.patience = Duration::from_millis(200);
    let Fixture {
        node, sequencer, ..
    } = &fixture;
    let mut request = from_peer(StreamBundlesRequest::default());
    let cut = CancellationToken::new();
    request.extensions_mut().insert(Peer {
        cut: cut.clone(),
        readers: Arc::new(Semaphore::new(1)),
    });
    let mut stream = sequencer
        .stream_bundles(request)
        .await
        .unwrap()
        .into_inner();
    let mut ids = BTreeSet::new();
    for number in 0..BUNDLES {
        let sample = Sample::new(number, |_| {});
        let [submit, _] = sample.transactions(2, number);
        assert_eq!(node.check(&submit).await.0, 0);
        ids.insert(id(&sample));
    }
    let height = u64::try_from(node.advance().await.0.height).unwrap();
    // It does not read, until its connection is cut.
    timeout(DEADLINE, cut.cancelled()).await.unwrap();
    let end = loop {
        if let Err(end) = next(&mut stream).await {
            break end;
        }
    };
    assert_eq!(end.code(), Code::ResourceExhausted);
    let remedy = format!("resume from height {height}");
    assert!(end.message().ends_with(&remedy), "{end}");
    drop(stream);
    let mut again = resume(sequencer, height).await.unwrap();
    for _ in 0..BUNDLES {
        let told = next(&mut again).await.unwrap();
        assert!(ids.remove(&told.bundle_id), "each once");
    }
}
