//! The file: sections of frames, and a digest at its end. What is in a frame is another matter
//! ([`super::payload`]); this part knows nothing of rollups, and is fuzzed by itself.
//!
//! # Specification
//! `docs/spec/conductor-snapshot.md`.

use std::{
    fmt,
    io::{Read, Write},
};

use sha2::{Digest, Sha256};

/// What every file begins with.
const MAGIC: &[u8; 32] = b"counterpoint conductor snapshot\n";
/// The version that follows.
const VERSION: u16 = 1;
/// Longest payload of a frame. The longest block, and a thousand times the longest code, fit.
pub(super) const MAX_FRAME_BYTES: usize = 32 << 20;

/// What a frame holds; sections come in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    /// Which rollup, and where it stands, in one frame.
    Head = 1,
    /// Blocks in the order of their numbers, each in a frame of its own.
    Blocks,
    /// Accounts by address.
    Accounts,
    /// Storage slots by address and slot.
    Slots,
    /// Code by hash.
    Code,
    /// SHA-256 of all frames before; nothing follows.
    End,
}

impl Section {
    const ALL: [Self; 6] = [
        Self::Head,
        Self::Blocks,
        Self::Accounts,
        Self::Slots,
        Self::Code,
        Self::End,
    ];
}

/// SHA-256 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileDigest([u8; 32]);

impl FileDigest {
    fn of(hasher: &Sha256) -> Self {
        Self(hasher.clone().finalize().into())
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("failed to read the snapshot")]
    Read(#[source] std::io::Error),
    #[error("failed to write the snapshot")]
    Write(#[source] std::io::Error),
    #[error("it is not a conductor's snapshot")]
    Magic,
    #[error("the snapshot has format {0}, this release knows {VERSION}")]
    Version(u16),
    #[error("the snapshot ends too early, after its section {0:?}")]
    Truncated(Option<Section>),
    #[error("section {now:?} of the snapshot does not belong after {before:?}")]
    Order {
        before: Option<Section>,
        now: Section,
    },
    #[error("the snapshot has an unknown section {0}")]
    Unknown(u8),
    #[error(
        "a frame of section {section:?} has {bytes} bytes, at most {MAX_FRAME_BYTES} are allowed"
    )]
    Long { section: Section, bytes: usize },
    #[error("section {section:?} of the snapshot is damaged: {reason}")]
    Damaged { section: Section, reason: String },
    #[error("the snapshot's digest is {actual}, its frames have {expected}")]
    Digest {
        expected: FileDigest,
        actual: FileDigest,
    },
    #[error("something follows the end of the snapshot")]
    Trailing,
}

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) section: Section,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The payload is not what its section holds.
    pub(super) fn damaged(&self, reason: impl fmt::Display) -> FormatError {
        FormatError::Damaged {
            section: self.section,
            reason: reason.to_string(),
        }
    }
}

/// Writes a snapshot.
#[derive(Debug)]
pub(super) struct Writer<W> {
    output: W,
    digest: Sha256,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(output: W) -> Result<Self, FormatError> {
        let digest = Sha256::new();
        let mut writer = Self { output, digest };
        writer.write(MAGIC)?;
        writer.write(&VERSION.to_be_bytes())?;
        Ok(writer)
    }

    pub(super) fn frame(&mut self, section: Section, payload: &[u8]) -> Result<(), FormatError> {
        let bytes = payload.len();
        let length = u32::try_from(bytes).ok();
        let length = length.filter(|_| bytes <= MAX_FRAME_BYTES);
        let length = length.ok_or(FormatError::Long { section, bytes })?;
        self.write(&[section as u8])?;
        self.write(&length.to_be_bytes())?;
        self.write(payload)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.digest.update(bytes);
        self.output.write_all(bytes).map_err(FormatError::Write)
    }

    /// Ends the file; gives the digest, and what it was written to.
    pub(super) fn finish(mut self) -> Result<(FileDigest, W), FormatError> {
        let digest = FileDigest::of(&self.digest);
        self.frame(Section::End, &digest.0)?;
        Ok((digest, self.output))
    }
}

/// Reads a snapshot, frame by frame.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    digest: Sha256,
    before: Option<Section>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Result<Self, FormatError> {
        let (digest, before) = (Sha256::new(), None);
        let mut reader = Self {
            input,
            digest,
            before,
        };
        let mut start = [0; MAGIC.len() + 2];
        reader.read(&mut start)?;
        let (magic, version) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(FormatError::Magic);
        }
        match version {
            [high, low] if u16::from_be_bytes([*high, *low]) != VERSION => {
                Err(FormatError::Version(u16::from_be_bytes([*high, *low])))
            }
            _ => Ok(reader),
        }
    }

    /// The next frame. [`Section::End`] is given once all of the file is as it was written.
    pub(super) fn next(&mut self) -> Result<Frame, FormatError> {
        let expected = FileDigest::of(&self.digest);
        let mut start = [0; 5];
        self.read(&mut start)?;
        let [kind, length @ ..] = start;
        let section = Section::ALL.into_iter().find(|known| *known as u8 == kind);
        let section = section.ok_or(FormatError::Unknown(kind))?;
        let before = self.before.replace(section);
        // The head comes once, and nothing before it.
        let first = before.is_none();
        if first != (section == Section::Head) || before > Some(section) {
            let now = section;
            return Err(FormatError::Order { before, now });
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(FormatError::Long { section, bytes });
        }
        let mut payload = vec![0; bytes];
        self.read(&mut payload)?;
        let frame = Frame { section, payload };
        if section == Section::End {
            self.end(expected, &frame)?;
        }
        Ok(frame)
    }

    fn end(&mut self, expected: FileDigest, frame: &Frame) -> Result<(), FormatError> {
        let actual = <[u8; 32]>::try_from(frame.payload.as_slice());
        let actual = FileDigest(actual.map_err(|_| frame.damaged("no digest"))?);
        if actual != expected {
            return Err(FormatError::Digest { expected, actual });
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(FormatError::Trailing),
            Err(error) => Err(FormatError::Read(error)),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), FormatError> {
        let before = self.before;
        self.input
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => FormatError::Truncated(before),
                _ => FormatError::Read(error),
            })?;
        self.digest.update(&*bytes);
        Ok(())
    }
}
