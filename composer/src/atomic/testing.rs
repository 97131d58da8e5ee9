//! Bundles of account 1 for two rollups, and what the state has of these.

use bytes::Bytes;
use counterpoint_core::{
    atomic::{
        AtomicBundle, AttesterKeys, AttesterSet, Attesters, BundleTerms, EvmSignature, LegSeal,
        OnAbort, SealedTx, keccak, testing,
    },
    key::SecretKey,
    primitive::{Amount, Hash, Height, RollupId},
    registry::RollupConfig,
    state::RollupRecord,
};

use super::judge::Rollups;

pub(super) const CHAIN: &str = "test-chain";
pub(super) const NOW: u64 = 1_000;

/// Both rollups, ascending; their chain ids are 1,001 and 1,002.
pub(super) fn rollups() -> Rollups {
    [("alpha", 1_001), ("beta", 1_002)]
        .map(|(name, evm_chain_id)| {
            let key = SecretKey::from_seed([50; 32]).public_key();
            let members = AttesterKeys::new(vec![key], 1).unwrap();
            let config = RollupConfig {
                evm_chain_id,
                attesters: Attesters(Some(AttesterSet { epoch: 1, members })),
                ..RollupConfig::example(name)
            };
            let record = RollupRecord {
                config_hash: config.hash(),
                config,
                first_opening: Some(1),
                pending: None,
                deposit: Amount::ZERO,
                paid_until: Height::new(u64::MAX),
            };
            (RollupId::from_name(name), record)
        })
        .into()
}

/// A bundle to be.
pub(super) struct Sample {
    pub(super) terms: BundleTerms,
    pub(super) legs: Vec<Vec<Bytes>>,
    /// Who signs the auths.
    pub(super) signer: u8,
    /// Auths that take the place of the signer's, by leg and transaction.
    pub(super) auths: Vec<(usize, usize, EvmSignature)>,
}

impl Sample {
    /// The bundle whose transactions have this nonce; it may run for 100 seconds from [`NOW`] on.
    pub(super) fn new(nonce: u64) -> Self {
        let legs: Vec<_> = rollups()
            .values()
            .map(|record| {
                vec![testing::raw_transaction(
                    1,
                    record.config.evm_chain_id,
                    nonce,
                )]
            })
            .collect();
        let seal = |(id, raws): (&RollupId, &Vec<Bytes>)| LegSeal {
            rollup_id: *id,
            txs: raws.iter().map(|raw| sealed(raw)).collect(),
        };
        let terms = BundleTerms {
            chain_id: CHAIN.into(),
            session_salt: Hash::digest(&[&nonce.to_be_bytes()]),
            callers: vec![],
            legs: rollups().keys().zip(&legs).map(seal).collect(),
            messages: vec![],
            valid_from: NOW,
            valid_until: NOW + 100,
            on_abort: OnAbort::FailFast,
            max_attempts: 2,
            extra_attesters: vec![],
            tip_per_attempt: Amount::ZERO,
        };
        Self {
            terms,
            legs,
            signer: 1,
            auths: vec![],
        }
    }

    /// Puts another transaction in the place of one.
    pub(super) fn replace(&mut self, leg: usize, tx: usize, raw: Bytes) {
        self.terms.legs[leg].txs[tx] = sealed(&raw);
        self.legs[leg][tx] = raw;
    }

    pub(super) fn bundle(&self) -> AtomicBundle {
        let mut terms = self.terms.clone();
        testing::sign_auths(&mut terms, self.signer);
        for (leg, tx, auth) in &self.auths {
            terms.legs[*leg].txs[*tx].auth = *auth;
        }
        AtomicBundle::new(terms).unwrap()
    }
}

fn sealed(raw: &[u8]) -> SealedTx {
    SealedTx {
        tx_hash: keccak(raw),
        auth: EvmSignature::EMPTY,
    }
}
