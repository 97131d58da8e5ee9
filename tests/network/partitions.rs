//! Four validators whose links break, slow down and heal, and whose processes die in any order: no
//! fork, nothing acknowledged is lost, and the chain goes on as soon as three can talk.
//! `docs/faults.md` states the bounds; every wait here ends after [`PATIENCE`](crate::support).

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use counterpoint::devnet::{Detours, setup::Layout};
use counterpoint_core::{
    action::{Action, Transfer},
    key::SecretKey,
    primitive::{Address, Amount, Hash, Height, Nonce},
    transaction::{MAX_ACTIONS, SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::{
    files::read_key,
    sequencer::{Client, verify_inclusion},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    links::{Link, Links},
    support::{Network, wait_for},
};

/// Steps of a storm unless `COUNTERPOINT_STORM_STEPS` says otherwise.
const STORM_STEPS: u64 = 3;
/// How long a halted chain is watched.
const HALT: Duration = Duration::from_secs(4);
/// What a slow link carries, and transactions of 10 kB that take it a second for each time they are
/// sent: gossip and block.
const SLOW: Link = Link::Slow {
    bytes_per_second: 64 << 10,
};
const SLOW_TRANSACTIONS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_disturbed_network_never_forks_loses_or_stays_down() {
    let directory = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(directory.path()).unwrap();
    let links = Links::start(4, &dir).await;
    let detours = Detours {
        peers: links.addresses(),
        ..Detours::default()
    };
    let mut network = Network::start_in(directory, 4, 0, |options| options.detours = detours).await;
    let composer = read_key(&Layout { dir }.composer_key()).unwrap();
    let mut payers = [
        Payer::new(&network, network.faucet(), 0),
        Payer::new(&network, composer, 3),
    ];
    one_is_cut_off(&network, &links, &mut payers).await;
    halves_stop(&network, &links, &mut payers).await;
    links_are_slow(&network, &links, &mut payers[0]).await;
    parts_return_in_any_order(&mut network).await;
    a_stuck_cometbft_is_ended(&mut network).await;
    storm(&mut network, &links, &mut payers).await;
    network.agree().await;
    network.stop().await;
}

/// Sends transactions from one account to one validator.
struct Payer {
    client: Client,
    key: SecretKey,
    next: u64,
    /// What is not known to be in a block yet.
    open: Vec<SignedTransaction>,
}

impl Payer {
    fn new(network: &Network, key: SecretKey, validator: usize) -> Self {
        Self {
            client: network.sequencer(validator),
            key,
            next: 0,
            open: Vec::new(),
        }
    }

    /// Has a transaction of so many transfers acknowledged.
    async fn pay(&mut self, network: &Network, transfers: usize) {
        let height = self.client.info().await.unwrap().height;
        let tx = self.sign(network, height, transfers);
        let answer = self.client.submit(tx.as_bytes().clone()).await.unwrap();
        assert_eq!(answer.code, 0, "{}", answer.log);
    }

    fn sign(&mut self, network: &Network, height: u64, transfers: usize) -> SignedTransaction {
        let (to, amount) = (Address::new([0x77; 20]), Amount::new(1));
        let transfer = Action::Transfer(Transfer { to, amount });
        let body = TransactionBody {
            chain_id: network.info.chain_id.clone(),
            signer: self.key.public_key(),
            nonce: Nonce::new(self.next),
            tip_per_byte: 0,
            max_fee: Amount::new(u128::MAX),
            valid_until: Height::new(height + 500),
            actions: vec![transfer; transfers],
        };
        let tx = SignedTransaction::sign(body, &self.key).unwrap();
        self.next += 1;
        self.open.push(tx.clone());
        tx
    }

    /// Whether a validator has the last transaction in a block.
    async fn last_is_included(&self, client: &Client) -> bool {
        let hash = self.open.last().unwrap().hash();
        matches!(client.transaction(&hash).await, Ok(Status::Included(_)))
    }

    /// Waits until all that was sent is in blocks, without sending anything again.
    async fn all_included(&mut self, network: &Network) {
        let (trust, client) = (network.trust(), network.sequencer(1));
        for tx in self.open.drain(..) {
            wait_for("an acknowledged transaction's block", || async {
                let Ok(Status::Included(included)) = client.transaction(&tx.hash()).await else {
                    return None;
                };
                verify_inclusion(&mut trust.clone(), &tx.hash(), &included).unwrap();
                Some(())
            })
            .await;
        }
    }

    /// As composers do: sends the same bytes again, to any validator, until they are in a block.
    async fn insist(&mut self, network: &Network) {
        let anyone: Vec<Client> = (0..4).map(|at| network.sequencer(at)).collect();
        for tx in &self.open {
            wait_for("a transaction that is sent again and again", || async {
                for client in &anyone {
                    if let Ok(Status::Included(_)) = client.transaction(&tx.hash()).await {
                        return Some(());
                    }
                    let _ = client.submit(tx.as_bytes().clone()).await;
                }
                None
            })
            .await;
        }
        self.all_included(network).await;
    }
}

/// Says how long something took: what the bounds of `docs/faults.md` come from.
async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    eprintln!("{what} after {:.1?}", start.elapsed());
    done
}

/// Three go on without the fourth, which then catches up; what it acknowledged is not lost.
async fn one_is_cut_off(network: &Network, links: &Links, payers: &mut [Payer; 2]) {
    links.part(&[3], Link::Cut);
    for payer in &mut *payers {
        payer.pay(network, 1).await;
    }
    payers[0].all_included(network).await;
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 5).await;
    assert!(network.height(3).await.unwrap() < tip + 3);
    assert!(!payers[1].last_is_included(&network.sequencer(0)).await);
    links.set_all(Link::Open);
    timed("one that was cut off is back", async {
        network.reach(3, tip + 5).await;
        payers[1].all_included(network).await;
    })
    .await;
}

