//! Every method that is served. Dispatch, the allow-list and the published document all read this
//! table, so that none of them can say anything else.

use std::{collections::HashMap, sync::LazyLock};

use super::schema::Schema;

/// A method of the JSON-RPC interface.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) params: &'static [Param],
    pub(crate) result: Schema,
    pub(crate) answered: Answered,
}

impl Method {
    /// Whether it needs a connection that notifications can be sent over.
    #[must_use]
    pub(crate) fn is_subscribed(&self) -> bool {
        matches!(self.answered, Answered::Subscribed(_))
    }
}

/// A parameter, by its place.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) schema: Schema,
    pub(crate) is_required: bool,
}

/// Who answers a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The rollup's execution client, whose "pending" is what has been executed.
    ByClient,
    /// This composer, of atomic bundles.
    Atomic(Atomic),
    /// This composer.
    Here(Here),
    /// This composer, where notifications can be sent: over WebSocket.
    Subscribed(Subscribed),
}

/// What is answered of atomic bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Get,
    Reveal,
    Send,
    Simulate,
}

/// What is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    Balance,
    BlockByNumber,
    BundleStatus,
    ChainId,
    ClientVersion,
    Discover,
    EarlyReceipt,
    FilterChanges,
    FilterLogs,
    NetVersion,
    NewBlockFilter,
    NewFilter,
    NewPendingTransactionFilter,
    Receipt,
    Send,
    SendAndWait,
    SendBundle,
    Status,
    Transaction,
    TransactionCount,
    UninstallFilter,
}

/// What begins or ends notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subscribed {
    Bundle,
    Eth,
    Status,
    End,
}

/// The method of this name, spelled exactly so.
#[must_use]
pub(crate) fn find(name: &str) -> Option<&'static Method> {
    static BY_NAME: LazyLock<HashMap<&str, &Method>> =
        LazyLock::new(|| METHODS.iter().map(|method| (method.name, method)).collect());
    BY_NAME.get(name).copied()
}

const fn needs(name: &'static str, schema: Schema) -> Param {
    Param {
        name,
        schema,
        is_required: true,
    }
}

const fn takes(name: &'static str, schema: Schema) -> Param {
    Param {
        name,
        schema,
        is_required: false,
    }
}

const fn here(
    name: &'static str,
    summary: &'static str,
    params: &'static [Param],
    result: Schema,
    answered: Here,
) -> Method {
    Method {
        name,
        summary,
        params,
        result,
        answered: Answered::Here(answered),
    }
}

const fn atomic(
    name: &'static str,
    summary: &'static str,
    params: &'static [Param],
    result: Schema,
    answered: Atomic,
) -> Method {
    Method {
        name,
        summary,
        params,
        result,
        answered: Answered::Atomic(answered),
    }
}

const fn client(
    name: &'static str,
    summary: &'static str,
    params: &'static [Param],
    result: Schema,
) -> Method {
    Method {
        name,
        summary,
        params,
        result,
        answered: Answered::ByClient,
    }
}

const fn subscribed(
    name: &'static str,
    summary: &'static str,
    params: &'static [Param],
    result: Schema,
    answered: Subscribed,
) -> Method {
    Method {
        name,
        summary,
        params,
        result,
        answered: Answered::Subscribed(answered),
    }
}

const ADDRESS: Param = needs("address", Schema::Address);
const BUNDLE_ID: Param = needs("bundleId", Schema::Hash);
const BUNDLE: Param = needs("bundle", Schema::Bundle);
const LEGS: Param = needs("legs", Schema::RawLegs);
const BLOCK: Param = needs("block", Schema::Block);
const BLOCK_HASH: Param = needs("blockHash", Schema::Hash);
const CALL: Param = needs("call", Schema::Call);
const FILTER: Param = needs("filter", Schema::LogFilter);
const FILTER_ID: Param = needs("filterId", Schema::Quantity);
const FULL: Param = needs("fullTransactions", Schema::Bool);
const HASH: Param = needs("transactionHash", Schema::Hash);
const INDEX: Param = needs("index", Schema::Quantity);
const MAYBE_BLOCK: Param = takes("block", Schema::Block);
const OVERRIDES: Param = takes("stateOverrides", Schema::Object);
const RAW: Param = needs("transaction", Schema::Bytes);

