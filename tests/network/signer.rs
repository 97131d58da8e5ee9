//! A validator whose key is with a real remote signer, tmkms, set up in the words of
//! docs/remote-signer.md; and what keeps two signers of one key from signing twice.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use bytes::BytesMut;
use counterpoint::devnet::{
    ports,
    process::{Process, Spec},
    tools::TMKMS,
};
use counterpoint_abci::frame;
use counterpoint_core::{
    action::{Action, ConsensusChange},
    primitive::Height,
};
use serde_json::json;
use tendermint_proto::{
    google::protobuf::Timestamp,
    v0_38::{
        privval::{Message, SignVoteRequest, message::Sum},
        types::{BlockId, PartSetHeader, SignedMsgType, Vote},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::support::{Network, decide, say, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");
const GUIDE: &str = include_str!("../../docs/remote-signer.md");
/// Where the guide has the signer's files, the node and the chain.
const GUIDE_HOME: &str = "/var/lib/tmkms";
const GUIDE_NODE: &str = "10.0.0.5:26659";
const GUIDE_CHAIN: &str = "my-chain";
const CHAIN: &str = "counterpoint-devnet";
/// What it logs for each of its signatures.
const SIGNED: &str = "] signed ";
/// What tmkms answers instead of a second signature.
const DOUBLE_SIGN: i32 = 2;

/// The block of the guide that is marked by `mark`.
fn block(mark: &str) -> &'static str {
    let (_, rest) = GUIDE.split_once(&format!("```{mark}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// One tmkms and its files.
struct Signer {
    process: Process,
}

impl Signer {
    /// A signer that serves those who listen at `nodes`. Its key and state are there already.
    fn new(home: &Path, name: &str, nodes: &[&str]) -> Self {
        let guide = block("toml tmkms").replace(GUIDE_HOME, home.to_str().unwrap());
        let mut config: toml::Table = guide.replace(GUIDE_CHAIN, CHAIN).parse().unwrap();
        let validators = config["validator"].as_array_mut().unwrap();
        let validator = validators.remove(0);
        for node in nodes {
            let mut validator = validator.clone();
            validator["addr"] = (*node).into();
            validators.push(validator);
        }
        let file = home.join(format!("{name}.toml"));
        fs::write(&file, config.to_string()).unwrap();
        let start = block("sh start")
            .trim()
            .replace("tmkms.toml", &format!("{name}.toml"));
        let start = start.replace(GUIDE_HOME, home.to_str().unwrap());
        let mut args = start.split(' ').map(str::to_owned);
        assert_eq!(args.next().unwrap(), "tmkms");
        let spec = Spec {
            name: name.into(),
            program: TMKMS.install(&say).unwrap(),
            args: args.collect(),
            log: home.join(format!("{name}.log")),
        };
        Self {
            process: Process::new(spec, Path::new(PROGRAM)),
        }
    }

    fn start(mut self) -> Self {
        self.process.start().unwrap();
        self
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.process.log()).unwrap()).into_owned()
    }

    async fn says(&self, words: &str) {
        wait_for(&format!("the signer to say: {words}"), || async {
            self.log().contains(words).then_some(())
        })
        .await;
    }

    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

/// Runs commands of the guide; `node` is a validator's home.
fn run(commands: &str, home: &Path, node: &Path) {
    let programs = tempfile::tempdir().unwrap();
    symlink(PROGRAM, programs.path().join("counterpoint")).unwrap();
    symlink(TMKMS.install(&say).unwrap(), programs.path().join("tmkms")).unwrap();
    symlink(node, programs.path().join("node")).unwrap();
    let output = Command::new("sh")
        .args([
            "-euc",
            &commands.replace(GUIDE_HOME, home.to_str().unwrap()),
        ])
        .env(
            "PATH",
            format!("{}:/usr/bin:/bin", programs.path().display()),
        )
        .current_dir(programs.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// How often a validator's CometBFT has looked for its signer in vain.
fn lookouts(network: &Network) -> usize {
    let log = network.log("val-0-cometbft");
    log.matches("SignerListener: Blocking for connection")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_waits_for_its_signer_and_goes_on() {
    // Building it may take minutes, which no deadline below allows for.
    TMKMS.install(&say).unwrap();
    let mut network = Network::start(1, 0).await;
    network.reach(0, 3).await;
    network.devnet.stop().await.unwrap();
    let (directory, node) = (
        tempfile::tempdir().unwrap(),
        network.layout().cometbft_home("val-0"),
    );
    let (home, address) = (
        directory.path(),
        ports::free().unwrap().local_addr().unwrap().to_string(),
    );
    run(block("sh move"), home, &node);
    let path = node.join("config/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let line = block("toml node").replace(GUIDE_NODE, &address);
    fs::write(&path, line + &config).unwrap();

    // No signer, no node.
    network.devnet.launch("val-0-cometbft").await.unwrap();
    network.ended("val-0-cometbft").await;
    let log = network.log("val-0-cometbft");
    assert!(log.contains("can't get pubkey"), "{log}");

    let at = format!("tcp://{address}");
    let mut signer = Signer::new(home, "first", &[&at]).start();
    network.devnet.launch("val-0-cometbft").await.unwrap();
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 3).await;

    // Nothing is signed between two looks for a signer, so the chain stands still.
    signer.kill().await;
    let before = lookouts(&network);
    wait_for("cometbft to miss its signer", || async {
        (lookouts(&network) > before).then_some(())
    })
    .await;
    let height = network.height(0).await.unwrap();
    let before = lookouts(&network);
    wait_for("cometbft to miss its signer for longer", || async {
        (lookouts(&network) > before + 1).then_some(())
    })
    .await;
    assert_eq!(network.height(0).await.unwrap(), height);
    // It only waits: whoever restarts it for that helps nobody.
    network.cometbft(0, "health").await;

    let mut signer = signer.start();
    network.reach(0, height + 3).await;

    // A second one waits at the door until the first is gone.
    let second = Signer::new(home, "second", &[&at]).start();
    second.says("ERROR").await;
    assert!(!second.log().contains(SIGNED), "{}", second.log());
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 3).await;
    signer.kill().await;
    second.says(SIGNED).await;
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 3).await;

    // What this release cannot do: its answers leave the signatures of vote extensions out.
    let change = ConsensusChange {
        max_block_bytes: None,
        vote_extensions_height: Some(Height::new(tip + 60)),
    };
    decide(&network, vec![Action::ConsensusChange(change)]).await;
    wait_for("cometbft to miss a signature", || async {
        let log = network.log("val-0-cometbft");
        log.contains("extensions must be present IFF vote is a non-nil Precommit")
            .then_some(())
    })
    .await;
    network.stop().await;
}

/// What stands for CometBFT, and asks for signatures of which CometBFT would not.
struct Node {
    listener: UnixListener,
    address: String,
}

impl Node {
    fn listen(path: &Path) -> Self {
        Self {
            listener: UnixListener::bind(path).unwrap(),
            address: format!("unix://{}", path.display()),
        }
    }

    /// The signer that connects next.
    async fn signer(&self) -> Connection {
        Connection(self.listener.accept().await.unwrap().0)
    }
}

struct Connection(UnixStream);

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Signed,
    Refused,
    HungUp,
}

impl Connection {
    /// Asks for a prevote for a block.
    async fn prevote(&mut self, height: i64, block: u8) -> Answer {
        let vote = Vote {
            r#type: SignedMsgType::Prevote.into(),
            height,
            block_id: Some(BlockId {
                hash: vec![block; 32],
                part_set_header: Some(PartSetHeader {
                    total: 1,
                    hash: vec![block; 32],
                }),
            }),
            timestamp: Some(Timestamp::default()),
            validator_address: vec![1; 20],
            ..Vote::default()
        };
        let request = SignVoteRequest {
            vote: Some(vote),
            chain_id: CHAIN.into(),
        };
        let (mut output, mut input) = (BytesMut::new(), BytesMut::new());
        let sum = Some(Sum::SignVoteRequest(request));
        frame::encode(&Message { sum }, &mut output);
        self.0.write_all(&output).await.unwrap();
        loop {
            if self.0.read_buf(&mut input).await.unwrap_or(0) == 0 {
                return Answer::HungUp;
            }
            let Some(message) = frame::decode::<Message>(&mut input).unwrap() else {
                continue;
            };
            let Some(Sum::SignedVoteResponse(answer)) = message.sum else {
                panic!("{message:?}");
            };
            return match (answer.vote, answer.error) {
                (Some(vote), None) if vote.signature.len() == 64 => Answer::Signed,
                (None, Some(error)) if error.code == DOUBLE_SIGN => Answer::Refused,
                answer => panic!("{answer:?}"),
            };
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_memory_signs_once_and_two_sign_twice() {
    TMKMS.install(&say).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    run(
        "tmkms softsign keygen /var/lib/tmkms/consensus.key",
        home,
        home,
    );
    run(
        "tmkms softsign keygen /var/lib/tmkms/identity.key",
        home,
        home,
    );
    let [one, other] = ["one", "other"].map(|name| Node::listen(&home.join(name)));
    let mut signer = Signer::new(home, "signer", &[&one.address, &other.address]).start();
    let (mut first, mut second) = (one.signer().await, other.signer().await);
    assert_eq!(first.prevote(5, 1).await, Answer::Signed);
    assert_eq!(first.prevote(5, 1).await, Answer::Signed);
    assert_eq!(first.prevote(5, 2).await, Answer::Refused);
    // The other node has the same memory behind it.
    assert_eq!(second.prevote(5, 2).await, Answer::Refused);
    assert_eq!(second.prevote(4, 1).await, Answer::HungUp);

    // A crash forgets nothing.
    signer.kill().await;
    let mut signer = signer.start();
    let mut first = one.signer().await;
    assert_eq!(first.prevote(5, 2).await, Answer::Refused);
    assert_eq!(first.prevote(6, 1).await, Answer::Signed);
    signer.kill().await;

    // What CometBFT has signed is not signed again, not even the same.
    fs::remove_file(home.join("state.json")).unwrap();
    fs::create_dir(home.join("data")).unwrap();
    let signed = json!({ "height": "7", "round": 0, "step": 2 });
    let state = home.join("data/priv_validator_state.json");
    fs::write(state, signed.to_string()).unwrap();
    run(
        "counterpoint signing-state node/data --tmkms /var/lib/tmkms/state.json",
        home,
        home,
    );
    let mut signer = signer.start();
    let mut first = one.signer().await;
    assert_eq!(first.prevote(7, 1).await, Answer::HungUp);
    let mut first = one.signer().await;
    assert_eq!(first.prevote(8, 1).await, Answer::Signed);

    // What nobody may do: one that waits beside it has read the file too early …
    let beside = Node::listen(&home.join("beside"));
    let mut waits = Signer::new(home, "waits", &[&beside.address]).start();
    let mut asked = beside.signer().await;
    assert_eq!(first.prevote(9, 1).await, Answer::Signed);
    assert_eq!(asked.prevote(9, 2).await, Answer::Signed);
    waits.kill().await;

    // … and another memory knows nothing at all.
    let copy = tempfile::tempdir().unwrap();
    for key in ["consensus.key", "identity.key"] {
        fs::copy(home.join(key), copy.path().join(key)).unwrap();
    }
    let third = Node::listen(&copy.path().join("third"));
    let mut twin = Signer::new(copy.path(), "twin", &[&third.address]).start();
    assert_eq!(third.signer().await.prevote(8, 2).await, Answer::Signed);
    twin.kill().await;
    signer.kill().await;
}
