//! A network in a directory of its own, a wallet, and waiting with a deadline.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use alloy_network::{Ethereum, EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_provider::{DynProvider, Provider, ProviderBuilder};
use alloy_rpc_types_eth::{TransactionReceipt, TransactionRequest};
use alloy_signer_local::PrivateKeySigner;
use counterpoint::devnet::{Devnet, Info, Options, setup::Layout};
use counterpoint_core::{
    action::{Action, RegisterRollup},
    key::SecretKey,
    light::{LightError, TrustedState},
    primitive::{Amount, EvmAddress, Hash, Height, Nonce},
    slot::SlotSecs,
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use counterpoint_service::{
    files::{read_key, read_trust},
    sequencer::{Client, Inclusion, VerifyError, verify_inclusion},
};
use serde_json::{Value, json};

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running network; its directory goes with it.
pub(crate) struct Network {
    pub(crate) devnet: Devnet,
    pub(crate) info: Info,
    options: Options,
    directory: tempfile::TempDir,
}

impl Network {
    pub(crate) async fn start(validators: usize, rollups: usize) -> Self {
        Self::start_with(validators, rollups, |_| {}).await
    }

    /// A network that is unlike others in what `change` does.
    pub(crate) async fn start_with(
        validators: usize,
        rollups: usize,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), validators, rollups, change).await
    }

    pub(crate) async fn start_in(
        directory: tempfile::TempDir,
        validators: usize,
        rollups: usize,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_counterpoint-under-test"));
        let mut options = Options {
            validators,
            rollups,
            ..Options::new(directory.path().to_owned(), program)
        };
        change(&mut options);
        let devnet = Devnet::start(&options, &say).await.unwrap();
        let info = devnet.info();
        Self {
            devnet,
            info,
            options,
            directory,
        }
    }

    /// Adds a node by state sync; gives its place among the validators.
    pub(crate) async fn join(&mut self) -> usize {
        self.devnet.join(&say).await.unwrap();
        self.info = self.devnet.info();
        self.info.validators.len() - 1
    }

    /// Stops everything, and starts it again.
    pub(crate) async fn restart(mut self) -> Self {
        self.devnet.stop().await.unwrap();
        let Self {
            devnet,
            options,
            directory,
            ..
        } = self;
        drop(devnet);
        let devnet = Devnet::start(&options, &say).await.unwrap();
        let info = devnet.info();
        Self {
            devnet,
            info,
            options,
            directory,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.devnet.stop().await.unwrap();
    }

    /// A process's log so far.
    pub(crate) fn log(&self, process: &str) -> String {
        let path = self.directory.path().join(format!("logs/{process}.log"));
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }

    /// A client of one validator's node.
    pub(crate) fn sequencer(&self, validator: usize) -> Client {
        Client::new(&[self.info.validators[validator].grpc.clone()]).unwrap()
    }

    /// The last height that a validator has committed, if it answers.
    pub(crate) async fn height(&self, validator: usize) -> Option<u64> {
        let info = self.sequencer(validator).info().await.ok()?;
        Some(info.height)
    }

    /// Waits until a validator has committed a height.
    pub(crate) async fn reach(&self, validator: usize, height: u64) -> u64 {
        wait_for(
            &format!("validator {validator} at height {height}"),
            || async { self.height(validator).await.filter(|now| *now >= height) },
        )
        .await
    }

    /// What one validator's CometBFT answers to a path of its RPC, or its error.
    pub(crate) async fn ask(&self, validator: usize, path: &str) -> Result<Value, Value> {
        let rpc = &self.info.validators[validator].cometbft_rpc;
        let answer = reqwest::get(format!("{rpc}/{path}")).await.unwrap();
        let mut answer: Value = answer.json().await.unwrap();
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].take()),
        }
    }

    /// The same where there must be an answer.
    pub(crate) async fn cometbft(&self, validator: usize, path: &str) -> Value {
        let answer = self.ask(validator, path).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The signed header of a height, as one validator's CometBFT has it.
    pub(crate) async fn commit(&self, validator: usize, height: u64) -> Value {
        let mut answer = self
            .cometbft(validator, &format!("commit?height={height}"))
            .await;
        answer["signed_header"].take()
    }

    /// Waits until a process has ended by itself.
    pub(crate) async fn ended(&mut self, process: &str) {
        let network = Mutex::new(self);
        wait_for(&format!("{process} to end"), || async {
            let status = network.lock().unwrap().devnet.status();
            let process = status.into_iter().find(|status| status.name == process);
            process.unwrap().pid.is_none().then_some(())
        })
        .await;
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout {
            dir: fs::canonicalize(self.directory.path()).unwrap(),
        }
    }

    /// All validators come to the greatest height and have the same blocks and states up to there.
    pub(crate) async fn agree(&self) {
        let mut tip = 0;
        for validator in 0..self.info.validators.len() {
            tip = tip.max(self.reach(validator, 1).await);
        }
        for validator in 0..self.info.validators.len() {
            self.reach(validator, tip).await;
        }
        for height in 1..=tip {
            let mut seen = BTreeSet::new();
            for validator in 0..self.info.validators.len() {
                let header = self.commit(validator, height).await["header"].take();
                assert_eq!(header["height"], height.to_string());
                seen.insert(header.to_string());
            }
            assert_eq!(seen.len(), 1, "fork at height {height}: {seen:?}");
        }
    }

    pub(crate) fn trust(&self) -> TrustedState {
        read_trust(&self.info.sequencer_genesis).unwrap()
    }

    /// A wallet library's provider at the composer.
    pub(crate) fn wallet(&self, rollup: usize, account: usize) -> DynProvider<Ethereum> {
        let signer: PrivateKeySigner = self.info.accounts[account].private_key.parse().unwrap();
        let url = self.info.rollups[rollup].composer_rpc.parse().unwrap();
        ProviderBuilder::new()
            .wallet(EthereumWallet::from(signer))
            .connect_http(url)
            .erased()
    }

    /// geth itself, without the composer.
    pub(crate) fn geth(&self, rollup: usize) -> DynProvider<Ethereum> {
        let url = self.info.rollups[rollup].el_rpc.parse().unwrap();
        ProviderBuilder::new().connect_http(url).erased()
    }

    pub(crate) fn address(&self, account: usize) -> Address {
        self.info.accounts[account].address.parse().unwrap()
    }

    pub(crate) fn signer(&self, account: usize) -> PrivateKeySigner {
        self.info.accounts[account].private_key.parse().unwrap()
    }

    /// A sequencer account with money.
    pub(crate) fn faucet(&self) -> SecretKey {
        read_key(&self.info.faucet_key).unwrap()
    }

    /// One JSON-RPC call to the composer: the result, or the error.
    pub(crate) async fn rpc(
        &self,
        rollup: usize,
        method: &str,
        params: Value,
    ) -> Result<Value, Value> {
        let url = &self.info.rollups[rollup].composer_rpc;
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let response = reqwest::Client::new().post(url).json(&request).send().await;
        let mut answer: Value = response
            .map_err(|error| json!(error.to_string()))?
            .json()
            .await
            .unwrap();
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].take()),
        }
    }

    /// Where the composer says that a transaction stands.
    pub(crate) async fn status(&self, rollup: usize, hash: B256) -> Value {
        let asked = self
            .rpc(rollup, "counterpoint_getTransactionStatus", json!([hash]))
            .await;
        asked.unwrap_or(Value::Null)
    }
}

