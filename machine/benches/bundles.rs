//! What atomic bundles cost the state machine: those that are released, and plaintext beside seals.
//!
//! Each figure is that of the fastest of many blocks on a state in memory, printed as a JSON line.
#![expect(clippy::unwrap_used, reason = "a benchmark may end")]
#![expect(clippy::disallowed_types, reason = "a benchmark measures time")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, RevealLegs, SubmitBundle, SubmitData},
    atomic::{
        AtomicBundle, Attestation, AttesterKeys, AttesterMessage, AttesterSet, Attesters,
        BundleTerms, EvmSignature, LegOutcome, LegSeal, OnAbort, SealedTx, Statement,
        VerifiedMessage, inbox_hash, keccak, outbox_hash, testing,
    },
    genesis::{GenesisAccount, SequencerGenesis},
    key::{PublicKey, SecretKey},
    primitive::{Amount, EvmAddress, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::HeaderTime,
    state::{AtomicRollup, Key, SealedSender},
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_machine::{
    Block, BlockContext, ChainStart, Changes, MemState, finalize, init_chain, prepare, process,
    query, scheduled,
};

const CHAIN_ID: &str = "bench";
const START: u64 = 1_800_000_000;
/// Blocks that are measured.
const ROUNDS: usize = 30;
/// Room in a block, in bytes.
const MAX_BYTES: u64 = 4_000_000;
/// Items of 112 bytes of a full block of one rollup.
const ITEMS: usize = 10_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn name(rollup: usize) -> String {
    format!("rollup-{rollup}")
}

fn chain_id(rollup: usize) -> u64 {
    1_000 + rollup as u64
}

/// A chain in memory.
struct Chain {
    state: MemState,
    height: u64,
    millis: u64,
}

/// How long the parts of a block took.
#[derive(Clone, Copy)]
struct Took {
    prepare: Duration,
    process: Duration,
    finalize: Duration,
}

impl Chain {
    fn new(rollups: usize) -> Self {
        let mut keys: Vec<PublicKey> = [50, 51, 52].map(|seed| key(seed).public_key()).to_vec();
        keys.sort();
        let set = AttesterSet {
            epoch: 1,
            members: AttesterKeys::new(keys, 2).unwrap(),
        };
        let rollup = |at| RollupConfig {
            evm_chain_id: chain_id(at),
            genesis_time: START - 100,
            attesters: Attesters(Some(set.clone())),
            ..RollupConfig::example(&name(at))
        };
        let account = |seed| GenesisAccount {
            address: key(seed).public_key().address(),
            balance: Amount::new(1_000_000_000_000_000),
        };
        let genesis = SequencerGenesis {
            accounts: vec![account(1)],
            rollups: (0..rollups).map(rollup).collect(),
            ..SequencerGenesis::default()
        };
        let time = HeaderTime {
            seconds: START,
            nanos: 0,
        };
        let start = ChainStart::example(CHAIN_ID, time, &[1]);
        let mut state = MemState::default();
        state.apply(init_chain(&genesis, &start).unwrap());
        Self {
            state,
            height: 0,
            millis: START * 1_000,
        }
    }

    fn sign(&self, nonce: u64, actions: Vec<Action>) -> SignedTransaction {
        let body = TransactionBody {
            chain_id: CHAIN_ID.into(),
            signer: key(1).public_key(),
            nonce: Nonce::new(nonce),
            tip_per_byte: 0,
            max_fee: Amount::new(u128::MAX),
            valid_until: Height::new(self.height + 50),
            actions,
        };
        SignedTransaction::sign(body, &key(1)).unwrap()
    }

    /// Chooses and judges a block without committing it.
    fn try_block(
        &self,
        messages: &[VerifiedMessage],
        txs: Vec<SignedTransaction>,
    ) -> (Took, Vec<Bytes>, Changes) {
        let seconds = self.millis / 1_000;
        let ctx = BlockContext {
            height: Height::new(self.height + 1),
            time: HeaderTime { seconds, nanos: 0 },
            proposer: key(101).public_key().address(),
            misbehaved: vec![],
        };
        let known = txs.clone();
        let start = Instant::now();
        let items = prepare(&self.state, &ctx, messages, txs, MAX_BYTES).unwrap();
        let prepare = start.elapsed();
        // Signatures of transactions were verified by the mempool, those of system items never are.
        let lookup = |item: &Bytes| known.iter().find(|tx| tx.as_bytes() == item).cloned();
        let block = Block::decode(&items, lookup).unwrap();
        let start = Instant::now();
        let execution = process(&self.state, &ctx, &block).unwrap();
        let process = start.elapsed();
        let start = Instant::now();
        let hash = Hash::digest(&[&self.height.to_be_bytes()]);
        let outcome = finalize(execution, hash).unwrap();
        let took = Took {
            prepare,
            process,
            finalize: start.elapsed(),
        };
        (took, items, outcome.changes)
    }

    fn advance(&mut self, txs: Vec<SignedTransaction>, millis: u64) {
        let (_, items, changes) = self.try_block(&[], txs.clone());
        assert_eq!(items.len(), txs.len() + 1, "all of them fit");
        self.state.apply(changes);
        (self.height, self.millis) = (self.height + 1, self.millis + millis);
    }
}

/// The least that prepare, process and finalize took, in microseconds.
fn measure(chain: &Chain, messages: &[VerifiedMessage], txs: &[SignedTransaction]) -> [f64; 3] {
    let took: Vec<Took> = (0..ROUNDS)
        .map(|_| chain.try_block(messages, txs.to_vec()).0)
        .collect();
    let of = |part: fn(&Took) -> Duration| {
        let least = took.iter().map(part).min().unwrap();
        least.as_secs_f64() * 1e6
    };
    [of(|t| t.prepare), of(|t| t.process), of(|t| t.finalize)]
}

/// A bundle with so many transactions for each of these rollups, and its legs.
fn bundle(rollups: &[usize], txs: u64, number: u64) -> (AtomicBundle, Vec<Vec<Bytes>>) {
    let mut rollups: Vec<(RollupId, u64)> = rollups
        .iter()
        .map(|at| (RollupId::from_name(&name(*at)), chain_id(*at)))
        .collect();
    rollups.sort();
    let leg = |(_, chain_id): &(RollupId, u64)| -> Vec<Bytes> {
        let nonces = number * txs..(number + 1) * txs;
        nonces
            .map(|nonce| testing::raw_transaction(1, *chain_id, nonce))
            .collect()
    };
    let legs: Vec<Vec<Bytes>> = rollups.iter().map(leg).collect();
    let seal = |raw: &Bytes| SealedTx {
        tx_hash: keccak(raw),
        auth: EvmSignature::EMPTY,
    };
    let seals = rollups.iter().zip(&legs);
    let seals = seals.map(|((rollup_id, _), raws)| LegSeal {
        rollup_id: *rollup_id,
        txs: raws.iter().map(seal).collect(),
    });
    let mut terms = BundleTerms {
        chain_id: CHAIN_ID.into(),
        session_salt: Hash::digest(&[&number.to_be_bytes(), rollups[0].0.as_bytes()]),
        callers: vec![],
        legs: seals.collect(),
        messages: vec![],
        valid_from: START,
        // Only so many end at one second.
        valid_until: START + 1_000 + number,
        on_abort: OnAbort::Retry,
        max_attempts: 1,
        extra_attesters: vec![],
        tip_per_attempt: Amount::new(1_000),
    };
    testing::sign_auths(&mut terms, 1);
    (AtomicBundle::new(terms).unwrap(), legs)
}

/// Two of three attesters of every scheduled leg say that it commits.
fn votes(chain: &Chain) -> Vec<VerifiedMessage> {
    let mut messages = Vec::new();
    for scheduled in scheduled(&chain.state, Height::new(chain.height)).unwrap() {
        let sent = &scheduled.bundle.terms().messages;
        for leg in &scheduled.legs {
            let id = leg.ballot.rollup_id;
            let statement = Statement {
                parent_hash: Hash::ZERO,
                env_hash: leg.env.hash(),
                base_fee: 0,
                outcome: LegOutcome::Commit {
                    in_hash: inbox_hash(&id, sent),
                    out_hash: outbox_hash(&id, sent),
                    receipts_hash: Hash::ZERO,
                },
            };
            for seed in [50, 51] {
                let said = Attestation::sign(CHAIN_ID, leg.ballot, statement.clone(), &key(seed));
                let message = AttesterMessage::Attestation(said).verify(CHAIN_ID);
                messages.push(message.unwrap());
            }
        }
    }
    messages
}

/// Bundles for disjoint pairs of rollups, of eight transactions per leg, all released in one slot.
fn released(rollups: usize) {
    let mut chain = Chain::new(rollups);
    chain.advance(vec![], 250);
    let mut nonce = 0;
    for first in (0..rollups).step_by(2) {
        let (bundle, legs) = bundle(&[first, first + 1], 8, 0);
        let reveal = RevealLegs::new(bundle.id(), legs).unwrap();
        let submit = Action::SubmitBundle(SubmitBundle { bundle });
        let txs = [submit, Action::RevealLegs(reveal)].map(|action| {
            nonce += 1;
            chain.sign(nonce - 1, vec![action])
        });
        chain.advance(txs.to_vec(), 0);
    }
    let empty = measure(&chain, &[], &[]);
    chain.advance(vec![], 1_000);
    chain.advance(vec![], 250);
    let messages = votes(&chain);
    assert_eq!(messages.len(), rollups * 2, "all are scheduled");
    let [prepare, process, finalize] = measure(&chain, &messages, &[]);
    println!(
        "{{\"rollups\": {rollups}, \"bundles\": {}, \"prepare_us\": {prepare:.0}, \
         \"process_us\": {process:.0}, \"finalize_us\": {finalize:.0}, \"empty_process_us\": {:.0}}}",
        rollups / 2,
        empty[1],
    );
}

/// A full block of plaintext for a rollup of which so many transactions are sealed, none of them in it.
fn plaintext(seals: u64) {
    let mut chain = Chain::new(1);
    chain.advance(vec![], 250);
    seal(&mut chain, seals);
    let raws: Vec<Bytes> = (0..ITEMS as u64)
        .map(|at| [&at.to_be_bytes()[..], &[7; 104]].concat().into())
        .collect();
    let txs = batches(&chain, &raws);
    let [prepare, process, _] = measure(&chain, &[], &txs);
    println!(
        "{{\"items\": {ITEMS}, \"seals\": {seals}, \"prepare_us\": {prepare:.0}, \
         \"process_us\": {process:.0}}}"
    );
}

/// A full block of a transaction that a stranger sealed, again and again.
fn strangers() {
    let mut chain = Chain::new(1);
    chain.advance(vec![], 250);
    let raw = testing::raw_transaction(1, chain_id(0), 0);
    let id = RollupId::from_name(&name(0));
    let hash = Key::SealedHash(id, keccak(&raw)).encode();
    let unseen = borsh::to_vec(&SealedSender::Unseen).unwrap();
    chain.state.apply(Changes::from([(hash, Some(unseen))]));
    seal(&mut chain, 1);
    let txs = batches(&chain, &vec![raw; ITEMS]);
    let [prepare, process, _] = measure(&chain, &[], &txs);
    println!(
        "{{\"items\": {ITEMS}, \"sealed_by\": \"a stranger\", \"prepare_us\": {prepare:.0}, \
         \"process_us\": {process:.0}}}"
    );
}

fn batches(chain: &Chain, raws: &[Bytes]) -> Vec<SignedTransaction> {
    let id = RollupId::from_name(&name(0));
    let data = |raws: &[Bytes]| Action::SubmitData(SubmitData::new(id, raws.to_vec()).unwrap());
    let chunks = raws.chunks(2_000).enumerate();
    chunks
        .map(|(nonce, raws)| chain.sign(nonce as u64, vec![data(raws)]))
        .collect()
}

/// Writes seals into the state as SubmitBundle does.
fn seal(chain: &mut Chain, seals: u64) {
    let id = RollupId::from_name(&name(0));
    let mut changes = Changes::new();
    for number in 0..seals {
        let hash = Hash::digest(&[&number.to_be_bytes()]);
        let seal = Key::Seal(id, hash, EvmAddress::new([1; 20]));
        changes.insert(seal.encode(), Some(vec![0; 32]));
        let unseen = borsh::to_vec(&SealedSender::Unseen).unwrap();
        changes.insert(Key::SealedHash(id, hash).encode(), Some(unseen));
    }
    let rollup = AtomicRollup {
        seals,
        ..AtomicRollup::default()
    };
    let rollup = borsh::to_vec(&rollup).unwrap();
    changes.insert(Key::AtomicRollup(id).encode(), Some(rollup));
    chain.state.apply(changes);
}

/// The dearest block for its bytes: bundles of eight legs, each with eight transactions.
fn submissions() {
    let rollups: Vec<usize> = (0..8).collect();
    let mut chain = Chain::new(rollups.len());
    chain.advance(vec![], 250);
    let txs: Vec<SignedTransaction> = (0..64)
        .map(|number| {
            let (bundle, _) = bundle(&rollups, 8, number);
            chain.sign(number, vec![Action::SubmitBundle(SubmitBundle { bundle })])
        })
        .collect();
    let bytes = txs.iter().fold(0, |sum, tx| sum + tx.as_bytes().len());
    let [prepare, process, _] = measure(&chain, &[], &txs);
    println!(
        "{{\"submissions\": 64, \"seals\": 4096, \"bytes\": {bytes}, \"prepare_us\": {prepare:.0}, \
         \"process_us\": {process:.0}}}"
    );
}

/// The block before a slot, while all queues are full of bundles that cannot run yet.
fn full_queues(rollups: usize) {
    let mut chain = Chain::new(rollups);
    chain.advance(vec![], 250);
    let mut nonce = 0;
    for number in 0..64 {
        let mut txs = Vec::new();
        for first in (0..rollups).step_by(2) {
            let (bundle, legs) = bundle(&[first, first + 1], 1, number);
            let reveal = RevealLegs::new(bundle.id(), legs).unwrap();
            let submit = Action::SubmitBundle(SubmitBundle { bundle });
            for action in [submit, Action::RevealLegs(reveal)] {
                txs.push(chain.sign(nonce, vec![action]));
                nonce += 1;
            }
        }
        chain.advance(txs, 0);
    }
    for first in 0..rollups {
        let id = RollupId::from_name(&name(first));
        assert_eq!(query::bundles(&chain.state, id).unwrap().len(), 64);
    }
    let before = measure(&chain, &[], &[]);
    chain.millis += 1_000;
    let closing = measure(&chain, &[], &[]);
    println!(
        "{{\"rollups\": {rollups}, \"queued\": {}, \"process_us\": {:.0}, \"closing_process_us\": {:.0}}}",
        rollups * 32,
        before[1],
        closing[1],
    );
}

fn main() {
    for rollups in [2, 8, 32] {
        released(rollups);
    }
    for seals in [0, 10, 1_000, 100_000] {
        plaintext(seals);
    }
    strangers();
    submissions();
    for rollups in [2, 32, 256] {
        full_queues(rollups);
    }
}
