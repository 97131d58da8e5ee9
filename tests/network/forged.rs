//! One validator of four proposes what no honest one may vote for: each kind of forgery is really
//! proposed and really refused, for its reason, and the next round decides. On the way all calls of
//! CometBFT are recorded, also over crashes, and held against its grammar.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use counterpoint::devnet::{Detours, MAX_BLOCK_BYTES, setup::Layout};
use counterpoint_abci::proto::abci::{
    request, response, response_process_proposal::ProposalStatus,
};
use counterpoint_core::{
    action::{Action, SubmitData, Transfer},
    block::{Preamble, Tag, data_root},
    key::SecretKey,
    primitive::{Amount, Hash, Height, Nonce, RollupId},
    transaction::{GossipBundle, MAX_TX_BYTES, SignedTransaction, TransactionBody},
};

use crate::{
    grammar::{self, Call, Recorded},
    proxy::Proxy,
    support::{Network, registration, sequence, wait_for},
};

const CHAIN_ID: &str = "counterpoint-devnet";
/// The validator that forges, and one that is watched while it refuses.
const FORGER: usize = 3;
const WATCHED: usize = 0;
const HONEST: [usize; 3] = [0, 1, 2];
/// A rollup's share of a block.
const SHARE_BYTES: u32 = 1_000;

/// What is wrong with a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgery {
    Order,
    NonceOrder,
    WrongNonce,
    NoAccount,
    Expired,
    Duplicate,
    Garbage,
    Signature,
    TooLong,
    SystemItem,
    Bundle,
    Overfull,
    WrongRoot,
    MissingLeaf,
    MissingItem,
    NoPreamble,
    Empty,
    OverLimit,
}

/// Each kind, and what the honest ones say of it.
const FORGERIES: [(Forgery, &str); 17] = [
    (Forgery::Order, "not in the verifiable order"),
    (Forgery::NonceOrder, "not in the verifiable order"),
    (
        Forgery::WrongNonce,
        "item 1 may not be included: wrong nonce",
    ),
    (Forgery::NoAccount, "account does not exist yet"),
    (Forgery::Expired, "item 1 may not be included: expired"),
    (
        Forgery::Duplicate,
        "item 2 may not be included: wrong nonce",
    ),
    (Forgery::Garbage, "failed to decode transaction"),
    (Forgery::Signature, "item 1 is not a transaction: signature"),
    (Forgery::TooLong, "transaction has 1047553 bytes"),
    (Forgery::SystemItem, "system item 1 does not decode"),
    (Forgery::Bundle, "expected tag 0x10, found 0x20"),
    (Forgery::Overfull, "item 2 overfills a rollup's share"),
    (Forgery::WrongRoot, "preamble does not match the lists"),
    (Forgery::MissingLeaf, "preamble does not match the lists"),
    (Forgery::MissingItem, "preamble does not match the lists"),
    (Forgery::NoPreamble, "item 0 is not a preamble"),
    (Forgery::Empty, "block has no items"),
];

