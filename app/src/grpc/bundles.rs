//! Atomic bundles, for those who handed them in and for attesters.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use counterpoint_core::{
    primitive::{Hash, Height, RollupId},
    state::{BundleRecord, BundleStatus},
};
use counterpoint_machine as machine;
use counterpoint_proto::sequencer::{
    Bundle, BundleStage, GetBundleRequest, ListBundlesRequest, ListBundlesResponse,
    ScheduledBundle, StreamBundlesRequest, StreamScheduledRequest, bundles_server,
    scheduled_bundle,
};
use counterpoint_service::connection::Peer;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Request, Response, Status};

use super::{
    Sequencer, bytes32, encode, internal,
    stream::{self, Buffered, Feed, too_slow},
};
use crate::{bundles::Scheduled, store::ChangedBundles};

/// Most bundles, and most rollups, that one reader names.
const MAX_BUNDLES: usize = 64;
const MAX_ROLLUPS: usize = 256;

/// Changes that wait for one reader.
const BUFFER: usize = 64;

#[tonic::async_trait]
impl bundles_server::Bundles for Sequencer {
    type StreamBundlesStream = Feed<Bundle>;
    type StreamScheduledStream = Feed<ScheduledBundle>;

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<Bundle>, Status> {
        let id = Hash::new(bytes32("bundle_id", &request.into_inner().bundle_id)?);
        let (state, tip) = self.state()?;
        let record = machine::query::bundle(&state, id).map_err(internal)?;
        let record = record.ok_or_else(|| Status::not_found("no such bundle was ever sealed"))?;
        Ok(Response::new(bundle(&id, tip.height, &record)?))
    }

    async fn list_bundles(
        &self,
        request: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        let id = RollupId::new(bytes32("rollup_id", &request.into_inner().rollup_id)?);
        let (state, tip) = self.state()?;
        let read = move || machine::query::bundles(&state, id);
        let waiting = self.off_worker(read).await?.map_err(internal)?;
        let told = |(id, record)| bundle(&id, tip.height, &record);
        Ok(Response::new(ListBundlesResponse {
            bundles: waiting.into_iter().map(told).collect::<Result<_, _>>()?,
        }))
    }

    async fn stream_bundles(
        &self,
        request: Request<StreamBundlesRequest>,
    ) -> Result<Response<Self::StreamBundlesStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let request = request.into_inner();
        let wanted = Wanted::new(&request)?;
        let (state, tip) = self.state()?;
        let (now, next) = if request.from_height == 0 {
            let next = Height::new(tip.height.get().saturating_add(1));
            (present(&state, tip.height, &wanted)?, next)
        } else {
            let next = Height::new(request.from_height);
            self.check_within_reach(next, tip.height)?;
            (Vec::new(), next)
        };
        let reader = self.seat(peer)?;
        let (this, patience) = (self.clone(), self.patience);
        let stream = stream::serve(BUFFER, reader, |sender| {
            feed_changes(this, now, next, wanted, patience, sender)
        });
        Ok(Response::new(stream))
    }

    async fn stream_scheduled(
        &self,
        request: Request<StreamScheduledRequest>,
    ) -> Result<Response<Self::StreamScheduledStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let rollups = rollups(&request.into_inner())?;
        let reader = self.seat(peer)?;
        let (newest, patience) = (self.bundles.scheduled(), self.patience);
        // What is not sent at once is soon of no use.
        let stream = stream::serve(1, reader, |sender| {
            feed_scheduled(rollups, newest, patience, sender)
        });
        Ok(Response::new(stream))
    }
}

/// What a reader is told of a bundle.
fn bundle(id: &Hash, height: Height, record: &BundleRecord) -> Result<Bundle, Status> {
    let (stage, reason) = match &record.status {
        BundleStatus::Sealed => (BundleStage::Sealed, String::new()),
        BundleStatus::Queued => (BundleStage::Queued, String::new()),
        BundleStatus::Scheduled(_) => (BundleStage::Scheduled, String::new()),
        BundleStatus::Released => (BundleStage::Released, String::new()),
        BundleStatus::Executed => (BundleStage::Executed, String::new()),
        BundleStatus::Unconfirmed => (BundleStage::Unconfirmed, String::new()),
        BundleStatus::Violated => (BundleStage::Violated, String::new()),
        BundleStatus::Aborted(reason) => {
            let reason = reason.explain(|rollup_id| format!("rollup {rollup_id}"));
            (BundleStage::Aborted, reason)
        }
    };
    Ok(Bundle {
        bundle_id: Bytes::copy_from_slice(id.as_bytes()),
        height: height.get(),
        stage: stage.into(),
        reason,
        borsh_record: encode(record)?,
    })
}

/// Which bundles a reader wants.
#[derive(Debug)]
struct Wanted {
    ids: BTreeSet<Hash>,
    rollup_id: Option<RollupId>,
}

impl Wanted {
    fn new(request: &StreamBundlesRequest) -> Result<Self, Status> {
        check_count(request.bundle_ids.len(), 0, MAX_BUNDLES, "bundle_ids")?;
        let id = |id: &Bytes| bytes32("bundle_id", id).map(Hash::new);
        let rollup_id = &request.rollup_id;
        let rollup_id = (!rollup_id.is_empty()).then(|| bytes32("rollup_id", rollup_id));
        Ok(Self {
            ids: request
                .bundle_ids
                .iter()
                .map(id)
                .collect::<Result<_, _>>()?,
            rollup_id: rollup_id.transpose()?.map(RollupId::new),
        })
    }

