//! Every metric of the conductor.

use counterpoint_service::Metrics;

pub(crate) const SEQUENCER_HEIGHT: &str = "conductor_sequencer_height";
pub(crate) const BLOCK_NUMBER: &str = "conductor_block_number";
pub(crate) const LAG_SECONDS: &str = "conductor_lag_seconds";
pub(crate) const TRANSACTIONS: &str = "conductor_transactions_total";
pub(crate) const SKIPPED: &str = "conductor_skipped_total";
pub(crate) const SUBMIT_SECONDS: &str = "conductor_submit_seconds";

pub(crate) const ALL: Metrics = Metrics {
    gauges: &[
        (SEQUENCER_HEIGHT, "last verified height of the sequencer"),
        (BLOCK_NUMBER, "last block that the execution client has"),
        (LAG_SECONDS, "age of that block's slot when it was done"),
    ],
    counters: &[
        (TRANSACTIONS, "transactions in blocks"),
        (SKIPPED, "items that are in no block, by reason"),
    ],
    histograms: &[(
        SUBMIT_SECONDS,
        "time the execution client takes for a block",
    )],
};

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_frozen() {
        let expected = [
            "conductor_sequencer_height",
            "conductor_block_number",
            "conductor_lag_seconds",
            "conductor_transactions_total",
            "conductor_skipped_total",
            "conductor_submit_seconds",
        ];
        assert_eq!(super::ALL.names(), expected);
    }
}
