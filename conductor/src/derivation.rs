//! Blocks from the sequencer's verified lists, one after another.

use std::{sync::Arc, time::Instant};

use counterpoint_core::{
    atomic::Pin,
    block::VerifiedList,
    light::{TrustedState, VerifiedHeader},
    primitive::Height,
    registry::RollupConfig,
};
use counterpoint_service::{
    Readiness,
    sequencer::{Client, FollowError, Follower, VerifiedBlock, verified_block},
    to_f64,
};
use metrics::{gauge, histogram};

use crate::{
    assembly::{Assembler, Closed},
    attester::Tip,
    board::{LATE, SEQUENCER, since},
    chain_spec::Specification,
    evm::StateSource,
    metric,
    progress::Progress,
    receipts::Receipts,
    start::check_registration,
};

/// Where blocks are derived from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) specification: Specification,
    pub(crate) rollup: RollupConfig,
    pub(crate) sequencer: Client,
    pub(crate) readiness: Readiness,
}

impl Source {
    /// Goes on where a block left off.
    fn follower(&self, tip: &Progress) -> Follower {
        let (cursor, trusted) = (tip.cursor(), tip.trusted.clone());
        let begin = match cursor.height == tip.extra.next_opening {
            // The height before closed that block, and the node may have pruned it.
            true => Follower::after_block,
            false => Follower::new,
        };
        let sequencer = self.sequencer.clone();
        begin(sequencer, self.rollup.rollup_id, trusted, cursor.height)
    }

    /// The next block of the sequencer; nothing once it is proven that the rollup has left.
    async fn next(&self, follower: &mut Follower) -> Result<Option<VerifiedBlock>, FollowError> {
        let reason = "no verified block arrives; /status says what is wrong with each node";
        let next = follower.next();
        match self.readiness.watch(SEQUENCER, LATE, reason, next).await {
            Ok(block) => Ok(Some(block)),
            Err(FollowError::Left { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A list of an earlier height once more.
    async fn again(&self, trusted: &TrustedState, height: Height) -> eyre::Result<VerifiedList> {
        let reason = "no node serves a list that waited for room";
        let again = verified_block(&self.sequencer, self.rollup.rollup_id, trusted, height);
        let again = self.readiness.watch(SEQUENCER, LATE, reason, again).await;
        Ok(again?.0.list)
    }
}

/// A block, and where it leaves the rollup.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) closed: Closed,
    /// The configuration in force where it ends.
    pub(crate) config: RollupConfig,
    /// The sequencer block that ends it.
    header: VerifiedHeader,
}

impl Derived {
    /// What legs of the next block are executed on. `arrived` is when the end was there, verified.
    pub(crate) fn tip(&self, arrived: Instant) -> Tip {
        Tip {
            header: self.closed.built.block.header.clone(),
            hash: self.closed.built.hash,
            pin: Pin {
                height: self.header.height(),
                hash: self.header.hash(),
            },
            time: self.header.time(),
            config: self.config.clone(),
            arrived,
        }
    }
}

/// Derives the blocks of one rollup.
#[derive(Debug)]
pub(crate) struct Derivation {
    source: Source,
    follower: Follower,
    assembler: Assembler,
    receipts: Arc<Receipts>,
    /// The configuration that was compared with our files last.
    checked: Option<RollupConfig>,
    /// When the last list was there, verified.
    arrived: Instant,
}

impl Derivation {
    /// Goes on after `tip`, with the state of `states`.
    pub(crate) fn new(
        source: Source,
        states: Arc<dyn StateSource>,
        tip: &Progress,
        receipts: Arc<Receipts>,
    ) -> Self {
        let cursor = tip.cursor();
        let specification = source.specification.clone();
        Self {
            follower: source.follower(tip),
            assembler: Assembler::new(states, specification, cursor, Arc::clone(&receipts)),
            receipts,
            source,
            checked: None,
            arrived: Instant::now(),
        }
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> &RollupConfig {
        self.checked.as_ref().unwrap_or(&self.source.rollup)
    }

    /// When the list that closed the last block was there, verified.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The block after `tip`; nothing once the rollup has left.
    pub(crate) async fn next(&mut self, tip: &Progress) -> eyre::Result<Option<Derived>> {
        loop {
            let before = self.follower.trusted().clone();
            let Some(next) = self.source.next(&mut self.follower).await? else {
                return Ok(None);
            };
            self.arrived = Instant::now();
            let VerifiedBlock { list, config } = next;
            if self.checked.as_ref() != Some(&config) {
                check_registration(
                    &config,
                    &self.source.rollup.name,
                    &self.source.specification,
                )?;
                self.checked = Some(config.clone());
            }
            let height = list.header().height();
            gauge!(metric::SEQUENCER_HEIGHT).set(to_f64(height.get()));
            let lag_secs = since(list.header().time().seconds);
            gauge!(metric::VERIFIED_LAG_SECONDS).set(to_f64(lag_secs));
            self.receipts.arrived();
            let started = Instant::now();
            tokio::task::block_in_place(|| {
                let trusted = self.follower.trusted();
                self.assembler.push(&list, &config, before, trusted, tip)
            })?;
            histogram!(metric::EXECUTE_SECONDS).record(started.elapsed());
            self.supply_what_is_wanted().await?;
            let started = Instant::now();
            if let Some(closed) = tokio::task::block_in_place(|| self.assembler.close())? {
                histogram!(metric::CLOSE_SECONDS).record(started.elapsed());
                return Ok(Some(Derived {
                    closed,
                    config,
                    header: list.header().clone(),
                }));
            }
        }
    }

    /// Fetches lists again that waited for room and were not kept.
    async fn supply_what_is_wanted(&mut self) -> eyre::Result<()> {
        while let Some((height, trusted)) = self.assembler.wanted() {
            let list = self.source.again(trusted, height).await?;
            tokio::task::block_in_place(|| self.assembler.supply(&list))?;
        }
        Ok(())
    }
}
