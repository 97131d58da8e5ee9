use std::time::Duration;

use counterpoint_core::{
    block::{LeafProof, ProofError, RollupItem, TransactionProof, VerifiedList},
    light::{LightError, TrustedState, VerifiedHeader, decode_signed_header, decode_validators},
    primitive::{Hash, Height, RollupId},
    registry::RollupConfig,
    state::{Key, StateProof, StateProofError},
};
use counterpoint_proto::sequencer::{
    GetStateProofResponse, RollupBlock, get_transaction_response::Included,
};
use tonic::Streaming;
use tracing::{info, warn};

use super::Client;

/// A stream that says nothing for so long is given up, and another node is asked.
const SILENCE: Duration = Duration::from_secs(30);
/// First pause after a failure; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(2);

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

/// Why following cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Two headers of one height were signed: nobody can say which chain is right.
    #[error("the sequencer has forked; both headers are kept: {evidence}")]
    Fork {
        /// What was verified, and what contradicts it.
        evidence: String,
    },
}

/// Follows one rollup through every sequencer block, over reconnects and from node to node.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    rollup_id: RollupId,
    trusted: TrustedState,
    config: Option<RollupConfig>,
    next: Height,
    stream: Option<Streaming<RollupBlock>>,
    pause: Duration,
}

impl Follower {
    /// Follows `rollup_id` from height `next` on, which lies above `trusted`.
    #[must_use]
    pub fn new(client: Client, rollup_id: RollupId, trusted: TrustedState, next: Height) -> Self {
        let (config, stream, pause) = (None, None, MIN_PAUSE);
        Self {
            client,
            rollup_id,
            trusted,
            config,
            next,
            stream,
            pause,
        }
    }

    /// What is trusted after the last block that was yielded.
    #[must_use]
    pub fn trusted(&self) -> &TrustedState {
        &self.trusted
    }

    /// The next block, verified. It may be dropped while waiting without losing one.
    ///
    /// # Errors
    /// [`FollowError`] if the chain has forked; everything else is tried again elsewhere.
    pub async fn next(&mut self) -> Result<VerifiedBlock, FollowError> {
        loop {
            let Some(message) = self.receive().await else {
                self.retry().await;
                continue;
            };
            match self.accept(&message) {
                Ok(block) => {
                    self.pause = MIN_PAUSE;
                    return Ok(block);
                }
                Err(VerifyError::Header(error @ LightError::Fork { .. })) => {
                    let header = &message.signed_header;
                    let evidence = format!("{error}; signed header {header:02x?}");
                    return Err(FollowError::Fork { evidence });
                }
                Err(error) => {
                    let url = self.client.current_url().to_owned();
                    let error = eyre::Report::new(error);
                    warn!(url, height = %self.next, error = format!("{error:#}"), "bad proof");
                    self.client.skip_current();
                    self.retry().await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Option<RollupBlock> {
        if self.stream.is_none() {
            match self.client.stream(self.next, &self.rollup_id).await {
                Ok(stream) => self.stream = Some(stream),
                Err(error) => return self.leave(&error),
            }
        }
        let message = tokio::time::timeout(SILENCE, self.stream.as_mut()?.message()).await;
        match message {
            Ok(Ok(Some(message))) => Some(message),
            Ok(Ok(None)) => self.leave(&"the stream ended"),
            Ok(Err(status)) => self.leave(&status),
            Err(_) => self.leave(&"the stream is silent"),
        }
    }

    /// Another node is asked next, whatever this one's reason was.
    fn leave(&self, reason: &dyn std::fmt::Display) -> Option<RollupBlock> {
        let (url, height) = (self.client.current_url(), self.next);
        info!(url, %height, %reason, "no more blocks from this node");
        self.client.skip_current();
        None
    }

    async fn retry(&mut self) {
        self.stream = None;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    /// Verifies the next block, wherever the message came from. Nothing changes unless every step
    /// holds: another node may still prove this height.
    ///
    /// # Errors
    /// [`VerifyError`] names the first step that does not hold.
    pub fn accept(&mut self, message: &RollupBlock) -> Result<VerifiedBlock, VerifyError> {
        let mut trusted = self.trusted.clone();
        let header = verify_header(&mut trusted, &message.signed_header, &message.validators)?;
        if header.height() != self.next {
            let (expected, actual) = (self.next, header.height());
            return Err(VerifyError::Height { expected, actual });
        }
        let proof: LeafProof = decode("leaf proof", &message.borsh_leaf_proof)?;
        let items: Vec<RollupItem> = decode("list", &message.borsh_list)?;
        let list = proof.verify(&self.rollup_id, &header)?.verify_list(items)?;
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

/// Verifies that a block above what is `trusted` holds the transaction `hash`, and trusts its
/// header from then on; on `Err` nothing changes.
///
/// # Errors
/// [`VerifyError`] if header or path do not hold.
pub fn verify_inclusion(
    trusted: &mut TrustedState,
    hash: &Hash,
    included: &Included,
) -> Result<Inclusion, VerifyError> {
    let mut next = trusted.clone();
    let header = verify_header(&mut next, &included.signed_header, &included.validators)?;
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
    let header = verify_header(&mut next, &answer.signed_header, &answer.validators)?;
    let proof = StateProof::decode(&answer.borsh_proof)?;
    let record = proof.verify_record(key, &header.app_hash())?;
    *trusted = next;
    Ok((record, Height::new(header.height().get().saturating_sub(1))))
}

fn verify_header(
    trusted: &mut TrustedState,
    signed_header: &[u8],
    validators: &[u8],
) -> Result<VerifiedHeader, VerifyError> {
    let signed = decode_signed_header(signed_header)?;
    let validators = (!validators.is_empty())
        .then(|| decode_validators(validators))
        .transpose()?;
    Ok(trusted.verify(&signed, validators.as_ref())?)
}

fn decode<T: borsh::BorshDeserialize>(what: &'static str, bytes: &[u8]) -> Result<T, VerifyError> {
    borsh::from_slice(bytes).map_err(|source| VerifyError::Decode { what, source })
}