/// Neither half decides anything; both go on when they meet again.
async fn halves_stop(network: &Network, links: &Links, payers: &mut [Payer; 2]) {
    links.part(&[0, 1], Link::Held);
    let mut tips = Vec::new();
    for validator in 0..4 {
        tips.push(network.reach(validator, 1).await);
    }
    // What all votes were on their way for may still be decided, and read one height later.
    let limit = tips.iter().max().unwrap() + 2;
    let end = Instant::now() + HALT;
    while Instant::now() < end {
        for payer in &mut *payers {
            payer.pay(network, 1).await;
        }
        for validator in 0..4 {
            let height = network.height(validator).await.unwrap();
            assert!(height <= limit, "half of the validators decided {height}");
        }
        tokio::time::sleep(HALT / 10).await;
    }
    for (payer, side) in payers.iter().zip([0, 3]) {
        let client = network.sequencer(side);
        assert!(!payer.last_is_included(&client).await);
    }
    links.set_all(Link::Open);
    timed("two halves go on", async {
        network.reach(0, limit + 3).await;
        for payer in payers {
            payer.all_included(network).await;
        }
    })
    .await;
}

/// Blocks that hardly fit into a round get through: rounds grow.
async fn links_are_slow(network: &Network, links: &Links, payer: &mut Payer) {
    links.set_all(SLOW);
    for _ in 0..SLOW_TRANSACTIONS {
        payer.pay(network, MAX_ACTIONS).await;
    }
    timed("slow links carry a block", payer.all_included(network)).await;
    let tip = network.reach(0, 1).await;
    timed("slow links carry three heights", network.reach(0, tip + 3)).await;
    links.set_all(Link::Open);
}

