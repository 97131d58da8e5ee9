use borsh::{BorshDeserialize, BorshSerialize, io};
use bytes::Bytes;

use crate::{
    block::RollupItem,
    primitive::{Hash, RollupId},
};

/// Orders opaque items for one rollup.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct SubmitData {
    rollup_id: RollupId,
    items: Vec<Bytes>, // Invariant: 1..=MAX_ITEMS, each 1..=MAX_ITEM_BYTES. We never look inside.
    #[borsh(skip)]
    leaves: Vec<Hash>, // Of the items in a rollup's list: bulk bytes are hashed once.
}

/// Why items cannot be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitDataError {
    /// No item at all, or more than one action carries.
    #[error("{count} items must be 1..={}", SubmitData::MAX_ITEMS)]
    ItemCount {
        /// How many there were.
        count: usize,
    },
    /// An item is empty or too long.
    #[error(
        "item {index} has {length} bytes, must have 1..={}",
        SubmitData::MAX_ITEM_BYTES
    )]
    ItemLength {
        /// Its place in the action.
        index: usize,
        /// Its length in bytes.
        length: usize,
    },
}

impl SubmitData {
    /// Most items of one action.
    pub const MAX_ITEMS: usize = 4_096;
    /// Longest item, in bytes.
    pub const MAX_ITEM_BYTES: usize = 131_072;

    /// Builds the action; an item that no block may carry never becomes one.
    ///
    /// # Errors
    /// [`SubmitDataError`] names the first item that is empty or too long, or the excess of items.
    pub fn new(rollup_id: RollupId, items: Vec<Bytes>) -> Result<Self, SubmitDataError> {
        let count = items.len();
        if !(1..=Self::MAX_ITEMS).contains(&count) {
            return Err(SubmitDataError::ItemCount { count });
        }
        let fits = |item: &Bytes| (1..=Self::MAX_ITEM_BYTES).contains(&item.len());
        match items.iter().enumerate().find(|(_, item)| !fits(item)) {
            Some((index, item)) => Err(SubmitDataError::ItemLength {
                index,
                length: item.len(),
            }),
            None => {
                let leaf = |item: &Bytes| RollupItem::transaction_leaf(item);
                let leaves = items.iter().map(leaf).collect();
                Ok(Self {
                    rollup_id,
                    items,
                    leaves,
                })
            }
        }
    }

    /// The rollup that executes the items.
    #[must_use]
    pub fn rollup_id(&self) -> RollupId {
        self.rollup_id
    }

    /// The items, in order.
    #[must_use]
    pub fn items(&self) -> &[Bytes] {
        &self.items
    }

    /// The Merkle leaf of each item in the rollup's list.
    #[must_use]
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// Bytes of all items together.
    #[must_use]
    pub fn bytes_len(&self) -> u64 {
        let add = |total: u64, item: &Bytes| total.saturating_add(item.len() as u64);
        self.items.iter().fold(0, add)
    }
}

impl BorshDeserialize for SubmitData {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (rollup_id, items) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(rollup_id, items)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
