//! What an attester has said, on disk before anybody hears of it.
//!
//! ```text
//! keep ─▶ thread: all that waits ─▶ compared with what stands there ─▶ one batch, one fsync ─▶ answers
//! ```
//! An attester that says two things about one leg and slot loses its vote, so nothing else is ever
//! written where something stands, also after a crash between writing and signing. What is old is
//! forgotten, together with a mark below which nothing is ever said again.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, thread};

use borsh::{BorshDeserialize, BorshSerialize};
use counterpoint_core::{
    atomic::{Ballot, Executed, Statement},
    key::PublicKey,
    primitive::{Hash, Height, RollupId},
};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::{mpsc, oneshot};

/// Heights for which what was said is kept: more than the chain asks for outcomes.
const KEPT_HEIGHTS: u64 = 2_000;
/// Things to be said that wait for the disk.
const WAITING: usize = 1_024;

/// Why something may not be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoteError {
    /// Something else was said before.
    #[error("another {what} about it was written down before")]
    Contradiction {
        /// An attestation or an outcome.
        what: &'static str,
    },
    /// It is so long ago that what was said about it is forgotten.
    #[error("height {height} lies so far back that votes on it are forgotten")]
    Past {
        /// The height that it is about.
        height: Height,
    },
    /// The disk fails, or the directory belongs to somebody else.
    #[error("votes: {0}")]
    Store(String),
}

fn broken(error: impl fmt::Display) -> VoteError {
    VoteError::Store(error.to_string())
}

/// A key, and what stands under it.
type Entry = (Vec<u8>, Vec<u8>);
/// Writes that become visible together; `None` deletes.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Where votes are kept.
pub(super) trait Disk: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VoteError>;

    /// Entries from one key up to another, in order.
    fn range(&self, from: &[u8], to: &[u8]) -> Result<Vec<Entry>, VoteError>;

    /// Writes all or nothing, and syncs it.
    fn write(&self, writes: Writes) -> Result<(), VoteError>;
}

struct Fjall {
    database: Database,
    votes: Keyspace,
}

impl Disk for Fjall {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, VoteError> {
        let value = self.votes.get(key).map_err(broken)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Result<Vec<Entry>, VoteError> {
        let entries = self.votes.range(from..to);
        let entry =
            |(key, value): (fjall::UserKey, fjall::UserValue)| (key.to_vec(), value.to_vec());
        entries
            .map(|found| found.into_inner().map(entry).map_err(broken))
            .collect()
    }

    fn write(&self, writes: Writes) -> Result<(), VoteError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(&self.votes, key, value),
                None => batch.remove(&self.votes, key),
            }
        }
        batch.commit().map_err(broken)
    }
}

/// What is said about a leg in one slot; its place says the rest of the ballot.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Said {
    pub(super) epoch: u64,
    pub(super) statement: Statement,
}

/// Tells what kind of thing stands under a key.
const ATTESTATION: u8 = b'a';
const OUTCOME: u8 = b'o';
const FLOOR: u8 = b'f';
const OWNER: &[u8] = b"owner";

/// Kind, rollup, height: what is old is a range.
fn prefix(kind: u8, rollup_id: &RollupId, height: Height) -> Vec<u8> {
    let height = height.get().to_be_bytes();
    [&[kind][..], rollup_id.as_bytes(), &height].concat()
}

/// Something to be said, if nothing else was.
struct Word {
    rollup_id: RollupId,
    height: Height,
    what: &'static str,
    key: Vec<u8>,
    value: Vec<u8>,
}

enum Request {
    Keep(Word, oneshot::Sender<Result<(), VoteError>>),
    Forget(RollupId, Height),
}

/// The votes of one key. Clones share them.
#[derive(Clone)]
pub struct Votes {
    disk: Arc<dyn Disk>,
    requests: mpsc::Sender<Request>,
}

impl fmt::Debug for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Votes").finish_non_exhaustive()
    }
}

