//! `snapshot`: a store as a file, for a second node and for backups.
//!
//! ```text
//! store ─export─▶ head, blocks, flat state, digest ─import─▶ blocks ─▶ tries, root ─▶ mark, last
//!                                                              └ client and sequencer know the head
//! ```
//! What a file says is believed as far as it is verified: the state against the head's root, the blocks
//! as a chain that ends with the head, a block of that chain against the client's, the head against the
//! lists of the sequencer. What the conductor trusts of the sequencer comes from its configuration, never
//! from a file.
//!
//! # Specification
//! `docs/spec/conductor-snapshot.md`.

mod format;
mod payload;

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_consensus::{
    Header,
    proofs::{calculate_transaction_root, calculate_withdrawals_root},
};
use alloy_primitives::B256;
use counterpoint_core::{cursor::ExtraData, light::TrustedState};
use counterpoint_service::{Bar, Reading};
use eyre::{OptionExt, WrapErr, ensure, eyre};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::{
    format::{FileDigest, FormatError, Frame, Reader, Section, Writer},
    payload::Head,
};
use crate::{
    Config,
    board::Board,
    chain_spec::{STATE, Specification},
    engine::ExecutionClient,
    evm::{Batch, DiskStore, RollupBlock, StateRestore, Store, Table},
    mode::is_thin,
    progress::{Progress, read_block, stage_block},
    rebuild::prove,
    start::{Peers, meet},
};

/// Blocks that contracts can ask for the hash of; a store cannot go on without them.
const MIN_BLOCKS: u64 = 256;
/// Entries of one frame.
const ENTRIES: usize = if cfg!(test) { 3 } else { 4_096 };
/// Pieces of code in one frame.
const CODES: usize = 16;

/// What to do with a snapshot.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Snapshot {
    /// Write the store to a file. The conductor must not run.
    #[command(
        after_help = "Example:\n  counterpoint conductor snapshot export --config conductor.toml alpha.snapshot"
    )]
    Export(Export),
    /// Fill an empty data directory from a file, which is verified against client and sequencer.
    ///
    /// The client must have one of the snapshot's blocks. Until all is verified, nothing of it counts.
    #[command(
        after_help = "Example:\n  counterpoint conductor snapshot import --config conductor.toml alpha.snapshot"
    )]
    Import(Import),
}

/// How to export.
#[derive(Clone, Debug, clap::Args)]
pub struct Export {
    /// The file to write; it must not exist.
    file: PathBuf,
    /// How many of the last blocks go with the state: so far back may a client be that uses it.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(MIN_BLOCKS..))]
    blocks: u64,
}

/// How to import.
#[derive(Clone, Debug, clap::Args)]
pub struct Import {
    /// The file to read.
    file: PathBuf,
    /// Leave a data directory that has blocks as it is, for what is started again and again.
    #[arg(long)]
    if_empty: bool,
    /// What `sha256sum` gives for the file; another one is not read.
    #[arg(long, value_name = "HEX")]
    sha256: Option<B256>,
}

pub(crate) async fn work(
    config: Config,
    what: Snapshot,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    match what {
        Snapshot::Export(Export { file, blocks }) => {
            tokio::task::block_in_place(|| export(&config, &file, blocks, &shutdown))
        }
        Snapshot::Import(what) => {
            let failed = || format!("failed to import {}", what.file.display());
            import(&config, &what, &shutdown)
                .await
                .wrap_err_with(failed)
        }
    }
}

fn export(
    config: &Config,
    file: &Path,
    blocks: u64,
    shutdown: &CancellationToken,
) -> eyre::Result<()> {
    let data_dir = config.data_dir.display();
    ensure!(!file.exists(), "{} exists already", file.display());
    ensure!(config.data_dir.is_dir(), "data_dir {data_dir} is not there");
    let store = DiskStore::open(&config.data_dir, config.cache_bytes())?;
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let output = File::create(&partial);
    let output = output.wrap_err_with(|| format!("failed to write {}", partial.display()))?;
    let written = write(&store, BufWriter::new(output), blocks, shutdown);
    if written.is_err() {
        fs::remove_file(&partial)?;
    }
    let (digest, output) = written?;
    output.into_inner()?.sync_all()?;
    fs::rename(&partial, file)?;
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    info!(file = %file.display(), sha256 = %digest, "exported");
    Ok(())
}

