//! Legs that succeeded, compared with what their attesters have signed.
//!
//! A leg can succeed and yet come to other receipts than were promised, while legs of other rollups ran because of
//! the promise. The sequencer's state says what it was, and proves it; nothing waits for the answer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use counterpoint_core::{
    light::TrustedState,
    primitive::{Hash, RollupId},
    state::{BundleRecord, Key},
};
use counterpoint_service::sequencer::{Client, ClientError, proven_record};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Broken, ExecutedLeg, sound};
use crate::{evm::Store, progress::read_block};

/// Legs that may wait to be compared; while a conductor catches up there can be more.
const WAITING: usize = 256;
/// Until the sequencer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes legs of blocks that are committed.
#[derive(Clone, Debug)]
pub(crate) struct Audit(mpsc::Sender<(u64, ExecutedLeg)>);

impl Audit {
    /// Has legs of block `number` compared. One too many is not, and the log says so.
    pub(crate) fn hand_in(&self, number: u64, legs: Vec<ExecutedLeg>) {
        // Those that failed are shown already.
        for leg in legs.into_iter().filter(ExecutedLeg::succeeds) {
            let bundle_id = leg.bundle_id;
            if self.0.try_send((number, leg)).is_err() {
                warn!(%bundle_id, number, "a leg is not compared with what was attested: too many wait");
            }
        }
    }
}

/// Compares legs of one rollup.
#[derive(Debug)]
pub(crate) struct Auditor {
    sequencer: Client,
    rollup_id: RollupId,
    trusted: TrustedState,
    store: Arc<dyn Store>,
    data_dir: PathBuf,
    legs: mpsc::Receiver<(u64, ExecutedLeg)>,
}

impl Auditor {
    /// An auditor that trusts what `trusted` leads to, and where legs reach it.
    pub(crate) fn new(
        sequencer: Client,
        rollup_id: RollupId,
        trusted: TrustedState,
        store: Arc<dyn Store>,
        data_dir: PathBuf,
    ) -> (Self, Audit) {
        let (audit, legs) = mpsc::channel(WAITING);
        let auditor = Self {
            sequencer,
            rollup_id,
            trusted,
            store,
            data_dir,
            legs,
        };
        (auditor, Audit(audit))
    }

    /// Compares what comes in, until no more can come.
    ///
    /// # Errors
    /// The sequencer has forked, or evidence cannot be read or written.
    pub(crate) async fn run(mut self) -> eyre::Result<()> {
        while let Some((number, leg)) = self.legs.recv().await {
            // Without a record nobody can be held to it any more.
            let Some(record) = self.record(&leg).await? else {
                debug!(bundle_id = %leg.bundle_id, number, "a leg's release is forgotten");
                continue;
            };
            if let Some(promised) = promised(&record, &self.rollup_id)
                && promised != leg.receipts_hash()
            {
                let (_, block) = read_block(self.store.as_ref(), number)?;
                sound(&self.data_dir, &block, &leg, Broken::Otherwise(promised))?;
            }
        }
        Ok(())
    }

    /// The bundle's record after its release.
    async fn record(&mut self, leg: &ExecutedLeg) -> eyre::Result<Option<BundleRecord>> {
        let key = Key::Bundle(leg.bundle_id);
        loop {
            match proven_record(&self.sequencer, &mut self.trusted, &key).await {
                Ok(proven) if proven.height >= leg.height => return Ok(proven.record),
                Ok(_) => {}
                Err(fork @ ClientError::Fork(_)) => return Err(fork.into()),
                Err(error) => debug!(%error, "no node proves what was attested"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What attesters of a rollup have said that the receipts of its leg are.
fn promised(record: &BundleRecord, rollup_id: &RollupId) -> Option<Hash> {
    let release = record.release.as_ref()?;
    let at = record
        .legs
        .iter()
        .position(|leg| leg.rollup_id == *rollup_id)?;
    Some(release.legs.get(at)?.receipts_hash)
}
