//! What nodes served that cannot be true, kept on disk for whoever has to judge it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use borsh::{BorshDeserialize, BorshSerialize};
use counterpoint_core::primitive::Hash;
use eyre::eyre;
use prost::Message;

/// Most bad proofs that are kept; the oldest make room.
const MAX_FILES: usize = 32;
/// Most bytes of them.
const MAX_BYTES: u64 = 64 << 20;
/// Longest answer that is kept whole, in bytes; of a longer one the headers and the reason stay.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// How the name of a file with a fork starts.
const FORK: &str = "fork-";
/// How the name of a file with a bad proof starts.
const BAD_PROOF: &str = "bad-proof-";

/// What a record shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum Wrong {
    /// Validators signed two headers of one height.
    Fork = 0,
    /// A node served what does not hold.
    BadProof = 1,
}

/// One proof of wrongdoing.
///
/// # Specification
/// `docs/spec/verification.md`, section "Evidence".
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// 1.
    pub version: u8,
    /// What it shows.
    pub wrong: Wrong,
    /// The sequencer's chain.
    pub chain_id: String,
    /// The height that it is about.
    pub height: u64,
    /// The header that it was verified from; zero for the genesis.
    pub trusted_height: u64,
    /// Its hash.
    pub trusted_hash: Hash,
    /// The node.
    pub endpoint: String,
    /// What does not hold.
    pub reason: String,
    /// CometBFT's `SignedHeader` messages that contradict each other.
    pub signed_headers: Vec<Vec<u8>>,
    /// The node's answer, a protobuf message; empty if it was too long to keep.
    pub answer: Vec<u8>,
}

impl Record {
    /// The same with the node's answer, if it is short enough to keep.
    #[must_use]
    pub(super) fn with_answer(self, answer: &impl Message) -> Self {
        let answer = if answer.encoded_len() > MAX_ANSWER_BYTES {
            Vec::new()
        } else {
            answer.encode_to_vec()
        };
        Self { answer, ..self }
    }
}

/// The folder of a service for records.
#[derive(Clone, Debug)]
pub struct Evidence {
    folder: PathBuf,
}

impl Evidence {
    /// Records in the folder `evidence` of `data_dir`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let folder = data_dir.join("evidence");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Nothing may go on after a fork until somebody has judged it and moved the file away.
    ///
    /// # Errors
    /// Names the file with a fork that was found before, or the folder cannot be read.
    pub fn refuse_fork(&self) -> eyre::Result<()> {
        match self.files(FORK)?.first() {
            None => Ok(()),
            Some((path, _)) => Err(eyre!(
                "the sequencer has forked, {} has both headers: find out which chain is right, \
                 remove the data that follows the other one, and move the file away",
                path.display()
            )),
        }
    }

    /// Writes a record down, and forgets the oldest bad proofs if there are too many.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(super) fn keep(&self, record: &Record) -> io::Result<PathBuf> {
        let prefix = match record.wrong {
            Wrong::Fork => FORK,
            Wrong::BadProof => BAD_PROOF,
        };
        // The same lie once more is the same file.
        let digest = Hash::tagged(
            "counterpoint/evidence/v1",
            &(record.height, &record.endpoint, &record.reason),
        );
        let name: String = digest.to_string().chars().take(16).collect();
        let path = self
            .folder
            .join(format!("{prefix}{}-{name}", record.height));
        let fresh = self.folder.join(format!("new-{name}"));
        let mut file = fs::File::create(&fresh)?;
        file.write_all(&borsh::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        fs::File::open(&self.folder)?.sync_all()?;
        self.make_room(MAX_FILES, MAX_BYTES)?;
        Ok(path)
    }

    fn make_room(&self, most_files: usize, most_bytes: u64) -> io::Result<()> {
        let files = self.files(BAD_PROOF)?;
        let mut bytes: u64 = files.iter().map(|(_, meta)| meta.len()).sum();
        let mut left = files.len();
        for (path, meta) in files {
            if left <= most_files && bytes <= most_bytes {
                break;
            }
            fs::remove_file(path)?;
            left -= 1;
            bytes = bytes.saturating_sub(meta.len());
        }
        Ok(())
    }

    /// The files whose names start with `prefix`, the oldest first.
    fn files(&self, prefix: &str) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                files.push((entry.path(), entry.metadata()?));
            }
        }
        files.sort_by_cached_key(|(path, meta)| (meta.modified().ok(), path.clone()));
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use counterpoint_proto::sequencer::RollupBlock;

    use super::*;

    fn record(wrong: Wrong, height: u64) -> Record {
        Record {
            version: 1,
            wrong,
            chain_id: "test".into(),
            height,
            trusted_height: height - 1,
            trusted_hash: Hash::ZERO,
            endpoint: "http://127.0.0.1:1".into(),
            reason: "forged".into(),
            signed_headers: vec![vec![1; 3]],
            answer: vec![2; 5],
        }
    }

    #[test]
    fn records_are_kept_once_and_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(directory.path()).unwrap();
        let path = evidence.keep(&record(Wrong::BadProof, 7)).unwrap();
        assert_eq!(evidence.keep(&record(Wrong::BadProof, 7)).unwrap(), path);
        let read: Record = borsh::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(read, record(Wrong::BadProof, 7));
        evidence.refuse_fork().unwrap();
        let fork = evidence.keep(&record(Wrong::Fork, 8)).unwrap();
        let again = Evidence::open(directory.path()).unwrap();
        let refusal = again.refuse_fork().unwrap_err().to_string();
        assert!(refusal.contains(&fork.display().to_string()), "{refusal}");
        fs::remove_file(fork).unwrap();
        again.refuse_fork().unwrap();
    }

    #[test]
    fn bad_proofs_never_fill_the_disk_and_forks_stay() {
        let directory = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(directory.path()).unwrap();
        let fork = evidence.keep(&record(Wrong::Fork, 1)).unwrap();
        let count = || evidence.files(BAD_PROOF).unwrap().len();
        for height in 1..=40 {
            evidence.keep(&record(Wrong::BadProof, height)).unwrap();
        }
        assert_eq!(count(), MAX_FILES);
        let size = evidence.files(BAD_PROOF).unwrap()[0].1.len();
        evidence.make_room(MAX_FILES, size * 3).unwrap();
        assert_eq!(count(), 3);
        assert!(fork.exists());
    }

    #[test]
    fn only_short_answers_are_kept_whole() {
        let answer = |length: usize| RollupBlock {
            borsh_list: vec![0; length].into(),
            ..RollupBlock::default()
        };
        let kept = |length| {
            record(Wrong::BadProof, 1)
                .with_answer(&answer(length))
                .answer
        };
        assert_eq!(kept(100), answer(100).encode_to_vec());
        assert!(kept(MAX_ANSWER_BYTES).is_empty());
    }

    #[test]
    fn encoding_is_frozen() {
        let bytes = borsh::to_vec(&record(Wrong::Fork, 7)).unwrap();
        let start = "0100040000007465737407000000000000000600000000000000";
        assert!(hex::encode(bytes).starts_with(start));
    }
}
