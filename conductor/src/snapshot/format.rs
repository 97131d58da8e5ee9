//! The file: sections of entries in frames, and a digest at its end.
//!
//! # Specification
//! `docs/spec/conductor-snapshot.md`.

use std::io::{Read, Write};

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
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
    /// One [`Head`], in one frame.
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

/// Which rollup, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, RlpDecodable, RlpEncodable)]
pub(super) struct Head {
    pub(super) chain_spec_hash: B256,
    pub(super) header: Header,
}

/// A key of the state, and what stands under it.
#[derive(RlpDecodable, RlpEncodable)]
struct Entry {
    key: Bytes,
    value: Bytes,
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
    #[error("section {section:?} of the snapshot is damaged")]
    Decode {
        section: Section,
        source: alloy_rlp::Error,
    },
    #[error("the snapshot's digest is {actual}, its frames have {expected}")]
    Digest { expected: B256, actual: B256 },
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
    /// The payload, which is one value.
    pub(super) fn value<T: Decodable>(&self) -> Result<T, FormatError> {
        alloy_rlp::decode_exact(&self.payload).map_err(|source| self.damaged(source))
    }

    /// Gives each entry of the payload away.
    pub(super) fn entries<E: From<FormatError>>(
        &self,
        mut take: impl FnMut((Vec<u8>, Vec<u8>)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = self.payload.as_slice();
        while !rest.is_empty() {
            let entry = Entry::decode(&mut rest).map_err(|source| self.damaged(source))?;
            take((entry.key.into(), entry.value.into()))?;
        }
        Ok(())
    }

    fn damaged(&self, source: alloy_rlp::Error) -> FormatError {
        let section = self.section;
        FormatError::Decode { section, source }
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

    pub(super) fn value(
        &mut self,
        section: Section,
        value: &impl Encodable,
    ) -> Result<(), FormatError> {
        self.frame(section, &alloy_rlp::encode(value))
    }

    pub(super) fn entries(
        &mut self,
        section: Section,
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), FormatError> {
        let mut payload = Vec::new();
        for (key, value) in entries {
            let (key, value) = (key.into(), value.into());
            Entry { key, value }.encode(&mut payload);
        }
        self.frame(section, &payload)
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
    pub(super) fn finish(mut self) -> Result<(B256, W), FormatError> {
        let digest = B256::from_slice(&self.digest.clone().finalize());
        self.frame(Section::End, digest.as_slice())?;
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

    /// The head, which comes first.
    pub(super) fn head(&mut self) -> Result<Head, FormatError> {
        self.next()?.value()
    }

    /// The next frame. [`Section::End`] is given once all of the file is as it was written.
    pub(super) fn next(&mut self) -> Result<Frame, FormatError> {
        let expected = B256::from_slice(&self.digest.clone().finalize());
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
            self.end(expected, &frame.payload)?;
        }
        Ok(frame)
    }

    fn end(&mut self, expected: B256, payload: &[u8]) -> Result<(), FormatError> {
        let section = Section::End;
        let actual = B256::try_from(payload).map_err(|_| FormatError::Decode {
            section,
            source: alloy_rlp::Error::UnexpectedLength,
        })?;
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
