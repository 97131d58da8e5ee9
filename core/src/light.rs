//! Trust in headers: from the sequencer's genesis, or a header that an operator names, signature by
//! signature, to the tip.
//!
//! A header is accepted when more than two thirds of the validator set that its predecessor named
//! signed it. Across a gap, more than a third of the set that follows the trusted header must be
//! among them; where it is not, a header between the two must be verified first
//! ([`TrustedState::pivot`]). `now` is the header's own time: whether the tip is fresh is for the
//! caller to say, since nothing here reads a clock.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tendermint::{Time, block::signed_header::SignedHeader, chain, validator};
use tendermint_light_client_verifier::{
    ProdVerifier, Verdict, Verifier as _,
    errors::VerificationErrorDetail,
    options::Options,
    types::{TrustThreshold, TrustedBlockState, UntrustedBlockState},
};
use tendermint_proto::{Protobuf, v0_38::types as proto};

use crate::{
    primitive::{Hash, Height},
    slot::HeaderTime,
};

/// How long after its time a header may still introduce a later one: validators must be
/// punishable for as long.
pub const TRUSTING_PERIOD: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Most voting power of a validator set, as CometBFT bounds it: 2^60 − 1.
pub const MAX_TOTAL_POWER: u64 = (1 << 60) - 1;

/// A header that more than two thirds of the validators signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedHeader {
    height: Height,
    hash: Hash,
    time: HeaderTime,
    data_hash: Hash,
    app_hash: Hash,
    previous: Hash,
}

/// A header by which trust can start: whoever names it knows its hash from a source of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedHeader {
    /// The height.
    pub height: Height,
    /// The hash of its header.
    pub hash: Hash,
}

/// What must be known to verify the next header; it may be stored and read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedState {
    chain_id: chain::Id,
    height: u64,
    time: Time,
    hash: Hash, // Zero before the first block.
    /// Those of `height`. Who signs the next one is known only if they have the hash below.
    validators: validator::Set,
    next_validators_hash: tendermint::Hash,
}

/// The part of CometBFT's genesis file that trust starts from.
#[derive(Deserialize)]
struct GenesisFile {
    chain_id: chain::Id,
    genesis_time: Time,
    #[serde(default = "first_height", deserialize_with = "number")]
    initial_height: u64,
    validators: Vec<validator::Info>,
}

fn first_height() -> u64 {
    1
}

/// CometBFT writes integers as strings.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Text(String),
        Plain(u64),
    }
    match Number::deserialize(deserializer)? {
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Number::Plain(number) => Ok(number),
    }
}

/// Why a header is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum LightError {
    /// The genesis file cannot be read.
    #[error("not a CometBFT genesis file")]
    Genesis(#[from] serde_json::Error),
    /// The powers of the validators add up to more than CometBFT counts.
    #[error("the powers of the validators add up to more than {MAX_TOTAL_POWER}")]
    Power,
    /// The genesis file names no validators, so nothing can be verified.
    #[error("the genesis file names no validators")]
    NoValidators,
    /// Not a protobuf message of CometBFT, or a field out of its bounds.
    #[error("failed to decode {what}: {reason}")]
    Decode {
        /// Which message.
        what: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The header lies at or before the trusted one.
    #[error("header {height} does not follow trusted header {trusted}")]
    Stale {
        /// The header's height.
        height: u64,
        /// The height trusted so far.
        trusted: u64,
    },
    /// The header does not build on the trusted one: two headers of one height were signed.
    #[error(
        "header {height} builds on {previous}, but {trusted} was verified: the chain has forked"
    )]
    Fork {
        /// The header's height.
        height: u64,
        /// The block that it builds on.
        previous: Hash,
        /// The block that was verified.
        trusted: Hash,
    },
    /// The trusted state says too little about who may sign so much later.
    #[error("header {height} cannot be verified from {trusted} alone, only by headers in between")]
    Distant {
        /// The header's height.
        height: u64,
        /// The height trusted so far.
        trusted: u64,
    },
    /// The header is not the one that the operator trusts.
    #[error("header {height} has hash {actual}, trusted is {expected}")]
    Root {
        /// The header's height.
        height: u64,
        /// The hash that is trusted.
        expected: Hash,
        /// The header's hash.
        actual: Hash,
    },
    /// The validators are not those that the header names.
    #[error("the validators are not those that header {height} names")]
    Validators {
        /// The header's height.
        height: u64,
    },
    /// Too few signatures, a wrong one, another chain or another validator set.
    #[error("header {height} is not acceptable: {reason}")]
    Refused {
        /// The header's height.
        height: u64,
        /// What the verifier said.
        reason: String,
    },
}