/// Two accounts that exist and never send anything but forgeries, so that their nonce is 0; and one
/// that does not exist.
fn account(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

const ONE: u8 = 41;
const TWO: u8 = 42;
const STRANGER: u8 = 43;

fn transfer() -> Action {
    let to = account(ONE).public_key().address();
    let amount = Amount::new(1);
    Action::Transfer(Transfer { to, amount })
}

fn data(bytes: usize) -> Action {
    let items = vec![vec![7; bytes].into()];
    Action::SubmitData(SubmitData::new(RollupId::from_name("alpha"), items).unwrap())
}

/// A transaction that is valid but for what its arguments make of it.
fn tx(seed: u8, nonce: u64, tip_per_byte: u64, valid_until: u64, action: Action) -> Bytes {
    let key = account(seed);
    let body = TransactionBody {
        chain_id: CHAIN_ID.into(),
        signer: key.public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte,
        max_fee: Amount::new(u128::MAX),
        valid_until: Height::new(valid_until),
        actions: vec![action],
    };
    let tx = SignedTransaction::sign(body, &key).unwrap();
    tx.as_bytes().clone()
}

/// What the forger proposes at a height; `preamble` is what an honest one would commit to.
fn forge(forgery: Forgery, height: u64, preamble: &Bytes) -> Vec<Bytes> {
    let pay = |seed, nonce, tip| tx(seed, nonce, tip, height, transfer());
    let submit = |nonce, bytes| tx(ONE, nonce, 0, height, data(bytes));
    let tagged = |tag: Tag, length| [&[tag.byte()], &vec![0xff; length][..]].concat().into();
    let items = match forgery {
        Forgery::Order => vec![pay(ONE, 0, 0), pay(TWO, 0, 5)],
        Forgery::NonceOrder => vec![pay(ONE, 1, 0), pay(ONE, 0, 0)],
        Forgery::WrongNonce => vec![pay(ONE, 1, 0)],
        Forgery::NoAccount => vec![pay(STRANGER, 0, 0)],
        Forgery::Expired => vec![tx(ONE, 0, 0, height - 1, transfer())],
        Forgery::Duplicate => vec![pay(ONE, 0, 0), pay(ONE, 0, 0)],
        Forgery::Garbage => vec![tagged(Tag::Transaction, 100)],
        Forgery::Signature => {
            let mut bytes = pay(ONE, 0, 0).to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            vec![bytes.into()]
        }
        Forgery::TooLong => vec![tagged(Tag::Transaction, MAX_TX_BYTES)],
        Forgery::SystemItem => vec![tagged(Tag::AtomicAbort, 10)],
        Forgery::Bundle => GossipBundle::pack(vec![pay(ONE, 0, 0)]),
        Forgery::Overfull => vec![submit(0, 600), submit(1, 600)],
        Forgery::MissingItem => vec![submit(0, 10)],
        Forgery::WrongRoot | Forgery::MissingLeaf | Forgery::Empty => vec![],
        Forgery::OverLimit => {
            let most = usize::try_from(MAX_BLOCK_BYTES).unwrap();
            vec![tagged(Tag::Transaction, most)]
        }
        Forgery::NoPreamble => return vec![pay(ONE, 0, 0)],
    };
    let preamble = match forgery {
        Forgery::Empty => return items,
        Forgery::WrongRoot => {
            let mut wrong = Preamble::decode(preamble).unwrap();
            wrong.rollups_root = Hash::digest(&[b"wrong"]);
            wrong.encode()
        }
        Forgery::MissingLeaf => Preamble::new(&[]).encode(),
        _ => preamble.clone(),
    };
    [vec![preamble], items].concat()
}

/// A forgery that was put into an answer.
#[derive(Clone, Debug)]
struct Proposed {
    forgery: Forgery,
    height: u64,
    data_hash: Hash,
}

/// What the forger is about to do, and has done.
#[derive(Default)]
struct Plan {
    next: Option<Forgery>,
    proposed: Vec<Proposed>,
}

/// Changes the forger's answers: what it proposes, and its vote for that.
fn tamper(plan: &Mutex<Plan>, request: &request::Value, response: &mut response::Value) {
    let mut plan = plan.lock().unwrap();
    let Some(forgery) = plan.next else { return };
    match (request, response) {
        (request::Value::PrepareProposal(request), response::Value::PrepareProposal(response)) => {
            let height = u64::try_from(request.height).unwrap();
            response.txs = forge(forgery, height, &response.txs[0]);
            let data_hash = data_root(&response.txs);
            plan.proposed.push(Proposed {
                forgery,
                height,
                data_hash,
            });
        }
        (_, response::Value::ProcessProposal(response)) => {
            response.status = ProposalStatus::Accept.into();
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_proposals_are_refused_and_calls_follow_the_grammar() {
    let directory = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(directory.path()).unwrap();
    let layout = Layout { dir: dir.clone() };
    let plan = Arc::new(Mutex::new(Plan::default()));
    let shared = Arc::clone(&plan);
    let sockets = [WATCHED, FORGER].map(|at| dir.join(format!("proxy-{at}.sock")));
    let app = |at| layout.abci_socket(&format!("val-{at}"));
    let watched = Proxy::start(&sockets[0], app(WATCHED), |_, _| {});
    let forger = Proxy::start(&sockets[1], app(FORGER), move |request, response| {
        tamper(&shared, request, response);
    });
    let detours = Detours {
        abci: [WATCHED, FORGER].into_iter().zip(sockets).collect(),
        ..Detours::default()
    };
    let mut network = Network::start_in(directory, 4, 0, |options| options.detours = detours).await;
    prepare(&network).await;
    for (forgery, reason) in FORGERIES {
        plan.lock().unwrap().next = Some(forgery);
        is_refused(&network, &plan, forgery, reason).await;
    }
    // A block over the limit ends the consensus of the one who tries it.
    plan.lock().unwrap().next = Some(Forgery::OverLimit);
    wait_for("the forger's own CometBFT to fail", || async {
        let log = network.log(&format!("val-{FORGER}-cometbft"));
        log.contains("CONSENSUS FAILURE").then_some(())
    })
    .await;
    plan.lock().unwrap().next = None;
    network.devnet.launch("val-3-cometbft").await.unwrap();
    let proposed = plan.lock().unwrap().proposed.clone();
    the_next_round_decides(&network, &proposed).await;

    recovers(&mut network, &["val-0-app"]).await;
    recovers(&mut network, &["val-0-cometbft"]).await;
    recovers(&mut network, &["val-0-cometbft", "val-0-app"]).await;
    sequence(&network, vec![transfer()]).await;
    network.agree().await;
    follows_the_grammar(&watched, 4);
    follows_the_grammar(&forger, 2);
    let rounds = |height: u64| {
        let sessions = watched.sessions();
        let asked = |recorded: &&Recorded| recorded.call == Call::ProcessProposal { height };
        sessions.iter().flatten().filter(asked).count()
    };
    assert!(
        proposed.iter().any(|forged| rounds(forged.height) > 1),
        "the recording has heights of several rounds"
    );
    network.stop().await;
}

/// Gives the forger's accounts money and registers a rollup.
async fn prepare(network: &Network) {
    let fund = |seed| {
        let to = account(seed).public_key().address();
        let amount = Amount::new(1_000_000_000_000);
        Action::Transfer(Transfer { to, amount })
    };
    let first = network.reach(0, 1).await + 8;
    let register = registration("alpha", first, SHARE_BYTES);
    let actions = vec![fund(ONE), fund(TWO), register];
    let inclusion = sequence(network, actions).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    network.reach(0, first).await;
}

/// Waits until every honest validator has refused a forgery of this kind for the right reason. A
/// busy machine may show it to one of them too late, so the forger tries at each of its turns.
async fn is_refused(network: &Network, plan: &Mutex<Plan>, forgery: Forgery, reason: &str) {
    wait_for(&format!("{forgery:?} to be refused"), || async {
        let proposed = plan.lock().unwrap().proposed.clone();
        let refused = |validator: &usize| {
            let log = network.log(&format!("val-{validator}-app"));
            let refusals: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("proposal rejected") && line.contains(reason))
                .collect();
            proposed.iter().any(|forged| {
                let height = format!("height={} ", forged.height);
                forged.forgery == forgery && refusals.iter().any(|line| line.contains(&height))
            })
        };
        HONEST.iter().all(refused).then_some(())
    })
    .await;
}

async fn the_next_round_decides(network: &Network, proposed: &[Proposed]) {
    for forged in proposed {
        network.reach(0, forged.height + 1).await;
        let signed = network.commit(0, forged.height).await;
        let round = signed["commit"]["round"].as_u64().unwrap();
        assert!(round > 0, "{forged:?} was decided in round {round}");
        let decided = signed["header"]["data_hash"].as_str().unwrap();
        let data_hash = forged.data_hash.to_string();
        assert_ne!(decided.to_lowercase(), data_hash, "{forged:?}");
    }
    for validator in HONEST {
        let url = format!("{}/metrics", network.info.validators[validator].http);
        let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
        let count = metrics
            .lines()
            .find_map(|line| line.strip_prefix("app_rejected_proposals_total "));
        let count: usize = count.unwrap().parse().unwrap();
        assert!(
            (FORGERIES.len()..=proposed.len()).contains(&count),
            "{count} of {}",
            proposed.len()
        );
    }
}

async fn recovers(network: &mut Network, names: &[&str]) {
    for name in names {
        network.devnet.kill(name).await.unwrap();
    }
    let others = network.reach(1, 1).await;
    network.reach(1, others + 2).await;
    network.devnet.launch(names[0]).await.unwrap();
    network.reach(0, others + 3).await;
}

#[track_caller]
fn follows_the_grammar(proxy: &Proxy, starts: usize) {
    let sessions = proxy.sessions();
    assert_eq!(sessions.len(), starts);
    grammar::check(&sessions).unwrap();
    let begins = |session: &Vec<Recorded>| session[1].call == Call::InitChain { initial: 1 };
    let clean: Vec<bool> = sessions.iter().map(begins).collect();
    assert_eq!(clean.iter().filter(|clean| **clean).count(), 1);
    assert!(clean[0], "only the first start is a clean one");
    assert_eq!(proxy.strays(), Vec::<&str>::new());
}
