//! From lists to blocks: slots open and close them, the cursor says what is left over.
//!
//! ```text
//! heights   a      a+1     …      b  │ b+1
//! lists   [items][items][items][items]│
//!           └ opens                └ closes: finish, cursor = first item without room, or (b+1, 0)
//! ```
//! Legs of atomic bundles ride at the opening height only, and run before whatever waits.
//!
//! Lists that wait for room are kept up to a limit. Beyond it only their places are, and a list is
//! asked for once more when its turn comes.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::keccak256;
use bytes::Bytes;
use counterpoint_core::{
    block::{ENV_VERSION, RollupItem, VerifiedList},
    cursor::{Cursor, ExtraData},
    light::TrustedState,
    primitive::Height,
    registry::RollupConfig,
    slot::Slot,
};

use crate::{
    chain_spec::Specification,
    derive::{Rules, SkipReason, inputs, is_last, is_stale},
    evm::{BlockBuilder, BuiltBlock, ExecuteError, Outcome, StateSource},
    legs::ExecutedLeg,
    progress::Progress,
    receipts::{Event, Place, Receipts, Skip},
};

/// Why lists do not make blocks. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The sequencer has moved on to rules that this software does not know.
    #[error("height {height} follows derivation rules {version}: install a newer conductor")]
    Version {
        /// The height.
        height: Height,
        /// The version in its environment.
        version: u8,
    },
    /// A list does not continue what came before; the chain contradicts itself.
    #[error("height {height} {problem}")]
    Sequence {
        /// The height.
        height: Height,
        /// How it does not fit.
        problem: &'static str,
    },
    /// A fault while executing.
    #[error("height {height}")]
    Execute {
        /// The height.
        height: Height,
        /// What failed.
        source: ExecuteError,
    },
}

/// Most bytes of the items that wait.
const MAX_PENDING_BYTES: usize = 256 << 20;

/// A list that may still have items to execute.
#[derive(Debug)]
struct Pending {
    height: Height,
    slot: Slot,
    /// Nothing if there was no place for them.
    items: Option<Vec<RollupItem>>,
    /// What verified the list; verification can start again from here.
    trusted_before: TrustedState,
}

/// A finished block, and what comes after it.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The block.
    pub built: BuiltBlock,
    /// Where the next one goes on.
    pub extra: ExtraData,
    /// What to verify the list at the cursor from.
    pub trusted: TrustedState,
    /// The configuration under which the rollup has left with this block.
    pub left: Option<RollupConfig>,
    /// Legs that were released into it.
    pub legs: Vec<ExecutedLeg>,
}

/// Assembles the blocks of one rollup from its lists, in order.
#[derive(Debug)]
pub struct Assembler {
    source: Arc<dyn StateSource>,
    specification: Specification,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    limit: usize,
    next_index: u32,
    open: Option<OpenBlock>,
    closing: Option<Closing>,
    receipts: Arc<Receipts>,
}

/// The end of the open block.
#[derive(Debug)]
struct Closing {
    height: Height,
    /// What is trusted after it.
    trusted: TrustedState,
    /// The configuration, if no block follows.
    left: Option<RollupConfig>,
}

#[derive(Debug)]
struct OpenBlock {
    builder: BlockBuilder,
    slot: Slot,
    slot_secs: u8,
    full: bool,
    legs: Vec<ExecutedLeg>,
}

impl Assembler {
    /// Goes on at the cursor of the last block, and tells `receipts` what becomes of each item.
    #[must_use]
    pub fn new(
        source: Arc<dyn StateSource>,
        specification: Specification,
        cursor: Cursor,
        receipts: Arc<Receipts>,
    ) -> Self {
        let (pending, pending_bytes, open, closing) = Default::default();
        Self {
            source,
            specification,
            pending,
            pending_bytes,
            limit: MAX_PENDING_BYTES,
            next_index: cursor.index,
            open,
            closing,
            receipts,
        }
    }

