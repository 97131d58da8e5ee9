//! The authority at work on a network of four: votes carry extensions, blocks have another limit, a
//! node that joined becomes a validator, changes its key and leaves, and a real double signer loses
//! its power for ever. What CometBFT calls on the way is recorded and held against its grammar.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use counterpoint::devnet::{Detours, setup::Layout, setup::SNAPSHOT_INTERVAL};
use counterpoint_abci::proto::abci::{
    request, response, response_verify_vote_extension::VerifyStatus,
};
use counterpoint_core::{
    action::{Action, ConsensusChange, SubmitData, Transfer, ValidatorUpdate},
    key::PublicKey,
    primitive::{Address, Amount, Height, RollupId},
    vote_extension,
};

use crate::{
    grammar::{self, Call},
    proxy::Proxy,
    support::{
        Network, decide, evidence, nodes_agree, registration, sequence, signed, verdict, wait_for,
    },
};

/// A validator and the node that joins, whose CometBFT is listened to.
const WATCHED: usize = 0;
const JOINED: usize = 4;
/// The validator whose key two nodes vote with.
const DOUBLE: usize = 3;
const JOINED_NAME: &str = "val-4";
const JOINED_COMETBFT: &str = "val-4-cometbft";
/// No container of the protocol.
const GARBLED: Bytes = Bytes::from_static(b"garbled");
/// The least limit that leaves room for evidence.
const SMALL_BLOCK_BYTES: u64 = 1 << 20;
const LARGE_BLOCK_BYTES: u64 = 8 << 20;
/// A rollup's share of a block.
const SHARE_BYTES: u32 = 2 << 20;
/// A tombstone refuses a key.
const TOMBSTONED: u32 = 33;
const PAYOUT: Address = Address::new([9; 20]);

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_changes_a_running_network() {
    let directory = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(directory.path()).unwrap();
    let seen = Arc::new(Extensions::default());
    let sockets = [WATCHED, JOINED].map(|at| dir.join(format!("proxy-{at}.sock")));
    let layout = Layout { dir };
    let listen = |socket: &Path, at: usize| {
        let app = layout.abci_socket(&format!("val-{at}"));
        let seen = Arc::clone(&seen);
        Proxy::start(socket, app, move |request, response| {
            if at == WATCHED {
                seen.see(request, response);
            }
        })
    };
    let proxies = [listen(&sockets[0], WATCHED), listen(&sockets[1], JOINED)];
    let detours = Detours {
        abci: [WATCHED, JOINED].into_iter().zip(sockets).collect(),
        ..Detours::default()
    };
    let mut network = Network::start_in(directory, 4, 0, |options| options.detours = detours).await;
    votes_carry_extensions(&network, &seen).await;
    blocks_keep_the_limit_in_force(&network).await;

    network.reach(0, SNAPSHOT_INTERVAL + 5).await;
    assert_eq!(network.join().await, JOINED);
    let key = becomes_a_validator(&network).await;
    let key = rotates_its_key(&mut network, key).await;
    leaves(&network, key).await;
    loses_its_power(&mut network).await;
    nodes_agree(&network).await;
    for proxy in &proxies {
        grammar::check(&proxy.sessions()).unwrap();
        assert_eq!(proxy.strays(), Vec::<&str>::new());
    }
    took_a_snapshot(&proxies[1]);
    network.stop().await;
}

/// What the calls of one validator show of vote extensions.
#[derive(Default)]
struct Extensions {
    /// The validator's own, and those of others that it accepted, by height.
    valid: Mutex<BTreeMap<u64, Vec<Bytes>>>,
    /// What a proposer is shown of the last commit.
    proposed: Mutex<BTreeMap<u64, Vec<Bytes>>>,
    /// Whether the validator says something else than the protocol wants.
    garbled: AtomicBool,
}

