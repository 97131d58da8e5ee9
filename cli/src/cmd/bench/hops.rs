//! What a running conductor says of each hop of a block, as its metrics count it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Hops in the order of a block's way; `added` is all from the verified end of a block to the client.
const HOPS: [(&str, &str); 6] = [
    ("verify", "sequencer_verify_seconds"),
    ("execute", "conductor_execute_seconds"),
    ("close", "conductor_close_seconds"),
    ("added", "conductor_added_seconds"),
    ("submit", "conductor_submit_seconds"),
    ("commit", "conductor_commit_seconds"),
];

/// Counters of a conductor at one moment: by name and upper bound, if they have one.
#[derive(Debug, Default)]
pub(super) struct Hops(BTreeMap<String, f64>);

impl Hops {
    /// Asks a conductor.
    pub(super) async fn read(http: &str) -> eyre::Result<Self> {
        let text = reqwest::get(format!("{http}/metrics"))
            .await?
            .text()
            .await?;
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(Self(text.lines().filter_map(line).collect()))
    }

    /// What happened since: mean, and bounds below which half and 99 of 100 lie.
    pub(super) fn since(&self, before: &Self) -> Value {
        let hop = |(hop, name): (&str, &str)| (hop.to_owned(), self.hop(before, name));
        HOPS.into_iter().map(hop).collect()
    }

    /// One hop by the name of its metric.
    pub(super) fn hop(&self, before: &Self, name: &str) -> Value {
        let more = |key: &str| {
            let was = before.0.get(key).copied().unwrap_or_default();
            self.0.get(key).copied().unwrap_or_default() - was
        };
        let count = more(&format!("{name}_count"));
        let sum = more(&format!("{name}_sum"));
        let prefix = format!("{name}_bucket{{le=\"");
        let buckets = self.0.keys().filter_map(|key| {
            let bound: f64 = key
                .strip_prefix(&prefix)?
                .strip_suffix("\"}")?
                .parse()
                .ok()?;
            Some((bound, more(key)))
        });
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let below = |share: f64| {
            let bucket = buckets.iter().find(|(_, below)| *below >= share * count);
            bucket.map(|(bound, _)| bound * 1_000.0)
        };
        json!({
            "count": count,
            "mean_ms": (count > 0.0).then(|| (sum / count * 10_000.0).round() / 10.0),
            "half_below_ms": below(0.5),
            "99_of_100_below_ms": below(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_in_between_is_counted() {
        let read = |lines: [(&str, f64); 5]| {
            let lines = lines.into_iter();
            Hops(
                lines
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            )
        };
        let at = |suffix: &str| format!("conductor_added_seconds{suffix}");
        let names = [
            at("_bucket{le=\"0.01\"}"),
            at("_bucket{le=\"0.1\"}"),
            at("_bucket{le=\"+Inf\"}"),
            at("_sum"),
            at("_count"),
        ];
        let with = |values: [f64; 5]| {
            let mut values = values.into_iter();
            read(
                names
                    .each_ref()
                    .map(|name| (name.as_str(), values.next().unwrap_or_default())),
            )
        };
        let (before, after) = (
            with([5.0, 5.0, 5.0, 9.0, 5.0]),
            with([7.0, 9.0, 9.0, 9.1, 9.0]),
        );
        let added = &after.since(&before)["added"];
        assert_eq!(added["count"], 4.0);
        assert_eq!(added["mean_ms"], 25.0);
        assert_eq!(added["half_below_ms"], 10.0);
        assert_eq!(added["99_of_100_below_ms"], 100.0);
    }
}
