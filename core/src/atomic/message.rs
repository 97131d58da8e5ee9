use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

use super::abi;
use crate::primitive::{EvmAddress, Hash, RollupId};

/// What a contract on one rollup tells a contract on another within a bundle. The bundle says what
/// will be said; its legs must say exactly that.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Message {
    /// Where it is sent.
    pub src: RollupId,
    /// Where it is received.
    pub dst: RollupId,
    /// Counts the messages of `src` from 0.
    pub index: u64,
    /// Who sends it.
    pub sender: EvmAddress,
    /// Who may take it.
    pub receiver: EvmAddress,
    /// What it says.
    pub data: Bytes,
}

impl Message {
    /// Most bytes that one says.
    pub const MAX_DATA_BYTES: usize = 4_096;

    /// `keccak256(abi.encode(src, dst, uint256 index, sender, receiver, keccak256(data)))`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        abi::keccak_words(&[
            *self.src.as_bytes(),
            *self.dst.as_bytes(),
            abi::number(self.index),
            abi::address(&self.sender),
            abi::address(&self.receiver),
            *abi::keccak([&self.data[..]]).as_bytes(),
        ])
    }
}

/// What a rollup receives: Keccak-256 over the hashes of the messages to it, one after another.
#[must_use]
pub fn inbox_hash(rollup_id: &RollupId, messages: &[Message]) -> Hash {
    chain(messages.iter().filter(|message| message.dst == *rollup_id))
}

/// What a rollup sends: Keccak-256 over the hashes of the messages from it, one after another.
#[must_use]
pub fn outbox_hash(rollup_id: &RollupId, messages: &[Message]) -> Hash {
    chain(messages.iter().filter(|message| message.src == *rollup_id))
}

fn chain<'a>(messages: impl Iterator<Item = &'a Message>) -> Hash {
    let hashes: Vec<abi::Word> = messages.map(|message| *message.hash().as_bytes()).collect();
    abi::keccak_words(&hashes)
}
