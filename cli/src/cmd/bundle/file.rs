//! A bundle file: the bundle as composers take it, and the raw transactions that nobody else may have yet.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use alloy_primitives::Bytes;
use counterpoint_core::{
    action::RevealLegs,
    atomic::{AtomicBundle, BundleDocument, LegTransaction},
    primitive::EvmAddress,
};
use eyre::{WrapErr, ensure, eyre};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BundleFile {
    /// What is sent first.
    pub(super) bundle: BundleDocument,
    /// What is revealed once the bundle is sealed: raw transactions by leg.
    pub(super) legs: Vec<Vec<Bytes>>,
}

impl BundleFile {
    pub(super) fn read(path: &Path) -> eyre::Result<Self> {
        let bytes = fs::read(path);
        let bytes = bytes.wrap_err_with(|| format!("failed to read {}", path.display()))?;
        serde_json::from_slice(&bytes)
            .wrap_err_with(|| format!("{} is no bundle file", path.display()))
    }

    /// Replaces the file in one step: half a bundle is of no use. Only its owner can read it.
    pub(super) fn write(&self, path: &Path) -> eyre::Result<()> {
        let written = || -> eyre::Result<()> {
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        written().wrap_err_with(|| format!("failed to write {}", path.display()))
    }

    pub(super) fn bundle(&self) -> eyre::Result<AtomicBundle> {
        self.bundle.bundle().wrap_err("the bundle breaks a rule")
    }

    /// The raw transactions, as they are revealed.
    pub(super) fn reveal(&self, bundle: &AtomicBundle) -> eyre::Result<RevealLegs> {
        let leg = |leg: &Vec<Bytes>| leg.iter().map(|raw| raw.0.clone()).collect();
        let legs = self.legs.iter().map(leg).collect();
        RevealLegs::new(bundle.id(), legs).wrap_err("legs")
    }

    /// Every transaction: its leg's rollup, its place, and who sent it.
    pub(super) fn senders(&self) -> eyre::Result<Vec<(Place, EvmAddress)>> {
        let legs = self.bundle.legs.len();
        ensure!(
            legs == self.legs.len(),
            "the file has raw transactions of {} legs, not of {legs}",
            self.legs.len()
        );
        let mut senders = Vec::new();
        for (leg, (sealed, raws)) in self.bundle.legs.iter().zip(&self.legs).enumerate() {
            let count = sealed.transactions.len();
            ensure!(
                count == raws.len(),
                "leg {leg}: {} raw transactions for {count} hashes",
                raws.len()
            );
            for (tx, (sealed, raw)) in sealed.transactions.iter().zip(raws).enumerate() {
                let place = Place { leg, tx };
                ensure!(
                    alloy_primitives::keccak256(raw) == sealed.hash,
                    "{place}: the raw transaction has another hash"
                );
                let read = LegTransaction::read(raw).wrap_err_with(|| place.to_string())?;
                senders.push((place, read.sender));
            }
        }
        Ok(senders)
    }
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) leg: usize,
    pub(super) tx: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "leg {}, transaction {}", self.leg, self.tx)
    }
}

/// Hexadecimal digits from an argument, or from the file that it names.
pub(super) fn hex_or_file(text: &str) -> eyre::Result<Bytes> {
    if text.starts_with("0x") {
        return text
            .parse()
            .wrap_err_with(|| format!("{text} is not hexadecimal"));
    }
    let path = PathBuf::from(text);
    let digits = fs::read_to_string(&path);
    let digits = digits.wrap_err_with(|| format!("{text} is neither 0x… nor a file"))?;
    let digits = digits.trim();
    let bytes = hex::decode(digits.trim_start_matches("0x"));
    bytes
        .map(Bytes::from)
        .map_err(|_| eyre!("{text} has something else than hexadecimal digits"))
}
