//! Where a rollup block stopped: the cursor, and the `extraData` that carries it.

use crate::primitive::Height;

/// The next item to execute: the `index`-th of the list of `height`, every item counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The sequencer height of the list.
    pub height: Height,
    /// Place in the list, from 0.
    pub index: u32,
}

/// What the header of a rollup block says in its `extraData`.
///
/// # Specification
/// `docs/spec/derivation.md`, section "Block fields".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraData {
    /// The height that opens the next rollup block.
    pub next_opening: Height,
    /// The next item to execute.
    pub cursor: Cursor,
}

/// Why bytes are not our `extraData`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraDataError {
    /// Another number of bytes.
    #[error("extra data has {0} bytes, must have {len}", len = ExtraData::LEN)]
    Length(usize),
    /// A version that this software does not know.
    #[error("extra data has unknown version {0}")]
    Version(u8),
}

impl ExtraData {
    /// Length in bytes.
    pub const LEN: usize = 21;
    /// The first byte.
    pub const VERSION: u8 = 1;

    /// What stands for the genesis block: everything is still to come.
    #[must_use]
    pub fn genesis(first_height: Height) -> Self {
        Self {
            next_opening: first_height,
            cursor: Cursor {
                height: first_height,
                index: 0,
            },
        }
    }

    /// `0x01 ‖ u64be(next opening) ‖ u64be(height) ‖ u32be(index)`.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let next = self.next_opening.get().to_be_bytes();
        let height = self.cursor.height.get().to_be_bytes();
        let index = self.cursor.index.to_be_bytes();
        let mut bytes = [Self::VERSION; Self::LEN];
        let fields = next.iter().chain(&height).chain(&index);
        for (byte, field) in bytes.iter_mut().skip(1).zip(fields) {
            *byte = *field;
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`ExtraDataError`] if the length or the version is another.
    pub fn decode(bytes: &[u8]) -> Result<Self, ExtraDataError> {
        let bytes: &[u8; Self::LEN] = bytes
            .try_into()
            .map_err(|_| ExtraDataError::Length(bytes.len()))?;
        let [version, rest @ ..] = bytes;
        if *version != Self::VERSION {
            return Err(ExtraDataError::Version(*version));
        }
        let number = |from: usize, len: usize| {
            let digits = rest.iter().skip(from).take(len);
            digits.fold(0_u64, |number, digit| number << 8 | u64::from(*digit))
        };
        let index = u32::try_from(number(16, 4)).unwrap_or(u32::MAX);
        let cursor = Cursor {
            height: Height::new(number(8, 8)),
            index,
        };
        Ok(Self {
            next_opening: Height::new(number(0, 8)),
            cursor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_inverts_encoding() {
        let cursor = Cursor {
            height: Height::new(0x0102_0304_0506_0708),
            index: 0xa0b0_c0d0,
        };
        let extra = ExtraData {
            next_opening: Height::new(u64::MAX - 1),
            cursor,
        };
        assert_eq!(ExtraData::decode(&extra.encode()), Ok(extra));
        insta::assert_snapshot!(hex::encode(extra.encode()));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(ExtraData::decode(b"geth"), Err(ExtraDataError::Length(4)));
        assert_eq!(ExtraData::decode(&[9; 21]), Err(ExtraDataError::Version(9)));
    }
}