impl TrustedState {
    /// Trusts what the genesis file of the sequencer says, and nothing else.
    ///
    /// # Errors
    /// [`LightError`] if the file is not CometBFT's or names no validators.
    pub fn from_genesis(file: &[u8]) -> Result<Self, LightError> {
        let genesis: GenesisFile = serde_json::from_slice(file)?;
        if genesis.validators.is_empty() {
            return Err(LightError::NoValidators);
        }
        check_power(&genesis.validators)?;
        let validators = validator::Set::without_proposer(genesis.validators);
        // The first block carries exactly the genesis time, and must be later than what is trusted.
        #[expect(
            clippy::arithmetic_side_effects,
            reason = "subtracting from a Time is checked"
        )]
        let time = (genesis.genesis_time - Duration::from_nanos(1)).map_err(|error| {
            LightError::Decode {
                what: "genesis_time",
                reason: error.to_string(),
            }
        })?;
        Ok(Self {
            chain_id: genesis.chain_id,
            height: genesis.initial_height.saturating_sub(1),
            time,
            hash: Hash::ZERO,
            next_validators_hash: validators.hash(),
            validators,
        })
    }

    /// Trusts a header of this chain because its hash is known from a source that is trusted.
    ///
    /// # Errors
    /// [`LightError::Root`] if it is another header, [`LightError::Validators`] if it names others,
    /// [`LightError::Refused`] if it is of another chain.
    pub fn from_root(
        &self,
        root: TrustedHeader,
        signed: &SignedHeader,
        validators: &validator::Set,
    ) -> Result<Self, LightError> {
        let header = VerifiedHeader::from_signed(signed)?;
        let height = header.height.get();
        if (header.height, header.hash) != (root.height, root.hash) {
            let (expected, actual) = (root.hash, header.hash);
            return Err(LightError::Root {
                height,
                expected,
                actual,
            });
        }
        if validators.hash() != signed.header.validators_hash {
            return Err(LightError::Validators { height });
        }
        if signed.header.chain_id != self.chain_id {
            let (theirs, ours) = (&signed.header.chain_id, &self.chain_id);
            let reason = format!("it is of chain {theirs}, not {ours}");
            return Err(LightError::Refused { height, reason });
        }
        Ok(Self {
            chain_id: self.chain_id.clone(),
            height,
            time: signed.header.time,
            hash: header.hash,
            validators: validators.clone(),
            next_validators_hash: signed.header.next_validators_hash,
        })
    }

    /// Trusts a height of a chain without validators, for tests of what comes after verification.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn unchecked(chain_id: chain::Id, height: Height) -> Self {
        let validators = validator::Set::without_proposer(Vec::new());
        let hash = match height.get() {
            0 => Hash::ZERO,
            height => Hash::digest(&[&height.to_be_bytes()]),
        };
        let late = Time::from_unix_timestamp(4_000_000_000, 0);
        Self {
            chain_id,
            height: height.get(),
            time: late.unwrap_or_else(|_| Time::unix_epoch()),
            hash,
            next_validators_hash: validators.hash(),
            validators,
        }
    }

    /// The chain whose headers are trusted.
    #[must_use]
    pub fn chain_id(&self) -> &str {
        self.chain_id.as_str()
    }

    /// The last trusted height; one below the first before any header was verified.
    #[must_use]
    pub fn height(&self) -> Height {
        Height::new(self.height)
    }

    /// The time of the trusted header; a moment before that of the first one for the genesis.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// Who signed the trusted header; who signs the first one for the genesis.
    #[must_use]
    pub fn validators(&self) -> &validator::Set {
        &self.validators
    }

    /// The last trusted header; nothing before any header was verified.
    #[must_use]
    pub fn header(&self) -> Option<TrustedHeader> {
        let (height, hash) = (self.height(), self.hash);
        (hash != Hash::ZERO).then_some(TrustedHeader { height, hash })
    }

    /// Whether the trusted header is older, at `unix_secs`, than validators can be held to account.
    #[must_use]
    pub fn is_expired(&self, unix_secs: u64) -> bool {
        let time = u64::try_from(self.time.unix_timestamp()).unwrap_or_default();
        unix_secs.saturating_sub(time) > TRUSTING_PERIOD.as_secs()
    }

    /// The height to verify first if `target` is too [`Distant`](LightError::Distant): halfway, or
    /// the next one while it is unknown who signs it.
    #[must_use]
    pub fn pivot(&self, target: Height) -> Height {
        let gap = target.get().saturating_sub(self.height);
        let step = if self.knows_next_validators() {
            gap >> 1
        } else {
            1
        };
        Height::new(self.height.saturating_add(step.max(1)))
    }

    fn knows_next_validators(&self) -> bool {
        self.validators.hash() == self.next_validators_hash
    }

    /// The trusted header once more, if this is it.
    ///
    /// # Errors
    /// [`LightError::Root`] if it is another one.
    pub fn recognise(&self, signed: &SignedHeader) -> Result<VerifiedHeader, LightError> {
        let header = VerifiedHeader::from_signed(signed)?;
        if header.height != self.height() || header.hash != self.hash {
            return Err(LightError::Root {
                height: header.height.get(),
                expected: self.hash,
                actual: header.hash,
            });
        }
        Ok(header)
    }

    /// Verifies a header above the trusted one and trusts it from then on; on `Err` nothing
    /// changes. `validators` may be left out while the set stays the same.
    ///
    /// # Errors
    /// [`LightError`] says why the header is not trusted; [`LightError::Fork`] is proof of misdeed.
    pub fn verify(
        &mut self,
        signed: &SignedHeader,
        validators: Option<&validator::Set>,
    ) -> Result<VerifiedHeader, LightError> {
        let header = VerifiedHeader::from_signed(signed)?;
        let height = header.height.get();
        if height <= self.height {
            return Err(LightError::Stale {
                height,
                trusted: self.height,
            });
        }
        let set = validators.unwrap_or(&self.validators);
        let adjacent = Some(height) == self.height.checked_add(1);
        if !adjacent && !self.knows_next_validators() {
            let trusted = self.height;
            return Err(LightError::Distant { height, trusted });
        }
        self.check(signed, set)?;
        // Only what the validators signed can show that they signed something else before.
        if adjacent && self.hash != Hash::ZERO && header.previous != self.hash {
            let (previous, trusted) = (header.previous, self.hash);
            return Err(LightError::Fork {
                height,
                previous,
                trusted,
            });
        }
        if let Some(set) = validators {
            self.validators = set.clone();
        }
        self.height = height;
        self.time = signed.header.time;
        self.hash = header.hash;
        self.next_validators_hash = signed.header.next_validators_hash;
        Ok(header)
    }

    fn check(&self, signed: &SignedHeader, validators: &validator::Set) -> Result<(), LightError> {
        let untrusted_height = signed.header.height.value();
        let refused = |reason: String| LightError::Refused {
            height: untrusted_height,
            reason,
        };
        let height = self
            .height
            .try_into()
            .map_err(|_| refused("height out of range".into()))?;
        let trusted = TrustedBlockState {
            chain_id: &self.chain_id,
            header_time: self.time,
            height,
            next_validators: &self.validators,
            next_validators_hash: self.next_validators_hash,
        };
        let untrusted = UntrustedBlockState {
            signed_header: signed,
            validators,
            next_validators: None,
        };
        let options = Options {
            trust_threshold: TrustThreshold::ONE_THIRD,
            trusting_period: TRUSTING_PERIOD,
            clock_drift: Duration::from_secs(1),
        };
        let now = signed.header.time;
        let adjacent = Some(untrusted_height) == self.height.checked_add(1);
        match ProdVerifier::default().verify_update_header(untrusted, trusted, &options, now) {
            Verdict::Success => Ok(()),
            Verdict::NotEnoughTrust(_)
            | Verdict::Invalid(VerificationErrorDetail::NotWithinTrustPeriod(_))
                if !adjacent =>
            {
                Err(LightError::Distant {
                    height: untrusted_height,
                    trusted: self.height,
                })
            }
            Verdict::NotEnoughTrust(tally) => Err(refused(format!("not enough trust: {tally}"))),
            Verdict::Invalid(detail) => Err(refused(detail.to_string())),
        }
    }
}

