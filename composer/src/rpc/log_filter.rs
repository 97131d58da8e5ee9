//! Which logs somebody wants, read and matched as geth does.

use alloy_primitives::{Address, B256, Log, U64};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::RpcError;

/// Most places of topics: as many as a log has.
const MAX_TOPICS: usize = 4;
/// Most topics of one place.
const MAX_CHOICES: usize = 1_000;

/// Which logs somebody wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogFilter {
    /// Of any if there is none.
    addresses: Vec<Address>,
    /// By place; any topic if there is none.
    topics: Vec<Vec<B256>>,
    /// The first block.
    from: Option<u64>,
    /// The last block.
    to: Option<u64>,
    /// As it was asked for.
    asked: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Asked {
    block_hash: Option<B256>,
    from_block: Option<String>,
    to_block: Option<String>,
    address: Value,
    topics: Option<Vec<Value>>,
}

impl LogFilter {
    /// Reads a filter of logs that are yet to come; null is one of all logs.
    ///
    /// # Errors
    /// What geth says of it.
    pub(crate) fn read(asked: Value) -> Result<Self, RpcError> {
        let Asked {
            block_hash,
            from_block,
            to_block,
            address,
            topics,
        } = value::<Option<Asked>>(asked.clone())?.unwrap_or_default();
        if block_hash.is_some() && (from_block.is_some() || to_block.is_some()) {
            let reason =
                "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other";
            return Err(RpcError::invalid_params(reason));
        }
        let topics = topics.unwrap_or_default();
        if topics.len() > MAX_TOPICS {
            return Err(RpcError::invalid_params("exceed max topics"));
        }
        let (from, to) = range(from_block.as_deref(), to_block.as_deref())?;
        Ok(Self {
            addresses: match address {
                Value::Null => Vec::new(),
                one @ Value::String(_) => vec![value(one)?],
                many => value(many)?,
            },
            topics: topics.into_iter().map(choices).collect::<Result<_, _>>()?,
            from,
            to,
            asked,
        })
    }

