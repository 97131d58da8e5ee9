//! The little of Solidity's ABI that digests are over: words of 32 bytes.

use sha3::{Digest, Keccak256};

use crate::primitive::{EvmAddress, Hash};

/// One word of an encoding.
pub(super) type Word = [u8; 32];

/// An unsigned number, as `uint256`.
pub(super) fn number(value: u64) -> Word {
    let mut word = [0; 32];
    put(&mut word, 24, &value.to_be_bytes());
    word
}

/// An account, as `address`.
pub(super) fn address(value: &EvmAddress) -> Word {
    let mut word = [0; 32];
    put(&mut word, 12, value.as_bytes());
    word
}

/// A text of at most 32 bytes, padded behind.
pub(super) fn short_text(value: &str) -> Word {
    let mut word = [0; 32];
    put(&mut word, 0, value.as_bytes());
    word
}

/// Keccak-256 over the concatenation of `parts`.
pub(super) fn keccak<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut hasher = Keccak256::new();
    for part in parts {
        hasher.update(part);
    }
    Hash::new(hasher.finalize().into())
}

/// Keccak-256 over words.
pub(super) fn keccak_words(words: &[Word]) -> Hash {
    keccak(words.iter().map(<[u8; 32]>::as_slice))
}

fn put(word: &mut Word, from: usize, bytes: &[u8]) {
    for (place, byte) in word.iter_mut().skip(from).zip(bytes) {
        *place = *byte;
    }
}
