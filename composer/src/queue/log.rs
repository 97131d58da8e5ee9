//! An append-only file of records, synced in groups.
//!
//! A frame is `u32le length ‖ u32le crc32 ‖ borsh record`. A writer thread takes whatever waits,
//! writes it, syncs once and then answers everybody: many acknowledgements cost one fsync. A torn
//! last frame, which nobody was told of, is cut off at start; damage before it is an error.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use borsh::{BorshDeserialize, BorshSerialize};
use tokio::sync::{mpsc, oneshot};

/// Longest record, in bytes: what compaction keeps of a full queue.
const MAX_RECORD_BYTES: usize = 8 << 20;
/// Appends that wait for the writer.
const MAX_WAITING: usize = 8_192;
/// Bytes before a record: its length and its checksum.
const HEAD_BYTES: usize = 8;

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
    /// The writer has stopped after a failure; nothing is acknowledged any more.
    #[error("the queue log cannot be written any more")]
    Stopped,
}

enum Command {
    Append {
        frames: Vec<u8>,
        done: oneshot::Sender<()>,
    },
    Replace {
        frames: Vec<u8>,
        done: oneshot::Sender<()>,
    },
}

/// A handle to the log.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    commands: mpsc::Sender<Command>,
    /// Bytes appended since the log was opened or replaced.
    grown: Arc<AtomicU64>,
    /// Held as long as the log is used.
    _lock: Arc<File>,
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
        let (records, end) = read_all(&bytes).map_err(|offset| LogError::Damaged {
            path: path.into(),
            offset,
        })?;
        file.set_len(end as u64).map_err(at)?;
        file.sync_all().map_err(at)?;
        sync_parent(path).map_err(at)?;
        let (commands, receiver) = mpsc::channel(MAX_WAITING);
        let path = path.to_owned();
        thread::spawn(move || write_all(&path, file, receiver));
        let log = Self {
            commands,
            grown: Arc::default(),
            _lock: Arc::new(lock),
        };
        Ok((log, records))
    }

    /// Bytes by which the log has grown since it was opened or replaced.
    #[must_use]
    pub(crate) fn grown(&self) -> u64 {
        self.grown.load(Ordering::Relaxed)
    }

    /// Appends records together and waits until they are on disk.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if they may not be.
    pub(crate) async fn append<R: BorshSerialize>(&self, records: &[R]) -> Result<(), LogError> {
        self.send(records, |frames, done| {
            self.grown.fetch_add(frames.len() as u64, Ordering::Relaxed);
            Command::Append { frames, done }
        })
        .await
    }

    /// Replaces everything by `records`, in one step that a crash cannot split.
    ///
    /// # Errors
    /// [`LogError::Stopped`] if the old log may still be there; it is never damaged.
    pub(crate) async fn replace<R: BorshSerialize>(&self, records: &[R]) -> Result<(), LogError> {
        self.grown.store(0, Ordering::Relaxed);
        self.send(records, |frames, done| Command::Replace { frames, done })
            .await
    }

    async fn send<R: BorshSerialize>(
        &self,
        records: &[R],
        command: impl FnOnce(Vec<u8>, oneshot::Sender<()>) -> Command,
    ) -> Result<(), LogError> {
        let mut frames = Vec::new();
        for record in records {
            let payload = borsh::to_vec(record).map_err(|_| LogError::Stopped)?;
            let length = u32::try_from(payload.len()).map_err(|_| LogError::Stopped)?;
            frames.extend_from_slice(&length.to_le_bytes());
            frames.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            frames.extend_from_slice(&payload);
        }
        let (done, written) = oneshot::channel();
        self.commands
            .send(command(frames, done))
            .await
            .map_err(|_| LogError::Stopped)?;
        written.await.map_err(|_| LogError::Stopped)
    }
}

/// Decodes all records; gives the end of the last whole one. A frame that ends with the file is
/// torn; any other that does not fit is damage, and its offset the error.
fn read_all<R: BorshDeserialize>(bytes: &[u8]) -> Result<(Vec<R>, usize), usize> {
    let (mut records, mut offset) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        if rest.iter().all(|byte| *byte == 0) {
            break; // A power loss may leave the file longer than what was written.
        }
        let Some((head, rest)) = rest.split_at_checked(HEAD_BYTES) else {
            break;
        };
        let number = |at: usize| {
            let digits = head
                .get(at..at + 4)
                .and_then(|digits| digits.try_into().ok());
            u32::from_le_bytes(digits.unwrap_or_default())
        };
        let (length, checksum) = (number(0) as usize, number(4));
        if !(1..=MAX_RECORD_BYTES).contains(&length) {
            // A torn write leaves zeroes or nothing behind, never a length like this.
            return Err(offset);
        }
        let Some(payload) = rest.get(..length) else {
            break;
        };
        let is_last = rest.len() == length;
        if crc32fast::hash(payload) != checksum {
            if is_last
                || rest
                    .get(length..)
                    .is_some_and(|after| after.iter().all(|b| *b == 0))
            {
                break;
            }
            return Err(offset);
        }
        records.push(borsh::from_slice(payload).map_err(|_| offset)?);
        offset += HEAD_BYTES + length;
    }
    Ok((records, offset))
}

/// Writes until everybody is gone or the disk fails; then waiting senders learn that nothing was
/// written, because their channels close.
fn write_all(path: &Path, mut file: File, mut commands: mpsc::Receiver<Command>) {
    while let Some(first) = commands.blocking_recv() {
        let mut waiting = vec![first];
        while let Ok(next) = commands.try_recv() {
            waiting.push(next);
        }
        let mut group = Vec::new();
        let mut done = Vec::new();
        for command in waiting {
            match command {
                Command::Append {
                    frames,
                    done: sender,
                } => {
                    group.extend_from_slice(&frames);
                    done.push(sender);
                }
                Command::Replace {
                    frames,
                    done: sender,
                } => {
                    // Nothing waits from before a replacement: whoever asks for one holds the queue.
                    let replaced = flush(&mut file, &mut group, &mut done)
                        .and_then(|()| replace(path, &frames));
                    match replaced {
                        Ok(fresh) => {
                            file = fresh;
                            let _ = sender.send(());
                        }
                        Err(error) => return tracing::error!(%error, "queue log failed"),
                    }
                }
            }
        }
        if let Err(error) = flush(&mut file, &mut group, &mut done) {
            return tracing::error!(%error, "queue log failed");
        }
    }
}

fn flush(
    file: &mut File,
    group: &mut Vec<u8>,
    done: &mut Vec<oneshot::Sender<()>>,
) -> io::Result<()> {
    if !done.is_empty() {
        file.write_all(group)?;
        file.sync_data()?;
        group.clear();
        for sender in done.drain(..) {
            let _ = sender.send(());
        }
    }
    Ok(())
}

fn replace(path: &Path, frames: &[u8]) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(frames)?;
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
        std::fs::read(&path).unwrap()
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
        bytes[HEAD_BYTES + 2] ^= 1;
        assert_eq!(read_all::<Record>(&bytes).unwrap_err(), 0);
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
    async fn a_replaced_log_holds_only_what_replaced_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.log");
        let (log, _) = Log::open::<Record>(&path).unwrap();
        log.append(&records()).await.unwrap();
        log.replace(&records()[3..]).await.unwrap();
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