    /// Keeps at most `limit` bytes of items that wait.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes the list of the next height, and executes what there is room for. [`Self::wanted`]
    /// lists must follow, and then [`Self::close`].
    ///
    /// # Errors
    /// [`AssemblyError`] if the list does not fit, or execution fails.
    pub fn push(
        &mut self,
        list: &VerifiedList,
        config: &RollupConfig,
        trusted_before: TrustedState,
        trusted: &TrustedState,
        progress: &Progress,
    ) -> Result<(), AssemblyError> {
        let (height, env) = (list.header().height(), &list.leaf().env);
        if env.version != ENV_VERSION {
            return Err(AssemblyError::Version {
                height,
                version: env.version,
            });
        }
        let bytes = self.pending_bytes.saturating_add(size(list.items()));
        let items = (bytes <= self.limit).then(|| list.items().to_vec());
        if items.is_some() {
            self.pending_bytes = bytes;
        }
        self.pending.push_back(Pending {
            height,
            slot: env.slot,
            items,
            trusted_before,
        });
        if height < progress.extra.next_opening {
            return Ok(()); // Left over from blocks that are closed.
        }
        self.open_if_due(list, config, progress)?;
        if env.closes {
            self.closing = Some(Closing {
                height,
                trusted: trusted.clone(),
                left: is_last(config, height).then(|| config.clone()),
            });
        }
        self.pump(height)
    }

    /// The height of a list whose turn has come and which was not kept, and what verifies it.
    #[must_use]
    pub fn wanted(&self) -> Option<(Height, &TrustedState)> {
        let has_room = self.open.as_ref().is_some_and(|open| !open.full);
        let first = self.pending.front().filter(|_| has_room)?;
        first
            .items
            .is_none()
            .then_some((first.height, &first.trusted_before))
    }

    /// Takes the wanted list in once more.
    ///
    /// # Errors
    /// [`AssemblyError`] if it is another one, or execution fails.
    pub fn supply(&mut self, list: &VerifiedList) -> Result<(), AssemblyError> {
        let height = list.header().height();
        match self.pending.front_mut() {
            Some(first) if first.height == height && first.items.is_none() => {
                self.pending_bytes = self.pending_bytes.saturating_add(size(list.items()));
                first.items = Some(list.items().to_vec());
                self.pump(height)
            }
            _ => Err(AssemblyError::Sequence {
                height,
                problem: "was not asked for",
            }),
        }
    }

    /// The block that the last list closed, if it did.
    ///
    /// # Errors
    /// [`AssemblyError`] if no block is open, or the state cannot be read.
    pub fn close(&mut self) -> Result<Option<Closed>, AssemblyError> {
        let closing = self.closing.take();
        closing.map(|closing| self.finish(closing)).transpose()
    }

    fn open_if_due(
        &mut self,
        list: &VerifiedList,
        config: &RollupConfig,
        progress: &Progress,
    ) -> Result<(), AssemblyError> {
        let (height, env) = (list.header().height(), &list.leaf().env);
        let wrong = |problem| Err(AssemblyError::Sequence { height, problem });
        match (env.opens, &self.open) {
            (false, Some(_)) => return Ok(()),
            (false, None) => return wrong("continues a block that never opened"),
            (true, Some(_)) => return wrong("opens a block while another is open"),
            (true, None) => {}
        }
        if height != progress.extra.next_opening {
            return wrong("opens a block later than the last one said");
        }
        if env.number != progress.header.number + 1 {
            return wrong("opens a block with a number that does not follow");
        }
        let mut builder = BlockBuilder::begin(
            Arc::clone(&self.source),
            &self.specification,
            Rules::from(config),
            (&progress.header, progress.hash),
            inputs(env, config, list.items()),
        )
        .map_err(|source| AssemblyError::Execute { height, source })?;
        self.receipts.record(Event::Opened {
            number: env.number,
            timestamp: env.slot.get(),
            height,
        });
        let legs = self.execute_legs(&mut builder, height, list.items())?;
        let slot_secs = config.slot_secs.get();
        self.open = Some(OpenBlock {
            builder,
            slot: env.slot,
            slot_secs,
            full: false,
            legs,
        });
        Ok(())
    }

