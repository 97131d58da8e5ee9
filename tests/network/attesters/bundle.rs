//! Bundles of transfers and of messages, for two rollups of a network.

use std::sync::atomic::{AtomicU64, Ordering};

use alloy_network::TransactionBuilder;
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_provider::Provider;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use borsh::BorshDeserialize;
use bytes::Bytes;
use counterpoint_contracts::{
    IAtomicMailbox::{closeCall, openCall, receiveMessageCall, sendCall},
    MAILBOX,
};
use counterpoint_core::{
    action::{Action, RevealLegs, SubmitBundle},
    atomic::{
        AtomicBundle, BundleTerms, Caller, EvmSignature, LegSeal, Message, OnAbort, SealedTx,
        auth_digest, keccak, session_id,
    },
    key::PublicKey,
    primitive::{Amount, EvmAddress, Hash, RollupId},
    state::{AbortReason, BundleRecord, BundleStatus},
};
use counterpoint_proto::sequencer::{BundleStage, GetBundleRequest, bundles_client::BundlesClient};
use serde_json::{Value, json};

use super::now;
use crate::support::{Network, decide, receipt, sign_transfer, wait_for};

/// Two of the network's rollups, in the order of bundles.
pub(crate) fn rollups(network: &Network, places: [usize; 2]) -> [RollupId; 2] {
    let mut ids = places.map(|rollup| network.info.rollups[rollup].rollup_id);
    ids.sort();
    ids
}

/// Who hands in a bundle, and where it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) account: usize,
    pub(crate) rollups: [usize; 2],
}

/// An account on the first two rollups.
pub(crate) fn account(account: usize) -> Who {
    let rollups = [0, 1];
    Who { account, rollups }
}

/// The place of a rollup in the network.
pub(crate) fn place(network: &Network, id: RollupId) -> usize {
    let mut rollups = network.info.rollups.iter();
    rollups.position(|rollup| rollup.rollup_id == id).unwrap()
}

pub(crate) fn name(network: &Network, id: RollupId) -> String {
    network.info.rollups[place(network, id)].name.clone()
}

/// What is done in a transaction.
pub(crate) struct Step {
    to: Address,
    input: Vec<u8>,
    gas: u64,
}

impl Step {
    /// A call of a contract.
    pub(crate) fn at(to: Address, call: &impl SolCall) -> Self {
        Self {
            to,
            input: call.abi_encode(),
            gas: 500_000,
        }
    }

    fn mailbox(call: &impl SolCall) -> Self {
        Self::at(MAILBOX, call)
    }

    /// The end of a session.
    pub(crate) fn close() -> Self {
        Self::mailbox(&closeCall {})
    }

    fn transfer() -> Self {
        Self {
            to: Address::repeat_byte(0x77),
            input: Vec::new(),
            gas: 21_000,
        }
    }
}

/// What both legs do beside what is common to all bundles.
#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    on_abort: OnAbort,
    attempts: u8,
    extra: Vec<PublicKey>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            on_abort: OnAbort::FailFast,
            attempts: 32,
            extra: Vec::new(),
        }
    }
}

impl Transfers {
    pub(crate) fn on_abort(self, on_abort: OnAbort) -> Self {
        Self { on_abort, ..self }
    }

    pub(crate) fn attempts(self, attempts: u8) -> Self {
        Self { attempts, ..self }
    }

    /// Nothing runs without this key's word.
    pub(crate) fn extra(self, key: PublicKey) -> Self {
        let extra = vec![key];
        Self { extra, ..self }
    }

    /// A transfer on one rollup, a call that reverts on the other.
    pub(crate) async fn doomed(&self, network: &Network, who: Who) -> Sample {
        let legs = [vec![Step::transfer()], vec![Step::close()]];
        Draft::new(network, who).finish(network, legs, self).await
    }

    /// A transfer on each rollup, by an account.
    pub(crate) async fn sample(&self, network: &Network, who: Who) -> Sample {
        let legs = [vec![Step::transfer()], vec![Step::transfer()]];
        Draft::new(network, who).finish(network, legs, self).await
    }
}

/// A bundle before its transactions are signed.
pub(crate) struct Draft {
    account: usize,
    /// A transaction that was sealed once never is again, so those of each bundle are others.
    number: u64,
    rollups: [RollupId; 2],
    salt: Hash,
    callers: Vec<Caller>,
    messages: Vec<Message>,
}

