//! Blocks from the sequencer's verified lists, one after another.

use std::{sync::Arc, time::Instant};

use counterpoint_core::{light::TrustedState, primitive::Height, registry::RollupConfig};
use counterpoint_service::{
    Readiness,
    sequencer::{Client, Follower, VerifiedBlock},
    to_f64,
};
use metrics::{gauge, histogram};

use crate::{
    assembly::{Assembler, Closed},
    board::{LATE, SEQUENCER, since},
    chain_spec::Specification,
    evm::Store,
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
    fn follower(&self, trusted: TrustedState, from: Height) -> Follower {
        Follower::new(self.sequencer.clone(), self.rollup.rollup_id, trusted, from)
    }

    async fn next(&self, follower: &mut Follower, reason: &str) -> eyre::Result<VerifiedBlock> {
        let next = follower.next();
        let next = self.readiness.watch(SEQUENCER, LATE, reason, next).await;
        Ok(next?)
    }
}

/// Derives the blocks of one rollup.
#[derive(Debug)]
pub(crate) struct Derivation {
    source: Source,
    follower: Follower,
    assembler: Assembler,
    /// The configuration that was compared with our files last.
    checked: Option<RollupConfig>,
}

impl Derivation {
    /// Goes on after `tip`, whose state is in `store`.
    pub(crate) fn new(
        source: Source,
        store: Arc<dyn Store>,
        tip: &Progress,
        receipts: Arc<Receipts>,
    ) -> Self {
        let cursor = tip.cursor();
        Self {
            follower: source.follower(tip.trusted.clone(), cursor.height),
            assembler: Assembler::new(store, source.specification.clone(), cursor, receipts),
            source,
            checked: None,
        }
    }

    /// The block after `tip`, and the length of its slot.
    pub(crate) async fn next(&mut self, tip: &Progress) -> eyre::Result<(Closed, u8)> {
        loop {
            let before = self.follower.trusted().clone();
            let reason = "no verified block arrives";
            let next = self.source.next(&mut self.follower, reason).await?;
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
                return Ok((closed, config.slot_secs.get()));
            }
        }
    }

    /// Fetches lists again that waited for room and were not kept.
    async fn supply_what_is_wanted(&mut self) -> eyre::Result<()> {
        while let Some((height, trusted)) = self.assembler.wanted() {
            let mut again = self.source.follower(trusted.clone(), height);
            let reason = "no node serves a list that waited for room";
            let list = self.source.next(&mut again, reason).await?.list;
            tokio::task::block_in_place(|| self.assembler.supply(&list))?;
        }
        Ok(())
    }
}
