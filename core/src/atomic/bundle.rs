use borsh::{BorshDeserialize, BorshSerialize, io};

use super::{Caller, EvmSignature, LegSeal, Message, auth_digest, session_id};
use crate::{
    key::PublicKey,
    primitive::{Amount, EvmAddress, Hash, RollupId},
    transaction::MAX_CHAIN_ID_BYTES,
};

/// Most seconds between the first and the last moment at which a bundle may run.
pub const MAX_SPAN_SECS: u64 = 3_600;

/// What a bundle is to do; nothing checked yet.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BundleTerms {
    /// The sequencer chain that may run it.
    pub chain_id: String,
    /// Makes the session one of a kind.
    pub session_salt: Hash,
    /// Who opens the session on rollups that exchange messages, ascending by rollup.
    pub callers: Vec<Caller>,
    /// Transactions by rollup, ascending by rollup.
    pub legs: Vec<LegSeal>,
    /// What legs tell each other, ascending by source and index.
    pub messages: Vec<Message>,
    /// Seconds since 1970 before which it must not run.
    pub valid_from: u64,
    /// Seconds since 1970 after which it must not run.
    pub valid_until: u64,
    /// What becomes of it when attesters show that a leg would fail.
    pub on_abort: OnAbort,
    /// How many slots it may take up.
    pub max_attempts: u8,
    /// Keys without whose word it must not run, ascending.
    pub extra_attesters: Vec<PublicKey>,
    /// Paid for each slot that it takes up, whatever comes of it.
    pub tip_per_attempt: Amount,
}

/// What becomes of a bundle when attesters show that a leg would fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum OnAbort {
    /// It ends.
    FailFast = 0,
    /// It waits for another slot, while it has attempts left.
    Retry = 1,
}

/// A bundle within all bounds that do not depend on the chain's state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct AtomicBundle {
    terms: BundleTerms,
    #[borsh(skip)]
    id: Hash,
}

/// Which bound a bundle breaks, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Longer than CometBFT allows, or empty.
    #[error("chain id must have 1..={MAX_CHAIN_ID_BYTES} bytes")]
    ChainId,
    /// One rollup needs no bundle, and attesters do not execute any number.
    #[error("{0} legs must be 2..={max}", max = AtomicBundle::MAX_LEGS)]
    LegCount(usize),
    /// Not in ascending order of rollups, each once.
    #[error("leg {leg}: legs must be in ascending order of rollups, each once")]
    LegOrder {
        /// The first out of order.
        leg: usize,
    },
    /// No transaction, or too many.
    #[error("leg {leg}: {count} transactions must be 1..={max}", max = LegSeal::MAX_TXS)]
    TxCount {
        /// Which leg.
        leg: usize,
        /// How many it has.
        count: usize,
    },
    /// The same transaction cannot run twice.
    #[error("leg {leg}, transaction {tx}: its hash stands in the leg before")]
    TxTwice {
        /// Which leg.
        leg: usize,
        /// The second of the two.
        tx: usize,
    },
    /// Not in ascending order of rollups, or none of the bundle's.
    #[error("caller {0}: callers must be in ascending order of rollups, each that of a leg")]
    Caller(usize),
    /// Too many.
    #[error("{0} messages must be at most {max}", max = AtomicBundle::MAX_MESSAGES)]
    MessageCount(usize),
    /// Not in ascending order of sources, with indices from 0.
    #[error("message {0}: messages must be in ascending order of sources, indices from 0 each")]
    MessageOrder(usize),
    /// To itself, or from or to a rollup where nobody opens the session.
    #[error("message {0}: source and destination must be two rollups with a caller each")]
    MessageRoute(usize),
    /// Too long.
    #[error("message {0}: data must have at most {max} bytes", max = Message::MAX_DATA_BYTES)]
    MessageData(usize),
    /// It can never run, or could wait for too long.
    #[error("valid_until must lie 0..={MAX_SPAN_SECS} seconds behind valid_from")]
    Span,
    /// None, or more than anybody should pay for.
    #[error("max_attempts must be 1..={max}", max = AtomicBundle::MAX_ATTEMPTS)]
    Attempts,
    /// Too many, or not in ascending order.
    #[error("extra attesters must be at most {max}, in ascending order, each once", max = AtomicBundle::MAX_EXTRA)]
    ExtraAttesters,
    /// All attempts together would cost more than an [`Amount`] can count.
    #[error("the tips of all attempts overflow")]
    Tip,
}

impl AtomicBundle {
    /// Fewest legs.
    pub const MIN_LEGS: usize = 2;
    /// Most legs.
    pub const MAX_LEGS: usize = 8;
    /// Most messages.
    pub const MAX_MESSAGES: usize = 32;
    /// Most attempts.
    pub const MAX_ATTEMPTS: u8 = 32;
    /// Most extra attesters.
    pub const MAX_EXTRA: usize = 4;

    /// Checks `terms`.
    ///
    /// # Errors
    /// [`BundleError`] names the leg, the transaction or the message, and the rule.
    pub fn new(terms: BundleTerms) -> Result<Self, BundleError> {
        if !(1..=MAX_CHAIN_ID_BYTES).contains(&terms.chain_id.len()) {
            return Err(BundleError::ChainId);
        }
        check_legs(&terms.legs)?;
        check_callers(&terms)?;
        check_messages(&terms)?;
        let span = terms.valid_until.checked_sub(terms.valid_from);
        if span.is_none_or(|span| span > MAX_SPAN_SECS) {
            return Err(BundleError::Span);
        }
        if !(1..=Self::MAX_ATTEMPTS).contains(&terms.max_attempts) {
            return Err(BundleError::Attempts);
        }
        let extras = &terms.extra_attesters;
        if extras.len() > Self::MAX_EXTRA || !extras.is_sorted_by(|a, b| a < b) {
            return Err(BundleError::ExtraAttesters);
        }
        let (tip, attempts) = (terms.tip_per_attempt.get(), u128::from(terms.max_attempts));
        tip.checked_mul(attempts).ok_or(BundleError::Tip)?;
        let id = terms.bundle_id();
        Ok(Self { terms, id })
    }

