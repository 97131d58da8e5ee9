//! What a snapshot is made of: entries of the state, cut into chunks, and a list of their digests.
//!
//! # Specification
//! `docs/spec/snapshots.md`.

use borsh::{BorshDeserialize, BorshSerialize, io};
use counterpoint_core::primitive::{Hash, Height};

/// The format that this software writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// The version of [`Metadata`] in that format.
const VERSION: u16 = 1;
/// Longest chunk, in bytes: CometBFT takes 16 MB at most.
pub(crate) const MAX_CHUNK_BYTES: usize = 8 << 20;
/// Most chunks: CometBFT's default limit, and 3.2 MB of digests where 4 MB may be.
pub(crate) const MAX_CHUNKS: usize = 100_000;

/// A key of the state, and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// Describes a snapshot, and commits to every byte of it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Metadata {
    version: u16,
    /// The block whose state it is.
    pub(crate) height: Height,
    /// The first height of the chain.
    pub(crate) initial: Height,
    /// SHA-256 of every chunk, in order.
    pub(crate) chunks: Vec<Hash>,
}

/// Why bytes describe no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("failed to decode the metadata")]
    Decode(#[from] io::Error),
    #[error("unknown version {0}")]
    Version(u16),
    #[error("height {height} of a chain that begins at {initial}")]
    Height { height: Height, initial: Height },
    #[error("{0} chunks, must be 1 to {MAX_CHUNKS}")]
    Chunks(usize),
}

/// Why bytes are not a chunk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("failed to decode an entry")]
    Decode(#[from] io::Error),
    #[error("{0} bytes follow the last entry")]
    TrailingBytes(usize),
    #[error("keys are not in ascending order")]
    Order,
}

impl Metadata {
    /// Describes the state after `height`, with these chunks.
    pub(crate) fn new(height: Height, initial: Height, chunks: Vec<Hash>) -> Self {
        Self {
            version: VERSION,
            height,
            initial,
            chunks,
        }
    }

    /// Reads a description that this software understands.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MetadataError> {
        let metadata: Self = borsh::from_slice(bytes)?;
        let Self {
            version,
            height,
            initial,
            ref chunks,
        } = metadata;
        if version != VERSION {
            return Err(MetadataError::Version(version));
        }
        if initial.get() == 0 || height < initial || height.next().is_none() {
            return Err(MetadataError::Height { height, initial });
        }
        if !(1..=MAX_CHUNKS).contains(&chunks.len()) {
            return Err(MetadataError::Chunks(chunks.len()));
        }
        Ok(metadata)
    }

    /// The snapshot's hash.
    pub(crate) fn hash(&self) -> Hash {
        Hash::tagged("counterpoint/snapshot/v1", self)
    }
}

/// Cuts entries into chunks: `borsh(Vec<Entry>)`, as many entries as fit.
#[derive(Debug, Default)]
pub(crate) struct Chunker {
    entries: Vec<u8>,
    count: u32,
}

impl Chunker {
    /// Adds an entry; gives the chunk before if there was no room in it.
    ///
    /// # Errors
    /// The entry fits into no chunk.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let entry = borsh::to_vec(&(key, value))?;
        if size_of::<u32>() + entry.len() > MAX_CHUNK_BYTES {
            let reason = format!("the value under {key:02x?} is too long for a chunk");
            return Err(io::Error::other(reason));
        }
        let full = size_of::<u32>() + self.entries.len() + entry.len() > MAX_CHUNK_BYTES;
        let chunk = if full { self.finish() } else { None };
        self.entries.extend(entry);
        self.count += 1;
        Ok(chunk)
    }

    /// The last chunk, unless nothing was added since the one before.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        let Self { entries, count } = std::mem::take(self);
        (count > 0).then(|| [&count.to_le_bytes()[..], &entries].concat())
    }
}

