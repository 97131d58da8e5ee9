//! Requests and answers of JSON-RPC 2.0, read and written as geth does.
//!
//! ```text
//! body ─Request::read─▶ One │ Many ─Message::read─▶ id, method, parameters ─▶ success │ failure
//! ```
//! Nothing is copied before it is known to be JSON, parameters are left as they are until somebody
//! wants them, and no nesting is followed on the stack beyond the limit of `serde_json`.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::RpcError;

/// Longest name of a method, in bytes.
const MAX_METHOD_BYTES: usize = 2_048;
/// The id of an answer to what has none.
const NULL: &str = "null";

/// What a wallet sends at once.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// One message.
    One(&'a RawValue),
    /// A batch.
    Many(Batch<'a>),
}

/// Messages of a batch, no more than are answered, and how many there are.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) messages: Vec<&'a RawValue>,
    pub(crate) count: usize,
}

impl<'a> Request<'a> {
    /// Splits what was sent; of a batch with more than `limit` messages, only so many are kept.
    ///
    /// # Errors
    /// It is no JSON.
    pub(crate) fn read(body: &'a [u8], limit: usize) -> Result<Self, RpcError> {
        let body: &RawValue = serde_json::from_slice(body).map_err(|_| RpcError::parse())?;
        if !body.get().starts_with('[') {
            return Ok(Self::One(body));
        }
        let mut batch = serde_json::Deserializer::from_str(body.get());
        let batch = batch.deserialize_seq(Messages { limit });
        batch.map(Self::Many).map_err(|_| RpcError::parse())
    }

    /// How many messages there are.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(batch) => batch.count.max(1),
        }
    }
}

struct Messages {
    limit: usize,
}

impl<'de> Visitor<'de> for Messages {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while messages.len() < self.limit {
            let Some(message) = all.next_element()? else {
                let count = messages.len();
                return Ok(Batch { messages, count });
            };
            messages.push(message);
        }
        let mut count = messages.len();
        while all.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Batch { messages, count })
    }
}

/// A call, or a notification, which has no id and is not answered.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) id: Option<&'a RawValue>,
    pub(crate) method: Cow<'a, str>,
    params: &'a RawValue,
}

/// Text that is copied only if it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of a message, of which none is looked at before it is asked for.
#[derive(Default, Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

/// A member that is there, be it null.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl<'a> Message<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// What is to be answered if it is none.
    pub(crate) fn read(raw: &'a RawValue) -> Result<Self, String> {
        // What derives `Deserialize` is read from a list as well.
        let object = Some(raw.get()).filter(|raw| raw.starts_with('{'));
        let members = object.and_then(|raw| serde_json::from_str::<Members<'a>>(raw).ok());
        let members = members.unwrap_or_default();
        let id = members.id.filter(|id| !id.get().starts_with(['{', '[']));
        let fail = |error: &RpcError| failure(id.map_or(NULL, RawValue::get), error);
        let text = |member: Option<&'a RawValue>| {
            let text: Option<Text<'a>> = serde_json::from_str(member?.get()).ok();
            text.map(|text| text.0)
        };
        let invalid = || fail(&RpcError::invalid_request("invalid request"));
        if id.is_none() && members.id.is_some() || text(members.jsonrpc).as_deref() != Some("2.0") {
            return Err(invalid());
        }
        let method = text(members.method).filter(|method| !method.is_empty());
        let method = method.ok_or_else(invalid)?;
        if method.len() > MAX_METHOD_BYTES {
            let reason = format!(
                "method name too long: {} > {MAX_METHOD_BYTES}",
                method.len()
            );
            return Err(fail(&RpcError::invalid_request(reason)));
        }
        let params = members.params.unwrap_or(RawValue::NULL);
        Ok(Self { id, method, params })
    }

    /// The parameters.
    ///
    /// # Errors
    /// They are nested too deep.
    pub(crate) fn params(&self) -> Result<Value, RpcError> {
        serde_json::from_str(self.params.get()).map_err(|_| RpcError::parse())
    }

    /// The only parameter, if there is one and it is of this kind.
    pub(crate) fn only<T: DeserializeOwned>(&self) -> Option<T> {
        let (only,) = serde_json::from_str(self.params.get()).ok()?;
        Some(only)
    }

    /// The id of a message, whatever else it is.
    #[must_use]
    pub(crate) fn id_of(raw: &'a RawValue) -> Option<&'a RawValue> {
        Self::read(raw).ok()?.id
    }
}