    /// What it is to do.
    #[must_use]
    pub fn terms(&self) -> &BundleTerms {
        &self.terms
    }

    /// `sha256("counterpoint/bundle/v1" ‖ borsh(terms with empty auths))`.
    #[must_use]
    pub fn id(&self) -> Hash {
        self.id
    }

    /// The [session](session_id) that its legs share.
    #[must_use]
    pub fn session_id(&self) -> Hash {
        session_id(&self.terms.session_salt, &self.terms.callers)
    }

    /// The rollups that it touches, ascending.
    #[must_use]
    pub fn rollups(&self) -> Vec<RollupId> {
        self.terms.legs.iter().map(|leg| leg.rollup_id).collect()
    }

    /// How many transactions it seals.
    #[must_use]
    pub fn seals(&self) -> usize {
        let count = |total: usize, leg: &LegSeal| total.saturating_add(leg.txs.len());
        self.terms.legs.iter().fold(0, count)
    }

    /// Bytes of its encoding.
    #[must_use]
    pub fn bytes_len(&self) -> u64 {
        borsh::object_length(&self.terms).unwrap_or_default() as u64
    }

    /// What all attempts cost together.
    #[must_use]
    pub fn tips(&self) -> Amount {
        let attempts = u128::from(self.terms.max_attempts);
        Amount::new(self.terms.tip_per_attempt.get().saturating_mul(attempts))
    }

    /// Who signed the auth of a transaction; nobody if it is no valid signature.
    #[must_use]
    pub fn signer(&self, tx_hash: &Hash, auth: &EvmSignature) -> Option<EvmAddress> {
        auth.recover(&auth_digest(&self.terms.chain_id, &self.id, tx_hash))
    }
}

impl BundleTerms {
    /// The bundle's identifier, which every auth is over.
    #[must_use]
    pub fn bundle_id(&self) -> Hash {
        let mut terms = self.clone();
        for tx in terms.legs.iter_mut().flat_map(|leg| &mut leg.txs) {
            tx.auth = EvmSignature::EMPTY;
        }
        Hash::tagged("counterpoint/bundle/v1", &terms)
    }
}

/// The first place at which `values` do not ascend.
fn out_of_order<T: PartialOrd>(values: &[T]) -> Option<usize> {
    let place = values.array_windows().position(|[a, b]| a >= b)?;
    Some(place.saturating_add(1))
}

fn check_legs(legs: &[LegSeal]) -> Result<(), BundleError> {
    if !(AtomicBundle::MIN_LEGS..=AtomicBundle::MAX_LEGS).contains(&legs.len()) {
        return Err(BundleError::LegCount(legs.len()));
    }
    let rollups: Vec<RollupId> = legs.iter().map(|leg| leg.rollup_id).collect();
    if let Some(leg) = out_of_order(&rollups) {
        return Err(BundleError::LegOrder { leg });
    }
    for (leg, LegSeal { txs, .. }) in legs.iter().enumerate() {
        let count = txs.len();
        if !(1..=LegSeal::MAX_TXS).contains(&count) {
            return Err(BundleError::TxCount { leg, count });
        }
        for (tx, sealed) in txs.iter().enumerate() {
            let mut before = txs.iter().take(tx);
            if before.any(|other| other.tx_hash == sealed.tx_hash) {
                return Err(BundleError::TxTwice { leg, tx });
            }
        }
    }
    Ok(())
}

fn check_callers(terms: &BundleTerms) -> Result<(), BundleError> {
    let rollups: Vec<RollupId> = terms
        .callers
        .iter()
        .map(|caller| caller.rollup_id)
        .collect();
    if let Some(place) = out_of_order(&rollups) {
        return Err(BundleError::Caller(place));
    }
    let touched = |id: &RollupId| terms.legs.iter().any(|leg| leg.rollup_id == *id);
    match rollups.iter().position(|id| !touched(id)) {
        Some(place) => Err(BundleError::Caller(place)),
        None => Ok(()),
    }
}

fn check_messages(terms: &BundleTerms) -> Result<(), BundleError> {
    let messages = &terms.messages;
    if messages.len() > AtomicBundle::MAX_MESSAGES {
        return Err(BundleError::MessageCount(messages.len()));
    }
    let opens = |id: RollupId| terms.callers.iter().any(|caller| caller.rollup_id == id);
    let mut previous: Option<&Message> = None;
    for (place, message) in messages.iter().enumerate() {
        let expected = match previous {
            Some(before) if before.src > message.src => None,
            Some(before) if before.src == message.src => before.index.checked_add(1),
            _ => Some(0),
        };
        if expected != Some(message.index) {
            return Err(BundleError::MessageOrder(place));
        }
        if message.src == message.dst || !opens(message.src) || !opens(message.dst) {
            return Err(BundleError::MessageRoute(place));
        }
        if message.data.len() > Message::MAX_DATA_BYTES {
            return Err(BundleError::MessageData(place));
        }
        previous = Some(message);
    }
    Ok(())
}

impl BorshDeserialize for AtomicBundle {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let terms = BundleTerms::deserialize_reader(reader)?;
        Self::new(terms).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