/// Writes a store with at most `blocks` of its last blocks.
fn write<W: Write>(
    store: &dyn Store,
    output: W,
    blocks: u64,
    shutdown: &CancellationToken,
) -> eyre::Result<(FileDigest, W)> {
    ensure!(
        !is_thin(store)?,
        "the store has no state, its conductor runs in thin mode: copy the client's data instead"
    );
    let stored = Progress::stored(store)?.filter(|(number, _)| *number > 0);
    let (number, chain_spec_hash) = stored.ok_or_eyre("the store has no block yet")?;
    let header = read_block(store, number)?.1.header;
    let mut writer = Writer::new(output)?;
    writer.value(
        Section::Head,
        &Head {
            chain_spec_hash,
            header,
        },
    )?;
    // A store that was imported itself may have fewer.
    let wanted = number.saturating_sub(blocks - 1).max(1);
    let first = store.scan(Table::Blocks, &wanted.to_be_bytes(), 1)?;
    let first = first
        .first()
        .and_then(|(key, _)| key.as_slice().try_into().ok());
    let first = first.map_or(wanted, u64::from_be_bytes);
    let bar = Bar::steps("blocks", number - first + 1);
    for number in first..=number {
        ensure!(!shutdown.is_cancelled(), "stopped");
        bar.advance(1);
        writer.value(Section::Blocks, &read_block(store, number)?.1)?;
    }
    drop(bar);
    let bar = Bar::endless("entries of the state");
    for (section, table, count) in [
        (Section::Accounts, Table::Accounts, ENTRIES),
        (Section::Slots, Table::Slots, ENTRIES),
        (Section::Code, Table::Code, CODES),
    ] {
        let mut from = Vec::new();
        loop {
            ensure!(!shutdown.is_cancelled(), "stopped");
            let entries = store.scan(table, &from, count)?;
            let Some((last, _)) = entries.last() else {
                break;
            };
            from = [last.as_slice(), &[0]].concat();
            bar.advance(entries.len() as u64);
            writer.entries(section, entries)?;
        }
    }
    info!(number, first_block = first, "written");
    Ok(writer.finish()?)
}

async fn import(config: &Config, what: &Import, shutdown: &CancellationToken) -> eyre::Result<()> {
    let store: Arc<dyn Store> = Arc::new(DiskStore::open(&config.data_dir, config.cache_bytes())?);
    if what.if_empty && !is_empty(store.as_ref())? {
        info!("data_dir holds blocks already");
        return Ok(());
    }
    check_empty(store.as_ref())?;
    if let Some(expected) = what.sha256 {
        tokio::task::block_in_place(|| check_digest(&what.file, expected))?;
    }
    let file = watched("importing", &what.file)?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file))?;
    let head: Head = reader.next()?.value()?;
    let board = Board::new();
    let meeting = meet(config, &board, store.as_ref());
    let peers = shutdown.run_until_cancelled(meeting).await;
    let peers = peers.ok_or_eyre("stopped")??;
    check_rollup(&head, &peers.specification)?;
    let started = tokio::task::block_in_place(|| {
        Restoration::begin(
            store.as_ref(),
            &peers.specification,
            &head,
            reader,
            shutdown,
        )
    });
    let restoration = started?;
    let witness = witness(&peers, store.as_ref(), &restoration.chain);
    shutdown
        .run_until_cancelled(witness)
        .await
        .ok_or_eyre("stopped")??;
    let (number, hash) = (head.header.number, restoration.chain.last_hash);
    info!(number, %hash, "client and sequencer know the head, reading the state");
    tokio::task::block_in_place(|| {
        restoration.finish(&peers.specification, &peers.trusted, &head, shutdown)
    })?;
    info!(number, %hash, "imported");
    Ok(())
}

fn is_empty(store: &dyn Store) -> eyre::Result<bool> {
    Ok(store.get(Table::Blocks, &0_u64.to_be_bytes())?.is_none())
}

