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
    Bundle,
    BundleState,
    Bytes,
    Call,
    Hash,
    LogFilter,
    Logs,
    Nullable,
    NullableQuantity,
    Object,
    Quantity,
    RawLegs,
    Status,
    Subscription,
    Text,
}

impl Schema {
    /// All kinds.
    pub(crate) const ALL: [Self; 21] = [
        Self::Address,
        Self::Addresses,
        Self::Any,
        Self::Array,
        Self::Block,
        Self::Bool,
        Self::Bundle,
        Self::BundleState,
        Self::Bytes,
        Self::Call,
        Self::Hash,
        Self::LogFilter,
        Self::Logs,
        Self::Nullable,
        Self::NullableQuantity,
        Self::Object,
        Self::Quantity,
        Self::RawLegs,
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
            Self::Bundle => json!({
                "description": "docs/composer.md, section Atomic bundles; a rollup is a name, or 0x and its identifier",
                "type": "object",
                "required": ["chainId", "sessionSalt", "legs", "validFrom", "validUntil"],
                "properties": {
                    "chainId": { "type": "string" }, "sessionSalt": reference(Self::Hash),
                    "legs": { "type": "array", "items": {
                        "type": "object",
                        "required": ["rollup", "transactions"],
                        "properties": {
                            "rollup": { "type": "string" },
                            "transactions": { "type": "array", "items": {
                                "type": "object",
                                "required": ["hash"],
                                "properties": {
                                    "hash": reference(Self::Hash), "auth": reference(Self::Bytes),
                                },
                            } },
                        },
                    } },
                    "callers": { "type": "array" }, "messages": { "type": "array" },
                    "validFrom": { "type": "integer" }, "validUntil": { "type": "integer" },
                    "onAbort": { "enum": ["failFast", "retry"] },
                    "maxAttempts": { "type": "integer" },
                    "extraAttesters": { "type": "array" },
                    "tipPerAttempt": { "type": "string" },
                },
            }),
            Self::BundleState => json!({
                "type": ["object", "null"],
                "required": ["bundleId", "stage", "legs"],
                "properties": {
                    "bundleId": reference(Self::Hash),
                    "stage": { "enum": [
                        "accepted", "sealed", "queued", "scheduled", "released", "executed",
                        "unconfirmed", "violated", "aborted", "refused",
                    ] },
                    "reason": { "type": "string" }, "trouble": { "type": "string" },
                    "failure": { "type": "object" }, "revealed": { "type": "boolean" },
                    "asOf": { "type": "integer" }, "sealedAt": { "type": "integer" },
                    "scheduledFor": { "type": "integer" }, "releasedAt": { "type": "integer" },
                    "attemptsLeft": { "type": "integer" },
                    "stages": { "type": "array" }, "legs": { "type": "array" },
                    "proof": { "type": "object" },
                },
            }),
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
            Self::RawLegs => json!({
                "description": "Raw transactions by leg, in the order of the bundle",
                "type": "array",
                "items": { "type": "array", "items": reference(Self::Bytes) },
            }),
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
