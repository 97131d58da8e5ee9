use borsh::{BorshDeserialize, BorshSerialize};

use super::abi::{self, Word};
use crate::primitive::{EvmAddress, Hash, RollupId};

/// Who may open the bundle's session on a rollup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Caller {
    /// Where.
    pub rollup_id: RollupId,
    /// The account that calls the mailbox.
    pub address: EvmAddress,
}

/// `keccak256(abi.encode(bytes32 salt, (bytes32, address)[] callers))`.
#[must_use]
pub fn session_id(salt: &Hash, callers: &[Caller]) -> Hash {
    // The array lies behind two words.
    let mut words: Vec<Word> = vec![*salt.as_bytes(), abi::number(64)];
    words.push(abi::number(callers.len() as u64));
    for caller in callers {
        words.push(*caller.rollup_id.as_bytes());
        words.push(abi::address(&caller.address));
    }
    abi::keccak_words(&words)
}

/// What the parent beacon block root of a rollup block is that a bundle was released into:
/// `keccak256(abi.encode("COUNTERPOINT_TICKET_V1", keccak256(chain id), rollup, session, inbox))`.
#[must_use]
pub fn ticket(chain_id: &str, rollup_id: &RollupId, session_id: &Hash, inbox_hash: &Hash) -> Hash {
    const TAG: &str = "COUNTERPOINT_TICKET_V1";
    abi::keccak_words(&[
        abi::number(160), // The text lies behind five words.
        *abi::keccak([chain_id.as_bytes()]).as_bytes(),
        *rollup_id.as_bytes(),
        *session_id.as_bytes(),
        *inbox_hash.as_bytes(),
        abi::number(TAG.len() as u64),
        abi::short_text(TAG),
    ])
}
