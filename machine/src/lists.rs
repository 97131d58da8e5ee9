//! What a block holds for each rollup: its environment and its list, lane by lane.
//!
//! Lanes of a list, in order: deposits, `L0` atomic legs, `L1` decrypted payloads, `L2` backrun
//! slot, `L3` deferred plaintext, `L4` plaintext in block order. Today deposits, `L0` and `L4` exist.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterpoint_core::{
    atomic::{LegEnv, deposits_hash},
    block::{ENV_VERSION, RollupEnv, RollupItem, RollupLeaf, prev_randao},
    primitive::{Address, Amount, Hash, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    slot::{HeaderTime, Slot, SlotSecs},
    state::PendingConfig,
    transaction::SignedTransaction,
};

use crate::{
    atomic::drop_sealed,
    execute::Item,
    fees::owner_share,
    registry,
    room::{Share, parts},
    state::{
        DepositQueue, Key, LastHeader, QueuedDeposit, ReadRecords, RollupRecord, StateDelta,
        StateRead, StoreError,
    },
};

/// Most deposits of one rollup block: geth takes no more withdrawals.
pub const MAX_DEPOSITS_PER_BLOCK: u64 = 16;

/// One rollup's part of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollupSlice {
    /// What the block commits to.
    pub leaf: RollupLeaf,
    /// The whole list.
    pub items: Vec<RollupItem>,
    /// The configuration that `leaf.env.config_hash` is the digest of.
    pub config: RollupConfig,
}

/// The lists of a block that is being put together.
#[derive(Clone, Debug)]
pub(crate) struct Lists(BTreeMap<RollupId, List>);

#[derive(Clone, Debug)]
struct List {
    config: RollupConfig,
    env: RollupEnv,
    deposits: Vec<RollupItem>,
    legs: Vec<RollupItem>,
    plaintext: Vec<RollupItem>,
    leaves: Vec<Hash>, // Of `plaintext`.
    left: Share,
}

/// The slots around one height, for one slot length.
#[derive(Clone, Copy, Debug)]
struct Slots {
    current: Slot,
    opens: bool,
    closes: bool,
    openings: u64,
}

