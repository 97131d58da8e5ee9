use std::collections::BTreeSet;

use counterpoint_core::{
    light::TrustedState,
    primitive::Amount,
    registry::{RollupConfig, RollupStatus},
    state::PendingConfig,
};
use counterpoint_service::sequencer::{
    TrustRoot,
    testing::{four, genesis},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    testing::{Fault, Node, Ticking, World, payer},
    *,
};
use crate::{
    admission::Admission,
    chain::Watcher,
    queue::{
        Stage,
        testing::{checked, raw},
    },
};

/// How long anything may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// What batches may cost.
const MAX_PRICE: u64 = 1_000;

/// A composer's disk, and the chain that it writes to.
struct Fixture {
    world: World,
    nodes: Vec<Node>,
    urls: Vec<String>,
    directory: TempDir,
    _ticking: Ticking,
    /// What was acknowledged.
    sent: Vec<Bytes>,
}

/// A composer between two crashes.
struct Running {
    queue: Arc<Queue>,
    chain: Chain,
    readiness: Readiness,
    client: Client,
    task: JoinHandle<eyre::Result<()>>,
}

impl Running {
    /// As by kill −9, between whatever it does.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn unready(&self, condition: &str) -> String {
        until(|| self.readiness.reasons().get(condition).cloned()).await
    }
}

async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("in time")
}

fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

fn config_of(running: &Running, rollup: RollupId) -> Arc<RollupConfig> {
    Arc::clone(running.chain.view().rollups[&rollup].config())
}

fn beta() -> RollupId {
    RollupId::from_name("beta")
}

impl Fixture {
    /// Nodes with these faults, the first one asked first.
    async fn new(faults: &[Fault]) -> Self {
        let world = World::new(&["alpha", "beta"]);
        let mut nodes = Vec::new();
        for fault in faults {
            nodes.push(Node::start(&world, *fault).await);
        }
        Self {
            urls: nodes.iter().map(|node| node.url.clone()).collect(),
            _ticking: world.run(),
            directory: tempfile::tempdir().unwrap(),
            sent: Vec::new(),
            nodes,
            world,
        }
    }

    async fn start(&self) -> Running {
        let queue = Arc::new(Queue::open(self.directory.path()).unwrap());
        let client = Client::new(&self.urls).unwrap();
        let root = TrustRoot::unchecked(genesis(&four(1)), None);
        let trust = Trust::open(self.directory.path(), &root, &client)
            .await
            .unwrap();
        let names: BTreeSet<&str> = ["alpha", "beta"].into();
        let address = payer().public_key().address();
        let state: &TrustedState = trust.state();
        let watcher = Watcher::start(client.clone(), state, address, &names)
            .await
            .unwrap();
        let (chain, watching) = watcher.run();
        let readiness = Readiness::of(&[]);
        let submitter = Submitter::new(
            Arc::clone(&queue),
            client.clone(),
            chain.clone(),
            trust,
            payer(),
            MAX_PRICE,
            readiness.clone(),
        );
        let task = tokio::spawn(async move {
            tokio::try_join!(submitter.run(), watching)?;
            Ok(())
        });
        Running {
            queue,
            chain,
            readiness,
            client,
            task,
        }
    }

    /// Acknowledges the next transaction of a sender.
    async fn accept(&mut self, running: &Running, rollup: RollupId, signer: u8, nonce: u64) {
        let raw = raw(signer, nonce, 10);
        self.sent.push(raw.clone());
        running.queue.put(checked(rollup, raw), None).await.unwrap();
    }

    fn ordered(&self) -> Vec<Bytes> {
        let ledger = self.world.ledger();
        [ledger.ordered(alpha()), ledger.ordered(beta())].concat()
    }

    /// Waits until all that was acknowledged is ordered and known to be, and nothing twice.
    async fn all_ordered_once(&self, running: &Running) {
        until(|| {
            let placed = [alpha(), beta()].map(|id| running.queue.sequenced(id).len());
            (placed.iter().sum::<usize>() == self.sent.len()).then_some(())
        })
        .await;
        let (mut ordered, mut sent) = (self.ordered(), self.sent.clone());
        ordered.sort();
        sent.sort();
        assert!(
            ordered == sent,
            "{} ordered of {}",
            ordered.len(),
            sent.len()
        );
    }

    /// Versions of batches that reached the chain: nonce and hash.
    fn handed_in(&self) -> Vec<(u64, Hash)> {
        let ledger = self.world.ledger();
        let version = |tx: &SignedTransaction| (tx.body().nonce.get(), tx.hash());
        ledger.handed_in.iter().map(version).collect()
    }

