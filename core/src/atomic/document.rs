use alloy_primitives::{Address, B256, Bytes, FixedBytes};
use serde::{Deserialize, Serialize};

use super::{
    AtomicBundle, BundleError, BundleTerms, Caller, EvmSignature, LegSeal, Message, OnAbort,
    SealedTx,
};
use crate::{
    key::PublicKey,
    primitive::{Amount, EvmAddress, Hash, HexError, RollupId},
};

/// A bundle as people, wallets and composers hand it to each other, in JSON. Nothing of it is checked
/// before it becomes [`BundleTerms`], and then an [`AtomicBundle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleDocument {
    /// The sequencer chain that may run it.
    pub chain_id: String,
    /// Makes the session one of a kind.
    pub session_salt: B256,
    /// Who opens the session on rollups that exchange messages.
    #[serde(default)]
    pub callers: Vec<CallerDocument>,
    /// Transactions by rollup.
    pub legs: Vec<LegDocument>,
    /// What legs tell each other.
    #[serde(default)]
    pub messages: Vec<MessageDocument>,
    /// Seconds since 1970 before which it must not run.
    pub valid_from: u64,
    /// Seconds since 1970 after which it must not run.
    pub valid_until: u64,
    /// What becomes of it when attesters show that a leg would fail.
    #[serde(default)]
    pub on_abort: OnAbortDocument,
    /// How many slots it may take up.
    #[serde(default = "one")]
    pub max_attempts: u8,
    /// Keys without whose word it must not run.
    #[serde(default)]
    pub extra_attesters: Vec<PublicKey>,
    /// Paid for each slot that it takes up, in base units.
    #[serde(default = "nothing")]
    pub tip_per_attempt: Amount,
}

/// Who opens the session on a rollup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallerDocument {
    /// Its name, or its identifier as `0x` and 64 digits.
    pub rollup: String,
    /// The contract or account.
    pub address: Address,
}

/// The transactions of a bundle on one rollup, by their hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LegDocument {
    /// Its name, or its identifier as `0x` and 64 digits.
    pub rollup: String,
    /// In the order of their execution.
    pub transactions: Vec<SealedDocument>,
}

/// A transaction by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SealedDocument {
    /// Keccak-256 of the raw transaction.
    pub hash: B256,
    /// Its sender's signature of bundle and transaction, as `personal_sign` gives it; absent until
    /// there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<FixedBytes<65>>,
}

/// What one leg tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageDocument {
    /// Where it is sent: a name, or an identifier.
    pub src: String,
    /// Where it is received: a name, or an identifier.
    pub dst: String,
    /// Counts the messages of `src` from 0.
    pub index: u64,
    /// Who sends it.
    pub sender: Address,
    /// Who may take it.
    pub receiver: Address,
    /// What it says.
    pub data: Bytes,
}

/// What becomes of a bundle when attesters show that a leg would fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnAbortDocument {
    /// It ends.
    #[default]
    FailFast,
    /// It waits for another slot.
    Retry,
}

/// Why a document is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Neither a name nor an identifier.
    #[error("rollup {rollup}: neither a name nor an identifier")]
    Rollup {
        /// What is written.
        rollup: String,
        /// Why it is no identifier.
        source: HexError,
    },
    /// A bound is broken.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

fn one() -> u8 {
    1
}

fn nothing() -> Amount {
    Amount::ZERO
}

/// The rollup that a name or an identifier stands for: names never begin with a digit.
///
/// # Errors
/// [`DocumentError::Rollup`] if it begins as an identifier and is none.
pub fn rollup_id(rollup: &str) -> Result<RollupId, DocumentError> {
    if !rollup.starts_with("0x") {
        return Ok(RollupId::from_name(rollup));
    }
    rollup.parse().map_err(|source| DocumentError::Rollup {
        rollup: rollup.to_owned(),
        source,
    })
}

impl BundleDocument {
    /// What the bundle is to do; a missing auth is 65 zero bytes, as in the bundle's identifier.
    ///
    /// # Errors
    /// [`DocumentError::Rollup`] if a rollup is not named.
    pub fn terms(&self) -> Result<BundleTerms, DocumentError> {
        let caller = |caller: &CallerDocument| {
            Ok(Caller {
                rollup_id: rollup_id(&caller.rollup)?,
                address: EvmAddress::new(caller.address.into_array()),
            })
        };
        let on_abort = match self.on_abort {
            OnAbortDocument::FailFast => OnAbort::FailFast,
            OnAbortDocument::Retry => OnAbort::Retry,
        };
        Ok(BundleTerms {
            chain_id: self.chain_id.clone(),
            session_salt: Hash::new(self.session_salt.0),
            callers: self
                .callers
                .iter()
                .map(caller)
                .collect::<Result<_, DocumentError>>()?,
            legs: self
                .legs
                .iter()
                .map(LegDocument::seal)
                .collect::<Result<_, _>>()?,
            messages: self
                .messages
                .iter()
                .map(MessageDocument::message)
                .collect::<Result<_, _>>()?,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            on_abort,
            max_attempts: self.max_attempts,
            extra_attesters: self.extra_attesters.clone(),
            tip_per_attempt: self.tip_per_attempt,
        })
    }