impl VerifiedHeader {
    fn from_signed(signed: &SignedHeader) -> Result<Self, LightError> {
        let header = &signed.header;
        let time = header.time.unix_timestamp();
        let seconds = u64::try_from(time).map_err(|_| LightError::Decode {
            what: "header time",
            reason: "before 1970".into(),
        })?;
        let nanos = u32::try_from(header.time.unix_timestamp_nanos().rem_euclid(1_000_000_000));
        Ok(Self {
            height: Height::new(header.height.value()),
            hash: digest(header.hash()),
            time: HeaderTime {
                seconds,
                nanos: nanos.unwrap_or_default(),
            },
            data_hash: header.data_hash.map_or_else(|| Hash::digest(&[]), digest),
            app_hash: Hash::new(header.app_hash.as_bytes().try_into().unwrap_or_default()),
            previous: header
                .last_block_id
                .map_or(Hash::ZERO, |id| digest(id.hash)),
        })
    }

    /// The height of the block.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// The hash of the header.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// When the block was proposed: the median of the votes for the block before it.
    #[must_use]
    pub fn time(&self) -> HeaderTime {
        self.time
    }

    /// Merkle root over the block's items.
    #[must_use]
    pub fn data_hash(&self) -> Hash {
        self.data_hash
    }

    /// Root of the state that the block before left.
    #[must_use]
    pub fn app_hash(&self) -> Hash {
        self.app_hash
    }

