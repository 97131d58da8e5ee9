//! An append-only file of records, synced in groups.
//!
//! Whoever finds nobody writing takes whatever waits, writes it as one group, syncs once and then answers
//! everybody: many acknowledgements cost one fsync, and a lone one no way to another thread and back. What
//! comes meanwhile is the next group, which a thread writes. The file begins with its format. A group is
//! `head ‖ records`, the head being `u32le length ‖ u32le crc32 of the records ‖ u32le crc32 of both`, a
//! record `u32le length ‖ borsh`. A torn last group, which nobody was told of, is cut off at start;
//! damage before it is an error. After a write that failed nothing is written any more: what the disk
//! holds then is found out by the next start.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

use borsh::{BorshDeserialize, BorshSerialize};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
    task::block_in_place,
};

/// What a file begins with: the format of records and groups.
const MAGIC: &[u8; 8] = b"cpqueue2";
/// Longest record, in bytes: what compaction keeps of a full queue.
const MAX_RECORD_BYTES: usize = 8 << 20;
/// Bytes before a group.
const HEAD_BYTES: usize = 12;
/// Bytes before a record.
const LENGTH_BYTES: usize = 4;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The disk fails.
    #[error("queue log {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Another composer uses the directory.
    #[error("{} is in use by another process: give every composer a data_dir of its own", path.display())]
    Locked {
        /// The file that is locked.
        path: PathBuf,
    },
    /// A record that was acknowledged is damaged.
    #[error(
        "queue log {} is damaged at byte {offset}: restore it, or move it away and accept that the \
         transactions in it are lost", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
    /// The file is of another release.
    #[error(
        "queue log {} has another format: let the release that wrote it send what is in it, or move \
         it away and accept that the transactions in it are lost", path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A write has failed; nothing is acknowledged any more.
    #[error("the composer cannot write its queue and takes nothing in: {0}")]
    Stopped(String),
}

/// A handle to the log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    /// Rung when something waits that nobody else will write.
    bell: SyncSender<()>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// The next group, and who waits for it.
    waiting: Mutex<Waiting>,
    /// Held by whoever writes; none once a write has failed.
    file: Mutex<Option<File>>,
    /// Bytes appended since the log was opened or replaced.
    grown: AtomicU64,
    /// Why nothing is written any more.
    failure: OnceLock<String>,
    /// Held as long as the log is used.
    _lock: File,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<u8>,
    done: Vec<oneshot::Sender<()>>,
}

/// Records that have their place in the log, but are not on disk yet.
#[derive(Debug)]
#[must_use = "nothing is on disk before it is waited for"]
pub(crate) struct Enqueued {
    log: Log,
    done: oneshot::Receiver<()>,
}

impl Log {
    /// Opens a log and gives back every record in it, oldest first.
    ///
    /// # Errors
    /// [`LogError`] if the file cannot be used or an acknowledged record is damaged.
    pub(crate) fn open<R: BorshDeserialize>(path: &Path) -> Result<(Self, Vec<R>), LogError> {
        let at = |source| LogError::Io {
            path: path.into(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(at)?;
        }
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: lock_path }),
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(at)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at)?;
        let (records, end) = match bytes.strip_prefix(MAGIC) {
            Some(groups) => {
                let damaged = |offset| LogError::Damaged {
                    path: path.into(),
                    offset: MAGIC.len() + offset,
                };
                let (records, end) = read_all(groups).map_err(damaged)?;
                (records, MAGIC.len() + end)
            }
            // Nothing was ever acknowledged.
            None if MAGIC.starts_with(&bytes) => (Vec::new(), 0),
            None => return Err(LogError::Format { path: path.into() }),
        };
        file.set_len(end as u64).map_err(at)?;
        if end == 0 {
            file.write_all(MAGIC).map_err(at)?;
        }
        file.sync_all().map_err(at)?;
        sync_parent(path).map_err(at)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            waiting: Mutex::default(),
            file: Mutex::new(Some(file)),
            grown: AtomicU64::default(),
            failure: OnceLock::new(),
            _lock: lock,
        });
        let (bell, rings) = mpsc::sync_channel(1);
        let writer = Arc::downgrade(&shared);
        thread::spawn(move || {
            while rings.recv().is_ok() {
                if let Some(shared) = writer.upgrade() {
                    shared.commit(&mut guard(&shared.file));
                }
            }
        });
        Ok((Self { shared, bell }, records))
    }

    /// Bytes by which the log has grown since it was opened or replaced.
    #[must_use]
    pub(crate) fn grown(&self) -> u64 {
        self.shared.grown.load(Ordering::Relaxed)
    }

    /// Why nothing can be written any more, if so.
    #[must_use]
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.failure.get().cloned()
    }

    /// What whoever wants to write is told once a write has failed.
    #[must_use]
    pub(crate) fn stopped(&self) -> LogError {
        LogError::Stopped(self.failure().unwrap_or_else(|| "it stops".into()))
    }

    /// Gives records their place, behind all that were enqueued before.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if one is too long; then none has a place.
    pub(crate) fn enqueue<R: BorshSerialize>(&self, records: &[R]) -> Result<Enqueued, LogError> {
        let frames = self.frames(records)?;
        let (sender, done) = oneshot::channel();
        let grown = frames.len() as u64;
        self.shared.grown.fetch_add(grown, Ordering::Relaxed);
        let mut waiting = guard(&self.shared.waiting);
        waiting.records.extend_from_slice(&frames);
        waiting.done.push(sender);
        let log = self.clone();
        Ok(Enqueued { log, done })
    }

    /// Appends records together and waits until they are on disk.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if they may not be.
    pub(crate) async fn append<R: BorshSerialize>(&self, records: &[R]) -> Result<(), LogError> {
        self.enqueue(records)?.on_disk().await
    }

    /// Replaces everything by `records`, in one step that a crash cannot split. Whoever holds the queue
    /// meanwhile holds it to the end: nobody can stop waiting for this half-way.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if the old log may still be there; it is never damaged.
    pub(crate) fn replace<R: BorshSerialize>(&self, records: &[R]) -> Result<(), LogError> {
        let frames = self.frames(records)?;
        if blocking(|| self.shared.replace(&frames)) {
            Ok(())
        } else {
            Err(self.stopped())
        }
    }

    fn frames<R: BorshSerialize>(&self, records: &[R]) -> Result<Vec<u8>, LogError> {
        let mut frames = Vec::new();
        for record in records {
            frame(record, &mut frames).map_err(|_| self.stopped())?;
        }
        Ok(frames)
    }
}

