use super::*;
use crate::{
    chain_spec::dev_genesis,
    engine::{BlockId, MockClient},
    evm::{Entry, MemStore},
    testing::{
        CHAIN_ID, Dying, GENESIS_TIME, Rollup, config, paid, specification_in, trusted, whole,
    },
};

const FLAT: [Table; 6] = [
    Table::Accounts,
    Table::Slots,
    Table::Code,
    Table::Nodes,
    Table::Blocks,
    Table::Meta,
];

/// A rollup of four blocks, and its snapshot.
fn exported() -> (Rollup, Vec<u8>) {
    let mut rollup = Rollup::new();
    for nonce in 0..4 {
        rollup
            .push(whole(vec![paid(1, nonce), paid(2, nonce)]))
            .unwrap();
    }
    let file = file(&rollup, MIN_BLOCKS);
    (rollup, file)
}

fn file(rollup: &Rollup, blocks: u64) -> Vec<u8> {
    let store = rollup.store().as_ref();
    write(store, Vec::new(), blocks, &CancellationToken::new())
        .unwrap()
        .1
}

#[test]
fn a_file_with_another_digest_is_not_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "abc").unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let digest: B256 = digest.parse().unwrap();
    check_digest(file.path(), digest).unwrap();
    fs::write(file.path(), "abd").unwrap();
    let error = check_digest(file.path(), digest).unwrap_err().to_string();
    assert!(error.contains("it is damaged, or another file"), "{error}");
}

/// What `import` does, without peers.
fn imported(store: &dyn Store, file: &[u8]) -> eyre::Result<()> {
    let mut reader = Reader::new(file)?;
    let head: Head = reader.next()?.value()?;
    check_empty(store)?;
    let specification = specification_in(store);
    check_rollup(&head, &specification)?;
    let shutdown = CancellationToken::new();
    let restoration = Restoration::begin(store, &specification, &head, reader, &shutdown)?;
    restoration.finish(&specification, &trusted(), &head, &shutdown)
}

fn contents(store: &dyn Store) -> Vec<Vec<Entry>> {
    let tables = FLAT.into_iter();
    tables
        .map(|table| store.scan(table, &[], usize::MAX).unwrap())
        .collect()
}

fn open(store: &dyn Store) -> Progress {
    let first = config().first_height;
    Progress::open(store, &specification_in(store), first, &trusted()).unwrap()
}

#[track_caller]
fn refused(file: &[u8]) -> String {
    let store = MemStore::default();
    let error = format!("{:#}", imported(&store, file).unwrap_err());
    // Nothing of it counts.
    assert_eq!(open(&store).header.number, 0, "{error}");
    error
}

#[test]
fn a_store_comes_back_as_it_was() {
    let (rollup, file) = exported();
    let directory = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(directory.path(), 1 << 20).unwrap();
    imported(&disk, &file).unwrap();
    assert_eq!(contents(&disk), contents(rollup.store().as_ref()));
    assert_eq!(open(&disk).hash, rollup.progress.hash);
    let again = write(&disk, Vec::new(), MIN_BLOCKS, &CancellationToken::new());
    assert_eq!(again.unwrap().1, file);
}

#[test]
fn old_blocks_stay_behind_and_are_not_missed() {
    let mut rollup = Rollup::new();
    for _ in 0..MIN_BLOCKS + 9 {
        rollup.push(whole(vec![])).unwrap();
    }
    let all = MemStore::default();
    imported(&all, &file(&rollup, u64::MAX)).unwrap();
    assert_eq!(contents(&all), contents(rollup.store().as_ref()));

    let few = MemStore::default();
    imported(&few, &file(&rollup, MIN_BLOCKS)).unwrap();
    assert!(read_block(&few, 9).is_err());
    for number in [0, 10, MIN_BLOCKS + 9] {
        let [ours, theirs] = [&few as &dyn Store, rollup.store().as_ref()]
            .map(|store| read_block(store, number).unwrap());
        assert_eq!(ours, theirs);
    }
    // One that was imported exports what it has.
    let again = write(&few, Vec::new(), u64::MAX, &CancellationToken::new());
    assert_eq!(again.unwrap().1, file(&rollup, MIN_BLOCKS));
    let error = refused(&file(&rollup, MIN_BLOCKS - 1));
    assert!(error.contains("256 are needed"), "{error}");
}

#[test]
fn a_file_that_ends_too_early_is_refused_wherever_it_ends() {
    let (_, file) = exported();
    // Every edge of a frame, and the middle of each.
    let mut at = MAGIC_AND_VERSION;
    let mut frames = 0;
    while at < file.len() {
        let length = u32::from_be_bytes(file[at + 1..at + 5].try_into().unwrap()) as usize;
        for end in [at, at + 3, at + 5, at + 5 + length / 2] {
            let error = refused(&file[..end]);
            assert!(error.contains("ends too early"), "{end}: {error}");
        }
        at += 5 + length;
        frames += 1;
    }
    assert!(frames > 9, "{frames}");
    for end in [0, 1, MAGIC_AND_VERSION - 1] {
        assert!(refused(&file[..end]).contains("ends too early"));
    }
    assert!(refused(&[file, vec![0]].concat()).contains("something follows"));
}