/// All methods, in the order of their names.
pub(crate) const METHODS: &[Method] = &[
    atomic(
        "counterpoint_getBundle",
        "How far an atomic bundle is; `{ proof: true }` adds the state's proof of it",
        &[BUNDLE_ID, takes("options", Schema::Object)],
        Schema::BundleState,
        Atomic::Get,
    ),
    here(
        "counterpoint_getBundleStatus",
        "Where the transactions of a bundle stand, in its order",
        &[needs("bundleHash", Schema::Hash)],
        Schema::Nullable,
        Here::BundleStatus,
    ),
    here(
        "counterpoint_getTransactionReceipt",
        "Receipt of a transaction as soon as it is final, some time before its block can be read",
        &[HASH],
        Schema::Nullable,
        Here::EarlyReceipt,
    ),
    here(
        "counterpoint_getTransactionStatus",
        "Where a transaction stands, from the queue to its block",
        &[HASH],
        Schema::Status,
        Here::Status,
    ),
    atomic(
        "counterpoint_revealBundle",
        "Takes the raw transactions of an atomic bundle in, once its seal is proven; once answered, nothing loses them",
        &[BUNDLE_ID, LEGS],
        Schema::Object,
        Atomic::Reveal,
    ),
    atomic(
        "counterpoint_sendBundle",
        "Takes an atomic bundle in, to be sealed: hashes and auths; once answered, nothing loses it",
        &[BUNDLE],
        Schema::Object,
        Atomic::Send,
    ),
    atomic(
        "counterpoint_simulateBundle",
        "What the rollups' clients say of an atomic bundle's legs now: advice, and no promise",
        &[BUNDLE, LEGS],
        Schema::Object,
        Atomic::Simulate,
    ),
    subscribed(
        "counterpoint_subscribeBundle",
        "How far an atomic bundle is, now and whenever that changes; WebSocket only",
        &[BUNDLE_ID],
        Schema::Quantity,
        Subscribed::Bundle,
    ),
    subscribed(
        "counterpoint_subscribeStatus",
        "Tells where a transaction stands now and whenever that changes, until its end; WebSocket only",
        &[HASH],
        Schema::Quantity,
        Subscribed::Status,
    ),
    client(
        "eth_accounts",
        "Accounts of the client: none",
        &[],
        Schema::Addresses,
    ),
    client(
        "eth_blobBaseFee",
        "Fee of a unit of blob gas",
        &[],
        Schema::Quantity,
    ),
    client(
        "eth_blockNumber",
        "Number of the last block",
        &[],
        Schema::Quantity,
    ),
    client(
        "eth_call",
        "Executes a call without a transaction",
        &[
            CALL,
            MAYBE_BLOCK,
            OVERRIDES,
            takes("blockOverrides", Schema::Object),
        ],
        Schema::Bytes,
    ),
    here(
        "eth_chainId",
        "Chain id of the rollup",
        &[],
        Schema::Quantity,
        Here::ChainId,
    ),
    client(
        "eth_config",
        "Forks of the rollup, by EIP-7910",
        &[],
        Schema::Object,
    ),
    client(
        "eth_createAccessList",
        "Storage that a call touches, and its gas",
        &[CALL, MAYBE_BLOCK, OVERRIDES],
        Schema::Object,
    ),
    client(
        "eth_estimateGas",
        "Gas that a transaction needs",
        &[
            CALL,
            MAYBE_BLOCK,
            OVERRIDES,
            takes("blockOverrides", Schema::Object),
        ],
        Schema::Quantity,
    ),
    client(
        "eth_feeHistory",
        "Base fees and tips of past blocks",
        &[
            needs("blockCount", Schema::Quantity),
            needs("newestBlock", Schema::Block),
            takes("rewardPercentiles", Schema::Array),
        ],
        Schema::Object,
    ),
    client(
        "eth_gasPrice",
        "A gas price for the next block",
        &[],
        Schema::Quantity,
    ),
    here(
        "eth_getBalance",
        "Balance of an account; at `pending` less the most that what waits here can cost",
        &[ADDRESS, BLOCK],
        Schema::Quantity,
        Here::Balance,
    ),
    client(
        "eth_getBlockByHash",
        "A block, by its hash",
        &[BLOCK_HASH, FULL],
        Schema::Nullable,
    ),
    here(
        "eth_getBlockByNumber",
        "A block, by its number; at `pending` the next one as far as it is known",
        &[BLOCK, FULL],
        Schema::Nullable,
        Here::BlockByNumber,
    ),
    client(
        "eth_getBlockReceipts",
        "All receipts of a block",
        &[BLOCK],
        Schema::Array,
    ),
    client(
        "eth_getBlockTransactionCountByHash",
        "Number of transactions of a block, by its hash",
        &[BLOCK_HASH],
        Schema::NullableQuantity,
    ),
    client(
        "eth_getBlockTransactionCountByNumber",
        "Number of transactions of a block, by its number",
        &[BLOCK],
        Schema::NullableQuantity,
    ),
    client(
        "eth_getCode",
        "Code of a contract",
        &[ADDRESS, BLOCK],
        Schema::Bytes,
    ),
    here(
        "eth_getFilterChanges",
        "What a filter has found since it was asked last",
        &[FILTER_ID],
        Schema::Array,
        Here::FilterChanges,
    ),
    here(
        "eth_getFilterLogs",
        "All logs that a filter of logs describes",
        &[FILTER_ID],
        Schema::Logs,
        Here::FilterLogs,
    ),
    client(
        "eth_getHeaderByHash",
        "A header, by its hash",
        &[BLOCK_HASH],
        Schema::Nullable,
    ),
    client(
        "eth_getHeaderByNumber",
        "A header, by its number",
        &[BLOCK],
        Schema::Nullable,
    ),
    client(
        "eth_getLogs",
        "Logs that a filter describes",
        &[FILTER],
        Schema::Logs,
    ),
    client(
        "eth_getProof",
        "Proof of an account and of its storage",
        &[ADDRESS, needs("storageKeys", Schema::Array), BLOCK],
        Schema::Object,
    ),
    client(
        "eth_getRawTransactionByHash",
        "An executed transaction as it was signed",
        &[HASH],
        Schema::Bytes,
    ),
    client(
        "eth_getStorageAt",
        "A word of a contract's storage",
        &[ADDRESS, needs("slot", Schema::Quantity), BLOCK],
        Schema::Bytes,
    ),
    client(
        "eth_getTransactionByBlockHashAndIndex",
        "A transaction, by its place in a block",
        &[BLOCK_HASH, INDEX],
        Schema::Nullable,
    ),
    client(
        "eth_getTransactionByBlockNumberAndIndex",
        "A transaction, by its place in a block",
        &[BLOCK, INDEX],
        Schema::Nullable,
    ),
    here(
        "eth_getTransactionByHash",
        "A transaction; one that waits here is shown without a block",
        &[HASH],
        Schema::Nullable,
        Here::Transaction,
    ),
    here(
        "eth_getTransactionCount",
        "Nonce of an account; at `pending` with what waits here",
        &[ADDRESS, BLOCK],
        Schema::Quantity,
        Here::TransactionCount,
    ),
    here(
        "eth_getTransactionReceipt",
        "Receipt of an executed transaction, once its block can be read",
        &[HASH],
        Schema::Nullable,
        Here::Receipt,
    ),
    client(
        "eth_getUncleByBlockHashAndIndex",
        "Always null: there are no uncles",
        &[BLOCK_HASH, INDEX],
        Schema::Nullable,
    ),
    client(
        "eth_getUncleByBlockNumberAndIndex",
        "Always null: there are no uncles",
        &[BLOCK, INDEX],
        Schema::Nullable,
    ),
    client(
        "eth_getUncleCountByBlockHash",
        "Always 0: there are no uncles",
        &[BLOCK_HASH],
        Schema::NullableQuantity,
    ),
    client(
        "eth_getUncleCountByBlockNumber",
        "Always 0: there are no uncles",
        &[BLOCK],
        Schema::NullableQuantity,
    ),
    client(
        "eth_maxPriorityFeePerGas",
        "A tip for the next block",
        &[],
        Schema::Quantity,
    ),
    here(
        "eth_newBlockFilter",
        "Begins a filter of new blocks, which gives their hashes",
        &[],
        Schema::Quantity,
        Here::NewBlockFilter,
    ),
    here(
        "eth_newFilter",
        "Begins a filter of logs",
        &[FILTER],
        Schema::Quantity,
        Here::NewFilter,
    ),
    here(
        "eth_newPendingTransactionFilter",
        "Begins a filter of transactions that this composer takes in, which gives their hashes",
        &[takes("fullTransactions", Schema::Bool)],
        Schema::Quantity,
        Here::NewPendingTransactionFilter,
    ),
    here(
        "eth_sendBundle",
        "Takes transactions in that are ordered next to each other, all or none",
        &[needs("bundle", Schema::Object)],
        Schema::Object,
        Here::SendBundle,
    ),
    here(
        "eth_sendRawTransaction",
        "Takes a signed transaction in; once answered, nothing loses it",
        &[RAW],
        Schema::Hash,
        Here::Send,
    ),
    here(
        "eth_sendRawTransactionSync",
        "Takes a signed transaction in and answers with its receipt, by EIP-7966; the time to wait is in milliseconds",
        &[RAW, takes("timeout", Schema::Any)],
        Schema::Object,
        Here::SendAndWait,
    ),
    client(
        "eth_simulateV1",
        "Executes calls in simulated blocks",
        &[needs("options", Schema::Object), MAYBE_BLOCK],
        Schema::Array,
    ),
    subscribed(
        "eth_subscribe",
        "Begins notifications of `newHeads`, `logs`, `newPendingTransactions` or `syncing`; WebSocket only",
        &[
            needs("subscription", Schema::Subscription),
            takes("options", Schema::Any),
        ],
        Schema::Quantity,
        Subscribed::Eth,
    ),
    client(
        "eth_syncing",
        "Whether the client catches up",
        &[],
        Schema::Any,
    ),
    here(
        "eth_uninstallFilter",
        "Ends a filter",
        &[FILTER_ID],
        Schema::Bool,
        Here::UninstallFilter,
    ),
    subscribed(
        "eth_unsubscribe",
        "Ends notifications; WebSocket only",
        &[needs("subscriptionId", Schema::Quantity)],
        Schema::Bool,
        Subscribed::End,
    ),
    client(
        "net_listening",
        "Whether the client listens for peers",
        &[],
        Schema::Bool,
    ),
    client(
        "net_peerCount",
        "Peers of the client: none",
        &[],
        Schema::Quantity,
    ),
    here(
        "net_version",
        "Chain id of the rollup, in decimal",
        &[],
        Schema::Text,
        Here::NetVersion,
    ),
    here(
        "rpc.discover",
        "This document",
        &[],
        Schema::Object,
        Here::Discover,
    ),
    here(
        "web3_clientVersion",
        "Name and version of this composer",
        &[],
        Schema::Text,
        Here::ClientVersion,
    ),
    client(
        "web3_sha3",
        "Keccak-256 of bytes",
        &[needs("data", Schema::Bytes)],
        Schema::Hash,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_rise_and_params_that_are_needed_come_first() {
        assert!(METHODS.is_sorted_by(|one, next| one.name < next.name));
        for method in METHODS {
            let needed = |param: &Param| !param.is_required;
            assert!(method.params.is_sorted_by_key(needed), "{}", method.name);
            assert_eq!(find(method.name).map(|found| found.name), Some(method.name));
        }
    }
}
