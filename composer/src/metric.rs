//! Every metric of the composer.

use counterpoint_service::Metrics;

pub(crate) const QUEUE_TRANSACTIONS: &str = "composer_queue_transactions";
pub(crate) const QUEUE_BYTES: &str = "composer_queue_bytes";
pub(crate) const BALANCE: &str = "composer_balance_units";
pub(crate) const BASE_FEE: &str = "composer_base_fee_units";
pub(crate) const SPENDING: &str = "composer_spending_units_per_minute";
pub(crate) const FREE_BYTES: &str = "composer_free_bytes";
pub(crate) const RECEIVED: &str = "composer_received_transactions_total";
pub(crate) const BATCHES: &str = "composer_batches_total";
pub(crate) const DISSOLVED: &str = "composer_dissolved_batches_total";
pub(crate) const SEQUENCED: &str = "composer_sequenced_transactions_total";
pub(crate) const EXECUTED: &str = "composer_executed_transactions_total";
pub(crate) const SKIPPED: &str = "composer_skipped_transactions_total";
pub(crate) const CONNECTIONS: &str = "composer_connections";
pub(crate) const WEBSOCKETS: &str = "composer_websockets";
pub(crate) const SUBSCRIPTIONS: &str = "composer_subscriptions";
pub(crate) const CALLS: &str = "composer_calls_total";
pub(crate) const REFUSED: &str = "composer_refused_total";
pub(crate) const BUNDLES: &str = "composer_bundles";
pub(crate) const BUNDLES_BALANCE: &str = "composer_bundles_balance_units";
pub(crate) const BUNDLES_OVER: &str = "composer_bundles_over_total";
pub(crate) const ACKNOWLEDGE_SECONDS: &str = "composer_acknowledge_seconds";
pub(crate) const BATCHED_SECONDS: &str = "composer_batched_seconds";
pub(crate) const SEQUENCED_SECONDS: &str = "composer_sequenced_seconds";
pub(crate) const EXECUTED_SECONDS: &str = "composer_executed_seconds";
pub(crate) const INCLUSION_SECONDS: &str = "composer_inclusion_seconds";

/// All of them: dashboards, alerts and their reference are about these.
pub const ALL: Metrics = Metrics {
    gauges: &[
        (QUEUE_TRANSACTIONS, "transactions that are not finished"),
        (
            QUEUE_BYTES,
            "bytes of the transactions that are not finished",
        ),
        (BALANCE, "what the sequencer account holds, in base units"),
        (
            BASE_FEE,
            "what a byte costs in the next block, in base units",
        ),
        (SPENDING, "what the sequencer account pays in a minute"),
        (FREE_BYTES, "free bytes of the disk that data_dir is on"),
        (CONNECTIONS, "connections of callers"),
        (WEBSOCKETS, "connections that are WebSockets"),
        (BUNDLES, "atomic bundles that are not over"),
        (
            BUNDLES_BALANCE,
            "what the account for bundles holds, in base units",
        ),
        (SUBSCRIPTIONS, "subscriptions that have not ended"),
    ],
    counters: &[
        (RECEIVED, "transactions that wallets sent, by outcome"),
        (BATCHES, "batches that were begun"),
        (
            DISSOLVED,
            "batches that are provably in no block, so that their items wait again",
        ),
        (SEQUENCED, "transactions in verified lists"),
        (
            BUNDLES_OVER,
            "atomic bundles that are over, by outcome: over, refused",
        ),
        (EXECUTED, "transactions with a receipt"),
        (SKIPPED, "transactions in a list and in no block"),
        (
            CALLS,
            "calls of methods that there are, by method and outcome",
        ),
        (
            REFUSED,
            "callers that were refused or cut off, by reason: connections, key, memory, rate, slow, subscriptions",
        ),
    ],
    histograms: &[
        (
            ACKNOWLEDGE_SECONDS,
            "time from a wallet's call to its answer",
        ),
        (
            BATCHED_SECONDS,
            "time from a wallet's call until a batch takes its transaction",
        ),
        (
            SEQUENCED_SECONDS,
            "time from a wallet's call until its transaction's place is verified",
        ),
        (
            EXECUTED_SECONDS,
            "time from a wallet's call until the execution client has its transaction",
        ),
        (
            INCLUSION_SECONDS,
            "time from a batch's first send to its proof",
        ),
    ],
    alarms: &[
        QUEUE_TRANSACTIONS,
        BALANCE,
        BUNDLES_BALANCE,
        FREE_BYTES,
        DISSOLVED,
        SEQUENCED,
        REFUSED,
        ACKNOWLEDGE_SECONDS,
    ],
    from_zero: &[DISSOLVED, SEQUENCED],
};

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_frozen() {
        let expected = [
            "composer_queue_transactions",
            "composer_queue_bytes",
            "composer_balance_units",
            "composer_base_fee_units",
            "composer_spending_units_per_minute",
            "composer_free_bytes",
            "composer_connections",
            "composer_websockets",
            "composer_bundles",
            "composer_bundles_balance_units",
            "composer_subscriptions",
            "composer_received_transactions_total",
            "composer_batches_total",
            "composer_dissolved_batches_total",
            "composer_sequenced_transactions_total",
            "composer_bundles_over_total",
            "composer_executed_transactions_total",
            "composer_skipped_transactions_total",
            "composer_calls_total",
            "composer_refused_total",
            "composer_acknowledge_seconds",
            "composer_batched_seconds",
            "composer_sequenced_seconds",
            "composer_executed_seconds",
            "composer_inclusion_seconds",
        ];
        assert_eq!(super::ALL.names(), expected);
    }
}