fn check_empty(store: &dyn Store) -> eyre::Result<()> {
    ensure!(
        is_empty(store)?,
        "data_dir holds blocks: import into an empty one"
    );
    Ok(())
}

/// A file with a bar that shows how much of it is read.
fn watched(what: &'static str, path: &Path) -> std::io::Result<Reading<File>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(Bar::bytes(what, length).reading(file))
}

fn check_digest(file: &Path, expected: B256) -> eyre::Result<()> {
    let mut digest = Sha256::new();
    std::io::copy(&mut watched("digest", file)?, &mut digest)?;
    let actual = B256::from_slice(&digest.finalize());
    ensure!(
        actual == expected,
        "its SHA-256 is {actual}, not {expected}: it is damaged, or another file"
    );
    Ok(())
}

fn check_rollup(head: &Head, specification: &Specification) -> eyre::Result<()> {
    let (theirs, ours) = (head.chain_spec_hash, specification.chain_spec().hash());
    ensure!(
        theirs.0 == *ours.as_bytes(),
        "it is of a rollup with chain specification {theirs}, rollup_genesis gives {ours}"
    );
    Ok(())
}

/// Blocks that follow one another up to the head.
#[derive(Clone, Copy, Debug)]
struct Chain {
    first: u64,
    /// Of the first block's parent.
    parent: B256,
    last: u64,
    last_hash: B256,
}

impl Chain {
    fn extend(chain: Option<Self>, next: &Header, hash: B256) -> eyre::Result<Self> {
        let number = next.number;
        let chain = chain.unwrap_or(Self {
            first: number,
            parent: next.parent_hash,
            last: number.wrapping_sub(1),
            last_hash: next.parent_hash,
        });
        ensure!(
            number > 0,
            "it has a block 0, which only the genesis file tells"
        );
        ensure!(
            number - 1 == chain.last && next.parent_hash == chain.last_hash,
            "block {number} does not follow the one before it"
        );
        Ok(Self {
            last: number,
            last_hash: hash,
            ..chain
        })
    }

    /// Whether it begins early enough and ends with the head.
    fn check(&self, head: B256, specification: &Specification) -> eyre::Result<()> {
        let Self {
            first,
            parent,
            last,
            last_hash,
        } = *self;
        ensure!(
            last_hash == head,
            "its last block is {last} ({last_hash}), its head {head}"
        );
        let genesis = specification.genesis_header().hash_slow();
        ensure!(
            first > 1 || parent == genesis,
            "block 1 does not follow the genesis block {genesis}"
        );
        ensure!(
            first == 1 || last - first >= MIN_BLOCKS - 1,
            "it has blocks from {first} to {last} only, {MIN_BLOCKS} are needed"
        );
        Ok(())
    }

    /// The block that is compared with a client whose latest is `latest`.
    fn common(&self, latest: u64) -> eyre::Result<u64> {
        let oldest = self.first - 1;
        ensure!(
            latest >= oldest,
            "the client's head is block {latest}, the snapshot has blocks from {} on: give the \
             client a copy of another node's data, or export with more --blocks",
            self.first
        );
        Ok(latest.min(self.last))
    }

    fn hash(&self, store: &dyn Store, number: u64) -> eyre::Result<B256> {
        match number < self.first {
            true => Ok(self.parent),
            false => Ok(read_block(store, number)?.0),
        }
    }
}

/// Compares the chain with the client's.
async fn compare(
    client: &impl ExecutionClient,
    store: &dyn Store,
    chain: &Chain,
) -> eyre::Result<()> {
    let latest = client.block(None).await?.map_or(0, |latest| latest.number);
    let common = chain.common(latest)?;
    let theirs = client.block(Some(common)).await?;
    let theirs = theirs.ok_or_else(|| eyre!("the client has no block {common}"))?;
    let ours = chain.hash(store, common)?;
    ensure!(
        theirs.hash == ours,
        "block {common} is {ours} here, the client has it as {}: one of them is not of this rollup",
        theirs.hash
    );
    Ok(())
}