    /// Whether somebody wants this log of a block.
    #[must_use]
    pub(crate) fn matches(&self, log: &Log, block: u64) -> bool {
        let is_any =
            |(choices, topic): (&Vec<B256>, &B256)| choices.is_empty() || choices.contains(topic);
        let topics = log.topics();
        self.from.is_none_or(|from| from <= block)
            && self.to.is_none_or(|to| block <= to)
            && (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.len() <= topics.len()
            && self.topics.iter().zip(topics).all(is_any)
    }

    /// What asks the client for all of them.
    #[must_use]
    pub(crate) fn all(&self) -> Value {
        json!([self.asked])
    }

    /// What asks the client for those of blocks between two, if any of them may have some.
    #[must_use]
    pub(crate) fn between(&self, first: u64, last: u64) -> Option<Value> {
        let first = first.max(self.from.unwrap_or_default());
        let last = last.min(self.to.unwrap_or(u64::MAX));
        let asked = json!([{
            "fromBlock": U64::from(first), "toBlock": U64::from(last),
            "address": self.addresses, "topics": self.topics,
        }]);
        (first <= last).then_some(asked)
    }
}

/// Any of these topics; a null among them stands for all.
fn choices(topic: Value) -> Result<Vec<B256>, RpcError> {
    match topic {
        Value::Null => Ok(Vec::new()),
        one @ Value::String(_) => Ok(vec![value(one)?]),
        Value::Array(many) if many.len() > MAX_CHOICES => {
            Err(RpcError::invalid_params("exceed max topics"))
        }
        Value::Array(many) if many.contains(&Value::Null) => Ok(Vec::new()),
        Value::Array(many) => many.into_iter().map(value).collect(),
        _ => Err(RpcError::invalid_params("invalid topic(s)")),
    }
}

/// The first and the last block, if they have numbers.
fn range(from: Option<&str>, to: Option<&str>) -> Result<(Option<u64>, Option<u64>), RpcError> {
    if [from, to].contains(&Some("pending")) {
        return Err(RpcError::invalid_params("pending logs are not supported"));
    }
    let invalid = || RpcError::invalid_params("invalid block range params");
    let number = |name: Option<&str>| -> Result<Option<u64>, RpcError> {
        match name {
            None | Some("latest") => Ok(None),
            Some("earliest") => Ok(Some(0)),
            Some(number) => {
                let number: U64 = value(json!(number)).map_err(|_| invalid())?;
                Ok(Some(number.to::<u64>()))
            }
        }
    };
    match (number(from)?, number(to)?) {
        (Some(from), Some(to)) if from > to => Err(invalid()),
        (None, Some(_)) => Err(invalid()),
        range => Ok(range),
    }
}

fn value<T: DeserializeOwned>(value: Value) -> Result<T, RpcError> {
    serde_json::from_value(value)
        .map_err(|error| RpcError::invalid_params(format!("invalid argument 0: {error}")))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::LogData;

    use super::*;

    const A: B256 = B256::repeat_byte(1);
    const B: B256 = B256::repeat_byte(2);
    const HERE: Address = Address::repeat_byte(7);

    fn log(topics: &[B256]) -> Log {
        let data = LogData::new_unchecked(topics.to_vec(), alloy_primitives::Bytes::new());
        Log {
            address: HERE,
            data,
        }
    }

    #[test]
    fn logs_match_as_they_do_at_geth() {
        let elsewhere = Address::repeat_byte(8);
        for (asked, topics, expect) in [
            (json!(null), &[][..], true),
            (json!({ "unknown": 1 }), &[], true),
            (json!({ "address": HERE }), &[], true),
            (json!({ "address": [elsewhere, HERE] }), &[], true),
            (json!({ "address": elsewhere }), &[], false),
            (json!({ "address": [] }), &[], true),
            (json!({ "topics": [A] }), &[A, B], true),
            (json!({ "topics": [A] }), &[B, A], false),
            (json!({ "topics": [null, B] }), &[A, B], true),
            (json!({ "topics": [[A, B]] }), &[B], true),
            (json!({ "topics": [[A, null]] }), &[B], true),
            (json!({ "topics": [[]] }), &[B], true),
            // Even what stands for any topic is one.
            (json!({ "topics": [null, null] }), &[A], false),
            (json!({ "fromBlock": "0x5" }), &[], true),
            (json!({ "fromBlock": "0x6" }), &[], false),
            (
                json!({ "fromBlock": "earliest", "toBlock": "0x4" }),
                &[],
                false,
            ),
            (
                json!({ "fromBlock": "0x1", "toBlock": "latest" }),
                &[],
                true,
            ),
        ] {
            let filter = LogFilter::read(asked.clone()).unwrap();
            assert_eq!(
                filter.matches(&log(topics), 5),
                expect,
                "{asked} {topics:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_geths_words() {
        let address = "0x12";
        for (asked, expect) in [
            (
                json!({ "fromBlock": "pending" }),
                "pending logs are not supported",
            ),
            (json!({ "toBlock": "0x5" }), "invalid block range params"),
            (
                json!({ "fromBlock": "0x6", "toBlock": "0x5" }),
                "invalid block range params",
            ),
            (json!({ "fromBlock": "safe" }), "invalid block range params"),
            (json!({ "topics": [A, A, A, A, A] }), "exceed max topics"),
            (json!({ "topics": [vec![A; 1_001]] }), "exceed max topics"),
            (json!({ "topics": [1] }), "invalid topic(s)"),
            (
                json!({ "blockHash": A, "toBlock": "latest" }),
                "cannot specify both BlockHash",
            ),
            (json!({ "address": address }), "invalid argument 0: "),
            (json!({ "address": 7 }), "invalid argument 0: "),
            (json!(7), "invalid argument 0: "),
        ] {
            let error = LogFilter::read(asked.clone()).unwrap_err();
            let (code, message) = (&error.as_value()["code"], &error.as_value()["message"]);
            assert!(
                message.as_str().unwrap().starts_with(expect),
                "{asked}: {error:?}"
            );
            assert_eq!(code, -32_602);
        }
    }

    #[test]
    fn the_client_is_asked_for_what_is_new() {
        let filter = LogFilter::read(json!({ "fromBlock": "0x5", "toBlock": "0x8" })).unwrap();
        assert_eq!(filter.between(9, 12), None);
        let asked = filter.between(2, 7).unwrap();
        assert_eq!(
            (&asked[0]["fromBlock"], &asked[0]["toBlock"]),
            (&json!("0x5"), &json!("0x7"))
        );
        let all = LogFilter::default().between(2, 7).unwrap();
        assert_eq!(
            (&all[0]["address"], &all[0]["topics"]),
            (&json!([]), &json!([]))
        );
    }
}