/// The answer to a call that succeeded.
#[must_use]
pub(crate) fn success(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// The answer to a call that failed.
#[must_use]
pub(crate) fn failure(id: &str, error: &RpcError) -> String {
    let error = error.as_value();
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// The answer to what is no call.
#[must_use]
pub(crate) fn refusal(error: &RpcError) -> String {
    failure(NULL, error)
}

/// What a subscription tells, in the shape of geth.
#[must_use]
pub(crate) fn notification(method: &str, id: &str, result: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"subscription":"{id}","result":{result}}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Result<(Option<String>, String, Value), Value> {
        let raw: &RawValue = serde_json::from_str(body).unwrap();
        match Message::read(raw) {
            Ok(message) => {
                let id = message.id.map(|id| id.get().to_owned());
                Ok((id, message.method.to_string(), message.params().unwrap()))
            }
            Err(answer) => Err(serde_json::from_str(&answer).unwrap()),
        }
    }

    #[track_caller]
    fn refused(body: &str, id: Value, code: i64, message: &str) {
        let expect = json!({
            "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message },
        });
        assert_eq!(read(body), Err(expect), "{body}");
    }

    #[test]
    fn a_call_keeps_its_id_letter_by_letter() {
        for id in [
            "1",
            "null",
            "\"a\\u0062\"",
            "12345678901234567890123",
            "1.50",
        ] {
            let call = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m","params":[1]}}"#);
            let expect = (Some(id.to_owned()), "m".to_owned(), json!([1]));
            assert_eq!(read(&call), Ok(expect));
        }
        let notification = read(r#"{"jsonrpc":"2.0","method":"m"}"#).unwrap();
        assert_eq!(notification, (None, "m".into(), Value::Null));
    }

    #[test]
    fn what_is_no_call_is_answered_as_geth_does() {
        let invalid = "invalid request";
        let list = r#"["2.0",7,"m",[]]"#;
        for body in ["1", "null", "\"text\"", "{}", r#"{"jsonrpc":"2.0"}"#, list] {
            refused(body, Value::Null, -32_600, invalid);
        }
        for body in [
            r#"{"id":7,"method":"m"}"#,
            r#"{"jsonrpc":"1.0","id":7,"method":"m"}"#,
            r#"{"jsonrpc":2.0,"id":7,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":1}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":""}"#,
        ] {
            refused(body, json!(7), -32_600, invalid);
        }
        let object = r#"{"jsonrpc":"2.0","id":{"a":1},"method":"m"}"#;
        refused(object, Value::Null, -32_600, invalid);
        let twice = r#"{"jsonrpc":"2.0","id":7,"method":"m","method":"n"}"#;
        refused(twice, Value::Null, -32_600, invalid);
        let long = format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"{}"}}"#,
            "m".repeat(2_049)
        );
        refused(
            &long,
            json!(7),
            -32_600,
            "method name too long: 2049 > 2048",
        );
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"jsonrpc":"2.0","id":7,"method":"m","params":{open}{close}}}"#)
        };
        assert!(read(&nested(100)).is_ok());
        let deep = nested(1_000_000);
        let raw: &RawValue = serde_json::from_str(&deep).unwrap();
        let params = Message::read(raw).unwrap().params();
        assert_eq!(params, Err(RpcError::parse()));
    }

    #[test]
    fn a_batch_is_counted_and_cut() {
        let body = format!("[{}1]", "1, ".repeat(9));
        let Ok(Request::Many(batch)) = Request::read(body.as_bytes(), 4) else {
            panic!("no batch");
        };
        assert_eq!((batch.messages.len(), batch.count), (4, 10));
        let broken: [&[u8]; 6] = [b"", b"{", b"[1,]", b"[1] 2", b"\"\xff\"", b"nul"];
        for body in broken {
            let error = Request::read(body, 4).unwrap_err();
            assert_eq!(error, RpcError::parse(), "{body:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_it(body: Vec<u8>, text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,60}") {
            for body in [&body[..], text.as_bytes()] {
                let Ok(Request::One(raw)) = Request::read(body, 3) else {
                    continue;
                };
                match Message::read(raw) {
                    Ok(message) => drop(message.params()),
                    Err(answer) => assert!(serde_json::from_str::<Value>(&answer).is_ok()),
                }
            }
        }
    }
}
