//! What happens to the network, chosen by a seed: one or two faults at a time, then all heals.

use std::time::{Duration, Instant};

use counterpoint_core::primitive::Hash;

use super::{ROLLUPS, VALIDATORS, book::Book};
use crate::{
    links::{Link, Links},
    support::Network,
};

/// Longest time between two steps, but for a quarter of a short run, and how long the faults of a step
/// may last.
const CALM: Duration = Duration::from_secs(12);
const HELD: Duration = Duration::from_secs(8);
/// What slow links carry: enough for empty blocks, too little for bursts.
const SLOW: Link = Link::Slow {
    bytes_per_second: 128 << 10,
};

/// One step, and when it was, counted from the start.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) at: Duration,
    pub(super) healed: Duration,
    pub(super) faults: Vec<String>,
}

/// Numbers that follow from a seed.
struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    /// A number below a bound.
    fn below(&mut self, bound: usize) -> usize {
        self.thrown += 1;
        let digest = Hash::digest(&[
            b"soak",
            &self.seed.to_le_bytes(),
            &self.thrown.to_le_bytes(),
        ]);
        usize::from(digest.as_bytes()[0]) % bound
    }

    /// A part of a time, in hundredths.
    fn part_of(&mut self, most: Duration) -> Duration {
        most * u32::try_from(self.below(101)).unwrap() / 100
    }
}

/// A fault that lasts until it is healed.
#[derive(Clone, Debug)]
enum Fault {
    /// Processes get SIGKILL, and stay dead.
    Kill(Vec<String>),
    /// Validators cannot reach the others.
    Part(Vec<usize>, Link),
    /// All links are slow.
    Slow,
}

impl Fault {
    fn choose(dice: &mut Dice, network: &Network) -> Self {
        let validator = dice.below(VALIDATORS);
        let rollup = &network.info.rollups[dice.below(ROLLUPS)].name;
        let kill = |names: &[String]| Self::Kill(names.to_vec());
        let (app, cometbft) = (
            format!("val-{validator}-app"),
            format!("val-{validator}-cometbft"),
        );
        let (conductor, geth) = (format!("{rollup}-conductor"), format!("{rollup}-geth"));
        match dice.below(11) {
            0 => kill(&[app]),
            1 => kill(&[cometbft]),
            2 => kill(&[cometbft, app]),
            3 | 4 => kill(&["composer".into()]),
            5 => kill(&[conductor]),
            6 => kill(&[geth]),
            7 => kill(&[geth, conductor]),
            8 => Self::Part(vec![validator], Link::Cut),
            9 => Self::Part(vec![0, 1 + validator % 3], Link::Held),
            _ => Self::Slow,
        }
    }

    fn says(&self) -> String {
        match self {
            Self::Kill(names) => format!("kill -9 {}", names.join(" ")),
            Self::Part(group, link) => {
                let names: Vec<String> = group.iter().map(|at| format!("val-{at}")).collect();
                let how = if *link == Link::Cut {
                    "cut off"
                } else {
                    "held apart"
                };
                format!("{} {how}", names.join(" and "))
            }
            Self::Slow => "all links slow".into(),
        }
    }

    async fn strike(&self, network: &mut Network, links: &Links) {
        match self {
            Self::Kill(names) => {
                for name in names {
                    network.devnet.kill(name).await.unwrap();
                }
            }
            Self::Part(group, link) => links.part(group, *link),
            Self::Slow => links.set_all(SLOW),
        }
    }

    async fn heal(&self, network: &mut Network, links: &Links) {
        match self {
            Self::Kill(names) => {
                for name in names {
                    network.devnet.launch(name).await.unwrap();
                }
            }
            Self::Part(..) | Self::Slow => links.set_all(Link::Open),
        }
    }
}

/// Strikes and heals until `end`; when this returns, all is healed.
pub(super) async fn strike(
    network: &mut Network,
    links: &Links,
    book: &Book,
    seed: u64,
    end: Instant,
) -> Vec<Step> {
    let (mut dice, mut steps) = (Dice { seed, thrown: 0 }, Vec::new());
    let quarter = end.saturating_duration_since(Instant::now()) / 4;
    loop {
        let calm = Duration::from_secs(1) + dice.part_of(CALM.min(quarter));
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(calm.min(left)).await;
        if Instant::now() >= end {
            return steps;
        }
        let count = 1 + dice.below(3) / 2;
        let faults: Vec<Fault> = (0..count)
            .map(|_| Fault::choose(&mut dice, network))
            .collect();
        let held = dice.part_of(HELD);
        let said: Vec<String> = faults.iter().map(Fault::says).collect();
        eprintln!(
            "seed {seed}, {:.1?}: {} for {held:.1?}",
            book.now(),
            said.join(", ")
        );
        let at = book.now();
        for fault in &faults {
            fault.strike(network, links).await;
        }
        tokio::time::sleep(held).await;
        for fault in &faults {
            fault.heal(network, links).await;
        }
        steps.push(Step {
            at,
            healed: book.now(),
            faults: said,
        });
    }
}