    async fn versions(&self, count: usize) -> Vec<(u64, Hash)> {
        until(|| Some(self.handed_in()).filter(|versions| versions.len() >= count)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rollups_and_senders_are_ordered_once() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    let running = fixture.start().await;
    for nonce in 0..5 {
        for signer in 1..=4 {
            let rollup = if signer % 2 == 0 { alpha() } else { beta() };
            fixture.accept(&running, rollup, signer, nonce).await;
        }
    }
    fixture.all_ordered_once(&running).await;
    for signer in 1..=4 {
        let of = |nonce: u64| raw(signer, nonce, 10);
        let ordered = fixture.ordered();
        let places = (0..5).map(|nonce| ordered.iter().position(|item| *item == of(nonce)));
        assert!(
            places.is_sorted(),
            "a sender's transactions keep their order"
        );
    }
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_on_disk_before_it_is_sent_and_sent_again_as_it_is() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.world.ledger().jammed = true;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    let first = fixture.versions(1).await;
    running.kill().await;
    let queue = Queue::open(fixture.directory.path()).unwrap();
    let open = queue.open_batches();
    assert_eq!((open[0].nonce, open[0].hashes[0]), first[0]);
    drop(queue);
    // The mempool has lost it, and so has the composer's memory.
    fixture.world.ledger().forget();
    let running = fixture.start().await;
    assert_eq!(fixture.versions(2).await, [first[0], first[0]]);
    fixture.world.ledger().forget();
    assert_eq!(fixture.versions(3).await[2], first[0]);
    fixture.world.ledger().jammed = false;
    fixture.all_ordered_once(&running).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_unused_is_dissolved_and_ordered_by_another_batch() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.world.ledger().jammed = true;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    let first = fixture.versions(1).await[0];
    fixture.accept(&running, alpha(), 2, 0).await;
    let versions = until(|| {
        let versions = fixture.handed_in();
        let again = |(nonce, hash): &(u64, Hash)| *nonce == first.0 && *hash != first.1;
        versions.iter().any(again).then_some(versions)
    })
    .await;
    assert!(versions.len() > 1);
    let tip = fixture.world.ledger().tip();
    let until = fixture.world.ledger().handed_in[0].body().valid_until;
    assert!(tip > until.get(), "not before the last height has passed");
    fixture.world.ledger().jammed = false;
    fixture.all_ordered_once(&running).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_queued_again() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.world.ledger().failing = true;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    fixture.versions(2).await;
    let reason = running.unready(SEQUENCER).await;
    assert!(reason.contains("failed with code 19"), "{reason}");
    fixture.world.ledger().failing = false;
    fixture.all_ordered_once(&running).await;
    let versions = fixture.handed_in();
    assert!(versions[1].0 > versions[0].0, "the nonce was used");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_makes_the_composer_unready_until_it_is_taken() {
    let mut fixture = Fixture::new(&[Fault::Refuses]).await;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    let reason = running.unready(SEQUENCER).await;
    assert_eq!(reason, "a batch is refused with code 32000: full");
    fixture.nodes[0].turn(Fault::None);
    fixture.all_ordered_once(&running).await;
    until(|| running.readiness.reasons().is_empty().then_some(())).await;
    running.kill().await;
}

/// The node that is asked first is no good; the second one is.
async fn check_failover(fault: Fault) {
    let mut fixture = Fixture::new(&[Fault::None, Fault::None]).await;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    fixture.all_ordered_once(&running).await;
    let fault = match fault {
        Fault::Stale(_) => Fault::Stale(fixture.world.ledger().tip()),
        fault => fault,
    };
    fixture.nodes[0].turn(fault);
    for nonce in 1..4 {
        fixture.accept(&running, alpha(), 1, nonce).await;
        fixture.all_ordered_once(&running).await;
    }
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_unknown_for_ever_is_not_needed() {
    check_failover(Fault::Forgets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forges_inclusion_is_not_believed() {
    check_failover(Fault::Forges).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_keeps_batches_to_itself_is_passed_by() {
    check_failover(Fault::Keeps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_is_passed_by() {
    check_failover(Fault::Stale(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_answers_is_passed_by() {
    check_failover(Fault::Hangs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_down_is_passed_by() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.urls.insert(0, "http://127.0.0.1:1".into());
    let running = fixture.start().await;
    for nonce in 0..4 {
        fixture.accept(&running, alpha(), 1, nonce).await;
        fixture.all_ordered_once(&running).await;
    }
    let status = running.client.status();
    assert!(status[0]["trouble"].is_string(), "{status}");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_node_the_composer_is_unready_and_comes_back() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    let running = fixture.start().await;
    until(|| running.readiness.reasons().is_empty().then_some(())).await;
    fixture.nodes[0].turn(Fault::Hangs);
    let reason = running.unready(SEQUENCER).await;
    assert!(reason.contains("has proven the state"), "{reason}");
    fixture.accept(&running, alpha(), 1, 0).await;
    fixture.nodes[0].turn(Fault::None);
    fixture.all_ordered_once(&running).await;
    until(|| running.readiness.reasons().is_empty().then_some(())).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn if_every_node_denies_a_batch_the_lists_show_it() {
    let mut fixture = Fixture::new(&[Fault::Forgets]).await;
    let running = fixture.start().await;
    for (nonce, rollup) in [(0, alpha()), (1, alpha()), (0, beta())] {
        fixture.accept(&running, rollup, 1, nonce).await;
    }
    fixture.all_ordered_once(&running).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_somebody_else_used_sets_the_items_free() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.world.ledger().jammed = true;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    fixture.accept(&running, beta(), 1, 0).await;
    fixture.versions(1).await;
    fixture.world.ledger().steal_nonce();
    let told = until(|| {
        let reason = running.readiness.reasons().get(SEQUENCER).cloned();
        reason.filter(|reason| reason.contains("no other program may use its key"))
    })
    .await;
    assert!(told.contains("nonce 0"), "{told}");
    fixture.world.ledger().jammed = false;
    fixture.all_ordered_once(&running).await;
    running.kill().await;
}

/// Whatever a composer does when it dies, and whatever a node says, nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_at_any_moment_lose_and_double_nothing() {
    let mut fixture = Fixture::new(&[Fault::None, Fault::None]).await;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % bound
    };
    for nonce in 0..24 {
        let running = fixture.start().await;
        for signer in 1..=3 {
            fixture.accept(&running, alpha(), signer, nonce).await;
        }
        match next(8) {
            0 => fixture.nodes[0].turn(Fault::Forgets),
            1 => fixture.nodes[0].turn(Fault::Keeps),
            2 => fixture.nodes[0].turn(Fault::None),
            3 => fixture.world.ledger().forget(),
            4 => fixture.world.ledger().jammed = true,
            5 => fixture.world.ledger().jammed = false,
            6 => fixture.world.ledger().steal_nonce(),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(next(400))).await;
        running.kill().await;
    }
    fixture.world.ledger().jammed = false;
    let running = fixture.start().await;
    fixture.all_ordered_once(&running).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tips_rise_while_blocks_are_full_and_no_further_than_allowed() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    {
        let mut ledger = fixture.world.ledger();
        (ledger.least_tip, ledger.base_fee) = (3, 20);
    }
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    fixture.all_ordered_once(&running).await;
    let tips = |fixture: &Fixture| -> Vec<u64> {
        let ledger = fixture.world.ledger();
        let tip = |tx: &SignedTransaction| tx.body().tip_per_byte;
        ledger.handed_in.iter().map(tip).collect()
    };
    assert_eq!(tips(&fixture), [0, 1, 2, 4]);
    let nonces = fixture.handed_in();
    assert!(nonces.iter().all(|(nonce, _)| *nonce == nonces[0].0));
    // With room in blocks again, nothing is paid for haste.
    {
        let mut ledger = fixture.world.ledger();
        (ledger.least_tip, ledger.base_fee) = (0, 8);
    }
    fixture.accept(&running, alpha(), 1, 1).await;
    fixture.all_ordered_once(&running).await;
    assert_eq!(tips(&fixture).last(), Some(&0));
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_wait_while_inclusion_is_too_dear() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    fixture.world.ledger().base_fee = MAX_PRICE + 1;
    let running = fixture.start().await;
    fixture.accept(&running, alpha(), 1, 0).await;
    let reason = running.unready(PRICE).await;
    assert!(reason.contains("max_price 1000"), "{reason}");
    assert!(fixture.handed_in().is_empty());
    fixture.world.ledger().base_fee = MAX_PRICE;
    fixture.all_ordered_once(&running).await;
    let (bytes, most) = {
        let ledger = fixture.world.ledger();
        let tx = &ledger.handed_in[0];
        (tx.as_bytes().len() as u128, tx.body().max_fee.get())
    };
    let least = u128::from(MAX_PRICE) * (bytes + 32) + 1_000;
    assert!(most >= least, "it can be paid for");
    assert!(most < 3 * least, "and not much more is risked");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_runs_dry_is_told_of_before_intake_stops() {
    let fixture = Fixture::new(&[Fault::None]).await;
    let running = fixture.start().await;
    let admission = Admission::new(
        config_of(&running, alpha()),
        running.chain.clone(),
        Arc::clone(&running.queue),
        MAX_PRICE,
    );
    admission.check().unwrap();
    fixture.world.ledger().account.balance = Amount::new(50 * 8 * 1_000_000);
    let reason = running.unready(FUNDS).await;
    assert!(reason.contains("send it more"), "{reason}");
    admission.check().unwrap();
    fixture.world.ledger().account.balance = Amount::new(9 * 8 * 1_000_000);
    let refusal = until(|| admission.check().err()).await.into_value();
    assert_eq!(refusal["code"], -32_005, "{refusal}");
    fixture.world.ledger().account.balance = Amount::new(1 << 60);
    until(|| admission.check().ok()).await;
    until(|| running.readiness.reasons().is_empty().then_some(())).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_that_leaves_keeps_nobody_else() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    let running = fixture.start().await;
    let admission = Admission::new(
        config_of(&running, beta()),
        running.chain.clone(),
        Arc::clone(&running.queue),
        MAX_PRICE,
    );
    admission.check().unwrap();
    let from = {
        let mut ledger = fixture.world.ledger();
        let from = Height::new(ledger.tip() + 250);
        let record = ledger.rollups.get_mut(&beta()).unwrap();
        let config = RollupConfig {
            status: RollupStatus::Exiting(from),
            ..record.config.clone()
        };
        record.pending = Some(PendingConfig { from, config });
        from
    };
    let refusal = until(|| admission.check().err()).await.into_value();
    let text = format!("leaves the sequencer at height {from} and takes nothing more");
    assert!(
        refusal["message"].as_str().unwrap().contains(&text),
        "{refusal}"
    );
    // What comes so late that no batch could be sure of its place waits, and others do not.
    until(|| (running.chain.view().height.get() + VALID_HEIGHTS >= from.get()).then_some(())).await;
    let late = raw(7, 0, 10);
    running
        .queue
        .put(checked(beta(), late.clone()), None)
        .await
        .unwrap();
    fixture.accept(&running, alpha(), 1, 0).await;
    until(|| fixture.ordered().contains(&fixture.sent[0]).then_some(())).await;
    {
        let mut ledger = fixture.world.ledger();
        let record = ledger.rollups.remove(&beta()).unwrap();
        ledger.former.insert(beta(), record);
    }
    fixture.all_ordered_once(&running).await;
    let hash = alloy_primitives::keccak256(&late);
    until(|| {
        let stage = running.queue.get(beta(), hash)?.stage;
        (stage == Stage::Rejected(Rejection::RollupLeft)).then_some(())
    })
    .await;
    assert!(!fixture.ordered().contains(&late));
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_ends_and_the_rest_of_its_batch_goes_on() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    let sealed = raw(1, 0, 10);
    {
        let mut ledger = fixture.world.ledger();
        ledger.sealed.insert((alpha(), sealed.clone()));
        ledger.jammed = true; // Until all of them can be in one batch.
    }
    let running = fixture.start().await;
    let own = checked(alpha(), sealed.clone());
    running.queue.put(own, None).await.unwrap();
    for signer in 2..5 {
        fixture.accept(&running, alpha(), signer, 0).await;
    }
    fixture.world.ledger().jammed = false;
    fixture.all_ordered_once(&running).await;
    let hash = alloy_primitives::keccak256(&sealed);
    until(|| {
        let stage = running.queue.get(alpha(), hash)?.stage;
        (stage == Stage::Rejected(Rejection::Sealed)).then_some(())
    })
    .await;
    assert_eq!(running.queue.live(), fixture.sent.len());
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_that_starts_later_is_served_from_then_on() {
    let mut fixture = Fixture::new(&[Fault::None]).await;
    let first = {
        let mut ledger = fixture.world.ledger();
        let first = ledger.tip() + 100;
        let config = &mut ledger.rollups.get_mut(&beta()).unwrap().config;
        config.first_height = Height::new(first);
        ledger.push(); // The composer starts from a state that says so.
        first
    };
    let running = fixture.start().await;
    fixture.accept(&running, beta(), 1, 0).await;
    fixture.accept(&running, alpha(), 1, 0).await;
    until(|| fixture.ordered().contains(&fixture.sent[1]).then_some(())).await;
    fixture.all_ordered_once(&running).await;
    let placed = running.queue.sequenced(beta())[0].1.height;
    assert!(placed.get() >= first);
    running.kill().await;
}