impl Votes {
    /// Opens the votes of a key in a directory, or makes a new one.
    ///
    /// # Errors
    /// [`VoteError::Store`] names the directory: it cannot be used, or holds another key's votes.
    pub fn open(path: &Path, chain_id: &str, attester: &PublicKey) -> Result<Self, VoteError> {
        let at = |error: &dyn fmt::Display| broken(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(|error| at(&error))?;
        let database = Database::builder(path)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => {
                    at(&"in use by another process: a key has one votes_dir, used once")
                }
                error => at(&error),
            })?;
        let votes = database.keyspace("votes", KeyspaceCreateOptions::default);
        let votes = votes.map_err(|error| at(&error))?;
        Self::on(Fjall { database, votes }, chain_id, attester).map_err(|error| at(&error))
    }

    pub(super) fn on(
        disk: impl Disk,
        chain_id: &str,
        attester: &PublicKey,
    ) -> Result<Self, VoteError> {
        let owner = borsh::to_vec(&(chain_id, attester)).map_err(broken)?;
        match disk.get(OWNER)? {
            Some(other) if other != owner => {
                let theirs = borsh::from_slice::<(String, PublicKey)>(&other).map_err(broken)?;
                let (chain, key) = theirs;
                return Err(broken(format!(
                    "it holds the votes of {key} on chain {chain}"
                )));
            }
            Some(_) => {}
            None => disk.write(Writes::from([(OWNER.to_vec(), Some(owner))]))?,
        }
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let (requests, waiting) = mpsc::channel(WAITING);
        let writer = Arc::clone(&disk);
        thread::Builder::new()
            .name("votes".into())
            .spawn(move || write(writer.as_ref(), waiting))
            .map_err(broken)?;
        Ok(Self { disk, requests })
    }

    /// Writes down what is going to be said of a leg. Once this is done it may be signed, and nothing
    /// else about it ever.
    ///
    /// # Errors
    /// [`VoteError`] says why it must not be signed.
    pub async fn keep_statement(
        &self,
        ballot: &Ballot,
        statement: &Statement,
    ) -> Result<(), VoteError> {
        let (rollup_id, height) = (ballot.rollup_id, ballot.pin.height);
        let mut key = prefix(ATTESTATION, &rollup_id, height);
        key.extend(ballot.bundle_id.as_bytes());
        key.extend(ballot.pin.hash.as_bytes());
        let said = Said {
            epoch: ballot.epoch,
            statement: statement.clone(),
        };
        let value = borsh::to_vec(&said).map_err(broken)?;
        let what = "statement";
        self.keep(Word {
            rollup_id,
            height,
            what,
            key,
            value,
        })
        .await
    }

    /// Writes down what is going to be said of a leg that was released at `height`.
    ///
    /// # Errors
    /// [`VoteError`] says why it must not be signed.
    pub async fn keep_outcome(&self, height: Height, executed: &Executed) -> Result<(), VoteError> {
        let mut key = prefix(OUTCOME, &executed.rollup_id, height);
        key.extend(executed.bundle_id.as_bytes());
        let value = borsh::to_vec(executed).map_err(broken)?;
        let (rollup_id, what) = (executed.rollup_id, "outcome");
        self.keep(Word {
            rollup_id,
            height,
            what,
            key,
            value,
        })
        .await
    }

    async fn keep(&self, word: Word) -> Result<(), VoteError> {
        let (answer, kept) = oneshot::channel();
        let ended = || broken("the disk has failed before");
        let sent = self.requests.send(Request::Keep(word, answer)).await;
        sent.map_err(|_| ended())?;
        kept.await.map_err(|_| ended())?
    }

    /// Forgets what was said so long before `height` that nobody asks for it.
    pub async fn forget_before(&self, rollup_id: RollupId, height: Height) {
        if let Some(floor) = height.get().checked_sub(KEPT_HEIGHTS) {
            let forget = Request::Forget(rollup_id, Height::new(floor));
            // If the disk has failed the next vote says so.
            let _ = self.requests.send(forget).await;
        }
    }

    /// What was said about a bundle's leg in the slot after `pin`.
    ///
    /// # Errors
    /// [`VoteError::Store`] if the disk fails.
    pub(super) fn statements(
        &self,
        rollup_id: &RollupId,
        pin: Height,
        bundle_id: &Hash,
    ) -> Result<Vec<Said>, VoteError> {
        let from = [
            &prefix(ATTESTATION, rollup_id, pin)[..],
            bundle_id.as_bytes(),
        ]
        .concat();
        let to = [&from[..], &[0xff; 33]].concat();
        let found = self.disk.range(&from, &to)?.into_iter();
        let read = |(_, value): (_, Vec<u8>)| borsh::from_slice(&value).map_err(broken);
        found.map(read).collect()
    }

    /// The outcomes of a rollup's legs that are kept, and the heights that released them.
    ///
    /// # Errors
    /// [`VoteError::Store`] if the disk fails.
    pub(super) fn outcomes(&self, rollup_id: &RollupId) -> Result<Vec<Executed>, VoteError> {
        let from = prefix(OUTCOME, rollup_id, Height::new(0));
        let to = prefix(OUTCOME, rollup_id, Height::new(u64::MAX));
        let found = self.disk.range(&from, &to)?.into_iter();
        let read = |(_, value): (_, Vec<u8>)| borsh::from_slice(&value).map_err(broken);
        found.map(read).collect()
    }
}

