//! Every metric of the conductor.

use counterpoint_service::Metrics;

pub(crate) const SEQUENCER_HEIGHT: &str = "conductor_sequencer_height";
pub(crate) const BLOCK_NUMBER: &str = "conductor_block_number";
pub(crate) const LAG_SECONDS: &str = "conductor_lag_seconds";
pub(crate) const TRANSACTIONS: &str = "conductor_transactions_total";
pub(crate) const SKIPPED: &str = "conductor_skipped_total";
pub(crate) const LEGS: &str = "conductor_legs_total";
pub(crate) const BROKEN_LEGS: &str = "conductor_broken_legs_total";
pub(crate) const ATTESTATIONS: &str = "conductor_attestations_total";
pub(crate) const SILENCES: &str = "conductor_attester_silences_total";
pub(crate) const OUTCOME_VOTES: &str = "conductor_outcome_votes_total";
pub(crate) const ATTESTATION_SECONDS: &str = "conductor_attestation_seconds";
pub(crate) const SUBMIT_SECONDS: &str = "conductor_submit_seconds";
pub(crate) const EXECUTE_SECONDS: &str = "conductor_execute_seconds";
pub(crate) const CLOSE_SECONDS: &str = "conductor_close_seconds";
pub(crate) const ADDED_SECONDS: &str = "conductor_added_seconds";
pub(crate) const HEAD_SECONDS: &str = "conductor_head_seconds";
pub(crate) const COMMIT_SECONDS: &str = "conductor_commit_seconds";
pub(crate) const WAITING: &str = "conductor_blocks_waiting";
pub(crate) const VERIFIED_LAG_SECONDS: &str = "conductor_verified_lag_seconds";
pub(crate) const READERS: &str = "conductor_receipt_readers";
pub(crate) const SLOW_READERS: &str = "conductor_slow_readers_total";
pub(crate) const CONNECTIONS: &str = "conductor_grpc_connections";

/// All of them: dashboards, alerts and their reference are about these.
pub const ALL: Metrics = Metrics {
    gauges: &[
        (SEQUENCER_HEIGHT, "last verified height of the sequencer"),
        (BLOCK_NUMBER, "last block that the execution client has"),
        (LAG_SECONDS, "age of that block's slot when it was done"),
        (
            VERIFIED_LAG_SECONDS,
            "age of the last verified header when it was verified",
        ),
        (WAITING, "executed blocks that the execution client lacks"),
        (READERS, "readers of early receipts"),
        (CONNECTIONS, "gRPC connections"),
    ],
    counters: &[
        (TRANSACTIONS, "transactions in blocks"),
        (SKIPPED, "items that are in no block, by reason"),
        (SLOW_READERS, "readers of early receipts that were too slow"),
        (LEGS, "legs of atomic bundles in blocks"),
        (
            BROKEN_LEGS,
            "released legs that failed or have other receipts: a quorum of attesters has lied",
        ),
        (
            ATTESTATIONS,
            "statements about legs that a node took, by what they say",
        ),
        (
            SILENCES,
            "legs about which this attester could say nothing certain",
        ),
        (OUTCOME_VOTES, "outcomes of released legs that a node took"),
    ],
    histograms: &[
        (
            SUBMIT_SECONDS,
            "time the execution client takes for a block",
        ),
        (EXECUTE_SECONDS, "time to execute what a height brings"),
        (CLOSE_SECONDS, "time to close a block: roots and header"),
        (
            ADDED_SECONDS,
            "time from the verified end of a block to its submission",
        ),
        (
            HEAD_SECONDS,
            "age of the sequencer's header that ends a block when the client has it",
        ),
        (COMMIT_SECONDS, "time to write a block and its state"),
        (
            ATTESTATION_SECONDS,
            "time from the verified end of a slot until a node has the statement",
        ),
    ],
    alarms: &[
        BLOCK_NUMBER,
        LAG_SECONDS,
        VERIFIED_LAG_SECONDS,
        WAITING,
        BROKEN_LEGS,
        SILENCES,
    ],
    from_zero: &[BROKEN_LEGS, SILENCES],
};

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_frozen() {
        let expected = [
            "conductor_sequencer_height",
            "conductor_block_number",
            "conductor_lag_seconds",
            "conductor_verified_lag_seconds",
            "conductor_blocks_waiting",
            "conductor_receipt_readers",
            "conductor_grpc_connections",
            "conductor_transactions_total",
            "conductor_skipped_total",
            "conductor_slow_readers_total",
            "conductor_legs_total",
            "conductor_broken_legs_total",
            "conductor_attestations_total",
            "conductor_attester_silences_total",
            "conductor_outcome_votes_total",
            "conductor_submit_seconds",
            "conductor_execute_seconds",
            "conductor_close_seconds",
            "conductor_added_seconds",
            "conductor_head_seconds",
            "conductor_commit_seconds",
            "conductor_attestation_seconds",
        ];
        assert_eq!(super::ALL.names(), expected);
    }
}
