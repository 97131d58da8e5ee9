//! A full disk, and a disk that forgets: blocks go on from an earlier one or not at all, and are
//! never others than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    panic::catch_unwind,
    path::PathBuf,
    process::Command,
    sync::Arc,
};

use alloy_primitives::B256;
use nix::sys::resource::{Resource, setrlimit};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::{
    progress::read_block,
    testing::{Rollup, paid, whole},
};

/// Blocks that the sequencer's lists make.
const BLOCKS: u64 = 10;
/// Blocks that still find room.
const STORED: u64 = 3;
const CACHE_BYTES: u64 = 1 << 20;
/// Tells the test that it is the process which runs out of room, and where.
const FULL: &str = "COUNTERPOINT_TEST_FULL_DISK";

/// The rollup that a directory holds, with all lists before it.
fn open(path: &Path) -> eyre::Result<(Arc<DiskStore>, Rollup)> {
    let store = Arc::new(DiskStore::open(path, CACHE_BYTES)?);
    let mut rollup = Rollup::open(Arc::clone(&store) as Arc<dyn Store>)?;
    for nonce in 0..BLOCKS {
        rollup.sequence(whole(vec![paid(1, nonce)]), 1);
    }
    Ok((store, rollup))
}

/// Makes blocks up to `until`.
fn advance(rollup: &mut Rollup, until: u64) -> eyre::Result<()> {
    while rollup.progress.header.number < until {
        rollup.execute()?;
        rollup.commit()?;
    }
    Ok(())
}

/// The blocks that a store holds, by number.
fn blocks(store: &dyn Store) -> Result<BTreeMap<u64, B256>, StoreError> {
    let numbers = store.keys(Table::Blocks, &[])?.into_iter();
    let number = |key: Vec<u8>| u64::from_be_bytes(key.try_into().unwrap());
    let block = |number| {
        let (hash, block) = read_block(store, number)?;
        assert_eq!(block.header.hash_slow(), hash, "block {number}");
        Ok((number, hash))
    };
    numbers.map(number).map(block).collect()
}

/// Goes on from what a directory holds until the last block; gives where it began, and all blocks.
fn go_on(path: &Path) -> eyre::Result<(u64, BTreeMap<u64, B256>)> {
    let (store, mut rollup) = open(path)?;
    let from = rollup.progress.header.number;
    advance(&mut rollup, BLOCKS)?;
    Ok((from, blocks(store.as_ref())?))
}

/// All blocks as they must be.
fn expected() -> BTreeMap<u64, B256> {
    let directory = tempdir().unwrap();
    go_on(directory.path()).unwrap().1
}

#[test]
fn a_full_disk_ends_the_conductor_and_loses_nothing() {
    if let Some(path) = env::var_os(FULL) {
        let (_store, mut rollup) = open(path.as_ref()).unwrap();
        advance(&mut rollup, STORED).unwrap();
        // From here on every write fails, as on a full disk.
        setrlimit(Resource::RLIMIT_FSIZE, 1, 1).unwrap();
        eprintln!("{}", advance(&mut rollup, BLOCKS).unwrap_err());
        // Without a clean end: as the conductor ends, or worse.
        std::process::exit(0);
    }
    let directory = tempdir().unwrap();
    let test = "evm::store::tests::a_full_disk_ends_the_conductor_and_loses_nothing";
    // A write beyond the limit is an error only for who ignores the signal.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FULL, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(
        said.contains("conductor store: cannot be written"),
        "{said}"
    );
    assert!(said.contains("make room, and start again"), "{said}");
    assert_eq!(go_on(directory.path()).unwrap(), (STORED, expected()));
}

/// A store that is used no more. Every block was synced, so kill −9 leaves no less of it.
struct Remains {
    directory: TempDir,
    blocks: BTreeMap<u64, B256>,
}

impl Remains {
    /// All blocks, of some tables the first of them in files of their own, and the rest in the
    /// journal.
    fn new(flushed: &[Table]) -> Self {
        let directory = tempdir().unwrap();
        let (store, mut rollup) = open(directory.path()).unwrap();
        advance(&mut rollup, STORED).unwrap();
        for table in flushed {
            store.tables[table].rotate_memtable_and_wait().unwrap();
        }
        advance(&mut rollup, BLOCKS).unwrap();
        let blocks = blocks(store.as_ref()).unwrap();
        drop((store, rollup));
        // What follows was reserved, and never written.
        let journal = journal(directory.path());
        let mut written = fs::read(&journal).unwrap();
        let end = written.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        written.truncate(end);
        fs::write(journal, written).unwrap();
        Self { directory, blocks }
    }