impl Lists {
    /// Opens the block: moves slots on, numbers rollup blocks and takes deposits from the queues
    /// of the state before.
    pub(crate) fn open<S: StateRead>(
        height: Height,
        time: HeaderTime,
        last: &LastHeader,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<Self, StoreError> {
        registry::collect_rent(height, delta)?;
        let classes = open_slots(time, last, delta)?;
        let mut lists = BTreeMap::new();
        for mut record in delta.rollups()? {
            let class = classes.get(&record.config.slot_secs.get()).copied();
            let Some(slots) = class.filter(|_| record.config.first_height <= height) else {
                continue;
            };
            let first = height == record.config.first_height;
            let slots = Slots {
                opens: slots.opens || first,
                ..slots
            };
            if slots.opens && turn(&mut record, height, slots, delta)? == Fate::Leaves {
                continue;
            }
            let list = List::open(record, slots, last.hash, delta)?;
            lists.insert(list.config.rollup_id, list);
        }
        Ok(Self(lists))
    }

    /// What owners of rollups get of the tip of `tx`, whose data is a part of the lists.
    pub(crate) fn owner_shares(&self, tx: &SignedTransaction) -> Vec<(Address, Amount)> {
        let tip = tx.body().tip_per_byte;
        let share = |(id, part): (RollupId, Share)| {
            let config = &self.0.get(&id)?.config;
            let share = owner_share(tip, part, config.tip_share_bps)?;
            (share > Amount::ZERO).then_some((config.owner, share))
        };
        parts(tx).into_iter().filter_map(share).collect()
    }

    /// Whether all of `items` fit into their rollups' shares of the block.
    pub(crate) fn fit(&self, items: &[Item]) -> bool {
        let mut added: BTreeMap<RollupId, Share> = BTreeMap::new();
        for item in items {
            let part = added.entry(item.rollup_id).or_default();
            part.add(1, item.raw.len() as u64);
        }
        added.into_iter().all(|(id, part)| {
            let list = self.0.get(&id);
            list.is_some_and(|list| list.left.without(part).is_some())
        })
    }

    /// Appends to `L4`.
    pub(crate) fn push(&mut self, items: Vec<Item>) {
        for Item {
            rollup_id,
            raw,
            leaf,
        } in items
        {
            if let Some(list) = self.0.get_mut(&rollup_id) {
                let part = Share {
                    items: 1,
                    bytes: raw.len() as u64,
                };
                list.left = list.left.without(part).unwrap_or_default();
                list.plaintext.push(RollupItem::Transaction(raw));
                list.leaves.push(leaf);
            }
        }
    }

    /// The configuration of a rollup that has a list at this height.
    pub(crate) fn config(&self, id: RollupId) -> Option<&RollupConfig> {
        self.0.get(&id).map(|list| &list.config)
    }

    /// The number of the rollup block that this height is a part of.
    pub(crate) fn number(&self, id: RollupId) -> Option<u64> {
        self.0.get(&id).map(|list| list.env.number)
    }

    /// Rollups whose next block opens at the next height.
    pub(crate) fn closing(&self) -> impl Iterator<Item = RollupId> {
        let closing = self.0.iter().filter(|(_, list)| list.env.closes);
        closing.map(|(id, _)| *id)
    }

    /// What a leg executes in, if the rollup opens a block at this height.
    pub(crate) fn leg_env(&self, id: RollupId, base_fee: u64, ticket: Hash) -> Option<LegEnv> {
        let list = self.0.get(&id).filter(|list| list.env.opens)?;
        Some(LegEnv {
            number: list.env.number,
            timestamp: list.env.slot.get(),
            gas_limit: list.config.gas_limit,
            fee_recipient: list.config.fee_recipient,
            prev_randao: list.env.prev_randao,
            base_fee,
            beacon_root: *ticket.as_bytes(),
            deposits_hash: deposits_hash(&list.deposits),
        })
    }

    /// Puts a leg into `L0`; its rollup's block gets `ticket`.
    pub(crate) fn release(
        &mut self,
        id: RollupId,
        bundle_id: Hash,
        ticket: Hash,
        raws: Vec<Bytes>,
        share: Share,
    ) {
        if let Some(list) = self.0.get_mut(&id) {
            list.env.beacon_root = *ticket.as_bytes();
            list.left = list.left.without(share).unwrap_or_default();
            let leg = |raw| RollupItem::Leg { bundle_id, raw };
            list.legs.extend(raws.into_iter().map(leg));
        }
    }

    /// Puts the lanes together, in the order of rollup identifiers. What is sealed, by this block too,
    /// is in no lane but `L0`.
    pub(crate) fn close<S: StateRead>(
        self,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<Vec<RollupSlice>, StoreError> {
        let close = |(id, list): (RollupId, List)| {
            let mut items = list.deposits;
            items.extend(list.legs);
            let mut leaves: Vec<Hash> = items.iter().map(RollupItem::leaf).collect();
            let (plaintext, plain_leaves) = drop_sealed(id, (list.plaintext, list.leaves), delta)?;
            leaves.extend(plain_leaves);
            items.extend(plaintext);
            Ok(RollupSlice {
                leaf: RollupLeaf::new(id, list.env, leaves),
                items,
                config: list.config,
            })
        };
        self.0.into_iter().map(close).collect()
    }
}

/// Works out every slot length's place in time, and counts openings.
fn open_slots<S: StateRead>(
    time: HeaderTime,
    last: &LastHeader,
    delta: &mut StateDelta<'_, S>,
) -> Result<BTreeMap<u8, Slots>, StoreError> {
    let mut classes = BTreeMap::new();
    for (secs, openings) in delta.openings()? {
        let length = SlotSecs::new(secs)
            .map_err(|error| StoreError::corrupt(format!("openings: {error}")))?;
        let current = Slot::of(last.time, length);
        let opens = current > Slot::of(last.previous_time, length);
        let closes = Slot::of(Some(time), length) > current;
        let openings = openings.saturating_add(u64::from(opens));
        if opens {
            delta.put(&Key::Openings(length), &openings)?;
        }
        classes.insert(
            secs,
            Slots {
                current,
                opens,
                closes,
                openings,
            },
        );
    }
    Ok(classes)
}

/// Whether a rollup goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Leaves,
}

/// What happens to a rollup when a block of its own opens: the first one is counted from, planned
/// changes apply, and a rollup whose time has come leaves.
fn turn<S: StateRead>(
    record: &mut RollupRecord,
    height: Height,
    slots: Slots,
    delta: &mut StateDelta<'_, S>,
) -> Result<Fate, StoreError> {
    let before = record.clone();
    if let Some(PendingConfig { config, .. }) =
        record.pending.take_if(|pending| pending.from <= height)
    {
        record.config_hash = config.hash();
        record.config = config;
    }
    if let RollupStatus::Exiting(from) = record.config.status
        && from <= height
    {
        registry::leave(record, delta)?;
        return Ok(Fate::Leaves);
    }
    record.first_opening.get_or_insert(slots.openings);
    if *record != before {
        delta.put(&Key::Rollup(record.config.rollup_id), record)?;
    }
    Ok(Fate::Stays)
}

impl List {
    fn open<S: StateRead>(
        record: RollupRecord,
        slots: Slots,
        previous: Hash,
        delta: &mut StateDelta<'_, S>,
    ) -> Result<Self, StoreError> {
        let id = record.config.rollup_id;
        let opens = slots.opens;
        let counted_from = record.first_opening.unwrap_or(slots.openings);
        let env = RollupEnv {
            version: ENV_VERSION,
            slot: slots.current,
            number: slots
                .openings
                .saturating_sub(counted_from)
                .saturating_add(1),
            opens,
            closes: slots.closes,
            beacon_root: if opens { *previous.as_bytes() } else { [0; 32] },
            prev_randao: if opens {
                prev_randao(&id, &previous)
            } else {
                [0; 32]
            },
            config_hash: record.config_hash,
        };
        let left = Share::of(&record.config);
        let deposits = if opens {
            take_deposits(id, delta)?
        } else {
            Vec::new()
        };
        let (legs, plaintext, leaves) = Default::default();
        Ok(Self {
            config: record.config,
            env,
            deposits,
            legs,
            plaintext,
            leaves,
            left,
        })
    }
}

/// Takes the oldest deposits from the queue.
fn take_deposits<S: StateRead>(
    id: RollupId,
    delta: &mut StateDelta<'_, S>,
) -> Result<Vec<RollupItem>, StoreError> {
    let queue = delta.deposit_queue(id)?;
    let until = queue
        .queued
        .min(queue.emitted.saturating_add(MAX_DEPOSITS_PER_BLOCK));
    let mut items = Vec::new();
    for index in queue.emitted..until {
        let key = Key::Deposit(id, index);
        let missing = || StoreError::corrupt(format!("deposit {index} of rollup {id} is missing"));
        let deposit: QueuedDeposit = delta.read(&key)?.ok_or_else(missing)?;
        let QueuedDeposit {
            address,
            amount_gwei,
            ..
        } = deposit;
        items.push(RollupItem::Deposit {
            index,
            address,
            amount_gwei,
        });
        delta.delete(&key);
    }
    if !items.is_empty() {
        delta.release_deposits(items.len() as u64)?;
        delta.put(
            &Key::DepositQueue(id),
            &DepositQueue {
                emitted: until,
                ..queue
            },
        )?;
    }
    Ok(items)
}