    /// The hash of the header before; zero at the first height.
    #[must_use]
    pub fn previous(&self) -> Hash {
        self.previous
    }

    /// Trusts a header without signatures, for tests of what comes after verification.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn unchecked(
        height: Height,
        hash: Hash,
        time: HeaderTime,
        data_hash: Hash,
        previous: Hash,
    ) -> Self {
        Self {
            height,
            hash,
            time,
            data_hash,
            app_hash: Hash::ZERO,
            previous,
        }
    }
}

/// Whether a set can be made of these validators without passing [`MAX_TOTAL_POWER`].
fn check_power(validators: &[validator::Info]) -> Result<(), LightError> {
    let add = |total: u64, info: &validator::Info| total.checked_add(info.power.value());
    match validators.iter().try_fold(0, add) {
        Some(total) if total <= MAX_TOTAL_POWER => Ok(()),
        _ => Err(LightError::Power),
    }
}

/// Reads CometBFT's `SignedHeader` message.
///
/// # Errors
/// [`LightError::Decode`] if it is none.
pub fn decode_signed_header(bytes: &[u8]) -> Result<SignedHeader, LightError> {
    <SignedHeader as Protobuf<proto::SignedHeader>>::decode(bytes)
        .map_err(|error| decode_error("signed header", &error))
}

/// Writes CometBFT's `SignedHeader` message.
#[must_use]
pub fn encode_signed_header(header: SignedHeader) -> Vec<u8> {
    Protobuf::<proto::SignedHeader>::encode_vec(header)
}

/// Reads CometBFT's `ValidatorSet` message.
///
/// # Errors
/// [`LightError::Decode`] if it is none.
pub fn decode_validators(bytes: &[u8]) -> Result<validator::Set, LightError> {
    <validator::Set as Protobuf<proto::ValidatorSet>>::decode(bytes)
        .map_err(|error| decode_error("validator set", &error))
}

/// Writes CometBFT's `ValidatorSet` message.
#[must_use]
pub fn encode_validators(validators: validator::Set) -> Vec<u8> {
    Protobuf::<proto::ValidatorSet>::encode_vec(validators)
}

fn decode_error(what: &'static str, error: &impl fmt::Display) -> LightError {
    LightError::Decode {
        what,
        reason: error.to_string(),
    }
}

fn digest(hash: tendermint::Hash) -> Hash {
    match hash {
        tendermint::Hash::Sha256(bytes) => Hash::new(bytes),
        tendermint::Hash::None => Hash::ZERO,
    }
}

#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
#[cfg(test)]
mod tests;
