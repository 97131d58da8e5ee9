use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use counterpoint_core::{
    block::{LeafProof, RollupItem},
    light::{TrustedState, decode_signed_header, encode_signed_header, encode_validators},
    primitive::{Amount, Hash, Height},
    registry::{RollupConfig, RollupStatus},
    state::{Key, Leaf, RollupRecord, StateProof, TreePath, key_hash},
};
use counterpoint_proto::sequencer::{GetHeaderResponse, GetStateProofResponse, RollupBlock};

use super::{
    testing::{
        Chain, Lie, Line, Plan, Running, Scripted, Source, Validators, alpha, four, genesis, three,
    },
    *,
};

/// What a chain of a test has.
const LENGTH: u64 = 12;
/// Where nodes begin to lie.
const LIE_AT: u64 = 6;
/// How long a block may take: longer than any node takes here that means to send one.
const PATIENT: Duration = Duration::from_secs(60);
/// The same where a node must be given up. Honest nodes may be too, and are asked again.
const IMPATIENT: Duration = Duration::from_millis(500);

fn chain() -> Arc<Chain> {
    Arc::new(Chain::new(&Plan::default(), LENGTH))
}

async fn serve(chain: &Arc<Chain>, lie: Lie, from: u64) -> Running {
    let source = Source::Chain(Arc::clone(chain));
    Scripted::new(source, lie, from).start().await
}

fn client(data_dir: &Path, nodes: &[&Running]) -> Client {
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    Client::with_evidence(&urls, Evidence::open(data_dir).unwrap()).unwrap()
}

fn follow(client: &Client, trusted: TrustedState, next: u64) -> Follower {
    Follower::with_silence(client.clone(), alpha(), trusted, Height::new(next), PATIENT)
}

/// Every block from `first` to `last`, without a gap and as it was made.
async fn reads(follower: &mut Follower, chain: &Chain, first: u64, last: u64) {
    for height in first..=last {
        let block = follower.next().await.unwrap();
        assert_eq!(block.list.header().height().get(), height);
        assert_eq!(block.list.header().hash(), chain.root(height).hash);
        let items = three(height).into_iter().map(RollupItem::Transaction);
        assert_eq!(block.list.items(), items.collect::<Vec<_>>());
    }
}

fn records(data_dir: &Path) -> Vec<Record> {
    let files = fs::read_dir(data_dir.join("evidence")).unwrap();
    let read = |entry: std::io::Result<fs::DirEntry>| {
        borsh::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap()
    };
    files.map(read).collect()
}

/// The first node lies, the second is honest: nothing is missed, and the liar is named.
#[track_caller]
fn check(lie: Lie, expect: &str) -> impl Future<Output = ()> {
    let expect = expect.to_owned();
    async move {
        let (chain, directory) = (chain(), tempfile::tempdir().unwrap());
        let liar = serve(&chain, lie, LIE_AT).await;
        let honest = serve(&chain, Lie::None, 1).await;
        let client = client(directory.path(), &[&liar, &honest]);
        let mut follower = follow(&client, genesis(&four(1)), 1);
        reads(&mut follower, &chain, 1, LENGTH).await;
        let status = client.status();
        assert_eq!(status[0]["bad_proofs"], 1, "{status}");
        assert_eq!(status[1]["bad_proofs"], 0, "{status}");
        let reason = status[0]["bad_proof"].as_str().unwrap();
        assert!(reason.contains(&expect), "{reason}");
        let records = records(directory.path());
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].wrong, Wrong::BadProof);
        assert_eq!(records[0].endpoint, liar.url);
        assert_eq!(records[0].trusted_hash, chain.root(LIE_AT - 1).hash);
        assert_eq!(records[0].reason, reason);
        assert!(!records[0].answer.is_empty());
    }
}

fn alter(change: impl Fn(&mut RollupBlock) + Send + Sync + 'static) -> Lie {
    Lie::Alter(Arc::new(change))
}

