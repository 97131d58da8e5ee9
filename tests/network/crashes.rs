//! kill −9 of a conductor and its client at each step of a block, and the loss of what they store:
//! every block is there once, and every deposit.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{Address, B256};
use alloy_provider::Provider;
use alloy_rpc_types_eth::Withdrawal;
use borsh::BorshDeserialize;
use counterpoint::devnet::tools::GETH;
use counterpoint_core::{
    action::{Action, Deposit},
    primitive::EvmAddress,
    state::Chain,
};

use crate::{
    engine::{Proxy, Step},
    receipts::call,
    support::{Network, raw_transfer, receipt, signed, wait_for},
};

const CONDUCTOR: &str = "alpha-conductor";
const CLIENT: &str = "alpha-geth";
/// More than one block may carry.
const DEPOSITS: u64 = 18;
/// The least amount, in gwei.
const LEAST: u64 = 10_000_000;
/// Most withdrawals of a block.
const MAX_DEPOSITS: usize = 16;
const DEPOSITOR: [u8; 20] = [0x22; 20];

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_block_loses_and_doubles_nothing() {
    let mut rollup = Traffic::start(Network::start(1, 1).await).await;
    let proxy = rollup.detour().await;
    for step in Step::ALL {
        for victims in [&[CONDUCTOR][..], &[CLIENT], &[CLIENT, CONDUCTOR]] {
            eprintln!("kill -9 {} at {step:?}", victims.join(", "));
            let sent = rollup.send().await;
            proxy.hold(step).await;
            // Later blocks are derived meanwhile, and wait.
            let tip = rollup.network.reach(0, 1).await;
            rollup.network.reach(0, tip + 10).await;
            for victim in victims {
                rollup.network.devnet.kill(victim).await.unwrap();
            }
            for victim in victims {
                rollup.network.devnet.launch(victim).await.unwrap();
            }
            proxy.release();
            rollup.arrives(sent).await;
        }
    }
    rollup.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_made_again() {
    let mut rollup = Traffic::start(Network::start(1, 1).await).await;
    for wiped in [&[CLIENT][..], &[CONDUCTOR], &[CLIENT, CONDUCTOR]] {
        eprintln!("wipe {}", wiped.join(", "));
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
        for victim in wiped {
            rollup.network.devnet.kill(victim).await.unwrap();
        }
        for victim in wiped {
            match *victim {
                CLIENT => rollup.initialise("hash"),
                _ => fs::remove_dir_all(rollup.conductor_data()).unwrap(),
            }
            rollup.network.devnet.launch(victim).await.unwrap();
        }
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
    }
    rollup.ends_well().await;
}

/// The first receipt of a block is told, and the block is not closed for seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_block_changes_nothing_that_was_told() {
    let network = Network::start_with(1, 1, |options| options.slot_secs = vec![6]).await;
    let mut rollup = Traffic::start(network).await;
    for victims in [&[CONDUCTOR][..], &[CLIENT, CONDUCTOR]] {
        let sent = rollup.send().await;
        let (hash, url) = (
            rollup.sent[sent],
            &rollup.network.info.rollups[0].conductor_rpc,
        );
        let early = wait_for("an early receipt", || async {
            let early = call(url, "eth_getTransactionReceipt", hash).await;
            (!early.is_null()).then_some(early)
        })
        .await;
        eprintln!(
            "kill -9 {}, in a block: {}",
            victims.join(", "),
            early["blockHash"]
        );
        for victim in victims {
            rollup.network.devnet.kill(victim).await.unwrap();
        }
        for victim in victims {
            rollup.network.devnet.launch(victim).await.unwrap();
        }
        rollup.arrives(sent).await;
        let url = &rollup.network.info.rollups[0].el_rpc;
        let known = call(url, "eth_getTransactionReceipt", hash).await;
        for field in [
            "status",
            "gasUsed",
            "blockNumber",
            "transactionIndex",
            "logs",
        ] {
            assert_eq!(early[field], known[field], "{field}");
        }
    }
    rollup.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_killed_goes_on() {
    let mut rollup = Traffic::start(Network::start(1, 1).await).await;
    let proxy = rollup.detour().await;
    let sent = rollup.send().await;
    rollup.arrives(sent).await;
    wait_for("ten blocks", || async {
        rollup.head().await.filter(|head| *head >= 10)
    })
    .await;
    rollup.network.devnet.kill(CONDUCTOR).await.unwrap();
    fs::remove_dir_all(rollup.conductor_data()).unwrap();
    for blocks in [1, 3, 4] {
        let mut rebuild = rollup.conductor(&["rebuild"]);
        let mut rebuild = rebuild.spawn().unwrap();
        // The last two blocks are asked for first.
        proxy.hold_after(Step::BlockAsked, 2 + blocks).await;
        rebuild.kill().unwrap();
        rebuild.wait().unwrap();
        proxy.release();
    }
    let rebuilt = rollup.conductor(&["rebuild"]).output().unwrap();
    let said = String::from_utf8_lossy(&rebuilt.stderr);
    assert!(rebuilt.status.success(), "{said}");
    assert!(
        said.contains("the store has all that the client has"),
        "{said}"
    );
    rollup.network.devnet.launch(CONDUCTOR).await.unwrap();
    let sent = rollup.send().await;
    rollup.arrives(sent).await;
    rollup.ends_well().await;
}

/// geth as it comes, which keeps its state in memory: after kill −9 it is back at block 0, and may
/// be jammed there; then what the conductor says is what helps.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_forgets_on_kill_is_given_all_again() {
    let mut rollup = Traffic::start(Network::start(1, 1).await).await;
    rollup.network.devnet.kill(CLIENT).await.unwrap();
    rollup.forget_on_kill();
    rollup.initialise("path");
    rollup.network.devnet.launch(CLIENT).await.unwrap();
    for victims in [&[CLIENT][..], &[CLIENT, CONDUCTOR]] {
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
        let (head, jams) = (rollup.head().await.unwrap(), rollup.jams());
        for victim in victims {
            rollup.network.devnet.kill(victim).await.unwrap();
        }
        for victim in victims {
            rollup.network.devnet.launch(victim).await.unwrap();
        }
        let recovered = wait_for("the client to go on, or what to do", || async {
            let goes_on = rollup.head().await.is_some_and(|now| now > head);
            (goes_on || rollup.jams() > jams).then_some(goes_on)
        });
        if !recovered.await {
            eprintln!("the client is jammed");
            rollup.network.ended(CONDUCTOR).await;
            rollup.network.devnet.kill(CLIENT).await.unwrap();
            rollup.initialise("path");
            rollup.network.devnet.launch(CLIENT).await.unwrap();
            rollup.network.devnet.launch(CONDUCTOR).await.unwrap();
        }
        let sent = rollup.send().await;
        rollup.arrives(sent).await;
    }
    rollup.ends_well().await;
}