impl Enqueued {
    /// Waits until the records are on disk.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if they may not be.
    pub(crate) async fn on_disk(self) -> Result<(), LogError> {
        let Self { log, done } = self;
        if let Ok(mut file) = log.shared.file.try_lock() {
            blocking(|| log.shared.commit(&mut file));
        } else {
            // Full, it rings anyhow, and what waits by then is written.
            let _ = log.bell.try_send(());
        }
        done.await.map_err(|_| log.stopped())
    }
}

impl Shared {
    /// Writes what waits as one group. Should that fail, now or before, those who wait learn it because
    /// their channels close.
    fn commit(&self, file: &mut Option<File>) {
        let Waiting { records, done } = std::mem::take(&mut *guard(&self.waiting));
        let Some(open) = file.as_mut() else {
            return;
        };
        if let Err(error) = append(open, &records) {
            self.fail(file, &error);
            return;
        }
        for sender in done {
            let _ = sender.send(());
        }
    }

    /// Writes what waits and then puts `frames` in the place of everything; whether that is done.
    fn replace(&self, frames: &[u8]) -> bool {
        let mut file = guard(&self.file);
        self.commit(&mut file);
        if file.is_none() {
            return false;
        }
        match replace(&self.path, frames) {
            Ok(fresh) => {
                *file = Some(fresh);
                self.grown.store(0, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.fail(&mut file, &error);
                false
            }
        }
    }

    fn fail(&self, file: &mut Option<File>, error: &io::Error) {
        tracing::error!(%error, "queue log failed");
        let _ = self
            .failure
            .set(format!("{}: {error}", self.path.display()));
        *file = None;
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what takes as long as the disk does, others going on meanwhile where there are other threads.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => block_in_place(work),
        _ => work(),
    }
}

/// Writes a record behind its length.
fn frame<R: BorshSerialize>(record: &R, frames: &mut Vec<u8>) -> io::Result<()> {
    let start = frames.len();
    frames.extend_from_slice(&[0; LENGTH_BYTES]);
    record.serialize(frames)?;
    let (_, frame) = frames.split_at_mut(start);
    let (head, payload) = frame.split_at_mut(LENGTH_BYTES);
    if payload.len() > MAX_RECORD_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    head.copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// A group as it is written.
fn group(records: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(records.len()).map_err(io::Error::other)?;
    let mut group = Vec::with_capacity(HEAD_BYTES + records.len());
    group.extend_from_slice(&length.to_le_bytes());
    group.extend_from_slice(&crc32fast::hash(records).to_le_bytes());
    group.extend_from_slice(&crc32fast::hash(&group).to_le_bytes());
    group.extend_from_slice(records);
    Ok(group)
}

/// Decodes all records; gives the end of the last whole group. A group that ends with the file, or
/// of which only zeroes arrived, is torn; any other that does not fit is damage, and its offset the
/// error.
fn read_all<R: BorshDeserialize>(bytes: &[u8]) -> Result<(Vec<R>, usize), usize> {
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let (mut records, mut offset) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let Some((head, rest)) = rest.split_at_checked(HEAD_BYTES) else {
            break;
        };
        if is_zero(head) {
            break;
        }
        let [length, checksum, head_checksum] = [0, 4, 8].map(|at| number(head, at));
        if head.get(..8).map(crc32fast::hash) != Some(head_checksum) {
            return Err(offset);
        }
        let Some((group, after)) = rest.split_at_checked(length as usize) else {
            break;
        };
        if crc32fast::hash(group) != checksum {
            if is_zero(after) {
                break;
            }
            return Err(offset);
        }
        records.extend(read_group(group).ok_or(offset)?);
        offset += HEAD_BYTES + group.len();
    }
    Ok((records, offset))
}

fn read_group<R: BorshDeserialize>(mut group: &[u8]) -> Option<Vec<R>> {
    let mut records = Vec::new();
    while !group.is_empty() {
        let (length, rest) = group.split_at_checked(LENGTH_BYTES)?;
        let (record, rest) = rest.split_at_checked(number(length, 0) as usize)?;
        records.push(borsh::from_slice(record).ok()?);
        group = rest;
    }
    Some(records)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let digits = bytes
        .get(at..at + 4)
        .and_then(|digits| digits.try_into().ok());
    u32::from_le_bytes(digits.unwrap_or_default())
}

fn append(file: &mut File, records: &[u8]) -> io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    file.write_all(&group(records)?)?;
    file.sync_data()
}

