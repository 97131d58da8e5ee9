//! Two releases on one network: the older one stops where its rules end, and nothing is decided
//! without it until it was replaced. Whoever replays the chain later gets the same states.

use std::{fs, path::Path};

use counterpoint::devnet::setup::SNAPSHOT_INTERVAL;
use counterpoint_core::{
    action::{Action, ScheduleUpgrade, Transfer},
    fees::FeeParams,
    primitive::{Address, Amount, Height},
};

use crate::support::{Network, decide, nodes_agree, wait_for};

/// A release that follows the rules up to version 2, under which an action costs twice as much.
const LATER: &str = env!("CARGO_BIN_EXE_later-under-test");
/// The release that all begin with.
const FIRST: &str = env!("CARGO_BIN_EXE_counterpoint-under-test");
/// What it says when it is too late for it.
const IN_FORCE: &str =
    "the chain follows the rules of app version 2, and this software knows them up to 1";
/// Those who are ready in time are too few to decide anything.
const READY: [usize; 2] = [0, 1];
const LATE: [usize; 2] = [2, 3];
/// One that comes back with nothing but its keys, and one that falls back to the older release.
const EMPTIED: usize = 1;
const DOWNGRADED: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_waits_for_those_who_are_late() {
    let mut network = Network::start(4, 0).await;
    let before = fee(&network).await;
    for validator in READY {
        start_with(&mut network, validator, LATER).await;
        let tip = network.reach(LATE[0], 1).await;
        network.reach(validator, tip + 1).await;
    }
    let first = network.reach(0, 1).await + 12;
    let name = "dearer actions".to_owned();
    let upgrade = ScheduleUpgrade::new(Height::new(first), name, 2).unwrap();
    let decided = decide(&network, vec![Action::ScheduleUpgrade(upgrade)]).await;
    assert!(decided + 2 < first, "decided at {decided} for {first}");

    for validator in LATE {
        stops(&mut network, validator, first).await;
        // Before its rules end it has done its part.
        assert_eq!(committed(&network, validator), first - 1);
        start(&mut network, validator).await;
        stops(&mut network, validator, first).await;
    }
    for validator in READY {
        network.reach(validator, first - 1).await;
    }
    assert_eq!(network.height(READY[0]).await, Some(first - 1), "it waits");

    for validator in LATE {
        start_with(&mut network, validator, LATER).await;
    }
    network.reach(0, first + 3).await;
    for (height, version) in [(first - 1, "1"), (first, "1"), (first + 1, "2")] {
        let header = network.commit(0, height).await["header"].take();
        assert_eq!(header["version"]["app"], version, "at {height}");
    }
    let action_fee = u128::from(FeeParams::default().action_fee);
    assert_eq!(fee(&network).await, before + action_fee);

    empty(&mut network, EMPTIED).await;
    start(&mut network, EMPTIED).await;
    network.reach(EMPTIED, first + 3).await;
    let log = network.log(&format!("val-{EMPTIED}-app"));
    assert_eq!(log.matches("chain initialised").count(), 2);

    let tip = network.reach(0, 1).await;
    start_with(&mut network, DOWNGRADED, FIRST).await;
    let app = format!("val-{DOWNGRADED}-app");
    cannot_follow(&mut network, &app).await;
    network.reach(0, tip + 2).await;
    start_with(&mut network, DOWNGRADED, LATER).await;
    network.agree().await;
    let next = (first / SNAPSHOT_INTERVAL + 1) * SNAPSHOT_INTERVAL;
    network.reach(0, next + 5).await;
    joins_with_the_older(&mut network, first).await;
    nodes_agree(&network).await;
    network.stop().await;
}

/// A node of the older release takes a snapshot of a state that it cannot follow, and says so; the
/// later one begins the state sync again.
async fn joins_with_the_older(network: &mut Network, first: u64) {
    assert!(network.devnet.join(&|_| {}).await.is_err());
    network.info = network.devnet.info();
    let joined = network.info.validators.len() - 1;
    let app = format!("val-{joined}-app");
    cannot_follow(network, &app).await;
    start(network, joined).await;
    cannot_follow(network, &app).await;
    start_with(network, joined, LATER).await;
    wait_for("a block after the snapshot", || async {
        let info = network.sequencer(joined).info().await.ok()?;
        let blocks = info.lowest_height > first && info.height >= info.lowest_height;
        blocks.then_some(())
    })
    .await;
}

/// What a transfer costs.
async fn fee(network: &Network) -> u128 {
    let (client, payer) = (network.sequencer(0), network.faucet().public_key());
    let balance = || async {
        let account = client.account(&payer.address()).await.unwrap();
        account.balance.parse::<u128>().unwrap()
    };
    let before = balance().await;
    let (to, amount) = (Address::new([7; 20]), Amount::new(5));
    let transfer = Action::Transfer(Transfer { to, amount });
    decide(network, vec![transfer]).await;
    before - balance().await - amount.get()
}

async fn start(network: &mut Network, validator: usize) {
    let app = format!("val-{validator}-app");
    network.devnet.launch(&app).await.unwrap();
}

async fn start_with(network: &mut Network, validator: usize, program: &str) {
    let app = format!("val-{validator}-app");
    network.devnet.install(&app, Path::new(program)).unwrap();
    start(network, validator).await;
}

/// The application ends by itself and says what is missing.
async fn stops(network: &mut Network, validator: usize, first: u64) {
    let app = format!("val-{validator}-app");
    network.ended(&app).await;
    let log = network.log(&app);
    let last = log.lines().last().unwrap();
    let says = format!(
        "from height {first} on the chain follows the rules of app version 2, and this software \
         knows them up to 1: install a release that knows them, and start it on the same data"
    );
    assert!(last.contains("dearer actions"), "{log}");
    assert!(last.contains(&says), "{log}");
}

/// The application ends by itself, since its chain is beyond it.
async fn cannot_follow(network: &mut Network, app: &str) {
    network.ended(app).await;
    let log = network.log(app);
    assert!(log.lines().last().unwrap().contains(IN_FORCE), "{log}");
}

/// The last height that an application says to have committed.
fn committed(network: &Network, validator: usize) -> u64 {
    let log = network.log(&format!("val-{validator}-app"));
    let last = log.lines().rfind(|line| line.contains("committed"));
    let (_, rest) = last.unwrap().split_once("height=").unwrap();
    let (height, _) = rest.split_once(' ').unwrap();
    height.parse().unwrap()
}

/// Removes all that a node has but its keys and what it has signed.
async fn empty(network: &mut Network, validator: usize) {
    let name = format!("val-{validator}");
    for part in ["cometbft", "app"] {
        let part = format!("{name}-{part}");
        network.devnet.kill(&part).await.unwrap();
    }
    let layout = network.layout();
    fs::remove_dir_all(layout.dir.join(&name).join("app")).unwrap();
    let data = layout.cometbft_home(&name).join("data");
    let signed = data.join("priv_validator_state.json");
    let kept = fs::read(&signed).unwrap();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(signed, kept).unwrap();
}