/// One rollup, and what was sent to it.
pub(crate) struct Traffic {
    pub(crate) network: Network,
    /// Transactions, in the order of their nonces.
    sent: Vec<B256>,
    /// What was deposited, in order; no two are alike.
    deposited: Vec<u64>,
    /// What the sequencer had locked before.
    locked: u128,
}

impl Traffic {
    pub(crate) async fn start(network: Network) -> Self {
        let locked = chain(&network).await.locked.get();
        Self {
            network,
            sent: Vec::new(),
            deposited: Vec::new(),
            locked,
        }
    }

    /// Leads the conductor's calls through a proxy from its next start on, which is now.
    async fn detour(&mut self) -> Proxy {
        let client = self.network.info.rollups[0].engine.clone();
        let proxy = Proxy::start(&client).await;
        let path = self.network.layout().service_config(CONDUCTOR);
        let config = fs::read_to_string(&path).unwrap();
        assert_eq!(config.matches(&client).count(), 1, "{config}");
        self.network.devnet.kill(CONDUCTOR).await.unwrap();
        fs::write(&path, config.replace(&client, &proxy.url)).unwrap();
        self.network.devnet.launch(CONDUCTOR).await.unwrap();
        proxy
    }

    /// Sends a transaction and a few deposits; gives the transaction's place.
    pub(crate) async fn send(&mut self) -> usize {
        let (network, nonce) = (&self.network, self.sent.len());
        let chain_id = network.info.rollups[0].evm_chain_id;
        let raw = raw_transfer(network, chain_id, 0, nonce as u64, |request| request).await;
        wait_for("an acknowledgement", || async {
            let params = serde_json::json!([raw]);
            network.rpc(0, "eth_sendRawTransaction", params).await.ok()
        })
        .await;
        let first = self.deposited.len() as u64;
        let amounts = (first..first + DEPOSITS).map(|at| LEAST + at);
        let deposit = |amount: u64| {
            let id = network.info.rollups[0].rollup_id;
            let deposit = Deposit::new(id, EvmAddress::new(DEPOSITOR), amount.into());
            Action::Deposit(deposit.unwrap())
        };
        let tx = signed(network, 0, amounts.clone().map(deposit).collect()).await;
        let answer = network.sequencer(0).submit(tx.as_bytes().clone()).await;
        assert_eq!(answer.unwrap().code, 0);
        self.deposited.extend(amounts);
        self.sent.push(alloy_primitives::keccak256(&raw));
        nonce
    }

