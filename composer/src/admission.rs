//! Whether more is taken in for a rollup: not if it could not be ordered, or not be paid for.

use std::sync::Arc;

use counterpoint_core::registry::RollupConfig;

use crate::{
    chain::{Chain, Terms},
    queue::Queue,
    rpc::RpcError,
    submitter::{Prices, Weight},
};

/// Asked before anything is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    registered: Arc<RollupConfig>,
    chain: Chain,
    queue: Arc<Queue>,
    max_price: u64,
}

impl Admission {
    /// Admission to a rollup with this configuration, or what it becomes; batches pay at most
    /// `max_price` per byte.
    #[must_use]
    pub(crate) fn new(
        registered: Arc<RollupConfig>,
        chain: Chain,
        queue: Arc<Queue>,
        max_price: u64,
    ) -> Self {
        Self {
            registered,
            chain,
            queue,
            max_price,
        }
    }

    /// Admission to a rollup by a composer that is rich.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn open(config: &RollupConfig, queue: Arc<Queue>) -> Self {
        let chain = Chain::fixed(crate::chain::View::example(config.clone()));
        Self::new(Arc::new(config.clone()), chain, queue, 1_000)
    }

    /// The rollup's rules now.
    #[must_use]
    pub(crate) fn rules(&self) -> Arc<RollupConfig> {
        let view = self.chain.view();
        let terms = view.rollups.get(&self.registered.rollup_id);
        terms.map_or_else(|| Arc::clone(&self.registered), Terms::rules)
    }

    /// Whether the rollup takes anything in.
    ///
    /// # Errors
    /// [`RpcError`] says why it does not.
    pub(crate) fn check(&self) -> Result<(), RpcError> {
        let view = self.chain.view();
        let terms = view.rollups.get(&self.registered.rollup_id);
        if let Some(reason) = terms.and_then(|terms| terms.closed(view.height)) {
            return Err(RpcError::transaction(reason));
        }
        let prices = Prices::new(view.base_fee, &view.fees, self.max_price);
        let (items, bytes) = self.queue.load();
        let waiting = Weight {
            actions: 1,
            items: items as u64,
            bytes: bytes as u64,
        };
        if prices.affords(view.account.balance, waiting) {
            Ok(())
        } else {
            Err(RpcError::overloaded(
                "the composer's sequencer account is nearly empty, try again later",
            ))
        }
    }
}