impl Extensions {
    fn see(&self, request: &request::Value, response: &mut response::Value) {
        let note = |at: &Mutex<BTreeMap<u64, Vec<Bytes>>>, height: i64, extension: &Bytes| {
            let height = u64::try_from(height).unwrap();
            let mut at = at.lock().unwrap();
            at.entry(height).or_default().push(extension.clone());
        };
        match (request, response) {
            (request::Value::ExtendVote(request), response::Value::ExtendVote(response)) => {
                if self.garbled.load(Ordering::Relaxed) {
                    response.vote_extension = GARBLED;
                } else {
                    note(&self.valid, request.height, &response.vote_extension);
                }
            }
            (
                request::Value::VerifyVoteExtension(request),
                response::Value::VerifyVoteExtension(response),
            ) if request.vote_extension == GARBLED => {
                // CometBFT has its own application judge it before it is sent.
                response.status = VerifyStatus::Accept.into();
            }
            (request::Value::VerifyVoteExtension(request), _) => {
                note(&self.valid, request.height, &request.vote_extension);
            }
            (request::Value::PrepareProposal(request), _) => {
                for vote in &request.local_last_commit.as_ref().unwrap().votes {
                    note(&self.proposed, request.height, &vote.vote_extension);
                }
            }
            _ => {}
        }
    }
}

/// From the decided height on votes have the container, proposers see it, and whoever says anything
/// else is not counted.
async fn votes_carry_extensions(network: &Network, seen: &Extensions) {
    let first = network.reach(0, 1).await + 10;
    let change = ConsensusChange {
        max_block_bytes: None,
        vote_extensions_height: Some(Height::new(first)),
    };
    decide(network, vec![Action::ConsensusChange(change)]).await;
    wait_for("a proposal with extensions of the last commit", || async {
        let proposed = seen.proposed.lock().unwrap();
        let (height, shown) = proposed.last_key_value()?;
        (*height > first && shown.iter().any(|shown| !shown.is_empty())).then_some(())
    })
    .await;
    let container = vote_extension::EMPTY;
    assert_eq!(container.len(), 5);
    for (height, shown) in &*seen.proposed.lock().unwrap() {
        let extended = shown.iter().filter(|shown| ***shown == container).count();
        let empty = shown.iter().filter(|shown| shown.is_empty()).count();
        assert_eq!(extended + empty, shown.len(), "{height}: {shown:?}");
        assert_eq!(extended > 0, *height > first, "{height}: {shown:?}");
    }
    for (height, said) in &*seen.valid.lock().unwrap() {
        assert!(
            *height >= first,
            "extensions begin at {first}, not {height}"
        );
        assert!(said.iter().all(|said| **said == container), "{said:?}");
    }

    seen.garbled.store(true, Ordering::Relaxed);
    for other in 1..4 {
        wait_for("a garbled extension to be rejected", || async {
            let log = network.log(&format!("val-{other}-app"));
            log.contains("vote extension rejected").then_some(())
        })
        .await;
    }
    let tip = network.reach(1, 1).await;
    network.reach(1, tip + 3).await;
    seen.garbled.store(false, Ordering::Relaxed);
    network.reach(0, tip + 5).await;
}

/// Blocks grow up to the limit that the chain has decided, and no further.
async fn blocks_keep_the_limit_in_force(network: &Network) {
    let first = network.reach(0, 1).await + 8;
    decide(network, vec![registration("alpha", first, SHARE_BYTES)]).await;
    network.reach(0, first).await;
    let small = limit_blocks(network, SMALL_BLOCK_BYTES).await;
    let greatest = fill(network, small, SMALL_BLOCK_BYTES / 2).await;
    assert!(greatest <= SMALL_BLOCK_BYTES, "{greatest}");
    let large = limit_blocks(network, LARGE_BLOCK_BYTES).await;
    let sizes = block_sizes(network, small + 1, large).await;
    assert!(sizes.iter().all(|size| *size <= SMALL_BLOCK_BYTES));
    fill(network, large, SMALL_BLOCK_BYTES + 1).await;
}

