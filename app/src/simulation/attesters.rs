//! Four nodes, one of which never hears attesters and so leaves out what they decide; attesters that are
//! honest, lie, or say nothing. A failure prints its seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use counterpoint_core::{
    atomic::SystemItem,
    block::RollupItem,
    primitive::{Amount, Hash, Height, RollupId},
    state::{AbortReason, BundleStatus},
};
use tempfile::TempDir;

use super::{NODES, ProposalStatus, Random, setting};
use crate::testing::{
    Node, Proposal,
    attest::{ATTESTERS, Sample, Says, attest, now},
};

/// The node that hears no attester.
const DEAF: usize = NODES - 1;

struct Network {
    random: Random,
    nodes: Vec<Node>,
    _directories: Vec<TempDir>,
    bundles: Vec<Sample>,
    /// What the honest say of each bundle.
    truth: BTreeMap<Hash, Says>,
    /// Where each leg is: bundle, rollup, height.
    legs: Vec<(Hash, RollupId, i64)>,
    /// How many offers of votes nodes were given.
    votes: usize,
    /// How many lies were proven.
    faults: usize,
}

impl Network {
    async fn new(seed: u64) -> Self {
        let directories: Vec<TempDir> = (0..NODES).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut nodes = Vec::new();
        for directory in &directories {
            nodes.push(Node::start_attested(directory.path()).await);
        }
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            nodes,
            _directories: directories,
            bundles: Vec::new(),
            truth: BTreeMap::new(),
            legs: Vec::new(),
            votes: 0,
            faults: 0,
        }
    }

    /// Somebody hands in a bundle.
    async fn traffic(&mut self) {
        let live = |sample: &Sample| {
            let record = sample.record(&self.nodes[0]);
            record.is_none_or(|record| record.status.is_live())
        };
        if self.bundles.iter().filter(|sample| live(sample)).count() > 3 {
            return;
        }
        let number = self.bundles.len() as u64;
        let sample = Sample::new(number, |terms| {
            terms.tip_per_attempt = Amount::new(1_000 + u128::from(number));
        });
        let says = if self.random.one_in(3) {
            Says::Abort
        } else {
            Says::Commit
        };
        self.truth.insert(sample.bundle.id(), says);
        let node = &self.nodes[self.random.below(NODES)];
        for tx in sample.transactions(2, node.next_nonce(2)) {
            assert_eq!(node.check(&tx).await, (0, String::new()));
        }
        self.bundles.push(sample);
        self.gossip().await;
    }

    /// Transactions reach everybody, votes some, and never the deaf one.
    async fn gossip(&mut self) {
        for from in 0..NODES {
            for bundle in self.nodes[from].reap().await {
                let votes = bundle.get(9) == Some(&0x21);
                for to in (0..NODES).filter(|to| *to != from) {
                    if !votes || (to != DEAF && !self.random.one_in(6)) {
                        self.nodes[to].insert(&bundle).await;
                        self.votes += usize::from(votes);
                    }
                }
            }
        }
    }

    /// Attesters of both rollups speak: the first two are honest, if they speak; the third lies, and
    /// now and then tells the truth too, so that it is caught.
    async fn attesters(&mut self) {
        for bundle in now(&self.nodes[0]) {
            let truth = self.truth[&bundle.bundle.id()];
            for seed in ATTESTERS {
                if self.random.one_in(8) {
                    continue;
                }
                let says = if seed == ATTESTERS[2] {
                    Says::Lie
                } else {
                    truth
                };
                let to = self.random.below(DEAF);
                let mut said = attest(std::slice::from_ref(&bundle), seed, says);
                if says == Says::Lie && self.random.one_in(10) {
                    said.extend(attest(std::slice::from_ref(&bundle), seed, truth));
                }
                for message in said {
                    self.nodes[to].check(&message).await;
                }
            }
        }
        let released = |sample: &&Sample| {
            let record = sample.record(&self.nodes[0]);
            record.is_some_and(|record| record.status == BundleStatus::Released)
        };
        let released: Vec<Sample> = self.bundles.iter().filter(released).cloned().collect();
        for sample in released {
            let seed = ATTESTERS[self.random.below(2)];
            let to = self.random.below(DEAF);
            for message in sample.outcomes(&self.nodes[0], seed) {
                self.nodes[to].check(&message).await;
            }
        }
    }

    /// One or two rounds, each seen by everybody; the last one is decided.
    async fn decide(&mut self) -> Proposal {
        let rounds = 1 + usize::from(self.random.one_in(4));
        for round in 0..rounds {
            let proposer = self.random.below(NODES);
            let proposal = self.nodes[proposer]
                .prepare(u8::try_from(round).unwrap())
                .await;
            for node in &self.nodes {
                assert_eq!(node.process(&proposal).await, ProposalStatus::Accept);
            }
            if round + 1 == rounds {
                return proposal;
            }
            self.gossip().await;
        }
        unreachable!("the last round is decided")
    }

    async fn advance(&mut self) {
        self.traffic().await;
        self.attesters().await;
        self.gossip().await;
        let proposal = self.decide().await;
        let system = |item: &Bytes| SystemItem::decode(item).unwrap();
        let fault = |item: &&SystemItem| matches!(item, SystemItem::Fault(_));
        let system: Vec<SystemItem> = proposal.items.iter().filter_map(system).collect();
        self.faults += system.iter().filter(fault).count();
        let (outcome, _) = self.nodes[0].execute(&proposal);
        for slice in &outcome.rollups {
            for item in &slice.items {
                if let RollupItem::Leg { bundle_id, .. } = item {
                    let id = slice.leaf.rollup_id;
                    self.legs.push((*bundle_id, id, proposal.height));
                }
            }
        }
        let mut app_hashes = Vec::new();
        for node in &self.nodes {
            app_hashes.push(node.replay(&proposal).await);
        }
        assert!(app_hashes.iter().all(|hash| *hash == app_hashes[0]));
        assert!(self.nodes[DEAF].mempool.attester_messages().is_empty());
    }

    /// Whether both legs of a bundle are in blocks of one height, or none is.
    fn check(&self, sample: &Sample) -> BundleStatus {
        let id = sample.bundle.id();
        let legs: Vec<_> = self.legs.iter().filter(|(of, ..)| *of == id).collect();
        let status = sample.status(&self.nodes[0]);
        match status {
            BundleStatus::Released | BundleStatus::Executed => {
                assert_eq!(legs.len(), 2);
                assert_eq!(legs[0].2, legs[1].2, "at one height");
                assert_ne!(legs[0].1, legs[1].1);
                assert_eq!(self.truth[&id], Says::Commit, "one liar decides nothing");
            }
            _ => assert!(legs.is_empty(), "{status:?}"),
        }
        status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attesters_release_and_abort_through_all_nodes() {
    let blocks = setting("COUNTERPOINT_SIMULATION_BUNDLE_BLOCKS", 120);
    for seed in 1..=setting("COUNTERPOINT_SIMULATION_SEEDS", 2) {
        eprintln!("simulation with seed {seed}");
        let mut network = Network::new(seed).await;
        for _ in 0..blocks {
            network.advance().await;
        }
        let tip = network.nodes[0].store.tip().unwrap().height;
        assert_eq!(tip, Height::new(1 + blocks));
        let (mut executed, mut aborted, mut omitted) = (0, 0, 0);
        for sample in network
            .bundles
            .iter()
            .filter(|one| one.record(&network.nodes[0]).is_some())
        {
            let record = sample.record(&network.nodes[0]).unwrap();
            match network.check(sample) {
                BundleStatus::Executed => executed += 1,
                BundleStatus::Aborted(AbortReason::Attested { .. }) => aborted += 1,
                BundleStatus::Queued if record.attempts_left < 3 => omitted += 1,
                BundleStatus::Aborted(_) => omitted += 1,
                BundleStatus::Violated | BundleStatus::Unconfirmed => panic!("{record:?}"),
                _ => {}
            }
        }
        let counts = (executed, aborted, omitted, network.votes);
        assert!(executed > 2 && aborted > 1 && omitted > 0, "{counts:?}");
        // One key of two rollups, and it has no vote any more then.
        assert!((1..=2).contains(&network.faults), "{}", network.faults);
    }
}
