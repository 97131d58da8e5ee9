//! From lists to blocks: slots open and close them, the cursor says what is left over.
//!
//! ```text
//! heights   a      a+1     …      b  │ b+1
//! lists   [items][items][items][items]│
//!           └ opens                └ closes: finish, cursor = first item without room, or (b+1, 0)
//! ```

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::{B256, keccak256};
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
    derive::{Rules, SkipReason, inputs, is_stale},
    evm::{BlockBuilder, BuiltBlock, ExecuteError, Outcome, Store},
    progress::Progress,
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

/// A list that may still have items to execute.
#[derive(Debug)]
struct Pending {
    height: Height,
    slot: Slot,
    items: Vec<RollupItem>,
    /// What verified the list; verification can start again from here.
    trusted_before: TrustedState,
}

/// What happened to one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// keccak-256 of the item: its transaction hash, if it is one.
    pub hash: B256,
    /// Why it is in no block.
    pub reason: SkipReason,
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
}

/// Assembles the blocks of one rollup from its lists, in order.
#[derive(Debug)]
pub struct Assembler {
    store: Arc<dyn Store>,
    specification: Specification,
    pending: VecDeque<Pending>,
    next_index: u32,
    open: Option<OpenBlock>,
    skips: Vec<Skip>,
}

#[derive(Debug)]
struct OpenBlock {
    builder: BlockBuilder,
    slot: Slot,
    slot_secs: u8,
    full: bool,
}

impl Assembler {
    /// Goes on at the cursor of the last block.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, specification: Specification, cursor: Cursor) -> Self {
        let (pending, open, skips) = Default::default();
        Self {
            store,
            specification,
            pending,
            next_index: cursor.index,
            open,
            skips,
        }
    }

    /// Takes the list of the next height, and gives the block that it closes, if it does.
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
    ) -> Result<Option<Closed>, AssemblyError> {
        let (height, env) = (list.header().height(), &list.leaf().env);
        if env.version != ENV_VERSION {
            return Err(AssemblyError::Version {
                height,
                version: env.version,
            });
        }
        let pending = Pending {
            height,
            slot: env.slot,
            items: list.items().to_vec(),
            trusted_before,
        };
        self.pending.push_back(pending);
        if height < progress.extra.next_opening {
            return Ok(None); // Left over from blocks that are closed.
        }
        self.open_if_due(list, config, progress)?;
        self.pump()
            .map_err(|source| AssemblyError::Execute { height, source })?;
        if !env.closes {
            return Ok(None);
        }
        self.close(height, trusted).map(Some)
    }

    /// What was skipped since this was last asked.
    pub fn take_skips(&mut self) -> Vec<Skip> {
        std::mem::take(&mut self.skips)
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
        let builder = BlockBuilder::begin(
            Arc::clone(&self.store),
            &self.specification,
            Rules::from(config),
            (&progress.header, progress.hash),
            inputs(env, config, list.items()),
        )
        .map_err(|source| AssemblyError::Execute { height, source })?;
        let slot_secs = config.slot_secs.get();
        self.open = Some(OpenBlock {
            builder,
            slot: env.slot,
            slot_secs,
            full: false,
        });
        Ok(())
    }

    /// Executes whatever is there and has room.
    fn pump(&mut self) -> Result<(), ExecuteError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        while !open.full {
            let Some(list) = self.pending.front() else {
                return Ok(());
            };
            let Some(item) = list.items.get(self.next_index as usize) else {
                self.pending.pop_front();
                self.next_index = 0;
                continue;
            };
            if let Some(raw) = payload(item) {
                let stale = is_stale(open.slot, list.slot, open.slot_secs);
                let outcome = if stale {
                    Outcome::Skipped(SkipReason::Stale)
                } else {
                    open.builder.execute(raw)?
                };
                match outcome {
                    Outcome::Included(_) => {}
                    Outcome::Skipped(reason) => {
                        self.skips.push(Skip {
                            hash: keccak256(raw),
                            reason,
                        });
                    }
                    Outcome::EndOfBlock => {
                        open.full = true;
                        return Ok(());
                    }
                }
            }
            self.next_index += 1;
        }
        Ok(())
    }

    fn close(&mut self, height: Height, trusted: &TrustedState) -> Result<Closed, AssemblyError> {
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
                trusted.clone(),
            ),
        };
        let extra = ExtraData {
            next_opening,
            cursor,
        };
        let extra_data = alloy_primitives::Bytes::copy_from_slice(&extra.encode());
        let built = open.builder.finish(extra_data);
        let built = built.map_err(|source| AssemblyError::Execute { height, source })?;
        Ok(Closed {
            built,
            extra,
            trusted,
        })
    }
}

/// The transaction that an item asks for; deposits were made at the opening, and legs run first.
fn payload(item: &RollupItem) -> Option<&Bytes> {
    match item {
        RollupItem::Transaction(raw) => Some(raw),
        RollupItem::Deposit { .. } | RollupItem::Leg { .. } => None,
    }
}

#[cfg(test)]
mod tests;
