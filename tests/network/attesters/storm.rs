//! Many bundles, some of them bound to fail, while nodes, conductors, attesters and clients are killed: each
//! runs whole or is nowhere.

use std::{collections::BTreeMap, env, fmt::Debug, time::Duration};

use alloy_primitives::keccak256;
use counterpoint_core::atomic::OnAbort;

use super::{
    bundle::{Sample, Transfers, Who, hand_in, letter, reverting, unread},
    now, start,
};
use crate::support::{Network, nodes_agree, say};

/// Accounts that hand in a bundle each at a time.
const AT_ONCE: usize = 5;

/// What a run is asked for.
fn asked(name: &str, default: u64) -> u64 {
    let value = env::var(format!("COUNTERPOINT_BUNDLES{name}"));
    value.map_or(default, |value| value.parse().unwrap())
}

/// The same choices for the same seed.
struct Choices {
    seed: u64,
    made: u64,
}

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.made += 1;
        let digest = keccak256([self.seed.to_be_bytes(), self.made.to_be_bytes()].concat());
        usize::from(digest[0]) % bound
    }

    async fn bundle(&mut self, network: &Network, account: usize) -> Sample {
        let rollups = [[0, 1], [0, 2], [1, 2]][self.below(3)];
        let who = Who { account, rollups };
        match self.below(6) {
            0 => reverting(network, who).await,
            1 => unread(network, who).await,
            2 | 3 => letter(network, who).await,
            _ => {
                let retried = Transfers::default().on_abort(OnAbort::Retry);
                retried.sample(network, who).await
            }
        }
    }

    fn victim(&mut self, network: &Network) -> String {
        let rollup = &network.info.rollups[self.below(3)].name;
        let validator = self.below(network.info.validators.len());
        match self.below(5) {
            0 => format!("{rollup}-conductor"),
            1 => format!("{rollup}-geth"),
            2 => format!("attester-{}", 1 + self.below(2)),
            3 => format!("val-{validator}-app"),
            _ => format!("val-{validator}-cometbft"),
        }
    }
}

/// Ends a part in the middle of whatever it does, and starts it again.
async fn strike(network: &mut Network, victim: &str, delay_millis: usize) {
    tokio::time::sleep(Duration::from_millis(delay_millis as u64)).await;
    network.devnet.kill(victim).await.unwrap();
    network.devnet.launch(victim).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_whole_or_nowhere_whoever_is_killed() {
    let (count, seed) = (asked("", 20), asked("_SEED", now()));
    say(&format!("{count} bundles, seed {seed}"));
    let validators = if count < 100 { 2 } else { 4 };
    let mut network = start(validators, 3, 3).await;
    let mut choices = Choices { seed, made: 0 };
    let (mut ended, mut all) = (BTreeMap::<String, usize>::new(), Vec::new());
    while (all.len() as u64) < count {
        let mut batch = Vec::new();
        for account in 0..AT_ONCE {
            batch.push(choices.bundle(&network, account).await);
        }
        hand_in(&network, &batch).await;
        if choices.below(3) > 0 {
            let (victim, delay) = (choices.victim(&network), choices.below(200) * 5);
            say(&format!("{victim} is killed"));
            strike(&mut network, &victim, delay).await;
        }
        for sample in &batch {
            let end = sample.is_whole_or_nowhere(&network).await;
            *ended.entry(name(end)).or_default() += 1;
        }
        all.extend(batch);
        say(&format!("{} bundles: {ended:?}", all.len()));
    }
    // Once more, when all of it is long past.
    for sample in &all {
        sample.is_whole_or_nowhere(&network).await;
    }
    assert!(ended.contains_key("Released"), "{ended:?}");
    nodes_agree(&network).await;
    network.stop().await;
}

/// How a bundle has ended, in a word.
fn name(reason: Option<impl Debug>) -> String {
    let Some(reason) = reason else {
        return "Released".into();
    };
    let reason = format!("{reason:?}");
    let failure = reason.rsplit_once("failure: ").map(|(_, failure)| failure);
    failure
        .unwrap_or(&reason)
        .trim_end_matches([' ', '}'])
        .to_owned()
}