/// Compares the chain with the client's and the head with the sequencer's lists.
async fn witness(peers: &Peers, store: &dyn Store, chain: &Chain) -> eyre::Result<()> {
    compare(&peers.client, store, chain).await?;
    let last = read_block(store, chain.last)?.1.header;
    let before = match chain.last - 1 {
        0 => ExtraData::genesis(peers.rollup.first_height),
        number => ExtraData::decode(&read_block(store, number)?.1.header.extra_data)?,
    };
    let proven = prove(peers, &before, &last).await;
    proven.wrap_err_with(|| format!("block {}", chain.last))
}

/// An import under way. The store has no mark of a state, and no block 0, until it is finished.
struct Restoration<'a, R> {
    reader: Reader<R>,
    /// The first frame behind the blocks.
    next: Frame,
    state: StateRestore<'a>,
    store: &'a dyn Store,
    chain: Chain,
    /// The genesis state that was there, which the mark will speak of again.
    mark: Vec<u8>,
}

impl<'a, R: Read> Restoration<'a, R> {
    /// Takes in the blocks.
    fn begin(
        store: &'a dyn Store,
        specification: &Specification,
        head: &Head,
        mut reader: Reader<R>,
        shutdown: &CancellationToken,
    ) -> eyre::Result<Self> {
        let mark = store.get(Table::Meta, STATE)?;
        let mark = mark.ok_or_eyre("the store has no genesis state")?;
        // From here on the store holds no state.
        store.commit(Batch::from([((Table::Meta, STATE.to_vec()), None)]))?;
        let mut state = StateRestore::begin(store)?;
        let mut chain = None;
        let mut frame = reader.next()?;
        while frame.section == Section::Blocks {
            ensure!(!shutdown.is_cancelled(), "stopped");
            let block: RollupBlock = frame.value()?;
            check_block(&block)?;
            let hash = block.header.hash_slow();
            chain = Some(Chain::extend(chain, &block.header, hash)?);
            let mut staged = Batch::new();
            stage_block(&mut staged, hash, &block);
            for (key, value) in staged {
                state.put(key, value.unwrap_or_default())?;
            }
            frame = reader.next()?;
        }
        state.flush()?;
        let chain = chain.ok_or_eyre("it has no block")?;
        chain.check(head.header.hash_slow(), specification)?;
        Ok(Self {
            reader,
            next: frame,
            state,
            store,
            chain,
            mark,
        })
    }

    /// Takes in the state, and lets the store count once it is the head's.
    fn finish(
        self,
        specification: &Specification,
        trusted: &TrustedState,
        head: &Head,
        shutdown: &CancellationToken,
    ) -> eyre::Result<()> {
        let Self {
            mut reader,
            next: mut frame,
            mut state,
            store,
            chain,
            mark,
        } = self;
        loop {
            ensure!(!shutdown.is_cancelled(), "stopped");
            let table = match frame.section {
                Section::Accounts => Table::Accounts,
                Section::Slots => Table::Slots,
                Section::Code => Table::Code,
                Section::End => break,
                now @ (Section::Head | Section::Blocks) => {
                    let before = None;
                    return Err(FormatError::Order { before, now }.into());
                }
            };
            frame.entries(|entry| state.entry(table, entry).map_err(eyre::Report::from))?;
            frame = reader.next()?;
        }
        info!("building the tries");
        state.finish(head.header.state_root)?;
        let last = read_block(store, chain.last)?.1;
        let mut batch = Progress::restored(&last, specification, trusted)?;
        batch.insert((Table::Meta, STATE.to_vec()), Some(mark));
        Ok(store.commit(batch)?)
    }
}

/// A header vouches for its block's body.
pub(crate) fn check_block(block: &RollupBlock) -> eyre::Result<()> {
    let RollupBlock { header, body } = block;
    let withdrawals = body.withdrawals.as_ref();
    let holds = header.transactions_root == calculate_transaction_root(&body.transactions)
        && header.withdrawals_root == withdrawals.map(|all| calculate_withdrawals_root(all))
        && body.ommers.is_empty();
    ensure!(
        holds,
        "block {} has another body than its header says",
        header.number
    );
    Ok(())
}

#[cfg(test)]
mod tests;
