//! Bundles, and attesters that say what they are told to.

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, RevealLegs, SubmitBundle},
    atomic::{
        AtomicBundle, Attestation, AttesterKeys, AttesterMessage, AttesterSet, Attesters,
        BundleTerms, EvmSignature, Executed, Failure, LegOutcome, LegSeal, OnAbort, OutcomeVote,
        SealedTx, Statement, inbox_hash, keccak, outbox_hash, testing,
    },
    genesis::SequencerGenesis,
    key::PublicKey,
    primitive::{Amount, Hash, RollupId},
    registry::RollupConfig,
    state::{BundleRecord, BundleStatus},
};
use counterpoint_machine::{ScheduledBundle, ScheduledLeg, query, scheduled};

use super::{CHAIN_ID, GENESIS_SECS, Node, genesis, key, sign};

/// Attesters of every rollup have these seeds; two make a quorum.
pub(crate) const ATTESTERS: [u8; 3] = [50, 51, 52];

/// Two rollups with attesters.
pub(crate) fn attested_genesis() -> SequencerGenesis {
    let mut keys: Vec<PublicKey> = ATTESTERS.map(|seed| key(seed).public_key()).to_vec();
    keys.sort();
    let set = AttesterSet {
        epoch: 1,
        members: AttesterKeys::new(keys, 2).unwrap(),
    };
    let base = genesis();
    let rollup = |name: &str, evm_chain_id| RollupConfig {
        rollup_id: RollupId::from_name(name),
        name: name.into(),
        evm_chain_id,
        attesters: Attesters(Some(set.clone())),
        ..base.rollups[0].clone()
    };
    let rollups = vec![rollup("alpha", 1_001), rollup("beta", 1_002)];
    SequencerGenesis { rollups, ..base }
}

/// A bundle with its raw legs, one transaction for each rollup.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) bundle: AtomicBundle,
    legs: Vec<Vec<Bytes>>,
}

impl Sample {
    /// One that differs from those of other numbers.
    pub(crate) fn new(number: u64, change: impl FnOnce(&mut BundleTerms)) -> Self {
        let mut rollups = [("alpha", 1_001), ("beta", 1_002)]
            .map(|(name, chain_id)| (RollupId::from_name(name), chain_id));
        rollups.sort();
        let legs = rollups.map(|(_, id)| vec![testing::raw_transaction(1, id, number)]);
        let seal = |raw: &Bytes| SealedTx {
            tx_hash: keccak(raw),
            auth: EvmSignature::EMPTY,
        };
        let seals = rollups.iter().zip(&legs);
        let seals = seals.map(|((rollup_id, _), raws)| LegSeal {
            rollup_id: *rollup_id,
            txs: raws.iter().map(seal).collect(),
        });
        let from = u64::try_from(GENESIS_SECS).unwrap();
        let mut terms = BundleTerms {
            chain_id: CHAIN_ID.into(),
            session_salt: Hash::digest(&[&number.to_be_bytes()]),
            callers: vec![],
            legs: seals.collect(),
            messages: vec![],
            valid_from: from,
            valid_until: from + 3_600,
            on_abort: OnAbort::FailFast,
            max_attempts: 3,
            extra_attesters: vec![],
            tip_per_attempt: Amount::new(1_000),
        };
        change(&mut terms);
        testing::sign_auths(&mut terms, 1);
        let bundle = AtomicBundle::new(terms).unwrap();
        let legs = legs.to_vec();
        Self { bundle, legs }
    }

    /// Seals and reveals it, by account `seed`, whose next nonce is `nonce`.
    pub(crate) fn transactions(&self, seed: u8, nonce: u64) -> [Bytes; 2] {
        let bundle = self.bundle.clone();
        let submit = Action::SubmitBundle(SubmitBundle { bundle });
        let reveal = RevealLegs::new(self.bundle.id(), self.legs.clone()).unwrap();
        let reveal = Action::RevealLegs(reveal);
        [
            sign(seed, nonce, 0, submit),
            sign(seed, nonce + 1, 0, reveal),
        ]
    }

    pub(crate) fn record(&self, node: &Node) -> Option<BundleRecord> {
        query::bundle(&node.store.state(), self.bundle.id()).unwrap()
    }