async fn parts_return_in_any_order(network: &mut Network) {
    for order in [
        ["val-1-cometbft", "val-1-app"],
        ["val-1-app", "val-1-cometbft"],
    ] {
        network.devnet.kill(order[0]).await.unwrap();
        network.devnet.kill(order[1]).await.unwrap();
        let tip = network.reach(0, 1).await;
        network.devnet.spawn(order[0]).unwrap();
        network.reach(0, tip + 3).await;
        network.devnet.spawn(order[1]).unwrap();
        timed("a validator is back", network.reach(1, tip + 4)).await;
    }
}

/// CometBFT may ignore SIGTERM when its app is gone; a stopped process surely does.
async fn a_stuck_cometbft_is_ended(network: &mut Network) {
    let stuck = pid(network, "val-2-cometbft");
    kill(Pid::from_raw(stuck), Signal::SIGSTOP).unwrap();
    network.devnet.kill("val-2-app").await.unwrap();
    let tip = network.reach(0, 1).await;
    network.reach(0, tip + 2).await;
    let launched = network.devnet.launch("val-2-app");
    timed("a stuck CometBFT is replaced", launched)
        .await
        .unwrap();
    assert_ne!(pid(network, "val-2-cometbft"), stuck);
    assert!(!Path::new("/proc").join(stuck.to_string()).exists());
    network.reach(2, tip + 3).await;
}

fn pid(network: &mut Network, name: &str) -> i32 {
    let status = network.devnet.status();
    let process = status.iter().find(|process| process.name == name).unwrap();
    i32::try_from(process.pid.unwrap()).unwrap()
}

/// Random processes die and random links break, one or two validators at a time.
async fn storm(network: &mut Network, links: &Links, payers: &mut [Payer; 2]) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
    let steps = number("COUNTERPOINT_STORM_STEPS").unwrap_or(STORM_STEPS);
    let seed = number("COUNTERPOINT_STORM_SEED").unwrap_or(1);
    for step in 0..steps {
        let dice = Hash::digest(&[b"storm", &seed.to_le_bytes(), &step.to_le_bytes()]);
        let dice = dice.as_bytes();
        let hit = [usize::from(dice[0] % 4), usize::from(dice[1] % 4)];
        for (validator, die) in hit.into_iter().zip(&dice[2..]) {
            let disturbance = DISTURBANCES[usize::from(*die) % DISTURBANCES.len()];
            eprintln!("storm seed {seed} step {step}: {disturbance:?} at validator {validator}");
            disturbance.strike(network, links, validator).await;
        }
        for payer in &mut *payers {
            // Perhaps nobody is there to take it in; it is sent again below.
            if let Ok(info) = payer.client.info().await {
                let tx = payer.sign(network, info.height, 1);
                let _ = payer.client.submit(tx.as_bytes().clone()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::from(dice[4]) * 4)).await;
        links.set_all(Link::Open);
        for validator in hit {
            let name = format!("val-{validator}-app");
            network.devnet.launch(&name).await.unwrap();
        }
        timed("the storm has passed", async {
            for payer in &mut *payers {
                payer.insist(network).await;
            }
            let tip = network.reach(0, 1).await;
            for validator in 0..4 {
                network.reach(validator, tip + 1).await;
            }
        })
        .await;
    }
}

/// What a storm does to a validator.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    KillApp,
    KillCometbft,
    KillBoth,
    HoldLinks,
    CutLinks,
}

const DISTURBANCES: [Disturbance; 5] = [
    Disturbance::KillApp,
    Disturbance::KillCometbft,
    Disturbance::KillBoth,
    Disturbance::HoldLinks,
    Disturbance::CutLinks,
];

impl Disturbance {
    async fn strike(self, network: &mut Network, links: &Links, validator: usize) {
        let parts: &[&str] = match self {
            Self::KillApp => &["app"],
            Self::KillCometbft => &["cometbft"],
            Self::KillBoth => &["cometbft", "app"],
            Self::HoldLinks => return links.part(&[validator], Link::Held),
            Self::CutLinks => return links.part(&[validator], Link::Cut),
        };
        for part in parts {
            let name = format!("val-{validator}-{part}");
            network.devnet.kill(&name).await.unwrap();
        }
    }
}
