//! Every metric of the app.

use counterpoint_service::Metrics;

pub(crate) const HEIGHT: &str = "app_height";
pub(crate) const HEADER_HEIGHT: &str = "app_header_height";
pub(crate) const LOWEST_HEIGHT: &str = "app_lowest_height";
pub(crate) const DURABLE_HEIGHT: &str = "app_durable_height";
pub(crate) const SNAPSHOT_HEIGHT: &str = "app_snapshot_height";
pub(crate) const MEMPOOL_TRANSACTIONS: &str = "app_mempool_transactions";
pub(crate) const MEMPOOL_BYTES: &str = "app_mempool_bytes";
pub(crate) const MEMPOOL_PARKED: &str = "app_mempool_parked_transactions";
pub(crate) const ATTESTER_MESSAGES: &str = "app_attester_messages";
pub(crate) const INBOX_BYTES: &str = "app_inbox_bytes";
pub(crate) const CLOCK_BEHIND: &str = "app_clock_behind_seconds";
pub(crate) const FREE_BYTES: &str = "app_free_bytes";
pub(crate) const CONNECTIONS: &str = "app_grpc_connections";
pub(crate) const STREAMS: &str = "app_streams";
pub(crate) const SUBMITTED: &str = "app_submitted_transactions_total";
pub(crate) const ATTESTER_MESSAGES_OFFERED: &str = "app_offered_attester_messages_total";
pub(crate) const BAD_OFFERS: &str = "app_bad_offers_total";
pub(crate) const SLOW_READERS: &str = "app_slow_readers_total";
pub(crate) const SEQUENCED: &str = "app_sequenced_transactions_total";
pub(crate) const SEQUENCED_BYTES: &str = "app_sequenced_bytes_total";
pub(crate) const REJECTED_PROPOSALS: &str = "app_rejected_proposals_total";
pub(crate) const SKIPPED_SNAPSHOTS: &str = "app_skipped_snapshots_total";
pub(crate) const PREPARE_SECONDS: &str = "app_prepare_seconds";
pub(crate) const ATTESTATION_WAIT_SECONDS: &str = "app_attestation_wait_seconds";
pub(crate) const EXECUTE_SECONDS: &str = "app_execute_seconds";
pub(crate) const COMMIT_SECONDS: &str = "app_commit_seconds";
pub(crate) const SNAPSHOT_SECONDS: &str = "app_snapshot_seconds";

/// All of them: dashboards, alerts and their reference are about these.
pub const ALL: Metrics = Metrics {
    gauges: &[
        (HEIGHT, "last committed height"),
        (HEADER_HEIGHT, "last height whose signed header is stored"),
        (LOWEST_HEIGHT, "lowest height that is served"),
        (
            DURABLE_HEIGHT,
            "last height that survives a power cut, if blocks are pruned",
        ),
        (SNAPSHOT_HEIGHT, "height of the newest snapshot"),
        (MEMPOOL_TRANSACTIONS, "transactions that wait"),
        (
            MEMPOOL_BYTES,
            "memory of the transactions that wait, in bytes",
        ),
        (MEMPOOL_PARKED, "transactions that wait for a missing nonce"),
        (ATTESTER_MESSAGES, "messages of attesters that are held"),
        (
            INBOX_BYTES,
            "what peers offered and nobody has looked at yet, in bytes",
        ),
        (
            CLOCK_BEHIND,
            "how far the clock is behind the times of the last blocks, in seconds; usually less than 0",
        ),
        (FREE_BYTES, "free bytes of the disk that data_dir is on"),
        (CONNECTIONS, "gRPC connections at the moment"),
        (STREAMS, "readers of rollup blocks at the moment"),
    ],
    counters: &[
        (SUBMITTED, "transactions handed in, by outcome"),
        (
            ATTESTER_MESSAGES_OFFERED,
            "messages of attesters that came, by outcome",
        ),
        (
            BAD_OFFERS,
            "offers of peers with something undecodable or forged in them",
        ),
        (
            SLOW_READERS,
            "streams that were ended because their reader was too slow",
        ),
        (SEQUENCED, "transactions in committed blocks"),
        (SEQUENCED_BYTES, "bytes of the items of committed blocks"),
        (
            REJECTED_PROPOSALS,
            "proposals of others that were voted against",
        ),
        (
            SKIPPED_SNAPSHOTS,
            "snapshots that were due and were not made",
        ),
    ],
    histograms: &[
        (PREPARE_SECONDS, "time to choose a block"),
        (
            ATTESTATION_WAIT_SECONDS,
            "time that a proposer waited for attesters",
        ),
        (EXECUTE_SECONDS, "time to execute a block"),
        (COMMIT_SECONDS, "time to write a block down"),
        (SNAPSHOT_SECONDS, "time to make a snapshot"),
    ],
    alarms: &[
        HEIGHT,
        HEADER_HEIGHT,
        MEMPOOL_TRANSACTIONS,
        CLOCK_BEHIND,
        FREE_BYTES,
        BAD_OFFERS,
        REJECTED_PROPOSALS,
        SKIPPED_SNAPSHOTS,
        COMMIT_SECONDS,
    ],
    from_zero: &[BAD_OFFERS, REJECTED_PROPOSALS, SKIPPED_SNAPSHOTS],
};

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_frozen() {
        assert_eq!(
            super::ALL.names(),
            [
                "app_height",
                "app_header_height",
                "app_lowest_height",
                "app_durable_height",
                "app_snapshot_height",
                "app_mempool_transactions",
                "app_mempool_bytes",
                "app_mempool_parked_transactions",
                "app_attester_messages",
                "app_inbox_bytes",
                "app_clock_behind_seconds",
                "app_free_bytes",
                "app_grpc_connections",
                "app_streams",
                "app_submitted_transactions_total",
                "app_offered_attester_messages_total",
                "app_bad_offers_total",
                "app_slow_readers_total",
                "app_sequenced_transactions_total",
                "app_sequenced_bytes_total",
                "app_rejected_proposals_total",
                "app_skipped_snapshots_total",
                "app_prepare_seconds",
                "app_attestation_wait_seconds",
                "app_execute_seconds",
                "app_commit_seconds",
                "app_snapshot_seconds",
            ]
        );
    }
}
