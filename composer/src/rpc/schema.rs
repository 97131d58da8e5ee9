//! The kinds of values that calls take and give, as JSON Schemas.

use serde_json::{Value, json};

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Schema {
    Address,
    Addresses,
    Any,
    Array,
    Block,
    Bool,
    Bytes,
    Call,
    Hash,
    LogFilter,
    Logs,
    Nullable,
    NullableQuantity,
    Object,
    Quantity,
    Status,
    Subscription,
    Text,
}

impl Schema {
    /// All kinds.
    pub(crate) const ALL: [Self; 18] = [
        Self::Address,
        Self::Addresses,
        Self::Any,
        Self::Array,
        Self::Block,
        Self::Bool,
        Self::Bytes,
        Self::Call,
        Self::Hash,
        Self::LogFilter,
        Self::Logs,
        Self::Nullable,
        Self::NullableQuantity,
        Self::Object,
        Self::Quantity,
        Self::Status,
        Self::Subscription,
        Self::Text,
    ];

    /// Its name in the document.
    #[must_use]
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    /// What it says.
    #[must_use]
    pub(crate) fn definition(self) -> Value {
        let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
        match self {
            Self::Address => text("^0x[0-9a-fA-F]{40}$"),
            Self::Addresses => json!({ "type": "array", "items": reference(Self::Address) }),
            Self::Any => json!({}),
            Self::Array => json!({ "type": "array" }),
            Self::Block => json!({
                "description": "A number, a name, or an object with `blockHash` or `blockNumber`",
                "oneOf": [
                    reference(Self::Quantity),
                    { "enum": ["earliest", "finalized", "safe", "latest", "pending"] },
                    { "type": "object" },
                ],
            }),
            Self::Bool => json!({ "type": "boolean" }),
            Self::Bytes => text("^0x([0-9a-fA-F]{2})*$"),
            Self::Call => json!({
                "type": "object",
                "properties": {
                    "from": reference(Self::Address), "to": reference(Self::Address),
                    "gas": reference(Self::Quantity), "value": reference(Self::Quantity),
                    "maxFeePerGas": reference(Self::Quantity),
                    "maxPriorityFeePerGas": reference(Self::Quantity),
                    "input": reference(Self::Bytes),
                },
            }),
            Self::Hash => text("^0x[0-9a-fA-F]{64}$"),
            Self::LogFilter => json!({
                "type": "object",
                "properties": {
                    "fromBlock": reference(Self::Block), "toBlock": reference(Self::Block),
                    "blockHash": reference(Self::Hash),
                    "address": { "oneOf": [
                        reference(Self::Address), reference(Self::Addresses),
                    ] },
                    "topics": { "type": "array", "maxItems": 4 },
                },
            }),
            Self::Logs => json!({ "type": "array", "items": { "type": "object" } }),
            Self::Nullable => json!({ "type": ["object", "null"] }),
            Self::NullableQuantity => json!({
                "oneOf": [reference(Self::Quantity), { "type": "null" }],
            }),
            Self::Object => json!({ "type": "object" }),
            Self::Quantity => text("^0x(0|[1-9a-fA-F][0-9a-fA-F]*)$"),
            Self::Status => json!({
                "type": "object",
                "required": ["hash", "status"],
                "properties": {
                    "hash": reference(Self::Hash),
                    "status": { "type": "string" },
                    "height": { "type": "integer" }, "index": { "type": "integer" },
                    "blockNumber": { "type": "integer" }, "success": { "type": "boolean" },
                    "reason": { "type": ["string", "null"] },
                },
            }),
            Self::Subscription => json!({
                "enum": ["newHeads", "logs", "newPendingTransactions", "syncing"],
            }),
            Self::Text => json!({ "type": "string" }),
        }
    }
}

/// The kind by its name, for another one.
#[must_use]
pub(crate) fn reference(schema: Schema) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", schema.name()) })
}
