//! The metrics of a service. Names are an interface: dashboards and alerts use them.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Every metric of a service: name and help text, by kind.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Values that go up and down.
    pub gauges: &'static [(&'static str, &'static str)],
    /// Counts that only grow.
    pub counters: &'static [(&'static str, &'static str)],
    /// Distributions, in seconds.
    pub histograms: &'static [(&'static str, &'static str)],
}

impl Metrics {
    /// Gives every metric its help text.
    pub fn describe(&self) {
        for (name, help) in self.gauges {
            describe_gauge!(*name, *help);
        }
        for (name, help) in self.counters {
            describe_counter!(*name, *help);
        }
        for (name, help) in self.histograms {
            describe_histogram!(*name, *help);
        }
    }

    /// All names, so that a test can freeze them.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let all = self
            .gauges
            .iter()
            .chain(self.counters)
            .chain(self.histograms);
        all.map(|(name, _)| *name).collect()
    }
}

/// A count as a metric takes it: rounded beyond 2^53, which nothing that is counted comes near.
#[expect(clippy::cast_precision_loss, reason = "a metric may be rounded")]
#[must_use]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}