/// Reads a chunk's entries one after the other, so that a hostile one cannot blow up memory.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Entries<'a> {
    pub(crate) fn of(chunk: &'a [u8]) -> Result<Self, ChunkError> {
        let mut rest = chunk;
        let left = u32::deserialize(&mut rest)?;
        Ok(Self { rest, left })
    }

    /// The next entry; nothing after the last one, if that is where the chunk ends.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ChunkError> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(Some(BorshDeserialize::deserialize(&mut self.rest)?))
            }
            None if self.rest.is_empty() => Ok(None),
            None => Err(ChunkError::TrailingBytes(self.rest.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunk: &[u8]) -> Result<Vec<Entry>, ChunkError> {
        let mut entries = Entries::of(chunk)?;
        let mut read = Vec::new();
        while let Some(entry) = entries.next()? {
            read.push(entry);
        }
        Ok(read)
    }

    #[test]
    fn encodings_are_frozen() {
        let chunks = vec![Hash::new([1; 32]), Hash::new([2; 32])];
        let metadata = Metadata::new(Height::new(77), Height::new(1), chunks);
        let bytes = borsh::to_vec(&metadata).unwrap();
        insta::assert_snapshot!("metadata", hex(&bytes));
        insta::assert_snapshot!("hash", metadata.hash());
        assert_eq!(Metadata::decode(&bytes).unwrap(), metadata);
        let mut chunker = Chunker::default();
        assert!(chunker.push(b"key", b"value").unwrap().is_none());
        assert!(chunker.push(b"other", b"").unwrap().is_none());
        insta::assert_snapshot!("chunk", hex(&chunker.finish().unwrap()));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_describes_no_snapshot_is_refused() {
        let good = Metadata::new(Height::new(5), Height::new(5), vec![Hash::ZERO]);
        let refused = |change: &dyn Fn(&mut Metadata)| {
            let mut metadata = good.clone();
            change(&mut metadata);
            Metadata::decode(&borsh::to_vec(&metadata).unwrap())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(&|it| it.version = 2), "unknown version 2");
        let height = "height 5 of a chain that begins at";
        let at = |it: &mut Metadata, initial| it.initial = Height::new(initial);
        assert_eq!(refused(&|it| at(it, 6)), format!("{height} 6"));
        assert_eq!(refused(&|it| at(it, 0)), format!("{height} 0"));
        refused(&|it| it.height = Height::new(u64::MAX));
        refused(&|it| it.chunks.clear());
        refused(&|it| it.chunks = vec![Hash::ZERO; MAX_CHUNKS + 1]);
        let mut long = borsh::to_vec(&good).unwrap();
        long.push(0);
        assert!(Metadata::decode(&long).is_err());
        let most = Metadata::new(Height::new(5), Height::new(5), vec![Hash::ZERO; MAX_CHUNKS]);
        assert!(borsh::to_vec(&most).unwrap().len() < 4_000_000);
    }

    #[test]
    fn chunks_are_as_long_as_they_may_be() {
        let value = vec![7; MAX_CHUNK_BYTES / 4];
        let mut chunker = Chunker::default();
        let mut chunks = Vec::new();
        for key in 0_u8..10 {
            chunks.extend(chunker.push(&[key], &value).unwrap());
        }
        chunks.extend(chunker.finish());
        assert!(chunker.finish().is_none());
        let lengths: Vec<usize> = chunks
            .iter()
            .map(|chunk| read(chunk).unwrap().len())
            .collect();
        assert_eq!(lengths, [3, 3, 3, 1]);
        assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_CHUNK_BYTES));
        let too_long = vec![0; MAX_CHUNK_BYTES - 12];
        assert!(chunker.push(&[1], &too_long).is_err());
        assert!(chunker.push(&[1], &too_long[1..]).unwrap().is_none());
        assert_eq!(chunker.finish().unwrap().len(), MAX_CHUNK_BYTES);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            entries in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)),
                1..9,
            ),
            at: prop::sample::Index,
            change: u8,
        ) {
            let mut chunker = Chunker::default();
            for (key, value) in &entries {
                prop_assert!(chunker.push(key, value).unwrap().is_none());
            }
            let mut chunk = chunker.finish().unwrap();
            prop_assert_eq!(&chunk, &borsh::to_vec(&entries).unwrap());
            prop_assert_eq!(read(&chunk).unwrap(), entries);
            let at = at.index(chunk.len());
            chunk[at] = change;
            // Damage never panics, and what is still read has no other encoding.
            if let Ok(entries) = read(&chunk) {
                prop_assert_eq!(borsh::to_vec(&entries).unwrap(), chunk);
            }
        }
    }
}
