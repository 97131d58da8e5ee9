//! Every metric of the app, with its help text. Names are an interface: dashboards and alerts use
//! them.

use metrics::{describe_counter, describe_gauge, describe_histogram};

pub(crate) const HEIGHT: &str = "app_height";
pub(crate) const HEADER_HEIGHT: &str = "app_header_height";
pub(crate) const MEMPOOL_TRANSACTIONS: &str = "app_mempool_transactions";
pub(crate) const MEMPOOL_BYTES: &str = "app_mempool_bytes";
pub(crate) const STREAMS: &str = "app_streams";
pub(crate) const SUBMITTED: &str = "app_submitted_transactions_total";
pub(crate) const SEQUENCED: &str = "app_sequenced_transactions_total";
pub(crate) const SEQUENCED_BYTES: &str = "app_sequenced_bytes_total";
pub(crate) const REJECTED_PROPOSALS: &str = "app_rejected_proposals_total";
pub(crate) const PREPARE_SECONDS: &str = "app_prepare_seconds";
pub(crate) const EXECUTE_SECONDS: &str = "app_execute_seconds";
pub(crate) const COMMIT_SECONDS: &str = "app_commit_seconds";

const GAUGES: [(&str, &str); 5] = [
    (HEIGHT, "last committed height"),
    (HEADER_HEIGHT, "last height whose signed header is stored"),
    (MEMPOOL_TRANSACTIONS, "transactions that wait"),
    (MEMPOOL_BYTES, "bytes of the transactions that wait"),
    (STREAMS, "readers of rollup blocks at the moment"),
];
const COUNTERS: [(&str, &str); 4] = [
    (SUBMITTED, "transactions handed in, by outcome"),
    (SEQUENCED, "transactions in committed blocks"),
    (SEQUENCED_BYTES, "bytes of the items of committed blocks"),
    (
        REJECTED_PROPOSALS,
        "proposals of others that were voted against",
    ),
];
const HISTOGRAMS: [(&str, &str); 3] = [
    (PREPARE_SECONDS, "time to choose a block"),
    (EXECUTE_SECONDS, "time to execute a block"),
    (COMMIT_SECONDS, "time to write a block down"),
];

/// Gives every metric its help text.
pub(crate) fn describe() {
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(name, help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_frozen() {
        let names = GAUGES.iter().chain(&COUNTERS).chain(&HISTOGRAMS);
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "app_height",
                "app_header_height",
                "app_mempool_transactions",
                "app_mempool_bytes",
                "app_streams",
                "app_submitted_transactions_total",
                "app_sequenced_transactions_total",
                "app_sequenced_bytes_total",
                "app_rejected_proposals_total",
                "app_prepare_seconds",
                "app_execute_seconds",
                "app_commit_seconds",
            ]
        );
    }
}