    /// Executes the legs that were released into a block, before anything that waits. The chain has
    /// seen to it that there is room.
    fn execute_legs(
        &self,
        builder: &mut BlockBuilder,
        height: Height,
        items: &[RollupItem],
    ) -> Result<Vec<ExecutedLeg>, AssemblyError> {
        let mut legs: Vec<ExecutedLeg> = Vec::new();
        for (index, item) in (0..).zip(items) {
            let RollupItem::Leg { bundle_id, raw } = item else {
                continue;
            };
            let executed = builder.execute(raw, [].iter());
            let outcome = executed.map_err(|source| AssemblyError::Execute { height, source })?;
            let result = match &outcome {
                Outcome::Included(receipt) => Ok(receipt.envelope.clone()),
                Outcome::Skipped(reason) => Err(*reason),
                Outcome::EndOfBlock => {
                    let problem = "releases a leg that its block has no room for";
                    return Err(AssemblyError::Sequence { height, problem });
                }
            };
            let tx = (keccak256(raw), result);
            match legs.last_mut() {
                Some(leg) if leg.bundle_id == *bundle_id => leg.txs.push(tx),
                _ => legs.push(ExecutedLeg {
                    bundle_id: *bundle_id,
                    height,
                    txs: vec![tx],
                }),
            }
            if let Some(event) = event(raw, Place { height, index }, outcome) {
                self.receipts.record(event);
            }
        }
        Ok(legs)
    }

    /// Executes whatever is there and has room.
    fn pump(&mut self, height: Height) -> Result<(), AssemblyError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        while !open.full {
            let Some(list) = self.pending.front() else {
                return Ok(());
            };
            let Some(items) = &list.items else {
                return Ok(()); // It is wanted.
            };
            let Some(item) = items.get(self.next_index as usize) else {
                self.pending_bytes = self.pending_bytes.saturating_sub(size(items));
                self.pending.pop_front();
                self.next_index = 0;
                continue;
            };
            if let Some(raw) = payload(item) {
                let stale = is_stale(open.slot, list.slot, open.slot_secs);
                let outcome = if stale {
                    Outcome::Skipped(SkipReason::Stale)
                } else {
                    let next = &items[self.next_index as usize + 1..];
                    let next = next.iter().filter_map(payload);
                    let executed = open.builder.execute(raw, next);
                    executed.map_err(|source| AssemblyError::Execute { height, source })?
                };
                let place = Place {
                    height: list.height,
                    index: self.next_index,
                };
                let Some(event) = event(raw, place, outcome) else {
                    open.full = true;
                    return Ok(());
                };
                self.receipts.record(event);
            }
            self.next_index += 1;
        }
        Ok(())
    }

    fn finish(&mut self, closing: Closing) -> Result<Closed, AssemblyError> {
        let Closing {
            height,
            trusted,
            left,
        } = closing;
        let open = self.open.take();
        let open = open.ok_or(AssemblyError::Sequence {
            height,
            problem: "closes no block",
        })?;
        let next_opening = Height::new(height.get() + 1);
        let (cursor, trusted) = match self.pending.front() {
            Some(list) => {
                let cursor = Cursor {
                    height: list.height,
                    index: self.next_index,
                };
                (cursor, list.trusted_before.clone())
            }
            None => (
                Cursor {
                    height: next_opening,
                    index: 0,
                },
                trusted,
            ),
        };
        let extra = ExtraData {
            next_opening,
            cursor,
        };
        let extra_data = alloy_primitives::Bytes::copy_from_slice(&extra.encode());
        let legs = open.legs;
        let built = open.builder.finish(extra_data);
        let built = built.map_err(|source| AssemblyError::Execute { height, source })?;
        let hash = built.hash;
        self.receipts.record(Event::Closed { hash, height });
        Ok(Closed {
            built,
            extra,
            trusted,
            left,
            legs,
        })
    }
}

/// What is told of an item; nothing if its turn has not come.
fn event(raw: &Bytes, place: Place, outcome: Outcome) -> Option<Event> {
    match outcome {
        Outcome::Included(receipt) => Some(Event::Included { place, receipt }),
        Outcome::Skipped(reason) => Some(Event::Skipped(Skip {
            hash: keccak256(raw),
            place,
            reason,
        })),
        Outcome::EndOfBlock => None,
    }
}

/// Bytes that the items of a list take, about.
fn size(items: &[RollupItem]) -> usize {
    let item = |item: &RollupItem| size_of::<RollupItem>() + item.data_len();
    items.iter().map(item).sum()
}

/// The transaction that an item asks for; deposits and legs belong to the opening of a block.
fn payload(item: &RollupItem) -> Option<&Bytes> {
    match item {
        RollupItem::Transaction(raw) => Some(raw),
        RollupItem::Deposit { .. } | RollupItem::Leg { .. } => None,
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