/// Most of what waits is written at once.
const GROUP: usize = 256;

/// Writes what is asked for, as much at once as waits, until nobody asks any more or the disk fails:
/// after that nothing is ever said.
fn write(disk: &dyn Disk, mut requests: mpsc::Receiver<Request>) {
    let mut group = Vec::new();
    while requests.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut writes = Writes::new();
        let mut answers = Vec::new();
        for request in group.drain(..) {
            match request {
                Request::Keep(word, answer) => {
                    answers.push((take_in(disk, &mut writes, word), answer));
                }
                Request::Forget(rollup_id, floor) => {
                    if let Err(error) = forget(disk, &mut writes, &rollup_id, floor) {
                        tracing::error!(%error, "failed to forget old votes");
                    }
                }
            }
        }
        let written = match writes.is_empty() {
            true => Ok(()),
            false => disk.write(writes),
        };
        let failed = written.is_err();
        for (verdict, answer) in answers {
            // Whoever has asked may be gone; then it is never signed.
            let _ = answer.send(written.clone().and(verdict));
        }
        if failed {
            return;
        }
    }
}

/// Adds a word to what is written, unless something else stands there.
fn take_in(disk: &dyn Disk, writes: &mut Writes, word: Word) -> Result<(), VoteError> {
    let Word {
        rollup_id,
        height,
        what,
        key,
        value,
    } = word;
    let stands = match writes.get(&key) {
        Some(value) => value.clone(),
        None => disk.get(&key)?,
    };
    match stands {
        Some(same) if same == value => Ok(()),
        Some(_) => Err(VoteError::Contradiction { what }),
        None if height < floor(disk, writes, &rollup_id)? => Err(VoteError::Past { height }),
        None => {
            writes.insert(key, Some(value));
            Ok(())
        }
    }
}

fn floor_key(rollup_id: &RollupId) -> Vec<u8> {
    [&[FLOOR][..], rollup_id.as_bytes()].concat()
}

/// The first height of a rollup that anything may still be said about.
fn floor(disk: &dyn Disk, writes: &Writes, rollup_id: &RollupId) -> Result<Height, VoteError> {
    let key = floor_key(rollup_id);
    let floor = match writes.get(&key) {
        Some(floor) => floor.clone(),
        None => disk.get(&key)?,
    };
    let floor = floor.map(|floor| <[u8; 8]>::try_from(floor).map(u64::from_be_bytes));
    let floor = floor.transpose().map_err(|_| broken("a mark is damaged"))?;
    Ok(Height::new(floor.unwrap_or_default()))
}

fn forget(
    disk: &dyn Disk,
    writes: &mut Writes,
    rollup_id: &RollupId,
    below: Height,
) -> Result<(), VoteError> {
    if below <= floor(disk, writes, rollup_id)? {
        return Ok(());
    }
    for kind in [ATTESTATION, OUTCOME] {
        let from = prefix(kind, rollup_id, Height::new(0));
        let to = prefix(kind, rollup_id, below);
        let old = disk.range(&from, &to)?.into_iter();
        writes.extend(old.map(|(key, _)| (key, None)));
    }
    let mark = below.get().to_be_bytes().to_vec();
    writes.insert(floor_key(rollup_id), Some(mark));
    Ok(())
}

#[cfg(test)]
mod tests;
