//! Snapshots of the state: made beside consensus, served to nodes that join, restored by them.
//!
//! ```text
//! Commit ─state at that height─▶ make ─▶ <height>/{0, 1, …, metadata} ─▶ peers' CometBFT
//! peers' CometBFT ─▶ Restore: chunk by chunk, verified ─▶ tree ─root = app hash?─▶ the node's state
//! ```
//! A directory appears under its name by one rename, when everything in it is on disk: whatever
//! moment a node ends at, a snapshot is whole or not there.

mod format;
mod restore;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::Context;
use counterpoint_core::primitive::{Hash, Height};
use counterpoint_service::to_f64;
use format::{Chunker, MAX_CHUNKS};
pub(crate) use format::{FORMAT, Metadata};
use metrics::{counter, gauge, histogram};
pub(crate) use restore::{ApplyError, OfferError, Progress, Restore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    metric,
    store::{StateSnapshot, Store},
};

/// The file beside the chunks.
const METADATA: &str = "metadata";
/// How the name of a directory begins that is not whole, or not wanted any more.
const TEMPORARY: &str = "tmp-";

/// When snapshots are made, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// One at every multiple of so many heights; none if 0.
    pub(crate) interval: u64,
    /// The newest ones stay. A joining CometBFT waits for ever for a chunk of one that is gone.
    pub(crate) kept: NonZeroUsize,
}

/// The snapshots of one node.
#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    settings: Settings,
    /// Those that are whole.
    known: Mutex<BTreeMap<Height, Metadata>>,
    /// Whether one is in the making.
    making: AtomicBool,
    wanted: mpsc::Sender<StateSnapshot>,
}

impl Snapshots {
    /// The snapshots in `directory`, and what [`run`](Self::run) shall take new ones of.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn open(
        directory: PathBuf,
        settings: Settings,
    ) -> anyhow::Result<(Arc<Self>, mpsc::Receiver<StateSnapshot>)> {
        let known = read_all(&directory)
            .with_context(|| format!("failed to read snapshots in {}", directory.display()))?;
        let (wanted, states) = mpsc::channel(1);
        let snapshots = Self {
            directory,
            settings,
            known: Mutex::new(known),
            making: AtomicBool::new(false),
            wanted,
        };
        snapshots.show();
        Ok((Arc::new(snapshots), states))
    }

    /// Whether this node makes snapshots.
    pub(crate) fn are_made(&self) -> bool {
        self.settings.interval > 0
    }

    /// Asks for a snapshot of the state that was committed just now, if one is due. Never waits.
    pub(crate) fn committed(&self, height: Height, store: &Store) {
        let interval = self.settings.interval;
        let due = interval > 0 && height.get().is_multiple_of(interval);
        if !due || self.known().contains_key(&height) {
            return;
        }
        if self.making.swap(true, Ordering::AcqRel) {
            warn!(%height, "no snapshot: the one before is still in the making");
            counter!(metric::SKIPPED_SNAPSHOTS).increment(1);
            return;
        }
        if self.wanted.try_send(store.state()).is_err() {
            self.making.store(false, Ordering::Release);
        }
    }

    /// Makes the snapshots that were asked for, until told to stop. One that fails is not missed by
    /// this node, so it only says so.
    ///
    /// # Errors
    /// The work panicked.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut states: mpsc::Receiver<StateSnapshot>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let state = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                state = states.recv() => match state {
                    Some(state) => state,
                    None => return Ok(()),
                },
            };
            let (this, stop) = (Arc::clone(&self), shutdown.clone());
            let made = tokio::task::spawn_blocking(move || this.make(&state, &stop)).await?;
            if let Err(error) = made
                && !shutdown.is_cancelled()
            {
                error!(error = format!("{error:#}"), "no snapshot");
                counter!(metric::SKIPPED_SNAPSHOTS).increment(1);
            }
        }
    }

    /// Makes a snapshot that was asked for; then the next one may be.
    pub(crate) fn make(
        &self,
        state: &StateSnapshot,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let made = self.write_and_forget(state, stop);
        self.making.store(false, Ordering::Release);
        made
    }

    /// Writes a snapshot, and lets go of the oldest.
    fn write_and_forget(
        &self,
        state: &StateSnapshot,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let height = state.tip()?.height;
        let temporary = self.directory.join(format!("{TEMPORARY}{height}"));
        remove(&temporary)?;
        let metadata = write(state, &temporary, stop).inspect_err(|_| {
            // The next start tries again.
            let _ = remove(&temporary);
        })?;
        fs::rename(&temporary, self.path(height))?;
        sync_directory(&self.directory)?;
        let chunks = metadata.chunks.len();
        self.known().insert(height, metadata);
        histogram!(metric::SNAPSHOT_SECONDS).record(start.elapsed());
        info!(%height, chunks, "snapshot made");
        self.forget_old()?;
        self.show();
        Ok(())
    }

    fn forget_old(&self) -> anyhow::Result<()> {
        loop {
            let oldest = {
                let mut known = self.known();
                if known.len() <= self.settings.kept.get() {
                    return Ok(());
                }
                known.pop_first()
            };
            let Some((height, _)) = oldest else {
                return Ok(());
            };
            // It must not look whole while it goes.
            let temporary = self.directory.join(format!("{TEMPORARY}{height}"));
            remove(&temporary)?;
            fs::rename(self.path(height), &temporary)?;
            remove(&temporary)?;
        }
    }

    /// All that are whole, oldest first.
    pub(crate) fn list(&self) -> Vec<Metadata> {
        self.known().values().cloned().collect()
    }

    /// The height of the oldest one.
    pub(crate) fn oldest(&self) -> Option<Height> {
        self.known().keys().next().copied()
    }

    /// A chunk; nothing if there is no such snapshot, or none any more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn chunk(&self, height: Height, index: u32) -> io::Result<Option<Vec<u8>>> {
        let chunks = self.known().get(&height).map(|known| known.chunks.len());
        let exists = chunks.is_some_and(|chunks| (index as usize) < chunks);
        if !exists {
            return Ok(None);
        }
        match fs::read(self.path(height).join(index.to_string())) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, height: Height) -> PathBuf {
        self.directory.join(height.to_string())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Height, Metadata>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        if let Some((height, _)) = self.known().last_key_value() {
            gauge!(metric::SNAPSHOT_HEIGHT).set(to_f64(height.get()));
        }
    }
}