    pub(crate) fn status(&self, node: &Node) -> BundleStatus {
        self.record(node).expect("the bundle is known").status
    }

    /// What an attester of its legs would truly say of their blocks.
    pub(crate) fn outcomes(&self, node: &Node, seed: u8) -> Vec<Bytes> {
        self.outcomes_but(node, seed, |_| {})
    }

    /// The same, but for what `change` does to it.
    pub(crate) fn outcomes_but(
        &self,
        node: &Node,
        seed: u8,
        change: impl Fn(&mut Executed),
    ) -> Vec<Bytes> {
        let release = self.record(node).and_then(|record| record.release).unwrap();
        let legs = self.bundle.rollups().into_iter().zip(release.legs);
        let vote = |(rollup_id, leg): (RollupId, counterpoint_core::state::ReleasedLeg)| {
            let mut executed = Executed {
                bundle_id: self.bundle.id(),
                rollup_id,
                block_number: leg.block_number,
                block_hash: Hash::new([2; 32]),
                receipts_hash: leg.receipts_hash,
            };
            change(&mut executed);
            let vote = OutcomeVote::sign(CHAIN_ID, executed, &key(seed));
            AttesterMessage::Outcome(vote).encode()
        };
        legs.map(vote).collect()
    }
}

/// What an attester says of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Commit,
    Abort,
    /// That it commits, with receipts that it will not have.
    Lie,
}

/// What a node would have its attesters execute now.
pub(crate) fn now(node: &Node) -> Vec<ScheduledBundle> {
    let tip = node.store.tip().unwrap().height;
    scheduled(&node.store.state(), tip).unwrap()
}

/// What attester `seed` says of every leg that is scheduled.
pub(crate) fn attest(bundles: &[ScheduledBundle], seed: u8, says: Says) -> Vec<Bytes> {
    let mut messages = Vec::new();
    for ScheduledBundle { bundle, legs } in bundles {
        for leg in legs {
            let statement = statement(bundle, leg, says);
            let attestation = Attestation::sign(CHAIN_ID, leg.ballot, statement, &key(seed));
            messages.push(AttesterMessage::Attestation(attestation).encode());
        }
    }
    messages
}

fn statement(bundle: &AtomicBundle, leg: &ScheduledLeg, says: Says) -> Statement {
    let (rollup_id, messages) = (leg.ballot.rollup_id, &bundle.terms().messages);
    let mut env = leg.env.clone();
    env.base_fee = 7;
    let commit = |receipts: &[u8]| LegOutcome::Commit {
        in_hash: inbox_hash(&rollup_id, messages),
        out_hash: outbox_hash(&rollup_id, messages),
        receipts_hash: Hash::digest(&[bundle.id().as_bytes(), rollup_id.as_bytes(), receipts]),
    };
    let outcome = match says {
        Says::Commit => commit(b""),
        Says::Lie => commit(b"lie"),
        Says::Abort => LegOutcome::Abort {
            failure: Failure::Revert,
            tx: 0,
        },
    };
    Statement {
        parent_hash: Hash::new([1; 32]),
        env_hash: env.hash(),
        base_fee: 7,
        outcome,
    }
}

impl Node {
    /// A node of the chain of [`attested_genesis`], with one block.
    pub(crate) async fn start_attested(path: &std::path::Path) -> Self {
        let node = Self::open(path);
        node.init_attested().await;
        node
    }

    pub(crate) async fn init_attested(&self) {
        let app_state = serde_json::to_vec(&attested_genesis()).unwrap();
        self.init(app_state).await.unwrap();
        self.advance().await;
    }

    /// Has a bundle sealed and revealed, and goes on until it is scheduled.
    pub(crate) async fn schedule(&self, sample: &Sample) {
        for tx in sample.transactions(2, self.next_nonce(2)) {
            assert_eq!(self.check(&tx).await, (0, String::new()));
        }
        self.advance().await;
        self.until_scheduled(sample).await;
    }

    pub(crate) async fn until_scheduled(&self, sample: &Sample) {
        for _ in 0..20 {
            if matches!(sample.status(self), BundleStatus::Scheduled(_)) {
                return;
            }
            self.advance().await;
        }
        panic!("never scheduled: {:?}", sample.record(self));
    }
}