const MAGIC_AND_VERSION: usize = 34;

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let (_, file) = exported();
    // A prime, so that all places within frames are met.
    for at in (0..MAGIC_AND_VERSION + 5).chain((0..file.len()).step_by(13)) {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped);
    }
}

/// A snapshot whose digest is right and whose frames are not.
fn forged(change: impl Fn(&mut Vec<Frame>)) -> Vec<u8> {
    let (_, file) = exported();
    let mut reader = Reader::new(file.as_slice()).unwrap();
    let mut frames = Vec::new();
    while frames
        .last()
        .is_none_or(|frame: &Frame| frame.section != Section::End)
    {
        frames.push(reader.next().unwrap());
    }
    frames.pop();
    change(&mut frames);
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in frames {
        writer.frame(frame.section, &frame.payload).unwrap();
    }
    writer.finish().unwrap().1
}

#[track_caller]
fn refused_for(reason: &str, change: impl Fn(&mut Vec<Frame>)) {
    let error = refused(&forged(change));
    assert!(error.contains(reason), "{error}");
}

fn first(frames: &[Frame], section: Section) -> usize {
    let found = frames.iter().position(|frame| frame.section == section);
    found.unwrap()
}

/// Replaces block 2, or the head, by what `change` makes of it.
fn with_block(frames: &mut [Frame], change: impl Fn(&mut RollupBlock)) {
    let at = first(frames, Section::Blocks) + 1;
    let mut block: RollupBlock = frames[at].value().unwrap();
    change(&mut block);
    frames[at].payload = alloy_rlp::encode(&block);
}

fn with_head(frames: &mut [Frame], change: impl Fn(&mut Head)) {
    let mut head: Head = frames[0].value().unwrap();
    change(&mut head);
    frames[0].payload = alloy_rlp::encode(&head);
}

#[test]
fn what_does_not_hold_together_is_refused() {
    use Section::{Accounts, Blocks, Code, Slots};
    refused_for("does not follow", |frames| {
        let at = first(frames, Blocks);
        frames.remove(at + 1);
    });
    refused_for("does not follow the genesis block", |frames| {
        let at = first(frames, Blocks);
        let mut block: RollupBlock = frames[at].value().unwrap();
        block.header.parent_hash = B256::ZERO;
        let hash = block.header.hash_slow();
        frames[at].payload = alloy_rlp::encode(&block);
        frames.drain(at + 1..at + 4);
        with_head(frames, |head| head.header = block.header.clone());
        assert_eq!(head_hash(frames), hash);
    });
    refused_for("another body", |frames| {
        with_block(frames, |block| block.body.transactions.truncate(1));
    });
    refused_for("does not follow", |frames| {
        with_block(frames, |block| block.header.gas_used += 1);
    });
    refused_for("it has no block", |frames| {
        frames.retain(|frame| frame.section != Blocks);
    });
    refused_for("its last block is 3", |frames| {
        let last = first(frames, Accounts) - 1;
        frames.remove(last);
    });
    refused_for("of a rollup with chain specification", |frames| {
        with_head(frames, |head| head.chain_spec_hash = B256::ZERO);
    });
    refused_for("the state has root", |frames| {
        // Nobody else misses it.
        let receiver = [0x77; 20].as_slice();
        for frame in frames.iter_mut().filter(|frame| frame.section == Accounts) {
            let mut kept = Vec::new();
            let keep = |entry: Entry| {
                if entry.0 != receiver {
                    kept.push(entry);
                }
                Ok::<_, FormatError>(())
            };
            frame.entries(keep).unwrap();
            let mut writer = Writer::new(Vec::new()).unwrap();
            writer.entries(Accounts, kept).unwrap();
            let written = writer.finish().unwrap().1;
            frame.payload = written[MAGIC_AND_VERSION + 5..written.len() - 37].to_vec();
        }
    });
    refused_for("storage of the account", |frames| {
        let at = first(frames, Slots);
        frames.remove(at);
    });
    refused_for("is missing", |frames| {
        let at = first(frames, Code);
        frames.remove(at);
    });
    refused_for("does not belong after", |frames| {
        let (accounts, code) = (first(frames, Accounts), first(frames, Code));
        frames.swap(accounts, code);
    });
    refused_for("does not belong after", |frames| {
        frames.remove(0);
    });
    refused_for("is damaged", |frames| {
        let at = first(frames, Accounts);
        frames[at].payload.pop();
    });
}

fn head_hash(frames: &[Frame]) -> B256 {
    frames[0].value::<Head>().unwrap().header.hash_slow()
}

