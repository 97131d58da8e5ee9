//! Legs of atomic bundles in the blocks that they were released into, and the alarm if one comes out otherwise.
//!
//! A leg is released because a quorum of the rollup's attesters has signed that all of it succeeds on
//! exactly the state that its block starts from, and with which receipts. If it does not, they have lied: the
//! block is built as the order says, the same everywhere, and what shows the lie is kept.

mod audit;

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

pub(crate) use self::audit::{Audit, Auditor};
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

/// What was promised of a leg, and is not so.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// That it succeeds.
    Fails,
    /// That its receipts have this digest.
    Otherwise(Hash),
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
    let mut failing = legs.iter().filter(|leg| !leg.succeeds());
    failing.try_for_each(|leg| sound(data_dir, block, leg, Broken::Fails))
}

fn sound(
    data_dir: &Path,
    block: &RollupBlock,
    leg: &ExecutedLeg,
    broken: Broken,
) -> eyre::Result<()> {
    let number = block.header.number;
    let (verdict, found) = match broken {
        Broken::Fails => ("its leg fails there".into(), "a released leg fails"),
        Broken::Otherwise(promised) => (
            format!("its leg has other receipts there than the attested {promised}"),
            "a released leg has other receipts than were attested",
        ),
    };
    let report = format!(
        "bundle {} was released at height {} into block {number}, and {verdict}\n\
         {}receipts hash: {}\nblock hash: {}\nparent: {}\nblock.rlp: our block\n",
        leg.bundle_id,
        leg.height,
        leg.describe(),
        leg.receipts_hash(),
        block.header.hash_slow(),
        block.header.parent_hash,
    );
    let name = format!("leg-{number}-{}", leg.bundle_id);
    let directory = data_dir.join("evidence").join(name);
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
        "{found}: its attesters have lied; docs/runbook/attesters-lied.md says what to do"
    );
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
            let block = closed.built.block;
            alarm(directory.path(), &block, &closed.legs).unwrap();
            let name = format!("leg-{}-{}", block.header.number, closed.legs[0].bundle_id);
            let path = directory.path().join("evidence").join(name);
            fs::read_to_string(path.join("report.txt"))
        };
        assert!(raise(sign(1, transfer(0))).is_err());
        assert!(!directory.path().join("evidence").exists());
        let report = raise(sign(1, failing(1))).unwrap();
        assert!(report.contains(": reverts\n"), "{report}");
        let report = raise(sign(1, transfer(9))).unwrap();
        assert!(report.contains(": skipped, nonce\n"), "{report}");
    }
}