/// Sets the limit; gives the height that decided it.
async fn limit_blocks(network: &Network, max_block_bytes: u64) -> u64 {
    let change = ConsensusChange {
        max_block_bytes: Some(max_block_bytes),
        vote_extensions_height: None,
    };
    let height = decide(network, vec![Action::ConsensusChange(change)]).await;
    for validator in 0..4 {
        network.reach(validator, height).await;
        let path = format!("consensus_params?height={}", height + 1);
        let params = wait_for("parameters of the next height", || async {
            network.ask(validator, &path).await.ok()
        })
        .await;
        let bytes = &params["consensus_params"]["block"]["max_bytes"];
        assert_eq!(*bytes, max_block_bytes.to_string());
    }
    height
}

/// Sends transactions until a block above `after` has at least so many bytes; gives the size of the
/// greatest one.
async fn fill(network: &Network, after: u64, bytes: u64) -> u64 {
    let client = network.sequencer(0);
    let item = Bytes::from(vec![7; 100_000]);
    let data = SubmitData::new(RollupId::from_name("alpha"), vec![item; 4]).unwrap();
    wait_for(&format!("a block of {bytes} bytes"), || async {
        for _ in 0..5 {
            let tx = signed(network, 0, vec![Action::SubmitData(data.clone())]).await;
            let answer = client.submit(tx.as_bytes().clone()).await.unwrap();
            assert_eq!(answer.code, 0, "{}", answer.log);
        }
        let tip = decide(network, vec![Action::SubmitData(data.clone())]).await;
        let greatest = block_sizes(network, after + 1, tip).await.into_iter().max();
        greatest.filter(|greatest| *greatest >= bytes)
    })
    .await
}

async fn block_sizes(network: &Network, from: u64, to: u64) -> Vec<u64> {
    let mut sizes = Vec::new();
    for height in from..=to {
        let path = format!("blockchain?minHeight={height}&maxHeight={height}");
        let metas = network.cometbft(0, &path).await["block_metas"].take();
        sizes.push(metas[0]["block_size"].as_str().unwrap().parse().unwrap());
    }
    sizes
}

fn update(public_key: PublicKey, power: u64) -> Action {
    Action::ValidatorUpdate(ValidatorUpdate::new(public_key, power, PAYOUT).unwrap())
}

/// As CometBFT writes it.
fn address(key: PublicKey) -> String {
    let hex = |byte: &u8| format!("{byte:02X}");
    key.address().as_bytes().iter().map(hex).collect()
}

/// The set of validators of a height: who has how much power.
async fn set_of(network: &Network, height: u64) -> BTreeMap<String, u64> {
    let path = format!("validators?height={height}&per_page=100");
    let answer = wait_for(&format!("validators of {height}"), || async {
        network.ask(0, &path).await.ok()
    })
    .await;
    let of = |validator: &serde_json::Value| {
        let text = |name: &str| validator[name].as_str().unwrap().to_owned();
        (text("address"), text("voting_power").parse().unwrap())
    };
    let validators = answer["validators"].as_array().unwrap();
    validators.iter().map(of).collect()
}

/// Waits until a validator has signed a height above `after`.
async fn signs(network: &Network, key: PublicKey, after: u64) {
    let wanted = address(key);
    let mut height = after;
    loop {
        height += 1;
        network.reach(0, height + 1).await;
        let commit = network.commit(0, height).await["commit"].take();
        let signatures = commit["signatures"].as_array().unwrap();
        let for_block = |signature: &&serde_json::Value| signature["block_id_flag"] == 2;
        let mut signers = signatures.iter().filter(for_block);
        if signers.any(|signature| signature["validator_address"] == *wanted) {
            return;
        }
        assert!(height < after + 100, "{wanted} never signed");
    }
}

/// Two heights after the decision it takes part, and its blocks earn for its payout account.
async fn becomes_a_validator(network: &Network) -> PublicKey {
    let key = network.devnet.consensus_key(JOINED_NAME).unwrap();
    let decided = decide(network, vec![update(key, 10)]).await;
    assert!(
        !set_of(network, decided + 1)
            .await
            .contains_key(&address(key))
    );
    assert_eq!(set_of(network, decided + 2).await[&address(key)], 10);
    signs(network, key, decided + 1).await;
    let client = network.sequencer(0);
    wait_for("the payout account to earn", || async {
        let (to, amount) = (Address::new([7; 20]), Amount::new(5));
        sequence(network, vec![Action::Transfer(Transfer { to, amount })]).await;
        let account = client.account(&PAYOUT).await.unwrap();
        (account.balance.parse::<u128>().unwrap() > 0).then_some(())
    })
    .await;
    let decided = decide(network, vec![update(key, 13)]).await;
    assert_eq!(set_of(network, decided + 2).await[&address(key)], 13);
    key
}