    pub(crate) async fn arrives(&self, sent: usize) {
        let geth = self.network.geth(0);
        assert!(receipt(&geth, self.sent[sent]).await.status());
    }

    /// The client's last block, if it answers.
    async fn head(&self) -> Option<u64> {
        self.network.geth(0).get_block_number().await.ok()
    }

    /// How often the conductor has said that the client is jammed, and what to do.
    fn jams(&self) -> usize {
        let advice = "conductor: execution client is given blocks and stays at";
        self.network.log(CONDUCTOR).matches(advice).count()
    }

    fn conductor_data(&self) -> PathBuf {
        self.network.layout().dir.join("alpha/conductor")
    }

    /// Gives the client a chain of nothing but the genesis.
    fn initialise(&self, scheme: &str) {
        let layout = self.network.layout();
        let data = layout.geth_data("alpha");
        fs::remove_dir_all(&data).unwrap();
        let output = Command::new(GETH.install(&|_| ()).unwrap())
            .args(["init", "--state.scheme", scheme, "--datadir"])
            .arg(data)
            .arg(layout.rollup_genesis("alpha"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    /// Has the client run without the flags that let its blocks survive.
    fn forget_on_kill(&mut self) {
        let program = self.network.layout().dir.join("forgetful-geth");
        let geth = GETH.install(&|_| ()).unwrap();
        let script = format!(
            "#!/bin/sh\nfor arg do shift\ncase $arg in hash) arg=path;; archive) arg=full;; esac\n\
             set -- \"$@\" \"$arg\"\ndone\nexec '{}' \"$@\"\n",
            geth.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        self.network.devnet.install(CLIENT, &program).unwrap();
    }

    /// Another command of the conductor.
    fn conductor(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_counterpoint-under-test"));
        let config = self.network.layout().service_config(CONDUCTOR);
        command
            .args(["conductor", "--config"])
            .arg(config)
            .args(args);
        command
    }

    /// All has arrived, once and in order; and a second conductor derives the very same blocks.
    async fn ends_well(self) {
        let Self { network, .. } = &self;
        let geth = network.geth(0);
        let head = wait_for("the last deposit", || async {
            let to = Address::from(DEPOSITOR);
            let gwei = u128::from(self.deposited.iter().sum::<u64>());
            let expected = alloy_primitives::U256::from(gwei * 1_000_000_000);
            let head = geth.get_block_number().await.ok()?;
            let balance = geth.get_balance(to).number(head).await.ok()?;
            assert!(balance <= expected, "more arrived than was sent");
            (balance == expected).then_some(head)
        })
        .await;
        let (mut withdrawals, mut ran) = (Vec::<Withdrawal>::new(), Vec::new());
        let mut parent = geth_block(network, 0).await.header.hash;
        for number in 1..=head {
            let block = geth_block(network, number).await;
            assert_eq!(block.header.parent_hash, parent, "block {number}");
            parent = block.header.hash;
            ran.extend(block.transactions.hashes());
            let arrived = block.withdrawals.unwrap_or_default().into_inner();
            assert!(arrived.len() <= MAX_DEPOSITS, "block {number}");
            withdrawals.extend(arrived);
        }
        assert_eq!(ran, self.sent, "each ran once, in order");
        let amounts: Vec<_> = withdrawals.iter().map(|arrived| arrived.amount).collect();
        assert_eq!(amounts, self.deposited, "each arrived once, in order");
        assert!(
            (0..)
                .zip(&withdrawals)
                .all(|(at, arrived)| arrived.index == at)
        );
        let chain = chain(network).await;
        let credited: u128 = amounts.iter().map(|amount| u128::from(*amount)).sum();
        assert_eq!(chain.locked.get() - self.locked, credited);
        assert_eq!(chain.waiting_deposits, 0);
        let mut verify = self.conductor(&["verify", "--to", &head.to_string()]);
        let derived = verify.output().unwrap();
        let said = String::from_utf8_lossy(&derived.stderr);
        assert!(derived.status.success(), "{said}");
        self.network.stop().await;
    }
}

async fn chain(network: &Network) -> Chain {
    let answer = network.sequencer(0).chain().await.unwrap();
    Chain::try_from_slice(&answer.borsh_chain).unwrap()
}

async fn geth_block(network: &Network, number: u64) -> alloy_rpc_types_eth::Block {
    let number = BlockNumberOrTag::Number(number);
    let block = network.geth(0).get_block_by_number(number).await.unwrap();
    block.unwrap_or_else(|| panic!("block {number} is missing"))
}
