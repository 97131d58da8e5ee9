//! The end of a rollup that has left the sequencer: everything that it needs to go on alone.
//!
//! The last block is committed like any other, together with the mark that it is the last. What is
//! written here can be written again from it at any time: the backlog is read from the sequencer
//! once more, verified.
//!
//! # Specification
//! `docs/rollup-exit.md`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use alloy_primitives::hex;
use counterpoint_core::{block::RollupItem, registry::RollupConfig};
use counterpoint_service::sequencer::{Client, Follower};
use eyre::{OptionExt, WrapErr};
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::progress::Progress;

/// A rollup after its last block.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) progress: Progress,
    pub(crate) sequencer: Client,
}

/// Whether all is done; says so.
pub(crate) fn is_written(data_dir: &Path) -> bool {
    let directory = directory(data_dir);
    let written = directory.exists();
    if written {
        info!(
            export = %directory.display(),
            "the rollup has left the sequencer; docs/rollup-exit.md says how to go on"
        );
    }
    written
}

fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("exit")
}

/// Writes the export.
pub(crate) async fn export(data_dir: &Path, left: Left) -> eyre::Result<()> {
    let Left {
        progress,
        sequencer,
    } = left;
    let config = progress.left.clone().ok_or_eyre("the rollup goes on")?;
    let (number, hash) = (progress.header.number, progress.hash);
    info!(number, %hash, rollup = config.name, "this was the last block, exporting");
    let partial = data_dir.join("exit.partial");
    write(&partial, &progress, &config, sequencer)
        .await
        .wrap_err_with(|| format!("failed to write {}", partial.display()))?;
    fs::rename(&partial, directory(data_dir))?;
    File::open(data_dir)?.sync_all()?;
    is_written(data_dir);
    Ok(())
}

async fn write(
    directory: &Path,
    progress: &Progress,
    config: &RollupConfig,
    sequencer: Client,
) -> eyre::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let backlog = write_backlog(directory.join("backlog.jsonl"), progress, config, sequencer);
    let (items, sha256) = backlog.await?;
    let header = &progress.header;
    let cursor = progress.cursor();
    let export = json!({
        "format": 1,
        "rollup": config.name,
        "rollup_id": config.rollup_id,
        "sequencer_chain_id": progress.trusted.chain_id().to_string(),
        "last_height": progress.extra.next_opening.get().saturating_sub(1),
        "last_block": {
            "number": header.number,
            "hash": progress.hash,
            "state_root": header.state_root,
            "timestamp": header.timestamp,
        },
        "cursor": { "height": cursor.height, "index": cursor.index },
        "backlog": { "items": items, "sha256": sha256 },
        "config_hash": config.hash(),
        "config": config,
    });
    let mut file = File::create(directory.join("export.json"))?;
    serde_json::to_writer_pretty(&mut file, &export)?;
    file.sync_all()?;
    Ok(File::open(directory)?.sync_all()?)
}

/// Writes the transactions from the cursor on, which had no room in the last block; gives their
/// number and the digest of the file.
async fn write_backlog(
    path: PathBuf,
    progress: &Progress,
    config: &RollupConfig,
    sequencer: Client,
) -> eyre::Result<(u64, String)> {
    let (cursor, end) = (progress.cursor(), progress.extra.next_opening);
    let trusted = progress.trusted.clone();
    let mut follower = Follower::new(sequencer, config.rollup_id, trusted, cursor.height);
    let mut file = BufWriter::new(File::create(path)?);
    let (mut items, mut digest) = (0_u64, Sha256::new());
    let mut skipped = cursor.index;
    for height in cursor.height.get()..end.get() {
        let list = follower.next().await?.list;
        for (index, item) in (0_u32..).zip(list.items()).skip(skipped as usize) {
            let RollupItem::Transaction(raw) = item else {
                continue;
            };
            let raw = hex::encode_prefixed(raw);
            let mut line = serde_json::to_vec(&json!({
                "height": height, "index": index, "raw": raw,
            }))?;
            line.push(b'\n');
            digest.update(&line);
            file.write_all(&line)?;
            items += 1;
        }
        skipped = 0;
    }
    file.into_inner()?.sync_all()?;
    Ok((items, hex::encode(digest.finalize())))
}
