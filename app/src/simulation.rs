//! Several nodes in one process, taken through random traffic, rounds, crashes and absences. After
//! every height all of them must have the same state; a failure prints its seed.
//!
//! `COUNTERPOINT_SIMULATION_SEEDS` and `COUNTERPOINT_SIMULATION_BLOCKS` make it longer.

use bytes::Bytes;
use counterpoint_abci::proto::abci::response_process_proposal::ProposalStatus;
use counterpoint_core::primitive::Nonce;
use counterpoint_machine::query;
use tempfile::TempDir;

use crate::testing::{Node, Proposal, address, batch, transfer};

const NODES: usize = 4;
const ACCOUNTS: u8 = 5;

/// A small generator of random numbers: xorshift, the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// A node that may be away; then it lacks the blocks from `height` on.
struct Member {
    directory: TempDir,
    node: Option<Node>,
    height: usize,
}

impl Member {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Some(Node::start(directory.path()).await);
        Self {
            directory,
            node,
            height: 0,
        }
    }

    /// Comes back, and is given what it missed as CometBFT replays it.
    async fn catch_up(&mut self, chain: &[(Proposal, Bytes)]) {
        let node = self
            .node
            .take()
            .unwrap_or_else(|| Node::open(self.directory.path()));
        let height = usize::try_from(node.info().await.last_block_height).unwrap();
        assert_eq!(height, self.height, "what was committed is there");
        for (proposal, app_hash) in &chain[height..] {
            assert_eq!(node.replay(proposal).await, app_hash);
        }
        self.height = chain.len();
        self.node = Some(node);
    }
}

struct Simulation {
    random: Random,
    members: Vec<Member>,
    chain: Vec<(Proposal, Bytes)>,
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let mut members = Vec::new();
        for _ in 0..NODES {
            members.push(Member::start().await);
        }
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            members,
            chain: Vec::new(),
        }
    }

    fn present(&self) -> impl Iterator<Item = &Node> {
        self.members
            .iter()
            .filter_map(|member| member.node.as_ref())
    }

    fn any(&mut self) -> &Node {
        let count = self.present().count();
        let chosen = self.random.below(count);
        self.present().nth(chosen).unwrap()
    }

    /// A few transactions at any node: good ones, parked ones, and ones that are refused.
    async fn traffic(&mut self) {
        for _ in 0..self.random.below(6) {
            let seed = 1 + u8::try_from(self.random.below(ACCOUNTS.into())).unwrap();
            let (ahead, tip) = (self.random.below(3), self.random.below(4) as u64);
            let data = self.random.one_in(2).then(|| 1 + self.random.below(400));
            let node = self.any();
            let account = query::account(&node.store.state(), address(seed)).unwrap();
            let next = account.map_or(Nonce::new(0), |account| account.nonce);
            let waiting = node.mempool.next_nonce(&address(seed), next).get();
            let nonce = waiting.saturating_sub(1) + ahead as u64;
            let tx = match data {
                Some(items) => batch(seed, nonce, tip, items),
                None => transfer(seed, nonce, tip),
            };
            node.check(&tx).await;
        }
    }

    /// Bundles reach some of the others.
    async fn gossip(&mut self) {
        for from in 0..NODES {
            let Some(node) = &self.members[from].node else {
                continue;
            };
            for bundle in node.reap().await {
                for to in (0..NODES).filter(|to| *to != from) {
                    if !self.random.one_in(5)
                        && let Some(node) = &self.members[to].node
                    {
                        node.insert(&bundle).await;
                    }
                }
            }
        }
    }

    /// A few rounds, each with a proposal that some see, in any order; one of them is decided.
    async fn decide(&mut self) -> Proposal {
        let mut proposals = Vec::new();
        for round in 0..=self.random.below(3) {
            let round = u8::try_from(round).unwrap();
            proposals.push(self.any().prepare(round).await);
            self.traffic().await; // Rounds differ by what came in between.
        }
        for at in 0..NODES {
            for _ in 0..self.random.below(4) {
                let seen = &proposals[self.random.below(proposals.len())];
                if let Some(node) = &self.members[at].node {
                    assert_eq!(node.process(seen).await, ProposalStatus::Accept);
                }
            }
        }
        let decided = self.random.below(proposals.len());
        proposals.swap_remove(decided)
    }

    /// Everybody commits; some end right before or after it, and some come back.
    async fn commit(&mut self, proposal: Proposal) {
        let mut app_hash = None;
        for member in &mut self.members {
            let Some(node) = &member.node else { continue };
            if self.random.one_in(15) {
                // Finalised, not committed: as if it had never happened.
                node.finalize(&proposal).await.unwrap();
                member.node = None;
                continue;
            }
            let hash = node.replay(&proposal).await;
            member.height += 1;
            assert_eq!(app_hash.get_or_insert_with(|| hash.clone()), &hash);
            if self.random.one_in(15) {
                member.node = None;
            }
        }
        let app_hash = match app_hash {
            Some(app_hash) => app_hash,
            None => {
                // All are gone: the first one back decides alone what they had agreed upon.
                let member = &mut self.members[0];
                member.catch_up(&self.chain).await;
                member.height += 1;
                member.node.as_ref().unwrap().replay(&proposal).await
            }
        };
        self.chain.push((proposal, app_hash));
        for at in 0..NODES {
            let away = self.members[at].node.is_none();
            if away && (self.random.one_in(4) || at == 0) {
                self.members[at].catch_up(&self.chain).await;
            }
        }
    }

    async fn run(mut self, blocks: usize) {
        for _ in 0..blocks {
            self.traffic().await;
            self.gossip().await;
            let proposal = self.decide().await;
            self.commit(proposal).await;
        }
        for member in &mut self.members {
            member.node = None;
            member.catch_up(&self.chain).await;
        }
        let carried: usize = self
            .chain
            .iter()
            .map(|(block, _)| block.items.len() - 1)
            .sum();
        assert!(
            carried > blocks / 2,
            "only {carried} transactions in {blocks} blocks"
        );
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_agree_whatever_happens() {
    let blocks = setting("COUNTERPOINT_SIMULATION_BLOCKS", 60);
    for seed in 1..=setting("COUNTERPOINT_SIMULATION_SEEDS", 3) {
        eprintln!("simulation with seed {seed}");
        let simulation = Simulation::new(seed).await;
        simulation.run(usize::try_from(blocks).unwrap()).await;
    }
}