/// Writes chunks and metadata into a new directory, and sees to it that they are on disk.
fn write(
    state: &StateSnapshot,
    directory: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Metadata> {
    fs::create_dir_all(directory)?;
    let mut hashes = Vec::new();
    let mut put = |chunk: Vec<u8>| {
        anyhow::ensure!(!stop.is_cancelled(), "the node stops");
        anyhow::ensure!(hashes.len() < MAX_CHUNKS, "more than {MAX_CHUNKS} chunks");
        write_synced(&directory.join(hashes.len().to_string()), &chunk)?;
        hashes.push(Hash::digest(&[&chunk]));
        Ok(())
    };
    let mut chunker = Chunker::default();
    for entry in state.entries() {
        let (key, value) = entry?;
        if let Some(chunk) = chunker.push(&key, &value)? {
            put(chunk)?;
        }
    }
    if let Some(chunk) = chunker.finish() {
        put(chunk)?;
    }
    let tip = state.tip()?;
    let metadata = Metadata::new(tip.height, tip.initial, hashes);
    write_synced(&directory.join(METADATA), &borsh::to_vec(&metadata)?)?;
    sync_directory(directory)?;
    Ok(metadata)
}

/// Finds the snapshots in a directory, and removes what is none.
fn read_all(directory: &Path) -> anyhow::Result<BTreeMap<Height, Metadata>> {
    fs::create_dir_all(directory)?;
    let mut known = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(|name| name.parse().ok()) {
            Some(height) => match read(&path, height) {
                Ok(metadata) => {
                    known.insert(height, metadata);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(path = %path.display(), error, "damaged snapshot removed");
                    remove(&path)?;
                }
            },
            None if name.is_some_and(|name| name.starts_with(TEMPORARY)) => remove(&path)?,
            None => {}
        }
    }
    Ok(known)
}

fn read(path: &Path, height: Height) -> anyhow::Result<Metadata> {
    let metadata = Metadata::decode(&fs::read(path.join(METADATA))?)?;
    anyhow::ensure!(metadata.height == height, "it is of another height");
    Ok(metadata)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