impl Draft {
    pub(crate) fn new(network: &Network, who: Who) -> Self {
        static SALT: AtomicU64 = AtomicU64::new(0);
        let number = SALT.fetch_add(1, Ordering::Relaxed);
        let salt = number.to_be_bytes();
        Self {
            account: who.account,
            number,
            rollups: rollups(network, who.rollups),
            salt: Hash::digest(&[&salt]),
            callers: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// The same with a message from the first rollup to the second, by whom and for whom.
    pub(crate) fn with_message(
        mut self,
        network: &Network,
        ends: [Address; 2],
        data: impl Into<Bytes>,
    ) -> Self {
        let evm = |address: Address| EvmAddress::new(address.into_array());
        let address = evm(network.address(self.account));
        let [sender, receiver] = ends.map(evm);
        let [src, dst] = self.rollups;
        self.callers = self
            .rollups
            .map(|rollup_id| Caller { rollup_id, address })
            .to_vec();
        self.messages = vec![Message {
            src,
            dst,
            index: 0,
            sender,
            receiver,
            data: data.into(),
        }];
        self
    }

    /// The same with a letter of the account's to itself.
    fn with_letter(self, network: &Network) -> Self {
        let address = network.address(self.account);
        self.with_message(network, [address; 2], &b"as agreed"[..])
    }

    /// What the mailboxes call its session.
    pub(crate) fn session(&self) -> B256 {
        word(session_id(&self.salt, &self.callers).as_bytes())
    }

    /// Its message, as contracts know it.
    pub(crate) fn message(&self) -> counterpoint_contracts::Message {
        let message = &self.messages[0];
        counterpoint_contracts::Message {
            src: word(message.src.as_bytes()),
            dst: word(message.dst.as_bytes()),
            index: message.index,
            sender: Address::new(*message.sender.as_bytes()),
            receiver: Address::new(*message.receiver.as_bytes()),
            data: message.data.clone().into(),
        }
    }

    pub(crate) fn open(&self, network: &Network, rollup: RollupId) -> Step {
        let caller = |caller: &Caller| counterpoint_contracts::Caller {
            rollupId: word(caller.rollup_id.as_bytes()),
            caller: Address::new(*caller.address.as_bytes()),
        };
        let inbox = self.messages.iter().filter(|message| message.dst == rollup);
        Step::mailbox(&openCall {
            chainIdHash: keccak256(&network.info.chain_id),
            rollupId: word(rollup.as_bytes()),
            salt: word(self.salt.as_bytes()),
            callers: self.callers.iter().map(caller).collect(),
            inbox: inbox
                .map(|message| word(message.hash().as_bytes()))
                .collect(),
        })
    }

    fn send(&self) -> Step {
        let message = &self.messages[0];
        Step::mailbox(&sendCall {
            session: self.session(),
            dst: word(message.dst.as_bytes()),
            receiver: Address::new(*message.receiver.as_bytes()),
            data: message.data.clone().into(),
        })
    }

    fn receive(&self) -> Step {
        let message = self.message();
        Step::mailbox(&receiveMessageCall { message })
    }

    pub(crate) async fn finish(
        self,
        network: &Network,
        legs: [Vec<Step>; 2],
        how: &Transfers,
    ) -> Sample {
        let signer = network.signer(self.account);
        let (mut raws, mut seals, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        for (rollup_id, steps) in self.rollups.into_iter().zip(legs) {
            let at = place(network, rollup_id);
            let raw = sign(network, at, &signer, steps, self.number).await;
            let sealed = raw.iter().map(|raw| SealedTx {
                tx_hash: keccak(raw),
                auth: EvmSignature::EMPTY,
            });
            let txs: Vec<_> = sealed.collect();
            hashes.push((
                at,
                txs.iter().map(|tx| word(tx.tx_hash.as_bytes())).collect(),
            ));
            seals.push(LegSeal { rollup_id, txs });
            raws.push(raw);
        }
        let mut terms = BundleTerms {
            chain_id: network.info.chain_id.clone(),
            session_salt: self.salt,
            callers: self.callers,
            legs: seals,
            messages: self.messages,
            valid_from: now() - 60,
            valid_until: now() + 3_000,
            on_abort: how.on_abort,
            max_attempts: how.attempts,
            extra_attesters: how.extra.clone(),
            tip_per_attempt: Amount::new(10),
        };
        let id = terms.bundle_id();
        for tx in terms.legs.iter_mut().flat_map(|leg| &mut leg.txs) {
            let digest = auth_digest(&terms.chain_id, &id, &tx.tx_hash);
            let signature = signer.sign_hash_sync(&word(digest.as_bytes())).unwrap();
            tx.auth = EvmSignature::new(signature.as_bytes());
        }
        Sample {
            bundle: AtomicBundle::new(terms).unwrap(),
            raws,
            hashes,
        }
    }
}

pub(crate) fn word(bytes: &[u8; 32]) -> B256 {
    B256::new(*bytes)
}

/// Signs what a leg does, from the account's next nonce on.
async fn sign(
    network: &Network,
    rollup: usize,
    signer: &PrivateKeySigner,
    steps: Vec<Step>,
    number: u64,
) -> Vec<Bytes> {
    let geth = network.geth(rollup);
    let next = wait_for("the next nonce", || async {
        geth.get_transaction_count(signer.address()).await.ok()
    })
    .await;
    let chain_id = network.info.rollups[rollup].evm_chain_id;
    let mut raws = Vec::new();
    for (nonce, step) in (next..).zip(steps) {
        let change = |request: alloy_rpc_types_eth::TransactionRequest| {
            let value = U256::from(u8::from(step.input.is_empty()));
            request
                .with_to(step.to)
                .with_value(value)
                .with_input(step.input)
                .with_gas_limit(step.gas + number)
        };
        let raw = sign_transfer(signer.clone(), chain_id, nonce, change).await;
        raws.push(raw.into());
    }
    raws
}

/// A message that is sent and received.
pub(crate) async fn letter(network: &Network, who: Who) -> Sample {
    let draft = Draft::new(network, who).with_letter(network);
    let [src, dst] = draft.rollups;
    let legs = [
        vec![draft.open(network, src), draft.send(), Step::close()],
        vec![draft.open(network, dst), draft.receive(), Step::close()],
    ];
    draft.finish(network, legs, &Transfers::default()).await
}

/// One that is sent and never received, by legs that all succeed.
pub(crate) async fn unread(network: &Network, who: Who) -> Sample {
    let draft = Draft::new(network, who).with_letter(network);
    let [src, dst] = draft.rollups;
    let legs = [
        vec![draft.open(network, src), draft.send()],
        vec![draft.open(network, dst)],
    ];
    draft.finish(network, legs, &Transfers::default()).await
}

/// A transfer on the first rollup, and a call that reverts on the second.
pub(crate) async fn reverting(network: &Network, who: Who) -> Sample {
    Transfers::default().doomed(network, who).await
}

/// Seals and reveals several bundles.
pub(crate) async fn hand_in(network: &Network, samples: &[Sample]) {
    let seal = |sample: &Sample| {
        let bundle = sample.bundle.clone();
        Action::SubmitBundle(SubmitBundle { bundle })
    };
    decide(network, samples.iter().map(seal).collect()).await;
    let reveal = |sample: &Sample| {
        let reveal = RevealLegs::new(sample.bundle.id(), sample.raws.clone());
        Action::RevealLegs(reveal.unwrap())
    };
    decide(network, samples.iter().map(reveal).collect()).await;
}

/// A bundle with its raw transactions.
pub(crate) struct Sample {
    pub(crate) bundle: AtomicBundle,
    raws: Vec<Vec<Bytes>>,
    /// By leg: the place of the rollup, and what it executes.
    hashes: Vec<(usize, Vec<B256>)>,
}

impl Sample {
    /// Seals and reveals it.
    pub(crate) async fn hand_in(&self, network: &Network) {
        hand_in(network, std::slice::from_ref(self)).await;
    }

    /// What the composer has clients say of it, as JSON.
    pub(crate) async fn simulated(&self, network: &Network) -> Value {
        let hex = |bytes: &[u8]| alloy_primitives::hex::encode_prefixed(bytes);
        let terms = self.bundle.terms();
        let leg = |seal: &LegSeal| {
            let sealed = seal.txs.iter();
            let sealed = sealed.map(|tx| json!({ "hash": hex(tx.tx_hash.as_bytes()) }));
            let sealed: Vec<_> = sealed.collect();
            json!({ "rollup": hex(seal.rollup_id.as_bytes()), "transactions": sealed })
        };
        let message = |message: &Message| {
            json!({
                "src": hex(message.src.as_bytes()), "dst": hex(message.dst.as_bytes()),
                "index": message.index, "sender": hex(message.sender.as_bytes()),
                "receiver": hex(message.receiver.as_bytes()), "data": hex(&message.data),
            })
        };
        let caller = |caller: &Caller| {
            let rollup = hex(caller.rollup_id.as_bytes());
            json!({ "rollup": rollup, "address": hex(caller.address.as_bytes()) })
        };
        let document = json!({
            "chainId": terms.chain_id,
            "sessionSalt": hex(terms.session_salt.as_bytes()),
            "callers": terms.callers.iter().map(caller).collect::<Vec<_>>(),
            "legs": terms.legs.iter().map(leg).collect::<Vec<_>>(),
            "messages": terms.messages.iter().map(message).collect::<Vec<_>>(),
            "validFrom": terms.valid_from,
            "validUntil": terms.valid_until,
        });
        let params = json!([document, self.raws]);
        let said = network.rpc(0, "counterpoint_simulateBundle", params).await;
        said.unwrap()
    }

    /// What is known of it.
    pub(crate) async fn record(&self, network: &Network) -> BundleRecord {
        let record = || async { Some(self.look(network).await?.1) };
        wait_for("a bundle's record", record).await
    }

    async fn look(&self, network: &Network) -> Option<(BundleStage, BundleRecord)> {
        let url = network.info.validators[0].grpc.clone();
        let mut client = BundlesClient::connect(url).await.ok()?;
        let bundle_id = Bytes::copy_from_slice(self.bundle.id().as_bytes());
        let bundle = client.get_bundle(GetBundleRequest { bundle_id }).await;
        let bundle = bundle.ok()?.into_inner();
        let record = BundleRecord::try_from_slice(&bundle.borsh_record).unwrap();
        Some((bundle.stage(), record))
    }

    /// Waits until nothing of it can run any more that has not. Then all of it has, or nothing.
    pub(crate) async fn is_whole_or_nowhere(&self, network: &Network) -> Option<AbortReason> {
        let (stage, record) = wait_for("a bundle to be decided", || async {
            let told = self.look(network).await;
            told.filter(|(_, record)| !record.status.is_live())
        })
        .await;
        assert_ne!(stage, BundleStage::Violated);
        match record.status {
            BundleStatus::Aborted(reason) => {
                self.never_ran(network).await;
                Some(reason)
            }
            _ => {
                self.ran(network).await;
                None
            }
        }
    }

    /// Waits until it is over, which it must be as said.
    pub(crate) async fn ends_as(&self, network: &Network, stage: BundleStage) -> BundleRecord {
        let (ended, record) = wait_for("a bundle to end", || async {
            let (stage, record) = self.look(network).await?;
            let goes_on = record.status.is_live() || stage == BundleStage::Released;
            (!goes_on).then_some((stage, record))
        })
        .await;
        assert_eq!(ended, stage, "{record:?}");
        record
    }

    /// All of it succeeded in its slot, on every client.
    pub(crate) async fn ran(&self, network: &Network) {
        let release = self.record(network).await.release.unwrap();
        for ((rollup, hashes), leg) in self.hashes.iter().zip(release.legs) {
            for (index, hash) in (0..).zip(hashes) {
                let receipt = receipt(&network.geth(*rollup), *hash).await;
                assert!(receipt.status(), "{receipt:?}");
                let place = (receipt.block_number, receipt.transaction_index);
                assert_eq!(
                    place,
                    (Some(leg.block_number), Some(index)),
                    "legs run first"
                );
            }
        }
    }

    /// No client has any of it.
    pub(crate) async fn never_ran(&self, network: &Network) {
        for (rollup, hashes) in &self.hashes {
            let geth = network.geth(*rollup);
            for hash in hashes {
                let receipt = wait_for("an answer about a receipt", || async {
                    geth.get_transaction_receipt(*hash).await.ok()
                })
                .await;
                assert!(receipt.is_none(), "{receipt:?}");
            }
        }
    }
}