pub(crate) fn say(step: &str) {
    eprintln!("network: {step}");
}

/// Asks again and again until there is an answer, and says what was awaited if there is none.
pub(crate) async fn wait_for<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The receipt of a transaction, from geth.
pub(crate) async fn receipt(geth: &DynProvider<Ethereum>, hash: B256) -> TransactionReceipt {
    wait_for(&format!("the receipt of {hash}"), || async {
        geth.get_transaction_receipt(hash).await.ok().flatten()
    })
    .await
}

/// A signed transfer of one wei, as raw bytes.
pub(crate) async fn raw_transfer(
    network: &Network,
    chain_id: u64,
    account: usize,
    nonce: u64,
    change: impl FnOnce(TransactionRequest) -> TransactionRequest,
) -> Bytes {
    sign_transfer(network.signer(account), chain_id, nonce, change).await
}

/// The same without a network.
pub(crate) async fn sign_transfer(
    signer: PrivateKeySigner,
    chain_id: u64,
    nonce: u64,
    change: impl FnOnce(TransactionRequest) -> TransactionRequest,
) -> Bytes {
    use alloy_eips::eip2718::Encodable2718;
    let wallet = EthereumWallet::from(signer);
    let request = TransactionRequest::default()
        .with_to(Address::repeat_byte(0x77))
        .with_value(U256::from(1))
        .with_nonce(nonce)
        .with_chain_id(chain_id)
        .with_gas_limit(21_000)
        .with_max_fee_per_gas(100_000_000_000)
        .with_max_priority_fee_per_gas(1_000_000_000);
    change(request)
        .build(&wallet)
        .await
        .unwrap()
        .encoded_2718()
        .into()
}

