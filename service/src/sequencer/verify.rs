//! From an answer to what it proves. Nothing here asks anybody.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use counterpoint_core::{
    block::{LeafProof, ProofError, RollupItem, RollupLeaf, TransactionProof, VerifiedList},
    light::{LightError, TrustedState, VerifiedHeader, decode_signed_header, decode_validators},
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
    state::{Key, StateProof, StateProofError},
};
use counterpoint_proto::sequencer::{
    GetHeaderResponse, GetStateProofResponse, RollupBlock, get_transaction_response::Included,
};

/// One rollup's part of a block, proven, and the configuration it is executed under.
#[derive(Clone, Debug)]
pub struct VerifiedBlock {
    /// The whole list.
    pub list: VerifiedList,
    /// The preimage of the leaf's `config_hash`.
    pub config: RollupConfig,
}

/// Why an answer is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The header is not signed, not decodable or not the next.
    #[error("header")]
    Header(#[from] LightError),
    /// The Merkle path does not hold.
    #[error("proof")]
    Proof(#[from] ProofError),
    /// The state holds something else.
    #[error("state proof")]
    State(#[from] StateProofError),
    /// A field is not what the protocol says.
    #[error("failed to decode {what}")]
    Decode {
        /// Which field.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The answer is about another height.
    #[error("expected height {expected}, found {actual}")]
    Height {
        /// What was asked for.
        expected: Height,
        /// What came.
        actual: Height,
    },
    /// The configuration is missing, or another one than the leaf commits to.
    #[error("no configuration with the digest {0} that the leaf commits to")]
    Config(Hash),
}

/// Headers whose signatures were verified lately. Clones share them: whoever follows many rollups
/// verifies each header once.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(Arc<Mutex<VecDeque<Seen>>>);

/// A step from one trusted state to the next, and the bytes that it was taken by.
#[derive(Debug)]
struct Seen {
    before: TrustedState,
    signed_header: Bytes,
    validators: Bytes,
    after: TrustedState,
    header: VerifiedHeader,
}

/// Steps that are remembered: of a height at the tip nodes serve few commits.
const MAX_SEEN: usize = 8;

impl Headers {
    /// Takes the step to the header of `message`, as [`TrustedState::verify`] does; on `Err` nothing changes.
    fn verify(
        &self,
        trusted: &mut TrustedState,
        expected: Height,
        message: &RollupBlock,
    ) -> Result<VerifiedHeader, VerifyError> {
        let (signed_header, validators) = (&message.signed_header, &message.validators);
        let is_same = |seen: &&Seen| {
            seen.signed_header == signed_header
                && seen.validators == validators
                && seen.header.height() == expected
                && seen.before == *trusted
        };
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.iter().find(is_same) {
            *trusted = seen.after.clone();
            return Ok(seen.header.clone());
        }
        drop(seen);
        let before = trusted.clone();
        let header = verify_header(trusted, expected, signed_header, validators)?;
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.truncate(MAX_SEEN - 1);
        seen.push_front(Seen {
            before,
            signed_header: signed_header.clone(),
            validators: validators.clone(),
            after: trusted.clone(),
            header: header.clone(),
        });
        Ok(header)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Verifies one rollup's blocks, one after another.
#[derive(Clone, Debug)]
pub struct Verifier {
    rollup_id: RollupId,
    trusted: TrustedState,
    config: Option<RollupConfig>,
    next: Height,
    headers: Headers,
}

impl Verifier {
    /// Verifies blocks of `rollup_id` from height `next` on, which lies above `trusted`.
    #[must_use]
    pub fn new(rollup_id: RollupId, trusted: TrustedState, next: Height) -> Self {
        Self {
            rollup_id,
            trusted,
            config: None,
            next,
            headers: Headers::default(),
        }
    }

    /// Verifies headers together with others.
    pub(super) fn sharing(self, headers: Headers) -> Self {
        Self { headers, ..self }
    }

    /// What is trusted after the last block.
    #[must_use]
    pub fn trusted(&self) -> &TrustedState {
        &self.trusted
    }

    /// The height of the block that comes next.
    #[must_use]
    pub fn next(&self) -> Height {
        self.next
    }

    pub(super) fn rollup_id(&self) -> RollupId {
        self.rollup_id
    }

    /// Trusts what was verified by headers alone.
    pub(super) fn trust(&mut self, trusted: TrustedState) {
        self.trusted = trusted;
    }

    /// Verifies the next block. Nothing changes unless every step holds: another node may still
    /// prove this height.
    ///
    /// # Errors
    /// [`VerifyError`] names the first step that does not hold.
    pub fn accept(&mut self, message: &RollupBlock) -> Result<VerifiedBlock, VerifyError> {
        let mut trusted = self.trusted.clone();
        let header = self.headers.verify(&mut trusted, self.next, message)?;
        let list = verify_list(&self.rollup_id, &header, message)?;
        let committed = list.leaf().env.config_hash;
        let known = self.config.take_if(|config| config.hash() == committed);
        let config = match known {
            Some(config) => config,
            None => Some(decode("configuration", &message.borsh_config)?)
                .filter(|config: &RollupConfig| config.hash() == committed)
                .ok_or(VerifyError::Config(committed))?,
        };
        self.config = Some(config.clone());
        self.trusted = trusted;
        self.next = Height::new(self.next.get().saturating_add(1));
        Ok(VerifiedBlock { list, config })
    }

    /// The leaf of the trusted header's own block, which was verified before this verifier was.
    pub(super) fn trusted_leaf(&self, message: &RollupBlock) -> Result<RollupLeaf, VerifyError> {
        let signed = decode_signed_header(&message.signed_header)?;
        let header = self.trusted.recognise(&signed)?;
        let proof: LeafProof = decode("leaf proof", &message.borsh_leaf_proof)?;
        let leaf = proof.verify(&self.rollup_id, &header)?;
        Ok(leaf.leaf().clone())
    }
}

/// Verifies a rollup's list against a header.
///
/// # Errors
/// [`VerifyError`] if leaf or items do not lead to it.
pub fn verify_list(
    rollup_id: &RollupId,
    header: &VerifiedHeader,
    message: &RollupBlock,
) -> Result<VerifiedList, VerifyError> {
    let proof: LeafProof = decode("leaf proof", &message.borsh_leaf_proof)?;
    let items: Vec<RollupItem> = decode("list", &message.borsh_list)?;
    Ok(proof.verify(rollup_id, header)?.verify_list(items)?)
}

/// Where a transaction stands, proven. Code and text are the node's word: they follow from the
/// chain, but no header of this height commits to them.
#[derive(Clone, Debug)]
pub struct Inclusion {
    /// The header of the block that holds it.
    pub header: VerifiedHeader,
    /// 0 if the node says that it was executed.
    pub code: u32,
    /// Why not, in the node's words.
    pub log: String,
}

/// Verifies that the block of what is `trusted`, or one above, holds the transaction `hash`, and
/// trusts its header from then on; on `Err` nothing changes.
///
/// # Errors
/// [`VerifyError`] if header or path do not hold.
pub fn verify_inclusion(
    trusted: &mut TrustedState,
    hash: &Hash,
    included: &Included,
) -> Result<Inclusion, VerifyError> {
    let mut next = trusted.clone();
    let header = recognise_or_verify(
        &mut next,
        Height::new(included.height),
        &included.signed_header,
        &included.validators,
    )?;
    let proof: TransactionProof = decode("transaction proof", &included.borsh_proof)?;
    proof.verify(hash, &header)?;
    *trusted = next;
    Ok(Inclusion {
        header,
        code: included.code,
        log: included.log.clone(),
    })
}

/// Verifies a record of the state, or that there is none; gives the height that left it too. On an
/// error `trusted` stays as it was.
///
/// # Errors
/// [`VerifyError`] says what does not hold.
pub fn verify_record<T: borsh::BorshDeserialize>(
    trusted: &mut TrustedState,
    key: &Key<'_>,
    answer: &GetStateProofResponse,
) -> Result<(Option<T>, Height), VerifyError> {
    let mut next = trusted.clone();
    let height = Height::new(answer.height.saturating_add(1));
    let (header, validators) = (&answer.signed_header, &answer.validators);
    let header = recognise_or_verify(&mut next, height, header, validators)?;
    let proof = StateProof::decode(&answer.borsh_proof)?;
    let record = proof.verify_record(key, &header.app_hash())?;
    *trusted = next;
    Ok((record, Height::new(header.height().get().saturating_sub(1))))
}

/// Verifies a header that is to lead to others.
pub(super) fn verify_pivot(
    trusted: &mut TrustedState,
    height: Height,
    answer: &GetHeaderResponse,
) -> Result<VerifiedHeader, VerifyError> {
    verify_header(trusted, height, &answer.signed_header, &answer.validators)
}

/// The trusted header itself, or one above.
fn recognise_or_verify(
    trusted: &mut TrustedState,
    expected: Height,
    signed_header: &[u8],
    validators: &[u8],
) -> Result<VerifiedHeader, VerifyError> {
    if expected == trusted.height() {
        return Ok(trusted.recognise(&decode_signed_header(signed_header)?)?);
    }
    verify_header(trusted, expected, signed_header, validators)
}

fn verify_header(
    trusted: &mut TrustedState,
    expected: Height,
    signed_header: &[u8],
    validators: &[u8],
) -> Result<VerifiedHeader, VerifyError> {
    let signed = decode_signed_header(signed_header)?;
    let actual = Height::new(signed.header.height.value());
    if actual != expected {
        return Err(VerifyError::Height { expected, actual });
    }
    let validators = (!validators.is_empty())
        .then(|| decode_validators(validators))
        .transpose()?;
    Ok(trusted.verify(&signed, validators.as_ref())?)
}

fn decode<T: borsh::BorshDeserialize>(what: &'static str, bytes: &[u8]) -> Result<T, VerifyError> {
    borsh::from_slice(bytes).map_err(|source| VerifyError::Decode { what, source })
}
