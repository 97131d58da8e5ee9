//! A bundle: transactions that stand next to each other in one list, in their order.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Instant, SystemTime},
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{B256, Bytes, keccak256};
use counterpoint_core::registry::RollupConfig;
use counterpoint_service::traces::{self, Hop};
use tokio::task::spawn_blocking;

use super::{
    ATTEMPTS, Intake,
    validate::{Refusal, check_fees, check_lag, decode, judge_bundled, recover},
};
use crate::{
    queue::{Checked, State},
    rpc::RpcError,
    upstream::Head,
};

/// Most transactions of a bundle.
const MAX_TRANSACTIONS: usize = 32;
/// Most bytes of them: a bundle must find room in a batch that has begun.
const MAX_BYTES: usize = 256 << 10;

impl Intake {
    /// Acknowledges a bundle once it is on disk as a whole. Sent again, it is acknowledged again.
    ///
    /// It is a task of its own: a wallet that hangs up must not stop it half-way.
    ///
    /// # Errors
    /// [`RpcError`] if one of its transactions is refused; then none is taken in.
    pub(crate) async fn send_bundle(self: &Arc<Self>, raws: Vec<Bytes>) -> Result<B256, RpcError> {
        let (intake, called) = (Arc::clone(self), SystemTime::now());
        let task = tokio::spawn(async move { intake.take_bundle(raws, called).await });
        task.await
            .unwrap_or_else(|panic| Err(RpcError::internal(panic)))
    }

    async fn take_bundle(
        self: Arc<Self>,
        raws: Vec<Bytes>,
        called: SystemTime,
    ) -> Result<B256, RpcError> {
        let rules = self.admission.rules();
        check_size(&raws, &rules)?;
        let mut seats = Vec::new();
        for (at, raw) in raws.iter().enumerate() {
            seats.push(self.seat(raw).map_err(|error| error.of(at))?);
        }
        let hashes: Vec<B256> = raws.iter().map(keccak256).collect();
        if hashes.iter().collect::<HashSet<_>>().len() != hashes.len() {
            return Err(RpcError::invalid_params("txs: one is listed twice"));
        }
        let bundle = keccak256(hashes.concat());
        let rollup = self.rollup;
        let known = self.queue.bundle(rollup, bundle).unwrap_or_default();
        if known.iter().any(|item| !item.stage.may_be_sent_again()) {
            self.queue.barrier().await.map_err(RpcError::internal)?;
            return Ok(bundle);
        }
        self.admission.check()?;
        let head = self.upstream.recent_head().await?;
        let transactions = {
            let _job = self.jobs.acquire().await;
            let rules = Arc::clone(&rules);
            let check = spawn_blocking(move || check_all(&raws, &head, &rules));
            check
                .await
                .unwrap_or_else(|panic| Err(RpcError::internal(panic)))?
        };
        check_gas(&transactions, rules.gas_limit)?;
        self.decide_bundle(bundle, &hashes, transactions).await?;
        for hash in &hashes {
            traces::record(Hop::Submit, hash, called, Vec::new);
        }
        Ok(bundle)
    }

    /// Takes all in, or none.
    async fn decide_bundle(
        &self,
        bundle: B256,
        hashes: &[B256],
        transactions: Vec<Arc<Checked>>,
    ) -> Result<(), RpcError> {
        let senders: BTreeSet<_> = transactions.iter().map(|checked| checked.sender).collect();
        for _ in 0..ATTEMPTS {
            self.upstream.read_accounts(&senders).await?;
            let judge = |queue: &State, checked: &Checked| {
                let account = self
                    .upstream
                    .account(checked.sender)
                    .ok_or(Refusal::Passing)?;
                let at = hashes.iter().position(|hash| hash == checked.tx.tx_hash());
                let judged = judge_bundled(queue, checked, account);
                judged.map_err(|refusal| refusal.of(at.unwrap_or_default()))
            };
            let taken = self
                .queue
                .accept_bundle(bundle, transactions.clone(), judge);
            match taken.await {
                Ok(()) => return Ok(()),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Passing) => {}
            }
        }
        Err(RpcError::overloaded(
            "the composer is overloaded, try again later",
        ))
    }
}

/// Decodes all and applies what does not need an account.
fn check_all(
    raws: &[Bytes],
    head: &Head,
    rules: &RollupConfig,
) -> Result<Vec<Arc<Checked>>, RpcError> {
    check_lag(head, rules)?;
    let check = |raw: &Bytes| {
        let tx = decode(raw, rules)?;
        let sender = recover(&tx)?;
        check_fees(&tx, sender, head.next_base_fee, rules)?;
        Ok(Arc::new(Checked {
            rollup: rules.rollup_id,
            raw: raw.0.clone(),
            tx,
            sender,
            received: Some(Instant::now()),
        }))
    };
    let named = |(at, raw)| check(raw).map_err(|error: RpcError| error.of(at));
    raws.iter().enumerate().map(named).collect()
}

/// Whether a bundle can ever be in one batch.
fn check_size(raws: &[Bytes], rules: &RollupConfig) -> Result<(), RpcError> {
    let share = |of: u32| usize::try_from(of).unwrap_or(usize::MAX);
    let most = MAX_TRANSACTIONS.min(share(rules.max_items_per_block));
    if raws.is_empty() || raws.len() > most {
        let count = raws.len();
        let reason = format!("txs: {count} transactions, a bundle has 1 to {most}");
        return Err(RpcError::invalid_params(reason));
    }
    let limit = MAX_BYTES.min(share(rules.max_bytes_per_block));
    let bytes: usize = raws.iter().map(|raw| raw.len()).sum();
    if bytes > limit {
        let reason = format!("txs: {bytes} bytes, a bundle has at most {limit}");
        return Err(RpcError::invalid_params(reason));
    }
    Ok(())
}

/// Whether a bundle can be in one block.
fn check_gas(transactions: &[Arc<Checked>], limit: u64) -> Result<(), RpcError> {
    let gas = transactions.iter().map(|checked| checked.tx.gas_limit());
    let gas = gas.fold(0, u64::saturating_add);
    if gas > limit {
        let reason = format!("txs: they ask for {gas} gas, and a block has {limit}");
        return Err(RpcError::invalid_params(reason));
    }
    Ok(())
}
