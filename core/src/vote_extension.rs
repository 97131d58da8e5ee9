//! What a vote will be able to carry beside itself: a container, versioned, empty today.
//!
//! Shares of keys and lists of transactions that must be included will travel here. Until then a
//! vote carries the empty container, once the chain has turned extensions on.

/// The encoding of the empty container: version 1 and no entries.
pub const EMPTY: [u8; 5] = [1, 0, 0, 0, 0];

/// Why a vote extension is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vote extension of {length} bytes is not the empty container of version 1")]
pub struct VoteExtensionError {
    /// How long it is.
    pub length: usize,
}

/// Checks the extension of somebody's vote.
///
/// # Errors
/// [`VoteExtensionError`] if it is anything but the empty container.
pub fn verify(extension: &[u8]) -> Result<(), VoteExtensionError> {
    if extension == EMPTY {
        Ok(())
    } else {
        let length = extension.len();
        Err(VoteExtensionError { length })
    }
}