    fn copy(&self) -> TempDir {
        let directory = tempdir().unwrap();
        for file in files(self.directory.path()) {
            let below = file.strip_prefix(self.directory.path()).unwrap();
            let to = directory.path().join(below);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        directory
    }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The journal that is being written to.
fn journal(directory: &Path) -> PathBuf {
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|end| end == "jnl");
    let journals = files(directory).into_iter().filter(is_journal);
    let number = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>();
    journals.max_by_key(|path| number(path).unwrap()).unwrap()
}

/// What becomes of a file from some place on that was not written when the power went.
#[derive(Clone, Debug)]
enum Loss {
    Cut,
    Zeros,
    Noise(u8),
    /// What follows was written.
    Hole,
}

/// Bytes that a disk writes together.
const PAGE: usize = 4_096;

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::Cut),
        Just(Loss::Zeros),
        any::<u8>().prop_map(Loss::Noise),
        Just(Loss::Hole),
    ]
}

/// Loses a file's end.
fn lose(path: &Path, from: usize, loss: &Loss) {
    let mut bytes = fs::read(path).unwrap();
    match loss {
        Loss::Cut => bytes.truncate(from),
        Loss::Zeros => bytes[from..].fill(0),
        Loss::Hole => {
            let until = bytes.len().min(from + PAGE);
            bytes[from..until].fill(0);
        }
        Loss::Noise(seed) => {
            let mut noise = *seed;
            for byte in &mut bytes[from..] {
                noise = noise.wrapping_mul(167).wrapping_add(13);
                *byte = noise;
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_that_lost_its_end_goes_on_from_an_earlier_block() {
    let remains = Remains::new(&[]);
    let length = fs::metadata(journal(remains.directory.path()))
        .unwrap()
        .len();
    let length = usize::try_from(length).unwrap();
    let mut began = BTreeSet::new();
    for step in 0..24 {
        let directory = remains.copy();
        lose(&journal(directory.path()), length * step / 24, &Loss::Cut);
        let (from, blocks) = go_on(directory.path()).unwrap();
        assert_eq!(blocks, remains.blocks);
        began.insert(from);
    }
    assert!(began.len() > 5 && began.contains(&0), "{began:?}");
}

#[test]
fn a_table_can_be_cleared_beside_blocks() {
    let directory = tempdir().unwrap();
    let (store, mut rollup) = open(directory.path()).unwrap();
    advance(&mut rollup, STORED).unwrap();
    store.clear(Table::Import).unwrap();
    drop((store, rollup));
    assert_eq!(go_on(directory.path()).unwrap(), (STORED, expected()));
}

#[test]
fn half_a_state_without_blocks_is_forgotten() {
    let directory = tempdir().unwrap();
    let store = DiskStore::open(directory.path(), CACHE_BYTES).unwrap();
    let write = |table| ((table, b"key".to_vec()), Some(b"value".to_vec()));
    let batch = [Table::Meta, Table::Accounts].map(write);
    store.commit(batch.into()).unwrap();
    store.tables[&Table::Meta]
        .rotate_memtable_and_wait()
        .unwrap();
    drop(store);
    lose(&journal(directory.path()), 0, &Loss::Cut);
    for _ in 0..2 {
        let store = DiskStore::open(directory.path(), CACHE_BYTES).unwrap();
        assert_eq!(store.get(Table::Meta, b"key").unwrap(), None);
    }
}

/// Without the marks of [`DiskStore`], blocks came out that never were.
#[test]
fn a_damaged_store_makes_the_same_blocks_or_none() {
    let remains = Remains::new(&[Table::Accounts, Table::Meta, Table::Blocks]);
    let place = (any::<bool>(), any::<Index>(), any::<Index>());
    let losses = prop::collection::vec((place, any_loss()), 1..3);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let ran = TestRunner::new(config).run(&losses, |losses| {
        let directory = remains.copy();
        for ((in_journal, file, from), loss) in losses {
            let file = match in_journal {
                true => journal(directory.path()),
                false => file.get(&files(directory.path())).clone(),
            };
            let length = fs::metadata(&file).unwrap().len();
            if length > 0 {
                lose(&file, from.index(usize::try_from(length).unwrap()), &loss);
            }
        }
        // A debug build of the database panics at a value in its journal that is not what was written.
        match catch_unwind(|| go_on(directory.path())) {
            Ok(Ok((_, blocks))) => prop_assert_eq!(&blocks, &remains.blocks),
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                prop_assert!(error.contains("conductor store: "), "{}", error);
            }
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                prop_assert!(
                    said.starts_with("assertion `left == right` failed"),
                    "{}",
                    said
                );
            }
        }
        Ok(())
    });
    ran.unwrap();
}
