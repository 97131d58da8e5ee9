//! Legs of atomic bundles in the blocks that they were released into, and the alarm if one fails.
//!
//! A leg is released because a quorum of the rollup's attesters has signed that all of it succeeds on
//! exactly the state that its block starts from. If it does not, they have lied: the block is built
//! as the order says, the same everywhere, and what shows the lie is kept.

use std::{fs, path::Path};

use alloy_consensus::{ReceiptEnvelope, TxReceipt};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::B256;
use counterpoint_core::{
    atomic::receipts_hash,
    primitive::{Hash, Height},
};
use eyre::WrapErr;
use metrics::counter;
use tracing::error;

use crate::{derive::SkipReason, evm::RollupBlock, metric};

/// What became of a leg's transaction.
pub type LegResult = Result<ReceiptEnvelope, SkipReason>;

/// A leg, as it came out in its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutedLeg {
    /// The bundle that it belongs to.
    pub bundle_id: Hash,
    /// The height that released it and opened the block.
    pub height: Height,
    /// Each transaction in order: its hash, and what became of it.
    pub txs: Vec<(B256, LegResult)>,
}

impl ExecutedLeg {
    /// Whether all of it succeeded, as those have signed who released it.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        let success =
            |(_, result): &(B256, LegResult)| result.as_ref().is_ok_and(TxReceipt::status);
        self.txs.iter().all(success)
    }

    /// Digest of the receipts that there are.
    #[must_use]
    pub fn receipts_hash(&self) -> Hash {
        let receipts = self
            .txs
            .iter()
            .filter_map(|(_, result)| result.as_ref().ok());
        let encoded = receipts.map(|receipt| receipt.encoded_2718().into());
        receipts_hash(&encoded.collect::<Vec<_>>())
    }

    fn describe(&self) -> String {
        let line = |(place, (hash, result)): (usize, &(B256, LegResult))| match result {
            Ok(receipt) if receipt.status() => format!("transaction {place} {hash}: succeeds\n"),
            Ok(_) => format!("transaction {place} {hash}: reverts\n"),
            Err(reason) => format!("transaction {place} {hash}: skipped, {}\n", reason.name()),
        };
        self.txs.iter().enumerate().map(line).collect()
    }
}

/// Sounds the alarm for each leg of a block that did not succeed, and keeps what shows it: anybody who
/// derives the block comes to the same.
///
/// # Errors
/// The evidence cannot be written.
pub(crate) fn alarm(
    data_dir: &Path,
    block: &RollupBlock,
    legs: &[ExecutedLeg],
) -> eyre::Result<()> {
    for leg in legs.iter().filter(|leg| !leg.succeeds()) {
        let number = block.header.number;
        let report = format!(
            "bundle {} was released at height {} into block {number}, and its leg fails there\n\
             {}receipts hash: {}\nblock hash: {}\nparent: {}\nblock.rlp: our block\n",
            leg.bundle_id,
            leg.height,
            leg.describe(),
            leg.receipts_hash(),
            block.header.hash_slow(),
            block.header.parent_hash,
        );
        let directory = data_dir.join("evidence").join(format!("leg-{number}"));
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("block.rlp"), alloy_rlp::encode(block)))
            .and_then(|()| fs::write(directory.join("report.txt"), &report))
            .wrap_err_with(|| format!("failed to write {}", directory.display()))?;
        counter!(metric::BROKEN_LEGS).increment(1);
        error!(
            bundle_id = %leg.bundle_id,
            height = %leg.height,
            number,
            evidence = %directory.display(),
            "a released leg fails: its attesters have lied; docs/runbook/attesters-lied.md says what to do"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rollup, failing, leg, sign, transfer, whole};

    #[test]
    fn a_leg_that_fails_leaves_evidence_and_one_that_succeeds_none() {
        let mut rollup = Rollup::new();
        let directory = tempfile::tempdir().unwrap();
        let mut raise = |raw| {
            let closed = rollup.push(whole(vec![leg(raw)])).unwrap().unwrap();
            alarm(directory.path(), &closed.built.block, &closed.legs).unwrap();
        };
        raise(sign(1, transfer(0)));
        assert!(!directory.path().join("evidence").exists());
        raise(sign(1, failing(1)));
        raise(sign(1, transfer(9)));
        let report = |number: u64| {
            let path = format!("evidence/leg-{number}/report.txt");
            fs::read_to_string(directory.path().join(path)).unwrap()
        };
        assert!(report(2).contains(": reverts\n"), "{}", report(2));
        assert!(report(3).contains(": skipped, nonce\n"), "{}", report(3));
    }
}