#[test]
fn lengths_and_versions_are_bounded() {
    let (_, file) = exported();
    let mut long = file.clone();
    long[MAGIC_AND_VERSION + 1..MAGIC_AND_VERSION + 5].copy_from_slice(&[0xff; 4]);
    assert!(refused(&long).contains("are allowed"));
    let mut newer = file.clone();
    newer[MAGIC_AND_VERSION - 1] = 2;
    assert!(refused(&newer).contains("format 2, this release knows 1"));
    let mut unknown = file;
    unknown[MAGIC_AND_VERSION] = 7;
    assert!(refused(&unknown).contains("unknown section 7"));
}

#[test]
fn a_store_in_use_and_an_empty_one_are_refused() {
    let (rollup, file) = exported();
    let error = imported(rollup.store().as_ref(), &file).unwrap_err();
    assert!(
        error.to_string().contains("data_dir holds blocks"),
        "{error}"
    );
    let shutdown = CancellationToken::new();
    let nothing = write(&MemStore::default(), Vec::new(), MIN_BLOCKS, &shutdown);
    assert!(nothing.unwrap_err().to_string().contains("no block yet"));
    let genesis = write(
        Rollup::new().store().as_ref(),
        Vec::new(),
        MIN_BLOCKS,
        &shutdown,
    );
    assert!(genesis.unwrap_err().to_string().contains("no block yet"));
}

#[test]
fn another_rollups_snapshot_is_refused() {
    let (_, file) = exported();
    let store = MemStore::default();
    let genesis = dev_genesis(CHAIN_ID + 1, 30_000_000, GENESIS_TIME, []).unwrap();
    let other = Specification::new(&genesis, &store).unwrap();
    let mut reader = Reader::new(file.as_slice()).unwrap();
    let head: Head = reader.next().unwrap().value().unwrap();
    let error = check_rollup(&head, &other).unwrap_err().to_string();
    assert!(error.contains("rollup_genesis gives"), "{error}");
}

#[test]
fn a_crash_between_any_two_writes_leaves_nothing_or_all() {
    let (rollup, file) = exported();
    let whole = contents(rollup.store().as_ref());
    let fresh = MemStore::default();
    open(&fresh);
    let genesis = contents(&fresh);
    for writes in 0.. {
        // The genesis state has been there before.
        let crashed = |left| {
            let store = MemStore::default();
            specification_in(&store);
            let store = Dying::new(Arc::new(store), left);
            let done = imported(&store, &file);
            (store.live_on(), done.is_ok())
        };
        let (store, done) = crashed(writes);
        if done {
            assert_eq!(contents(store.as_ref()), whole);
            assert!(writes > 8, "{writes}");
            return;
        }
        // Either it is started as a conductor, or the import is started again.
        imported(store.as_ref(), &file).unwrap();
        assert_eq!(contents(store.as_ref()), whole);
        let (store, _) = crashed(writes);
        open(store.as_ref());
        assert_eq!(contents(store.as_ref()), genesis);
    }
}

#[test]
fn the_client_must_have_one_of_the_blocks() {
    let (first, parent, last, last_hash) = (10, B256::repeat_byte(1), 300, B256::repeat_byte(2));
    let chain = Chain {
        first,
        parent,
        last,
        last_hash,
    };
    assert!(
        chain
            .common(8)
            .unwrap_err()
            .to_string()
            .contains("from 10 on")
    );
    for (latest, common) in [(9, 9), (10, 10), (299, 299), (300, 300), (301, 300)] {
        assert_eq!(chain.common(latest).unwrap(), common);
    }
    assert_eq!(chain.hash(&MemStore::default(), 9).unwrap(), parent);
}

#[tokio::test]
async fn a_chain_that_is_not_the_clients_is_refused() {
    let (rollup, file) = exported();
    let store = MemStore::default();
    imported(&store, &file).unwrap();
    let chain = Chain {
        first: 1,
        parent: specification_in(&MemStore::default())
            .genesis_header()
            .hash_slow(),
        last: 4,
        last_hash: rollup.progress.hash,
    };
    let client = MockClient::new();
    compare(&client, &store, &chain).await.unwrap();
    let later = Chain { first: 2, ..chain };
    let behind = compare(&client, &store, &later).await.unwrap_err();
    assert!(behind.to_string().contains("head is block 0"), "{behind}");
    let parent = B256::ZERO;
    let other = compare(&client, &store, &Chain { parent, ..chain }).await;
    assert!(
        other
            .unwrap_err()
            .to_string()
            .contains("one of them is not of this rollup")
    );

    let (number, hash) = (4, rollup.progress.hash);
    client.state().head = BlockId { number, hash };
    compare(&client, &store, &chain).await.unwrap();
    let hash = B256::ZERO;
    client.state().head = BlockId { number, hash };
    let other = compare(&client, &store, &chain).await.unwrap_err();
    assert!(other.to_string().starts_with("block 4 is"), "{other}");
}