    fn matches(&self, id: &Hash, record: &BundleRecord) -> bool {
        let touches = |wanted| record.legs.iter().any(|leg| leg.rollup_id == wanted);
        (self.ids.is_empty() || self.ids.contains(id)) && self.rollup_id.is_none_or(touches)
    }
}

/// The rollups whose legs an attester wants.
fn rollups(request: &StreamScheduledRequest) -> Result<BTreeSet<RollupId>, Status> {
    check_count(request.rollup_ids.len(), 1, MAX_ROLLUPS, "rollup_ids")?;
    let id = |id: &Bytes| bytes32("rollup_id", id).map(RollupId::new);
    request.rollup_ids.iter().map(id).collect()
}

fn check_count(count: usize, least: usize, most: usize, field: &str) -> Result<(), Status> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let reason = format!("{count} {field} must be {least}..={most}");
    Err(Status::invalid_argument(reason))
}

/// Sends what has become of bundles: `now` first, then every change from height `next` on.
async fn feed_changes(
    sequencer: Sequencer,
    now: Vec<Bundle>,
    mut next: Height,
    wanted: Wanted,
    patience: Duration,
    sender: mpsc::Sender<Buffered<Bundle>>,
) -> Status {
    let slow = |from: Height| too_slow(&format!("resume from height {from}"));
    for bundle in now {
        if !send(&sender, bundle, patience).await {
            return slow(next);
        }
    }
    let mut committed = sequencer.bundles.scheduled();
    loop {
        let tip = match committed.wait_for(|tip| tip.height >= next).await {
            Ok(tip) => tip.height,
            Err(_) => return Status::unavailable("the node stops"),
        };
        while let Some(changed) = match sequencer.changed_bundles(next).await {
            Ok(changed) => changed,
            Err(status) => return status,
        } {
            next = changed.height;
            for (id, record) in &changed.records {
                if !wanted.matches(id, record) {
                    continue;
                }
                let bundle = match bundle(id, next, record) {
                    Ok(bundle) => bundle,
                    Err(status) => return status,
                };
                if !send(&sender, bundle, patience).await {
                    return slow(next);
                }
            }
            next = Height::new(next.get().saturating_add(1));
        }
        // Nothing more up to here, and what was committed meanwhile is looked for again.
        next = next.max(Height::new(tip.get().saturating_add(1)));
    }
}

impl Sequencer {
    /// The first height from `next` on that took bundles to another stage, with these.
    async fn changed_bundles(&self, next: Height) -> Result<Option<ChangedBundles>, Status> {
        self.check_served(next)?;
        let turn = Arc::clone(&self.working).acquire_owned();
        let (turn, store) = (turn.await.map_err(internal)?, self.store.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.changed_bundles(next)
        });
        reading.await.map_err(internal)?.map_err(internal)
    }
}

/// Sends what is scheduled for some rollups, as long as it is.
async fn feed_scheduled(
    rollups: BTreeSet<RollupId>,
    mut newest: watch::Receiver<Scheduled>,
    patience: Duration,
    sender: mpsc::Sender<Buffered<ScheduledBundle>>,
) -> Status {
    loop {
        let scheduled = newest.borrow_and_update().clone();
        for bundle in scheduled.bundles.iter() {
            if newest.has_changed().unwrap_or(true) {
                break; // Nobody can vote on the rest any more.
            }
            let message = match message(scheduled.height, bundle, &rollups) {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(status) => return status,
            };
            if !send(&sender, message, patience).await {
                return too_slow("come back for what is scheduled then");
            }
        }
        if newest.changed().await.is_err() {
            return Status::unavailable("the node stops");
        }
    }
}

fn message(
    height: Height,
    scheduled: &machine::ScheduledBundle,
    rollups: &BTreeSet<RollupId>,
) -> Result<Option<ScheduledBundle>, Status> {
    let legs = scheduled.legs.iter();
    let legs = legs.filter(|leg| rollups.contains(&leg.ballot.rollup_id));
    let leg = |leg: &machine::ScheduledLeg| {
        Ok(scheduled_bundle::Leg {
            borsh_ballot: encode(&leg.ballot)?,
            borsh_env: encode(&leg.env)?,
            transactions: leg.txs.clone(),
        })
    };
    let legs: Vec<_> = legs.map(leg).collect::<Result<_, Status>>()?;
    if legs.is_empty() {
        return Ok(None);
    }
    Ok(Some(ScheduledBundle {
        height: height.get(),
        borsh_bundle: encode(&scheduled.bundle)?,
        legs,
    }))
}

async fn send<T>(sender: &mpsc::Sender<Buffered<T>>, item: T, patience: Duration) -> bool {
    matches!(
        timeout(patience, sender.send((item, None))).await,
        Ok(Ok(()))
    )
}

/// How far the bundles are that a reader names, as far as they are known.
fn present<S: machine::StateRead>(
    state: &S,
    height: Height,
    wanted: &Wanted,
) -> Result<Vec<Bundle>, Status> {
    let mut bundles = Vec::new();
    for id in &wanted.ids {
        let record = machine::query::bundle(state, *id).map_err(internal)?;
        if let Some(record) = record.filter(|record| wanted.matches(id, record)) {
            bundles.push(bundle(id, height, &record)?);
        }
    }
    Ok(bundles)
}