    /// The bundle.
    ///
    /// # Errors
    /// [`DocumentError`] names the first leg, transaction or message that breaks a rule.
    pub fn bundle(&self) -> Result<AtomicBundle, DocumentError> {
        Ok(AtomicBundle::new(self.terms()?)?)
    }
}

impl LegDocument {
    fn seal(&self) -> Result<LegSeal, DocumentError> {
        let sealed = |tx: &SealedDocument| SealedTx {
            tx_hash: Hash::new(tx.hash.0),
            auth: tx
                .auth
                .map_or(EvmSignature::EMPTY, |auth| EvmSignature::new(auth.0)),
        };
        Ok(LegSeal {
            rollup_id: rollup_id(&self.rollup)?,
            txs: self.transactions.iter().map(sealed).collect(),
        })
    }
}

impl MessageDocument {
    fn message(&self) -> Result<Message, DocumentError> {
        Ok(Message {
            src: rollup_id(&self.src)?,
            dst: rollup_id(&self.dst)?,
            index: self.index,
            sender: EvmAddress::new(self.sender.into_array()),
            receiver: EvmAddress::new(self.receiver.into_array()),
            data: self.data.0.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn example() -> Value {
        let leg = |rollup: &str, byte: u8| {
            let (hash, auth) = (B256::repeat_byte(byte), FixedBytes::<65>::repeat_byte(byte));
            json!({ "rollup": rollup, "transactions": [{ "hash": hash, "auth": auth }] })
        };
        let caller = |rollup: &str| json!({ "rollup": rollup, "address": Address::repeat_byte(9) });
        let mut legs = ["alpha", "beta"];
        legs.sort_by_key(|name| RollupId::from_name(name));
        json!({
            "chainId": "test-chain",
            "sessionSalt": B256::repeat_byte(7),
            "callers": legs.map(caller),
            "legs": [leg(legs[0], 1), leg(legs[1], 2)],
            "messages": [{
                "src": "alpha", "dst": format!("0x{}", RollupId::from_name("beta")), "index": 0,
                "sender": Address::repeat_byte(1), "receiver": Address::repeat_byte(2), "data": "0x0102",
            }],
            "validFrom": 5, "validUntil": 9, "onAbort": "retry", "maxAttempts": 3,
            "extraAttesters": [], "tipPerAttempt": "12",
        })
    }

    #[test]
    fn a_document_is_the_bundle_that_it_shows() {
        let document: BundleDocument = serde_json::from_value(example()).unwrap();
        let bundle = document.bundle().unwrap();
        let terms = bundle.terms();
        assert_eq!(
            (terms.valid_from, terms.valid_until, terms.max_attempts),
            (5, 9, 3)
        );
        assert_eq!(terms.on_abort, OnAbort::Retry);
        assert_eq!(terms.tip_per_attempt, Amount::new(12));
        assert_eq!(terms.messages[0].dst, RollupId::from_name("beta"));
        assert_eq!(terms.legs[1].txs[0].auth, EvmSignature::new([2; 65]));
        let again = serde_json::to_value(&document).unwrap();
        assert_eq!(again["legs"], example()["legs"]);
    }

    #[test]
    fn what_is_left_out_has_a_default_and_auths_do_not_change_the_identifier() {
        let document: BundleDocument = serde_json::from_value(example()).unwrap();
        let mut plain = document.clone();
        plain.legs[0].transactions[0].auth = None;
        let [one, other] = [&document, &plain].map(|document| document.bundle().unwrap().id());
        assert_eq!(one, other);
        let mut short = example();
        for key in [
            "callers",
            "messages",
            "onAbort",
            "maxAttempts",
            "extraAttesters",
            "tipPerAttempt",
        ] {
            short.as_object_mut().unwrap().remove(key);
        }
        let short: BundleDocument = serde_json::from_value(short).unwrap();
        assert_eq!(
            (short.max_attempts, short.tip_per_attempt),
            (1, Amount::ZERO)
        );
        assert_eq!(short.on_abort, OnAbortDocument::FailFast);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut document = example();
            change(&mut document);
            let document: Result<BundleDocument, _> = serde_json::from_value(document);
            match document {
                Err(error) => error.to_string(),
                Ok(document) => document.bundle().unwrap_err().to_string(),
            }
        };
        let text = refused(&|document| document["legs"][0]["rollup"] = "0x12".into());
        assert!(text.starts_with("rollup 0x12: "), "{text}");
        let text = refused(&|document| document["legs"].as_array_mut().unwrap().reverse());
        assert!(
            text.starts_with("leg 1: legs must be in ascending order"),
            "{text}"
        );
        let text = refused(&|document| document["validUntli"] = 1.into());
        assert!(text.starts_with("unknown field `validUntli`"), "{text}");
    }
}