/// Signs another header in place of a block's.
fn forge(
    block: &mut RollupBlock,
    set: &Validators,
    signers: &[usize],
    change: impl FnOnce(&mut tendermint::block::Header),
) {
    let mut header = decode_signed_header(&block.signed_header).unwrap().header;
    change(&mut header);
    block.signed_header = encode_signed_header(set.sign(header, signers)).into();
}

#[tokio::test]
async fn headers_are_verified_once_for_all_who_follow() {
    let chain = Arc::new(Chain::new(&Plan::default(), 4));
    let directory = tempfile::tempdir().unwrap();
    let node = serve(&chain, Lie::None, 1).await;
    let client = client(directory.path(), &[&node]);
    for _ in 0..2 {
        let mut follower = follow(&client, genesis(&four(1)), 1);
        reads(&mut follower, &chain, 1, 4).await;
    }
    assert_eq!(client.headers().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_are_found_out() {
    check(
        alter(|block| {
            let mut signed = decode_signed_header(&block.signed_header).unwrap();
            signed.header.data_hash = None;
            block.signed_header = encode_signed_header(signed).into();
        }),
        "header 6 is not acceptable: invalid commit value",
    )
    .await;
    check(
        alter(|block| {
            // The votes of another block: true signatures of something else.
            let mut signed = decode_signed_header(&block.signed_header).unwrap();
            let mut other = signed.header.clone();
            other.data_hash = None;
            signed.commit.signatures = four(1).sign(other, &[0, 1, 2, 3]).commit.signatures;
            block.signed_header = encode_signed_header(signed).into();
        }),
        "header 6 is not acceptable: failed to verify signature",
    )
    .await;
    check(
        alter(|block| forge(block, &four(1), &[0, 1], |_| {})),
        "header 6 is not acceptable: insufficient signers overlap",
    )
    .await;
    check(
        alter(|block| {
            let others = Validators::new(&[(7, 10), (8, 10)]);
            let hash = others.set().hash();
            forge(block, &others, &[0, 1], |header| {
                header.validators_hash = hash;
            });
            block.validators = encode_validators(others.set()).into();
        }),
        "header 6 is not acceptable: invalid next validator set",
    )
    .await;
    check(
        alter(|block| {
            forge(block, &four(1), &[0, 1, 2, 3], |header| {
                header.chain_id = "other-chain".parse().unwrap();
            });
        }),
        "header 6 is not acceptable: chain-id mismatch",
    )
    .await;
}

fn change_list(change: fn(&mut Vec<RollupItem>)) -> Lie {
    alter(move |block| {
        let mut items: Vec<RollupItem> = borsh::from_slice(&block.borsh_list).unwrap();
        change(&mut items);
        block.borsh_list = borsh::to_vec(&items).unwrap().into();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_were_tampered_with_are_found_out() {
    let list = "proof: items do not lead to the root of the list";
    let length = "proof says 2 entries, block commits to 3";
    check(change_list(|items| drop(items.remove(1))), length).await;
    check(change_list(|items| items.swap(0, 1)), list).await;
    let altered = |items: &mut Vec<RollupItem>| {
        items[2] = RollupItem::Transaction(Bytes::from_static(b"mine"));
    };
    check(change_list(altered), list).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_others_are_found_out() {
    let chain = chain();
    let others = Arc::clone(&chain);
    check(
        alter(move |block| *block = others.other_block(block.height)),
        "leaf belongs to rollup",
    )
    .await;
    check(
        alter(|block| {
            let mut proof: LeafProof = borsh::from_slice(&block.borsh_leaf_proof).unwrap();
            proof.leaf.list_root = Hash::ZERO;
            block.borsh_leaf_proof = borsh::to_vec(&proof).unwrap().into();
        }),
        "leaf does not lead to the root over the rollups",
    )
    .await;
    let before = Arc::clone(&chain);
    check(
        alter(move |block| {
            let old = before.block(block.height - 1);
            (block.borsh_leaf_proof, block.borsh_list) = (old.borsh_leaf_proof, old.borsh_list);
        }),
        "block item does not lead to the data hash",
    )
    .await;
    check(
        alter(|block| {
            let config = RollupConfig::example("beta");
            let mut proof: LeafProof = borsh::from_slice(&block.borsh_leaf_proof).unwrap();
            proof.leaf.env.config_hash = config.hash();
            block.borsh_leaf_proof = borsh::to_vec(&proof).unwrap().into();
            block.borsh_config = borsh::to_vec(&config).unwrap().into();
        }),
        "leaf does not lead to the root over the rollups",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_go_astray_and_garbage_are_found_out() {
    check(Lie::Repeat, "expected height 6, found 5").await;
    check(Lie::Skip, "expected height 6, found 7").await;
    let garbage = Bytes::from_static(&[0xff; 100]);
    let bytes = garbage.clone();
    let header = alter(move |block| block.signed_header = bytes.clone());
    check(header, "failed to decode signed header").await;
    let bytes = garbage.clone();
    let proof = alter(move |block| block.borsh_leaf_proof = bytes.clone());
    check(proof, "failed to decode leaf proof").await;
    let bytes = garbage.clone();
    let list = alter(move |block| block.borsh_list = bytes.clone());
    check(list, "failed to decode list").await;
    check(
        alter(|block| {
            let height = block.height;
            *block = RollupBlock {
                height,
                ..RollupBlock::default()
            };
        }),
        "failed to decode signed header",
    )
    .await;
}

/// The first node is of no use, which proves nothing: another one is asked, and why is known.
async fn passed_over(first: &Running, chain: &Arc<Chain>, silence: Duration, expect: &str) {
    let directory = tempfile::tempdir().unwrap();
    let honest = serve(chain, Lie::None, 1).await;
    let client = client(directory.path(), &[first, &honest]);
    let (next, trusted) = (Height::new(1), genesis(&four(1)));
    let mut follower = Follower::with_silence(client.clone(), alpha(), trusted, next, silence);
    reads(&mut follower, chain, 1, LENGTH).await;
    let status = client.status();
    assert_eq!(status[0]["bad_proofs"], 0, "{status}");
    let trouble = status[0]["trouble"].as_str().unwrap();
    assert!(trouble.contains(expect), "{trouble}");
    assert!(records(directory.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_nodes_are_passed_over() {
    let chain = chain();
    let silent = serve(&chain, Lie::Silent, LIE_AT).await;
    passed_over(&silent, &chain, IMPATIENT, "no whole block within").await;
    let node = serve(&chain, Lie::None, 1).await;
    let drips = Line::Drips.start(&node.url).await;
    passed_over(&drips, &chain, IMPATIENT, "no whole block within").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_deny_or_speak_another_protocol_are_passed_over() {
    let chain = chain();
    let denies = serve(&chain, Lie::Deny, LIE_AT).await;
    passed_over(&denies, &chain, PATIENT, "height 6: rollup has no leaf").await;
    let garbles = Line::Garbles.start(&denies.url).await;
    passed_over(&garbles, &chain, PATIENT, "height 1: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_frames_are_not_taken_in() {
    let chain = chain();
    let giant = alter(|block| block.borsh_list = vec![0; 129 << 20].into());
    let node = serve(&chain, giant, LIE_AT).await;
    let expect = "height 6: Error, decoded message length too large";
    passed_over(&node, &chain, PATIENT, expect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_only_away_is_asked_again() {
    let (chain, directory) = (chain(), tempfile::tempdir().unwrap());
    let away = Line::Garbles.start("http://127.0.0.1:1").await;
    let client = client(directory.path(), &[&away]);
    let mut follower = follow(&client, genesis(&four(1)), 1);
    while away.streams.load(Ordering::Relaxed) < 3 {
        tokio::time::timeout(Duration::from_millis(20), follower.next())
            .await
            .unwrap_err();
    }
    // Back, at the same address.
    let address = away.url.trim_start_matches("http://").to_owned();
    drop(away);
    let listener = loop {
        if let Ok(listener) = tokio::net::TcpListener::bind(&address).await {
            break listener;
        }
        tokio::task::yield_now().await;
    };
    let source = Source::Chain(Arc::clone(&chain));
    let _node = Scripted::new(source, Lie::None, 1).start_at(listener);
    reads(&mut follower, &chain, 1, LENGTH).await;
    assert!(client.status()[0]["trouble"].is_null());
}

/// Three validators, of which one is replaced at every height: none is left after three.
fn rotating(height: u64) -> Validators {
    let seed = |offset: u64| (u8::try_from(height + offset).unwrap(), 10);
    Validators::new(&[seed(0), seed(1), seed(2)])
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_sets_are_crossed_by_headers_in_between() {
    let plan = Plan {
        set: rotating,
        ..Plan::default()
    };
    let chain = Arc::new(Chain::new(&plan, 100));
    let directory = tempfile::tempdir().unwrap();
    let liar = Lie::Header(Arc::new(|answer: &mut GetHeaderResponse| {
        let others = Validators::new(&[(200, 10)]);
        let mut header = decode_signed_header(&answer.signed_header).unwrap().header;
        header.validators_hash = others.set().hash();
        answer.signed_header = encode_signed_header(others.sign(header, &[0])).into();
        answer.validators = encode_validators(others.set()).into();
    }));
    let liar = serve(&chain, liar, 1).await;
    let honest = serve(&chain, Lie::None, 1).await;
    let client = client(directory.path(), &[&liar, &honest]);
    let mut follower = follow(&client, genesis(&rotating(1)), 90);
    reads(&mut follower, &chain, 90, 100).await;
    let reason = client.status()[0]["bad_proof"].to_string();
    assert!(reason.contains("not acceptable"), "{reason}");
}

/// A chain that goes another way after a height, signed by the same validators.
fn branch(chain: &Chain, after: u64) -> Arc<Chain> {
    let other = Plan {
        items: |height| vec![Bytes::from(format!("branch at {height}"))],
        ..Plan::default()
    };
    let mut branch = chain.clone();
    branch.cut(after);
    branch.grow(&other, LENGTH);
    Arc::new(branch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_halts_and_both_headers_are_kept() {
    let (chain, directory) = (chain(), tempfile::tempdir().unwrap());
    let branch = branch(&chain, 5);
    // The honest chain up to 6, then the other branch's 7, which builds on another 6.
    let other = Arc::clone(&branch);
    let forks = alter(move |block| *block = other.block(block.height));
    let node = serve(&chain, forks, 7).await;
    let witness = serve(&branch, Lie::None, 1).await;
    let both = client(directory.path(), &[&node]);
    let mut follower = follow(&both, genesis(&four(1)), 1);
    reads(&mut follower, &chain, 1, 6).await;
    let error = follower.next().await.unwrap_err();
    assert!(matches!(&error, FollowError::Fork(fork) if fork.height == Height::new(7)));
    assert!(follower.next().await.is_err(), "for ever");
    drop(witness);

    let [record] = &records(directory.path())[..] else {
        panic!("one fork is one record");
    };
    assert_eq!(record.wrong, Wrong::Fork);
    let header = |height| chain.header(height).signed_header.to_vec();
    let theirs = branch.header(7).signed_header.to_vec();
    assert_eq!(record.signed_headers, [theirs, header(6)]);
    assert!(error.to_string().contains("evidence/fork-7-"), "{error}");
    let evidence = Evidence::open(directory.path()).unwrap();
    assert!(evidence.refuse_fork().is_err(), "nor after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_of_another_valid_header_halts() {
    let (chain, directory) = (chain(), tempfile::tempdir().unwrap());
    let branch = branch(&chain, 0);
    let node = serve(&chain, Lie::None, 1).await;
    let witness = serve(&branch, Lie::None, 1).await;
    let client = client(directory.path(), &[&node, &witness]);
    let mut follower = follow(&client, genesis(&four(1)), 1);
    // The first block is compared beside the reading of others.
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(60), follower.next()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => break error,
            Err(_) => panic!("the fork was never seen"),
        }
    };
    assert!(matches!(error, FollowError::Fork(_)), "{error}");
    let records = records(directory.path());
    let ours = chain.header(1).signed_header.to_vec();
    let theirs = branch.header(1).signed_header.to_vec();
    assert_eq!(records[0].signed_headers[..2], [ours, theirs]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_cannot_prove_its_header_is_dropped() {
    let (chain, directory) = (chain(), tempfile::tempdir().unwrap());
    let lie = Lie::Header(Arc::new(|answer: &mut GetHeaderResponse| {
        let mut signed = decode_signed_header(&answer.signed_header).unwrap();
        signed.header.data_hash = None;
        answer.signed_header = encode_signed_header(signed).into();
    }));
    let node = serve(&chain, Lie::None, 1).await;
    let witness = serve(&chain, lie, 1).await;
    let client = client(directory.path(), &[&node, &witness]);
    let mut follower = follow(&client, genesis(&four(1)), 1);
    reads(&mut follower, &chain, 1, LENGTH).await;
    wait_for(|| client.status()[1]["bad_proofs"] == 1).await;
}

/// Waits until something holds that others are about to bring about.
async fn wait_for(holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
    waited.expect("it holds within a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_starts_at_the_header_that_the_operator_names() {
    let plan = Plan {
        set: rotating,
        ..Plan::default()
    };
    let chain = Arc::new(Chain::new(&plan, 60));
    let directory = tempfile::tempdir().unwrap();
    let other = Arc::new(Chain::new(&Plan::default(), 60));
    let liar = serve(&other, Lie::None, 1).await;
    let honest = serve(&chain, Lie::None, 1).await;
    let client = client(directory.path(), &[&liar, &honest]);
    let root = TrustRoot::unchecked(genesis(&rotating(1)), Some(chain.root(50)));
    let trusted = root.start(None, &client).await.unwrap();
    assert_eq!(trusted.header(), Some(chain.root(50)));
    wait_for(|| client.status()[0]["bad_proofs"] == 1).await;
    let reason = client.status()[0]["bad_proof"].to_string();
    assert!(reason.contains("header 50 has hash"), "{reason}");
    let mut follower = follow(&client, trusted.clone(), 51);
    reads(&mut follower, &chain, 51, 60).await;
    // What was stored counts for more than where trust started.
    let again = root.start(Some(&trusted), &client).await.unwrap();
    assert_eq!(again, trusted);
}

#[tokio::test]
async fn trust_that_is_too_old_needs_the_operators_word() {
    let client = Client::new(&["http://127.0.0.1:1".into()]).unwrap();
    let old = |height| old_trust(height);
    let start = async |header, stored: Option<TrustedState>| {
        let root = TrustRoot::unchecked(old(0), header);
        let started = root.start(stored.as_ref(), &client).await;
        started.map_err(|error| error.to_string())
    };
    let error = start(None, None).await.unwrap_err();
    assert!(
        error.starts_with("sequencer_genesis is more than 30 days old"),
        "{error}"
    );
    let stored = old(7);
    let error = start(None, Some(stored.clone())).await.unwrap_err();
    let header = stored.header().unwrap();
    let advice = format!("set trust_height = 7 and trust_hash = \"{}\"", header.hash);
    assert!(error.ends_with(&advice), "{error}");
    assert_eq!(start(Some(header), Some(stored.clone())).await, Ok(stored));
}

/// Trust of the year 2001.
fn old_trust(height: u64) -> TrustedState {
    let trusted = match height {
        0 => genesis(&four(0)),
        _ => {
            let chain = Chain::new(&Plan::default(), height);
            let answer = chain.header(height);
            let signed = decode_signed_header(&answer.signed_header).unwrap();
            let validators = four(0).set();
            let genesis = genesis(&four(0));
            genesis
                .from_root(chain.root(height), &signed, &validators)
                .unwrap()
        }
    };
    let mut state = serde_json::to_value(trusted).unwrap();
    state["time"] = "2001-01-01T00:00:00Z".into();
    serde_json::from_value(state).unwrap()
}

#[test]
fn keys_of_trust_go_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("genesis.json");
    let file = serde_json::json!({
        "chain_id": "test-chain",
        "genesis_time": "2027-01-15T08:00:00Z",
        "validators": four(0).infos(),
    });
    fs::write(&path, file.to_string()).unwrap();
    let read = |height, hash: Option<&str>| {
        let root = TrustRoot::read(&path, height, hash);
        root.map(drop).map_err(|error| error.to_string())
    };
    let hash = "ab".repeat(32);
    assert_eq!(read(None, None), Ok(()));
    assert_eq!(read(Some(5), Some(&hash)), Ok(()));
    let refused = |height, hash, expect: &str| {
        let expect = format!("invalid configuration: {expect}");
        assert_eq!(read(height, hash), Err(expect));
    };
    refused(
        Some(5),
        None,
        "trust_height is set and trust_hash is not: set both or none",
    );
    refused(
        None,
        Some(&hash[..]),
        "trust_hash is set and trust_height is not: set both or none",
    );
    refused(
        Some(5),
        Some("abc"),
        "trust_hash must be 64 hexadecimal digits",
    );
    refused(Some(0), Some(&hash), "trust_height must be greater than 0");
}

/// The root of a state that holds nothing but that alpha has left, and proofs that it does.
fn left_state(from: u64) -> (Hash, [(Vec<u8>, StateProof); 2]) {
    let config = exiting(from);
    let record = RollupRecord {
        config_hash: config.hash(),
        config,
        first_opening: Some(1),
        pending: None,
        deposit: Amount::new(0),
        paid_until: Height::new(u64::MAX),
    };
    let key = Key::FormerRollup(alpha()).encode();
    let value = borsh::to_vec(&record).unwrap();
    let leaf = Leaf {
        key: key_hash(&key),
        value: Hash::digest(&[&value]),
    };
    let path = TreePath {
        leaf: Some(leaf),
        siblings: Vec::new(),
    };
    let proofs = [
        (key, StateProof::new(Some(value), path.clone())),
        (Key::Rollup(alpha()).encode(), StateProof::new(None, path)),
    ];
    (leaf.hash(), proofs)
}

fn exiting(from: u64) -> RollupConfig {
    RollupConfig {
        status: RollupStatus::Exiting(Height::new(from)),
        ..RollupConfig::example("alpha")
    }
}

/// A chain on which alpha's last leaf is that of `last`, though it said that it would leave at `from`.
fn left_chain(from: u64, last: u64) -> Arc<Chain> {
    let (app_hash, proofs) = left_state(from);
    let plan = Plan {
        config: exiting(from),
        last_leaf: last,
        app_hash,
        ..Plan::default()
    };
    let mut chain = Chain::new(&plan, LENGTH);
    let header = chain.header(LENGTH);
    let answer = |(key, proof): (Vec<u8>, StateProof)| {
        let answer = GetStateProofResponse {
            height: LENGTH - 1,
            borsh_proof: borsh::to_vec(&proof).unwrap().into(),
            signed_header: header.signed_header.clone(),
            validators: header.validators.clone(),
        };
        (key, answer)
    };
    chain.proofs = proofs.into_iter().map(answer).collect();
    Arc::new(chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_rollup_that_left_is_proven() {
    let (chain, directory) = (left_chain(7, 8), tempfile::tempdir().unwrap());
    // One that says so too early comes first, and is not believed.
    let denies = serve(&chain, Lie::Deny, 8).await;
    let honest = serve(&chain, Lie::None, 1).await;
    let client = client(directory.path(), &[&denies, &honest]);
    let mut follower = follow(&client, genesis(&four(1)), 1);
    reads(&mut follower, &chain, 1, 8).await;
    let error = follower.next().await.unwrap_err();
    assert!(
        matches!(error, FollowError::Left { height } if height == Height::new(9)),
        "{error}"
    );
    // The same for one that has all blocks already.
    let mut again = follow(&client, follower.trusted().clone(), 9);
    let error = again.next().await.unwrap_err();
    assert!(
        matches!(error, FollowError::Left { height } if height == Height::new(9)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_proven_by_a_node_that_has_pruned_the_last_block() {
    let (chain, directory) = (left_chain(7, 8), tempfile::tempdir().unwrap());
    let whole = serve(&chain, Lie::None, 1).await;
    let mut before = follow(&client(directory.path(), &[&whole]), genesis(&four(1)), 1);
    reads(&mut before, &chain, 1, 8).await;
    let trusted = before.trusted().clone();
    let mut pruned = Chain::clone(&chain);
    pruned.alpha.clear();
    let node = serve(&Arc::new(pruned), Lie::None, 1).await;
    let client = client(directory.path(), &[&node]);
    let mut after = Follower::after_block(client.clone(), alpha(), trusted.clone(), Height::new(9));
    let error = after.next().await.unwrap_err();
    assert!(
        matches!(error, FollowError::Left { height } if height == Height::new(9)),
        "{error}"
    );
    // Without that knowledge it would be a guess: it is asked for again and again.
    let mut follower = follow(&client, trusted, 9);
    let waiting = tokio::time::timeout(IMPATIENT, follower.next());
    assert!(waiting.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rollup_is_is_proven_whoever_is_asked_first() {
    let (chain, directory) = (left_chain(7, 8), tempfile::tempdir().unwrap());
    let mut lies = Chain::clone(&chain);
    let key = Key::FormerRollup(alpha()).encode();
    let denied = chain.proofs[&Key::Rollup(alpha()).encode()].clone();
    lies.proofs.insert(key, denied);
    let knows_nothing = serve(&self::chain(), Lie::None, 1).await;
    let liar = serve(&Arc::new(lies), Lie::None, 1).await;
    let honest = serve(&chain, Lie::None, 1).await;
    let client = client(directory.path(), &[&knows_nothing, &liar, &honest]);
    let proven = registration(&client, &genesis(&four(1)), alpha()).await;
    assert_eq!(proven.unwrap().unwrap().config, exiting(7));
    let reason = client.status()[1]["bad_proof"].to_string();
    assert!(
        reason.contains("does not show that the key is absent"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_ahead_of_execution_is_bounded_and_streams_resume() {
    const MIB: usize = 1 << 20;
    let plan = Plan {
        items: |height| vec![Bytes::from(vec![u8::try_from(height).unwrap(); 4 * MIB])],
        ..Plan::default()
    };
    let (chain, directory) = (
        Arc::new(Chain::new(&plan, 40)),
        tempfile::tempdir().unwrap(),
    );
    let node = serve(&chain, Lie::None, 1).await;
    let breaks = serve(&chain, Lie::Deny, 15).await;
    let client = client(directory.path(), &[&breaks, &node]);
    let mut follower = follow(&client, genesis(&four(1)), 1);
    // By the time that another one has read all, this one could have.
    let mut other = follow(&client, genesis(&four(1)), 1);
    for _ in 1..=40 {
        other.next().await.unwrap();
    }
    wait_for(|| follower.ahead() >= 7).await;
    assert_eq!(follower.ahead(), 7, "32 MiB hold seven such blocks");
    for height in 1..=40 {
        let block = follower.next().await.unwrap();
        assert_eq!(block.list.header().height().get(), height);
    }
    assert!(breaks.streams.load(Ordering::Relaxed) >= 1);
    assert!(node.streams.load(Ordering::Relaxed) >= 1);
}
