//! How sequencer nodes serve; every service that asks them has these.

use crate::Metrics;

/// Answers that do not hold, by node.
pub(super) const BAD_PROOFS: &str = "sequencer_bad_proofs_total";
/// Times that a node was away, slow or had nothing to say, by node.
pub(super) const FAILURES: &str = "sequencer_endpoint_failures_total";

/// What a verified block costs.
pub(super) const VERIFY_SECONDS: &str = "sequencer_verify_seconds";

/// The metrics of every service that asks sequencer nodes.
pub const METRICS: Metrics = Metrics {
    gauges: &[],
    counters: &[
        (BAD_PROOFS, "answers of a sequencer node that do not hold"),
        (FAILURES, "times that a sequencer node was away or slow"),
    ],
    histograms: &[(VERIFY_SECONDS, "time to verify a block: header, leaf, list")],
    alarms: &[BAD_PROOFS, FAILURES],
    from_zero: &[],
};
