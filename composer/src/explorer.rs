//! What the explorer's page learns from this composer, beside what the chain says.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{B256, keccak256};
use counterpoint_core::{
    block::RollupItem,
    cursor::Cursor,
    primitive::{Hash, Height},
};
use counterpoint_explorer::{Host, Part, Standing};
use counterpoint_service::sequencer::Client;
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use serde_json::Value;

use crate::{rpc::Rollup, upstream::BlockEnd};

/// Most heights that are searched for the place of a transaction whose block is known: more than a
/// block of a chain that goes on spans.
const MAX_HEIGHTS: u64 = 64;

/// The rollups of a composer, as the explorer sees them.
#[derive(Debug)]
pub(crate) struct Shown {
    rollups: BTreeMap<String, Arc<Rollup>>,
    client: Client,
}

impl Shown {
    /// What there is to show.
    #[must_use]
    pub(crate) fn new(rollups: BTreeMap<String, Arc<Rollup>>, client: Client) -> Self {
        Self { rollups, client }
    }

    async fn part(&self, name: &str, rollup: &Rollup) -> Part {
        let mut part = Part {
            name: name.to_owned(),
            kind: "rollup",
            head: None,
            time: None,
            height: None,
            trouble: None,
        };
        match rollup.upstream().recent_head().await {
            Ok(head) => {
                part.head = Some(head.number);
                part.time = Some(head.timestamp);
                part.height = head.progress.map(|progress| progress.cursor.height.get());
            }
            Err(error) => part.trouble = Some(error.to_string()),
        }
        part
    }

    /// Where a transaction stands on a rollup that knows it.
    async fn standing(&self, name: &str, rollup: &Rollup, hash: B256) -> Option<Standing> {
        let status = rollup.status(hash).await.ok()?;
        if status["status"] == "unknown" {
            return None;
        }
        let number = |key: &str| status[key].as_u64();
        let index = number("index").and_then(|index| u32::try_from(index).ok());
        let mut standing = Standing {
            rollup: name.to_owned(),
            acknowledged: rollup.acknowledged(hash),
            height: number("height"),
            index,
            block_time: None,
            head: None,
            status: Value::Null,
        };
        if let Some(block) = number("blockNumber") {
            let upstream = rollup.upstream();
            let (end, head) = tokio::join!(upstream.block_end(block), upstream.recent_head());
            let end = end.ok().flatten();
            standing.block_time = end.map(|end| end.timestamp);
            standing.head = head.ok().map(|head| head.number);
            if standing.height.is_none()
                && let Some(place) = self.place(rollup, block, end, hash).await
            {
                (standing.height, standing.index) = (Some(place.height.get()), Some(place.index));
            }
        }
        standing.status = status;
        Some(standing)
    }

    /// The place of a transaction of a block: between where the block before stopped, and this one.
    async fn place(
        &self,
        rollup: &Rollup,
        block: u64,
        end: Option<BlockEnd>,
        hash: B256,
    ) -> Option<Cursor> {
        let before = rollup.upstream().block_end(block.checked_sub(1)?).await;
        let first = match before.ok()??.progress {
            Some(progress) => progress.cursor,
            None => Cursor {
                height: rollup.config().first_height,
                index: 0,
            },
        };
        let last = end?.progress?.cursor.height.get();
        let id = rollup.config().rollup_id;
        for height in (first.height.get()..=last).take(usize::try_from(MAX_HEIGHTS).ok()?) {
            let height = Height::new(height);
            let (_, list) = self.client.rollup_block(height, &id).await.ok()?;
            let items: Vec<RollupItem> = borsh::from_slice(&list.borsh_list).ok()?;
            let wanted = |item: &RollupItem| match item {
                RollupItem::Transaction(raw) | RollupItem::Leg { raw, .. } => {
                    keccak256(raw) == hash
                }
                RollupItem::Deposit { .. } => false,
            };
            let from = match height == first.height {
                true => usize::try_from(first.index).ok()?,
                false => 0,
            };
            let found = items.iter().skip(from).position(wanted);
            if let Some(found) = found {
                let index = u32::try_from(from.saturating_add(found)).ok()?;
                return Some(Cursor { height, index });
            }
        }
        None
    }
}

impl Host for Shown {
    fn name(&self) -> &'static str {
        "composer"
    }

    fn parts(&self) -> BoxFuture<'_, Vec<Part>> {
        let parts = self.rollups.iter();
        join_all(parts.map(|(name, rollup)| self.part(name, rollup))).boxed()
    }

    fn standings(&self, hash: Hash) -> BoxFuture<'_, Vec<Standing>> {
        let hash = B256::new(*hash.as_bytes());
        let rollups = self.rollups.iter();
        let standings = rollups.map(move |(name, rollup)| self.standing(name, rollup, hash));
        async move { join_all(standings).await.into_iter().flatten().collect() }.boxed()
    }
}
