//! Atomic bundles that have changed not long ago, with the heights at which they did.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use counterpoint_core::{
    primitive::{Hash, Height},
    state::BundleRecord,
};
use counterpoint_proto::sequencer::Bundle;
use counterpoint_service::sequencer::Client;
use serde::Serialize;
use tonic::Status;
use tracing::debug;

use crate::answer::Trouble;

/// Bundles that are remembered.
const KEPT: usize = 256;
/// Stages that are remembered of one.
const MAX_STAGES: usize = 64;
/// How many heights below the tip the first look begins.
const BEGIN: u64 = 10_000;
/// Pause before a node is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// A stage, and the height that brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stage {
    pub(crate) stage: String,
    pub(crate) height: u64,
}

/// A bundle, and how it came to where it is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: Hash,
    pub(crate) record: BundleRecord,
    pub(crate) stages: Vec<Stage>,
}

/// The bundles that have changed last.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Posted>);

#[derive(Debug, Default)]
struct Posted {
    entries: HashMap<Hash, Entry>,
    /// All of them, those that changed last at the end.
    line: VecDeque<Hash>,
    /// The last height that was told of.
    height: u64,
}

impl Board {
    fn posted(&self) -> MutexGuard<'_, Posted> {
        // What is behind this lock is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows bundles until it is dropped.
    pub(crate) async fn run(&self, client: &Client) {
        loop {
            if let Err(error) = self.follow(client).await {
                debug!(%error, "no news of bundles");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, client: &Client) -> Result<(), Trouble> {
        let info = client.info().await?;
        let begin = info.height.saturating_sub(BEGIN).max(info.lowest_height);
        // The height that was told of last may have more to tell.
        let from = begin.max(self.posted().height).max(1);
        let mut stream = client.bundles(Height::new(from)).await?;
        while let Some(bundle) = stream.message().await? {
            self.post(&bundle)?;
        }
        Err(Status::unavailable("the stream has ended").into())
    }

    fn post(&self, bundle: &Bundle) -> Result<(), Trouble> {
        let entry = Entry::read(bundle)?;
        let mut posted = self.posted();
        posted.height = posted.height.max(bundle.height);
        posted.line.retain(|id| *id != entry.id);
        posted.line.push_back(entry.id);
        let known = posted.entries.entry(entry.id).or_insert_with(|| Entry {
            stages: Vec::new(),
            ..entry.clone()
        });
        known.record = entry.record;
        for stage in entry.stages {
            if known.stages.last() != Some(&stage) && known.stages.len() < MAX_STAGES {
                known.stages.push(stage);
            }
        }
        if posted.line.len() > KEPT
            && let Some(oldest) = posted.line.pop_front()
        {
            posted.entries.remove(&oldest);
        }
        Ok(())
    }

    /// Those that changed last, the newest first.
    #[must_use]
    pub(crate) fn newest(&self, count: usize) -> Vec<Entry> {
        let posted = self.posted();
        let line = posted.line.iter().rev().take(count);
        line.filter_map(|id| posted.entries.get(id).cloned())
            .collect()
    }

    /// A bundle, if it has changed not long ago.
    #[must_use]
    pub(crate) fn get(&self, id: &Hash) -> Option<Entry> {
        self.posted().entries.get(id).cloned()
    }
}

impl Entry {
    /// What a node says of a bundle.
    ///
    /// # Errors
    /// [`Trouble::Malformed`] if it is no bundle.
    pub(crate) fn read(bundle: &Bundle) -> Result<Self, Trouble> {
        let malformed = || Trouble::Malformed("bundle");
        let id: [u8; 32] = (&bundle.bundle_id[..])
            .try_into()
            .map_err(|_| malformed())?;
        let record: BundleRecord =
            borsh::from_slice(&bundle.borsh_record).map_err(|_| malformed())?;
        let stage = Stage {
            stage: record.status.to_string(),
            height: bundle.height,
        };
        Ok(Self {
            id: Hash::new(id),
            record,
            stages: vec![stage],
        })
    }
}