fn replace(path: &Path, frames: &[u8]) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(MAGIC)?;
    file.write_all(&group(frames)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_parent(path)?;
    OpenOptions::new().append(true).open(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Record = (u64, Vec<u8>);

    async fn written(records: &[Record]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, found) = Log::open::<Record>(&path).unwrap();
        assert!(found.is_empty());
        for record in records {
            log.append(std::slice::from_ref(record)).await.unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.strip_prefix(MAGIC).unwrap().to_vec()
    }

    fn records() -> Vec<Record> {
        (0_u8..5)
            .map(|at| (at.into(), vec![at + 1; 10 * usize::from(at)]))
            .collect()
    }

    #[tokio::test]
    async fn every_torn_end_is_cut_off_and_nothing_else() {
        let bytes = written(&records()).await;
        for cut in 0..=bytes.len() {
            let (found, end) = read_all::<Record>(&bytes[..cut]).unwrap();
            assert_eq!(found, records()[..found.len()]);
            let whole = read_all::<Record>(&bytes[..end]).unwrap().0;
            assert_eq!(whole.len(), found.len());
            let padded = [&bytes[..end], &[0; 20]].concat();
            assert_eq!(read_all::<Record>(&padded).unwrap(), (found, end));
        }
        assert_eq!(read_all::<Record>(&bytes).unwrap().0, records());
    }

    #[tokio::test]
    async fn damage_before_the_end_is_an_error() {
        let mut bytes = written(&records()).await;
        for at in 0..HEAD_BYTES + 10 {
            bytes[at] ^= 1;
            assert_eq!(read_all::<Record>(&bytes).unwrap_err(), 0, "byte {at}");
            bytes[at] ^= 1;
        }
        // What was written as one group is there as a whole or not at all, whatever arrived first.
        let (_, last) = read_all::<Record>(&bytes[..bytes.len() - 1]).unwrap();
        let before = read_all::<Record>(&bytes[..last]).unwrap();
        bytes[last..last + HEAD_BYTES].fill(0);
        assert_eq!(read_all::<Record>(&bytes).unwrap(), before);
    }

    #[tokio::test]
    async fn only_one_process_uses_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, _) = Log::open::<Record>(&path).unwrap();
        let second = Log::open::<Record>(&path);
        assert!(matches!(second, Err(LogError::Locked { .. })));
        drop(log);
        assert!(Log::open::<Record>(&path).is_ok());
    }

    #[tokio::test]
    async fn whoever_waits_has_all_before_it_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, _) = Log::open::<Record>(&path).unwrap();
        let enqueued = log.enqueue(&records()).unwrap();
        log.append::<Record>(&[]).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            read_all::<Record>(&bytes[MAGIC.len()..]).unwrap().0,
            records()
        );
        enqueued.on_disk().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_writers_at_once_are_all_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, _) = Log::open::<Record>(&path).unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for at in 0..200_u64 {
            let log = log.clone();
            writers.spawn(async move { log.append(&[(at, vec![7_u8; 9])]).await });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap().unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        let (mut found, _) = read_all::<Record>(&bytes[MAGIC.len()..]).unwrap();
        found.sort();
        let all: Vec<Record> = (0..200).map(|at| (at, vec![7; 9])).collect();
        assert_eq!(found, all);
    }

    #[tokio::test]
    async fn a_replaced_log_holds_only_what_replaced_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, _) = Log::open::<Record>(&path).unwrap();
        log.append(&records()).await.unwrap();
        log.replace(&records()[3..]).unwrap();
        let last: Record = (9, vec![]);
        log.append(std::slice::from_ref(&last)).await.unwrap();
        drop(log);
        let (_, found) = Log::open::<Record>(&path).unwrap();
        assert_eq!(found, [&records()[3..], &[last]].concat());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all::<Record>(&bytes);
        }
    }
}
