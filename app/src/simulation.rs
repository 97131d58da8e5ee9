//! Several nodes in one process, taken through random traffic, rounds, evidence, crashes, absences,
//! losses of the last commits, and state sync. After every height all of them must have the same
//! state; a failure prints its seed.
//!
//! `COUNTERPOINT_SIMULATION_SEEDS` and `COUNTERPOINT_SIMULATION_BLOCKS` make it longer.

mod attesters;

use std::{fs, path::Path};

use bytes::Bytes;
use counterpoint_abci::proto::abci::response_process_proposal::ProposalStatus;
use counterpoint_core::{
    action::{
        Action, ConsensusChange, Deposit, ExitRollup, FeeChange, ScheduleUpgrade, UpdateRollup,
        ValidatorUpdate,
    },
    fees::FeeParams,
    primitive::{EvmAddress, Height, Nonce},
};
use counterpoint_machine::query;
use tempfile::TempDir;

use crate::testing::{Node, Proposal, address, batch, genesis, key, rollup, sign, sync, transfer};

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
    /// What was on its disk some time ago, and how far it was then.
    backup: Option<(TempDir, usize)>,
}

impl Member {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open_later(directory.path());
        node.init_example().await;
        Self {
            directory,
            node: Some(node),
            height: 0,
            backup: None,
        }
    }

    /// Ends, as a crash does; what its disk holds may be all that is left one day.
    fn end(&mut self, keep: bool) {
        self.node = None;
        if keep {
            let copy = tempfile::tempdir().unwrap();
            copy_all(self.directory.path(), copy.path());
            self.backup = Some((copy, self.height));
        }
    }

    /// Its disk loses what was written last.
    fn lose_the_last_commits(&mut self) {
        if let Some((directory, height)) = self.backup.take() {
            self.node = None;
            (self.directory, self.height) = (directory, height);
        }
    }

    /// Begins anew in an empty directory, from a snapshot of somebody else.
    async fn sync_from(&mut self, source: &Node, chain: &[(Proposal, Bytes)]) {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open_later(directory.path());
        let app_hash = |height: u64| {
            let at = usize::try_from(height).unwrap() - 1;
            chain[at].1.clone()
        };
        if let Some(height) = sync::restore(&node, source, app_hash).await {
            (self.height, self.backup) = (usize::try_from(height).unwrap(), None);
            (self.directory, self.node) = (directory, Some(node));
            self.catch_up(chain).await;
        }
    }

    /// Comes back, and is given what it missed as CometBFT replays it.
    async fn catch_up(&mut self, chain: &[(Proposal, Bytes)]) {
        let node = self
            .node
            .take()
            .unwrap_or_else(|| Node::open_later(self.directory.path()));
        let height = usize::try_from(node.info().await.last_block_height).unwrap();
        assert_eq!(height, self.height, "what was committed is there");
        for (proposal, app_hash) in &chain[height..] {
            assert_eq!(node.replay(proposal).await, app_hash);
        }
        self.height = chain.len();
        self.node = Some(node);
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
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
        if self.random.one_in(4) {
            let action = self.order();
            let node = self.any();
            let tx = sign(1, node.next_nonce(1), 3, action);
            node.check(&tx).await;
        }
    }

    /// Something that the authority or an owner may ask for; account 1 is both.
    fn order(&mut self) -> Action {
        let small = self.random.below(20) as u64;
        let next = self.chain.len() as u64 + 1;
        match self.random.below(8) {
            0 | 1 => {
                let key = key(101 + u8::try_from(self.random.below(8)).unwrap()).public_key();
                let update = ValidatorUpdate::new(key, small, address(6));
                Action::ValidatorUpdate(update.unwrap())
            }
            2 => Action::FeeChange(FeeChange {
                params: FeeParams {
                    target_block_bytes: 1_024 * (1 + small),
                    min_base_fee: small,
                    ..FeeParams::default()
                },
            }),
            3 => {
                let plan = ScheduleUpgrade::new(Height::new(next + small), "next".into(), 2);
                Action::ScheduleUpgrade(plan.unwrap())
            }
            4 => Action::ConsensusChange(ConsensusChange {
                max_block_bytes: Some((2 << 20) + small),
                vote_extensions_height: Some(Height::new(next + small)),
            }),
            5 if self.random.one_in(4) => Action::ExitRollup(ExitRollup {
                rollup_id: rollup(),
            }),
            6 => {
                let to = EvmAddress::new([4; 20]);
                let amount = Deposit::MIN_AMOUNT + u128::from(small);
                Action::Deposit(Deposit::new(rollup(), to, amount).unwrap())
            }
            _ => Action::UpdateRollup(UpdateRollup {
                tip_share_bps: 100,
                min_tip_wei: small,
                ..UpdateRollup::of(&genesis().rollups[0])
            }),
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
            let accused = if self.random.one_in(40) {
                vec![101 + u8::try_from(self.random.below(8)).unwrap()]
            } else {
                Vec::new()
            };
            proposals.push(self.any().prepare_accusing(round, &[], &accused).await);
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
            node.make_snapshot();
            member.height += 1;
            assert_eq!(app_hash.get_or_insert_with(|| hash.clone()), &hash);
            if self.random.one_in(15) {
                member.end(self.random.one_in(4));
            }
            if self.random.one_in(60) {
                member.lose_the_last_commits();
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
        if self.random.one_in(30) {
            let mut fresh = self.members.pop().unwrap();
            let source = self.members.iter().find_map(|member| member.node.as_ref());
            if let Some(source) = source {
                fresh.sync_from(source, &self.chain).await;
            }
            self.members.push(fresh);
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
    // Long enough for what has a notice of 601 heights.
    let blocks = setting("COUNTERPOINT_SIMULATION_BLOCKS", 700);
    for seed in 1..=setting("COUNTERPOINT_SIMULATION_SEEDS", 2) {
        eprintln!("simulation with seed {seed}");
        let simulation = Simulation::new(seed).await;
        simulation.run(usize::try_from(blocks).unwrap()).await;
    }
}