/// A new key takes the place of the old one in one transaction.
async fn rotates_its_key(network: &mut Network, old: PublicKey) -> PublicKey {
    let layout = network.layout();
    network.devnet.kill(JOINED_COMETBFT).await.unwrap();
    fs::remove_file(layout.consensus_key(JOINED_NAME)).unwrap();
    fs::remove_file(signed_so_far(&layout)).unwrap();
    // CometBFT makes a key where there is none.
    network.devnet.launch(JOINED_COMETBFT).await.unwrap();
    let new = wait_for("a new key", || async {
        network.devnet.consensus_key(JOINED_NAME).ok()
    })
    .await;
    assert_ne!(new, old);
    let decided = decide(network, vec![update(old, 0), update(new, 10)]).await;
    let set = set_of(network, decided + 2).await;
    assert!(!set.contains_key(&address(old)));
    assert_eq!(set[&address(new)], 10);
    signs(network, new, decided + 1).await;
    new
}

async fn leaves(network: &Network, key: PublicKey) {
    let decided = decide(network, vec![update(key, 0)]).await;
    assert_eq!(set_of(network, decided + 2).await.len(), 4);
    network.reach(JOINED, decided + 4).await;
}

/// Two nodes vote with one key until a block has the evidence; the block itself takes the power.
async fn loses_its_power(network: &mut Network) {
    let layout = network.layout();
    let name = format!("val-{DOUBLE}");
    let key = network.devnet.consensus_key(&name).unwrap();
    let before = network.reach(0, 1).await;
    network.devnet.kill(JOINED_COMETBFT).await.unwrap();
    fs::copy(
        layout.consensus_key(&name),
        layout.consensus_key(JOINED_NAME),
    )
    .unwrap();
    let nothing = r#"{ "height": "0", "round": 0, "step": 0 }"#;
    fs::write(signed_so_far(&layout), nothing).unwrap();
    network.devnet.launch(JOINED_COMETBFT).await.unwrap();
    let (height, evidence) = evidence(network, before).await;
    let culprit = &evidence["value"]["vote_a"]["validator_address"];
    assert_eq!(*culprit, address(key), "{evidence}");
    assert_eq!(set_of(network, height + 1).await[&address(key)], 10);
    let others: BTreeSet<String> = (0..DOUBLE)
        .map(|at| network.devnet.consensus_key(&format!("val-{at}")).unwrap())
        .map(address)
        .collect();
    let left: BTreeSet<String> = set_of(network, height + 2).await.into_keys().collect();
    assert_eq!(left, others);
    assert_eq!(verdict(network, vec![update(key, 1)]).await, TOMBSTONED);
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 3).await;
}

/// Where a node remembers what it must not contradict.
fn signed_so_far(layout: &Layout) -> std::path::PathBuf {
    let home = layout.cometbft_home(JOINED_NAME);
    home.join("data/priv_validator_state.json")
}

/// The first session of the node that joined is a state sync, by the grammar's words.
#[track_caller]
fn took_a_snapshot(joined: &Proxy) {
    let sessions = joined.sessions();
    let has = |wanted: fn(&Call) -> bool| {
        let mut calls = sessions[0].iter().map(|recorded| recorded.call);
        calls.any(|call| wanted(&call))
    };
    assert!(has(|call| matches!(call, Call::OfferSnapshot { .. })));
    assert!(has(|call| matches!(call, Call::ApplySnapshotChunk)));
    assert!(has(|call| matches!(call, Call::FinalizeBlock { .. })));
    assert!(!has(|call| matches!(call, Call::InitChain { .. })));
}