/// Every node has the state that the newest one has at its tip.
pub(crate) async fn nodes_agree(network: &Network) {
    let newest = network.sequencer(network.info.validators.len() - 1);
    let tip = newest.info().await.unwrap().height;
    let mut hashes = BTreeSet::new();
    for (at, validator) in network.info.validators.iter().enumerate() {
        let client = network.sequencer(at);
        wait_for(&format!("validator {at} to catch up"), || async {
            client.info().await.ok().filter(|info| info.height >= tip)
        })
        .await;
        let url = format!("{}/commit?height={tip}", validator.cometbft_rpc);
        let commit: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let header = &commit["result"]["signed_header"]["header"];
        hashes.insert((
            header["app_hash"].to_string(),
            header["data_hash"].to_string(),
        ));
    }
    assert_eq!(hashes.len(), 1, "all nodes have the same state: {hashes:?}");
}

/// Signs, submits and waits for the verified inclusion of actions from the faucet.
pub(crate) async fn sequence(network: &Network, actions: Vec<Action>) -> Inclusion {
    sequence_at(network, 0, actions).await
}

/// The same at one of the nodes.
pub(crate) async fn sequence_at(network: &Network, node: usize, actions: Vec<Action>) -> Inclusion {
    sequence_after(network, node, &mut network.trust(), actions).await
}

/// The same for one who remembers the newest header that it has verified.
pub(crate) async fn sequence_after(
    network: &Network,
    node: usize,
    trusted: &mut TrustedState,
    actions: Vec<Action>,
) -> Inclusion {
    let (client, tx) = (
        network.sequencer(node),
        signed(network, node, actions).await,
    );
    let answer = client.submit(tx.as_bytes().clone()).await.unwrap();
    assert_eq!(answer.code, 0, "{}", answer.log);
    let included = wait_for("a sequencer transaction's block", || async {
        match client.transaction(&tx.hash()).await.unwrap() {
            Status::Included(included) => Some(included),
            _ => None,
        }
    })
    .await;
    loop {
        match verify_inclusion(trusted, &tx.hash(), &included) {
            Err(VerifyError::Header(LightError::Distant { .. })) => {
                let target = Height::new(included.height);
                client.bridge(trusted, target).await.unwrap();
            }
            verified => return verified.unwrap(),
        }
    }
}

/// A transaction of the faucet that follows those that a node knows.
pub(crate) async fn signed(
    network: &Network,
    node: usize,
    actions: Vec<Action>,
) -> SignedTransaction {
    let (client, key) = (network.sequencer(node), network.faucet());
    let address = key.public_key().address();
    let (info, account) = (
        client.info().await.unwrap(),
        client.account(&address).await.unwrap(),
    );
    let body = TransactionBody {
        chain_id: info.chain_id,
        signer: key.public_key(),
        nonce: Nonce::new(account.pending_nonce),
        tip_per_byte: 0,
        max_fee: Amount::new(u128::MAX),
        valid_until: Height::new(info.height + 300),
        actions,
    };
    SignedTransaction::sign(body, &key).unwrap()
}

/// The code with which a node takes or refuses what the faucet asks for.
pub(crate) async fn verdict(network: &Network, actions: Vec<Action>) -> u32 {
    let (client, tx) = (network.sequencer(0), signed(network, 0, actions).await);
    client.submit(tx.as_bytes().clone()).await.unwrap().code
}

/// Has the network carry out what the authority asks for; gives the height.
pub(crate) async fn decide(network: &Network, actions: Vec<Action>) -> u64 {
    let inclusion = sequence(network, actions).await;
    assert_eq!(inclusion.code, 0, "{}", inclusion.log);
    inclusion.header.height().get()
}

/// Asks for a rollup whose first list is a height's, and that may fill so much of a block.
pub(crate) fn registration(name: &str, first_height: u64, max_bytes_per_block: u32) -> Action {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Action::RegisterRollup(RegisterRollup {
        name: name.into(),
        evm_chain_id: 1_001,
        chain_spec_hash: Hash::ZERO,
        genesis_time: now.unwrap().as_secs() - 120,
        first_height: Height::new(first_height),
        slot_secs: SlotSecs::ONE,
        gas_limit: 30_000_000,
        max_tx_gas: 7_500_000,
        min_tip_wei: 1,
        allow_unprotected: false,
        fee_recipient: EvmAddress::new([1; 20]),
        tip_share_bps: 0,
        max_bytes_per_block,
        max_items_per_block: 100,
        attesters: None,
    })
}

/// The first evidence in a block above `after`, and where.
pub(crate) async fn evidence(network: &Network, after: u64) -> (u64, Value) {
    for height in after + 1..after + 300 {
        network.reach(0, height).await;
        let mut block = network.cometbft(0, &format!("block?height={height}")).await;
        let evidence = block["block"]["evidence"]["evidence"].take();
        if let Some(first) = evidence.get(0) {
            return (height, first.clone());
        }
    }
    panic!("no evidence in 300 blocks after {after}");
}
